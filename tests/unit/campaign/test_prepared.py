"""Between reading and sending: what is known, shown and asked, while nothing is accepted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest

from mailtasks.campaign import Campaign, Prepared
from mailtasks.compose.template import Template
from mailtasks.errors import AddressError, CampaignError, InputChanged, MessageError, RenderError
from mailtasks.people import Reason
from mailtasks.state import State
from mailtasks.testing import CatchingServer
from tests.bench import Bench
from tests.campaigns import sent_to_all


def rows(number: int, name: str = "ann") -> list[dict[str, str]]:
    return [{"email": f"{name}{n}@example.com", "name": f"{name.title()} {n}"} for n in range(number)]


def spring(bench: Bench, **parts: Any) -> Campaign:
    given = {"subject": "Hi {{ name }}", "sender": "News <news@example.com>", "text": "Dear {{ name }}"}
    return Campaign("spring", Template(**{**given, **parts}), mailer=bench.mailer)


def prepared(bench: Bench, people: Iterable[Mapping[str, Any]], **parts: Any) -> Prepared:
    return spring(bench, **parts).prepare(people)


def text_of(content: Any) -> str:
    return str(message_from_bytes(content, policy=default).get_content()).strip()


def interrupted(bench: Bench, people: Iterable[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch of 300 is accepted."""
    with monkeypatch.context() as patch, prepared(bench, people) as one:
        patch.setattr("mailtasks.campaign.intake._BATCHES_A_CALL", 1)
        with pytest.raises(KeyboardInterrupt):
            one.send(lambda number: interrupt() if number == 300 else None)
        assert one.accepted == 300


def interrupt() -> None:
    raise KeyboardInterrupt


def test_all_is_known_and_nothing_accepted(bench: Bench) -> None:
    people = [*rows(3), {"email": "x", "name": "X"}, {"email": "ann1@example.com", "name": "A", "a b": 1}]
    with prepared(bench, people) as one:
        assert (one.name, one.people, one.before, one.suppressed, one.to_send) == ("spring", 3, 0, 0, 3)
        assert one.rejected == {Reason.BAD_ADDRESS: 1, Reason.REPEATED: 1}
        assert [row.line for row in one.told] == [4, 5]
        assert one.unusable == ("a b",)
        assert one.person.email == "ann0@example.com"
        assert (one.mail.subject, text_of(one.mail.content)) == ("Hi Ann 0", "Dear Ann 0")
    assert Campaign.all(bench.mailer) == []
    assert bench.mailer.stats().accepted == 0


def test_who_is_suppressed_is_counted_among_those_who_arent_accepted_yet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(bench, rows(450), monkeypatch)
    bench.mailer.suppressions.add("ann1@example.com", "ann2@example.com", "ann400@example.com")
    with prepared(bench, rows(450)) as one:
        assert (one.people, one.before, one.suppressed, one.to_send) == (450, 300, 1, 149)
        report = one.send()
    assert (report.accepted, report.before) == (450, 300)
    with prepared(bench, rows(450)) as one:
        assert (one.before, one.suppressed, one.to_send) == (450, 0, 0)


def test_changed_people_are_refused_before_anybody_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(bench, rows(450), monkeypatch)
    with pytest.raises(InputChanged, match="rows 1 to 300 aren't those that were accepted there"):
        prepared(bench, rows(450, "bob"))
    with pytest.raises(InputChanged, match="rows 1 to 299 aren't those that were accepted there"):
        prepared(bench, rows(299))
    assert bench.mailer.stats().accepted == 300


def test_fewer_people_are_refused_as_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailtasks.campaign.intake._BATCHES_A_CALL", 1)
    with prepared(bench, rows(900)) as one, pytest.raises(KeyboardInterrupt):
        one.send(lambda number: interrupt() if number == 600 else None)
    with pytest.raises(InputChanged, match="there are 300 rows, and 600 were accepted before"):
        prepared(bench, rows(300))


def test_the_mail_that_is_shown_is_the_first_that_can_be_made(bench: Bench) -> None:
    people = [{"email": "eve@example.com", "name": None}, *rows(2)]
    with prepared(bench, people, subject="Hi {{ name or 'you' }}") as one:
        assert (one.person.email, one.mail.subject) == ("ann0@example.com", "Hi Ann 0")


def test_a_template_that_fits_none_of_the_first_is_refused(bench: Bench) -> None:
    nameless = [person | {"name": None} for person in rows(3)]
    with pytest.raises(RenderError) as raised:
        prepared(bench, [*nameless, *rows(1, "bob")], subject="Hi")
    assert str(raised.value).startswith("the mail to ann0@example.com: text, line 1: ")


def test_who_would_have_a_broken_header_is_rejected_before_anything_is_accepted(bench: Bench) -> None:
    people = [
        *rows(4),  # more than those whose mail is tried
        {"email": "bob@example.com", "name": "Bob\nBcc: x"},
        {"email": "eve@example.com", "name": " "},
    ]
    with prepared(bench, people, subject="{{ name }}") as one:
        assert (one.people, one.rejected) == (4, {Reason.BAD_FIELD: 2})
        assert [(row.line, row.what) for row in one.told] == [
            (
                5,
                "the mail to bob@example.com: subject would be broken by the field 'name', which holds "
                "'\\n': 'Bob\\nBcc: x'; remove line breaks and NUL from it",
            ),
            (6, "the mail to eve@example.com: subject renders to nothing; give it a text for every case"),
        ]


def test_one_mail_goes_to_oneself_and_the_campaign_isnt_begun(bench: Bench, sink: CatchingServer) -> None:
    bench.mailer.suppressions.add("gone@example.org")
    with prepared(bench, rows(3)) as one:
        id = one.test("me@example.org")
        with pytest.raises(AddressError):
            one.test("me")
        with pytest.raises(MessageError, match=r"GONE@example\.org is on the suppression list, so nothing"):
            one.test("GONE@example.org")
    bench.deliver(id)
    status = bench.mailer.status(id)
    assert (status.state, status.subject, status.tags) == (State.SENT, "Hi Ann 0", ("campaign-test",))
    [mail] = sink.messages
    assert (mail.sender, mail.recipients) == ("news@example.com", ("me@example.org",))
    assert b"\nTo: me@example.org\r\n" in mail.content
    assert text_of(mail.content) == "Dear Ann 0"
    assert Campaign.all(bench.mailer) == []


def test_sending_tells_progress_and_reports(bench: Bench) -> None:
    seen: list[int] = []
    with prepared(bench, [*rows(700), {"email": "x", "name": ""}]) as one:
        report = one.send(seen.append)
        assert one.accepted == 700
    assert seen == [0, 0, 0, 700], "all in one call"
    told = json.loads(json.dumps(report.as_dict()))
    assert told == {
        "campaign": "spring",
        "accepted": 700,
        "before": 0,
        "rejected": 1,
        "reasons": {"bad address": 1},
    }
    assert spring(bench).status().state == "running"


def test_who_sends_it_twice_accepts_it_once(bench: Bench, sink: CatchingServer) -> None:
    with prepared(bench, rows(3)) as one:
        assert (one.send().before, one.send().before) == (0, 3)
    sent_to_all(bench)
    assert len(sink.messages) == 3


def test_cancelled_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(bench, rows(400), monkeypatch)
    with prepared(bench, rows(400)) as one:
        assert spring(bench).cancel() == 300
        with pytest.raises(
            CampaignError, match="the campaign 'spring' was cancelled: 300 rows were accepted"
        ):
            one.send()
    assert bench.mailer.stats().accepted == 300

"""A campaign under its name: sending, watching and steering."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from io import BytesIO, TextIOWrapper
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from sqlalchemy import create_engine, text

from mailtasks.campaign import Campaign, CampaignOptions
from mailtasks.compose.template import Template
from mailtasks.errors import (
    CampaignConflict,
    CampaignError,
    InputError,
    MessageError,
    TemplateError,
    UnknownCampaign,
)
from mailtasks.message import Priority
from mailtasks.people import Reason
from mailtasks.state import State
from mailtasks.testing import CatchingServer
from tests.bench import Bench
from tests.campaigns import Begun, Person, people, sent_to_all

NOW = datetime.now(UTC)


def begin(bench: Bench, name: str = "spring", again: bool = False, **options: Any) -> Begun:
    return Begun(bench.mailer, name, again=again, rows_a_batch=10, **options)


def test_options_are_shown(bench: Bench) -> None:
    campaign = begin(
        bench, begins=NOW + timedelta(days=1), ends=NOW + timedelta(days=2), rate="100/m", tags=("a",)
    )
    campaign.add(people(10))
    status = campaign.status()
    assert (status.state, status.tags, status.subject) == ("scheduled", ("a",), "Hi {{ name }}")
    assert status.rate == pytest.approx(100 / 60)
    told = json.loads(json.dumps(status.as_dict()))
    assert (told["name"], told["states"]["queued"], told["priority"]) == ("spring", 10, "bulk")
    assert told["ends_at"].endswith("+00:00")
    [row] = [row for row in bench.mailer.queue() if row.priority is Priority.BULK]
    assert row.waiting == {"campaign": 1}
    assert row.next_due is None


# Sending


CSV = b"email,name\nann@example.com,Ann\nbob@example.com,Bob\nnobody,N\nann@example.com,Again\n"
LINES = (
    b'{"email": "ann@example.com", "name": "Ann"}\n{"email": "bob@example.com", "name": "Bob"}\n'
    b'{"email": "nobody", "name": "N"}\n{"email": "ann@example.com", "name": "Again"}\n'
)


def written(
    bench: Bench, name: str | None = "spring", body: str = "Dear {{ name }}", **options: Any
) -> Campaign:
    template = Template(subject="Hi {{ name }}", sender="News <news@example.com>", text=body)
    return Campaign(name, template, CampaignOptions(**options), mailer=bench.mailer)


def read_from(source: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """People from a source of this kind."""
    match source:
        case "rows":
            return map(json.loads, LINES.splitlines())
        case "standard input":
            monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(CSV)))
            return "-"
        case "opened file":
            return BytesIO(CSV)
    path.write_bytes(
        {"CSV": CSV, "JSON Lines": LINES, "gzip": gzip.compress(CSV), "zstd": zstd.compress(LINES)}[source]
    )
    return path


@pytest.mark.parametrize(
    "source", ["CSV", "JSON Lines", "gzip", "zstd", "opened file", "standard input", "rows"]
)
def test_people_come_from_anywhere(
    bench: Bench, sink: CatchingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    report = written(bench).send(read_from(source, tmp_path / "people", monkeypatch))
    assert (report.accepted, report.rejected) == (2, 2)
    assert report.reasons == {Reason.BAD_ADDRESS: 1, Reason.REPEATED: 1}
    sent_to_all(bench)
    caught = {mail.recipients[0]: b"\nSubject: Hi Ann\r" in mail.content for mail in sink.messages}
    assert caught == {"ann@example.com": True, "bob@example.com": False}


def test_the_rows_of_a_query_are_read_as_a_stream(bench: Bench) -> None:
    """What the database was asked for by the time that some people have been read."""
    engine = create_engine("sqlite://")
    stepped, at = count(1), list[tuple[int, int]]()
    with engine.connect() as connection:
        connection.connection.driver_connection.create_function("stepped", 0, lambda: next(stepped))
        query = text(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 1000) "
            "SELECT 'ann' || n || '@example.com' AS email, 'Ann' AS name, stepped() AS number FROM n"
        )
        rows = connection.execution_options(yield_per=100).execute(query)
        with written(bench).prepare(rows, progress=lambda number: at.append((number, next(stepped)))) as one:
            assert one.people == 1000
            assert one.send().accepted == 1000
    engine.dispose()
    assert [number for number, _ in at] == [300, 600, 900, 1000]
    assert all(asked - number <= 100 + len(at) for number, asked in at), at


def test_its_name_is_made_of_its_content(bench: Bench) -> None:
    rows = [{"email": "ann@example.com", "name": "Ann"}, {"email": "bob@example.com", "name": "Bob"}]
    campaign = written(bench, None)
    with pytest.raises(CampaignError, match="has no name yet; give one, or prepare or send it first"):
        _ = campaign.name
    name = campaign.send(rows).campaign
    assert campaign.name == name
    assert len(name) == 16
    assert campaign.status().rows == 2
    again = written(bench, None).send(rows)
    assert (again.campaign, again.before, again.accepted) == (name, 2, 2)
    with (
        written(bench, None).prepare(rows[:1]) as fewer,
        written(bench, None, "Other").prepare(rows) as other,
    ):
        assert len({name, fewer.name, other.name}) == 3
    with pytest.raises(CampaignConflict, match="was begun with other values of rate"):
        written(bench, None, rate="1/s").prepare(rows)


def test_a_finished_one_is_refused_before_anything_is_read(bench: Bench) -> None:
    rows = [{"email": "ann@example.com", "name": "Ann"}]
    written(bench).send(rows)
    sent_to_all(bench)
    unread = iter(rows)
    with pytest.raises(CampaignError, match="the campaign 'spring' is finished: 1 rows were accepted"):
        written(bench).send(unread)
    assert written(bench).send(unread, again=True).accepted == 1
    assert bench.mailer.stats().accepted == 2


def test_an_end_that_is_past_is_refused(bench: Bench) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(MessageError) as raised:
        written(bench, ends=past).send(BytesIO(CSV))
    assert str(raised.value) == (
        "the campaign's end, 2020-01-01 00:00:00+00:00, is past, so all of it would expire; give it time"
    )
    assert Campaign.all(bench.mailer) == []


def test_people_and_template_must_be_right_before_anybody_is_accepted(bench: Bench) -> None:
    rows = [{"email": "ann@example.com", "name": "Ann"}]
    with pytest.raises(CampaignError, match="the campaign has no template, so nothing can be sent; give one"):
        Campaign("spring", mailer=bench.mailer).send(rows)
    with pytest.raises(TemplateError, match="text, line 2: nothing gives 'nome'"):
        written(bench, body="Dear\n{{ nome }}").send(BytesIO(CSV))
    western = "email,name\na@b.example,ö\n".encode("cp1252")
    with pytest.raises(InputError, match=r"the byte 0xf6 \(number 24 of the file\) isn't UTF-8"):
        written(bench).send(BytesIO(western))
    assert Campaign.all(bench.mailer) == []
    assert written(bench).send(BytesIO(western), encoding="cp1252").accepted == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"email,name\n", "the file: names its columns and nobody to mail; give it a row a person"),
        (
            b"email,name\nann,Ann\n",
            "the file, line 2: its only row can't be mailed: 'ann' is no mail address: "
            "An email address must have an @-sign",
        ),
        (
            b"email,name\n,Ann\n,Bob\n",
            "the file, line 2: none of its 2 rows can be mailed; the first: the row has no address",
        ),
        (
            b'{"email": "ann@example.com"}\n',
            "the file, line 1: its only row can't be mailed: the row has no 'name', which the template needs",
        ),
    ],
)
def test_nobody_to_mail(bench: Bench, content: bytes, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        written(bench).prepare(BytesIO(content))
    assert str(raised.value) == sentence
    assert Campaign.all(bench.mailer) == []


# Steering


def test_pause_and_resume(bench: Bench) -> None:
    campaign = begin(bench)
    campaign.add(people(10))
    assert campaign.pause("lunch")
    assert (campaign.status().state, campaign.status().reason) == ("paused", "lunch")
    sent_to_all(bench)
    assert campaign.status().states[State.QUEUED] == 10
    assert campaign.resume()
    campaign.complete()
    sent_to_all(bench)
    assert campaign.status().state == "finished"


def test_cancel(bench: Bench) -> None:
    campaign = begin(bench)
    campaign.add(people(30))
    [hint] = bench.mailer.campaigns.feed(Priority.BULK, 1)
    bench.delivery.deliver(hint.batch, hint.priority)
    sent = campaign.status().states[State.SENT]
    assert campaign.cancel() == 30 - sent
    assert campaign.cancel() == 30 - sent
    assert campaign.status().state == "cancelled"
    assert campaign.status().unfinished == 0
    with pytest.raises(CampaignError, match="the campaign 'spring' was cancelled: 30 rows were accepted"):
        begin(bench)
    with pytest.raises(CampaignError, match="'spring' was cancelled and takes no more rows: 30 are accepted"):
        campaign.add(people(200, first=30))


def test_a_finished_one_is_neither_paused_nor_cancelled(bench: Bench) -> None:
    written(bench).send(BytesIO(CSV))
    sent_to_all(bench)
    campaign = Campaign("spring", mailer=bench.mailer)
    assert not campaign.pause()
    assert campaign.cancel() == 0
    assert campaign.status().state == "finished"


def test_nothing_can_be_done_with_one_that_isnt_there(bench: Bench) -> None:
    campaign = Campaign("spring", mailer=bench.mailer)
    for do in (campaign.status, campaign.pause, campaign.resume, campaign.cancel, campaign.retry):
        with pytest.raises(UnknownCampaign, match="no campaign is called 'spring'; there is none"):
            do()
    with pytest.raises(UnknownCampaign):
        list(campaign.failures())


def test_failures_and_their_retry(bench: Bench, sink: CatchingServer) -> None:
    campaign = begin(bench)
    campaign.add([*people(9), Person("refuse@example.com", {"name": "R", "city": "X"})])
    campaign.add([*people(9, first=9), Person("cy@example.com", {"name": "C"})])
    campaign.complete()
    sent_to_all(bench)
    assert campaign.status().states[State.FAILED] == 2
    refused, unrendered = campaign.failures()
    assert refused.recipients[0].address == "refuse@example.com"
    assert refused.metadata == {"campaign": "spring"}
    assert unrendered.recipients[0].address == "cy@example.com"
    assert "'city' is undefined" in unrendered.reply
    assert campaign.retry(dry_run=True).retried == 1, "one was refused for good"
    bench.mailer.suppressions.remove("refuse@example.com")
    assert campaign.retry(force=True).retried == 2
    assert campaign.status().state == "running"
    sent_to_all(bench)
    assert campaign.status().states[State.FAILED] == 2
    assert campaign.status().state == "finished"
    assert bench.mailer.retry(campaign="spring", reason="undefined").retried == 1


# The suppression list


def test_who_is_suppressed_gets_nothing(bench: Bench, sink: CatchingServer) -> None:
    bench.mailer.suppressions.add("ann3@example.com", "ann11@example.com")
    campaign = begin(bench)
    campaign.add(people(25))
    campaign.complete()
    bench.mailer.suppressions.add("ann20@example.com")
    sent_to_all(bench)
    states = campaign.status().states
    assert (states[State.SUPPRESSED], states[State.SENT]) == (3, 22)
    assert campaign.status().state == "finished"
    assert len(sink.messages) == 22


def test_a_batch_of_the_suppressed_is_over_at_once(bench: Bench) -> None:
    bench.mailer.suppressions.add(*(person.email for person in people(10)))
    campaign = begin(bench)
    campaign.add(people(10))
    campaign.complete()
    assert bench.mailer.sweep() == []
    bench.mailer.campaigns.tend()
    assert campaign.status().state == "finished"
    assert campaign.status().states[State.SUPPRESSED] == 10
    assert bench.mailer.sweep() == []

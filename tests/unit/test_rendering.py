"""A row and a template become a mail, or the reason why not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from typing import Any

import pytest

from mailtasks import rendering
from mailtasks.compose.template import TemplateRecord
from mailtasks.errors import StoreError
from mailtasks.rendering import Rendering
from mailtasks.reply import How, Outcome, Stage
from mailtasks.store.keys import campaign_batch_id, campaign_uid
from mailtasks.store.ledger import ClaimedMessage, ClaimedRecipient
from mailtasks.store.records import CampaignPart
from tests.campaigns import template

UID = campaign_uid("spring", 1)
ID = campaign_batch_id(UID, 0)


def part(record: TemplateRecord, **more: Any) -> CampaignPart:
    return CampaignPart(
        "spring", ID, 300, record.digest, "news@example.com", "example.com", 1_700_000_000, **more
    )


def message(of: CampaignPart, address: str = "ann@example.com", **values: Any) -> ClaimedMessage:
    recipient = ClaimedRecipient(7, address, 0, "")
    return ClaimedMessage(f"{ID}.7", of.message(7), b"", (recipient,), values)


def rendered(record: TemplateRecord, size_limit: int = 10_000_000, **values: Any) -> ClaimedMessage | Outcome:
    address = values.pop("address", "ann@example.com")
    of = part(record)
    return Rendering(lambda uid: record.encode(), size_limit).message(of, message(of, address, **values))


def content_of(made: ClaimedMessage | Outcome) -> bytes:
    assert isinstance(made, ClaimedMessage), made
    assert isinstance(made.body, bytes)
    return made.body


def test_a_row_becomes_a_mail_of_its_own() -> None:
    made = rendered(template(), name="Ann", city="Lisbon")
    mail = message_from_bytes(content_of(made))
    assert isinstance(made, ClaimedMessage)
    assert (mail["To"], mail["From"]) == ("ann@example.com", "News <news@example.com>")
    assert (mail["Subject"], made.record.subject) == ("Hi Ann", "Hi Ann")
    assert mail["Message-ID"] == made.record.message_id == f"<{ID}.7@example.com>"
    assert mail["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    text = mail.get_payload(decode=True)
    assert text == b"Dear Ann of Lisbon, this goes to ann@example.com.\r\n"
    assert made.record.size == len(content_of(made))
    assert not made.record.smtputf8


def test_a_row_may_have_an_email_field_of_its_own() -> None:
    assert b"goes to=20=\r\nme" in content_of(rendered(template(), name="A", city="B", email="me"))


def test_rendered_again_it_is_the_same_mail() -> None:
    first, second = (rendered(template(), name="Ann", city="Lisbon") for _ in range(2))
    assert first == second


def test_an_unsubscribe_header_is_a_template_too() -> None:
    record = template(
        headers={
            "List-Unsubscribe": "<https://example.com/u?who={{ email | urlencode }}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    )
    mail = message_from_bytes(content_of(rendered(record, name="Ann", city="Lisbon")))
    assert mail["List-Unsubscribe"] == "<https://example.com/u?who=ann%40example.com>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"city": "Lisbon"}, "'name' is undefined"),
        ({"name": "Ann\nBcc: eve@example.com", "city": "Lisbon"}, "would be broken by the field 'name'"),
        ({"name": "Ann", "city": "x" * 30_000}, "the size limit is 20,000"),
        ({"name": "Ann", "city": "Lisbon", "address": "no address"}, "no address"),
    ],
)
def test_what_cant_be_rendered_is_told(values: dict[str, Any], words: str) -> None:
    failure = rendered(template(), 20_000, **values)
    assert isinstance(failure, Outcome)
    assert (failure.stage, failure.how) == (Stage.CONTENT, How.UNSUITABLE)
    assert words in failure.detail


def test_an_error_that_nobody_thought_of_is_that_rows_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: Any) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(rendering, "fields_of", surprise)
    failure = rendered(template(), name="Ann", city="Lisbon")
    assert isinstance(failure, Outcome)
    assert failure.detail == "it can't be rendered: ZeroDivisionError('oh')"
    assert f"message {ID}.7 can't be rendered" in caplog.text


def test_a_template_is_fetched_and_compiled_once() -> None:
    record, asked = template(), []

    def fetch(uid: str) -> bytes:
        asked.append(uid)
        return record.encode()

    shared, of = Rendering(fetch, 10_000_000), part(record)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: shared.message(of, message(of, name=f"{n}", city="Y")), range(50)))
    assert asked == [UID]


def test_only_the_latest_templates_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_KEPT", 2)
    parts = {part(it).template: it for it in (template(subject=f"{n} {{{{ name }}}}") for n in range(3))}
    asked: list[str] = []
    shared = Rendering(lambda uid: asked.append(uid) or parts[digests[-1]].encode(), 10_000_000)
    digests: list[str] = []
    for number in (0, 1, 0, 2, 0, 1):
        digests.append(list(parts)[number])
        of = part(parts[digests[-1]])
        shared.message(of, message(of, name="Ann", city="Lisbon"))
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (None, "the template of campaign 'spring' isn't there any more"),
        (b"\xc1", "the template of campaign 'spring' can't be used"),
    ],
)
def test_a_template_that_a_hand_has_spoilt_is_told_of(held: bytes | None, words: str) -> None:
    of = part(template())
    with pytest.raises(StoreError, match=words):
        Rendering(lambda uid: held, 10_000_000).message(of, message(of))

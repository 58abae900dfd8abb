"""Messages become batches: places, ids and what is refused before anything is accepted."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import pytest

from mailtasks.errors import MessageError
from mailtasks.message import Message
from mailtasks.packing import pack, places
from mailtasks.settings import Settings

SETTINGS = Settings(default_from="shop@example.com")


def ann(**more: object) -> Message:
    return Message(to="ann@example.com", text="hi", **more)


def test_the_same_messages_with_the_same_ids_make_the_same_batches() -> None:
    messages = [ann(), ann(priority="urgent"), ann(subject="other")]
    ids = places(messages)
    first, again = pack(messages, ids, SETTINGS), pack(messages, ids, SETTINGS)
    assert [one.batch.id for one in first] == [ids[0].partition(".")[0], ids[1].partition(".")[0]]
    assert [one.batch.fingerprint for one in first] == [one.batch.fingerprint for one in again]


@pytest.mark.parametrize("days", [-7, 0, 7])
def test_the_date_is_when_the_mail_may_go(days: int) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    messages = [ann(send_at=now + timedelta(days=days))]
    [packed] = pack(messages, places(messages), SETTINGS)
    date = message_from_bytes(packed.batch.bodies[0], policy=policy.default)["Date"].datetime
    assert timedelta(0) <= date - max(now, now + timedelta(days=days)) < timedelta(seconds=30)


def test_what_servers_are_asked_for_is_kept_with_the_message() -> None:
    messages = [ann(dsn_notify="never", dsn_return="full", require_tls=True), ann()]
    [packed] = pack(messages, places(messages), SETTINGS)
    asked, plain = packed.batch.record.messages
    assert (asked.dsn_notify, asked.dsn_return, asked.require_tls) == (("never",), "full", True)
    assert (plain.dsn_notify, plain.dsn_return, plain.require_tls) == ((), "", False)


def test_ids_must_be_as_many_as_messages() -> None:
    with pytest.raises(MessageError, match=r"^1 ids for 2 messages; give one for each, in order$"):
        pack([ann(), ann()], ["0" * 27 + ".0"], SETTINGS)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (
            ["nonsense"],
            "'nonsense' is not a message id; give the ids that the error of the earlier try carries",
        ),
        (["0" * 27 + ".1"], "is not that of this message: send the same messages in the same order"),
        (["0" * 27 + ".0", "0" * 27 + ".1"], "2 ids for 1 messages; give one for each, in order"),
    ],
)
def test_ids_that_are_not_those_of_the_messages(ids: list[str], sentence: str) -> None:
    with pytest.raises(MessageError, match=re.escape(sentence)):
        pack([ann()], ids, SETTINGS)


def test_one_id_for_two_messages_would_lose_one() -> None:
    id = "0" * 27 + ".0"
    with pytest.raises(MessageError, match=rf"^the id {id} is given to two messages; give each its own$"):
        pack([ann(), ann(subject="other")], [id, id], SETTINGS)


def test_an_id_beside_a_key_would_send_twice() -> None:
    id = "0" * 27 + ".0"
    with pytest.raises(MessageError) as raised:
        pack([ann(idempotency_key="order-1")], [id], SETTINGS)
    assert str(raised.value) == (
        f"the id {id} is not that of the idempotency key 'order-1': "
        "give the key alone, which is as safe to send again"
    )


def test_the_id_that_a_key_stands_for_may_be_given_with_it() -> None:
    keyed = ann(idempotency_key="order-1")
    assert len(pack([keyed, keyed], places([keyed, keyed]), SETTINGS)) == 1

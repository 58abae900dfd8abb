from __future__ import annotations

from email.message import EmailMessage

import pytest

from mailtasks.errors import IdempotencyConflict, MessageError
from mailtasks.message import Message
from mailtasks.outbox.composing import composed
from mailtasks.settings import Settings

SETTINGS = Settings(default_from="shop@example.com")


def test_messages_that_are_alike_share_a_batch():
    batches, ids = composed([Message(to=f"r{n}@example.com", text="hi") for n in range(150)], SETTINGS)
    assert [len(batch.bodies) for batch in batches] == [100, 50]
    assert ids == [id for batch in batches for id in batch.message_ids()]


def test_a_mail_that_email_has_made_is_taken_too():
    made = EmailMessage()
    made["From"], made["To"], made["Message-ID"] = "a@b.example", "ann@example.com", "<1@x>"
    [batch], _ = composed([made], SETTINGS)
    assert batch.recipients == ("ann@example.com",)
    assert (batch.record.messages[0].message_id, batch.record.messages[0].sender) == ("<1@x>", "a@b.example")


def test_none_is_none():
    assert composed([], SETTINGS) == ([], [])


def test_what_cant_be_mailed_is_said():
    with pytest.raises(MessageError, match=r"'hello' is no message: make it a mailtasks.Message"):
        composed(["hello"], SETTINGS)
    with pytest.raises(MessageError, match="has no sender"):
        composed([Message(to="ann@example.com")], Settings())
    with pytest.raises(IdempotencyConflict):
        composed([Message(to="a@example.com", idempotency_key="k", text=t) for t in "ab"], SETTINGS)

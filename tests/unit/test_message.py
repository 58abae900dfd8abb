from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from hashlib import blake2b

import msgspec
import pytest

from mailtasks.errors import AddressError, AttachmentError, MessageError
from mailtasks.message import PRIORITIES, Attachment, Message, Priority

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LIVE = "give a timedelta or a number of seconds, more than 0 and at most 3650 days"


def full() -> Message:
    """A message that has something in every field."""
    return Message(
        to=["Ann <ann@example.com>", "bob@example.com"],
        cc="cy@example.com",
        bcc=["ann@EXAMPLE.com", "di@example.com"],
        reply_to="help@example.com",
        subject="Grüße",
        text="hello",
        html="<p>hello",
        sender="Shop <shop@example.com>",
        envelope_sender="bounces@example.com",
        attachments=[Attachment(filename="a.pdf", content=b"%PDF", content_type="application/pdf")],
        headers={"X-Order": "4711"},
        priority="urgent",
        send_at=NOON,
        expires_after=60,
        idempotency_key="order-4711",
        tags=["orders"],
        metadata={"order": "4711"},
    )


def test_is_normalised():
    message = full()
    assert message.to == ("Ann <ann@example.com>", "bob@example.com")
    assert message.cc == ("cy@example.com",)
    assert message.priority is Priority.URGENT
    assert message.expires_after == timedelta(minutes=1)
    assert message.tags == ("orders",)
    assert Message(to="Ann@EXAMPLE.com").to == ("Ann@example.com",)


def test_recipients_are_bare_and_each_once_in_order():
    assert full().recipients == ("ann@example.com", "bob@example.com", "cy@example.com", "di@example.com")
    assert Message(bcc="ann@bücher.example").recipients == ("ann@xn--bcher-kva.example",)


def test_defaults():
    message = Message(to="ann@example.com")
    assert (message.subject, message.text, message.html, message.sender) == ("", None, None, None)
    assert message.priority is Priority.NORMAL
    assert PRIORITIES == ("urgent", "normal", "bulk")


def test_an_empty_envelope_sender_is_the_null_path():
    assert Message(to="ann@example.com", envelope_sender="").envelope_sender == ""
    assert Message(to="a@b", envelope_sender="Ann <ann@example.com>").envelope_sender == "ann@example.com"


def test_what_is_private_is_not_in_the_repr():
    message = Message(to="a@b", text="password", html="<b>password", metadata={"a": "password"})
    assert "password" not in repr(message)
    assert "secret" not in repr(Attachment(filename="a", content=b"secret"))


def test_a_caller_who_changes_his_own_dict_changes_nothing():
    headers = {"X-Order": "4711"}
    message = Message(to="a@b", headers=headers)
    headers["X-Order"] = "a\r\nBcc: eve@example.com"
    assert message.headers == {"X-Order": "4711"}


def test_is_a_value():
    assert full() == full()
    assert hash(full()) == hash(full())
    assert dataclasses.replace(full(), subject="other").subject == "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        full().subject = "other"


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda message: pickle.loads(pickle.dumps(message)),
        lambda message: msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message),
        lambda message: msgspec.json.decode(msgspec.json.encode(message), type=Message),
        dataclasses.replace,
    ],
)
def test_survives_being_copied(copied):
    assert copied(full()) == full()
    assert copied(full()).fingerprint() == full().fingerprint()


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"to": []}, MessageError, "a message needs at least one recipient: give one in to, cc or bcc"),
        ({"to": "ann"}, AddressError, "to: 'ann' is no mail address: An email address must have an @-sign"),
        (
            {"cc": ["bob@example.com", "ann@example.com\nBcc: eve@example.com"]},
            AddressError,
            "cc: the address 'ann@example.com\\nBcc: eve@example.com' holds '\\n': line breaks, control "
            "characters and surrogates can't be mailed; remove them",
        ),
        (
            {"sender": "shop"},
            AddressError,
            "sender: 'shop' is no mail address: An email address must have an @-sign",
        ),
        (
            {"envelope_sender": "shop"},
            AddressError,
            "envelope_sender: 'shop' is no mail address: An email address must have an @-sign",
        ),
        (
            {"to": None},
            MessageError,
            "to must be a list, not 'None' (NoneType): put a single one in brackets",
        ),
        (
            {"subject": "Hi\r\nBcc: eve@example.com"},
            MessageError,
            "subject holds '\\r', which would end its line: 'Hi\\r\\nBcc: eve@example.com'; "
            "remove line breaks and NUL",
        ),
        (
            {"subject": "a\0b"},
            MessageError,
            "subject holds '\\x00', which would end its line: 'a\\x00b'; remove line breaks and NUL",
        ),
        ({"subject": None}, MessageError, "subject must be a string, not NoneType"),
        (
            {"text": "caf\udce9"},
            MessageError,
            "text holds a surrogate, which can't be mailed: decode the text with its real charset",
        ),
        ({"html": b"<p>"}, MessageError, "html must be a string, not bytes"),
        (
            {"headers": {"X-A": "b\r\nBcc: eve@example.com"}},
            MessageError,
            "headers: X-A holds '\\r', which would end its line: 'b\\r\\nBcc: eve@example.com'; "
            "remove line breaks and NUL",
        ),
        (
            {"headers": {"X A": "b"}},
            MessageError,
            "headers: 'X A' is no header name: give 1 to 64 printable ASCII characters "
            "without spaces and colons",
        ),
        ({"headers": {"bcc": "a@b"}}, MessageError, "headers: bcc can't be given here: use `bcc`"),
        (
            {"headers": {"Message-ID": "<a@b>"}},
            MessageError,
            "headers: Message-ID can't be given here: it is made from the message's id when it is accepted",
        ),
        (
            {"headers": {"Content-Type": "text/plain"}},
            MessageError,
            "headers: Content-Type can't be given here: the bodies and attachments set it",
        ),
        ({"headers": {"X-A": 1}}, MessageError, "headers: X-A must be a string, not int"),
        ({"headers": "X-A: b"}, MessageError, "headers must map names to strings, not be 'X-A: b'"),
        (
            {"priority": "high"},
            MessageError,
            "the priority 'high' is unknown: use one of urgent, normal, bulk",
        ),
        (
            {"send_at": datetime(2030, 1, 1, 12)},
            MessageError,
            "send_at=2030-01-01T12:00:00 has no time zone: add one, for instance "
            "datetime.now(UTC) + timedelta(hours=1), or local.astimezone()",
        ),
        ({"send_at": "noon"}, MessageError, "send_at must be a datetime, not 'noon'"),
        (
            {"send_at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5)))},
            MessageError,
            "send_at=9999-12-31T23:59:59-05:00 is out of range: give a time from 1970 on and before 2100",
        ),
        (
            {"send_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
            MessageError,
            "send_at=0001-01-01T00:00:00+05:00 is out of range: give a time from 1970 on and before 2100",
        ),
        (
            {"expires_after": 0},
            MessageError,
            f"expires_after=0 is no time to live: {LIVE}",
        ),
        ({"expires_after": True}, MessageError, f"expires_after=True is no time to live: {LIVE}"),
        ({"expires_after": 1e300}, MessageError, f"expires_after=1e+300 is no time to live: {LIVE}"),
        (
            {"expires_after": timedelta(days=3650, seconds=1)},
            MessageError,
            f"expires_after=3650 days, 0:00:01 is no time to live: {LIVE}",
        ),
        (
            {"expires_after": float("nan")},
            MessageError,
            f"expires_after=nan is no time to live: {LIVE}",
        ),
        (
            {"expires_after": timedelta(seconds=-1)},
            MessageError,
            f"expires_after=-1 day, 23:59:59 is no time to live: {LIVE}",
        ),
        (
            {"idempotency_key": ""},
            MessageError,
            "the idempotency_key '' has 0 characters: give 1 to 256, or leave it out",
        ),
        (
            {"idempotency_key": "k" * 257},
            MessageError,
            f"the idempotency_key '{'k' * 57}...' has 257 characters: give 1 to 256, or leave it out",
        ),
        ({"tags": "orders"}, MessageError, "tags must be a list, not 'orders': put a single one in brackets"),
        ({"tags": [""]}, MessageError, "a tag is empty: give it a name or leave it out"),
        ({"metadata": None}, MessageError, "metadata must map names to strings, not be 'None' (NoneType)"),
        ({"headers": None}, MessageError, "headers must map names to strings, not be 'None' (NoneType)"),
        ({"metadata": {"order": 4711}}, MessageError, "metadata: order must be a string, not int"),
        (
            {"attachments": ["no/such/file.pdf"]},
            AttachmentError,
            "the attachment 'no/such/file.pdf' can't be read: No such file or directory; check the path",
        ),
        (
            {"attachments": ["."]},
            AttachmentError,
            "the attachment '.' can't be read: Is a directory; check the path",
        ),
        (
            {"attachments": "a.pdf"},
            MessageError,
            "attachments must be a list, not 'a.pdf': put a single one in brackets",
        ),
    ],
)
def test_refuses_in_one_sentence(fields, error, sentence):
    with pytest.raises(error) as caught:
        Message(**{"to": "ann@example.com", **fields})
    assert type(caught.value) is error
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"filename": ""}, "an attachment needs a filename: the reader saves it under that name"),
        (
            {"filename": "a\r\nb"},
            "the attachment's filename holds '\\r', which would end its line: 'a\\r\\nb'; "
            "remove line breaks and NUL",
        ),
        (
            {"content": "text"},
            "the attachment 'a.pdf' holds str, not bytes: encode text first, or give a path",
        ),
        (
            {"content_type": "pdf"},
            "the attachment 'a.pdf' has the content_type 'pdf': give one such as 'application/pdf', "
            "below 256 characters",
        ),
        (
            {"cid": "<logo>"},
            "the attachment 'a.pdf' has the cid '<logo>': give below 256 printable ASCII characters, "
            "no space, < or >",
        ),
    ],
)
def test_an_attachment_refuses_in_one_sentence(fields, sentence):
    with pytest.raises(AttachmentError) as caught:
        Attachment(**{"filename": "a.pdf", "content": b"", **fields})
    assert str(caught.value) == sentence


def test_a_file_is_read_when_the_message_is_made(tmp_path):
    path = tmp_path / "Angebot.pdf"
    path.write_bytes(b"%PDF")
    message = Message(to="ann@example.com", attachments=[path, str(path)])
    path.unlink()
    assert message.attachments == (Attachment(filename="Angebot.pdf", content=b"%PDF"),) * 2


def test_a_file_can_be_sent_under_another_name(tmp_path):
    path = tmp_path / "tmp123"
    path.write_bytes(b"x")
    file = Attachment.from_path(path, "logo.png", "image/png", cid="logo")
    assert file == Attachment(filename="logo.png", content=b"x", content_type="image/png", cid="logo")


@pytest.mark.parametrize(
    ("filename", "content_type", "sent_as"),
    [
        ("a.pdf", None, "application/pdf"),
        ("a.pdf", 'text/plain; charset="x y"', 'text/plain; charset="x y"'),
        ("a.unheard-of", None, "application/octet-stream"),
        ("a.tar.gz", None, "application/octet-stream"),  # its guessed type is that of what is inside
    ],
)
def test_the_media_type_is_given_or_guessed(filename, content_type, sent_as):
    assert Attachment(filename=filename, content=b"", content_type=content_type).media_type == sent_as


def test_the_content_is_kept_as_bytes():
    content = bytearray(b"x")
    file = Attachment(filename="a", content=content)
    content[0] = 0
    assert file.content == b"x"


@pytest.mark.parametrize(
    "change",
    [
        {"to": "ann@example.com"},
        {"cc": ()},
        {"bcc": ()},
        {"reply_to": ()},
        {"subject": "x"},
        {"text": None},
        {"html": ""},
        {"sender": None},
        {"envelope_sender": ""},
        {"attachments": [Attachment(filename="a.pdf", content=b"%PDX", content_type="application/pdf")]},
        {"headers": {}},
        {"priority": "bulk"},
        {"idempotency_key": "x"},
        {"tags": ["orders", "x"]},
        {"metadata": {"order": "x"}},
    ],
)
def test_the_fingerprint_covers_what_is_mailed(change):
    assert dataclasses.replace(full(), **change).fingerprint() != full().fingerprint()


@pytest.mark.parametrize("change", [{"send_at": NOON + timedelta(microseconds=1)}, {"expires_after": 61}])
def test_the_fingerprint_leaves_out_when_it_is_sent(change):
    assert dataclasses.replace(full(), **change).fingerprint() == full().fingerprint()


def test_the_fingerprint_is_the_same_for_the_same_content_however_it_is_written():
    one = Message(
        to=["a@b"],
        headers={"X-A": "1", "X-B": "2"},
        send_at=NOON,
        expires_after=60,
        tags=["t"],
        priority="bulk",
    )
    other = Message(
        to="a@B",
        headers={"X-B": "2", "X-A": "1"},
        send_at=NOON.astimezone(timezone(timedelta(hours=2))),
        expires_after=timedelta(minutes=1),
        tags=("t",),
        priority=Priority.BULK,
    )
    assert one.fingerprint() == other.fingerprint()


def test_the_fingerprint_is_the_same_in_every_process():
    # A literal, so that an upgrade of Python or of this module can't change it unnoticed: a key
    # that was used before the upgrade must still match after it.
    message = "Message(to='ann@example.com', subject='ä')"
    script = f"from mailtasks.message import Message; print({message}.fingerprint())"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "6eefdfc0d99813bfe4a903c8d44d546e"


def test_a_digest_is_that_of_the_content_and_is_no_field():
    one, other = Attachment(filename="a", content=b"x"), Attachment(filename="b", content=bytearray(b"x"))
    assert one.digest == other.digest == blake2b(b"x").hexdigest()
    assert one == Attachment(filename="a", content=b"x")
    assert "digest" not in repr(one)
    assert dataclasses.replace(one, content=b"y").digest == blake2b(b"y").hexdigest()

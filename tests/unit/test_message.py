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
from mailtasks.message import PRIORITIES, Alternative, Attachment, Message, Priority

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
        alternatives=[Alternative(content="<html amp4email>", content_type="text/x-amp-html")],
        attachments=[Attachment(filename="a.pdf", content=b"%PDF", content_type="application/pdf")],
        headers={"X-Order": "4711", "X-Note": ("one", "two"), "References": "<a@b> <c@d>"},
        priority="urgent",
        send_at=NOON,
        expires_after=60,
        dsn_notify=["delay", "failure", "delay"],
        dsn_return="headers",
        require_tls=True,
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
    assert message.dsn_notify == ("failure", "delay")
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


RAW = b"From: shop@example.com\nTo: Ann <ann@example.com>\nBcc: bob@example.com\n\nhello\n"


def test_a_ready_made_message_says_who_gets_it_unless_the_call_does():
    message = Message(raw=RAW)
    assert message.to == ("ann@example.com", "bob@example.com")
    assert message.raw == b"From: shop@example.com\r\nTo: Ann <ann@example.com>\r\n\r\nhello\r\n"
    assert Message(raw=RAW, bcc="cy@example.com").recipients == ("cy@example.com",)
    assert dataclasses.replace(message, priority="bulk").recipients == message.recipients
    assert dataclasses.replace(message).fingerprint() == message.fingerprint()
    assert Message(raw=RAW + b"x").fingerprint() != message.fingerprint()
    assert "hello" not in repr(message)


@pytest.mark.parametrize(
    "beside", [{"subject": "x"}, {"text": "x"}, {"html": "x"}, {"headers": {"A": "b"}}, {"reply_to": "a@b"}]
)
def test_a_ready_made_message_is_the_whole(beside):
    [name] = beside
    with pytest.raises(MessageError) as caught:
        Message(raw=RAW, **beside)
    assert str(caught.value) == (
        f"{name} can't be given beside raw, which is the whole message: write it there"
    )


def test_a_ready_made_message_has_one_sender():
    assert Message(raw=b"To: a@b\n\n", sender="c@d").sender == "c@d"
    with pytest.raises(MessageError) as caught:
        Message(raw=RAW, sender="c@d")
    assert str(caught.value) == (
        "sender can't be given beside raw, whose From says it; use `envelope_sender`"
    )


def test_copies_show_nobody_else():
    copies = full().copies()
    assert [(one.to, one.cc, one.bcc) for one in copies] == [
        (("Ann <ann@example.com>",), (), ()),
        (("bob@example.com",), (), ()),
        (("cy@example.com",), (), ()),
        (("di@example.com",), (), ()),
    ]
    assert {one.subject for one in copies} == {"Grüße"}
    assert [one.idempotency_key for one in copies[:2]] == [
        "order-4711 for ann@example.com",
        "order-4711 for bob@example.com",
    ]
    assert Message(to="ann@example.com").copies()[0].idempotency_key is None


def test_keys_of_copies_differ_however_long_they_are():
    copies = Message(to=["ann@example.com", "bob@example.com"], idempotency_key="k" * 256).copies()
    assert len({one.idempotency_key for one in copies}) == 2


def test_a_ready_made_message_has_no_copies():
    with pytest.raises(MessageError) as caught:
        Message(raw=RAW).copies()
    assert str(caught.value) == (
        "a ready-made message has no copies: it is sent as it is; build one for each"
    )


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
            {"envelope_sender": False},
            AddressError,
            "envelope_sender: 'False' (bool) is no mail address: give a string such as 'ann@example.com'",
        ),
        (
            {"headers": {"Resent-Bcc": "ann@example.com"}},
            MessageError,
            "headers: Resent-Bcc can't be given here: use `bcc`",
        ),
        (
            {"headers": {"Sender": "ann@example.com", "sender": "bob@example.com"}},
            MessageError,
            "headers: Sender and sender are one header: give one, with a list of values",
        ),
        (
            {"attachments": [Attachment(filename=f"{n}.png", content=b"", cid="logo") for n in range(2)]},
            AttachmentError,
            "the attachments '0.png' and '1.png' both have the cid 'logo': give each its own, since the HTML "
            "can show only one by it",
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
        (
            {"headers": {"X-A": []}},
            MessageError,
            "headers: X-A is given an empty list: leave it out",
        ),
        (
            {"headers": {"List-Help": "https://example.com"}},
            MessageError,
            "headers: List-Help holds 'https://example.com': put each URL in angle brackets, and commas "
            "between them, as in '<https://example.com/u/1>, <mailto:u@example.com>' (RFC 2369)",
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
        (
            {"dsn_notify": ["failure", "never"]},
            MessageError,
            "dsn_notify can't have 'never' here: give some of success, failure, delay, or never alone",
        ),
        (
            {"dsn_notify": "Delay"},
            MessageError,
            "dsn_notify can't have 'Delay' here: give some of success, failure, delay, or never alone",
        ),
        ({"dsn_return": "all"}, MessageError, "dsn_return='all' is unknown: give full or headers, or None"),
        ({"require_tls": 1}, MessageError, "require_tls must be True or False, not '1' (int)"),
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
            {"alternatives": ["<p>"]},
            MessageError,
            "alternatives holds '<p>': make it a mailtasks.Alternative",
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


@pytest.mark.parametrize(
    ("content", "content_type", "sentence"),
    [
        (
            "x",
            "html",
            "an alternative has the content_type 'html': give one such as 'text/calendar; method=REQUEST'",
        ),
        (b"x", "text/html", "the alternative's content must be a string, not bytes"),
        (
            "日",
            "text/html; charset=us-ascii",
            "an alternative can't be sent in its charset: 'ascii' codec can't encode character '\\u65e5' in "
            "position 0: ordinal not in range(128); use utf-8",
        ),
        (
            "x",
            "text/html; charset=x-y",
            "an alternative can't be sent in its charset: unknown encoding: x-y; use utf-8",
        ),
        (
            "x",
            "text/html; charset=utf-16",
            "an alternative has the charset utf-16, which mail can't have; use utf-8",
        ),
        (
            "x",
            "Message/rfc822",
            "an alternative has the content_type 'Message/rfc822', and is a text: attach messages and parts, "
            "or give the whole message as raw",
        ),
    ],
)
def test_an_alternative_refuses_in_one_sentence(content, content_type, sentence):
    with pytest.raises(MessageError) as caught:
        Alternative(content=content, content_type=content_type)
    assert str(caught.value) == sentence


def test_a_calendar_has_a_method():
    made = Alternative.calendar("BEGIN:VCALENDAR\r\nmethod:cancel\r\nEND:VCALENDAR\r\n")
    assert (made.content_type, made.charset) == ("text/calendar; method=CANCEL", "utf-8")
    with pytest.raises(MessageError) as caught:
        Alternative.calendar("BEGIN:VCALENDAR\nX-METHOD:CANCEL\n")
    assert str(caught.value) == (
        "the calendar has no METHOD: add one, such as METHOD:REQUEST for an invitation"
    )


def test_a_part_that_cannot_travel_as_it_is_is_refused():
    with pytest.raises(MessageError) as caught:
        Attachment(filename="a", content=b"A: b\r\n\r\nx\0", is_part=True)
    assert str(caught.value) == (
        "line 3 of the part 'a' holds a NUL, which SMTP can't carry: encode that part as quoted-printable or "
        "base64, or leave it out"
    )
    with pytest.raises(MessageError) as caught:
        Attachment(filename="a", content="A: ä\n\n".encode(), is_part=True)
    assert str(caught.value) == "a header of the part 'a' isn't ASCII: encode it as RFC 2047 and RFC 2231 say"


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
        ("data:text/ü,a", None, "application/octet-stream"),  # a name, and no URL
        ("http://example.com/a.pdf", None, "application/pdf"),
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
        {"alternatives": [Alternative(content="<html amp4email>", content_type="text/watch-html")]},
        {"priority": "bulk"},
        {"dsn_notify": "never"},
        {"dsn_return": None},
        {"require_tls": False},
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

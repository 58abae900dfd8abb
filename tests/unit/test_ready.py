from __future__ import annotations

from email import policy
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.parser import BytesParser

import pytest

from mailtasks.errors import AddressError, MessageError
from mailtasks.ready import Head, octets, without_bcc

ENCODE = "encode that part as quoted-printable or base64, or leave it out"
START = b"From: shop@example.com\r\nTo: ann@example.com\r\n"


def head(*lines: str) -> Head:
    return Head.of("".join(f"{line}\r\n" for line in lines).encode() + b"\r\nbody\r\n")


def built(**headers: str) -> EmailMessage:
    mail = EmailMessage()
    for name, value in headers.items():
        mail[name] = value
    mail.set_content("Hello\n")
    return mail


# --- Octets


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (START + b"\r\nbody\r\n", START + b"\r\nbody\r\n"),
        (START + b"\r\nbody", START + b"\r\nbody\r\n"),
        (b"From: a@b\nTo: c@d\n\n.\nbody\n", b"From: a@b\r\nTo: c@d\r\n\r\n.\r\nbody\r\n"),
        # What would be two mails for a server that takes LF.LF for the end.
        (START + b"\r\nbody\n.\nMAIL FROM:<x@y>\r\n", START + b"\r\nbody\r\n.\r\nMAIL FROM:<x@y>\r\n"),
        (START + b"\r\n\xff\xfe\r\n", START + b"\r\n\xff\xfe\r\n"),
        (START + b"\r\n" + b"x" * 998 + b"\r\n", START + b"\r\n" + b"x" * 998 + b"\r\n"),
        (START, START),
        ("From: a@b\nSubject: Grüße\n\nHä", "From: a@b\r\nSubject: Grüße\r\n\r\nHä\r\n".encode()),
        (bytearray(START), START),
    ],
)
def test_only_line_ends_are_changed(given, kept):
    assert octets(given) == kept


def test_what_is_right_is_not_copied():
    content = START + b"\r\nbody\r\n"
    assert octets(content) is content


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            START + b"\r\none\r\ntwo\0\r\n",
            "line 5 of raw holds a NUL, which SMTP can't carry: " + ENCODE,
        ),
        (
            START + b"\r\none\r.\r\r\n",
            "line 4 of raw holds a CR that no LF follows, which some servers take for its end: " + ENCODE,
        ),
        (
            START + b"\r\n" + b"x" * 999 + b"\r\n",
            "line 4 of raw has more than 998 octets (RFC 5322 2.1.1): " + ENCODE,
        ),
        (b"", "raw has no headers: give a whole message, headers, an empty line and a body"),
        (b"\r\nbody", "raw has no headers: give a whole message, headers, an empty line and a body"),
        (
            b"From: a@b\r\nHello Ann\r\n",
            "line 2 of raw is no header: 'Hello Ann'; give headers, an empty line and a body",
        ),
        (
            b"From ann Mon Jan  1\nFrom: a@b\n\n",
            "line 1 of raw is no header: 'From ann Mon Jan  1'; give headers, an empty line and a body",
        ),
        (
            b"From: a@b\r\nSubject: \xe4\r\n\r\n",
            "the header subject of raw is neither ASCII nor UTF-8: encode it as RFC 2047 says",
        ),
        (
            b"From: a@b\r\nSubject: one\r\nsubject : two\r\n\r\n",
            "raw has more than one Subject: leave one, since readers may show either",
        ),
        (
            b"From: a@b\r\nMessage-ID: 1@x\r\n\r\n",
            "the Message-ID of raw is '1@x': give one such as '<1234@example.com>', or leave it out, and "
            "it is made",
        ),
        (
            b"X: y\r\n" * 43_691 + b"\r\n",
            "the head of raw has 262,146 octets: give at most 262,144; "
            "who needn't be seen gets the mail by `bcc` as well",
        ),
        (b"From: nobody:;\r\n\r\n", "the header From of raw holds no address: give one, or leave it out"),
        ("\ud800", "raw holds a surrogate, which can't be mailed: give bytes"),
        (7, "raw must be bytes or an email.message.EmailMessage, not int"),
    ],
)
def test_what_smtp_cannot_carry_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(MessageError) as caught:
        octets(given)
    assert str(caught.value) == sentence


def test_a_sender_that_is_none_is_refused():
    with pytest.raises(AddressError, match=r"^the header From of raw: 'shop' is no mail address: "):
        octets(b"From: shop\r\n\r\n")


def test_an_object_whose_as_bytes_takes_no_policy():
    class Djangos(MIMEText):
        def as_bytes(self, unixfrom=False, linesep="\n"):
            raise AssertionError

    mail = Djangos("From here\n")
    mail["From"], mail["To"] = "shop@example.com", "ann@example.com"
    assert octets(mail).endswith(b"To: ann@example.com\r\n\r\nFrom here\r\n")


# --- Objects of `email`


def test_an_object_gives_the_same_octets_in_every_process():
    def made() -> EmailMessage:
        mail = built(From="a@b.example", To="c@d.example")
        mail.add_attachment(b"x", maintype="application", subtype="pdf")
        return mail

    assert octets(made()) == octets(made())


def test_older_objects_are_taken_too():
    mail = MIMEMultipart()
    mail["From"] = "a@b.example"
    mail.attach(MIMEText("Grüße"))
    mail.attach(MIMEApplication(b"x"))
    found = BytesParser(policy=policy.default).parsebytes(octets(mail))
    assert [part.get_content() for part in found.iter_parts()] == ["Grüße", b"x"]


def test_what_was_parsed_is_written_as_it_was():
    written = (
        b"DKIM-Signature: v=1; a=rsa-sha256;\r\n\tbh=abc;  b=def\r\nFrom: Ann   <a@b.example>\r\n"
        b"Subject: " + b"long " * 30 + b"\r\nX: =?utf-8?q?a?=\r\n\r\nbody  \r\n"
    )
    assert octets(BytesParser(policy=policy.default).parsebytes(written)) == written


def test_an_address_that_needs_utf8_has_it():
    assert "To: jörg@example.com\r\n".encode() in octets(built(From="a@b.example", To="jörg@example.com"))
    assert octets(built(From="a@b.example", To="Jörg <j@example.com>")).isascii()


def test_an_object_that_cannot_be_written_is_refused():
    mail = EmailMessage()
    mail["From"] = "a@b.example"
    mail["Content-Type"] = "text/plain"
    mail.set_payload(object())
    with pytest.raises(MessageError, match=r"^raw can't be written as a message: \w+: .*; see if"):
        octets(mail)


# --- The head


def test_bcc_is_removed_and_nothing_else():
    content = b"A: 1\r\nBCC : x@y,\r\n z@y\r\nResent-Bcc: q@y\r\nB: 2\r\n\r\nBcc: stays\r\n"
    assert without_bcc(content) == b"A: 1\r\nB: 2\r\n\r\nBcc: stays\r\n"
    assert without_bcc(b"Bcc: x@y\r\n") == b""


@pytest.mark.parametrize(
    ("lines", "recipients"),
    [
        (["To: Ann <ann@example.com>, b@c", "Cc: b@c", "Bcc: d@e"], ("ann@example.com", "b@c", "d@e")),
        (["To: a@b,", " c@d", "To: e@f"], ("a@b", "c@d", "e@f")),
        (["To: undisclosed-recipients:;", "Bcc: d@e"], ("d@e",)),
        (["To: Team: a@b, c@d;, e@f (comment)"], ("a@b", "c@d", "e@f")),
        (['To: "a@b" <c@d>'], ("c@d",)),
        (["To: =?utf-8?q?J=C3=B6rg=2C?= <a@b>"], ("a@b",)),
        (["To: a@bücher.example"], ("a@xn--bcher-kva.example",)),
        (["To: old@b", "Resent-To: new@b", "Resent-Cc: c@b", "Resent-From: me@b"], ("new@b", "c@b")),
    ],
)
def test_recipients_are_read_from_the_head(lines, recipients):
    assert head(*lines).recipients() == recipients


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["Subject: x"], "raw names no recipient in To, Cc or Bcc: give `to`"),
        (["To: undisclosed-recipients:;"], "raw names no recipient in To, Cc or Bcc: give `to`"),
        (
            ["Resent-To: a@b", "Resent-Date: x", "Resent-To: c@d", "Resent-Date: y"],
            "raw was sent again more than once, so that its Resent- headers don't say who should get it now: "
            "give `to`",
        ),
        (["To: ann"], "the header To of raw: 'ann' is no mail address: An email address must have an @-sign"),
    ],
)
def test_recipients_that_are_not_clear_are_refused(lines, sentence):
    with pytest.raises(MessageError) as caught:
        head(*lines).recipients()
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "value",
    ["alice@example.org)bob@example.com", "a@b c@d", "(" * 3000 + "a@b", "x:" + "a@b (c)," * 20_000 + ";"],
)
def test_an_address_that_others_could_read_otherwise_is_refused(value):
    with pytest.raises(AddressError, match=r"^the header To of raw: "):
        head(f"To: {value}").recipients()


@pytest.mark.parametrize(
    ("lines", "sender"),
    [
        (["From: Ann <a@b>"], "a@b"),
        (["From: a@b, c@d", "Sender: c@d"], "c@d"),
        (["From: a@b, c@d"], "a@b"),
        (["From: a@b", "Sender: c@d", "Resent-From: e@f"], "e@f"),
        (["From: a@b", "Resent-To: e@f"], "a@b"),
        (["To: a@b"], None),
    ],
)
def test_the_envelopes_sender_is_who_sent_it(lines, sender):
    assert head(*lines).sender == sender


@pytest.mark.parametrize(
    ("written", "subject"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?q?_you?=", "Grüße you"),
        ("Grüße", "Grüße"),
        ("two\r\n lines", "two lines"),
        ("=?no-such-charset?q?x?=", "=?no-such-charset?q?x?="),
        ("=?utf-8?q?a=0D=0Ab=00?=", "a b "),
        ("=?utf-7?q?+2AA-?=", "?"),
    ],
)
def test_the_subject_is_read_as_people_do(written, subject):
    assert head(f"Subject: {written}").subject == subject


def test_the_message_id_is_its_own():
    assert head("Message-Id:  <1@x> ").message_id == "<1@x>"
    assert head("To: a@b").message_id is None

from __future__ import annotations

from email import policy
from email.parser import BytesParser

import pytest

from mailtasks.compose.reencode import to_seven_bit

V = "MIME-Version: 1.0\n"


def octets(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def test_what_is_seven_bit_stays_what_it_is():
    content = octets("Subject: x\n\nHello\n")
    assert to_seven_bit(content) is content


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            f"{V}Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nX: y\n\n"
            "Grüße from all of us\n",
            f"{V}Content-Type: text/plain; charset=utf-8\nX: y\n"
            "Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe from all of us\n",
        ),
        (
            "Content-Type: text/plain; charset=utf-8\n\n日本語\n",
            f"Content-Type: text/plain; charset=utf-8\n{V}Content-Transfer-Encoding: base64\n\n"
            "5pel5pys6KqeDQo=\n",
        ),
        (
            f"{V}content-transfer-encoding:\n 8bit\nContent-Type: application/json\n\nä\n",
            f"{V}Content-Type: application/json\nContent-Transfer-Encoding: base64\n\nw6QNCg==\n",
        ),
        (
            f'{V}Content-Type: multipart/mixed; boundary="b"\nContent-Transfer-Encoding: 8bit\n\n'
            "before\n--b\n\nseven\n--b  \nContent-Type: text/plain; charset=utf-8\n\n"
            "acht ä acht\n--b--\nafter\n",
            f'{V}Content-Type: multipart/mixed; boundary="b"\nContent-Transfer-Encoding: 7bit\n\n'
            "before\n--b\n\nseven\n--b  \nContent-Type: text/plain; charset=utf-8\n"
            "Content-Transfer-Encoding: quoted-printable\n\nacht =C3=A4 acht\n--b--\nafter\n",
        ),
        (
            f"{V}Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n"
            f"DKIM-Signature: v=1\n{V}\nacht ä acht\n",
            f"{V}Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\n"
            f"DKIM-Signature: v=1\n{V}Content-Transfer-Encoding: quoted-printable\n\n"
            "acht =C3=A4 acht\n",
        ),
        (
            f"{V}Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n{V}\nacht ä acht\n--b--\n",
            f"{V}Content-Type: multipart/digest; boundary=b\nContent-Transfer-Encoding: 7bit\n\n"
            f"--b\nContent-Transfer-Encoding: 7bit\n\nSubject: x\n{V}"
            "Content-Transfer-Encoding: quoted-printable\n\nacht =C3=A4 acht\n--b--\n",
        ),
    ],
)
def test_only_what_is_eight_bit_is_changed(before, after):
    assert to_seven_bit(octets(before)) == octets(after)


def test_a_line_that_is_broken_does_not_begin_with_a_boundary():
    text = "ä" + "x" * 69 + "--bb more text that is long enough to be broken\n"
    content = octets(f"{V}Content-Type: multipart/mixed; boundary=bb\n\n--bb\n\n{text}\n--bb--\n")
    converted = to_seven_bit(content)
    assert converted.count(b"--bb") == 2
    for before, after in zip(leaves(content), leaves(converted), strict=True):
        assert before == after


def leaves(content: bytes) -> list[bytes]:
    walked = BytesParser(policy=policy.default).parsebytes(content).walk()
    return [part.get_payload(decode=True) for part in walked if not part.is_multipart()]


MIXED = f"{V}Content-Type: multipart/mixed; boundary=b\n\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "DKIM-Signature: v=1\n\nä\n",
            "it has a DKIM-Signature, which a conversion to 7-bit would break: encode its parts before "
            "signing, or use a relay that offers 8BITMIME",
        ),
        (
            f"{MIXED}--b\nContent-Type: multipart/signed; boundary=c\n\n--c\n\nä\n--c--\n--b--\n",
            "it holds a multipart/signed with 8-bit text, whose signature a conversion to 7-bit would break: "
            "encode the text before signing (RFC 3156 3), or use a relay that offers 8BITMIME",
        ),
        (
            f"{MIXED}--b\nContent-Disposition: attachment; filename=ä\n\nx\n--b--\n",
            "a header of it isn't ASCII, which 7-bit can't say: encode it as RFC 2047 and RFC 2231 say",
        ),
        (
            "Content-Transfer-Encoding: base64\n\nä\n",
            "a part of it is 8-bit, though it says that it is encoded as base64: mend it",
        ),
        (
            f"{MIXED}--c\n\nä\n",
            "a multipart in it has no boundary, or isn't ended by it: mend it",
        ),
        (
            f"{MIXED}ä\n--b\n\nx\n--b--\n",
            "the text before or after the parts of a multipart in it is 8-bit: leave that out",
        ),
        (
            f"{MIXED}--b\nno header\n\nä\n--b--\n",
            "the headers of a part of it can't be told from its text: mend it",
        ),
        (
            f"{MIXED}--b\nContent-Type: message/delivery-status\n\nAction: ä\n--b--\n",
            "it holds a message/delivery-status with 8-bit text, which RFC 2045 6.4 forbids to encode: "
            "use a relay that offers 8BITMIME",
        ),
        (
            "Content-Type: message/rfc822\n\n" * 60 + "\nä\n",
            "its parts are nested more than 50 deep: use a relay that offers 8BITMIME",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_sentence(content, sentence):
    with pytest.raises(ValueError, match=r"^\w") as caught:
        to_seven_bit(octets(content))
    assert str(caught.value) == sentence

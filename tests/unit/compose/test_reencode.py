"""A mail for a relay without 8BITMIME: ASCII, and to a reader the same."""

from __future__ import annotations

from email import message_from_bytes

from mailtasks.compose.reencode import to_seven_bit

MAIL = (
    "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    'Content-Type: text/plain; charset="utf-8"\r\n'
    "Content-Transfer-Encoding: 8bit\r\n"
    "\r\n"
    "Grüße\r\n"
).encode()


def test_it_is_ascii_and_reads_the_same() -> None:
    encoded = to_seven_bit(MAIL)
    assert encoded.isascii()
    message = message_from_bytes(encoded)
    assert message["Subject"] == "=?utf-8?q?Gr=C3=BC=C3=9Fe?="
    assert message.get_payload(decode=True).replace(b"\r\n", b"\n") == "Grüße\n".encode()

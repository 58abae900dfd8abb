"""A mail with 8-bit octets for a relay that takes none: the same mail, in base64 and quoted-printable."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import SMTP


def to_seven_bit(content: bytes) -> bytes:
    """The mail with the body parts that aren't ASCII encoded anew (RFC 6152 3); headers stay as they are."""
    policy = SMTP.clone(cte_type="7bit", refold_source="none")
    return message_from_bytes(content, policy=policy).as_bytes()

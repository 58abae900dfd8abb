"""A message that somebody else has made: octets, or an object of the standard library's `email`.

The rules:

1. Its octets arrive as they are, so that signatures over them hold. Only line ends become CRLF, and Bcc is
   removed (RFC 5322 3.6.3). What is missing (From, Date, Message-ID) is put in front when it is accepted.
2. What can't be said in SMTP, or could be taken for the end of a mail, is refused: NUL, a bare CR, a line of
   more than 998 octets, a head that isn't one, a header that is neither ASCII nor UTF-8.
3. Recipients and sender are read as RFC 5322 3.6.6 says: from the Resent- fields, if there are any.
4. The same object gives the same octets, boundaries included, however often and wherever it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import policy
from email.errors import HeaderParseError, InvalidHeaderDefect
from email.generator import BytesGenerator
from email.header import decode_header, make_header
from email.message import Message as EmailObject
from email.policy import EmailPolicy
from hashlib import blake2b
from io import BytesIO
from typing import Any, Final

from mailtasks.address import excerpt, parse, split
from mailtasks.errors import AddressError, MessageError

LONGEST_LINE: Final = 998
"""Octets, without CRLF (RFC 5322 2.1.1). Relays break longer ones, or refuse them."""

LONGEST_HEAD: Final = 262_144
"""Octets: room for thousands of recipients who are seen. In longer ones a subject takes many seconds to
decode, and who passes mail on doesn't choose its head."""

_TOO_LONG: Final = re.compile(rb"(?:\A|\n)[^\n]{%d}" % (LONGEST_LINE + len("\r") + 1))
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:(.*\r\n(?:[ \t].*\r\n)*)")
_END_OF_HEAD: Final = re.compile(rb"\A\r\n|\r\n\r\n")
_ID: Final = re.compile(r"<[!-;=?-~]+>")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_ONCE: Final = ("From", "Sender", "Date", "Message-ID", "Subject")
"""What stands in a head once at most (RFC 5322 3.6), and must be understood as readers do."""

_LONGEST_LIST: Final = 100_000
"""Characters of a list of addresses with groups or comments; the parser for these is slow on long ones."""


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a message, field by field.

    Attributes:
        fields: name in lower case, and value with its line ends.
        ascii: whether it can do without SMTPUTF8 (RFC 6532).
    """

    fields: tuple[tuple[str, bytes], ...]
    ascii: bool

    @classmethod
    def of(cls, content: bytes, what: str = "raw") -> Head:
        """Read the head of a message or part whose lines end in CRLF.

        Args:
            what: it is, in an error's sentence.

        Raises:
            MessageError: it has none, it is too long, or a line of it is no header.
        """
        end = _END_OF_HEAD.search(content)
        # Without an empty line the whole is a head; a message may have no body (RFC 5322 3.5).
        head = content if end is None else content[: end.start() and end.start() + len("\r\n")]
        if len(head) > LONGEST_HEAD:
            raise MessageError(
                f"the head of {what} has {len(head):,} octets: give at most {LONGEST_HEAD:,}; "
                "who needn't be seen gets the mail by `bcc` as well"
            )
        return cls(tuple(_fields(head, what)), head.isascii())

    def values(self, name: str) -> list[str]:
        """The values of a field, unfolded, not decoded."""
        lower = name.lower()
        found = (value.replace(b"\r\n", b"").strip() for one, value in self.fields if one == lower)
        return [value.decode() for value in found]

    def value(self, name: str) -> str | None:
        """The first value of a field; None: it isn't there."""
        return next(iter(self.values(name)), None)

    @property
    def subject(self) -> str:
        """As people read it, in one line."""
        written = self.value("Subject") or ""
        try:
            text = str(make_header(decode_header(written)))
        except (HeaderParseError, LookupError, ValueError):
            text = written
        return _CONTROLS.sub(" ", text).encode(errors="replace").decode()

    @property
    def message_id(self) -> str | None:
        """With its angle brackets; None: there is none."""
        return self.value("Message-ID") or None

    @property
    def sender(self) -> str | None:
        """The envelope's sender: the first address of whoever sent, or sent again, the message.

        Raises:
            AddressError: it is none.
        """
        again = self._prefix
        for name in (f"{again}Sender", f"{again}From", "From"):
            if (value := self.value(name)) is not None:
                return next(iter(_addresses(name, value)), None)
        return None

    def recipients(self) -> tuple[str, ...]:
        """To, Cc and Bcc, or those to whom it was sent again; each once.

        Raises:
            AddressError: one is none.
            MessageError: it was sent again several times, so that only a person can say whom it is for.
        """
        if max(len(self.values("Resent-Date")), len(self.values("Resent-From"))) > 1:
            raise MessageError(
                "raw was sent again more than once, so that its Resent- headers don't say who should get it "
                "now: give `to`"
            )
        found = [
            address
            for name in (f"{self._prefix}{kind}" for kind in ("To", "Cc", "Bcc"))
            for value in self.values(name)
            for address in _addresses(name, value)
        ]
        if not found:
            raise MessageError("raw names no recipient in To, Cc or Bcc: give `to`")
        return tuple(dict.fromkeys(found))

    @property
    def _prefix(self) -> str:
        return "Resent-" if any(name.startswith("resent-") for name, _ in self.fields) else ""


def octets(given: bytes | str | EmailObject[Any, Any]) -> bytes:
    """The message in lines that end in CRLF, checked; Bcc still stands there.

    Args:
        given: a text is taken as UTF-8.

    Raises:
        MessageError: it can't be sent as it is.
    """
    content = _with_crlf(_written(given), "raw")
    content = content if content.endswith(b"\r\n") else content + b"\r\n"
    _refuse_uncarried(content, "raw")
    head = Head.of(content)
    if not head.fields:
        raise MessageError("raw has no headers: give a whole message, headers, an empty line and a body")
    _check(head)
    return content


def without_bcc(content: bytes) -> bytes:
    """The message without its Bcc and Resent-Bcc, which nobody should read (RFC 5322 3.6.3)."""
    head = Head.of(content)
    if not any(name in ("bcc", "resent-bcc") for name, _ in head.fields):
        return content
    end = _END_OF_HEAD.search(content)
    length = len(content) if end is None else end.start() + len("\r\n")
    kept = _FIELD.sub(_unless_bcc, content[:length])
    return kept + content[length:]


def _unless_bcc(field: re.Match[bytes]) -> bytes:
    return b"" if field[1].lower() in (b"bcc", b"resent-bcc") else field[0]


def _written(given: bytes | str | EmailObject[Any, Any]) -> bytes:
    if isinstance(given, EmailObject):
        return flattened(given, "raw")
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError:
            raise MessageError("raw holds a surrogate, which can't be mailed: give bytes") from None
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    raise MessageError(f"raw must be bytes or an email.message.EmailMessage, not {type(given).__name__}")


def part(content: bytes, what: str) -> bytes:
    """A MIME part as it may stand in a message: headers in ASCII, an empty line, a body in canonical lines.

    Raises:
        MessageError: it can't be sent as it is.
    """
    content = _with_crlf(content, what)
    _refuse_uncarried(content, what)
    content = content if _END_OF_HEAD.search(content) else content + b"\r\n\r\n"
    if not Head.of(content, what).ascii:
        raise MessageError(f"a header of {what} isn't ASCII: encode it as RFC 2047 and RFC 2231 say")
    return content


def flattened(message: EmailObject[Any, Any], what: str) -> bytes:
    """What an object of `email` is in octets.

    Args:
        what: it is, in an error's sentence.

    Raises:
        MessageError: it can't be written.
    """
    try:
        _name_boundaries(message)
        written = message.policy.clone(linesep="\r\n")
        if isinstance(written, EmailPolicy):
            # What was parsed is written as it was; an address that isn't ASCII can't be said otherwise.
            written = written.clone(refold_source="none", utf8=not _all_ascii(message))
        octets = BytesIO()
        # What `as_bytes` does; that of Django 5.2's messages takes no policy.
        BytesGenerator(octets, mangle_from_=False, policy=written).flatten(message)
        return octets.getvalue()
    except Exception as error:  # whatever `email` comes upon in an object that it didn't check before
        raise MessageError(
            f"{what} can't be written as a message: {type(error).__name__}: {error}; "
            "see if its as_bytes() works"
        ) from error


def _name_boundaries(message: EmailObject[Any, Any]) -> None:
    """Give a boundary to parts that have none: `as_bytes` would make a random one, new in each process."""
    nameless = [part for part in message.walk() if part.is_multipart() and _wants_boundary(part)]
    if not nameless:
        return
    # Who knew this before could write it into a part, but then it would be another.
    seen = blake2b(digest_size=12)
    for part in message.walk():
        if not part.is_multipart():
            seen.update(str(part.get_payload()).encode(errors="surrogatepass"))
    for number, part in enumerate(nameless):
        part.set_boundary(f"=_ready_{seen.hexdigest()}_{number}")


def _wants_boundary(part: EmailObject[Any, Any]) -> bool:
    return part.get_content_maintype() == "multipart" and part.get_boundary() is None


def _all_ascii(message: EmailObject[Any, Any]) -> bool:
    found = (one for value in message.values() for one in getattr(value, "addresses", ()))
    return all(one.addr_spec.isascii() for one in found)


def _refuse_uncarried(content: bytes, what: str) -> None:
    if b"\0" in content:
        raise _refused(content, content.index(b"\0"), what, "holds a NUL, which SMTP can't carry")
    if too_long := _TOO_LONG.search(content):
        raise _refused(content, too_long.end(), what, f"has more than {LONGEST_LINE} octets (RFC 5322 2.1.1)")


def _with_crlf(content: bytes, what: str) -> bytes:
    """Lines that end in CRLF. Copied only if it has to be changed."""
    pairs = content.count(b"\r\n")
    if content.count(b"\r") != pairs:
        at = re.search(rb"\r(?!\n)", content)
        assert at, "there is one more CR than CRLF"
        raise _refused(
            content, at.start(), what, "holds a CR that no LF follows, which some servers take for its end"
        )
    if content.count(b"\n") != pairs:
        content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return content


def _refused(content: bytes, at: int, what: str, why: str) -> MessageError:
    line = content.count(b"\n", 0, at) + 1
    return MessageError(
        f"line {line:,} of {what} {why}: encode that part as quoted-printable or base64, or leave it out"
    )


def _fields(head: bytes, what: str) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(head):
        field = _FIELD.match(head, at)
        if field is None:
            line = head[at:].partition(b"\r\n")[0].decode(errors="replace")
            number = head.count(b"\n", 0, at) + 1
            raise MessageError(
                f"line {number:,} of {what} is no header: {excerpt(line)}; "
                "give headers, an empty line and a body"
            )
        yield field[1].decode("ascii").lower(), field[2]
        at = field.end()


def _check(head: Head) -> None:
    for name, value in head.fields:
        try:
            value.decode()
        except UnicodeDecodeError:
            raise MessageError(
                f"the header {name} of raw is neither ASCII nor UTF-8: encode it as RFC 2047 says"
            ) from None
    for name in _ONCE:
        if len(head.values(name)) > 1:
            raise MessageError(f"raw has more than one {name}: leave one, since readers may show either")
    if head.message_id and not _ID.fullmatch(head.message_id):
        raise MessageError(
            f"the Message-ID of raw is {excerpt(head.message_id)}: give one such as '<1234@example.com>', "
            "or leave it out, and it is made"
        )
    if head.sender is None and head.value("From") is not None:
        raise MessageError("the header From of raw holds no address: give one, or leave it out")


def _addresses(name: str, value: str) -> list[str]:
    """The bare addresses of a header, in wire form."""
    try:
        return [parse(text).address for text in split(value)]
    except AddressError as error:
        return _addresses_of_groups(name, value, error)


def _addresses_of_groups(name: str, value: str, error: AddressError) -> list[str]:
    """The same where there are groups, comments or empty members (RFC 5322 3.4, 4.4)."""
    told = AddressError(f"the header {name} of raw: {error}")
    if len(value) > _LONGEST_LIST:
        raise told from None
    try:
        header: Any = policy.default.header_factory(name, value)
        found = [one.addr_spec for one in header.addresses]
    except (HeaderParseError, RecursionError, ValueError, LookupError, AttributeError):
        raise told from None
    # What the parser decoded or mended isn't what another reader would see.
    doubtful = any(isinstance(defect, InvalidHeaderDefect) for defect in header.defects)
    if doubtful or not all(address in value for address in found):
        raise told from None
    return [parse(address).address for address in found]

"""What SMTP looks like on the wire: reply lines in, addresses and bodies out.

The rules:

1. Nothing that is written holds a bare CR or LF: not an address, not a body. A server that takes one
   for a line's end would see commands where we wrote text (SMTP smuggling, CVE-2023-51764).
2. What is read is bounded, however long a server talks, and what isn't a reply is never guessed at.
3. Replies are cut from the stream here and attributed to commands in `mailtasks.smtp.engine`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from mailtasks.errors import AddressError
from mailtasks.reply import Reply

MAX_LINE: Final = 8192
"""Bytes in a reply line. RFC 5321 4.5.3.1.5 says 512; smtplib reads 8192, Postfix's client 2048."""

MAX_LINES: Final = 128
"""Lines in a reply. RFC 5321 sets no limit; a long EHLO has about 20."""

LARGE: Final = 65536
"""Bytes of a body that is better not copied: as lines it takes several times its size."""

MAX_ADDRESS: Final = 254
"""Octets in an address: RFC 5321 4.5.3.1.3 allows 256 in a path, two of them the angle brackets."""


class GarbledReply(ValueError):
    """What was read is no SMTP reply. The sentence quotes its beginning."""


class ReplyReader:
    """Cuts a stream of bytes into replies (RFC 5321 4.2), wherever the network cut it.

    A line may end in LF alone: some servers do it, and nothing of ours depends on it.
    """

    __slots__ = ("_lines", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []

    @property
    def empty(self) -> bool:
        """Nothing is left over: the last byte read ended a reply."""
        return not self._rest and not self._lines

    def feed(self, data: bytes) -> Iterator[tuple[int, Sequence[bytes]]]:
        """Yield (basic code, lines) for each reply that `data` completes.

        Raises:
            GarbledReply: this and all that follows can't be attributed; close the connection.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            code = _WHOLE.get(line[:4])
            if code and not self._lines and len(line) <= MAX_LINE:  # nearly every reply
                yield code, (line,)
            else:
                yield from self._unusual(line)
        _refuse_long(self._rest)

    def _unusual(self, line: bytes) -> Iterator[tuple[int, Sequence[bytes]]]:
        """A line of a reply of several, a code without text, or no reply at all."""
        _refuse_long(line)
        code = _CODES.get(line[:3])
        if code is None or line[3:4] not in _SEPARATORS:
            raise GarbledReply(f"not a reply: {quote(line)}")
        if self._lines and line[:3] != self._lines[0][:3]:
            raise GarbledReply(f"not the next line of a {self._lines[0][:3].decode()} reply: {quote(line)}")
        self._lines.append(line)
        if len(self._lines) > MAX_LINES:
            raise GarbledReply(f"a reply of more than {MAX_LINES} lines")
        if line[3:4] != b"-":  # the last one has no hyphen
            whole, self._lines = self._lines, []
            yield code, whole


def _refuse_long(line: bytes) -> None:
    if len(line) > MAX_LINE:
        raise GarbledReply(f"a reply line of more than {MAX_LINE} bytes: {quote(line)}")


def make_reply(code: int, lines: Sequence[bytes]) -> Reply:
    """A `Reply` from the lines that `ReplyReader` cut.

    The enhanced code (RFC 2034) is dropped where it contradicts the basic one, which wins.
    """
    found = _TEXT(lines[0])
    assert found, "the pattern matches any line"
    text, enhanced = printable(found[2]), found[1]
    for line in lines[1:]:
        further = _TEXT(line)
        assert further, "the pattern matches any line"
        text += "\n" + printable(further[2])
    if not enhanced or enhanced[0] != lines[0][0]:
        return Reply(code, text)
    return Reply(code, text, enhanced.decode())


def printable(data: bytes) -> str:
    """A server's bytes as text that is safe in a log or on a terminal."""
    text = data.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def quote(data: bytes, limit: int = 60) -> str:
    """The beginning of a server's bytes, for an error's sentence."""
    text = printable(data[:limit].rstrip(b"\r\n"))
    return f"{text!r}…" if len(data) > limit else repr(text)


@lru_cache(maxsize=1024)
def path(address: str) -> bytes:
    """An envelope address as it stands between `<` and `>`; `""` is the null sender.

    A local part that needs quotes and has none gets them (RFC 5321 4.1.2). Cached, since an address is
    checked where the envelope is made and written a moment later.

    Raises:
        AddressError: it is no address, or would break out of its place in the dialogue.
    """
    if _PLAIN_ADDRESS(address) or not address:
        return _bounded(address)
    if _FORBIDDEN.search(address):
        raise AddressError(f"address {address!r} holds a line break, NUL or control character; remove it")
    local, at, domain = address.rpartition("@")
    if not at or not local or not _DOMAIN(domain):
        raise AddressError(f"address {address!r} is none: give it as local@domain")
    return _bounded(f"{_local_part(address, local)}@{domain}")


def _bounded(address: str) -> bytes:
    encoded = address.encode()
    if len(encoded) > MAX_ADDRESS:
        raise AddressError(
            f"address {address[:40]!r}… has {len(encoded)} octets; "
            f"SMTP allows {MAX_ADDRESS} (RFC 5321 4.5.3.1.3)"
        )
    return encoded


def _local_part(address: str, local: str) -> str:
    if _DOT_STRING(local) or _QUOTED_STRING(local):
        return local
    if _UNQUOTABLE.search(local):
        raise AddressError(
            f"address {address!r} holds a space, an angle bracket or a quote outside quotes; "
            "write the bare address, without a display name"
        )
    return f'"{local}"'


def xtext(text: str) -> bytes:
    """A parameter's value in which nothing can end the parameter (RFC 3461 4)."""
    return _NO_XCHAR.sub(lambda found: b"+%02X" % found[0][0], text.encode())


def canonical(content: bytes) -> bytes:
    """`content` with every line ended by CRLF, and no CR or LF anywhere else.

    What is so already and large isn't copied; a small copy costs less than looking.
    """
    if len(content) > LARGE and is_canonical(content):
        return content
    return b"\r\n".join([*content.splitlines(), b""])


def is_canonical(content: bytes) -> bool:
    """Each line ends in CRLF, the last one too, and there is no other CR or LF."""
    lines = content.count(b"\r\n")
    return content.endswith(b"\r\n") and lines == content.count(b"\n") == content.count(b"\r")


def canonical_pieces(content: bytes | tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same of what may come in pieces. They are joined only if one of them ends within a line."""
    if isinstance(content, bytes):
        return (canonical(content),)
    return content if all(map(is_canonical, content)) else (canonical(b"".join(content)),)


def stuff(content: bytes) -> bytes:
    """Canonical content as it goes between DATA and the final dot (RFC 5321 4.5.2)."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


_CODES: Final = {str(code).encode(): code for code in range(200, 600)}
_WHOLE: Final = {str(code).encode() + b" ": code for code in range(200, 600)}
_SEPARATORS: Final = frozenset({b" ", b"-", b"\r", b""})
_TEXT: Final = re.compile(rb"...[ -]?(?:([245]\.\d{1,3}\.\d{1,3})(?:[ \t]+|(?=\r|\Z)))?([^\r\n]*)").match

_NO_XCHAR: Final = re.compile(rb"[^!-*,-<>-~]")  # all but printable ASCII, and of that + and =

# RFC 5321 4.1.2, with RFC 6531 3.3's non-ASCII letters; the first is the road nearly every address takes.
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_LABEL: Final = r"[A-Za-z0-9_\x80-\U0010ffff](?:[A-Za-z0-9_\x80-\U0010ffff-]*[A-Za-z0-9_\x80-\U0010ffff])?"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL})(?:\.{_LABEL})*|\[[A-Za-z0-9:.-]+\]").fullmatch
_DOT_STRING: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*").fullmatch
_QUOTED_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"').fullmatch
_PLAIN_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9._+=-]*[A-Za-z0-9_+=-]@[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9]"
).fullmatch
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_UNQUOTABLE: Final = re.compile(r'[\s<>"\\,;:()\[\]@]')

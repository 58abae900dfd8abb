"""From octets to lines: the encoding, and where it is wrong.

The rules:

1. UTF-8, unless a byte order mark says UTF-16 or the caller says what else it is.
2. What is in the head is known before there is a first line: a wrong encoding, a binary file, an empty one.
3. A line ends with LF, CR LF or CR, and keeps its end. One that is longer than any row may be comes in
   pieces, so that memory is bounded; all but its last are without an end.
4. Where the octets break off or can't be decoded, what came before is given first, but no half a line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from io import StringIO
from itertools import chain
from typing import Final

from mailtasks.errors import InputError
from mailtasks.people.octets import Octets
from mailtasks.people.row import LONGEST

EMPTY: Final = "is empty; its first line should name the columns, one of them `email`, or be a JSON object"
_MARKS: Final = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_BINARY: Final = {
    b"PK\x03\x04": "a ZIP archive or a workbook (XLSX, ODS)",
    b"\xd0\xcf\x11\xe0": "a workbook (XLS)",
    b"%PDF-": "a PDF",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet file",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f]")  # in a text file's first line there is none
_EXPORT: Final = "save it as CSV (UTF-8) or as JSON Lines, plain or compressed by gzip or zstd"

_UTF_16: Final = " (if it is UTF-16 without a byte order mark, say so: utf-16-le)"


class Text:
    """The lines of a file, to be read once.

    Attributes:
        name: of the file, for errors.
        head: the text that is known before the first line is read.
        ended: how many lines were given whole, that is, with their ends.
        nul: whether a NUL was in what was read so far, so that one looks where.

    Raises:
        InputError: if the head can't be decoded, is empty or binary, or there was an error after it.
    """

    def __init__(self, octets: Octets, encoding: str | None = None) -> None:
        self.name = octets.name
        self.ended = 0
        self.nul = False
        self._octets = octets
        self.encoding = _marked(octets.head) if encoding is None else encoding
        self._decoder = _decoder(self.encoding, self.name)
        self._refuse_binary()
        self.head, wrong = self._decoded(octets.head, octets.size, final=octets.complete)
        self.head = self.head.removeprefix("\ufeff")
        self._refuse_head(wrong)

    def __iter__(self) -> Iterator[str]:
        rest = ""
        try:
            for text in self._texts():
                self.nul = self.nul or "\0" in text
                lines = list(StringIO(rest + text, newline=""))
                rest = _cut_off(lines)
                yield from lines
                self.ended += len(lines)
                if len(rest) > LONGEST:
                    yield rest.removesuffix("\r")
                    rest = "\r" if rest.endswith("\r") else ""
        except InputError as error:
            error.line = self.ended + 1
            raise
        if rest:
            yield rest

    def _texts(self) -> Iterator[str]:
        yield self.head
        if self._octets.complete:  # as the head
            return
        for piece in chain(self._octets, [b""]):
            text, failure = self._decoded(piece, self._octets.size, final=not piece)
            yield text
            if failure:
                raise failure

    def _decoded(self, piece: bytes, end: int, *, final: bool) -> tuple[str, InputError | None]:
        """What the piece says, as far as it can be decoded, and why not farther."""
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(piece, final)
            text.encode()  # which refuses surrogates
        except UnicodeDecodeError as error:
            at = error.start - len(state[0])  # in the piece; negative if in what was left of an earlier one
            text = self._decoded_again(piece[: max(at, 0)], state)
            return text, self._undecodable(error.object[error.start], end - len(piece) + at)
        except UnicodeError as error:
            return "", InputError(self.name, f"isn't {self.encoding} ({error}); {self._advice()}")
        return text, None

    def _decoded_again(self, piece: bytes, state: tuple[bytes, int]) -> str:
        self._decoder.setstate(state)
        try:
            return self._decoder.decode(piece)
        except UnicodeError:  # UTF-16 without a byte order mark, of which so much is asked for the first time
            return ""

    def _undecodable(self, byte: int, at: int) -> InputError:
        what = f"the byte 0x{byte:02x} (number {at + 1:,} of the file) isn't {self.encoding.upper()}"
        return InputError(self.name, f"{what}; {self._advice()}")

    def _advice(self) -> str:
        return "say what encoding it has (Excel's is often cp1252), or save it as UTF-8"

    def _refuse_binary(self) -> None:
        for start, what in _BINARY.items():
            if self._octets.head.startswith(start):
                raise InputError(self.name, f"is {what}, and no text; {_EXPORT}")

    def _refuse_head(self, wrong: InputError | None) -> None:
        first = next(StringIO(self.head, newline=""), "")
        binary = _CONTROL.search(first) or (wrong and b"\0" in self._octets.head)
        if binary and not self._octets.failure:
            raise InputError(self.name, f"is no text, but something binary; {_EXPORT}{_UTF_16}", 1)
        failure = self._octets.failure or wrong
        if failure:
            failure.line = _line_ends(self.head) + 1
            raise failure
        if self._octets.complete and not self.head.strip():
            raise InputError(self.name, EMPTY)


def _line_ends(text: str) -> int:
    return sum(line.endswith(("\n", "\r")) for line in StringIO(text, newline=""))


def _marked(head: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "utf-8")


def _decoder(encoding: str, name: str) -> codecs.IncrementalDecoder:
    try:
        "".encode(encoding)  # refuses also what is no encoding of text, such as base64
        return codecs.getincrementaldecoder(encoding)()
    except (LookupError, UnicodeError, ValueError):
        raise InputError(
            name, f"there is no encoding {encoding!r}; name one that Python knows, such as utf-8 or cp1252"
        ) from None


def _cut_off(lines: list[str]) -> str:
    """The last line, taken away, if more of it may come: also a LF after its CR."""
    return lines.pop() if lines and not lines[-1].endswith("\n") else ""

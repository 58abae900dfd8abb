"""Files of recipients' own: each row names its files by their paths in one folder.

The rules:

1. A row is the word of others. What it names is a regular file in that folder, wherever symbolic links and
   `..` may lead; an absolute path is refused.
2. What was found to lie in the folder is opened part by part, and no link is followed any more: nothing can
   be slipped in between.
3. One file at a time is in memory. It is looked at when people are read, and read again when they are
   accepted, if its content isn't stored yet; then it must be what it was.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final, Self

import msgspec

from mailtasks.address import excerpt
from mailtasks.compose.mime import blob_digest
from mailtasks.compose.template import Template, TemplateRecord
from mailtasks.errors import AttachmentError, InputError, TemplateError
from mailtasks.message import Attachment
from mailtasks.people import Person, Reason, Rejected
from mailtasks.pieces import OwnFile, base64_size
from mailtasks.settings import IN_REDIS, Settings

_REMEMBERED: Final = 1024  # files that aren't looked at again, since many rows may name the same
_UNTYPED: Final = "application/octet-stream"
_COMPOSED: Final = (
    "message/",
    "multipart/",
)  # may not be encoded (RFC 2046 5.2.1), as what is stored apart is
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe must hold up nobody


class _Unfit(Exception):
    """Why a file can't be attached: what is said behind its name."""


class OwnFiles:
    """What looks at the files that rows name, and reads them.

    Args:
        fields: of a row, each of which names a file, or none by "" or None.
        folder: that they lie in.
        room: bytes that a row's files may have together when they are encoded.
        cap: bytes that they may have together as they are; None: any number.

    Raises:
        TemplateError: the folder isn't there.
    """

    def __init__(
        self, fields: Sequence[str], folder: str | os.PathLike[str], *, room: int, cap: int | None = None
    ) -> None:
        self._fields = fields
        self._folder = os.path.realpath(folder)
        self._room = room
        self._cap = cap
        self._look = lru_cache(_REMEMBERED)(self._looked_at)
        if not os.path.isdir(self._folder):
            told = f"{excerpt(os.fspath(folder))} is no folder; check the path"
            raise TemplateError("attachment_folder", None, told)

    @classmethod
    def of_template(cls, template: Template, record: TemplateRecord, settings: Settings) -> Self | None:
        """What a template's `attachment_fields` ask for; None, if it has none.

        Raises:
            TemplateError: it has only one of fields and folder, or the folder isn't there.
        """
        folder = template.attachment_folder
        if not record.attachment_fields:
            if folder is None:
                return None
            raise TemplateError(
                "attachment_folder", None, "nobody has a file of it: give attachment_fields, or leave it out"
            )
        if folder is None:
            raise TemplateError(
                "attachment_fields",
                None,
                "the files that they name must lie in a folder: give attachment_folder",
            )
        common = sum(base64_size(len(file.content)) for file in record.attachments)
        return cls(
            record.attachment_fields,
            folder,
            room=settings.size_limit - common,
            cap=settings.blob_cap if settings.blobs == IN_REDIS else None,
        )

    def of(self, rows: Iterable[Person | Rejected]) -> Iterator[Person | Rejected]:
        """The same rows with their files; who has one that can't be attached is `Rejected`."""
        for row in rows:
            yield self._with_files(row) if isinstance(row, Person) else row

    def read(self, file: OwnFile) -> bytes:
        """What it holds.

        Raises:
            InputError: it isn't what it was when it was looked at.
        """
        try:
            content = self._content(file.path, file.size + 1)
            changed = "" if _digest(file.name, content) == file.digest else "has another content"
        except _Unfit as unfit:
            changed = str(unfit)
        if changed:
            raise InputError(
                os.path.join(self._folder, file.path),
                f"since the people were read it has changed: it {changed}; so those who should get it aren't "
                "accepted: let it be, and give the same again",
            )
        return content

    def contents(self, files: Iterable[Sequence[OwnFile]]) -> Mapping[str, bytes]:
        """By digest, what rows' files hold; each is read when it is asked for, as `read` does it."""
        return _Contents(chain.from_iterable(files), self.read)

    def _with_files(self, row: Person) -> Person | Rejected:
        files = []
        for field in self._fields:
            path = row.fields.get(field)
            if path is None or path == "":
                continue
            try:
                files.append(self._look(_text(path)))
            except _Unfit as unfit:
                what = f"{field} names the file {excerpt(path)}, which {unfit}"
                return Rejected(row.line, Reason.BAD_FILE, what)
        if told := self._excess([file.size for file in files]):
            return Rejected(row.line, Reason.BAD_FILE, f"the row's files are too large: {told}")
        return msgspec.structs.replace(row, files=tuple(files)) if files else row

    def _looked_at(self, path: str) -> OwnFile:
        name = Path(path).name
        content = self._content(path)
        try:
            media_type = Attachment(filename=name, content=b"").media_type
        except AttachmentError as error:
            raise _Unfit(f"can't be attached: {error}") from None
        return OwnFile(
            digest=_digest(name, content),
            size=len(content),
            name=name,
            media_type=_UNTYPED if media_type.startswith(_COMPOSED) else media_type,
            path=path,
        )

    def _content(self, path: str, most: int | None = None) -> bytes:
        """What a file holds, at most so many bytes of it; None: all, if it isn't too large for a mail."""
        try:
            opened = self._open(path)
            try:
                size = _size(os.fstat(opened))
                if most is None and (told := self._excess([size])):
                    raise _Unfit(f"is too large: {told}")
                with open(opened, "rb", closefd=False) as file:
                    return file.read(size if most is None else most)
            finally:
                os.close(opened)
        except (OSError, ValueError) as error:  # a NUL, or what no file's name can be encoded from
            raise _Unfit(f"can't be read ({getattr(error, 'strerror', None) or error})") from None

    def _open(self, path: str) -> int:
        """A descriptor of it. Raises OSError, _Unfit."""
        if os.path.isabs(path):
            raise _Unfit("is an absolute path: give it as it is within the folder")
        real = Path(os.path.realpath(os.path.join(self._folder, path)))
        if not real.is_relative_to(self._folder):
            raise _Unfit(f"lies outside of {self._folder}")
        *folders, name = real.relative_to(self._folder).parts or (".",)
        inside = os.open(self._folder, _FOLDER)
        try:
            for folder in folders:
                outside, inside = inside, os.open(folder, _FOLDER, dir_fd=inside)
                os.close(outside)
            return os.open(name, _FILE, dir_fd=inside)
        finally:
            os.close(inside)

    def _excess(self, sizes: Sequence[int]) -> str:
        """By how much files of these sizes are too large for one mail; "": they aren't."""
        encoded = sum(map(base64_size, sizes))
        if encoded > self._room:
            return (
                f"encoded, {encoded:,} bytes would be attached, and size_limit leaves room for {self._room:,}"
            )
        if self._cap is not None and sum(sizes) > self._cap:
            return (
                f"of {sum(sizes):,} bytes only blob_cap = {self._cap:,} may be in Redis: raise it, or let "
                "`blobs` name a folder"
            )
        return ""


class _Contents(Mapping[str, bytes]):
    """Files by digest, none of which is in memory."""

    def __init__(self, files: Iterable[OwnFile], read: Callable[[OwnFile], bytes]) -> None:
        self._files = {file.digest: file for file in files if file.size}
        self._read = read

    def __getitem__(self, digest: str) -> bytes:
        return self._read(self._files[digest])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _text(path: object) -> str:
    if not isinstance(path, str):
        raise _Unfit(f"is of type {type(path).__name__}: give a text")
    return path


def _size(status: os.stat_result) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise _Unfit("is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _Unfit("is no regular file")
    return status.st_size


def _digest(name: str, content: bytes) -> str:
    return blob_digest(Attachment(filename=name, content=content))

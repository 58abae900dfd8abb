"""What a template consists of: its sources, and whatever they include, by name.

Everything is read here, once, in the process that has the files. A `Part` holds it all, so that it can be
compiled elsewhere, where the files aren't.

The rules:

1. A string is a template itself; a path is a file, or a name that the user's loader knows.
2. What is included is named in so many words: a name that is computed can't be resolved beforehand.
3. Whatever can't be read is told with the file and line that ask for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, cast

import msgspec
from jinja2 import BaseLoader, Environment, TemplateNotFound, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.loaders import split_template_path

from mailtasks.address import excerpt
from mailtasks.compose.template.sandbox import Sandbox
from mailtasks.errors import TemplateError

Given: TypeAlias = str | os.PathLike[str]
"""How a source is given: the template itself, or the path of a file."""

_Refers: TypeAlias = nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport
_REFERS: Final = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
_NO_TEXT: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f\ufdd0\ufdd1]"
)  # and two that mark places, see markup.py


class Source(msgspec.Struct, frozen=True, array_like=True):
    """One file, or a string that was given."""

    where: str  # as an error names it
    text: str


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A template and all that it includes, by the names under which it does."""

    entry: str
    sources: dict[str, Source]

    @property
    def main(self) -> Source:
        """What was given itself."""
        return self.sources[self.entry]

    def changed(self, change: Callable[[Source], str]) -> Part:
        """The same with other texts under the same names."""
        return Part(
            self.entry,
            {name: Source(one.where, change(one)) for name, one in self.sources.items()},
        )


Read: TypeAlias = Callable[[str], Source | None]
"""A source by its name; None: there is none."""


def read_part(what: str, given: Given, folder: Given | None, loader: BaseLoader | None) -> Part:
    """Read a template and all that it includes.

    Args:
        what: it is, as an error names it where it isn't a file.
        folder: where files are; None: where the given file is.
        loader: of the user's, instead of files.

    Raises:
        TemplateError: something isn't there, can't be read, or is no template.
    """
    read = _reader(given, folder, loader)
    if isinstance(given, str):
        entry, source = f"<{what}>", Source(what, given)  # no file is called so
    else:
        entry = _name(given, folder, loader)
        found = read(entry)
        if found is None:
            raise TemplateError(what, None, f"{str(given)!r} isn't there; check the path")
        source = found
    return Part(entry, _closure(entry, source, read))


def parse(environment: Environment, source: Source) -> nodes.Template:
    """The tree of a source.

    Raises:
        TemplateError: it is no template; with file and line.
    """
    try:
        return environment.parse(source.text, filename=source.where)
    except TemplateSyntaxError as error:
        raise syntax_error(source, error) from None
    except RecursionError:
        raise too_deep(source) from None


def syntax_error(source: Source, error: TemplateSyntaxError) -> TemplateError:
    """What Jinja2 says of a source, in one sentence."""
    told = " ".join((error.message or "it is no template").split()).rstrip(".")
    told = told.replace("Jinja was looking for the following tags:", "Expected")
    sentence = "; ".join([f"{part[:1].lower()}{part[1:]}" for part in re.split(r"\. (?=[A-Z])", told)])
    return TemplateError(source.where, error.lineno, f"{sentence}; mend the template there")


def too_deep(source: Source) -> TemplateError:
    """What neither Jinja2 nor Python can compile."""
    return TemplateError(source.where, None, "its loops and conditions are nested too deep; make it simpler")


def _closure(entry: str, source: Source, read: Read) -> dict[str, Source]:
    """The source, and all that it refers to, and so on."""
    environment = Sandbox(html=False)
    sources, waiting = {entry: source}, [source]
    while waiting:
        source = waiting.pop()
        _check_text(source)
        for node in _referring(parse(environment, source)):
            found = {name: sources.get(name) or read(name) for name in _names(source, node)}
            new = {name: one for name, one in found.items() if one is not None and name not in sources}
            if not any(found.values()) and not (isinstance(node, nodes.Include) and node.ignore_missing):
                missing = " or ".join(map(excerpt, found))
                raise TemplateError(
                    source.where,
                    node.lineno,
                    f"there is no template {missing}; check the name and the folder",
                )
            sources |= new
            waiting += new.values()
    return sources


def _referring(tree: nodes.Template) -> Iterator[_Refers]:
    return cast(Iterator[_Refers], tree.find_all(_REFERS))


def _names(source: Source, node: _Refers) -> list[str]:
    try:
        value = node.template.as_const()
    except nodes.Impossible:
        value = None
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TemplateError(
            source.where,
            node.lineno,
            "what is included is named by an expression, so that it can't be looked for beforehand; write "
            "its name, or choose by {% if %}",
        )
    return list(names)


def _check_text(source: Source) -> None:
    found = _NO_TEXT.search(source.text)
    if found:
        line = source.text.count("\n", 0, found.start()) + 1
        raise TemplateError(
            source.where, line, f"it holds {found[0]!r}, which no text does; see whether it is the right file"
        )


# Where sources come from


def _reader(given: Given, folder: Given | None, loader: BaseLoader | None) -> Read:
    if loader is not None:
        return _Loaded(loader).read
    if folder is not None:
        return _Files(Path(folder)).read
    return (lambda name: None) if isinstance(given, str) else _Files(Path(given).parent).read


def _name(given: os.PathLike[str], folder: Given | None, loader: BaseLoader | None) -> str:
    path = Path(given)
    return path.as_posix() if loader is not None or folder is not None else path.name


class _Loaded:
    """What a loader of the user's yields."""

    def __init__(self, loader: BaseLoader) -> None:
        self._loader = loader
        self._environment = Sandbox(html=False)

    def read(self, name: str) -> Source | None:
        try:
            text, filename, _ = self._loader.get_source(self._environment, name)
        except TemplateNotFound:
            return None
        except Exception as error:  # a loader may ask a database, or whatever it likes
            raise TemplateError(
                name, None, f"the loader can't read it: {type(error).__name__}: {error}; see to the loader"
            ) from error
        return Source(filename or name, text)


class _Files:
    """The files of a folder; nothing above it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Source | None:
        try:
            path = self._folder.joinpath(*split_template_path(name))
        except TemplateNotFound:
            return None
        try:
            octets = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TemplateError(str(path), None, f"it can't be read: {reason}; check the path") from error
        return Source(str(path), _decoded(path, octets))


def _decoded(path: Path, octets: bytes) -> str:
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise TemplateError(
            str(path), line, f"it isn't UTF-8 (octet {octets[error.start]:#04x}); save it as UTF-8"
        ) from None

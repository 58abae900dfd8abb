"""Write `docs/reference/python.md` from the docstrings of what `mailtasks` exports.

    python docs/make_python_page.py

A test fails while the page isn't what this would write.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import mailtasks
from mailtasks.contrib import flask
from mailtasks.contrib.django import send_template, signals, template_message
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.contrib.flask.state import AppMail
from mailtasks.mailer import Mailer
from mailtasks.message import Alternative, Attachment, Message, Priority
from mailtasks.settings import Settings
from mailtasks.sql import Keep, Moved, Outbox, OutboxRelay, OutboxStatus, RowAside, on_commit
from mailtasks.state import State
from mailtasks.status import (
    BlobStatus,
    Doubt,
    MessageStatus,
    QueueStatus,
    RecipientStatus,
    ResponseTimes,
    RetryReport,
    SetAside,
    Stats,
    Stray,
)
from mailtasks.store.suppressions import Suppressions
from mailtasks.suppression import Suppression, read, write
from mailtasks.tasks import SendMail

PAGE: Final = Path(__file__).parent / "reference" / "python.md"

INTRODUCTION: Final = """\
# Python

<!-- Written by docs/make_python_page.py from the docstrings: change those, not this page. -->

Everything here is imported from `mailtasks`, except where another module is named. Importing it starts
nothing and connects to nothing. Errors are one tree: `mailtasks/errors.py` draws it.
"""

ANSWERS: Final = "Plain data; what `mailtasks` doesn't export is in `mailtasks.status`."
TASK: Final = """\
`send_mail` is the Celery task `mailtasks.send_mail` of the app that was installed last, or of our own.
`send_mail.delay(**fields)` takes the fields of `Message`.
"""

SQL: Final = """\
From `mailtasks.sql`, which needs `pip install mailtasks[sqlalchemy]`; [how to use
it](../how-to/commit-and-send.md).
"""

FUNCTIONS: Final = (
    *("send", "asend", "send_many", "asend_many", "status", "astatus"),
    *("cancel", "retry", "default_mailer"),
)
METHODS: Final = (
    *("send", "asend", "send_many", "asend_many", "status", "astatus"),
    *("find", "failed", "aside", "stats", "queue", "attachments"),
    *("cancel", "retry", "in_doubt", "resend", "settle", "pause", "resume", "paused", "sweep", "close"),
)
LIST: Final = """\
`mailer.suppressions`; [how to use it](../how-to/suppression.md). `len(…)`, `address in …` and iterating
work on it. `Suppression`, `read` and `write` are in `mailtasks.suppression`.
"""

LIST_METHODS: Final = ("add", "update", "remove", "get")
OUTBOX_METHODS: Final = ("send", "asend", "status", "aside", "retry", "relay")
MAKERS: Final = (
    ("Alternative.calendar", Alternative),
    ("Attachment.from_path", Attachment),
    ("Attachment.from_part", Attachment),
)
RECORDS: Final = (
    *(MessageStatus, RecipientStatus, Stats, ResponseTimes, QueueStatus, SetAside, Doubt, Stray, BlobStatus),
    RetryReport,
)
ENUMS: Final = (Priority, State)


DJANGO: Final = """\
From `mailtasks.contrib.django`, which needs `pip install mailtasks[django]`; [how to use
it](../how-to/django.md).
"""

BACKEND: Final = "Its path is `mailtasks.contrib.django.backend.EmailBackend`."
SIGNALS: Final = "From `mailtasks.contrib.django.signals`."
FLASK: Final = """\
From `mailtasks.contrib.flask`, which needs `pip install mailtasks[flask]`; [how to use
it](../how-to/flask.md).
"""

CALLS: Final = ("send", "send_message", "connect", "record_messages")
MAILMANS_CALLS: Final = ("get_connection", "send_mail", "send_mass_mail")
FLASKS: Final = (
    (flask.Mail, ("init_app", *CALLS, *MAILMANS_CALLS)),
    (flask.MailState, ()),
    (AppMail, ()),
    (flask.Message, ("add_recipient", "attach", "mailable", "as_bytes", "as_string")),
    (flask.Attachment, ()),
    (flask.Connection, ("send", "send_message", "send_messages")),
    (flask.EmailMessage, ("attach", "attach_file", "message", "send")),
    (flask.EmailMultiAlternatives, ("attach_alternative",)),
)


def page() -> str:
    """The whole page."""
    return "\n".join(_sections())


def _sections() -> Iterator[str]:
    yield INTRODUCTION
    yield "## Functions\n\nEach is the method of that name of one default `Mailer`.\n"
    yield from (_function(name, getattr(mailtasks, name)) for name in FUNCTIONS)
    yield _class(Mailer)
    yield from (_function(name, getattr(Mailer, name)) for name in METHODS)
    yield _class(Message)
    yield _function("Message.copies", Message.copies)
    yield _record(Alternative)
    yield _record(Attachment)
    yield from (_function(name, getattr(owner, name.partition(".")[2])) for name, owner in MAKERS)
    yield f"## Settings\n\n{_text(Settings)}\n[All of them](settings.md).\n"
    yield _function("Settings.load", Settings.load)
    yield f"## Answers\n\n{ANSWERS}\n"
    yield from map(_record, RECORDS)
    yield from map(_enum, ENUMS)
    yield f"## The suppression list\n\n{LIST}"
    yield from (_function(name, getattr(Suppressions, name)) for name in LIST_METHODS)
    yield _record(Suppression)
    yield _function("read", read)
    yield _function("write", write)
    yield f"## The task\n\n{TASK}"
    yield _function("send_mail.apply_async", SendMail.apply_async)
    yield f"## With a database transaction\n\n{SQL}"
    yield _function("on_commit", on_commit)
    yield _class(Outbox)
    yield from (_function(name, getattr(Outbox, name)) for name in OUTBOX_METHODS)
    yield from (_function(name, getattr(OutboxRelay, name)) for name in ("run", "drain", "stop"))
    yield from map(_record, (Moved, OutboxStatus, RowAside))
    yield _enum(Keep)
    yield f"## Django\n\n{DJANGO}"
    yield _function("send_template", send_template)
    yield _function("template_message", template_message)
    yield f"{_class(EmailBackend, '###')}\n{BACKEND}\n"
    yield f"### Signals\n\n{SIGNALS}\n"
    yield from _constants(signals)
    yield f"## Flask\n\n{FLASK}"
    for cls, methods in FLASKS:
        yield _class(cls, "###")
        yield from (_function(f"{cls.__name__}.{name}", getattr(cls, name), "####") for name in methods)


def _function(name: str, function: Callable[..., Any], level: str = "###") -> str:
    return f"{level} {name}\n\n```text\n{_signature(name, function)}\n```\n\n{_text(function)}"


def _class(cls: type, level: str = "##") -> str:
    made = f"```text\n{_signature(cls.__name__, cls.__init__)}\n```\n\n" if "__init__" in vars(cls) else ""
    return f"{level} {cls.__name__}\n\n{made}{_text(cls)}"


def _constants(module: ModuleType) -> Iterator[str]:
    """Those that are told in a docstring beneath."""
    for one, below in pairwise(ast.parse(inspect.getsource(module)).body):
        if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr):
            yield f"#### {ast.unparse(one.target)}\n\n{inspect.cleandoc(ast.literal_eval(below.value))}\n"


def _record(cls: type) -> str:
    lines = inspect.getsource(cls).partition('"""\n\n')[2].splitlines()
    fields = [re.sub(r" = field\(.*\)$", "", line.strip()) for line in lines if re.match(r"    \w+: ", line)]
    return f"### {cls.__name__}\n\n{_text(cls)}\n```text\n" + "\n".join(fields) + "\n```\n"


def _enum(cls: type[Enum]) -> str:
    values = ", ".join(f'`"{member.value}"`' for member in cls)
    return f"### {cls.__name__}\n\n{_text(cls)}\n{values}\n"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """As the source has it, but for self: defaults in words, and not this machine's values of them."""
    source = re.sub(r"  # .*", "", textwrap.dedent(inspect.getsource(function)))
    found = re.search(r"def \w+\((.*?)\)( -> .*?)?:\n", source, re.DOTALL)
    assert found, f"{name} has no signature that can be read"
    parameters = re.sub(r"^(\s*)(self|cls)(, |,\n\s*|$)", r"\1", found[1])
    return f"{name}({parameters}){found[2] or ''}".removesuffix(" -> None")


def _text(thing: Any) -> str:
    """A docstring as Markdown: `Args:` and its like become lists."""
    lines = inspect.cleandoc(thing.__doc__ or "").splitlines()
    return "\n".join(map(_line, _unfolded(lines))) + "\n"


def _unfolded(lines: list[str]) -> Iterator[str]:
    """Items on one line each."""
    item = ""
    for line in lines:
        if item and re.match(r"    +", line) and (line.startswith("        ") or not re.match(_ITEM, line)):
            item = f"{item} {line.strip()}"
            continue
        if item:
            yield item
        item = line if line.startswith("    ") else ""
        if not item:
            yield line
    if item:
        yield item


_ITEM: Final = r"    (\*{0,2}\w+(?:, \w+)*): (.*)"


def _line(line: str) -> str:
    if re.fullmatch(r"(Args|Attributes|Returns|Raises):", line):
        return f"{line}\n"
    if match := re.fullmatch(_ITEM, line):
        return f"- `{match[1]}`: {match[2]}"
    return f"- {line.strip()}" if line.startswith("    ") else line


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

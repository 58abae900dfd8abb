"""`docs/how-to/moving.md`: every name of ours that its tables give is there.

What stands in backticks in the second and third column must be ours, by one of `KINDS`, or be listed below as
somebody else's. So a setting, a field or a command that is renamed here makes the page wrong, and this fail.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import pytest
from _pytest.fixtures import FixtureFunctionDefinition
from flask import Flask

import mailtasks
import mailtasks.contrib.flask as for_flask
from mailtasks.cli import group
from mailtasks.contrib.django import conf
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.errors import SettingsError
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.relay import Relay
from mailtasks.settings import SETTINGS
from mailtasks.state import State
from mailtasks.testing import plugin

ROOT = Path(mailtasks.__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "moving.md"
THEIRS = frozenset(
    {
        *("MAILERS", "using=", "html_message=", "send_messages", "message()", "fail_silently"),  # Django's
        *("task_annotations", "EmailMessage", "email", "read()", "UploadFile", "AssertionError", "file"),
        *("html=template.render(…)", "{{ name }}", "{{ city }}"),
        *("The Shop <shop@example.com>", "Ann <ann@example.com>", 'app.extensions["mail"]'),
        # of the mailer that is spoken of: what there is no such thing as
        *("auth_user", "auth_password", "locmem", "console", "messageId", "date", "requireTLS", "now"),
        *("(message, app=…)", "(app, message=…)", "message"),  # how receivers are called
    }
)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Whose it is, what is there, what is here, what differs."""
    for section in re.split("^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
            there, here, differs = re.split(r" \| ", line)
            if there != "there" and not there.startswith("---"):
                yield title, there, here, differs


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = list(rows())
NAMED = sorted({span for _, _, here, differs in ROWS for span in (*spans(here), *spans(differs))})


# --- What is ours


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def attributes() -> set[str]:
    """Fields and methods that people write down by their bare names."""
    kinds = mailtasks.Message, mailtasks.Template, mailtasks.CampaignOptions, RetryPolicy, Relay
    methods = {name for name in dir(mailtasks.Mailer) if not name.startswith("_")}
    options = set(inspect.signature(EmailBackend.__init__).parameters)
    return {name for kind in kinds for name in fields(kind)} | methods | options


NAMES = {
    "a setting": set(SETTINGS),
    "a state": set(State),
    "a priority": set(mailtasks.Priority),
    "a field or method": attributes(),
    "what mailtasks has": set(mailtasks.__all__),
    "what mailtasks.sql has": {"on_commit", "Outbox"},
    "what templates know": {"unsubscribe_url"},
    "what a message of Django's or Flask's gets": {"mailtasks_ids"},
    "a setting of Celery's that we read": {"rate_limit", "max_retries", "default_retry_delay"},
}


def is_command(span: str) -> bool:
    words = span.split()
    if words[0] != "mailtasks" or len(words) < 2:
        return False
    command: click.Command | None = group
    options: set[str] = set()
    for word in words[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            command = command.get_command(click.Context(command), word)
        if command is None:
            return False
        options |= {spelling for option in command.params for spelling in option.opts}
    return {word for word in words if word.startswith("-")} <= options


def is_importable(span: str) -> bool:
    module, _, name = span.rpartition(".")
    try:
        return module.startswith("mailtasks") and hasattr(__import__(module, fromlist=[name]), name)
    except ImportError:
        return False


def is_call(span: str) -> bool:
    """`Message(to=…, text=…)`, `await asend(message)`, `send_mail.delay(…)`, `Attachment.from_path`."""
    found = re.fullmatch(r"(?:await )?(\w+)(?:\.(\w+))?(?:\((.*)\))?", span)
    if not found or not hasattr(mailtasks, found[1]):
        return False
    called, attribute = getattr(mailtasks, found[1]), found[2]
    if attribute:
        return hasattr(called, attribute)
    given = set(re.findall(r"(\w+)=", found[3] or ""))
    return given <= (fields(called) if dataclasses.is_dataclass(called) else given)


def is_setting_of_a_framework(span: str) -> bool:
    found = re.fullmatch(r'MAILTASKS\["(\w+)"\]', span)
    return bool(found and (found[1] == conf.ON_COMMIT or found[1].lower() in SETTINGS))


def is_relay(span: str) -> bool:
    if option := re.fullmatch(r"(\w+)=(none|required)", span):
        return option[1] in fields(Relay)
    if not span.startswith(("smtp://", "smtps://")):
        return False
    try:
        return span.endswith("…") or bool(mailtasks.Settings(relay=span))
    except SettingsError:
        return False


def is_backend(span: str) -> bool:
    found = re.fullmatch(r'EMAIL_BACKEND = "(.+)"', span)
    return bool(found and is_importable(found[1]))


def is_signal(span: str) -> bool:
    return is_importable(f"mailtasks.contrib.django.signals.{span}")


def is_of_flask(span: str) -> bool:
    """What its users know by name: classes, calls, attributes, configuration."""
    if re.match(r"MAIL_\w+", span):
        sources = (ROOT / "mailtasks" / "contrib" / "flask").glob("*.py")
        return any(f'"{span.split()[0]}"' in file.read_text(encoding="utf-8") for file in sources)
    if made := re.fullmatch(r"Message\(([\w, ]+)\)", span):
        return set(made[1].split(", ")) <= set(inspect.signature(for_flask.Message).parameters)
    name = re.sub(r"^(with )?(mail|message|connection)\.|\(.*", "", span)
    state = for_flask.Mail(app := Flask("shop")).init_app(app)
    known = (
        for_flask,
        for_flask.Mail,
        state,
        for_flask.Connection,
        for_flask.Message("x"),
        for_flask.EmailMessage,
    )
    return any(hasattr(one, name) for one in known)


def is_error(span: str) -> bool:
    return is_importable(f"mailtasks.errors.{span}")


KINDS: Mapping[str, Callable[[str], bool]] = {
    "a name": lambda span: any(span in names for names in NAMES.values()),
    "a command": is_command,
    "importable": is_importable,
    "a call": is_call,
    "a setting of Django's": is_setting_of_a_framework,
    "a relay's URL": is_relay,
    "a backend": is_backend,
    "a signal": is_signal,
    "an error": is_error,
    "a fixture": lambda span: isinstance(getattr(plugin, span, None), FixtureFunctionDefinition),
}
FLASK = ("Flask-Mail", "Flask-Mailman")


def is_ours(span: str) -> bool:
    return any(fits(span) for fits in KINDS.values())


@pytest.mark.parametrize("span", NAMED)
def test_what_is_named_is_there(span: str) -> None:
    of_flask = any(title in FLASK and f"`{span}`" in here + differs for title, _, here, differs in ROWS)
    assert span in THEIRS or is_ours(span) or (of_flask and is_of_flask(span))


@pytest.mark.parametrize(
    "span",
    [
        there
        for title, cell, here, _ in ROWS
        if title in FLASK and "the same" in here
        for there in spans(cell)
    ],
)
def test_what_is_said_to_be_the_same_in_flask_is_there(span: str) -> None:
    assert is_of_flask(span)


def test_what_is_said_to_be_the_same_elsewhere_has_the_same_name() -> None:
    same = {
        span
        for title, there, here, _ in ROWS
        if title not in FLASK and here.startswith("the same")
        for span in spans(there)
        if span not in ("CELERY_EMAIL_TASK_CONFIG",)
    }
    assert len(same) > 8
    assert {span for span in same if not is_ours(span)} == set()


def test_nobody_is_named_who_needs_no_mention() -> None:
    assert {span for span in THEIRS if span not in NAMED} == set()


@pytest.mark.parametrize(
    "span",
    [
        "no_such_setting",
        "mailtasks nothing",
        "mailtasks worker --nothing",
        "mailtasks campaign nothing",
        "mailtasks.contrib.django.nothing",
        "Message(nothing=…)",
        "await anothing(message)",
        "Attachment.from_nothing",
        'MAILTASKS["NOTHING"]',
        "smtp://USER:PASSWORD@HOST:port",
        'EMAIL_BACKEND = "mailtasks.contrib.django.backend.Nothing"',
        "message_nothing",
    ],
)
def test_a_name_that_isnt_there_would_be_noticed(span: str) -> None:
    assert not is_ours(span)


@pytest.mark.parametrize("span", ["MAIL_NOTHING", "Message(nothing)", "mail.nothing(message)", "Nothing"])
def test_nor_one_of_flask(span: str) -> None:
    assert not is_of_flask(span)

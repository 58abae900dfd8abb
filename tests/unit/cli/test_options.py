from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
import pytest

from mailtasks.cli import options


def read(callback, given):
    context = click.Context(click.Command("x"))
    return callback(context, click.Option(["--x"]), given)


def test_moment():
    moment = read(options.moment, "2030-01-31T09:00+01:00")
    assert moment == datetime(2030, 1, 31, 9, tzinfo=timezone(timedelta(hours=1)))
    assert read(options.moment, "2030-01-31T09:00Z").utcoffset() == timedelta(0)


@pytest.mark.parametrize(("given", "value"), [("90", 90), ("15m", 900), ("2h", 7200)])
def test_seconds(given, value):
    assert read(options.seconds, given) == value


def test_a_moment_needs_an_offset():
    with pytest.raises(click.BadParameter, match="has no offset from UTC; add one"):
        read(options.moment, "2030-01-31T09:00")


@pytest.mark.parametrize("given", ["0" * 27 + ".0", "0" * 27])
def test_a_message_id(given):
    assert read(options.message_id, given) == given


def test_a_folder_is_made(tmp_path):
    assert read(options.folder, tmp_path / "a" / "b").is_dir()


def test_a_folder_that_can_not_be_made():
    with pytest.raises(click.BadParameter, match=r"'/dev/null/mail' can't be made: Not a directory"):
        read(options.folder, Path("/dev/null/mail"))


def test_a_folder_that_can_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(options.os, "access", lambda path, mode: False)
    with pytest.raises(click.BadParameter, match="can't be written to; name another folder"):
        read(options.folder, tmp_path)


def test_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("ä", encoding="utf-8")
    assert read(options.content, str(path)) == "ä"


@pytest.mark.parametrize(
    "callback", [options.moment, options.seconds, options.content, options.message_id, options.folder]
)
def test_an_option_that_is_not_given_is_none(callback):
    assert read(callback, None) is None


def test_pairs():
    assert read(options.pairs(":"), ("X-A: b: c", "X-D:")) == {"X-A": "b: c", "X-D": ""}
    assert read(options.pairs("="), ()) == {}


@pytest.mark.parametrize("given", ["a", "=b", " =b"])
def test_what_is_no_pair(given):
    with pytest.raises(click.BadParameter, match=f"'{given}' is not NAME=VALUE"):
        read(options.pairs("="), (given,))

from datetime import datetime, timedelta, timezone

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


def test_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("ä", encoding="utf-8")
    assert read(options.content, str(path)) == "ä"


@pytest.mark.parametrize("callback", [options.moment, options.seconds, options.content])
def test_an_option_that_is_not_given_is_none(callback):
    assert read(callback, None) is None


def test_pairs():
    assert read(options.pairs(":"), ("X-A: b: c", "X-D:")) == {"X-A": "b: c", "X-D": ""}
    assert read(options.pairs("="), ()) == {}


@pytest.mark.parametrize("given", ["a", "=b", " =b"])
def test_what_is_no_pair(given):
    with pytest.raises(click.BadParameter, match=f"'{given}' is not NAME=VALUE"):
        read(options.pairs("="), (given,))

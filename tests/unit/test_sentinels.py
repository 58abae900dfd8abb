"""Sentinels in one URL: what is read from it, what it is for Celery, and what is wrong with a wrong one."""

from __future__ import annotations

import pytest

from mailtasks.sentinels import Sentinels, are_named, parse_sentinels, with_celerys_options

FULL = (
    "sentinel://ann:p%3Bw@a:1;sentinel://[::1]:26379/3"
    "?master_name=mymaster&sentinel_username=bob&sentinel_password=s%20w"
)


def test_all_that_a_url_can_say() -> None:
    sentinels = parse_sentinels(FULL)
    assert sentinels == Sentinels(
        hosts=(("a", 1), ("::1", 26379)),
        master_name="mymaster",
        database=3,
        username="ann",
        password="p;w",
        sentinel_username="bob",
        sentinel_password="s w",
    )
    assert sentinels.url == FULL
    assert sentinels.sentinel_login == {"username": "bob", "password": "s w"}


def test_as_little_as_a_url_can_say() -> None:
    sentinels = parse_sentinels("sentinel://a?master_name=m")
    assert sentinels == Sentinels(hosts=(("a", 26379),), master_name="m")
    assert sentinels.url == "sentinel://a:26379/0?master_name=m"
    assert sentinels.celerys_url == "sentinel://a:26379/0"
    assert sentinels.sentinel_login == {}


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:pw@a/1;sentinel://:pw@b/1?master_name=m",
        "sentinel://a?master_name=m;sentinel://:pw@b/1",
        "sentinel://:pw@a:26379;sentinel://b:26379/1?master_name=m",
    ],
)
def test_what_is_said_at_one_is_said_for_all(url: str) -> None:
    sentinels = parse_sentinels(url)
    assert sentinels.url == "sentinel://:pw@a:26379;sentinel://b:26379/1?master_name=m"
    assert parse_sentinels(sentinels.url) == sentinels
    assert sentinels.celerys_url == "sentinel://:pw@a:26379/1;sentinel://:pw@b:26379/1"


def test_people_are_shown_no_password() -> None:
    assert parse_sentinels(FULL).shown == "mymaster/3 of the sentinels a:1, [::1]:26379"
    assert "p;w" not in repr(parse_sentinels(FULL))
    assert "s w" not in repr(parse_sentinels(FULL))


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("sentinel://a", "it doesn't say what its sentinels call the master; add ?master_name=NAME"),
        (
            "sentinel://a?master_name=",
            "it doesn't say what its sentinels call the master; add ?master_name=NAME",
        ),
        (
            "sentinel://a?master_name=x%20y",
            "it doesn't say what its sentinels call the master; add ?master_nam",
        ),
        (
            "sentinel://a;b?master_name=m",
            "each sentinel begins with sentinel://, after a semicolon (in a passwor",
        ),
        (
            "sentinel://a;",
            "each sentinel begins with sentinel://, after a semicolon (in a password, write %3B)",
        ),
        ("sentinel://?master_name=m", "it names a sentinel without a host"),
        ("sentinel://a/x?master_name=m", "its database is no number"),
        ("sentinel://a:x?master_name=m", "its host or port can't be read"),
        ("sentinel://a/1;sentinel://b/2?master_name=m", "its sentinels differ in database; say it once"),
        ("sentinel://:x@a;sentinel://:y@b?master_name=m", "its sentinels differ in password; say it once"),
        ("sentinel://a?master_name=m;sentinel://b?master_name=n", "its sentinels differ in master_name; say"),
        (
            "sentinel://a?master_name=m&ssl_cert_reqs=none",
            "it holds an option other than master_name, sentinel_username, sentinel_password",
        ),
    ],
)
def test_wrong_ones(url: str, wrong: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (its text is compared)
        parse_sentinels(url)
    assert str(raised.value).startswith(wrong)


def test_celerys_own_notation() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": "s"}, "socket_timeout": 5}
    assert with_celerys_options("sentinel://:pw@a/1;sentinel://:pw@b/1", options) == (
        "sentinel://:pw@a:26379;sentinel://b:26379/1?master_name=m&sentinel_password=s"
    )
    assert with_celerys_options("sentinel://a?master_name=n", {}) == "sentinel://a:26379/0?master_name=n"


@pytest.mark.parametrize(("url", "named"), [("sentinel://a", True), ("redis://a", False), (None, False)])
def test_are_named(url: object, named: bool) -> None:
    assert are_named(url) is named

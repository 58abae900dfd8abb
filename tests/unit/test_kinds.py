import pytest

from mailtasks.kinds import (
    BlobsUrl,
    Choice,
    Duration,
    Flag,
    Login,
    MailAddress,
    RedisUrl,
    RelayUrl,
    Text,
    Whole,
)

WHOLE = Whole(0, 1000)
DURATION = Duration(0.5)
TEXT = Text("[a-z]+", "letters")
REDIS = RedisUrl(("redis", "unix"))
WATCHED = RedisUrl(("redis", "sentinel"))


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (WHOLE, 0, 0),
        (WHOLE, "1000", 1000),
        (DURATION, 60, 60),
        (DURATION, 0.5, 0.5),
        (DURATION, "1.5", 1.5),
        (DURATION, "90s", 90),
        (DURATION, "15m", 900),
        (DURATION, "2h", 7200),
        (DURATION, "0.5d", 43200.0),
        (DURATION, "3650d", 315_360_000),
        (Flag(), True, True),
        (Flag(), "Yes", True),
        (Flag(), "0", False),
        (Choice(("a", "b")), "b", "b"),
        (TEXT, "abc", "abc"),
        (MailAddress(), "The Shop <shop@example.com>", "The Shop <shop@example.com>"),
        (REDIS, "redis://h:1/2", "redis://h:1/2"),
        (REDIS, "redis://", "redis://"),
        (REDIS, "redis://h?password=pw&db=2", "redis://h?password=pw&db=2"),
        (REDIS, "unix:///run/r.sock?db=2", "unix:///run/r.sock?db=2"),
        (
            WATCHED,
            "sentinel://h;sentinel://i/1?master_name=m",
            "sentinel://h:26379;sentinel://i:26379/1?master_name=m",
        ),
        (Login(), "ann:p:w", "ann:p:w"),
    ],
)
def test_read(kind, given, value):
    read = kind.read(given)
    assert (read, type(read)) == (value, type(value))
    assert kind.read(read) == read


def test_a_relay_is_read_to_itself():
    relay = RelayUrl().read("smtp://localhost")
    assert RelayUrl().read(relay) is relay


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (WHOLE, -1),
        (WHOLE, 1001),
        (WHOLE, 1.0),
        (WHOLE, "1.5"),
        (WHOLE, True),
        (WHOLE, "1_0"),
        (WHOLE, "١"),
        (WHOLE, "9" * 5000),
        (WHOLE, None),
        (DURATION, 0.4),
        (DURATION, "3651d"),
        (DURATION, 315_360_001),
        (DURATION, "-1s"),
        (DURATION, ""),
        (DURATION, "s"),
        (DURATION, "1 h"),
        (DURATION, "1w"),
        (DURATION, True),
        (DURATION, float("nan")),
        (DURATION, float("inf")),
        (DURATION, "nan"),
        (DURATION, []),
        (Flag(), 1),
        (Flag(), "ja"),
        (Flag(), {}),
        (Choice(("a", "b")), "c"),
        (Choice(("a", "b")), ["a"]),
        (TEXT, "abc\n"),
        (MailAddress(), "The Shop"),
        (MailAddress(), None),
        (TEXT, ""),
        (TEXT, 5),
        (REDIS, "rediss://h"),
        (REDIS, "redis://h/mail"),
        (REDIS, "redis://h/0/1"),
        (REDIS, "redis://h?ssl_cert_req=none"),
        (REDIS, "redis://h?=1"),
        (REDIS, "redis://h/٣"),
        (REDIS, "redis://h:x"),
        (REDIS, b"redis://h"),
        (REDIS, "sentinel://h/0?master_name=m"),
        (WATCHED, "sentinel://h/0"),
        (RelayUrl(), "smtp:localhost"),
        (Login(), "ann:"),
        (Login(), ":pw"),
        (Login(), "ann:p w"),
        (Login(), None),
    ],
)
def test_refuse(kind, given):
    with pytest.raises(ValueError):  # noqa: PT011  (its text belongs to the setting's sentence)
        kind.read(given)


def test_what_is_expected():
    assert WHOLE.expected == "a whole number from 0 to 1000"
    assert Whole(1).expected == "a whole number of at least 1"
    assert DURATION.expected.startswith("seconds, at least 0.5, at most 3650 days, as ")
    assert Choice(("a", "b")).expected == '"a" or "b"'
    assert REDIS.expected == "a URL such as redis://:PASSWORD@HOST:6379/0 (redis:// or unix://)"
    assert WATCHED.expected == (
        "a URL such as redis://:PASSWORD@HOST:6379/0 or "
        "sentinel://:PASSWORD@HOST1:26379;sentinel://HOST2:26379/0?master_name=NAME (redis:// or sentinel://)"
    )


def test_only_what_may_hold_a_password_is_secret():
    assert [kind.secret for kind in (WHOLE, DURATION, Flag(), Choice(("a",)), TEXT)] == [False] * 5
    assert [kind.secret for kind in (REDIS, RelayUrl(), Login())] == [True] * 3


def test_show_masks():
    assert WHOLE.show(5) == 5
    assert REDIS.show("redis://:pw@h/0") == "redis://:***@h/0"
    watched = "sentinel://:pw@h:1;sentinel://i:1/0?master_name=m&sentinel_password=pw"
    assert WATCHED.show(watched) == watched.replace("pw", "***")
    assert RelayUrl().show(RelayUrl().read("smtp://a:pw@h")) == "smtp://a:***@h:587?tls=required"
    assert Login().show("ann:pw") == "***"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis", "redis"),
        ("file:///srv/blobs", "file:///srv/blobs"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("sftp://ann:pw@host/x", "sftp://ann:***@host/x"),
        ("gs://b?token=abc&x=1&SECRET_key=d", "gs://b?token=***&x=1&SECRET_key=***"),
    ],
)
def test_where_attachments_are_stored(given, shown):
    assert BlobsUrl().read(given) == given
    assert BlobsUrl().show(given) == shown


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("", "it is no URL"),
        (7, "it is no URL"),
        ("/srv/blobs", "it is no URL"),
        ("file://srv/blobs", "a folder is given by its whole path, after three slashes"),
        ("redis://host/0", "the Redis that holds attachments is that of the ledger"),
    ],
)
def test_where_no_attachments_are_stored(given, wrong):
    with pytest.raises(ValueError, match=rf"^{wrong}$"):
        BlobsUrl().read(given)

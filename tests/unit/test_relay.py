import pytest

from mailtasks.errors import SettingsError
from mailtasks.relay import Relay, either, is_loopback, mask_url


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [
        ("smtp://mail.example.com", 587, "required"),
        ("smtp://mail.example.com:2525", 2525, "required"),
        ("smtp://mail.example.com?tls=none", 587, "none"),
        ("smtp://mail.example.com/?tls=required", 587, "required"),
        ("smtp://localhost", 25, "none"),
        ("smtp://127.0.0.9", 25, "none"),
        ("smtp://[::1]", 25, "none"),
        ("smtp://localhost?tls=required", 25, "required"),
        ("smtps://mail.example.com", 465, "implicit"),
        ("smtps://localhost?tls=required", 465, "implicit"),
    ],
)
def test_port_and_tls(url, port, tls):
    relay = Relay.parse(url)
    assert (relay.port, relay.tls) == (port, tls)


def test_user_and_password_are_percent_decoded():
    relay = Relay.parse("smtp://ann%40example.com:p%2Fw%3A%23+@mail.example.com")
    assert (relay.username, relay.password) == ("ann@example.com", "p/w:#+")


def test_without_a_login():
    relay = Relay.parse("smtp://mail.example.com")
    assert (relay.username, relay.password) == (None, None)


def test_a_ca_file(tmp_path):
    ca = tmp_path / "our+ca.pem"
    ca.write_text("certificate")
    relay = Relay.parse(f"smtp://mail.example.com?tls=required&ca={ca}")
    assert relay.ca == str(ca)
    assert relay.url_masked == f"smtp://mail.example.com:587?tls=required&ca={ca}"


@pytest.mark.parametrize(
    ("url", "name"), [("smtp://A.example:25", "a.example:25"), ("smtp://[::1]:2525", "[::1]:2525")]
)
def test_name(url, name):
    assert Relay.parse(url).name == name


def test_the_password_is_not_shown():
    relay = Relay.parse("smtps://ann:hunter2@mail.example.com")
    assert str(relay) == relay.url_masked == "smtps://ann:***@mail.example.com:465"
    assert "hunter2" not in repr(relay)


def test_the_masked_url_of_a_relay_without_secrets_says_the_same():
    relay = Relay.parse("smtp://[::1]:2525")
    assert Relay.parse(relay.url_masked) == relay


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        (5, "it is no text"),
        ("mail.example.com", "it doesn't begin with smtp:// or smtps://"),
        ("http://mail.example.com", "it doesn't begin with smtp:// or smtps://"),
        ("smtp://mail.example.com\n", "it holds a space or a control character"),
        ("smtp://", "it names no host"),
        ("smtp://ann:pw@", "it names no host"),
        ("smtp://mail.example.com/inbox", "it holds a path"),
        ("smtp://ann@mail.example.com", "it holds a user without a password, or a password without a user"),
        ("smtp://:pw@mail.example.com", "it holds a user without a password, or a password without a user"),
        ("smtp://ann:p%00w@mail.example.com", "its user or password holds a NUL"),
        ("smtp://mail.example.com?TLS=none", "it holds an option other than tls and ca"),
        ("smtp://mail.example.com?tls=none&tls=required", "it says an option twice"),
        ("smtp://mail.example.com?tls=maybe", "its tls is neither required nor none"),
        ("smtp://mail.example.com?tls=", "its tls is neither required nor none"),
        ("smtps://mail.example.com?tls=none", "it says tls=none, and smtps:// is TLS from the first byte"),
        ("smtp://localhost?ca=/x", "it names a ca file and uses no TLS (add tls=required, or leave ca out)"),
        ("smtps://localhost?ca=/no/such", "its ca file '/no/such' can't be read (No such file or directory)"),
    ],
)
def test_what_is_refused(url, wrong):
    with pytest.raises(SettingsError) as caught:
        Relay.parse(url)
    assert str(caught.value) == (
        f"relay: {wrong}; expected a URL such as smtp://USER:PASSWORD@HOST:587, smtps://HOST or smtp://HOST?tls=none"
    )


@pytest.mark.parametrize(
    "url",
    [
        "smtp://mail.example.com:port",
        "smtp://mail.example.com:0",
        "smtp://mail.example.com:65536",
        "smtp://[::1",
        "smtp://ann:p/w@mail.example.com",
        "smtp://ann:p#w@mail.example.com",
        "smtp://ann:p@w@mail.example.com",
    ],
)
def test_a_host_or_port_that_cannot_be_read_says_how_to_write_a_password(url):
    with pytest.raises(SettingsError, match=r"its host or port can't be read \(in a password, write / \? #"):
        Relay.parse(url)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "localhost.example.com", "10.0.0.1", "::"])
def test_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://ann:pw@h/0", "redis://ann:***@h/0"),
        ("redis://pw@h/0", "redis://***@h/0"),
        ("unix:///s?password=pw&db=1", "unix:///s?password=***&db=1"),
        ("rediss://h?ssl_keyfile_password=pw", "rediss://h?ssl_keyfile_password=***"),
        ("redis://h?PASSWORD=pw", "redis://h?PASSWORD=***"),
    ],
)
def test_mask_url(url, masked):
    assert mask_url(url) == masked


def test_either():
    assert [either("a"), either("ab"), either("abc")] == ["a", "a or b", "a, b or c"]

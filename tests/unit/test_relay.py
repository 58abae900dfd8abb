import dataclasses

import pytest
import trustme

from mailtasks.errors import SettingsError
from mailtasks.relay import OPTIONS, Relay, either, is_loopback, mask_url

OPTIONS_NAMED = "tls, ca, cert, key, auth, token, token_command, token_timeout, local, hello and chunking"


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with `our+ca.pem`, and our own `cert.pem`, which holds the key, too, and `key.pem`."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "our+ca.pem"))
    mine = authority.issue_cert("worker.example")
    mine.private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
    mine.private_key_pem.write_to_path(str(folder / "key.pem"))
    return folder


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
        ("lmtp://mail.example.com", 24, "required"),
        ("lmtp://mail.example.com:2003?tls=none", 2003, "none"),
        ("lmtp://localhost", 24, "none"),
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


def test_a_ca_file(pem):
    ca = pem / "our+ca.pem"
    relay = Relay.parse(f"smtp://mail.example.com?tls=required&ca={ca}")
    assert relay.ca == str(ca)
    assert relay.url_masked == f"smtp://mail.example.com:587?tls=required&ca={ca}"


def test_a_certificate_of_ours(pem):
    relay = Relay.parse(f"smtps://mail.example.com?cert={pem}/cert.pem&key={pem}/key.pem")
    assert (relay.cert, relay.key) == (f"{pem}/cert.pem", f"{pem}/key.pem")
    assert Relay.parse(f"smtps://mail.example.com?cert={pem}/cert.pem").key is None


def test_a_key_that_does_not_fit_is_told_when_the_url_is_read(pem, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("other.example").private_key_pem.write_to_path(str(other))
    with pytest.raises(SettingsError, match="holds a key that doesn't fit the certificate in"):
        Relay.parse(f"smtps://mail.example.com?cert={pem}/cert.pem&key={other}")


def test_a_file_without_a_certificate_is_told_when_the_url_is_read(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SettingsError, match=r"its ca file '.*' holds no certificate"):
        Relay.parse(f"smtps://mail.example.com?ca={tmp_path}/ca.pem")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://ann@h?token=shop.mail:token", {"username": "ann", "token": "shop.mail:token"}),
        ("smtp://ann@h?token_command=tool%20-v%20%27a+b%27", {"token_command": ("tool", "-v", "a+b")}),
        ("smtps://h?auth=oauthbearer&token=a:b", {"username": None, "auth": "oauthbearer"}),
        ("smtp://ann@localhost?token=a:b&token_timeout=2.5", {"tls": "none", "token_timeout": 2.5}),
        ("smtp://ann:pw@h?auth=cram-md5", {"auth": "cram-md5", "password": "pw"}),
        ("smtp://h?local=10.0.0.5&hello=me.example", {"local": "10.0.0.5", "hello": "me.example"}),
        ("smtp://[2001:db8::1]?local=2001:db8::2", {"local": "2001:db8::2"}),
        ("smtp://h?chunking=yes", {"chunking": "yes"}),
        ("smtp://h?chunking=no", {"chunking": "no"}),
        ("smtp://h", {"chunking": "no"}),
        ("lmtp://h?chunking=no", {"chunking": "no"}),
    ],
)
def test_options(url, expected):
    relay = Relay.parse(url)
    assert {name: getattr(relay, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "logs_in", "has_token"),
    [
        ("smtp://h", False, False),
        ("smtp://ann:pw@h", True, False),
        ("smtp://ann@h?token=a:b", True, True),
        ("smtp://h?token_command=tool&auth=oauthbearer", True, True),
    ],
)
def test_whether_it_logs_in_and_with_what(url, logs_in, has_token):
    relay = Relay.parse(url)
    assert (relay.logs_in, relay.has_token) == (logs_in, has_token)


@pytest.mark.parametrize(
    ("url", "name"), [("smtp://A.example:25", "a.example:25"), ("smtp://[::1]:2525", "[::1]:2525")]
)
def test_name(url, name):
    assert Relay.parse(url).name == name


def test_the_password_is_not_shown():
    relay = Relay.parse("smtps://ann:hunter2@mail.example.com")
    assert str(relay) == relay.url_masked == "smtps://ann:***@mail.example.com:465"
    assert "hunter2" not in repr(relay)


def test_the_command_of_a_token_is_not_shown():
    relay = Relay.parse("smtp://ann@h?token_command=curl%20-d%20hunter2&token_timeout=5")
    assert str(relay) == "smtp://ann@h:587?tls=required&token_command=***&token_timeout=5"
    assert "hunter2" not in repr(relay)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://[::1]:2525",
        "smtp://ann@h?tls=required&token=shop.mail:token&auth=xoauth2&token_timeout=0.5",
        "smtp://[fe80::1]?local=fe80::2%25eth0&hello=[IPv6:fe80::2]",
        "smtp://h?chunking=yes",
        "smtps://h?ca={pem}/our+ca.pem&cert={pem}/cert.pem&key={pem}/key.pem",
    ],
)
def test_the_masked_url_of_a_relay_without_secrets_says_the_same(url, pem):
    relay = Relay.parse(url.format(pem=pem))
    assert Relay.parse(relay.url_masked) == relay


def test_a_secret_option_is_neither_in_repr_nor_in_the_url():
    secret = {name for name, option in OPTIONS.items() if option.secret}
    assert secret == {field.name for field in dataclasses.fields(Relay) if not field.repr} - {"password"}


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        (5, "it is no text"),
        ("mail.example.com", "it doesn't begin with smtp://, smtps:// or lmtp://"),
        ("http://mail.example.com", "it doesn't begin with smtp://, smtps:// or lmtp://"),
        ("smtp://mail.example.com\n", "it holds a space or a control character"),
        ("smtp://", "it names no host"),
        ("smtp://ann:pw@", "it names no host"),
        ("smtp://mail.example.com/inbox", "it holds a path"),
        ("smtp://ann@mail.example.com", "it holds a user without a password, or a password without a user"),
        ("smtp://:pw@mail.example.com", "it holds a user without a password, or a password without a user"),
        ("smtp://ann:p%00w@mail.example.com", "its user or password holds a NUL"),
        ("smtp://mail.example.com?TLS=none", f"it holds an option other than {OPTIONS_NAMED}"),
        ("smtp://mail.example.com?tls=none&tls=required", "it says an option twice"),
        ("smtp://mail.example.com?tls=maybe", "its tls is neither required nor none"),
        ("smtp://mail.example.com?tls=", "its tls is neither required nor none"),
        ("smtps://mail.example.com?tls=none", "it says tls=none, and smtps:// is TLS from the first byte"),
        ("smtp://localhost?ca=/x", "it says ca and uses no TLS (add tls=required, or leave it out)"),
        ("smtp://localhost?cert=/x", "it says cert and uses no TLS (add tls=required, or leave it out)"),
        ("smtps://localhost?key=/x", "it says key and no cert"),
        ("smtp://h?auth=basic", "its auth is none of plain, login, cram-md5, xoauth2, oauthbearer"),
        ("smtp://h?auth=plain", "it says auth and holds no user"),
        ("smtp://ann@h?auth=plain", "it holds a user without a password, or a password without a user"),
        ("smtp://ann:@h?token=a:b", "it holds a user without a password, or a password without a user"),
        (
            "smtp://ann:pw@h?auth=xoauth2",
            "its auth is one with a token, and it says neither token nor token_command",
        ),
        (
            "smtp://ann@h?auth=login&token=a:b",
            "it says where to get a token, and its auth is one with a password",
        ),
        (
            "smtp://ann:pw@h?token=a:b",
            "it holds a password and says where to get a token (leave one of them out)",
        ),
        ("smtp://ann@h?token=a:b&token_command=c", "it says both token and token_command"),
        (
            "smtp://h?token=a:b",
            "it says where to get a token and holds no user (write USER@HOST, or add auth=oauthbearer)",
        ),
        (
            "smtp://a%01n@h?token=a:b",
            "its user holds a control character, and no login with a token can carry it",
        ),
        ("smtp://ann@h?tls=none&token=a:b", "it logs in with a token and uses no TLS (add tls=required)"),
        ("smtp://ann@h?token=token", "its token isn't of the form module:function"),
        ("smtp://ann@h?token_command=", "its token_command is empty"),
        ("smtp://h?token_timeout=5", "it says token_timeout and neither token nor token_command"),
        ("smtp://h?local=here", "its local is no IP address"),
        (
            "smtp://10.0.0.1?local=::1",
            "its local and its host are addresses of two families, IPv4 and IPv6",
        ),
        ("smtp://h?hello=a%20b", "its hello is neither a host name nor an address in brackets"),
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
        ("smtp://ann@h?token_command=tool%20pw&token=a:b", "smtp://***@h?token_command=***&token=a:b"),
    ],
)
def test_mask_url(url, masked):
    assert mask_url(url) == masked


def test_either():
    assert [either("a"), either("ab"), either("abc")] == ["a", "a or b", "a, b or c"]


def test_lmtp_is_told_from_smtp():
    assert Relay.parse("lmtp://localhost").lmtp
    assert not Relay.parse("smtp://localhost").lmtp


def test_a_unix_socket():
    relay = Relay.parse("lmtp:///run/dovecot/lmtp%20one")
    assert (relay.socket, relay.tls, relay.port) == ("/run/dovecot/lmtp one", "none", 0)
    assert relay.name == "/run/dovecot/lmtp one"
    assert str(relay) == "lmtp:///run/dovecot/lmtp%20one?tls=none"
    assert Relay.parse(str(relay)) == relay
    assert Relay.parse("lmtp://127.0.0.1").socket is None


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("lmtp://", "it names no host"),
        ("lmtp:///", "it names no host"),
        ("lmtp://host/run/lmtp", "it holds a path"),
        ("smtp:///run/smtp", "it names no host"),
        ("lmtp:///run/lmtp?tls=required", "it leads to a socket of this machine, and says tls or local"),
        ("lmtp:///run/lmtp?local=127.0.0.1", "it leads to a socket of this machine, and says tls or local"),
        ("lmtp://h?chunking=yes", "it speaks LMTP and says chunking=yes, which is for SMTP (leave it out)"),
        ("lmtp:///" + "x" * 107, "its socket's path has more than 107 bytes"),
        ("lmtp://localhost:25", "it speaks LMTP on port 25, which is SMTP's alone (RFC 2033 5)"),
    ],
)
def test_what_lmtp_can_not_be(url, wrong):
    with pytest.raises(SettingsError) as raised:
        Relay.parse(url)
    assert str(raised.value).startswith(f"relay: {wrong}; expected ")

"""How an option is read; what the options mean together is in test_relay.py."""

import pytest

from mailtasks import relay_options as read
from mailtasks.relay import OPTIONS

HUNTER = "hunter2"


@pytest.mark.parametrize(
    ("reader", "given", "value"),
    [
        (read.text, "/etc/ssl/a b.pem", "/etc/ssl/a b.pem"),
        (read.tls, "none", "none"),
        (read.auth, "cram-md5", "cram-md5"),
        (read.local, "10.0.0.5", "10.0.0.5"),
        (read.local, "2001:DB8:0:0::1", "2001:db8::1"),
        (read.local, "fe80::1%eth0", "fe80::1%eth0"),
        (read.hello, "mail.example.com", "mail.example.com"),
        (read.hello, "[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        (read.function, "shop.mail:token", "shop.mail:token"),
        (read.function, "shop:Mail.token", "shop:Mail.token"),
        (read.command, "/usr/bin/tool 'two words' x", ("/usr/bin/tool", "two words", "x")),
        (read.command, "tool $HOME | cat", ("tool", "$HOME", "|", "cat")),
        (read.seconds, "0.5", 0.5),
        (read.seconds, "600", 600.0),
        (read.yes_or_no, "yes", "yes"),
        (read.yes_or_no, "no", "no"),
    ],
)
def test_what_is_read(reader, given, value):
    assert reader(given) == value


@pytest.mark.parametrize(
    ("reader", "given", "wrong"),
    [
        (read.text, "", "is empty"),
        (read.text, "a\0b", "holds a NUL"),
        (read.tls, HUNTER, "is neither required nor none"),
        (read.auth, HUNTER, "is none of plain, login, cram-md5, xoauth2, oauthbearer"),
        (read.auth, "PLAIN", "is none of plain, login, cram-md5, xoauth2, oauthbearer"),
        (read.local, HUNTER, "is no IP address"),
        (read.local, "10.0.0.256", "is no IP address"),
        (read.hello, f"{HUNTER}\r\n", "is neither a host name nor an address in brackets"),
        (read.hello, "", "is neither a host name nor an address in brackets"),
        (read.function, HUNTER, "isn't of the form module:function"),
        (read.function, "a:b()", "isn't of the form module:function"),
        (read.command, "", "is empty"),
        (read.command, " ", "is empty"),
        (read.command, "''", "is empty"),
        (read.command, f"tool {HUNTER}\0", "holds a NUL"),
        (read.command, f"tool '{HUNTER}", "ends within quotes, or with a backslash"),
        (read.command, f"tool {HUNTER}\\", "ends within quotes, or with a backslash"),
        (read.seconds, HUNTER, "is no number of seconds from 0.1 to 600"),
        (read.seconds, "0", "is no number of seconds from 0.1 to 600"),
        (read.seconds, "601", "is no number of seconds from 0.1 to 600"),
        (read.seconds, "nan", "is no number of seconds from 0.1 to 600"),
        (read.seconds, "1e2", "is no number of seconds from 0.1 to 600"),
        (read.yes_or_no, HUNTER, "is neither yes nor no"),
        (read.yes_or_no, "YES", "is neither yes nor no"),
    ],
)
def test_what_is_refused_is_not_quoted(reader, given, wrong):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (its text is what is looked at)
        reader(given)
    assert str(raised.value) == wrong


def test_each_option_has_a_sentence_for_the_docs():
    for name, option in OPTIONS.items():
        assert option.expected, name
        assert option.help.endswith("."), name

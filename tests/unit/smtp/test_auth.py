from base64 import b64decode

import pytest

from mailtasks.errors import SettingsError
from mailtasks.smtp.auth import Credentials, choose, login, plain

ANN = Credentials("ann", "pässword")


def test_plain_says_all_at_once():
    exchange = plain(ANN)
    verb, mechanism, secret = exchange.command.split(b" ")
    assert (verb, mechanism, exchange.answers) == (b"AUTH", b"PLAIN", ())
    assert b64decode(secret).decode() == "\0ann\0pässword"


def test_login_answers_two_questions():
    exchange = login(ANN)
    assert exchange.command == b"AUTH LOGIN"
    assert [b64decode(answer).decode() for answer in exchange.answers] == ["ann", "pässword"]


@pytest.mark.parametrize(
    ("offered", "expected"),
    [(["LOGIN", "PLAIN"], b"AUTH PLAIN"), (["LOGIN"], b"AUTH LOGIN"), (["XOAUTH2"], None), ([], None)],
)
def test_plain_is_preferred_and_nothing_is_guessed(offered, expected):
    exchange = choose(offered, ANN)
    assert (exchange and exchange.command[: len(expected or b"")]) == expected


def test_no_repr_holds_the_password():
    for shown in (repr(ANN), repr(plain(ANN)), repr(login(ANN))):
        assert "pässword" not in shown
        assert "AG" not in shown


@pytest.mark.parametrize("given", [("a\0b", "c"), ("a", "b\0c")])
def test_nul_is_refused(given):
    with pytest.raises(SettingsError) as raised:
        Credentials(*given)
    assert (
        str(raised.value) == "the relay's username or password holds a NUL character; no login can carry it"
    )

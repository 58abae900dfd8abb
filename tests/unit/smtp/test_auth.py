import json
from base64 import b64decode, b64encode

import pytest

from mailtasks.errors import SettingsError
from mailtasks.relay_options import MECHANISMS as SHOWN
from mailtasks.smtp.auth import (
    LONGEST_COMMAND,
    LONGEST_TOKEN,
    MECHANISMS,
    Credentials,
    Exchange,
    choose,
    read_reason,
    wanted,
)

ANN = Credentials("ann", "pässword")
TOKEN = Credentials("ann@example.com", token="ya29.secret", host="relay.example", port=587)
ALL = ["LOGIN", "PLAIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "NTLM"]


def decoded(line):
    return b64decode(line, validate=True).decode()


def test_each_mechanism_that_a_url_may_ask_for_can_be_spoken():
    assert list(SHOWN) == list(MECHANISMS)


def test_plain_says_all_at_once():
    verb, mechanism, secret = Exchange("plain", ANN).command.split(b" ")
    assert (verb, mechanism, decoded(secret)) == (b"AUTH", b"PLAIN", "\0ann\0pässword")


def test_login_answers_two_questions_whatever_they_are():
    exchange = Exchange("login", ANN)
    assert exchange.command == b"AUTH LOGIN"
    assert [decoded(exchange.answer(challenge)) for challenge in (b"VXNlcm5hbWU6", b"what?")] == [
        "ann",
        "pässword",
    ]


def test_cram_md5_signs_the_challenge():
    exchange = Exchange("cram-md5", Credentials("tim", "tanstaaftanstaaf"))  # the example of RFC 2195 2
    challenge = b64encode(b"<1896.697170952@postoffice.reston.mci.net>")
    assert exchange.command == b"AUTH CRAM-MD5"
    assert decoded(exchange.answer(challenge)) == "tim b913a602c7eda7a495b4e6e7334d3890"


@pytest.mark.parametrize("challenge", [b"", b"=", b"<no base64>"])
def test_what_cannot_be_signed_is_answered_with_a_cancel(challenge):
    assert Exchange("cram-md5", ANN).answer(challenge) == b"*"


def test_xoauth2_shows_user_and_token_at_once():
    _, mechanism, said = Exchange("xoauth2", TOKEN).command.split(b" ")
    assert (mechanism, decoded(said)) == (
        b"XOAUTH2",
        "user=ann@example.com\1auth=Bearer ya29.secret\1\1",
    )


@pytest.mark.parametrize(
    ("user", "begins"),
    [("ann@example.com", "n,a=ann@example.com,\1"), ("a=n,n", "n,a=a=3Dn=2Cn,\1"), ("", "n,,\1")],
)
def test_oauthbearer_says_who_where_and_the_token(user, begins):
    credentials = Credentials(user, token="ya29.secret", host="relay.example", port=587)
    _, mechanism, said = Exchange("oauthbearer", credentials).command.split(b" ")
    assert mechanism == b"OAUTHBEARER"
    assert decoded(said) == f"{begins}host=relay.example\1port=587\1auth=Bearer ya29.secret\1\1"


@pytest.mark.parametrize("name", ["xoauth2", "oauthbearer", "plain"])
def test_what_is_too_long_for_the_command_waits_for_the_servers_challenge(name):
    short = Exchange(name, Credentials("ann", "x" * 200, token="" if name == "plain" else "x" * 200))
    assert b"eHh4eHh4" in short.command
    assert len(short.command) <= LONGEST_COMMAND - 2
    long = Exchange(name, Credentials("ann", "x" * 400, token="" if name == "plain" else "x" * 400))
    assert long.command == f"AUTH {name.upper()}".encode()
    assert "x" * 400 in decoded(long.answer(b""))


@pytest.mark.parametrize("name", ["xoauth2", "oauthbearer"])
def test_the_longest_token_fits_the_line_of_an_answer(name):
    user = "u" * 250 + "@example.com"
    exchange = Exchange(name, Credentials(user, token="x" * LONGEST_TOKEN, host="h" * 250, port=65535))
    assert len(exchange.answer(b"")) + 2 <= 12288  # RFC 4954 4


@pytest.mark.parametrize(("name", "answer"), [("xoauth2", b""), ("oauthbearer", b"AQ==")])
def test_a_refusal_is_read_and_answered_and_then_cancelled(name, answer):
    exchange = Exchange(name, TOKEN)
    said = {"status": "401", "schemes": "Bearer", "scope": "https://mail.example/"}
    assert exchange.answer(b64encode(json.dumps(said).encode())) == answer
    assert exchange.reason == "status 401, scope https://mail.example/, schemes Bearer"
    assert exchange.answer(b"") == b"*"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (b"", "no reason given"),
        (b"{}", "no reason given"),
        (b"[1]", "[1]"),
        (b"go away\r\n\x1b[2J", "go away???[2J"),
        (b'{"status": 400}', "status 400"),
        (b'{"status": "\\u001b[2J"}', "status ?[2J"),
        (b'{"status": "invalid_token", "other": "x"}', "status invalid_token"),
        (b'{"scope": "' + b"s" * 5000 + b'"}', "scope " + "s" * 100),
    ],
)
def test_a_reason_is_short_and_printable(told, reason):
    assert read_reason(told) == reason


@pytest.mark.parametrize(
    ("offered", "credentials", "command"),
    [
        (ALL, ANN, b"AUTH PLAIN "),
        (["plain"], ANN, b"AUTH PLAIN "),
        (["CRAM-MD5", "LOGIN"], ANN, b"AUTH LOGIN"),
        (["NTLM", "CRAM-MD5"], ANN, b"AUTH CRAM-MD5"),
        (["XOAUTH2", "OAUTHBEARER"], ANN, None),
        ([], ANN, None),
        (ALL, TOKEN, b"AUTH XOAUTH2 "),
        (["PLAIN", "OAUTHBEARER"], TOKEN, b"AUTH OAUTHBEARER "),
        (["PLAIN", "LOGIN"], TOKEN, None),
        (ALL, Credentials("ann", "pw", mechanism="cram-md5"), b"AUTH CRAM-MD5"),
        (["PLAIN"], Credentials("ann", "pw", mechanism="cram-md5"), None),
    ],
)
def test_what_is_offered_fits_and_is_preferred_and_nothing_is_guessed(offered, credentials, command):
    exchange = choose(offered, credentials)
    assert (exchange and exchange.command[: len(command or b"")]) == command


@pytest.mark.parametrize(
    ("credentials", "names"),
    [
        (ANN, "PLAIN, LOGIN or CRAM-MD5"),
        (TOKEN, "XOAUTH2 or OAUTHBEARER"),
        (Credentials("ann", "pw", mechanism="cram-md5"), "CRAM-MD5"),
    ],
)
def test_what_would_have_to_be_offered(credentials, names):
    assert wanted(credentials) == names


@pytest.mark.parametrize("name", SHOWN)
def test_no_repr_holds_the_login(name):
    credentials = Credentials("ann", "pässword", token="ya29.secret")
    exchange = Exchange(name, credentials)
    exchange.answer(b64encode(b"sign this"))
    assert repr(exchange) == f"<Exchange {name.upper()}>"
    assert repr(credentials) == "Credentials(username='ann', mechanism=None, host='', port=0)"


@pytest.mark.parametrize("name", ["plain", "xoauth2", "oauthbearer"])
def test_what_a_server_repeats_of_the_login_is_scrubbed(name):
    exchange = Exchange(name, Credentials("ann", "password", token="ya29.secret"))
    said = exchange.command.split(b" ")[2]
    assert exchange.scrub(b"500 what is " + exchange.command + b"?\r") == (
        b"500 what is AUTH " + name.upper().encode() + b" ***?\r"
    )
    assert exchange.scrub(b"password ya29.secret " + said) == b"*** *** ***"


def test_answers_are_scrubbed_and_short_words_are_not():
    exchange = Exchange("login", Credentials("ann", "pw"))
    answers = [exchange.answer(b""), exchange.answer(b"")]
    assert exchange.scrub(b" ".join(answers)) == b"*** ***"
    assert exchange.scrub(b"535 pw") == b"535 pw"


@pytest.mark.parametrize("given", [("a\0b", "c"), ("a", "b\0c")])
def test_nul_is_refused(given):
    with pytest.raises(SettingsError) as raised:
        Credentials(*given)
    assert (
        str(raised.value) == "the relay's username or password holds a NUL character; no login can carry it"
    )

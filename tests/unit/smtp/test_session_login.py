"""A session that logs in with a token: which one is shown, and what a refusal leads to."""

from base64 import b64decode

import pytest

from mailtasks.relay import Relay
from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp import ConnectFailed, Pool, Session, Timeouts
from mailtasks.smtp.loop import Loop
from mailtasks.smtp.token_sources import Fetched, TokenUnavailable
from mailtasks.smtp.tokens import Tokens
from mailtasks.testing.scripted import ScriptedRelay

PATIENT = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 10))
OFFERS = ["PIPELINING", "AUTH PLAIN XOAUTH2"]
NO = "535 5.7.8 no"


class Source:
    """Yields what it is given, the last again and again; what is an exception is raised."""

    def __init__(self, *yields):
        self.yields = list(yields)
        self.fetched = 0

    def fetch(self, seconds):
        self.fetched += 1
        value = self.yields.pop(0) if len(self.yields) > 1 else self.yields[0]
        if isinstance(value, Exception):
            raise value
        return Fetched(value, 3600)

    def interrupt(self):
        """Nothing of it hangs."""


def relay_at(server, **options):
    query = "&".join(f"{name}={value}" for name, value in ({"token": "a:b"} | options).items())
    return Relay.parse(f"smtp://ann@127.0.0.1:{server.port}?{query}")


def connect(server, tokens, **options):
    return Session.connect(relay_at(server, **options), timeouts=PATIENT, tokens=tokens)


def shown(server):
    """The tokens that were shown, in order."""
    logins = [line.split()[2] for line in server.script.commands if line.startswith("AUTH XOAUTH2 ")]
    return [b64decode(login).split(b"Bearer ")[1].strip(b"\1").decode() for login in logins]


def test_one_token_serves_all_connections():
    tokens = Tokens(source := Source("one"), 5)
    with ScriptedRelay(extensions=OFFERS) as server:
        for _ in range(3):
            connect(server, tokens).close()
    assert (shown(server), source.fetched) == (["one"] * 3, 1)


def test_a_refused_token_of_the_cache_is_fetched_again_at_once():
    tokens = Tokens(source := Source("one", "two"), 5)
    with ScriptedRelay({"AUTH": ["235 ok", NO, "235 ok"]}, OFFERS) as server:
        connect(server, tokens).close()
        connect(server, tokens).close()
        connect(server, tokens).close()
    assert (shown(server), source.fetched) == (["one", "one", "two", "two"], 2)


def test_but_once_only():
    tokens = Tokens(source := Source("one", "two", "three"), 5)
    with ScriptedRelay({"AUTH": ["235 ok", NO]}, OFFERS) as server:
        connect(server, tokens).close()
        with pytest.raises(ConnectFailed) as raised:
            connect(server, tokens)
        assert shown(server) == ["one", "one", "two"]
        with pytest.raises(ConnectFailed):  # the next attempt, after the pause: one login, one token
            connect(server, tokens)
    assert (shown(server)[3:], source.fetched) == (["three"], 3)
    assert str(raised.value.failure) == f"auth: {NO}"


def test_a_fresh_token_that_is_refused_is_the_end():
    tokens = Tokens(Source("one", "two"), 5)
    with ScriptedRelay({"AUTH": NO}, OFFERS) as server, pytest.raises(ConnectFailed):
        connect(server, tokens)
    assert shown(server) == ["one"]


def test_a_source_without_another_token_isnt_shown_twice():
    tokens = Tokens(source := Source("one"), 5)
    with ScriptedRelay({"AUTH": ["235 ok", NO]}, OFFERS) as server:
        connect(server, tokens).close()
        with pytest.raises(ConnectFailed) as raised:
            connect(server, tokens)
    assert (shown(server), source.fetched) == (["one", "one"], 2)
    assert raised.value.failure.reply.code == 535


@pytest.mark.parametrize(
    "reply", ["454 4.7.0 later", "421 4.3.2 closing", "530 5.7.0 first", "534 5.7.9 other", "500 what?"]
)
def test_nothing_but_a_535_is_about_the_token(reply):
    tokens = Tokens(source := Source("one"), 5)
    with ScriptedRelay({"AUTH": ["235 ok", reply]}, OFFERS) as server:
        connect(server, tokens).close()
        with pytest.raises(ConnectFailed) as raised:
            connect(server, tokens)
    assert (raised.value.failure.stage, source.fetched) == (Stage.AUTH, 1)


def test_when_no_other_can_be_had_that_is_told():
    gone = TokenUnavailable(How.UNSUITABLE, "the token command printed nothing")
    tokens = Tokens(Source("one", gone), 5)
    with ScriptedRelay({"AUTH": ["235 ok", NO]}, OFFERS) as server:
        connect(server, tokens).close()
        with pytest.raises(ConnectFailed) as raised:
            connect(server, tokens)
    assert raised.value.failure == Outcome(
        Stage.AUTH, How.UNSUITABLE, detail="the token command printed nothing"
    )


def test_without_a_token_nothing_is_dialled():
    gone = TokenUnavailable(How.TIMED_OUT, "the token command hadn't ended after 5 s and was killed")
    with ScriptedRelay(extensions=OFFERS) as server:
        with pytest.raises(ConnectFailed) as raised:
            connect(server, Tokens(Source(gone), 5))
        assert server.connections == 0
    assert str(raised.value) == (
        f"no connection to the relay 127.0.0.1:{server.port}: "
        "auth: the token command hadn't ended after 5 s and was killed"
    )


def test_why_a_token_was_refused_is_told():
    challenge = "334 eyJzdGF0dXMiOiI0MDAiLCJzY29wZSI6Imh0dHBzOi8vbWFpbC5leGFtcGxlLyJ9"
    replies = {"AUTH": challenge, "ANSWER": NO}
    with ScriptedRelay(replies, OFFERS) as server, pytest.raises(ConnectFailed) as raised:
        connect(server, Tokens(Source("one"), 5))
    assert str(raised.value.failure) == f"auth: {NO} (status 400, scope https://mail.example/)"
    assert server.script.commands[-1] == ""


@pytest.mark.parametrize("garbled", ["{0}", "235 {0}", "421 {0}", "501 {0}", "334 x\n500 {0}", "299 {0}"])
def test_no_outcome_repeats_a_login_that_the_relay_repeats(garbled):
    said = "AUTH XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgaHVudGVyMi1odW50ZXIyAQE="
    with ScriptedRelay({"AUTH": garbled.format(said), "ANSWER": garbled.format(said)}, OFFERS) as server:
        try:
            connect(server, Tokens(Source("hunter2-hunter2"), 5)).close()
        except ConnectFailed as error:
            told = f"{error} {error.failure!r}"
        else:
            told = ""
    assert said in server.script.commands
    assert "dXNlcj1h" not in told
    assert bool(told) is not garbled.startswith("2")


def test_a_pool_shares_its_tokens_and_ends_their_fetching(monkeypatch):
    source = Source("one")
    monkeypatch.setattr(Tokens, "of", lambda relay: Tokens(source, 5))
    with ScriptedRelay(extensions=OFFERS) as server:
        pool = Pool(relay_at(server), size=2, max_messages=9, lifetime=300, idle=20, timeouts=PATIENT)
        with pool.lend(5), pool.lend(5):
            pass
        pool.interrupt()
        tokens = pool._tokens
        pool.close()
    assert source.fetched == 1
    with pytest.raises(TokenUnavailable):
        tokens.get()


def test_the_url_says_who_we_are_and_how_to_log_in():
    offers = ["AUTH PLAIN CRAM-MD5"]
    with ScriptedRelay({"AUTH": "334 c2lnbg=="}, offers) as server:
        url = f"smtp://ann:pw@127.0.0.1:{server.port}?auth=cram-md5&hello=url.example"
        Session.connect(Relay.parse(url), hello_name="setting.example", timeouts=PATIENT, loop=Loop()).close()
    ehlo, auth, *_ = server.script.commands
    assert (ehlo, auth) == ("EHLO url.example", "AUTH CRAM-MD5")

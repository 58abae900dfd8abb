"""Logins against aiosmtpd over TLS: the mechanisms that it doesn't have itself are hooks of its handler."""

import hmac
import json
import shlex
import ssl
import sys
import threading
from base64 import b64decode
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, auth_mechanism

from mailtasks.local.redis import free_port
from mailtasks.policy.verdict import CONSEQUENCES, Move, case_of
from mailtasks.relay import Relay
from mailtasks.reply import How, Stage
from mailtasks.smtp import ConnectFailed, Envelope, Pool, Session, Timeouts

PATIENT = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 10))
REFUSAL = json.dumps({"status": "401", "schemes": "Bearer", "scope": "https://mail.example/"})


class Provider:
    """A handler that knows ann's password and which tokens are good, and notes what it was shown.

    Attributes:
        good: the tokens that are good now.
        shown: the tokens that were shown, in order.
        commands: what stood behind AUTH, for each login.
    """

    def __init__(self, *good):
        self.good = set(good)
        self.shown = []
        self.commands = []
        self.mail = []
        self.answers = []  # to the challenges which say why

    async def handle_DATA(self, server, session, envelope):
        self.mail.append(envelope.content)
        return "250 2.0.0 taken"

    async def auth_XOAUTH2(self, server, args):
        said = await self._initial(server, args)
        user, token, *rest = said.decode().split("\1")
        right = user == "user=ann@example.com" and rest == ["", ""] and token.startswith("auth=Bearer ")
        return await self._judge(server, right, token.removeprefix("auth=Bearer "))

    async def auth_OAUTHBEARER(self, server, args):
        said = await self._initial(server, args)
        head, host, port, token, *rest = said.decode().split("\1")
        right = head in {"n,a=ann@example.com,", "n,,"} and rest == ["", ""]
        right = right and (host, port) == ("host=127.0.0.1", f"port={server.port}")
        return await self._judge(server, right, token.removeprefix("auth=Bearer "))

    @auth_mechanism("CRAM-MD5")
    async def auth_cram(self, server, args):
        self.commands.append(args)
        answer = await server.challenge_auth("<1896.697170952@relay.example>")
        digest = hmac.new(b"secret", b"<1896.697170952@relay.example>", "md5").hexdigest()
        return AuthResult(success=answer == f"ann {digest}".encode(), handled=False)

    async def _initial(self, server, args):
        self.commands.append(args)
        return b64decode(args[1]) if len(args) > 1 else await server.challenge_auth("")

    async def _judge(self, server, right, token):
        self.shown.append(token)
        if right and token in self.good:
            return AuthResult(success=True)
        self.answers.append(await server.challenge_auth(REFUSAL))
        return AuthResult(success=False, handled=False)


class PatientSMTP(SMTP):
    """Reads lines as long as RFC 4954 4 wants answers to be."""

    line_length_limit = 12288


class PatientController(Controller):
    def factory(self):
        server = PatientSMTP(self.handler, **self.SMTP_kwargs)
        server.port = self.port
        return server


@pytest.fixture(scope="module")
def context(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def serving(context, ca):
    """Starts a provider; gives the beginning of a relay's URL for a login, which wants more options."""

    @contextmanager
    def serve(provider, *offered, login="ann@example.com"):
        hidden = {"LOGIN", "PLAIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"} - set(offered)
        controller = PatientController(
            provider,
            hostname="127.0.0.1",
            port=free_port(),
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            auth_exclude_mechanism=hidden,
            authenticator=lambda server, session, envelope, mechanism, data: AuthResult(
                success=(data.login, data.password) == (b"ann", b"secret"), handled=False
            ),
        )
        controller.start()
        try:
            at = f"{quote(login, safe=':')}@" if login else ""
            yield f"smtp://{at}127.0.0.1:{controller.port}?tls=required&ca={ca}"
        finally:
            controller.stop()

    return serve


@pytest.fixture
def command(tmp_path):
    """A program that prints the n-th line of its list at its n-th call; says how often it was called."""

    class Program:
        def __init__(self, *lines):
            self.calls = tmp_path / "calls"
            script = tmp_path / "token.py"
            script.write_text(
                "import pathlib, sys\n"
                f"calls = pathlib.Path({str(self.calls)!r})\n"
                f"lines = {list(lines)!r}\n"
                "with calls.open('a') as file: file.write('x')\n"
                "print(lines[min(len(calls.read_text()), len(lines)) - 1])\n"
            )
            self.option = f"token_command={quote(shlex.join([sys.executable, '-I', str(script)]))}"

        @property
        def called(self):
            return len(self.calls.read_text()) if self.calls.exists() else 0

    return Program


def as_json(token, seconds=3600):
    return json.dumps({"access_token": token, "expires_in": seconds, "token_type": "Bearer"})


def connect(url):
    return Session.connect(Relay.parse(url), timeouts=PATIENT)


def sends(session):
    envelope = Envelope("shop@example.com", ("ann@example.com",), b"Subject: hi\r\n\r\nhello\r\n")
    [[outcome]] = session.deliver([envelope])
    session.close()
    return outcome.how is How.ACCEPTED


def failure(url):
    """The failure, which must be one after which the mail is tried again, free."""
    with pytest.raises(ConnectFailed) as raised:
        connect(url)
    failed = raised.value.failure
    assert CONSEQUENCES[case_of(failed)].move is Move.RETRY_FREE
    return failed


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("length", [20, 5000])
def test_a_token_logs_in_however_long_it_is(serving, command, mechanism, length):
    token = "t" * length
    provider = Provider(token)
    with serving(provider, mechanism, "PLAIN") as url:
        assert sends(connect(f"{url}&{command(as_json(token)).option}"))
    assert len(provider.mail) == 1
    assert len(provider.commands[0]) == (2 if length == 20 else 1)  # with its initial response, or without


def test_oauthbearer_needs_no_user(serving, command):
    provider = Provider("good")
    with serving(provider, "XOAUTH2", "OAUTHBEARER", login="") as url:
        assert sends(connect(f"{url}&auth=oauthbearer&{command('good').option}"))
    assert provider.commands[0][0] == "OAUTHBEARER"


def test_a_function_of_the_users_returns_the_token(serving, tmp_path, monkeypatch):
    (tmp_path / "shop_tokens.py").write_text("def token():\n    return 'good', 3600\n")
    monkeypatch.syspath_prepend(tmp_path)
    with serving(Provider("good"), "XOAUTH2") as url:
        assert sends(connect(f"{url}&token=shop_tokens:token"))


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b""), ("OAUTHBEARER", b"\1")])
def test_a_token_that_is_refused_is_told_with_the_providers_reason(serving, command, mechanism, answer):
    provider = Provider()
    with serving(provider, mechanism) as url:
        failed = failure(f"{url}&{command('bad-token').option}")
    assert str(failed) == (
        "auth: 535 5.7.8 Authentication credentials invalid "
        "(status 401, scope https://mail.example/, schemes Bearer)"
    )
    assert (provider.shown, provider.answers) == (["bad-token"], [answer])


def test_a_pool_fetches_one_token_for_all_and_another_when_it_is_refused(serving, command, wait_until):
    provider = Provider("first")
    program = command(as_json("first"), as_json("second"))
    with serving(provider, "XOAUTH2") as url:
        relay = Relay.parse(f"{url}&{program.option}")
        pool = Pool(relay, size=6, max_messages=1, lifetime=300, idle=20, timeouts=PATIENT)
        taken = many(pool, 6)
        assert (taken, program.called, set(provider.shown)) == ([True] * 6, 1, {"first"})
        provider.good = {"second"}
        taken = many(pool, 6)
        pool.close()
    assert (taken, program.called) == ([True] * 6, 2)
    assert provider.shown.count("first") <= 12
    assert provider.shown.count("second") == 6


def many(pool, number):
    """Whether each of many threads could send, at once and on connections of their own."""
    taken = []
    ready = threading.Barrier(number)

    def work():
        ready.wait(10)
        with pool.lend(10) as session:
            ready.wait(10)
            taken.append(sends(session))

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return taken


def test_a_token_is_renewed_shortly_before_its_end(serving, command, wait_until):
    provider = Provider("first", "second")
    program = command(as_json("first", 1), as_json("second", 3600))  # half of its life is half a second
    with serving(provider, "XOAUTH2") as url:
        relay = Relay.parse(f"{url}&{program.option}")
        pool = Pool(relay, size=1, max_messages=1, lifetime=300, idle=20, timeouts=PATIENT)
        wait_until(lambda: lent(pool) and program.called == 2)
        pool.close()
    assert provider.shown[-1] == "second"


def lent(pool):
    with pool.lend(10) as session:
        return sends(session)


@pytest.mark.parametrize(
    ("script", "how", "sentence"),
    [
        ("exit 2", How.UNSUITABLE, "auth: the token command failed with exit status 2"),
        ("true", How.UNSUITABLE, "auth: the token command printed nothing"),
        (
            "printf 'a\\nb\\n'",
            How.UNSUITABLE,
            "auth: the token command printed 2 lines, where a token alone or JSON is expected",
        ),
        (
            "sleep 100",
            How.TIMED_OUT,
            "auth: the token command hadn't ended after 0.5 s and was killed",
        ),
    ],
)
def test_without_a_token_the_relay_isnt_bothered(script, how, sentence):
    url = f"smtp://ann@127.0.0.1:{free_port()}?token_timeout=0.5"  # nobody is there
    failed = failure(f"{url}&token_command={quote(shlex.join(['sh', '-c', script]))}")
    assert (failed.stage, failed.how, str(failed)) == (Stage.AUTH, how, sentence)


@pytest.mark.parametrize(
    ("offered", "option", "used"),
    [
        (["CRAM-MD5"], "", "CRAM-MD5"),
        (["CRAM-MD5", "PLAIN"], "&auth=cram-md5", "CRAM-MD5"),
        (["CRAM-MD5", "PLAIN"], "", None),
    ],
)
def test_cram_md5_is_for_who_asks_or_has_nothing_else(serving, offered, option, used):
    provider = Provider()
    with serving(provider, *offered, login="ann:secret") as url:
        assert sends(connect(url + option))
    assert [command[0] for command in provider.commands] == ([used] if used else [])


def test_a_wrong_password_is_refused_by_cram_md5(serving):
    with serving(Provider(), "CRAM-MD5", login="ann:wrong") as url:
        failed = failure(url)
    assert str(failed) == "auth: 535 5.7.8 Authentication credentials invalid"


def test_what_was_asked_for_and_isnt_offered_is_no_reason_to_take_another(serving, command):
    with serving(Provider("good"), "XOAUTH2", "PLAIN") as url:
        failed = failure(f"{url}&auth=oauthbearer&{command('good').option}")
    assert str(failed) == "auth: the relay offers no login by OAUTHBEARER (offered: PLAIN XOAUTH2)"

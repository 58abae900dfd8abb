"""Sessions and pools against real servers: aiosmtpd with certificates and logins, smtp-sink, a bad line."""

import os
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from mailtasks.local.redis import free_port
from mailtasks.relay import Relay
from mailtasks.reply import How, Stage
from mailtasks.smtp import ConnectFailed, Envelope, Pool, Session, Timeouts
from mailtasks.smtp.loop import LATE
from mailtasks.testing import program
from mailtasks.testing.proxy import Proxy
from mailtasks.testing.scripted import ScriptedRelay

PATIENT = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 10))
BODY = b"From: a@example.com\r\nSubject: hi\r\n\r\n.leading dot\r\n.\r\nlast line\r\n"


def envelope(number=0, content=BODY, **more):
    return Envelope("shop@example.com", (f"r{number}@example.com",), content, **more)


class Box:
    """A handler that keeps what it got and refuses some."""

    def __init__(self):
        self.mail = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("no"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        self.mail.append((envelope.mail_from, tuple(envelope.rcpt_tos), envelope.content))
        return "250 2.0.0 taken"


@contextmanager
def serving(**options):
    """A real server; yields its port and what it got."""
    box = Box()
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port, box
    finally:
        controller.stop()


def server_context(authority, *names, **validity):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, **validity).configure_cert(context)
    return context


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"ann", b"secret"), handled=False)


def connect(url):
    return Session.connect(Relay.parse(url), timeouts=PATIENT)


def sent(session, *envelopes):
    return [outcome.how for (outcome,) in session.deliver(envelopes)] == [How.ACCEPTED] * len(envelopes)


def failure(url):
    with pytest.raises(ConnectFailed) as raised:
        connect(url)
    return raised.value.failure


def test_what_arrives_is_what_was_sent():
    with serving() as (port, box):
        session = connect(f"smtp://127.0.0.1:{port}")
        assert sent(session, envelope(1), envelope(2))
        session.close()
    assert [content for _, _, content in box.mail] == [BODY, BODY]


def test_recipients_have_their_own_results():
    with serving() as (port, box):
        session = connect(f"smtp://127.0.0.1:{port}")
        recipients = ("yes@example.com", "no@example.com")
        [[yes, no]] = session.deliver([Envelope("", recipients, BODY)])
        session.close()
    assert (str(yes), str(no)) == ("dot: 250 2.0.0 taken", "rcpt: 550 5.1.1 no such user")
    assert box.mail[0][:2] == ("<>", ("yes@example.com",))


def test_starttls_with_a_verified_certificate(authority, ca):
    with serving(tls_context=server_context(authority, "127.0.0.1"), require_starttls=True) as (port, box):
        session = connect(f"smtp://127.0.0.1:{port}?tls=required&ca={ca}")
        assert sent(session, envelope())
        session.close()
    assert len(box.mail) == 1


def test_implicit_tls(authority, ca):
    with serving(ssl_context=server_context(authority, "127.0.0.1")) as (port, box):
        session = connect(f"smtps://127.0.0.1:{port}?ca={ca}")
        assert sent(session, envelope(1), envelope(2))
        assert session.alive
        session.close()
    assert len(box.mail) == 2


def test_a_large_message_passes_through_tls(authority, ca):
    content = b"x" * 998 + b"\r\n"
    with serving(ssl_context=server_context(authority, "127.0.0.1"), data_size_limit=None) as (port, box):
        session = connect(f"smtps://127.0.0.1:{port}?ca={ca}")
        assert sent(session, envelope(content=content * 8000))
        session.close()
    assert box.mail[0][2] == content * 8000


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_login_over_starttls(authority, ca, mechanism):
    other = {"PLAIN": "LOGIN", "LOGIN": "PLAIN"}[mechanism]
    options = {
        "tls_context": server_context(authority, "127.0.0.1"),
        "authenticator": authenticate,
        "auth_required": True,
        "auth_exclude_mechanism": [other],
    }
    with serving(**options) as (port, box):
        session = connect(f"smtp://ann:secret@127.0.0.1:{port}?tls=required&ca={ca}")
        assert sent(session, envelope())
        session.close()
        refused = failure(f"smtp://ann:wrong@127.0.0.1:{port}?tls=required&ca={ca}")
    assert len(box.mail) == 1
    assert (refused.stage, refused.how, refused.reply.code) == (Stage.AUTH, How.REFUSED, 535)


def test_a_certificate_for_another_name_is_refused(authority, ca):
    with serving(ssl_context=server_context(authority, "other.example")) as (port, _):
        wrong = failure(f"smtps://127.0.0.1:{port}?ca={ca}")
    assert (wrong.stage, wrong.how) == (Stage.TLS, How.UNSUITABLE)
    assert wrong.detail.startswith(f"the certificate of 127.0.0.1:{port} isn't valid: ")
    assert "127.0.0.1" in wrong.detail


def test_a_certificate_that_nobody_trusts_is_refused_and_nothing_goes_in_plain_text(authority):
    stranger = trustme.CA()
    with serving(tls_context=server_context(stranger, "127.0.0.1")) as (port, box):
        wrong = failure(f"smtp://ann:secret@127.0.0.1:{port}?tls=required")
    assert (wrong.stage, wrong.how) == (Stage.TLS, How.UNSUITABLE)
    assert box.mail == []


@pytest.mark.parametrize(
    ("validity", "reason"),
    [
        ({"not_after": datetime.now(UTC) - timedelta(days=2)}, "certificate has expired"),
        ({"not_before": datetime.now(UTC) + timedelta(days=2)}, "certificate is not yet valid"),
    ],
    ids=["expired", "not yet valid"],
)
@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("tls_context", "smtp://ann:secret@127.0.0.1:{port}?tls=required&ca={ca}"),
        ("ssl_context", "smtps://ann:secret@127.0.0.1:{port}?ca={ca}"),
    ],
    ids=["starttls", "implicit"],
)
def test_a_certificate_out_of_its_time_is_refused_before_the_login(
    authority, ca, validity, reason, option, url
):
    logins = []
    options = {option: server_context(authority, "127.0.0.1", **validity)}
    with serving(authenticator=lambda *login: logins.append(login), **options) as (port, box):
        wrong = failure(url.format(port=port, ca=ca))
    assert (wrong.stage, wrong.how) == (Stage.TLS, How.UNSUITABLE)
    assert wrong.detail == f"the certificate of 127.0.0.1:{port} isn't valid: {reason}"
    assert logins == box.mail == []


def test_a_ca_file_that_was_spoilt_after_the_start_is_told(authority, tmp_path):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with serving(ssl_context=server_context(authority, "127.0.0.1")) as (port, _):
        relay = Relay.parse(f"smtps://127.0.0.1:{port}?ca={file}")
        file.write_text("nothing\n")
        with pytest.raises(ConnectFailed) as raised:
            Session.connect(relay, timeouts=PATIENT)
    wrong = raised.value.failure
    assert (wrong.stage, wrong.how) == (Stage.TLS, How.UNSUITABLE)
    assert wrong.detail.startswith(f"the ca file '{file}' can't be used (")


def test_no_starttls_means_no_mail():
    with serving() as (port, _):
        wrong = failure(f"smtp://127.0.0.1:{port}?tls=required")
    assert str(wrong) == "tls: the relay offers no STARTTLS, and nothing goes in plain text"


def test_a_server_that_speaks_no_tls_on_its_tls_port():
    with ScriptedRelay() as relay:
        wrong = failure(f"smtps://127.0.0.1:{relay.port}")
    assert wrong.stage is Stage.TLS


def test_plain_text_behind_the_answer_to_starttls_is_an_attack():
    replies = {"STARTTLS": "220 go\n250-injected\n250 AUTH PLAIN"}
    with ScriptedRelay(replies, extensions=("STARTTLS",)) as relay:
        wrong = failure(f"smtp://ann:secret@127.0.0.1:{relay.port}?tls=required")
    assert (wrong.stage, wrong.how) == (Stage.TLS, How.GARBAGE)
    assert relay.script.commands[-1] == "STARTTLS"


def test_larger_than_size_is_never_begun():
    with serving(data_size_limit=1000) as (port, box):
        session = connect(f"smtp://127.0.0.1:{port}")
        outcomes = session.deliver([envelope(content=b"x" * 2000), envelope()])
        session.close()
    assert [each[0].how for each in outcomes] == [How.UNSUITABLE, How.ACCEPTED]
    assert len(box.mail) == 1


def test_smtputf8():
    with serving(enable_SMTPUTF8=True) as (port, box):
        session = connect(f"smtp://127.0.0.1:{port}")
        assert sent(session, Envelope("shop@example.com", ("jörg@example.com",), BODY))
        session.close()
    assert box.mail[0][1] == ("jörg@example.com",)


# A bad line


def test_a_line_that_is_cut_behind_the_dot_leaves_doubt(wait_until):
    with ScriptedRelay({"DOT": "hang"}) as relay, Proxy("127.0.0.1", relay.port) as proxy:
        session = connect(f"smtp://127.0.0.1:{proxy.port}")
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.extend(session.deliver([envelope(1), envelope(2)])))
        thread.start()
        wait_until(lambda: relay.script.messages)
        proxy.cut()
        thread.join(10)
    assert [(each[0].stage, each[0].how, each[0].dot_begun) for each in outcomes] == [
        (Stage.DOT, How.LOST, True),
        (Stage.MAIL, How.UNTOUCHED, False),
    ]


def test_a_line_that_hangs_times_out_and_a_slow_one_does_not():
    quick = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 0.3))
    with ScriptedRelay() as relay, Proxy("127.0.0.1", relay.port, round_trip=0.1) as proxy:
        session = Session.connect(Relay.parse(f"smtp://127.0.0.1:{proxy.port}"), timeouts=quick)
        assert sent(session, envelope(1), envelope(2))
        proxy.hang()
        [[outcome]] = session.deliver([envelope(3)])
    assert (outcome.stage, outcome.how) == (Stage.MAIL, How.TIMED_OUT)


def test_far_away_a_message_costs_one_round_trip():
    with ScriptedRelay() as relay, Proxy("127.0.0.1", relay.port, round_trip=0.1) as proxy:
        session = connect(f"smtp://127.0.0.1:{proxy.port}")
        start = time.monotonic()
        assert sent(session, *map(envelope, range(5)))
        assert 0.55 < time.monotonic() - start < 1.0  # six, where one command at a time takes twenty


def pool_to(port, size, **options):
    relay = Relay.parse(f"smtp://127.0.0.1:{port}")
    given = {"max_messages": 100, "lifetime": 300, "idle": 20, "timeouts": PATIENT} | options
    return Pool(relay, size=size, **given)


def test_a_pool_notices_that_its_relay_restarted():
    with serving() as (port, _):
        pool = pool_to(port, size=2)
        with pool.lend(5) as session:
            assert sent(session, envelope())
        again = Controller(box := Box(), hostname="127.0.0.1", port=port)
    again.start()
    try:
        with pool.lend(5) as session:
            assert sent(session, envelope())
        pool.close()
    finally:
        again.stop()
    assert len(box.mail) == 1
    assert pool.stats()["found_dead"] == 1


@pytest.mark.parametrize(
    ("options", "counter"),
    [({"max_messages": 1}, "worn"), ({"lifetime": 0}, "worn"), ({"idle": 0.05}, "idled"), ({}, "")],
    ids=["enough messages", "too old", "idle for too long", "the pool is closed"],
)
def test_whatever_ends_a_connection_it_ends_with_quit(options, counter, wait_until):
    with ScriptedRelay() as relay:
        pool = pool_to(relay.port, 2, **options)
        with pool.lend(5) as session:
            assert sent(session, envelope())
        if not counter:
            pool.close()
        wait_until(lambda: pool.stats()["slots"] == 0)
        pool.close()
        assert [line for line in relay.script.commands if line == "QUIT"] == ["QUIT"]
        assert relay.script.commands[-1] == "QUIT"
    assert not counter or pool.stats()[counter] == 1


def test_a_pool_that_is_kept_warm_replaces_what_the_relay_closes(wait_until):
    with ScriptedRelay() as relay:
        pool = pool_to(relay.port, 2, warm=1)
        pool.keep_warm()
        wait_until(lambda: relay.connections == 1)
        wait_until(lambda: pool.stats()["idle"])
        relay.say("421 4.4.2 idle for too long")
        wait_until(lambda: relay.connections == 2)
        wait_until(lambda: pool.stats()["idle"])
        with pool.lend(5) as session:
            assert sent(session, envelope())
        pool.close()
    assert relay.connections == 2
    assert (pool.stats()["found_dead"], pool.stats()["warmed"]) == (1, 2)


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
def test_an_interruption_ends_what_is_dialled_ahead(verb, wait_until, caplog):
    with ScriptedRelay({verb: "hang"}) as relay:
        pool = pool_to(relay.port, 1, warm=1)
        pool.keep_warm()
        wait_until(lambda: relay.connections)
        wait_until(lambda: pool._loop._talks)
        began = time.monotonic()
        pool.interrupt()
        pool._warmer.join(5)
        assert time.monotonic() - began < 2 * LATE
        pool.close()
    assert (pool.stats()["slots"], pool.stats()["failed"], caplog.records) == (0, 1, [])


def test_what_is_dialled_ahead_in_vain_holds_up_nobody_who_finds_room(wait_until):
    with ScriptedRelay({"CONNECT": ["hang", "220 ready"]}) as relay:
        pool = pool_to(relay.port, 2, warm=1)
        pool.keep_warm()
        wait_until(lambda: relay.connections)
        with pool.lend(5) as session:
            assert sent(session, envelope())
        pool.interrupt()
        pool.close()


# Postfix's sink


@contextmanager
def smtp_sink(*options):
    port = free_port()
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with subprocess.Popen([program("smtp-sink"), *user, *options, f"127.0.0.1:{port}", "100"]) as sink:
        try:
            yield port
        finally:
            sink.terminate()


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize("options", [(), ("-p",), ("-e",)], ids=["pipelining", "stepwise", "helo"])
def test_smtp_sink_takes_all_from_many_threads(options, wait_until):
    with smtp_sink(*options) as port:
        wait_until(lambda: listening(port))
        pool = pool_to(port, size=3)
        taken = []

        def work():
            for _ in range(10):
                with pool.lend(10) as session:
                    taken.append(sent(session, *map(envelope, range(5))))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        stats = pool.stats()
        pool.close()
    assert taken == [True] * 60
    assert (stats["messages"], stats["worn"]) == (300, stats["opened"] - stats["idle"])
    assert stats["slots"] <= 3


@pytest.mark.needs("smtp-sink")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-f", "rcpt"), "rcpt: 500 5.3.0 Error: command failed"),
        (("-r", "data"), "data: 450 4.3.0 Error: command failed"),
        (("-r", "."), "dot: 450 4.3.0 Error: command failed"),
        (("-Q", "mail"), "mail: 421 4.0.0 Server closing connection"),
    ],
)
def test_smtp_sink_refuses(options, expected, wait_until):
    with smtp_sink(*options) as port:
        wait_until(lambda: listening(port))
        session = connect(f"smtp://127.0.0.1:{port}")
        [[outcome]] = session.deliver([envelope()])
        session.close()
    assert str(outcome) == expected


def listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True

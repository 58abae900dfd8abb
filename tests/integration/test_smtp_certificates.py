"""Certificates and STARTTLS that are wrong in each way, ours and the relay's.

Each leaves the mail to be tried again, free, says why in one sentence, and shows nothing in plain text: no
login and no mail. What is expired, not yet valid, for another name, or of a stranger is in test_smtp.py.
"""

import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailtasks.local.redis import free_port
from mailtasks.policy.verdict import CONSEQUENCES, Case, Move, case_of
from mailtasks.relay import Relay
from mailtasks.reply import How, Stage
from mailtasks.smtp import ConnectFailed, Envelope, Session, Timeouts
from mailtasks.testing.scripted import CLOSE, HANG, Script, ScriptedRelay

PATIENT = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 10))
QUICK = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 0.5) | {"connect": 10})
BODY = b"Subject: hi\r\n\r\nhello\r\n"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Box:
    """A handler that keeps what it was shown."""

    def __init__(self):
        self.seen = []

    async def handle_DATA(self, server, session, envelope):
        self.seen.append(envelope.content)
        return "250 2.0.0 taken"

    def authenticate(self, server, session, envelope, mechanism, data):
        self.seen.append(data)
        return AuthResult(success=True)


@contextmanager
def serving(**options):
    box = Box()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=free_port(),
        authenticator=box.authenticate,
        auth_require_tls=False,  # it doesn't know of TLS from the first byte
        **options,
    )
    controller.start()
    try:
        yield controller.port, box
    finally:
        controller.stop()


@pytest.fixture
def demanding(authority):
    """A context that demands a certificate of the authority's, in one version of TLS."""

    def make(version):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = context.maximum_version = version
        return context

    return make


@pytest.fixture
def own(tmp_path):
    """Writes a certificate of an authority's, with its key; returns the file."""

    def issue(issuer, **validity):
        file = tmp_path / "own.pem"
        issuer.issue_cert("worker.example", **validity).private_key_and_cert_chain_pem.write_to_path(
            str(file)
        )
        return file

    return issue


URLS = {
    "tls_context": "smtp://ann:secret@127.0.0.1:{port}?tls=required&ca={ca}",
    "ssl_context": "smtps://ann:secret@127.0.0.1:{port}?ca={ca}",
}
"""By the option of aiosmtpd's: STARTTLS, and TLS from the first byte."""

both_ways = pytest.mark.parametrize("option", URLS, ids=["starttls", "implicit"])
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])


def sends(url):
    session = Session.connect(Relay.parse(url), timeouts=PATIENT)
    [[outcome]] = session.deliver([Envelope("shop@example.com", ("ann@example.com",), BODY)])
    session.close()
    return outcome.how is How.ACCEPTED


def failure(url, timeouts=PATIENT):
    """What failed at TLS, with the mail to be tried again, free."""
    with pytest.raises(ConnectFailed) as raised:
        Session.connect(Relay.parse(url), timeouts=timeouts)
    failed = raised.value.failure
    assert failed.stage is Stage.TLS
    assert case_of(failed) is Case.TLS_FAILED
    assert CONSEQUENCES[Case.TLS_FAILED].move is Move.RETRY_FREE
    return str(failed)


# Ours


@contextmanager
def guarded(context, option):
    """A relay behind OpenSSL, which sends alerts where asyncio only hangs up; yields port and scripts."""
    scripts = []

    def serve(connection):
        if option == "tls_context":
            plain = Script({"STARTTLS": "220 go"}, ["STARTTLS", "AUTH PLAIN"])
            scripts.append(plain)
            _talk(connection, plain, until="STARTTLS")
        with context.wrap_socket(connection, server_side=True) as secure:
            scripts.append(inner := Script(extensions=["PIPELINING", "AUTH PLAIN"]))
            _talk(secure, inner, greet=option == "ssl_context")

    def accept(server):
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with suppress(OSError), connection:
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1], scripts
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _talk(connection, script, until="QUIT", greet=True):
    said = [script.greet()] if greet else []
    while True:
        connection.sendall("".join(f"{line}\r\n" for it in said for line in it.split("\n")).encode())
        if script.commands[-1:] == [until] or not (data := connection.recv(65536)):
            return
        said = script.feed(data)


def commands(scripts):
    return [command.split()[0] for script in scripts for command in script.commands]


@both_ways
@both_versions
def test_a_certificate_that_is_demanded_and_shown(demanding, authority, ca, own, option, version):
    with guarded(demanding(version), option) as (port, scripts):
        assert sends(URLS[option].format(port=port, ca=ca) + f"&cert={own(authority)}")
    assert scripts[-1].taken == [BODY]


@both_versions
def test_aiosmtpd_demands_one_and_gets_it_or_nothing(demanding, authority, ca, own, version):
    with serving(tls_context=demanding(version)) as (port, box):
        url = URLS["tls_context"].format(port=port, ca=ca)
        failure(url)
        assert box.seen == []
        assert sends(f"{url}&cert={own(authority)}")
    assert box.seen[-1] == BODY


def test_a_certificate_and_its_key_in_files_of_their_own(demanding, authority, ca, tmp_path):
    mine = authority.issue_cert("worker.example")
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with guarded(demanding(VERSIONS[1]), "ssl_context") as (port, _):
        url = URLS["ssl_context"].format(port=port, ca=ca)
        assert sends(f"{url}&cert={tmp_path}/cert.pem&key={tmp_path}/key.pem")


def test_a_certificate_that_nobody_asks_for_does_no_harm(authority, ca, own):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(tls_context=context) as (port, _):
        assert sends(URLS["tls_context"].format(port=port, ca=ca) + f"&cert={own(authority)}")


def test_a_renewed_certificate_is_shown_without_a_restart(demanding, authority, ca, own):
    file = own(trustme.CA())
    with guarded(demanding(VERSIONS[1]), "ssl_context") as (port, _):
        relay = Relay.parse(URLS["ssl_context"].format(port=port, ca=ca) + f"&cert={file}")
        with pytest.raises(ConnectFailed):
            Session.connect(relay, timeouts=PATIENT)
        own(authority)
        Session.connect(relay, timeouts=PATIENT).close()


@both_ways
@both_versions
def test_a_certificate_that_is_demanded_and_missing(demanding, ca, option, version):
    with guarded(demanding(version), option) as (port, scripts):
        said = failure(URLS[option].format(port=port, ca=ca))
    assert said.startswith(f"tls: TLS with 127.0.0.1:{port} failed: ")
    if version is ssl.TLSVersion.TLSv1_3:  # 1.2 has no alert for it, only a handshake that failed
        assert said.endswith("(it wants a certificate of ours, and the relay's URL says no cert)")
    assert commands(scripts) == (["EHLO", "STARTTLS"] if option == "tls_context" else [])


@both_ways
@both_versions
@pytest.mark.parametrize(
    ("stranger", "validity"),
    [(True, {}), (False, {"not_after": datetime.now(UTC) - timedelta(days=2)})],
    ids=["of a stranger", "expired"],
)
def test_a_certificate_of_ours_that_the_relay_refuses(
    demanding, authority, ca, own, option, version, stranger, validity
):
    file = own(trustme.CA() if stranger else authority, **validity)
    with guarded(demanding(version), option) as (port, scripts):
        said = failure(URLS[option].format(port=port, ca=ca) + f"&cert={file}")
    assert said.startswith(f"tls: TLS with 127.0.0.1:{port} failed: ")
    assert said.endswith(
        "(it doesn't know the authority of our certificate)" if stranger else "(our certificate has expired)"
    )
    assert commands(scripts) == (["EHLO", "STARTTLS"] if option == "tls_context" else [])


@pytest.mark.parametrize(
    ("shown", "guess"), [(False, "may want a certificate of ours"), (True, "may not accept our certificate")]
)
def test_a_relay_that_hangs_up_right_after_tls_leaves_us_to_guess(authority, ca, own, shown, guess):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def serve(server):
        connection, _ = server.accept()
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
            secure.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        port = server.getsockname()[1]
        url = URLS["ssl_context"].format(port=port, ca=ca)
        said = failure(f"{url}&cert={own(authority)}" if shown else url)
        thread.join(10)
    assert said == (
        f"tls: the connection to 127.0.0.1:{port} was lost: "
        f"it was closed right after the handshake of TLS (the relay {guess})"
    )


# The relay's


@both_ways
@pytest.mark.parametrize("trusted", [False, True])
def test_a_self_signed_certificate_is_good_only_for_who_trusts_it(tmp_path, ca, option, trusted):
    context = self_signed(tmp_path)
    with serving(**{option: context}) as (port, box):
        url = URLS[option].format(port=port, ca=tmp_path / "self.pem" if trusted else ca)
        if trusted:
            assert sends(url)
        else:
            assert failure(url) == (
                f"tls: the certificate of 127.0.0.1:{port} isn't valid: self-signed certificate"
            )
            assert box.seen == []


def self_signed(folder):
    """A context with a certificate that signed itself, which is in `self.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "self.pem").write_bytes(public)
    (folder / "both.pem").write_bytes(private + public)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "both.pem")
    return context


# STARTTLS


def test_starttls_that_somebody_stripped_from_ehlo_is_missed(ca):
    with ScriptedRelay(extensions=["PIPELINING", "AUTH PLAIN LOGIN"]) as relay:
        said = failure(URLS["tls_context"].format(port=relay.port, ca=ca))
    assert said == "tls: the relay offers no STARTTLS, and nothing goes in plain text"
    assert [command.split()[0] for command in relay.script.commands] == ["EHLO"]


@pytest.mark.parametrize("reply", ["454 4.7.0 TLS not available", "501 5.5.4 no", "421 4.3.2 closing"])
def test_starttls_that_is_refused(ca, reply):
    offers = ["STARTTLS", "AUTH PLAIN LOGIN"]
    with ScriptedRelay({"STARTTLS": reply}, offers) as relay:
        said = failure(URLS["tls_context"].format(port=relay.port, ca=ca))
    assert said == f"tls: {reply}"
    assert [command.split()[0] for command in relay.script.commands] == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(("reply", "words"), [(CLOSE, "closed it"), (HANG, "didn't answer in time")])
def test_starttls_that_is_not_answered(ca, reply, words):
    offers = ["STARTTLS", "AUTH PLAIN LOGIN"]
    with ScriptedRelay({"STARTTLS": reply}, offers) as relay:
        said = failure(URLS["tls_context"].format(port=relay.port, ca=ca), QUICK)
    assert words in said
    assert relay.script.commands[-1] == "STARTTLS"


HANDSHAKES = {
    "hangs up": (b"", "UNEXPECTED_EOF"),
    "says nothing": (None, "didn't answer in time"),
    "goes on in plain text": (b"250 as you were\r\n", "TLS with"),
    "refuses with an alert": (b"\x15\x03\x03\x00\x02\x02\x28", "HANDSHAKE_FAILURE"),
    "speaks garbage": (b"\x16\x03\x03\x00\x04\xff\xff\xff\xff", "TLS with"),
}
"""What a relay says instead of its part of the handshake; None: it waits."""


@both_ways
@pytest.mark.parametrize("way", HANDSHAKES)
def test_a_handshake_that_fails(ca, option, way):
    said_by_relay, words = HANDSHAKES[way]
    with spoiling(said_by_relay, starttls=option == "tls_context") as (port, heard):
        said = failure(URLS[option].format(port=port, ca=ca), QUICK)
    assert words in said
    assert said.startswith("tls: ")
    assert heard
    assert all(it.startswith((b"EHLO ", b"STARTTLS\r\n", b"\x16\x03", b"\x15\x03")) for it in heard), heard


@contextmanager
def spoiling(handshake, *, starttls):
    """A relay that answers the client's hello with these bytes; yields its port and what it has read."""
    heard = []
    over = threading.Event()

    def serve(server):
        connection, _ = server.accept()
        with connection:
            for reply in (b"220 hi\r\n", b"250-r\r\n250 STARTTLS\r\n", b"220 go\r\n") if starttls else ():
                connection.sendall(reply)
                heard.append(connection.recv(4096))
            if not starttls:
                heard.append(connection.recv(4096))
            connection.sendall(handshake or b"")
            if handshake is None:
                over.wait(10)
            else:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(4096):
                heard.append(data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_forgive_resets, args=(serve, server))
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            over.set()
            thread.join(10)


def _forgive_resets(serve, server):
    with suppress(ConnectionError):  # the client has left
        serve(server)

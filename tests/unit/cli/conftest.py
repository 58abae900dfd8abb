import asyncio
import functools
import json
import ssl
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailtasks.cli import run
from mailtasks.local.redis import free_port
from mailtasks.mailer import Mailer
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.relay import Relay
from mailtasks.settings import SETTINGS
from mailtasks.store.ledger import Result
from tests.bench import Bench


@dataclass(frozen=True)
class Ran:
    """What one call of the program did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Run `mailtasks` in an empty folder, with none of our variables set."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MAILTASKS_CONFIG", *(setting.variable for setting in SETTINGS.values())):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def live(cli, redis_url, monkeypatch):
    """`cli`, with a real Redis that is empty."""
    monkeypatch.setenv("MAILTASKS_BROKER_URL", redis_url)
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "Shop <shop@example.com>")
    return cli


@pytest.fixture
def nowhere(cli, monkeypatch):
    """`cli`, with a Redis that isn't there."""
    monkeypatch.setenv("MAILTASKS_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("MAILTASKS_DEFAULT_FROM", "shop@example.com")
    return cli


@pytest.fixture
def settle(live):
    """Give every recipient of a message a state, as a worker would."""

    def settle(id, state, reply=""):
        with Mailer() as mailer:
            claim = mailer.ledger.claim(id.partition(".")[0], "a worker")
            results = [
                Result(recipient.index, state, delay=3600, reply=reply, relay="mx.example.com:25")
                for message in claim.window
                for recipient in message.recipients
            ]
            mailer.ledger.release(claim, "a worker", results)

    return settle


@pytest.fixture
def campaign_send(live, tmp_path):
    """`mailtasks campaign send`, of the campaign spring; people given as bytes stand in people.csv."""
    (tmp_path / "mail.txt").write_text("Dear {{ name }},\n\tspring is here.\n")

    def call(people, *options, name="spring", subject="Hi {{ name }}", text="mail.txt"):
        if isinstance(people, bytes):
            (tmp_path / "people.csv").write_bytes(people)
            people = "people.csv"
        named = ("--name", name) if name else ()
        return live("campaign", "send", people, *named, "--subject", subject, "--text", text, *options)

    return call


@pytest.fixture
def worker(redis_url, sink):
    """What a worker does, in this process."""
    bench = Bench(redis_url, sink.url, RetryPolicy(retry_jitter=False))
    yield bench
    bench.close()


@pytest.fixture
def secure_relay(tmp_path):
    """Start a relay with a certificate of its own that is good for three more days."""
    ca, context = _certificate(tmp_path)
    servers = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def on_loop(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=5)

    async def listen(scheme):
        starttls = context if scheme == "smtp" else None
        implicit = context if scheme == "smtps" else None
        protocol = functools.partial(SMTP, object(), tls_context=starttls)
        servers.append(await loop.create_server(protocol, "127.0.0.1", 0, ssl=implicit))
        return servers[-1].sockets[0].getsockname()[1]

    async def close():
        for server in servers:
            server.close()
        # Conversations of clients that have left end by themselves, a moment later.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)

    def start(scheme):
        return Relay.parse(f"{scheme}://localhost:{on_loop(listen(scheme))}?tls=required&ca={ca}")

    yield start
    on_loop(close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(public)
    (folder / "server.pem").write_bytes(private + public)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context

import errno
import os
import socket
import ssl
import struct
import threading
import time

import pytest
import trustme

from mailtasks.relay import Relay
from mailtasks.smtp.loop import Loop
from mailtasks.smtp.transport import Transport, UnusableAddress, UnusableFile, explain, tls_context

RELAY = Relay.parse("smtp://relay.example:2525?tls=none")


@pytest.fixture
def pair():
    """A transport, and the socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = Transport.connect("127.0.0.1", server.getsockname()[1], 5)
        far, _ = server.accept()
    with far:
        yield transport, far
    transport.close()


def soon():
    return time.monotonic() + 5


def send(transport, data, seconds=5):
    Loop().run(transport.fileno(), transport.send(data, seconds))


def receive(transport, deadline=None):
    return Loop().run(transport.fileno(), transport.receive(deadline or soon()))


def test_bytes_go_and_come(pair):
    transport, far = pair
    send(transport, b"EHLO\r\n")
    assert (far.recv(100), transport.unsent) == (b"EHLO\r\n", 0)
    far.sendall(b"250 ok\r\n")
    assert receive(transport) == b"250 ok\r\n"


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_what_the_network_doesnt_take_at_once_goes_behind_it(pair, size):
    transport, far = pair
    transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pattern = bytes(range(256)) * (size // 256 + 1)
    flights = [pattern[:size], pattern[1 : size + 1]] * 4
    read = []
    reader = threading.Thread(target=lambda: read.append(read_all(far, size * len(flights))))
    reader.start()
    for flight in flights:
        send(transport, flight)
    reader.join(10)
    assert read == [b"".join(flights)]


def read_all(connected, size):
    data = bytearray()
    while len(data) < size:
        data += connected.recv(2048)
    return bytes(data)


def test_a_write_on_a_lost_connection_says_what_the_system_says(pair):
    transport, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()  # with a reset
    with pytest.raises(ConnectionResetError):
        receive(transport)
    with pytest.raises(BrokenPipeError):
        send(transport, b"RSET\r\n")
    assert transport.unsent == 6


def test_the_end_is_no_bytes(pair):
    transport, far = pair
    far.shutdown(socket.SHUT_WR)
    assert receive(transport) == b""


def test_reading_ends_at_the_deadline(pair):
    transport, _ = pair
    with pytest.raises(TimeoutError):
        receive(transport, time.monotonic() + 0.02)


def test_writing_ends_when_nothing_is_taken_and_what_is_unsent_is_known(pair):
    transport, far = pair
    size = 50_000_000
    with pytest.raises(TimeoutError):
        send(transport, b"x" * size, 0.05)
    taken = 0
    far.setblocking(True)
    transport.close()
    while piece := far.recv(1 << 20):
        taken += len(piece)
    assert taken == size - transport.unsent
    assert 0 < transport.unsent < size


def test_a_server_that_talks_before_it_listens_on_is_heard(pair):
    """Both would wait for ever if we only wrote (RFC 2920 3.1)."""
    transport, far = pair
    replies, data = b"250 ok\r\n" * 5000, b"x" * 10_000_000
    received = []

    def serve():
        far.sendall(replies)
        while sum(received) < len(data):
            received.append(len(far.recv(1 << 20)))

    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = threading.Thread(target=serve)
    server.start()
    send(transport, data)
    heard = b""
    while len(heard) < len(replies):
        heard += receive(transport)
    server.join(5)
    assert heard == replies
    assert sum(received) == len(data)


def test_a_server_that_hangs_up_while_we_write_is_noticed(pair):
    transport, far = pair
    threading.Timer(0.05, far.close).start()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        send(transport, b"x" * 50_000_000)
    assert transport.unsent > 0


def test_silence_is_what_an_idle_connection_should_have(pair, wait_until):
    transport, far = pair
    assert transport.silent()
    far.sendall(b"421 bye\r\n")
    wait_until(lambda: not transport.silent())


def test_a_closed_end_is_no_silence(pair, wait_until):
    transport, far = pair
    far.close()
    wait_until(lambda: not transport.silent())


def test_our_name_needs_no_look_up(pair, monkeypatch):
    transport, _ = pair
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    assert transport.local_name() == "[127.0.0.1]"
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.com")
    assert transport.local_name() == "box.example.com"


def test_a_name_that_is_none_is_a_failed_look_up():
    with pytest.raises(socket.gaierror):
        Transport.connect("x" * 64 + ".example", 25, 1)


def test_every_address_of_a_host_is_tried(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refusing = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", port))
        open_one = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [refusing, open_one])
        Transport.connect("relay.example", port, 5).close()


def test_certificates_and_names_are_verified():
    context = tls_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_ca_file_that_is_none_is_told(tmp_path):
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    with pytest.raises(UnusableFile) as raised:
        tls_context(str(empty))
    assert str(raised.value).startswith(f"the ca file '{empty}' can't be used (")


def test_a_context_is_made_once_and_again_when_a_file_has_changed(tmp_path):
    ca, own = tmp_path / "ca.pem", tmp_path / "own.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("worker.example").private_key_and_cert_chain_pem.write_to_path(str(own))
    first = tls_context(str(ca), str(own))
    assert tls_context(str(ca), str(own)) is first
    authority.issue_cert("worker.example").private_key_and_cert_chain_pem.write_to_path(str(own))
    os.utime(own, ns=(1, 1))  # a clock may be too coarse to tell
    assert tls_context(str(ca), str(own)) is not first


def test_a_certificate_of_ours_that_was_spoilt_is_told(tmp_path):
    own = tmp_path / "own.pem"
    own.write_text("nothing")
    with pytest.raises(UnusableFile) as raised:
        tls_context(None, str(own))
    assert str(raised.value) == (
        f"our certificate can't be shown: its cert file '{own}' holds no certificate (expected PEM)"
    )


IPV6 = ["::1"] if socket.has_dualstack_ipv6() else []


@pytest.mark.parametrize("local", ["127.0.0.1", "127.0.0.7", *IPV6])
def test_the_address_to_send_from(local):
    family, host = (socket.AF_INET6, "::1") if ":" in local else (socket.AF_INET, "127.0.0.1")
    with socket.create_server((host, 0), family=family) as server:
        transport = Transport.connect(host, server.getsockname()[1], 5, local)
        far, (address, *_) = server.accept()
        far.close()
        transport.close()
    assert address == local


def test_only_addresses_of_the_local_ones_family_are_tried(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        look_up = socket.getaddrinfo
        six = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", port, 0, 0))
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *a, **k: (
                [six, *look_up("127.0.0.1", port, type=1)]
                if host == "relay.example"
                else look_up(host, *a, **k)
            ),
        )
        Transport.connect("relay.example", port, 5, "127.0.0.1").close()


def test_a_host_without_an_address_of_that_family_is_told():
    with pytest.raises(UnusableAddress) as raised:
        Transport.connect("127.0.0.1", 25, 1, "::1")
    assert str(raised.value) == "127.0.0.1 has no IPv6 address, and the local address ::1 is one"


def test_a_local_address_that_is_another_machines_is_told():
    with pytest.raises(UnusableAddress) as raised:
        Transport.connect("127.0.0.1", 25, 1, "192.0.2.1")
    assert str(raised.value) == (
        "the local address 192.0.2.1 can't be sent from (Cannot assign requested address)"
    )


def alert(reason):
    error = ssl.SSLError(1, "x")
    error.reason = reason
    return error


def verification_error():
    error = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "DNS knows no address for relay.example (Name or service not known)",
        ),
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            "DNS for now knows no address for relay.example (Temporary failure in name resolution)",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused by relay.example:2525"),
        (TimeoutError("x"), "relay.example:2525 didn't answer in time"),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            "the connection to relay.example:2525 was lost: Connection reset by peer",
        ),
        (ConnectionResetError("it closed"), "the connection to relay.example:2525 was lost: it closed"),
        (
            verification_error(),
            "the certificate of relay.example:2525 isn't valid: certificate has expired",
        ),
        (UnusableFile("the ca file 'x' can't be used (y)"), "the ca file 'x' can't be used (y)"),
        (UnusableAddress("the local address x is y"), "the local address x is y"),
        (alert("WRONG_VERSION_NUMBER"), "TLS with relay.example:2525 failed: WRONG_VERSION_NUMBER"),
        (
            alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            "TLS with relay.example:2525 failed: TLSV13_ALERT_CERTIFICATE_REQUIRED "
            "(it wants a certificate of ours, and the relay's URL says no cert)",
        ),
    ],
)
def test_a_failure_is_explained_to_people(error, sentence):
    assert explain(error, RELAY) == sentence

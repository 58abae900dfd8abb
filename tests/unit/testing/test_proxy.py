import socket
import subprocess
import sys
import threading
import time

import pytest

from mailtasks.testing.proxy import Proxy


@pytest.fixture
def echo():
    """The port of a server that says back what it hears."""

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def connect(port, seconds=5.0):
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def ask(client, question):
    client.sendall(question)
    answer = b""
    while len(answer) < len(question):
        answer += client.recv(65536)
    return answer


def test_bytes_pass_in_order_both_ways(echo):
    data = bytes(range(256)) * 4000
    with Proxy("127.0.0.1", echo, round_trip=0.01) as proxy, connect(proxy.port) as client:
        assert ask(client, data) == data


def test_a_question_and_its_answer_take_a_round_trip(echo):
    with Proxy("127.0.0.1", echo, round_trip=0.1) as proxy, connect(proxy.port) as client:
        ask(client, b"warm up")
        start = time.monotonic()
        ask(client, b"hello")
        assert 0.1 <= time.monotonic() - start < 0.3


def test_the_end_passes_too(echo):
    with Proxy("127.0.0.1", echo) as proxy, connect(proxy.port) as client:
        ask(client, b"hello")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""


def test_what_ends_in_good_order_is_closed_at_both_ends(echo, wait_until):
    with Proxy("127.0.0.1", echo) as proxy:
        for _ in range(3):
            with connect(proxy.port) as client:
                ask(client, b"hello")
        wait_until(lambda: not proxy._sides)


def test_who_leaves_before_the_server_is_reached_leaves_nothing_behind(wait_until):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy("127.0.0.1", server.getsockname()[1]) as proxy,
    ):
        for _ in range(3):
            connect(proxy.port).close()
        for _ in range(3):
            far, _ = server.accept()
            with far:
                assert far.recv(100) == b""
        wait_until(lambda: not proxy._sides)


def test_cut_ends_every_connection_and_new_ones_are_welcome(echo, wait_until):
    with Proxy("127.0.0.1", echo) as proxy:
        with connect(proxy.port) as client:
            ask(client, b"hello")
            proxy.cut()
            assert client.recv(100) == b""
        wait_until(lambda: proxy.connections == 0)
        with connect(proxy.port) as client:
            assert ask(client, b"again") == b"again"


def test_hang_passes_nothing_until_resumed(echo):
    with Proxy("127.0.0.1", echo) as proxy, connect(proxy.port, 0.1) as client:
        ask(client, b"hello")
        proxy.hang()
        client.sendall(b"anybody?")
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.resume()
        client.settimeout(5)
        assert client.recv(100) == b"anybody?"


def test_a_server_that_is_not_there_is_a_closed_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Proxy("127.0.0.1", port) as proxy, connect(proxy.port) as client:
        assert client.recv(100) == b""


def test_as_a_command_it_ends_with_its_input(echo):
    command = [sys.executable, "-m", "mailtasks.testing.proxy", "127.0.0.1", str(echo), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with connect(int(process.stdout.readline())) as client:
            assert ask(client, b"hello") == b"hello"
        process.stdin.close()
        assert process.wait(10) == 0

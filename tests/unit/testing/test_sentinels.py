"""A Redis that fails over as a test wants it to."""

from __future__ import annotations

from mailtasks.testing import wait_until
from mailtasks.testing.sentinels import WatchedRedis


def test_what_the_master_took_while_the_replicas_were_cut_off_is_forgotten() -> None:
    with WatchedRedis() as watched:
        old = watched.master
        with old.client() as client:
            client.set("known", 1)
            watched.synchronise()
            watched.hold_back()
            client.set("forgotten", 1)
        old.kill()
        watched.wait_for_failover()
        new = watched.master
        assert new is not old
        with new.client() as client:
            assert client.keys() == [b"known"]
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1)


def test_nothing_is_left_behind() -> None:
    with WatchedRedis(replicas=1) as watched:
        folders = [watched._folder, *(server.folder for server in watched.servers)]
        assert len(watched.servers) == 2
    assert not any(folder.exists() for folder in folders)
    assert not any(child.running for child in (*watched.servers, *watched.sentinels))

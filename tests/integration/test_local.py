"""The local servers as an installation on one machine uses them, and against programs from elsewhere."""

import contextlib
import smtplib
import subprocess
import threading

import pytest
import redis

from mailtasks.testing import (
    CatchingProcess,
    CatchingServer,
    LocalRedis,
    descendants,
    empty,
    program,
    wait_until,
)

MAILS = 500
SOURCE = ["-s", "8", "-m", str(MAILS), "-f", "ann@example.com", "-t", "bob@example.com"]


@pytest.mark.needs("smtp-source")
def test_postfix_own_generator_is_served():
    with CatchingServer() as server:
        subprocess.run(
            [program("smtp-source"), *SOURCE, f"inet:127.0.0.1:{server.port}"],
            check=True,
            timeout=60,
        )
        assert len(server.wait_for(MAILS)) == MAILS
        assert sum(server.accepted.values()) == MAILS
        assert server.violations == []


def test_many_threads_and_a_killed_server_leave_a_sound_book():
    """Every 250 that a client was given is in the journal, though the server was killed in between."""
    answered = set()

    def client(number):
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as smtp:
            for mail in range(MAILS):
                name = f"<{number}.{mail}@example.com>"
                smtp.sendmail("ann@example.com", "bob@example.com", f"Message-ID: {name}\r\n\r\nhello\r\n")
                answered.add((name, "bob@example.com"))

    def until_it_dies(number):
        with contextlib.suppress(smtplib.SMTPException, OSError):
            client(number)

    with CatchingProcess() as relay:
        threads = [threading.Thread(target=until_it_dies, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > MAILS / 2)
        relay.kill()
        for thread in threads:
            thread.join()
        assert len(answered) < 4 * MAILS
        assert answered <= relay.accepted.keys()


def test_two_private_servers_do_not_see_each_other(own_redis, redis_server):
    with own_redis.client() as one, redis_server.client() as other:
        one.set("mail", "mine")
        assert other.get("mail") is None


def test_only_a_server_of_our_own_is_flushed(own_redis, tmp_path):
    with own_redis.client() as client:
        client.set("mail", "theirs")
    stranger = LocalRedis(folder=tmp_path, port=own_redis.port)
    with pytest.raises(RuntimeError, match=f"keeps its data in {own_redis.folder}, so it isn't ours"):
        empty(stranger)
    with own_redis.client() as client:
        assert client.get("mail") == b"theirs"
    empty(own_redis)
    with own_redis.client() as client:
        assert client.get("mail") is None


def test_the_fixture_gives_an_empty_database(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_what_runs_is_found_by_its_mark(own_redis, session_mark):
    assert any(line.startswith(f"{own_redis.pid} ") for line in descendants(session_mark))
    own_redis.stop()
    wait_until(lambda: not any(line.startswith(f"{own_redis.pid} ") for line in descendants(session_mark)))


def test_waiting_in_vain_says_for_what():
    with pytest.raises(TimeoutError) as caught:
        wait_until(lambda: [], timeout=0.01, what="the end of the world")
    assert str(caught.value) == "the end of the world didn't come within 0.01 s; last: []"

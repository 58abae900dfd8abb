import pytest

from mailtasks.mailer import Mailer
from mailtasks.message import PRIORITIES
from mailtasks.state import State


def send(live, *options):
    return live("send", "--to", "ann@example.com", "--text", "It works", *options).out.strip()


def test_stats(live, settle):
    ids = [send(live) for _ in range(3)]
    settle(ids[0], State.SENT)
    figures = live("stats", "--json").json
    assert figures["accepted"] == 3
    assert figures["states"] == dict.fromkeys(State, 0) | {"queued": 2, "sent": 1}
    assert figures["response_times"]["normal"]["count"] == 1


def test_stats_for_people(live):
    send(live)
    lines = [" ".join(line.split()) for line in live("stats").out.splitlines()]
    assert "queued 1" in lines
    assert "accepted 1" in lines
    assert any(line.startswith("success rate of the last hour") for line in lines)
    assert any(line.startswith("RESPONSE TIMES") for line in lines)


def test_rates_say_over_what(live):
    assert "sent a second (over the last 5 whole minutes)  0\n" in live("stats").out


def test_an_empty_ledger_is_named(live, redis_url):
    assert live("stats").out.endswith(f"nothing was ever accepted in {redis_url}; is that the right Redis?\n")
    assert live("queue").out.endswith(f"nothing waits in {redis_url}\n")
    send(live)
    assert redis_url not in live("stats").out + live("queue").out


def test_queue_has_each_priority(live):
    send(live, "--priority", "bulk")
    queues = live("queue", "--json").json
    assert list(queues) == [priority.value for priority in PRIORITIES]
    assert [queues[name]["recipients"] for name in queues] == [0, 0, 1]
    assert queues["bulk"]["hints"] == 1
    assert queues["bulk"]["oldest"] is not None


def test_queue_for_people(live):
    live("pause", "bulk")
    rows = [line.split() for line in live("queue").out.splitlines()[1:4]]
    assert [row[0] for row in rows] == [priority.value for priority in PRIORITIES]
    assert ["no" in row for row in rows] == [True, True, False]


def test_a_paused_mail_is_due_at_no_time(live):
    batch = send(live).partition(".")[0]
    live("pause")
    with Mailer() as mailer:
        mailer.ledger.claim(batch, "a worker")
    row = live("queue").out.splitlines()[2].split()
    assert row[:5] == ["normal", "1", "1", "0", "-"]
    assert live("queue", "--json").json["normal"]["next_due"] is None


@pytest.mark.parametrize("what", [(), ("urgent",)])
def test_pause_and_resume(live, what):
    name = what[0] if what else "all"
    assert live("pause", *what).out == f"{name}: paused\n"
    paused = {it["priority"] for it in live("queue", "--json").json.values() if it["paused"]}
    assert paused == (set(what) or {"urgent", "normal", "bulk"})
    assert live("resume", *what).out == f"{name}: resumed\n"
    assert live("resume", *what).out == f"{name}: not paused\n"
    assert not any(it["paused"] for it in live("queue", "--json").json.values())


def test_pause_json(live):
    assert live("pause", "bulk", "--json").json == {"what": "bulk", "paused": True}
    assert live("resume", "bulk", "--json").json == {"what": "bulk", "paused": False}


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_priority(live, command):
    ran = live(command, "asap")
    assert (ran.code, ran.out) == (2, "")
    assert "'asap' can't be paused or resumed" in ran.err


def test_one_priority_is_resumed_while_everything_is_paused(live):
    live("pause")
    live("pause", "bulk")
    still = "everything is still paused, until `mailtasks resume`"
    assert live("resume", "bulk").out == f"bulk: resumed; {still}\n"
    assert live("resume", "bulk").out == f"bulk: not paused; {still}\n"
    assert live("resume", "bulk", "--json").json == {"what": "bulk", "paused": True}


def test_sweep_finds_nothing(live, settle):
    settle(send(live), State.SENT)
    send(live)
    ran = live("sweep")
    assert (ran.code, ran.out) == (0, "nothing is astray\n")
    assert live("sweep", "--json").json == []


def test_sweep_exits_1_if_it_found_something(live):
    batch = send(live).partition(".")[0]
    with Mailer() as mailer:
        mailer.redis.zrem(mailer.ledger.keys.due(PRIORITIES[1]), batch)
    ran = live("sweep", "--json")
    found = "it is unfinished, and was never to be looked at again"
    assert (ran.code, ran.json) == (1, [{"batch": batch, "found": found}])
    assert live("sweep").code == 0
    assert live("stats", "--json").json["tallies"]["swept"] == 1


def test_blobs(live, redis_url, tmp_path):
    (tmp_path / "terms.pdf").write_bytes(b"%PDF" * 25_000)
    send(live, "--attach", "terms.pdf")
    send(live, "--attach", "terms.pdf")
    found = live("blobs", "--json").json
    assert (found["stored"], found["bytes"], found["cap"]) == (1, 100_000, 268_435_456)
    lines = [" ".join(line.split()) for line in live("blobs").out.splitlines()]
    assert lines[1:3] == ["attachments 1", "bytes 100000"]
    assert lines[0].startswith("where Redis at ")

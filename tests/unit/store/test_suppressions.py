"""The suppression list and the moves that obey it, on a real Redis with a clock of our own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from mailtasks.errors import AddressError, MessageError, StoreUnavailable
from mailtasks.state import State
from mailtasks.store.connection import Client
from mailtasks.store.ledger import Acceptance, Ledger, Refusal, Result, new_claim
from mailtasks.store.suppressions import Suppressions
from mailtasks.suppression import Suppression

from .bench import CLOCK, LIMITS, OWNER, Bench, results, window

MANY = 60  # more than the ledger remembers one by one
DAY = 86_400


@pytest.fixture
def listed(bench: Bench) -> Suppressions:
    return Suppressions(bench.ledger)


def to(*recipients: str) -> Callable[[Bench], str]:
    """Accept a batch of single mails."""

    def accept(bench: Bench) -> str:
        batch = msgspec.structs.replace(bench.new(*[1] * len(recipients)), recipients=recipients)
        bench.ledger.accept([batch])
        return batch.id

    return accept


@pytest.fixture
def asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets how many mailboxes were asked for, each time that the whole list is."""
    listed, asked = bench.ledger.listed, []

    def spy(mailboxes: Collection[str]) -> set[str]:
        asked.append(len(mailboxes))
        return listed(mailboxes)

    monkeypatch.setattr(bench.ledger, "listed", spy)
    return asked


# The list


def test_an_address_is_known_in_whatever_way_it_is_written(listed: Suppressions) -> None:
    assert listed.add("Ann <Ann@EXAMPLE.com>", "jörg@Straße.example") == 2
    assert "ann@example.com" in listed
    assert "ANN@example.COM" in listed
    assert "Jörg@xn--strae-oqa.example" in listed
    assert "bob@example.com" not in listed
    assert {it.address for it in listed} == {"ann@example.com", "jörg@xn--strae-oqa.example"}
    assert len(listed) == 2


def test_an_entry_says_why_by_whom_and_since_when(bench: Bench, listed: Suppressions) -> None:
    listed.add("ann@example.com", reason=" asked \n by phone ", source="complaint")
    now = datetime.fromtimestamp(bench.now / 1000, UTC)
    wanted = Suppression("ann@example.com", "asked by phone", "complaint", now)
    assert listed.get("Ann@example.com") == wanted
    assert list(listed) == [wanted]
    assert listed.get("bob@example.com") is None


def test_adding_replaces_what_is_said_and_updating_leaves_it(bench: Bench, listed: Suppressions) -> None:
    assert listed.add("ann@example.com", reason="first") == 1
    bench.later(5)
    assert listed.add("ann@example.com", reason="second") == 0
    assert listed.update([Suppression("ann@example.com", "third", "import")]) == 0
    entry = listed.get("ann@example.com")
    assert entry is not None
    assert (entry.reason, entry.source) == ("second", "operator")


def test_what_is_brought_in_keeps_its_time(listed: Suppressions) -> None:
    then = datetime(2020, 2, 29, 12, 0, 0, 123_000, UTC)
    brought = [Suppression(f"{n}@example.com", "", "unsubscribe", then) for n in range(2500)]
    assert listed.update(iter(brought)) == 2500
    assert sorted(listed, key=lambda it: int(it.address.partition("@")[0])) == brought


def test_what_is_brought_in_is_checked(listed: Suppressions) -> None:
    assert listed.update([Suppression("Ann <Ann@Example.com>", "a\nb")]) == 1
    assert listed.get("ann@example.com") is not None
    with pytest.raises(AddressError):
        listed.update([Suppression("nonsense")])


def test_removing(listed: Suppressions) -> None:
    listed.add("ann@example.com", "bob@example.com")
    assert listed.remove("ANN@example.com", "eve@example.com") == 1
    assert [it.address for it in listed] == ["bob@example.com"]
    assert listed.remove() == listed.add() == 0


@pytest.mark.parametrize("move", ["add", "remove", "get"])
def test_what_is_no_address_is_refused_before_anything_is_done(listed: Suppressions, move: str) -> None:
    listed.add("bob@example.com")
    with pytest.raises(AddressError, match=r"^'nonsense' is no mail address: "):
        getattr(listed, move)(*(["nonsense"] if move == "get" else ["bob@example.com", "nonsense"]))
    assert len(listed) == 1


def test_a_source_is_a_word(listed: Suppressions) -> None:
    with pytest.raises(MessageError) as raised:
        listed.add("ann@example.com", source="No word")
    assert str(raised.value) == (
        "'No word' is no source of a suppression: write one word, in lower case and of at most 32 letters, "
        "such as operator, import, bounce, unsubscribe, complaint"
    )


def test_an_entry_of_another_making_is_one_all_the_same(
    bench: Bench, redis: Client, listed: Suppressions
) -> None:
    listed.add("ann@example.com")
    redis.hset(bench.keys.suppressed, "bob@example.com", b"\xff of a hand")
    id = to("bob@example.com")(bench)
    assert bench.states(id) == "u"
    assert {it.address: it.source for it in listed} == {"ann@example.com": "operator", "bob@example.com": ""}
    assert bench.status(id)[0].reply.startswith("on the suppression list since 1970-01-01 00:00 UTC ()")


def test_a_list_is_true_though_it_is_empty(listed: Suppressions) -> None:
    assert listed
    assert len(listed) == 0


# Accept


def test_who_is_on_the_list_is_suppressed_from_the_beginning(bench: Bench, listed: Suppressions) -> None:
    listed.add("B@Example.com", reason="asked")
    batch = msgspec.structs.replace(
        bench.new(1, 2, 1), recipients=("a@example.com", "b@example.com", "c@example.com", "B@example.com")
    )
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, True)]
    assert bench.states(batch.id) == "ququ"
    counts = [bench.count(name) for name in ("accepted", "queued", "suppressed", "unfinished:bulk")]
    assert counts == [4, 2, 2, 2]
    assert bench.ledger.accept([batch]) == [(Acceptance.SAME, True)]
    assert bench.count("accepted") == 4
    claim = bench.claim(batch.id)
    assert [[it.address for it in message.recipients] for message in claim.window] == [
        ["a@example.com"],
        ["c@example.com"],
    ]
    _, second, _, fourth = bench.status(batch.id)
    assert second.suppression == fourth.suppression
    assert second.suppression is not None
    assert (second.suppression.address, second.suppression.source) == ("b@example.com", "operator")
    assert second.reply == "on the suppression list since 2023-11-14 22:13 UTC (operator): asked"
    assert (second.attempts, second.tried_at) == (0, None)


def test_the_minute_knows_of_it(bench: Bench, redis: Client, listed: Suppressions) -> None:
    listed.add("a@example.com")
    to("a@example.com", "b@example.com")(bench)
    [minute] = redis.keys(bench.keys.minute(0)[:-1] + "*")
    assert {name: int(value) for name, value in redis.hgetall(minute).items()} == {
        b"accepted": 2,
        b"suppressed": 1,
    }


def test_a_batch_of_which_all_are_suppressed_is_finished(bench: Bench, listed: Suppressions) -> None:
    listed.add("0@example.com", "1@example.com")
    batch = bench.new(1, 1)
    assert bench.ledger.accept([batch]) == [(Acceptance.NEW, False)]
    assert bench.ledger.accept([batch]) == [(Acceptance.SAME, False)]
    assert (bench.states(batch.id), bench.due(batch.id)) == ("uu", None)
    assert [bench.count(name) for name in ("accepted", "queued", "suppressed", "unfinished:bulk")] == [
        2,
        0,
        2,
        0,
    ]
    assert all(0 < seconds <= LIMITS.retention for seconds in bench.lives(batch.id))
    assert bench.refused(batch.id) == Refusal.NOTHING
    assert bench.ledger.sweep() == []


def test_a_paused_batch_of_which_all_are_suppressed_waits_at_no_gate(
    bench: Bench, listed: Suppressions
) -> None:
    listed.add("0@example.com")
    bench.ledger.pause("all")
    assert bench.waits(bench.accept()) == set()


def test_a_message_to_thousands_is_looked_up_in_slices(bench: Bench, listed: Suppressions) -> None:
    listed.add("0@example.com", "999@example.com", "1000@example.com", "2499@example.com")
    states = bench.states(bench.accept(2500))
    assert [index for index, state in enumerate(states) if state == "u"] == [0, 999, 1000, 2499]


def test_a_ledger_that_knows_of_no_list_asks_once(
    bench: Bench, redis: Client, listed: Suppressions, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.add("0@example.com")
    other = Ledger(redis, bench.keys, LIMITS, CLOCK)
    run, calls = other._scripts.run_confirmed, []

    def spy(*arguments: Any) -> Any:
        calls.append(arguments[0])
        return run(*arguments)

    monkeypatch.setattr(other._scripts, "run_confirmed", spy)
    for expected in (2, 3):
        batch = bench.new(1, 1)
        assert other.accept([batch]) == [(Acceptance.NEW, True)]
        assert bench.states(batch.id) == "uq"
        assert len(calls) == expected


def test_of_many_batches_those_are_named_again_that_have_to_be(bench: Bench, listed: Suppressions) -> None:
    held = bench.new(1)
    bench.ledger.accept([held])
    listed.add("0@example.com")
    new = bench.new(1, 1)
    assert bench.ledger.accept([held, new]) == [(Acceptance.SAME, True), (Acceptance.NEW, True)]
    assert (bench.states(held.id), bench.states(new.id)) == ("q", "uq")


def test_if_redis_goes_away_between_the_two_the_error_says_what_may_be_in(
    bench: Bench, listed: Suppressions, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = bench.new(1)
    bench.ledger.accept([held])
    listed.add("0@example.com")
    new = bench.new(1)
    accept = bench.ledger.accept

    def once(batches: Any) -> Any:
        monkeypatch.setattr(bench.ledger, "accept", away)
        return accept(batches)

    def away(batches: Any) -> Any:
        raise StoreUnavailable("it is away")

    with pytest.raises(StoreUnavailable) as raised:
        once([held, new])
    assert raised.value.ids == (f"{held.id}.0", f"{new.id}.0")
    bench.ledger._names_mailboxes = False
    with pytest.raises(StoreUnavailable) as raised:
        once([new])
    assert raised.value.ids == ()


# Between accept and sending


def test_nobody_is_sent_mail_who_came_on_the_list_meanwhile(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 2, 1)
    listed.add("1@example.com", "3@example.com")
    claim = bench.claim(id)
    assert window(claim) == [0, 2]
    assert bench.states(id) == "ssss"
    bench.ledger.release(claim, OWNER, results(claim, State.SENT, State.SENT))
    assert bench.states(id) == "+u+u"
    assert [bench.count(name) for name in ("sent", "suppressed", "unfinished:bulk", "doubts")] == [2, 2, 0, 0]
    assert bench.status(id)[1].reply == "on the suppression list since 2023-11-14 22:13 UTC (operator)"
    assert bench.ledger.sweep() == []


def test_the_rest_of_the_batch_is_suppressed_with_the_window(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(*[1] * 20)
    listed.add("0@example.com", "15@example.com")
    claim = bench.claim(id)
    assert window(claim) == [1, 2, 3, 4, 5, 6, 7]
    bench.ledger.step(claim, OWNER, results(claim, *[State.SENT] * 7))
    assert bench.states(id) == "u" + "+" * 7 + "s" * 7 + "us" + "qqq"


def test_a_window_of_which_nobody_is_left_is_over(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 1)
    listed.add("0@example.com", "1@example.com")
    claim = bench.claim(id)
    assert claim.window == ()
    released = bench.ledger.step(claim, OWNER, [])
    assert released is not None
    assert (released.why, bench.states(id), bench.due(id)) == (Refusal.NOTHING, "uu", None)


def test_who_was_deferred_is_suppressed_before_the_next_attempt(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.DEFERRED, State.SENT, delay=60)
    listed.add("0@example.com")
    bench.pass_time(60)
    claim = bench.claim(id)
    assert claim.window == ()
    bench.ledger.release(claim, OWNER, [])
    assert bench.states(id) == "u+"
    assert bench.tries(id).attempts == 1


def test_who_was_taken_off_since_is_sent_mail(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 1)
    listed.add("0@example.com")
    claim = bench.claim(id)
    listed.remove("0@example.com")
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None
    assert (window(claim), bench.states(id)) == ([0], "s+")


def test_a_worker_that_dies_with_whom_it_withheld_leaves_doubt_like_any_other(
    bench: Bench, listed: Suppressions
) -> None:
    id = bench.accept()
    listed.add("0@example.com")
    bench.claim(id)
    bench.pass_time(70)
    assert bench.states(id) == "?"


def test_a_step_without_an_answer_finds_the_same_again(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 1)
    listed.add("1@example.com")
    claim = new_claim(id)
    for _ in range(2):
        again = replace(claim)
        assert bench.ledger.step(again, OWNER, []) is None
        assert (window(again), bench.states(id)) == ([0], "ss")


def test_if_the_list_cant_be_asked_the_step_can_be_repeated(
    bench: Bench, listed: Suppressions, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = bench.accept(1, 1)
    listed.add(*(f"{n}@example.com" for n in range(1, MANY)))
    claim = new_claim(id)

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "listed", away)
        with pytest.raises(StoreUnavailable) as raised:
            bench.ledger.step(claim, OWNER, [])
    assert raised.value.unanswered, "its window is claimed"
    assert bench.ledger.step(claim, OWNER, []) is None
    assert (window(claim), bench.states(id)) == ([0], "ss")


def test_late_evidence_takes_nobody_past_the_list(bench: Bench, listed: Suppressions) -> None:
    """In doubt when the batch was held against the list, and queued again since it was never begun."""
    id = bench.accept(1, 1)
    late = bench.claim(id, most=1)
    bench.pass_time(70)
    assert bench.states(id) == "?q"
    listed.add("0@example.com")
    claim = bench.claim(id)
    bench.ledger.release(claim, OWNER, results(claim, State.QUEUED))
    assert bench.states(id) == "?q"
    assert bench.ledger.release(late, OWNER, results(late, State.QUEUED)).evidence == 1
    assert window(bench.claim(id)) == [1]


def test_a_retry_takes_nobody_past_the_list(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.FAILED)
    listed.add("0@example.com")
    claim = bench.claim(id)
    bench.ledger.release(claim, OWNER, results(claim, State.QUEUED))
    bench.ledger.retry(id, {0: State.FAILED})
    assert window(bench.claim(id)) == [1]


def test_a_retry_amid_a_check_takes_nobody_past_the_list(bench: Bench, listed: Suppressions) -> None:
    """The check is about who was added lately; the retried one was long before, when there was no need."""
    id = bench.accept(1, 1, 1)
    listed.add("8@example.com")
    bench.settle(id, State.FAILED)
    listed.add("0@example.com")
    bench.settle(id, State.QUEUED)
    listed.add("9@example.com")
    claim = bench.claim(id, most=1)
    assert (window(claim), claim.listed) == ([1], {})
    bench.ledger.retry(id, {0: State.FAILED})
    assert bench.ledger.step(claim, OWNER, results(claim, State.SENT)) is None
    assert window(claim) == [2]


def test_after_removal_a_retry_sends(bench: Bench, listed: Suppressions) -> None:
    listed.add("0@example.com")
    id = bench.accept()
    listed.remove("0@example.com")
    assert bench.refused(id) == Refusal.NOTHING
    assert bench.ledger.retry(id, {0: State.SUPPRESSED}) == (1, 0)
    bench.settle(id, State.SENT)
    assert bench.states(id) == "+"
    assert bench.status(id)[0].suppression is None


def test_who_looked_at_what_a_failover_has_forgotten_looks_again(bench: Bench, listed: Suppressions) -> None:
    """Marks are made by chance: what is added later has none that a batch could hold already."""
    id = bench.accept(1, 1, 1)
    claim = bench.claim(id, most=1)
    memory = bench.memory()
    listed.add("9@example.com")
    bench.ledger.step(claim, OWNER, results(claim, State.SENT), most=1)
    forgotten = claim.checked[1]
    bench.recall(memory)
    bench.ledger.release(claim, OWNER, results(claim, State.QUEUED))
    assert (bench.field(id, "v") or b"").decode() == forgotten
    listed.add("2@example.com")
    assert window(bench.claim(id)) == [1]


# What it costs


@pytest.mark.parametrize("additions", [1, MANY])
def test_the_whole_list_is_asked_for_only_after_many_additions(
    bench: Bench, listed: Suppressions, asked: list[int], additions: int
) -> None:
    listed.add("first@example.com")
    id = bench.accept(1, 1)
    claim = bench.claim(id, most=1)
    assert asked == []
    listed.add(*(f"{n}@example.com" for n in range(1, additions + 1)))
    bench.ledger.step(claim, OWNER, results(claim, State.SENT))
    assert (window(claim), bench.states(id)) == ([], "+s")
    assert asked == ([2] if additions == MANY else [])


def test_a_batch_is_held_against_the_list_once(
    bench: Bench, redis: Client, listed: Suppressions, asked: list[int]
) -> None:
    id = bench.accept(*[1] * 10)
    listed.add(*(f"x{n}@example.com" for n in range(MANY)))
    claim = bench.claim(id, most=1)
    for _ in range(3):
        bench.ledger.step(claim, OWNER, results(claim, State.SENT), most=1)
    bench.ledger.release(claim, OWNER, results(claim, State.SENT))
    bench.claim(id)
    assert asked == [10]
    assert bench.field(id, "v") == redis.hget(bench.keys.steering, "listed")


def test_without_a_list_nothing_is_kept_and_nothing_asked(
    bench: Bench, redis: Client, asked: list[int]
) -> None:
    id = bench.accept(1, 1)
    bench.settle(id, State.SENT, State.DEFERRED)
    assert asked == []
    assert bench.field(id, "v") is None
    assert not redis.hexists(bench.keys.steering, "listed")


# Refusals


def refused(bench: Bench, id: str, days: int, reason: str = "550 5.1.1 no such user", **more: Any) -> None:
    claim = bench.claim(id)
    told = [
        Result(index, State.FAILED, suppress_after=days, reason=reason, **more) for index in window(claim)
    ]
    bench.ledger.release(claim, OWNER, told)


def test_who_is_refused_for_good_comes_on_the_list(bench: Bench, listed: Suppressions) -> None:
    first, second = bench.accept(1, 1), bench.accept(1, 1, 1)
    bench.later(5)
    refused(bench, first, days=1)
    now = datetime.fromtimestamp(bench.now / 1000, UTC)
    assert listed.get("0@example.com") == Suppression(
        "0@example.com", "550 5.1.1 no such user", "bounce", now
    )
    assert (len(listed), bench.count("bounced"), bench.states(first)) == (2, 2, "ff")
    assert window(bench.claim(second)) == [2]


def test_a_bounce_suppresses_the_same_address_later_in_the_batch(bench: Bench) -> None:
    id = to("a@example.com", "A@example.com", "b@example.com")(bench)
    claim = bench.claim(id, most=1)
    bench.ledger.step(claim, OWNER, [Result(0, State.FAILED, suppress_after=1, reason="550 5.1.1")], most=1)
    bench.ledger.step(claim, OWNER, results(claim, *[State.SENT] * len(window(claim))))
    assert bench.states(id) == "fus"


def test_a_bounce_replaces_nothing(bench: Bench, listed: Suppressions) -> None:
    id = bench.accept()
    claim = bench.claim(id)
    listed.add("0@example.com", reason="asked")
    bench.ledger.release(claim, OWNER, [Result(0, State.FAILED, suppress_after=1, reason="550 5.1.1")])
    entry = listed.get("0@example.com")
    assert entry is not None
    assert (entry.source, entry.reason, bench.count("bounced")) == ("operator", "asked", 0)


def test_a_mailbox_that_is_full_comes_on_the_list_on_the_third_day(
    bench: Bench, listed: Suppressions
) -> None:
    for day in range(3):
        for _ in range(3):
            assert len(listed) == 0
            id = bench.accept()
            refused(bench, id, days=3, reason="552 5.2.2 full")
            if day == 2:
                break
        bench.pass_time(10)
        bench.later(5 * DAY)
    entry = listed.get("0@example.com")
    assert entry is not None
    assert (entry.reason, entry.source) == ("552 5.2.2 full", "bounce")
    assert bench.redis.exists(bench.keys.bounced("0@example.com")) == 0


def test_refusals_are_forgotten_after_thirty_days(bench: Bench, redis: Client, listed: Suppressions) -> None:
    for days in (0, 16, 16, 16):
        bench.later(days * DAY)
        refused(bench, bench.accept(), days=3)
    assert len(listed) == 0
    key = bench.keys.bounced("0@example.com")
    assert len(redis.get(key).split()) == 2
    assert 0 < redis.ttl(key) <= 30 * DAY


@pytest.mark.parametrize("state", [State.DEFERRED, State.SENT, State.IN_DOUBT, State.QUEUED])
def test_who_is_not_settled_as_failed_comes_on_no_list(
    bench: Bench, listed: Suppressions, state: State
) -> None:
    claim = bench.claim(bench.accept())
    bench.ledger.release(claim, OWNER, [Result(0, state, 60, suppress_after=1, reason="550 5.1.1")])
    assert len(listed) == 0


def test_a_refusal_that_is_told_late_counts_for_nothing(bench: Bench, listed: Suppressions) -> None:
    claim = bench.claim(bench.accept())
    bench.pass_time(70)
    told = [Result(0, State.FAILED, suppress_after=1, reason="550 5.1.1")]
    assert bench.ledger.release(claim, OWNER, told).why is Refusal.LOST
    assert len(listed) == 0


def test_a_step_that_is_repeated_lists_once(bench: Bench, listed: Suppressions) -> None:
    claim = bench.claim(bench.accept(1, 1), most=1)
    told = [Result(0, State.FAILED, suppress_after=1, reason="550 5.1.1")]
    for _ in range(2):
        bench.ledger.step(replace(claim), OWNER, told)
    assert (len(listed), bench.count("bounced")) == (1, 1)

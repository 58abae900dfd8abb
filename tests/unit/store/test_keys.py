"""Ids and keys."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import State
from mailtasks.store import keys
from mailtasks.store.keys import (
    LISTED_STATES,
    Keys,
    batch_id_for_key,
    campaign_batch_id,
    campaign_uid,
    new_batch_id,
    split_id,
    uid_in,
)


def test_new_ids_differ_and_sort_by_time() -> None:
    first = new_batch_id()
    time.sleep(0.002)
    later = [new_batch_id() for _ in range(1000)]
    assert len({first, *later}) == 1001
    assert all(first < id for id in later)
    assert {len(id) for id in later} == {27}


def test_an_id_begins_with_its_shard() -> None:
    assert new_batch_id(3).startswith("3")
    assert batch_id_for_key("k", 3).startswith("3")


def test_an_idempotency_key_is_always_the_same_id() -> None:
    assert batch_id_for_key("code-42") == batch_id_for_key("code-42")
    assert batch_id_for_key("code-42") != batch_id_for_key("code-43")


@given(st.text(max_size=300), st.integers(0, 10**6))
def test_whatever_the_key_its_id_is_one(key: str, index: int) -> None:
    id = batch_id_for_key(key.encode("utf-8", "replace").decode())
    assert split_id(f"{id}.{index}") == (id, index)


def test_a_bare_batch_id_is_its_first_message() -> None:
    id = new_batch_id()
    assert split_id(id) == (id, 0)
    assert split_id(f"{id}.7") == (id, 7)


GOOD = "0" * 27


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        GOOD + "0",
        GOOD[1:],
        GOOD[1:] + "u",
        GOOD[1:] + ":",
        f"{GOOD}.",
        f"{GOOD}.x",
        f"{GOOD}.-1",
        f"{GOOD}.1.2",
        None,
        5,
    ],
)
def test_what_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{wrong!r} is not a message id$".replace("(", "\\(")):
        split_id(wrong)


def test_all_keys_of_a_shard_are_in_one_slot() -> None:
    shard = Keys("shop", 2)
    every = [
        *shard.head(29_000_000),
        *shard.batch(GOOD),
        shard.gate("rate", "bulk"),
        shard.events,
        shard.suppressed,
        shard.suppressed_latest,
        shard.bounced("ann@example.com"),
    ]
    assert all(key.startswith("{shop:2}:") for key in every)
    assert len(set(every)) == len(every) - 1  # the rate's gate of bulk is in the head, too


def test_the_head_is_what_the_scripts_expect() -> None:
    one = Keys("n")
    head = one.head(7)
    assert head[:3] == ("{n:0}:counts", "{n:0}:minute:7", "{n:0}:steering")
    assert head[3:6] == tuple(one.due(priority) for priority in PRIORITIES)
    gates = [one.gate(kind, priority) for kind in ("pause", "aside", "rate") for priority in PRIORITIES]
    assert head[6:15] == tuple(gates)
    assert head[15:] == tuple(one.listed(state) for state in LISTED_STATES)
    assert one.due(Priority.URGENT) == "{n:0}:due:urgent"


def test_what_a_person_may_want_to_act_on_is_listed() -> None:
    assert LISTED_STATES == (State.FAILED, State.EXPIRED, State.IN_DOUBT)


def test_every_key_is_in_the_table_of_the_docstring() -> None:
    shown = keys.__doc__ or ""
    one = Keys("ns")
    for key in (
        one.counts,
        one.steering,
        one.events,
        *one.batch("ID"),
        one.minute(0),
        one.gate("KIND", "NAME"),
        one.suppressed,
        one.suppressed_latest,
        one.bounced("MAILBOX"),
    ):
        assert key.replace("{ns:0}", "{ns:S}").replace("minute:0", "minute:N") in shown


def test_a_campaigns_batch_names_its_campaign() -> None:
    uid = campaign_uid("spring", 1)
    first, last = campaign_batch_id(uid, 0), campaign_batch_id(uid, 10**12)
    assert uid_in(first) == uid_in(last) == uid == campaign_uid("spring", 1)
    assert first < campaign_batch_id(uid, 1) < campaign_batch_id(uid, 1000) < last
    assert split_id(f"{last}.7") == (last, 7)
    assert len({uid, campaign_uid("spring", 2), campaign_uid("autumn", 1)}) == 3


def test_no_other_id_names_a_campaign() -> None:
    others = [batch_id_for_key(f"{number}") for number in range(1000)] + [new_batch_id() for _ in range(1000)]
    assert not [id for id in others if uid_in(id)]


def test_the_keys_of_a_campaign_are_in_its_shard() -> None:
    keys = Keys("n", 2)
    assert keys.campaign("abc") == [
        "{n:2}:campaign:abc",
        "{n:2}:gate:campaign:abc",
        "{n:2}:campaign:abc:t",
        "{n:2}:campaign:abc:k",
    ]
    assert keys.of_all_campaigns == [
        "{n:2}:turns:urgent",
        "{n:2}:turns:normal",
        "{n:2}:turns:bulk",
        "{n:2}:fed",
        "{n:2}:campaigns:open",
    ]

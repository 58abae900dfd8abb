"""Rows become batches: the same rows the same batches, and none too large."""

from __future__ import annotations

import pytest

from mailtasks.campaign.batches import ROWS_A_BATCH, batched
from mailtasks.errors import MessageError
from mailtasks.store.records import Values
from tests.campaigns import Person, people


def test_a_batch_holds_addresses_and_fields_in_order() -> None:
    rows = list(people(5))
    [first, second, last] = batched(rows, 2)
    assert [batch.emails for batch in (first, second, last)] == [
        ("ann0@example.com", "ann1@example.com"),
        ("ann2@example.com", "ann3@example.com"),
        ("ann4@example.com",),
    ]
    values = Values(second.values)
    assert [values[0], values[1]] == [row.fields for row in rows[2:4]]


def test_by_default_a_batch_has_a_few_hundred_rows() -> None:
    assert [len(batch.emails) for batch in batched(people(700))] == [ROWS_A_BATCH, ROWS_A_BATCH, 100]


def test_nobody_is_no_batch() -> None:
    assert list(batched([])) == []


def test_the_same_rows_make_the_same_batches_and_others_dont() -> None:
    [one], [same] = batched(people(3)), batched(people(3))
    assert one == same
    others = [
        [*people(2), Person("ann2@example.com", {"name": "Ann 2", "city": "Porto"})],
        [*people(2), Person("eve2@example.com", {"name": "Ann 2", "city": "Lisbon"})],
        [*people(2, first=1), *people(1)],
    ]
    prints = {batch.fingerprint for rows in others for batch in batched(rows)}
    assert len(prints | {one.fingerprint}) == 4


def test_a_large_batch_is_parted_until_it_is_small_enough() -> None:
    rows = [Person(f"ann{n}@example.com", {"name": "x" * 300_000}) for n in range(7)]
    batches = list(batched([*rows, Person("bob@example.com", {"name": "x" * 1_200_000})]))
    assert [len(batch.emails) for batch in batches] == [2, 2, 2, 1, 1]
    assert [email for batch in batches for email in batch.emails] == [
        *(row.email for row in rows),
        "bob@example.com",
    ]


def test_what_cant_be_kept_is_told_by_its_rows() -> None:
    rows = [*people(4), Person("eve@example.com", {"name": {1, 2}.__iter__()})]
    with pytest.raises(MessageError) as raised:
        list(batched(rows, 2))
    assert str(raised.value).startswith("of the rows 5 to 5 one holds what can't be kept (")
    assert str(raised.value).endswith("); give texts, numbers, lists and the like")

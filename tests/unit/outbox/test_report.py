from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mailtasks.message import Message
from mailtasks.outbox.composing import composed
from mailtasks.outbox.content import encode
from mailtasks.outbox.report import OutboxStatus, RowAside, as_aside, as_status
from mailtasks.outbox.row import RowState
from mailtasks.settings import Settings

EMPTY = dict.fromkeys(RowState, 0)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_the_status_of_an_outbox_that_is_empty():
    status = as_status([])
    assert status == OutboxStatus(EMPTY, None, None)
    assert status.aside == 0


def test_every_state_has_its_number_and_the_oldest_that_waits_is_told():
    hour = datetime.now(UTC) - timedelta(hours=1)
    status = as_status([("final", 3, NOW), ("waiting", 2, hour), ("aside", 1, NOW)])
    assert status.rows == EMPTY | {RowState.WAITING: 2, RowState.ASIDE: 1, RowState.FINAL: 3}
    assert (status.aside, status.waiting_since) == (1, hour)
    assert 3600 <= status.waiting_seconds < 3660


def test_a_writer_whose_clock_is_ahead_makes_no_negative_age():
    assert as_status([("waiting", 1, datetime.now(UTC) + timedelta(hours=1))]).waiting_seconds == 0


def test_what_is_aside_is_told_with_whose_mail_it_is():
    mails = [Message(to=to, text="hi") for to in (["ann@example.com", "bob@example.com"], ["cy@example.com"])]
    [batch], ids = composed(mails, Settings(default_from="shop@example.com"))
    everybody = ("ann@example.com", "bob@example.com", "cy@example.com")
    told = as_aside(7, batch.id, NOW, memoryview(encode(batch)), "no")
    assert told == RowAside(7, batch.id, NOW, tuple(ids), everybody, "no")


def test_a_row_that_cant_be_read_is_told_all_the_same():
    for content in (b"no", "text", 17):
        assert as_aside(7, "b", NOW, content, None) == RowAside(7, "b", NOW, (), (), "")

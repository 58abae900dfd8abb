from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mailtasks.errors import SettingsError
from mailtasks.message import Message
from mailtasks.outbox import row as module
from mailtasks.outbox.composing import composed
from mailtasks.outbox.content import decode
from mailtasks.outbox.row import Change, Keep, Row, as_keep, fitting, octets, released, stays, utc, written
from mailtasks.settings import Settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def row(state="waiting", **values):
    times = {"written_at": NOW, "accepted_at": None, "seen_at": None, "look_at": None}
    return Row(**{"id": 1, "batch": "b", "content": b"", "keep": "forever", "state": state} | times | values)


def test_what_is_written():
    [batch], _ = composed([Message(to="ann@example.com", text="hi")], Settings(default_from="a@b.example"))
    values = written(batch, Keep.UNTIL_FINAL, NOW)
    content = values.pop("content")
    assert decode(content, batch.id) == batch
    assert values == {
        "batch": batch.id,
        "size": len(content),
        "keep": "until_final",
        "state": "waiting",
        "written_at": NOW,
    }


def test_what_is_released_has_been_seen_by_somebody():
    assert released(NOW) == {"state": "waiting", "look_at": None, "error": None, "seen_at": NOW}


def test_a_change_says_why_it_sets_a_row_aside():
    assert Change.aside(row(), "no").set_aside_for == "no"
    others = [Change.deleted(row()), Change.refused(row(), "no", NOW), Change.accepted(row(), NOW, NOW)]
    assert [change.set_aside_for for change in others] == [None] * 3


def test_only_what_waits_has_patience():
    assert row(look_at=NOW).patient_until == NOW
    assert row("accepted", look_at=NOW).patient_until is None, "its look_at is another matter"


def test_stays():
    assert [stays(keep) for keep in ("until_accepted", "until_final", "forever")] == [False, True, True]


def test_a_wrong_keep_is_refused():
    assert as_keep("forever") is Keep.FOREVER
    sentence = r"""^keep='always' is unknown; expected "until_accepted", "until_final" or "forever"$"""
    with pytest.raises(SettingsError, match=sentence):
        as_keep("always")


def test_what_has_room_in_a_round(monkeypatch):
    monkeypatch.setattr(module, "BYTES_A_ROUND", 10)
    assert list(fitting([(1, 4), (2, 6), (3, 1)])) == [1, 2]
    assert list(fitting([(1, 11), (2, 1)])) == [1], "one goes, whatever its size"
    assert list(fitting([])) == []


def test_what_isnt_octets_is_made_some():
    assert [octets(it) for it in (b"a", memoryview(b"a"), "ä", 17)] == [b"a", b"a", "ä".encode(), b"17"]


def test_a_moment_without_a_zone_is_utc():
    there = NOW.astimezone(timezone(timedelta(hours=2)))
    assert [utc(it) for it in (None, NOW.replace(tzinfo=None), there)] == [None, NOW, there]

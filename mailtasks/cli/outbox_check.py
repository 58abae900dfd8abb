"""What `mailtasks check` says of the outbox of a framework whose command line it is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from mailtasks.cli.doctor import Finding, Level
from mailtasks.cli.output import counted
from mailtasks.errors import DatabaseError
from mailtasks.outbox.row import RowState

if TYPE_CHECKING:
    from mailtasks.outbox.report import OutboxStatus
    from mailtasks.outbox.store import RowStore


def outbox_finding(store: RowStore) -> Finding:
    """Look into the table, and judge it."""
    try:
        store.check()
        with store.transaction() as rows:
            status = rows.status()
    except DatabaseError as error:
        return Finding("outbox", Level.WARN, str(error), "until then what is sent by the outbox is an error")
    return judge_outbox(status)


def judge_outbox(status: OutboxStatus) -> Finding:
    """Whether what was written there goes on."""
    if status.aside:
        found = f"{counted(status.aside, 'row')} set aside"
        return Finding("outbox", Level.FAIL, found, "`mailtasks outbox list` says why")
    waits = f"{counted(status.rows[RowState.WAITING], 'row')} waiting"
    if status.waits_too_long():
        age = timedelta(seconds=int(status.waiting_seconds or 0))
        advice = "start its relay, `mailtasks outbox run`; if one runs, its log says for what it waits"
        return Finding("outbox", Level.FAIL, f"{waits}, the oldest for {age}", advice)
    return Finding("outbox", Level.OK, waits if status.waiting_seconds is not None else "nothing waits")

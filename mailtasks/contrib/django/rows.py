"""The outbox's rows by Django's ORM, as the relay takes and changes them and as people ask for them.

The statements, and nothing that decides; its rules are those of `mailtasks/outbox/store.py`. A transaction of
the relay is to its connection what a request is to a web server's: CONN_MAX_AGE and CONN_HEALTH_CHECKS mean
the same, and after an error the connection is tried before it is used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.models import Count, Min
from django.db.transaction import atomic
from django.utils import timezone

from mailtasks.contrib.django.models import OutboxRow
from mailtasks.errors import DatabaseError, SettingsError
from mailtasks.outbox.report import ROWS_AT_ONCE, OutboxStatus, RowAside, as_aside, as_status
from mailtasks.outbox.row import ROWS_A_ROUND, Change, Row, RowState, fitting, octets, released
from mailtasks.outbox.store import LIMIT_LOCKS, unusable
from mailtasks.relay import either


class Rows:
    """`mailtasks.outbox.store.Rows`, in the transaction that is open on a database.

    Args:
        alias: the database's.
        lock: whether to lock rows as they are taken.
    """

    def __init__(self, alias: str, *, lock: bool = False) -> None:
        self._rows = OutboxRow.objects.using(alias)
        self._taken = self._rows.select_for_update(skip_locked=True) if lock else self._rows

    def waiting(self) -> list[Row]:
        """What waits and was never refused."""
        return self._take(state=RowState.WAITING.value, look_at__isnull=True)

    def refused(self) -> list[Row]:
        """What waits and has been refused before."""
        return self._take(state=RowState.WAITING.value, look_at__isnull=False)

    def due(self, now: datetime) -> list[Row]:
        """What is accepted and due to be looked at."""
        return self._take(state=RowState.ACCEPTED.value, look_at__lte=stored(now))

    def _take(self, **chosen: Any) -> list[Row]:
        """Sizes first: a round must fit into memory, whatever the rows hold."""
        # The index's own order, though `look_at` may be null in all, or PostgreSQL sorts the whole backlog.
        sizes = self._taken.filter(**chosen).order_by("look_at", "id").values_list("id", "size")
        ids = list(fitting(sizes[:ROWS_A_ROUND]))
        whole = self._rows.filter(id__in=ids).order_by("id").values(*Row.__slots__)
        return [_row(values) for values in whole]

    def change(self, changes: Sequence[Change]) -> None:
        """Delete and update rows."""
        for state in RowState:  # few statements; Django gives an id once, so what has it has its batch
            gone = [it.row for it in changes if it.values is None and it.row.state == state]
            ids, batches = [row.id for row in gone], [row.batch for row in gone]
            if gone:
                self._rows.filter(id__in=ids, batch__in=batches, state=state.value).delete()
        for it in changes:
            if it.values is not None:
                as_taken = self._rows.filter(id=it.row.id, batch=it.row.batch, state=it.row.state)
                as_taken.update(**{name: stored(value) for name, value in it.values.items()})

    # --- For people

    def status(self) -> OutboxStatus:
        """How many rows there are of each state."""
        counted = self._rows.order_by().values_list("state").annotate(Count("id"), Min("written_at"))
        return as_status((state, rows, _sure(oldest)) for state, rows, oldest in counted)

    def aside(self) -> Iterator[RowAside]:
        """What was set aside."""
        wanted = "id", "batch", "written_at", "content", "error"
        aside = self._rows.filter(state=RowState.ASIDE.value).order_by("id").values_list(*wanted)
        for id, batch, written_at, content, error in aside.iterator(chunk_size=ROWS_AT_ONCE):
            yield as_aside(id, batch, _sure(written_at), content, error)

    def retry(self, *ids: int) -> int:
        """Release what was set aside."""
        chosen = self._rows.filter(state=RowState.ASIDE.value)
        if ids:
            chosen = chosen.filter(id__in=ids)
        values = released(datetime.now(UTC))
        return int(chosen.update(**{name: stored(value) for name, value in values.items()}))


class Store:
    """`mailtasks.outbox.store.RowStore`, the table in one of DATABASES.

    Args:
        alias: the database's; None: the usual one.

    Raises:
        SettingsError: there is no such database.
    """

    def __init__(self, alias: str | None = None) -> None:
        self.alias = DEFAULT_DB_ALIAS if alias is None else alias
        if self.alias not in connections:
            known = either([f"'{one}'" for one in connections])
            raise SettingsError(f"database {self.alias!r}: it is none of DATABASES; expected {known}")

    @property
    def name(self) -> str:
        """The table's."""
        return str(OutboxRow._meta.db_table)

    @property
    def can_lock(self) -> bool:
        """Whether rows are locked as they are taken; where it depends on the server, it is asked.

        Raises:
            DatabaseError: the database is away.
        """
        with self._reachable():
            features = connections[self.alias].features
            return bool(
                features.has_select_for_update_skip_locked and features.supports_select_for_update_with_limit
            )

    def check(self) -> None:
        """Look whether the table is there.

        Raises:
            DatabaseError: it isn't, or the database is away.
        """
        with self._reachable():
            self._renew()
            found = self.name in connections[self.alias].introspection.table_names()
        if not found:
            raise DatabaseError(
                f"there is no table {self.name} in the database {self.alias!r}; run `manage.py migrate`, "
                "or name another of DATABASES"
            )

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """A transaction of its own, committed at the end of the block.

        Raises:
            DatabaseError: the database is away, or refused what was asked.
            RuntimeError: a transaction is open already, whose mail would be moved before its commit.
        """
        with self._reachable():
            self._renew()
        lock = self.can_lock
        with self._reachable(), atomic(using=self.alias, durable=True):
            connection = connections[self.alias]
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(LIMIT_LOCKS)
            yield Rows(self.alias, lock=lock)

    def _renew(self) -> None:
        """Let go of a connection that is old or broken, as Django does before a request."""
        connection = connections[self.alias]
        if not connection.in_atomic_block:  # a TestCase has its transaction there
            connection.close_if_unusable_or_obsolete()

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn Django's errors of databases into ours."""
        try:
            yield
        except Error as error:
            raise unusable(repr(self.alias), error.__cause__ or error) from None


def stored(value: Any) -> Any:
    """A value as Django's models have it: moments without a zone, unless USE_TZ is on."""
    if isinstance(value, datetime) and not settings.USE_TZ:
        return timezone.make_naive(value, timezone.get_default_timezone())
    return value


def known(moment: datetime | None) -> datetime | None:
    """A moment that was stored, in UTC."""
    if moment is None:
        return None
    if timezone.is_naive(moment):
        moment = timezone.make_aware(moment, timezone.get_default_timezone())
    return moment.astimezone(UTC)


def _sure(moment: datetime) -> datetime:
    """What is never null."""
    found = known(moment)
    assert found is not None
    return found


def _row(values: Mapping[str, Any]) -> Row:
    times = {name: known(values[name]) for name in ("written_at", "accepted_at", "seen_at", "look_at")}
    return Row(**{**values, **times, "content": octets(values["content"])})

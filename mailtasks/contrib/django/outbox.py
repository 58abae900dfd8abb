"""The outbox in a database of Django's: the way in, and the relay that moves its rows into the ledger.

Import it when apps are ready; it has a model. `manage.py mailtasks outbox run` runs the relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mailtasks.contrib.django.models import OutboxRow
from mailtasks.contrib.django.rows import Store, stored
from mailtasks.default import default_mailer
from mailtasks.message import Message
from mailtasks.outbox.composing import composed
from mailtasks.outbox.relay import INTERVAL, OutboxRelay
from mailtasks.outbox.row import Keep, written

if TYPE_CHECKING:
    from mailtasks.mailer import Mailer
    from mailtasks.settings import Settings

_ROWS_A_STATEMENT: Final = 20  # each may hold megabytes


def write(messages: Sequence[Message], settings: Settings, database: str, keep: Keep) -> list[str]:
    """Write messages, in the transaction that is open on a database; they are sent once it has committed.

    Returns:
        Their ids, in order.

    Raises:
        MessageError: one can't be mailed as it is; nothing was written.
        IdempotencyConflict: two of these have one key and other content.
        django.db.Error: the database doesn't take them.
    """
    batches, ids = composed(messages, settings)
    now = datetime.now(UTC)
    values = [written(batch, keep, now) for batch in batches]
    rows = [OutboxRow(**{name: stored(value) for name, value in one.items()}) for one in values]
    OutboxRow.objects.using(database).bulk_create(rows, batch_size=_ROWS_A_STATEMENT)
    return ids


def relay(
    database: str | None = None, mailer: Mailer | None = None, *, interval: float = INTERVAL
) -> OutboxRelay:
    """What moves the rows into the ledger; call its `run()`, or `drain()` in a test.

    Args:
        database: its alias; by default the usual one.
        mailer: by default the one that Django's mail goes to.
        interval: seconds between two looks for new rows, when there were none.

    Raises:
        SettingsError: there is no such database.
    """
    return OutboxRelay(Store(database), mailer or default_mailer(), interval=interval)

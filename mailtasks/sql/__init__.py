"""Mail in step with a database transaction, for SQLAlchemy 2: `on_commit`, and the outbox.

`on_commit` sends when the session's transaction has committed; a crash in that moment loses the mail.
An `Outbox` has no such moment: the mail is a row in the user's own database, written in the user's
transaction, and a relay moves it into the ledger (see `docs/how-to/commit-and-send.md`).

Needs `pip install mailtasks[sqlalchemy]`. Nothing else in mailtasks imports this package, or SQLAlchemy.
"""

from mailtasks.outbox.mover import Moved
from mailtasks.outbox.relay import OutboxRelay
from mailtasks.outbox.report import OutboxStatus, RowAside
from mailtasks.outbox.row import Keep
from mailtasks.sql.commit import on_commit
from mailtasks.sql.outbox import Outbox

__all__ = ["Keep", "Moved", "Outbox", "OutboxRelay", "OutboxStatus", "RowAside", "on_commit"]

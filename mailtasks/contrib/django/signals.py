"""What an application can hear of. Receivers run in the process and thread in which it happens."""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

handover_failed: Final = Signal()
"""A transaction is committed, and its mail could not be handed over; sent by the process that committed.

Its sender is `Mailer`. Arguments: `error`, and `mailer`, `messages` and `ids`, with which
`mailer.send_many(messages, ids=ids)` tries again without a second mail.
"""

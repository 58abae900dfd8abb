"""The outbox's table as Django knows it. What a row means is told in `mailtasks/outbox/row.py`.

The columns are those of `mailtasks/sql/table.py`: either side may write a row, and either relay may move it
(with USE_TZ, without which Django keeps no UTC).
"""

from __future__ import annotations

from typing import Final

from django.db import models

from mailtasks.outbox.row import DEFAULT_NAME, Keep, RowState

STATES: Final = {
    RowState.WAITING: "Waiting",
    RowState.ACCEPTED: "Handed over",
    RowState.FINAL: "Handed over, final",
    RowState.ASIDE: "Failed",
}
KEEPS: Final = {
    Keep.UNTIL_ACCEPTED: "Until handed over",
    Keep.UNTIL_FINAL: "Until final",
    Keep.FOREVER: "Forever",
}
VIEW_CONTENT: Final = "view_content"
RETRY: Final = "retry_outboxrow"


def _choices(labels: dict[RowState, str] | dict[Keep, str]) -> list[tuple[str, str]]:
    return [(word.value, label) for word, label in labels.items()]


class OutboxRow(models.Model):  # type: ignore[misc]  # Django ships no types
    """A batch of mail that was written in a transaction of yours."""

    id = models.BigAutoField("row", primary_key=True)
    batch = models.CharField(max_length=32, help_text="A message's id is this, a dot and a number.")
    content = models.BinaryField()  # see mailtasks.outbox.content
    size = models.IntegerField("size in bytes")
    keep = models.CharField("kept", max_length=16, choices=_choices(KEEPS))
    state = models.CharField(max_length=16, choices=_choices(STATES))
    written_at = models.DateTimeField("written")  # by the writer's clock
    accepted_at = models.DateTimeField("handed over", null=True)  # these and below by the relay's
    seen_at = models.DateTimeField("last seen", null=True)  # by the ledger, or by who released it
    look_at = models.DateTimeField("next look", null=True)  # or when the relay gives up
    final_at = models.DateTimeField("final", null=True)
    outcome = models.JSONField(null=True)  # the state of each message, by its id
    error = models.TextField(null=True)  # as the same table has it elsewhere

    class Meta:
        """The table, and who may do what with it: nobody writes or changes mail by hand."""

        db_table = DEFAULT_NAME
        verbose_name = "outbox row"
        verbose_name_plural = "outbox rows"
        indexes = (models.Index(fields=["state", "look_at", "id"], name=f"ix_{DEFAULT_NAME}_due"),)
        default_permissions = ("view", "delete")
        permissions = (
            (RETRY, "Can let failed mail be tried again"),
            (VIEW_CONTENT, "Can read what mail in the outbox says"),
        )

    def __str__(self) -> str:
        return f"row {self.pk}"

"""The outbox in Django's admin: what waits, what was handed over and is kept, and what failed.

The rules:

1. Nobody writes or changes mail here. Who may delete a row deletes its mail.
2. What a mail says is shown to who has the permission `mailtasks.view_content`, as text, and to nobody else.
   To whom it goes, and its subject, is seen by everybody who may see the outbox.
3. A list reads no large row: it may be of many megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import BinaryField, Case, F, When
from django.http import Http404
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator

from mailtasks.contrib.django.models import RETRY, VIEW_CONTENT, OutboxRow
from mailtasks.contrib.django.rows import Rows
from mailtasks.outbox.content import decode
from mailtasks.outbox.row import octets
from mailtasks.pieces import Blob, Piece, pieces_of
from mailtasks.store.records import NewBatch

LARGEST_LISTED: Final = 200_000  # bytes of a row that a list looks into
LONGEST_SOURCE: Final = 200_000  # characters of a message that are shown
_LISTED: Final = 2  # recipients, and subjects, of a row in a list
_SHOWN: Final = 60  # characters of a subject, or an error, in a list


@admin.register(OutboxRow)
class OutboxRowAdmin(admin.ModelAdmin):  # type: ignore[misc]  # Django ships no types
    """The rows."""

    list_display = ("id", "state", "to", "subject", "reason", "written_at", "amount")
    list_filter = ("state", "keep")
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("batch",)
    search_help_text = "The id of a message or of its batch"
    ordering = ("-id",)
    actions = ("retry",)

    def get_queryset(self, request: Any) -> Any:
        """Rows without what they hold; `peek` is that of the small ones."""
        small = When(size__lte=LARGEST_LISTED, then=F("content"))
        peek = Case(small, default=None, output_field=BinaryField())
        return super().get_queryset(request).defer("content").annotate(peek=peek)

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> Any:
        """A message's id finds its row."""
        return super().get_search_results(request, queryset, search_term.strip().partition(".")[0])

    def get_fields(self, request: Any, obj: Any = None) -> Sequence[str]:
        """All but what its mail says; who may read that gets the way there."""
        mails = "readable" if self.has_content_permission(request) else "mails"
        times = "written_at", "accepted_at", "seen_at", "look_at", "final_at"
        return "state", "error", mails, "batch", "amount", "keep", *times, "outcome"

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Sequence[str]:
        """All of them."""
        return self.get_fields(request, obj)

    # --- Who may do what

    def has_add_permission(self, request: Any, *_: Any) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_retry_permission(self, request: Any) -> bool:
        """Whether failed mail may be tried again."""
        return bool(request.user.has_perm(f"{OutboxRow._meta.app_label}.{RETRY}"))

    def has_content_permission(self, request: Any) -> bool:
        """Whether what mail says may be read."""
        return bool(request.user.has_perm(f"{OutboxRow._meta.app_label}.{VIEW_CONTENT}"))

    @admin.action(description="Retry: try again what failed", permissions=["retry"])
    def retry(self, request: Any, queryset: Any) -> None:
        """Release what was set aside."""
        ids = list(queryset.values_list("pk", flat=True))
        released = Rows(router.db_for_write(OutboxRow)).retry(*ids) if ids else 0
        others = len(ids) - released
        if released:
            self.message_user(request, f"To be tried again: {released}.", messages.SUCCESS)
        if others:
            self.message_user(request, f"Had not failed and were left alone: {others}.", messages.WARNING)

    # --- What is shown

    @admin.display(description="to")
    def to(self, row: Any) -> str:
        """The first recipients."""
        batch = _peeked(row)
        return _first(batch.recipients) if batch else "-"

    @admin.display(description="subject")
    def subject(self, row: Any) -> str:
        """The first subjects."""
        batch = _peeked(row)
        subjects = [subject for subject, _ in _mails(batch)] if batch else []
        return str(Truncator(_first(tuple(dict.fromkeys(subjects)))).chars(_SHOWN)) or "-"

    @admin.display(description="size", ordering="size")
    def amount(self, row: Any) -> str:
        """How much it holds."""
        return str(filesizeformat(row.size))

    @admin.display(description="error")
    def reason(self, row: Any) -> str:
        """Where it begins."""
        return str(Truncator(row.error or "").chars(_SHOWN))

    @admin.display(description="messages")
    def mails(self, row: Any) -> str:
        """To whom they go, and about what."""
        return self._mails(row, readable=False)

    @admin.display(description="messages")
    def readable(self, row: Any) -> str:
        """The same, and the way to what they say."""
        return self._mails(row, readable=True)

    def _mails(self, row: Any, *, readable: bool) -> str:
        batch = _read(row.content, row.batch)
        if batch is None:
            return "They can't be read."
        lines = []
        for number, (subject, recipients) in enumerate(_mails(batch)):
            url = reverse(f"admin:{SOURCE}", args=[row.pk, number], current_app=self.admin_site.name)
            link = format_html(' (<a href="{}">source</a>)', url) if readable else ""
            lines.append((subject or "(no subject)", ", ".join(recipients), link))
        shown: str = format_html("<ol>{}</ol>", format_html_join("", "<li>{}<br>to {}{}</li>", lines))
        return shown

    # --- What a mail says

    def get_urls(self) -> list[Any]:
        """One page more: a message as it goes out."""
        view = self.admin_site.admin_view(self.source)
        return [path("<int:pk>/source/<int:number>/", view, name=SOURCE), *super().get_urls()]

    def source(self, request: Any, pk: int, number: int) -> TemplateResponse:
        """A message as it goes out.

        Raises:
            PermissionDenied: without `mailtasks.view_content`.
            Http404: there is no such message.
        """
        if not (self.has_view_permission(request) and self.has_content_permission(request)):
            raise PermissionDenied
        row = self.get_object(request, str(pk))
        batch = _read(row.content, row.batch) if row else None
        if batch is None or number >= len(batch.bodies):
            raise Http404(f"Row {pk} of the outbox has no message {number} that can be read.")
        text = _text(batch, number)
        context = {
            **self.admin_site.each_context(request),
            "opts": OutboxRow._meta,
            "title": "What the message says",
            "row": row,
            "text": text[:LONGEST_SOURCE],
            "left_out": max(0, len(text) - LONGEST_SOURCE),
        }
        return TemplateResponse(request, "admin/mailtasks/outboxrow/source.html", context)


SOURCE: Final = "mailtasks_outboxrow_source"


def _peeked(row: Any) -> NewBatch | None:
    """What a row of a list holds, if it is small."""
    return None if row.peek is None else _read(row.peek, row.batch)


def _read(content: Any, batch: str) -> NewBatch | None:
    """What a row holds; None: it can't be read, which may be why it failed."""
    try:
        return decode(octets(content), batch)
    except ValueError:
        return None


def _mails(batch: NewBatch) -> Iterator[tuple[str, Sequence[str]]]:
    """Each message's subject and recipients."""
    for _, record, indices in batch.record.ranges():
        yield record.subject, batch.recipients[indices.start : indices.stop]


def _first(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more


def _text(batch: NewBatch, number: int) -> str:
    """A message as text, in which attachments that are stored apart are named."""
    return "".join(map(_shown, pieces_of(batch.bodies[number])))


def _shown(piece: Piece) -> str:
    if isinstance(piece, Blob):
        return f"[{piece.name}: {piece.size:,} bytes]\n"
    return piece.decode(errors="replace")

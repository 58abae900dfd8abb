"""A campaign's rows become mail, right before it is sent: its template, and the row's values.

The rules:

1. A retry renders the same mail again: Message-ID and Date are those of the batch, and a template never
   changes.
2. What can't be rendered is that recipient's failure, and nobody else's.
3. A template is compiled once a process, whatever the number of threads that want it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from mailtasks.errors import MessageError, StoreError
from mailtasks.pieces import size_of
from mailtasks.reply import How, Outcome, Stage
from mailtasks.store.keys import uid_in
from mailtasks.store.ledger import ClaimedMessage
from mailtasks.store.records import CampaignPart

if TYPE_CHECKING:
    from mailtasks.compose.template import CompiledTemplate

log = logging.getLogger(__name__)

_KEPT: Final = 16  # templates that a process keeps compiled


class Rendering:
    """The templates that this process has compiled. Thread-safe.

    Args:
        fetch: a campaign's template by its uid; None if there is none.
        size_limit: bytes that a mail may have.
    """

    def __init__(self, fetch: Callable[[str], bytes | None], size_limit: int) -> None:
        self._fetch = fetch
        self._size_limit = size_limit
        self._compiled: OrderedDict[str, CompiledTemplate] = OrderedDict()
        self._lock = threading.Lock()

    def message(self, part: CampaignPart, message: ClaimedMessage) -> ClaimedMessage | Outcome:
        """The message with its body, or why it can't have one.

        Raises:
            StoreUnavailable: Redis can't be asked for the template.
            StoreError: the template isn't there, or is damaged.
        """
        template = self._template(part)
        address, values = message.recipients[0].address, message.values or {}
        try:
            rendered = template.render(
                fields_of(address, values),
                to=address,
                message_id=message.record.message_id,
                date=datetime.fromtimestamp(part.date, UTC),
                attachments=message.files,
                size_limit=self._size_limit,
            )
        except MessageError as error:
            return Outcome(Stage.CONTENT, How.UNSUITABLE, detail=str(error))
        except Exception as error:  # whatever it is, the others go on
            log.exception("message %s can't be rendered", message.id)
            return Outcome(Stage.CONTENT, How.UNSUITABLE, detail=f"it can't be rendered: {error!r}")
        record = msgspec.structs.replace(
            message.record,
            subject=rendered.subject,
            size=size_of(rendered.content),
            smtputf8=rendered.smtputf8,
        )
        return replace(message, record=record, body=rendered.content)

    def _template(self, part: CampaignPart) -> CompiledTemplate:
        with self._lock:
            found = self._compiled.get(part.template) or self._compile(part)
            self._compiled[part.template] = found
            self._compiled.move_to_end(part.template)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return found

    def _compile(self, part: CampaignPart) -> CompiledTemplate:
        from mailtasks.compose.template import TemplateRecord  # brings in Jinja2, which few mails need

        encoded = self._fetch(uid_in(part.batch) or "")
        if encoded is None:
            raise StoreError(f"the template of campaign {part.campaign!r} isn't there any more")
        try:
            return TemplateRecord.decode(encoded).compile()
        except (msgspec.MsgspecError, MessageError) as error:
            raise StoreError(f"the template of campaign {part.campaign!r} can't be used: {error}") from error


def fields_of(address: str, values: Mapping[str, object]) -> dict[str, object]:
    """What a template's names stand for: a row's values, and its address as `email`."""
    return {"email": address, **values}

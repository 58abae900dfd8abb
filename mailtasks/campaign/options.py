"""How a campaign is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mailtasks.errors import MessageError, SettingsError
from mailtasks.message import Priority
from mailtasks.policy.rate import parse_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignOptions:
    """How a campaign is sent. Who takes it up must give the same.

    Attributes:
        begins: nothing is sent before it.
        ends: what isn't sent by then expires.
        rate: messages of all workers together: "100/m", "10/s", "5000/h"; None: no limit.
        tags: that each message carries.

    Raises:
        MessageError: a time has no zone, or it would end before it begins.
        SettingsError: the rate can't be read.
    """

    priority: Priority = Priority.BULK
    begins: datetime | None = None
    ends: datetime | None = None
    rate: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("begins", "ends"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise MessageError(f"a campaign's {name} {moment} has no time zone; give an aware datetime")
        if self.begins and self.ends and self.ends <= self.begins:
            raise MessageError(
                f"the campaign would end at {self.ends}, before it begins at {self.begins}; give it time"
            )
        _ = self.a_second

    @property
    def a_second(self) -> float:
        """The rate as messages a second; 0.0: no limit."""
        try:
            return parse_rate(self.rate) or 0.0
        except SettingsError:
            raise SettingsError(
                f'the campaign\'s rate {self.rate!r} is none; give a text such as "10/s", "100/m" or "500/h"'
            ) from None

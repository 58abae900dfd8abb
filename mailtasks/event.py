"""What happened to a relay or a destination: plain data, recorded now, acted upon later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PIPELINING_NOT_BORNE: Final = "pipelining_not_borne"
CHUNKING_NOT_BORNE: Final = "chunking_not_borne"
"""The cases of what is no row of the reply table: see `mailtasks.smtp.bearing`."""


@dataclass(frozen=True, slots=True)
class RelayEvent:
    """Something that a relay, or a domain behind it, should be spared or credited for."""

    relay: str  # host:port
    domain: str  # the recipient's; "" if it concerns the relay as a whole
    case: str  # a row of the reply table (mailtasks.policy.verdict.Case), or one of those above
    action: str  # what should follow (mailtasks.policy.verdict.Destination)
    reply: str  # the relay's words, or what happened instead
    worker: str

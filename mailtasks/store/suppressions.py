"""The suppression list: who gets no mail, whatever is sent to them, until somebody takes them off.

The rules:

1. Who is on it when mail is accepted is `suppressed` from the beginning (`lua/accept.lua`); who is on it when
   mail is claimed, from then on (`lua/step.lua`). So nothing is claimed and sent to who was on it by then.
2. Each addition has a mark, made by chance, and the latest one's is the list's. A batch keeps the mark under
   which it was held against the list; only when the list has another must that be done again.
3. Relays that refuse an address add to it in `lua/step.lua`, and replace nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from mailtasks.address import mailbox, parse
from mailtasks.store.connection import available
from mailtasks.store.ledger import Ledger
from mailtasks.store.records import Listed, moment
from mailtasks.suppression import OPERATOR, Suppression, suppression

_AT_ONCE: Final = 1000
"""Addresses that one call is about: some milliseconds of Redis' time."""


class Suppressions:
    """The list of one namespace.

    Iterating streams all of it, in no order; while it changes, an entry may come twice.

    Raises, whatever is asked of it:
        StoreUnavailable: Redis is away.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._redis = ledger.redis
        self._key = ledger.keys.suppressed

    def add(self, *addresses: str, reason: str = "", source: str = OPERATOR) -> int:
        """Put addresses on the list; of one that is there, reason, source and time are replaced.

        Mail to them that waits is suppressed when it comes to be sent; what is being sent just now goes.

        Returns:
            How many were not there before.

        Raises:
            AddressError: one of them is no address; nothing was added.
            MessageError: the source is no word, such as `operator` or `unsubscribe`; nothing was added.
        """
        return self._put([suppression(it, reason, source) for it in addresses], replace=True)

    def update(self, entries: Iterable[Suppression]) -> int:
        """Put entries on the list, as they are read; one that is there stays as it is.

        Returns:
            How many were not there before.

        Raises:
            As `add`; the thousands before the wrong one may have been added.
        """
        checked = (suppression(it.address, it.reason, it.source, it.added_at) for it in entries)
        added = 0
        while chunk := list(islice(checked, _AT_ONCE)):
            added += self._put(chunk, replace=False)
        return added

    def _put(self, entries: Collection[Suppression], *, replace: bool) -> int:
        rows = [(it.address, it.source, _ms(it.added_at), it.reason) for it in entries]
        return self._ledger.suppress(rows, replace=replace) if rows else 0

    def remove(self, *addresses: str) -> int:
        """Take addresses off the list. Mail that was suppressed stays so, until it is retried.

        Returns:
            How many were there.

        Raises:
            AddressError: one of them is no address; nothing was removed.
        """
        wanted = [_wanted(it) for it in addresses]
        with available(self._redis):
            return sum(
                int(self._redis.hdel(self._key, *wanted[start : start + _AT_ONCE]))
                for start in range(0, len(wanted), _AT_ONCE)
            )

    def get(self, address: str) -> Suppression | None:
        """What the list says of an address; None if it isn't there.

        Raises:
            AddressError: it is none.
        """
        wanted = _wanted(address)
        with available(self._redis):
            packed = self._redis.hget(self._key, wanted)
        return None if packed is None else _entry(wanted, packed)

    def among(self, addresses: Collection[str]) -> set[str]:
        """Those of some addresses, as recipients have them, that are on the list."""
        listed = self._ledger.listed({mailbox(it) for it in addresses})
        return {it for it in addresses if mailbox(it) in listed}

    def __contains__(self, address: str) -> bool:
        return self.get(address) is not None

    def __len__(self) -> int:
        with available(self._redis):
            return int(self._redis.hlen(self._key))

    def __bool__(self) -> bool:
        """It is there, empty or not: `if mailer.suppressions` asks nothing of Redis."""
        return True

    def __iter__(self) -> Iterator[Suppression]:
        with available(self._redis):
            for listed, packed in self._redis.hscan_iter(self._key, count=_AT_ONCE):
                yield _entry(listed.decode(), packed)


def _wanted(text: str) -> str:
    return mailbox(parse(text).address)


def _ms(at: datetime | None) -> int:
    return round(at.timestamp() * 1000) if at else 0


def _entry(address: str, packed: bytes) -> Suppression:
    """One that a hand has written otherwise is on the list all the same."""
    try:
        listed = msgspec.msgpack.decode(packed, type=Listed, strict=False)
    except (msgspec.MsgspecError, ValueError):
        listed = Listed()
    return Suppression(address, listed.reason, listed.source, moment(listed.at / 1000))

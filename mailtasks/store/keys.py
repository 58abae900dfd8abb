"""Every key of the ledger, and the ids that lead to them.

A batch id is `SHARD TIME RANDOM` in Crockford's base 32, the first character being the shard: wherever
an id is seen, its keys are known. A message id is `BATCH.INDEX`, the index of its first recipient in
the batch. The id of a campaign's batch is `SHARD u CAMPAIGN NUMBER`: the same rows sent again are the same
batches, and who knows a batch knows its campaign. All keys of a shard carry one hash tag, so that a script
touches one slot of a cluster.

| key | type | content |
| --- | --- | --- |
| `{ns:S}:b:ID` | hash | the batch; its fields are below |
| `{ns:S}:b:ID:s` | string | one state character a recipient |
| `{ns:S}:b:ID:m` | hash | index → what is known of an attempted recipient (`records.Tries`) |
| `{ns:S}:due:PRIORITY` | zset | every unfinished batch → when it must be looked at |
| `{ns:S}:gate:KIND:NAME` | zset | batches that wait for something to open → since when |
| `{ns:S}:with:STATE` | zset | batches that hold a recipient in that state → since when |
| `{ns:S}:counts` | hash | recipients by state, and tallies |
| `{ns:S}:minute:N` | hash | the same for one minute, kept for a day |
| `{ns:S}:steering` | hash | pauses, the clock watch, what pumps do by turns |
| `{ns:S}:campaigns` | hash | name of a campaign → how often it was begun |
| `{ns:S}:campaigns:open` | zset | campaigns that aren't finished → since when |
| `{ns:S}:campaign:UID` | hash | the campaign; its fields are in `store/campaigns.py` |
| `{ns:S}:campaign:UID:t` | string | its template |
| `{ns:S}:campaign:UID:k` | string | 16 characters a batch: the fingerprints of what it was given |
| `{ns:S}:gate:campaign:UID` | zset | batches that wait for their turn → their number |
| `{ns:S}:turns:PRIORITY` | zset | campaigns of which batches wait → how many turns they have had |
| `{ns:S}:fed` | zset | batches that have their turn, until they are hinted → since when |
| `{ns:S}:suppressed` | hash | the suppression list: mailbox → source, time, reason (`records.Listed`) |
| `{ns:S}:suppressed:latest` | list | the latest that were added to it, "MARK MAILBOX", the latest first |
| `{ns:S}:bounced:MAILBOX` | string | days on which it refused mail, while they are too few for that list |
| `{ns:S}:blobs` | hash | digest of an attachment that is stored → its size, when it was stored, where |
| `{ns:S}:blob:DIGEST` | zset | who needs it, `BATCH:FIRST-LAST` → until when, if its batch isn't there |
| `{ns:S}:blobs:due` | zset | each such digest → when it is looked at whether anything needs it |
| `{ns:S}:blobs:coming` | zset | places where one is being stored → until when |
| `{ns:S}:blobs:gone` | zset | places that are to be deleted → when |
| `{ns:S}:blob:DIGEST:CHANCE` | string | an attachment itself, if it is stored in Redis |
| `{ns:S}:events` | stream | what happened to relays and destinations |

A batch's fields: p priority, m messages in runs of as many recipients each ("1x300", "1x2,3x1"),
h header, r recipients, c0… bodies, a accepted, w not before, x expires, f finished, t token, l lease's
end, o owner, y the relay that it sends to, z lapsed claims, g hints since the last claim, e when it was
hinted (none: when it was accepted), u last step applied, n no deferred recipient is due before, k
fingerprint, v mark of the suppression list that it was held against. Of a campaign's batch also d the rows'
values, in the place of bodies; q waits at its campaign's gate since, i its campaign's end. Times are Redis'
milliseconds.

What it takes in Redis (MEMORY USAGE; 7.0 and 6.2, addresses of 17 characters): a queued recipient 14 to 15
bytes in a batch of 300, 22 to 23 in one of 100; a single mail 1,040 to 1,280 bytes. A body takes 58 to 99
bytes beside itself, what is known of an attempted recipient 165 to 208, a batch in a sorted set 42. An entry
of the suppression list takes 88 to 99 bytes among 100,000, with 26 characters of a relay's words 121 to 131
(41 to 72 among 100), what is kept of a suppressed recipient 61 to 62, the days of a mailbox 104 to 109.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from mailtasks.message import PRIORITIES, Priority
from mailtasks.state import State

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's: no i, l, o, u."""

ID_LENGTH: Final = 27  # one of shard, ten of time or digest, sixteen of randomness or digest
UID_LENGTH: Final = 16
PRINT_LENGTH: Final = 16  # characters of a fingerprint in a campaign's list of them
_OF_A_CAMPAIGN: Final = "u"  # the second character of an id: none of the alphabet
_NUMBER_LENGTH: Final = ID_LENGTH - UID_LENGTH - 2
LISTED_STATES: Final = (State.FAILED, State.EXPIRED, State.IN_DOUBT)
"""The states whose batches are listed under `with:STATE`, because a person may want to act."""


def _base32(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def new_batch_id(shard: int = 0) -> str:
    """A new id, sorting by time: 48 bits of milliseconds, then 80 random bits."""
    return ALPHABET[shard] + _base32(time.time_ns() // 1_000_000, 10) + _base32(secrets.randbits(80), 16)


def batch_id_for_key(idempotency_key: str, shard: int = 0) -> str:
    """The id that an idempotency key stands for: the batch itself is what remembers the key.

    So a key is taken and its mail accepted in one step, and it is free again when the batch's
    retention, which starts with its final state, has ended.
    """
    digest = blake2b(idempotency_key.encode(), digest_size=17).digest()
    return ALPHABET[shard] + _base32(int.from_bytes(digest) >> 6, ID_LENGTH - 1)


def campaign_uid(name: str, run: int) -> str:
    """What a campaign is known by in keys and ids.

    Args:
        name: by which people know it.
        run: how often a campaign of this name was begun, from 1.
    """
    digest = blake2b(f"{run} {name}".encode(), digest_size=10, person=b"campaign").digest()
    return _base32(int.from_bytes(digest), UID_LENGTH)


def campaign_batch_id(uid: str, number: int, shard: int = 0) -> str:
    """The id of a campaign's batch, counted from 0."""
    return f"{ALPHABET[shard]}{_OF_A_CAMPAIGN}{uid}{_base32(number, _NUMBER_LENGTH)}"


def uid_in(batch: str) -> str | None:
    """The campaign of a batch; None, if it is none's."""
    return batch[2 : 2 + UID_LENGTH] if batch[1:2] == _OF_A_CAMPAIGN else None


def is_batch_id(text: str) -> bool:
    """Whether it looks like one."""
    plain = text[:1] + text[2:] if uid_in(text) else text
    return len(text) == ID_LENGTH and not set(plain) - set(ALPHABET)


def split_id(id: str) -> tuple[str, int]:
    """`BATCH.INDEX` → (batch, index). A bare batch id stands for its first message.

    Raises:
        ValueError: it can't be an id.
    """
    batch, dot, index = str(id).partition(".")  # whatever a caller without a type checker gives
    if not is_batch_id(batch) or (dot and not index.isdecimal()):
        raise ValueError(f"{id!r} is not a message id")
    return batch, int(index or 0)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one shard of one namespace."""

    namespace: str
    shard: int = 0

    @property
    def tag(self) -> str:
        """The hash tag that all keys of this shard begin with."""
        return f"{{{self.namespace}:{self.shard}}}"

    def batch(self, id: str) -> list[str]:
        """A batch's three keys, in the order in which the scripts want them."""
        key = f"{self.tag}:b:{id}"
        return [key, f"{key}:s", f"{key}:m"]

    def due(self, priority: Priority) -> str:
        """What must be looked at, and when."""
        return f"{self.tag}:due:{priority}"

    def gate(self, kind: str, name: str) -> str:
        """What waits for something to open."""
        return f"{self.tag}:gate:{kind}:{name}"

    def listed(self, state: State) -> str:
        """The batches that hold a recipient in one of `LISTED_STATES`."""
        return f"{self.tag}:with:{state}"

    def minute(self, number: int) -> str:
        """The tallies of one minute, counted from 1970."""
        return f"{self.tag}:minute:{number}"

    @property
    def campaigns(self) -> str:
        """The names of campaigns."""
        return f"{self.tag}:campaigns"

    def turns(self, priority: Priority) -> str:
        """The campaigns of which batches wait for their turn."""
        return f"{self.tag}:turns:{priority}"

    @property
    def open_campaigns(self) -> str:
        """The campaigns that aren't finished."""
        return f"{self.tag}:campaigns:open"

    def campaign(self, uid: str) -> list[str]:
        """A campaign's four keys, in the order in which the scripts want them."""
        key = f"{self.tag}:campaign:{uid}"
        return [key, self.gate("campaign", uid), f"{key}:t", f"{key}:k"]

    @property
    def of_all_campaigns(self) -> list[str]:
        """What campaigns share, in the order in which the scripts want it."""
        return [*map(self.turns, PRIORITIES), f"{self.tag}:fed", self.open_campaigns]

    @property
    def suppressed(self) -> str:
        """The suppression list."""
        return f"{self.tag}:suppressed"

    @property
    def suppressed_latest(self) -> str:
        """The latest additions to it."""
        return f"{self.suppressed}:latest"

    def bounced(self, mailbox: str) -> str:
        """The days on which an address refused mail."""
        return f"{self.tag}:bounced:{mailbox}"

    @property
    def blobs(self) -> str:
        """Which attachments are stored, and where."""
        return f"{self.tag}:blobs"

    @property
    def blobs_due(self) -> str:
        """Which of them must be looked at, and when."""
        return f"{self.tag}:blobs:due"

    @property
    def blobs_coming(self) -> str:
        """The places where one is being stored."""
        return f"{self.tag}:blobs:coming"

    @property
    def blobs_gone(self) -> str:
        """The places that are to be deleted."""
        return f"{self.tag}:blobs:gone"

    def blob(self, digest: str) -> str:
        """Who needs an attachment; with the name of a place in Redis, the attachment itself."""
        return f"{self.tag}:blob:{digest}"

    @property
    def counts(self) -> str:
        """Recipients by state since the beginning."""
        return f"{self.tag}:counts"

    @property
    def steering(self) -> str:
        """Pauses, the clock watch, and what pumps do by turns."""
        return f"{self.tag}:steering"

    @property
    def events(self) -> str:
        """What happened to relays and destinations."""
        return f"{self.tag}:events"

    @lru_cache(maxsize=16)  # noqa: B019  (small, and a value of the key parts: nothing is kept alive)
    def head(self, minute: int) -> tuple[str, ...]:
        """The keys that every script gets first, in the order of `lua/head.lua`."""
        return (
            self.counts,
            self.minute(minute),
            self.steering,
            *(self.due(priority) for priority in PRIORITIES),
            *(self.gate("pause", priority) for priority in PRIORITIES),
            *(self.gate("aside", priority) for priority in PRIORITIES),
            *(self.gate("rate", priority) for priority in PRIORITIES),
            *(self.listed(state) for state in LISTED_STATES),
        )

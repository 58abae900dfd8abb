"""Files of recipients' own in any order: the machine of attachments, whose batches are campaigns'.

The laws are the same. A row needs its files while it isn't sent and its values are kept: also if it failed,
for then somebody may retry it.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mailtasks.message import Priority
from mailtasks.pieces import OwnFile
from mailtasks.state import State
from mailtasks.store import records
from mailtasks.store.campaigns import CampaignRecord, Campaigns
from mailtasks.store.keys import campaign_batch_id, campaign_uid
from mailtasks.store.ledger import Claim, Result
from mailtasks.store.records import BatchRecord, CampaignPart, NewBatch

from .machines import play
from .test_blobs import FILES, Machine, number

LIFETIME = 1_000_000_000.0
OWN = [
    OwnFile(file.digest[:64], len(file.content), file.filename, "application/pdf", file.filename)
    for file in FILES
]
CONTENTS = {own.digest: file.content for own, file in zip(OWN, FILES, strict=True)}
outcomes = st.lists(
    st.sampled_from([State.SENT, State.SENT, State.FAILED, State.QUEUED]), min_size=3, max_size=3
)


class Rows(Machine):
    """Each batch is the only one of a campaign."""

    def __init__(self, url: str) -> None:
        self.begun = 0
        super().__init__(url)
        self.campaigns = Campaigns(self.ledger)

    def composed(self, which: list[list[int]]) -> NewBatch:
        self.begun += 1
        name, size = f"campaign {self.begun}", len(which)
        uid = campaign_uid(name, 1)
        self.campaigns.begin(CampaignRecord(uid, name, lifetime=LIFETIME, template="t"), b"template")
        id = campaign_batch_id(uid, 0)
        files = tuple(tuple(OWN[file] for file in chosen) for chosen in which)
        values = records.encode_values([{"row": row} for row in range(size)])
        return NewBatch(
            id=id,
            priority=Priority.BULK,
            record=BatchRecord((), campaign=CampaignPart(name, id, size, "t", "a@b.c", "b.c", 0)),
            recipients=tuple(f"r{row}@example.com" for row in range(size)),
            bodies=(),
            fingerprint=f"{self.begun:016}",
            lifetime=LIFETIME,
            values=records.pack(records.with_files(values, files)),
            files=files,
            blobs={file.digest: CONTENTS[file.digest] for own in files for file in own},
        )

    def send_off(self, batch: NewBatch, which: int) -> None:
        """Who had failed is retried first."""
        self.settle(batch, 1 + which % 3, [State.SENT] * 3)

    @precondition(lambda self: self.held)
    @rule(which=number, most=st.integers(1, 3), states=outcomes)
    def settle_a_window(self, which: int, most: int, states: list[State]) -> None:
        """Some are refused, some given back."""
        self.settle(self.held[which % len(self.held)], most, states)

    @precondition(lambda self: self.held)
    @rule(which=number)
    def cancel(self, which: int) -> None:
        """All that isn't over; the others' states keep the values, or don't."""
        batch = self.held[which % len(self.held)]
        self.ledger.cancel(batch.id, range(len(batch.recipients)))
        self.let_go_of(batch)

    def settle(self, batch: NewBatch, most: int, states: list[State]) -> None:
        failed = [n for n, code in enumerate(self.states(batch)) if code == State.FAILED.code]
        if State.QUEUED.code not in self.states(batch):
            retried = self.ledger.retry(batch.id, dict.fromkeys(failed, State.FAILED))
            assert retried == (len(failed), 0)
        self.campaigns.feed(Priority.BULK, 100)
        claim = self.ledger.claim(batch.id, "w", most=most)
        assert isinstance(claim, Claim)
        for message, own in [(it, batch.files[it.recipients[0].index]) for it in claim.window]:
            assert message.files == own
        results = [
            Result(it.recipients[0].index, state) for it, state in zip(claim.window, states, strict=False)
        ]
        self.ledger.release(claim, "w", results)
        self.let_go_of(batch)

    def let_go_of(self, batch: NewBatch) -> None:
        if not self.redis.hexists(self.keys.batch(batch.id)[0], "d"):
            self.held.remove(batch)

    def states(self, batch: NewBatch) -> str:
        return (self.redis.get(self.keys.batch(batch.id)[1]) or b"").decode()

    def needed(self) -> dict[str, bytes]:
        needed: dict[str, bytes] = {}
        for batch in self.held:
            states = self.states(batch)
            for row, file in batch.needs():
                if states[row] != State.SENT.code:
                    needed[file.digest] = CONTENTS[file.digest]
        return needed


def test_what_a_row_needs_is_kept_and_all_else_goes(redis_url: str) -> None:
    play(lambda: Rows(redis_url), examples=60, steps=25)

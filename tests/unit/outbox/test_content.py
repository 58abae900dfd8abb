from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf, nan

import msgspec
import pytest

from mailtasks.message import Attachment, Message
from mailtasks.outbox.composing import composed
from mailtasks.outbox.content import SHORTEST, aged, decode, encode
from mailtasks.settings import Settings

SETTINGS = Settings(default_from="shop@example.com", max_age=3600)
LARGE = bytes(range(256)) * 300  # larger than the default `blob_threshold`
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def batch(**fields):
    [made], _ = composed([Message(to="ann@example.com", text="hi", **fields)], SETTINGS)
    return made


def test_what_was_written_is_read():
    made = batch(subject="Grüße", tags=["a"], metadata={"order": "7"}, priority="urgent")
    assert decode(encode(made), made.id) == made


def test_a_row_holds_its_attachments_whole():
    made = batch(attachments=[Attachment(filename="a.bin", content=LARGE)])
    assert decode(encode(made), made.id) == made
    assert list(made.blobs.values()) == [LARGE]


def test_a_row_of_before_attachments_were_stored_apart_is_read():
    made = batch()
    older = msgspec.structs.asdict(made)
    del older["blobs"]
    assert decode(msgspec.msgpack.encode(older), made.id) == made


def test_a_row_that_lacks_an_attachment():
    made = batch(attachments=[Attachment(filename="a.bin", content=LARGE)])
    with pytest.raises(ValueError, match=r"^its content lacks an attachment$"):
        decode(encode(msgspec.structs.replace(made, blobs={})), made.id)


def damaged(**changes):
    made = batch()
    return encode(msgspec.structs.replace(made, **changes)), made.id


@pytest.mark.parametrize(
    ("content", "id", "reason"),
    [
        (b"", "0", "its content can't be read"),
        (b"\xc1", "0", "its content can't be read"),
        (b"\xa2\xff\xff", "0", "its content can't be read"),
        (encode(batch())[:-9], "0", "its content can't be read"),
        (encode(batch()), batch().id, "its content is that of another batch"),
        (encode(msgspec.structs.replace(batch(), id="x")), "x", "is not a message id"),
        (*damaged(bodies=()), "its content is incomplete"),
        (*damaged(recipients=()), "its content is incomplete"),
        (*damaged(priority="soon"), "its content can't be read"),
        (*damaged(send_at=1e300), "its content has an impossible time"),
        (*damaged(lifetime=inf), "its content has an impossible time"),
        (*damaged(lifetime=nan), "its content has an impossible time"),
    ],
    ids=[
        "empty",
        "no MessagePack",
        "no map",
        "cut off",
        "another's",
        "no id",
        "no body",
        "nobody",
        "no priority",
        "no year",
        "for ever",
        "no number",
    ],
)
def test_what_was_changed_is_refused(content, id, reason):
    with pytest.raises(ValueError, match=reason):
        decode(content, id)


@pytest.mark.parametrize(
    ("passed", "left"),
    [(0, 3600), (600, 3000), (3600, SHORTEST), (10**6, SHORTEST), (-600, 3600)],
)
def test_the_lifetime_began_when_it_was_written(passed, left):
    assert aged(batch(), NOW, NOW + timedelta(seconds=passed)).lifetime == left


def test_or_when_it_may_be_sent():
    later = batch(send_at=NOW + timedelta(hours=10))
    assert aged(later, NOW, NOW + timedelta(hours=9)).lifetime == 3600
    assert aged(later, NOW, NOW + timedelta(hours=10.5)).lifetime == 1800

"""Files of people's own on the whole road: a command, a real worker, each one's mail; nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from mailtasks.state import State
from mailtasks.testing import CatchingServer
from tests.integration.conftest import wait_until

Make = Callable[..., Any]
LARGE, SMALL = os.urandom(3_000_000), b"BEGIN:VCALENDAR\r\n"
PEOPLE = """\
email,name,bill
ann@example.com,Ann,may/ann.pdf
bob@example.com,Bob,bob.ics
cy@example.com,Cy,
eve@example.com,Eve,../people.csv
"""
SEND = (
    *("campaign", "send", "people.csv", "--name", "bills", "--subject", "Your bill, {{ name }}"),
    *("--text", "letter.txt", "--attach-field", "bill", "--attach-folder", "bills", "--yes", "--json"),
)


@pytest.mark.parametrize("where", ["redis", "folder"])
def test_each_gets_the_own_file_and_in_the_end_nothing_is_left(
    road: Make, sink: CatchingServer, tmp_path: Path, where: str
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (tmp_path / "bills" / "may").mkdir(parents=True)
    (tmp_path / "bills" / "may" / "ann.pdf").write_bytes(LARGE)
    (tmp_path / "bills" / "bob.ics").write_bytes(SMALL)
    (tmp_path / "people.csv").write_text(PEOPLE)
    (tmp_path / "letter.txt").write_text("Dear {{ name }}\n")
    way = road(blobs="redis" if where == "redis" else f"file://{blobs}", blob_grace=2)
    report = json.loads(way.command(*SEND))
    assert (report["accepted"], report["reasons"]) == (3, {"a file that can't be attached": 1})
    status = way.mailer.attachments()
    assert (status.stored, status.bytes) == (2, len(LARGE) + len(SMALL))
    (tmp_path / "bills" / "may" / "ann.pdf").unlink()  # workers don't need the folder
    way.start_worker()
    wait_until(lambda: way.count(State.SENT) == 3, what="the sending of three")
    assert {mail.recipients[0]: files_in(mail.content) for mail in sink.messages} == {
        "ann@example.com": {"ann.pdf": ("application/pdf", LARGE)},
        "bob@example.com": {"bob.ics": ("text/calendar", SMALL)},
        "cy@example.com": {},
    }
    assert sink.violations == []
    wait_until(lambda: not way.mailer.redis.keys("*:blob*"), what="the collection of both")
    assert [path for path in blobs.rglob("*") if path.is_file()] == []
    assert way.mailer.sweep() == []


def files_in(content: bytes) -> dict[str, tuple[str, bytes]]:
    mail = message_from_bytes(content, policy=default)
    return {
        str(part.get_filename()): (part.get_content_type(), part.get_payload(decode=True))  # type: ignore[misc]
        for part in mail.iter_attachments()
    }

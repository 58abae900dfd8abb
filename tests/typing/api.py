"""The public API as a user's type checker sees it. `mypy --strict` reads this file; nobody runs it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type

from mailtasks.message import Attachment, Message, Priority

# What a Message takes...
Message(to="ann@example.com", subject="Your code", text="1234", priority="urgent", idempotency_key="code-42")
Message(
    to=["ann@example.com", "Bob <bob@example.com>"],
    cc=("cy@example.com",),
    bcc=[],
    reply_to="help@example.com",
    html="<p>",
    sender="Shop <shop@example.com>",
    envelope_sender="",
    attachments=["a.pdf", Path("b.pdf"), Attachment(filename="c.pdf", content=b"", cid="logo")],
    headers={"X-Order": "4711"},
    priority=Priority.BULK,
    send_at=datetime.now(UTC),
    expires_after=90.5,
    dsn_notify=["failure", "delay"],
    dsn_return="headers",
    require_tls=True,
    tags=["orders"],
    metadata={"order": "4711"},
)
Message(to="ann@example.com", expires_after=timedelta(hours=1))
Attachment.from_path(Path("a.pdf"), filename="b.pdf", content_type="application/pdf")

# ... what it refuses ...
Message("ann@example.com")  # type: ignore[call-arg]  # fields have names
Message(to=1)  # type: ignore[arg-type]
Message(to="ann@example.com", subjekt="")  # type: ignore[call-arg]
Message(to="ann@example.com", metadata={"order": 4711})  # type: ignore[dict-item]
Message(to="ann@example.com").subject = ""  # type: ignore[misc]  # frozen
Attachment(filename="a.txt", content="text")  # type: ignore[arg-type]

# ... and what it keeps, normalised.
message = Message(to="ann@example.com")
assert_type(message.to, tuple[str, ...])
assert_type(message.recipients, tuple[str, ...])
assert_type(message.attachments, tuple[Attachment, ...])
assert_type(message.headers, Mapping[str, str | tuple[str, ...]])
assert_type(message.priority, Priority)
assert_type(message.send_at, datetime | None)
assert_type(message.expires_after, timedelta | None)
assert_type(message.dsn_notify, tuple[str, ...])
assert_type(message.require_tls, bool)
assert_type(message.text, str | None)
assert_type(message.fingerprint(), str)

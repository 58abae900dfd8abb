"""`docs/how-to/messages.md`: each block is run, and what arrives is what the page says."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from celery import Celery

import mailtasks
from mailtasks.celery import install
from mailtasks.publish import DELIVER, configuration
from mailtasks.settings import Settings
from mailtasks.testing import CatchingServer
from tests.pages import fences

PAGE = Path(mailtasks.__file__).parents[1] / "docs" / "how-to" / "messages.md"
SIGNED = b"DKIM-Signature: v=1;\r\n\tb=abc\r\nFrom: a@b.example\r\n\r\nsigned  \xe4\r\n"


def test_what_the_page_sends_arrives(
    redis_url: str, sink: CatchingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoice.pdf").write_bytes(b"%PDF")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "signed.eml").write_bytes(SIGNED)
    settings = Settings(broker_url=redis_url, relay=sink.url, default_from="shop@example.com")
    app = Celery("shop", set_as_current=False)
    app.conf.update(configuration(settings))
    install(app, settings)
    ids: list[str] = []
    accept = mailtasks.mailer.Mailer.send_many
    monkeypatch.setattr(
        mailtasks.mailer.Mailer,
        "send_many",
        lambda *given, **more: ids.extend(made := accept(*given, **more)) or made,
    )
    try:
        names: dict[str, object] = {}
        for language, code in fences(PAGE):
            assert language == "python"
            exec(code, names)
        for batch in dict.fromkeys(id.partition(".")[0] for id in ids):
            app.tasks[DELIVER](batch)
    finally:
        app.mailtasks.close()
        app.close()
    assert sink.violations == []
    caught = [(it, message_from_bytes(it.content, policy=policy.default)) for it in sink.messages]
    invoice, invitation, news, more_news, answer, ready, signed, forwarded = caught
    assert kinds(invoice[1]) == ["text/plain", "text/html", "image/png", "application/pdf", "text/csv"]
    assert list(invoice[1].iter_attachments())[1].get_filename() == "счёт.csv"
    assert kinds(invitation[1]) == ["text/plain", "text/html", "text/calendar", "application/ics"]
    assert [news[1]["To"], more_news[1]["To"]] == ["Ann <ann@example.com>", "bob@example.com"]
    assert (news[0].sender, news[1]["List-Unsubscribe"]) == (
        "bounces@example.com",
        "<https://example.com/u/1234>, <mailto:u@example.com?subject=1234>",
    )
    assert (answer[0].sender, answer[1]["References"]) == ("", "<4700@example.com> <4711@example.com>")
    assert ready[0].recipients == ("ann@example.com", "archive@example.com")
    assert ready[1]["Bcc"] is None
    assert signed[0].content.endswith(SIGNED)
    [inner] = forwarded[1].iter_attachments()
    assert (inner.get_content_type(), inner.get_content()["Subject"]) == ("message/rfc822", "Hello")


def kinds(mail: EmailMessage) -> list[str]:
    return [part.get_content_type() for part in mail.walk() if not part.is_multipart()]

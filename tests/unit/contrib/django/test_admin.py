"""The outbox in Django's admin: what is shown to whom, and what may be done."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission, User
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailtasks.contrib.django import admin as module
from mailtasks.contrib.django.backend import EmailBackend
from mailtasks.contrib.django.models import OutboxRow

LIST = "/admin/mailtasks/outboxrow/"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def visit(outbox, override):
    """A browser of who has these permissions."""
    override(ALLOWED_HOSTS=["testserver"])

    def visit(*codenames):
        user = User.objects.create_user(f"ann{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        assert user.user_permissions.count() == len(codenames)
        client = Client()
        client.force_login(user)
        return client

    yield visit
    User.objects.all().delete()


def page(answer):
    assert answer.status_code == 200
    return answer.content.decode()


def write(*, subject="Your code", body="is 1234", to=("ann@example.com",), **changes):
    """A row of one mail."""
    message = EmailMultiAlternatives(subject, body, to=list(to))
    message.attach_alternative(f"<p>{SCRIPT}</p>", "text/html")
    EmailBackend(outbox=True).send_messages([message])
    row = OutboxRow.objects.latest("id")
    OutboxRow.objects.filter(pk=row.pk).update(**changes)
    return row.pk, message.mailtasks_ids[0]


def test_the_list_shows_whose_mail_it_is_and_nothing_of_what_it_says(visit):
    write(subject="<b>Hello</b>", to=["ann@example.com", "bob@example.com", "cy@example.com"])
    write(subject="Bill", state="aside", error="its key was used before")
    text = page(visit("view_outboxrow").get(LIST))
    for shown in (
        "ann@example.com, bob@example.com and 1 more",
        "&lt;b&gt;Hello&lt;/b&gt;",
        "its key was used before",
        "Waiting",
        "Failed",
    ):
        assert shown in text
    assert "1234" not in text
    assert "<b>Hello" not in text


def test_the_list_is_filtered_by_state_and_searched_by_id(visit):
    _, id = write(subject="one")
    write(subject="other", state="final")
    ann = visit("view_outboxrow")
    assert rows_of(page(ann.get(LIST, {"state__exact": "final"}))) == ["other"]
    assert rows_of(page(ann.get(LIST, {"q": f" {id} "}))) == ["one"]


def rows_of(text):
    return re.findall(r'class="field-subject">(.*?)<', text)


def test_a_list_reads_no_large_row(visit, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_LISTED", 3_000)
    write(subject="large", body="x" * 3_000)
    write(subject="small")
    ann = visit("view_outboxrow")
    with CaptureQueriesContext(connections["default"]) as queries:
        assert rows_of(page(ann.get(LIST))) == ["small", "-"]
    [listing] = [it["sql"] for it in queries if '"peek"' in it["sql"]]
    assert '"content"' not in listing.partition("CASE")[0]
    assert listing.count('"content"') == 1, "of small rows"


def test_rows_that_cant_be_read_are_shown(visit):
    pk, _ = write(content=b"nonsense", state="aside", error="its content can't be read")
    ann = visit("view_outboxrow", "view_content")
    assert rows_of(page(ann.get(LIST))) == ["-"]
    assert "They can&#x27;t be read." in page(ann.get(f"{LIST}{pk}/change/"))
    assert ann.get(f"{LIST}{pk}/source/0/").status_code == 404


def test_a_row_is_shown_and_nothing_can_be_changed(visit):
    pk, id = write(state="final", outcome={"a.0": "sent"})
    text = page(visit("view_outboxrow").get(f"{LIST}{pk}/change/"))
    for shown in ("ann@example.com", "Your code", id.partition(".")[0], "sent", "Handed over, final"):
        assert shown in text
    assert "1234" not in text
    assert "/source/" not in text
    assert 'name="_save"' not in text
    assert "<textarea" not in text


def test_what_a_mail_says_needs_its_own_permission_and_is_text(visit):
    pk, _ = write()
    url = f"{LIST}{pk}/source/0/"
    for codenames in (["view_outboxrow"], ["view_content"], ["view_outboxrow", "delete_outboxrow"]):
        answer = visit(*codenames).get(url)
        assert answer.status_code == 403
        assert b"1234" not in answer.content
    reader = visit("view_outboxrow", "view_content")
    assert url in page(reader.get(f"{LIST}{pk}/change/"))
    text = page(reader.get(url))
    assert "is 1234" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert SCRIPT not in text
    assert Client().get(url).status_code == 302, "to the login"


def test_a_long_source_is_cut_and_attachments_are_named(visit, monkeypatch):
    message = EmailMessage("Hello", "x" * 500, to=["ann@example.com"])
    message.attach("bill.bin", bytes(range(256)) * 400, "application/octet-stream")
    EmailBackend(outbox=True).send_messages([message])
    reader = visit("view_outboxrow", "view_content")
    pk = OutboxRow.objects.latest("id").pk
    monkeypatch.setattr(module, "LONGEST_SOURCE", 100)
    text = page(reader.get(f"{LIST}{pk}/source/0/"))
    assert "more characters are left out" in text
    assert reader.get(f"{LIST}{pk}/source/1/").status_code == 404
    assert reader.get(f"{LIST}{pk + 1}/source/0/").status_code == 404


def test_what_is_stored_apart_is_named():
    from mailtasks.pieces import Blob

    assert module._shown(Blob("0" * 64, 7_000_000, "bill.pdf")) == "[bill.pdf: 7,000,000 bytes]\n"
    assert module._shown(b"Gr\xfc\xdfe") == "Gr\ufffd\ufffde"


def test_failed_mail_is_retried_by_who_may(visit):
    failed, _ = write(state="aside", error="no")
    waiting, _ = write(error="left alone")
    ask = {"action": "retry", "_selected_action": [failed, waiting], "index": 0}
    page(visit("view_outboxrow").post(LIST, ask, follow=True))
    assert OutboxRow.objects.get(pk=failed).state == "aside"
    ann = visit("view_outboxrow", "retry_outboxrow")
    text = page(ann.post(LIST, ask, follow=True))
    assert "To be tried again: 1." in text
    assert "Had not failed and were left alone: 1." in text
    states = OutboxRow.objects.order_by("id").values_list("state", "error")
    assert list(states) == [("waiting", None), ("waiting", "left alone")]


def test_nobody_adds_or_changes_and_some_may_delete(visit):
    pk, _ = write()
    ann = visit("view_outboxrow", "retry_outboxrow")
    assert ann.get(f"{LIST}add/").status_code == 403
    assert ann.get(f"{LIST}{pk}/delete/").status_code == 403
    assert ann.post(f"{LIST}{pk}/change/", {"state": "final"}).status_code == 403
    deleter = visit("view_outboxrow", "delete_outboxrow")
    assert deleter.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 302
    assert not OutboxRow.objects.exists()


def test_who_has_none_of_these_sees_nothing(visit):
    pk, _ = write()
    stranger = visit()
    for url in (LIST, f"{LIST}{pk}/change/", f"{LIST}{pk}/source/0/"):
        assert stranger.get(url).status_code in (302, 403)
    assert "Outbox" not in page(stranger.get("/admin/"))
    assert "Outbox" in page(visit("view_outboxrow").get("/admin/"))

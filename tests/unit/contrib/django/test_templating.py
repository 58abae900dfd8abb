"""Mail from Django's templates."""

from __future__ import annotations

import pytest
from django.template import TemplateDoesNotExist

from mailtasks.contrib.django import send_template, template_message
from mailtasks.errors import StoreUnavailable
from mailtasks.local.redis import free_port
from mailtasks.message import Priority


def test_subject_text_and_html(goes_out):
    mail = send_template("shop/welcome", to="ann@example.com", context={"name": "O'Brien <b>"})
    got = goes_out(mail)
    assert (got["Subject"], got["To"]) == ("Yes, O'Brien <b>, welcome", "ann@example.com")
    assert got.get_body(["plain"]).get_content() == "Yes, O'Brien <b>\r\n"
    assert got.get_body(["html"]).get_content() == "<p>O&#x27;Brien &lt;b&gt;</p>\r\n"


def test_the_language_of_the_recipient(queue):
    german = template_message("shop/welcome", to=["ann@example.com"], context={"name": "Ann"}, language="de")
    assert german.subject == "Ja, Ann, welcome"
    assert german.body == "Ja, Ann\n"
    assert template_message("shop/welcome", to=["ann@example.com"]).body == "Yes, \n"


def test_html_alone():
    mail = template_message("shop/news", to="ann@example.com")
    assert (mail.content_subtype, mail.body, mail.alternatives) == ("html", "<p>News</p>\n", [])


@pytest.mark.parametrize(
    ("name", "missing"), [("shop/lost", "shop/lost.txt or shop/lost.html"), ("shop/none", "none_subject.txt")]
)
def test_a_template_that_is_not_there(name, missing):
    with pytest.raises(TemplateDoesNotExist, match=missing):
        template_message(name, to="ann@example.com")


def test_fields_are_djangos_or_ours(queue):
    mail = send_template(
        "shop/news",
        to="ann@example.com",
        cc=["bob@example.com"],
        from_email="desk@example.com",
        priority="urgent",
    )
    assert mail.from_email == "desk@example.com"
    status = queue.status(*mail.mailtasks_ids)
    assert status.priority is Priority.URGENT
    assert [it.address for it in status.recipients] == ["ann@example.com", "bob@example.com"]
    with pytest.raises(TypeError, match="a mail has no field 'prioritty'; known are from_email, cc, "):
        send_template("shop/news", to="ann@example.com", prioritty="urgent")


def test_it_may_fail_silently(override):
    override(MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    assert not hasattr(send_template("shop/news", to="a@example.com", fail_silently=True), "mailtasks_ids")
    with pytest.raises(StoreUnavailable):
        send_template("shop/news", to="a@example.com")

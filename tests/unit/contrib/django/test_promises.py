"""What Django's documentation of sending email promises, in its order, held by what goes out.

What a message can hold is in `test_messages`, transactions are in `test_handover`, `MAILERS` are in
`test_mailers`, and a broker that is away is in `test_backend`.
"""

from __future__ import annotations

import logging
from email import message_from_bytes, policy
from email.charset import Charset
from functools import cache, partial

import django
import pytest
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection, send_mail, send_mass_mail
from django.utils.log import AdminEmailHandler
from django.utils.translation import gettext_lazy

from mailtasks.default import forget_default_mailer
from mailtasks.local.redis import free_port
from tests.djangos import BACKEND

SHOP = "The Shop <shop@example.com>"


@pytest.fixture
def sent(queue, monkeypatch, claimed):
    """Call it for all that was sent, as it goes out."""
    ids, accept = [], queue.send_many
    monkeypatch.setattr(
        queue, "send_many", lambda mails, **more: ids.extend(got := accept(mails, **more)) or got
    )
    parse = partial(message_from_bytes, policy=policy.default)
    return cache(lambda: [parse(claimed(id).body) for id in ids])


def recipients(queue, message):
    return [it.address for it in queue.status(*message.mailtasks_ids).recipients]


def types(mime):
    return [part.get_content_type() for part in mime.walk()]


# --- send_mail, send_mass_mail -----------------------------------------------------------------------


def test_everybody_on_the_list_sees_the_others(sent, queue):
    assert send_mail("Hello", "Hi", "me@example.com", ["john@example.com", "jane@example.com"]) == 1
    [mime] = sent()
    assert (mime["To"], mime["From"]) == ("john@example.com, jane@example.com", "me@example.com")
    assert queue.stats().accepted == 2, "one mail to two"


def test_without_a_sender_it_is_the_default(sent, override):
    send_mail("Hello", "Hi", None, ["ann@example.com"])
    override(DEFAULT_FROM_EMAIL="desk@example.com")
    send_mail("Hello", "Hi", None, ["ann@example.com"])
    assert [mime["From"] for mime in sent()] == [SHOP, "desk@example.com"]


def test_html_beside_the_text(sent):
    send_mail("Hello", "Hi", None, ["ann@example.com"], html_message="<p>Hi</p>")
    [mime] = sent()
    assert types(mime) == ["multipart/alternative", "text/plain", "text/html"]


def test_a_login_by_call_is_the_workers_business(sent):
    assert send_mail("Hello", "Hi", None, ["ann@example.com"], auth_user="me", auth_password="s3cret") == 1
    [mime] = sent()
    assert "s3cret" not in mime.as_string()


def test_the_count_is_that_of_mails_with_recipients(sent):
    data = (
        ("One", "Hi", None, ["first@example.com", "other@example.com"]),
        ("Nobody", "Hi", None, []),
        ("Two", "Hi", "me@example.com", ["second@example.com"]),
    )
    assert send_mass_mail(data) == 2
    assert send_mass_mail(iter(data[1:])) == 1
    assert send_mass_mail(()) == send_mail("Hello", "Hi", None, []) == 0
    assert [mime["Subject"] for mime in sent()] == ["One", "Two", "Two"]
    assert sent()[0]["To"] == "first@example.com, other@example.com"


# --- mail_admins, mail_managers, errors by mail ------------------------------------------------------

PEOPLE = ["root@example.com", "ops@example.com"]
PAIRS = [(name.partition("@")[0], name) for name in PEOPLE]


@pytest.mark.parametrize(
    ("setting", "call"), [("ADMINS", mail.mail_admins), ("MANAGERS", mail.mail_managers)]
)
def test_admins_and_managers(setting, call, sent, override):
    call("Fire", "In the server room")
    override(**{setting: PEOPLE if django.VERSION >= (6, 0) else PAIRS}, SERVER_EMAIL="server@example.com")
    call("Fire", "In the server room", html_message="<p>Fire</p>")
    override(EMAIL_SUBJECT_PREFIX="Shop: ")
    call("Fire", "In the server room", fail_silently=True)
    first, second = sent()
    assert (first["Subject"], second["Subject"]) == ("[Django] Fire", "Shop: Fire")
    assert (first["From"], first["To"]) == ("server@example.com", "root@example.com, ops@example.com")
    assert types(first) == ["multipart/alternative", "text/plain", "text/html"]


@pytest.fixture
def log():
    """A logger whose errors go to the admins."""
    handler, log = AdminEmailHandler(include_html=True), logging.getLogger("a shop")
    log.addHandler(handler)
    log.propagate = False
    yield log
    log.removeHandler(handler)


def test_an_error_is_mailed_to_the_admins(log, sent, override):
    override(ADMINS=PEOPLE if django.VERSION >= (6, 0) else PAIRS)
    try:
        raise RuntimeError("no stock")
    except RuntimeError:
        log.exception("order\nfailed")
    [mime] = sent()
    assert mime["Subject"] == r"[Django] ERROR: order\nfailed"
    assert "RuntimeError\r\nno stock" in mime.get_body(("plain",)).get_content()
    assert types(mime) == ["multipart/alternative", "text/plain", "text/html"]


def test_an_error_is_no_second_one_while_redis_is_away(log, override, caplog):
    override(
        ADMINS=PEOPLE if django.VERSION >= (6, 0) else PAIRS,
        MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"},
    )
    log.error("order failed")
    forget_default_mailer()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mailtasks.")]
    assert len(ours) == 1
    assert "mails that could not be accepted: 1" in ours[0]


# --- Header injection --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "mac"])
@pytest.mark.parametrize("name", ["subject", "from_email", "to", "cc", "bcc", "reply_to", "X-Order"])
def test_no_header_can_be_smuggled_in(end, name, queue):
    text = f"ann@example.com{end}Bcc: eve@example.com"
    named = {name: text if name in ("subject", "from_email") else [text]}
    fields = named if name.islower() else {"headers": {name: text}}
    with pytest.raises(ValueError, match=r"newline|linefeed|line|address|Invalid|CR"):
        EmailMessage(**{"subject": "Hello", "body": "Hi", "to": ["ann@example.com"], **fields}).send()
    assert queue.stats().accepted == 0


def test_headers_in_the_text_are_text(sent):
    send_mail("Hello", "Bcc: eve@example.com\n\nHi", None, ["ann@example.com"])
    [mime] = sent()
    assert mime["Bcc"] is None
    assert mime.get_content().startswith("Bcc: eve@example.com")


# --- EmailMessage ------------------------------------------------------------------------------------


def test_all_can_be_set_until_it_is_sent(sent, queue):
    message = EmailMessage()
    message.subject, message.body, message.from_email = "Hello", "Hi", "Fred <fred@example.com>"
    message.to, message.cc, message.bcc = ["a@example.com"], ["b@example.com"], ["c@example.com"]
    message.reply_to, message.extra_headers = ["d@example.com"], {"X-Order": "7"}
    assert message.send() == 1
    [mime] = sent()
    names = ("Subject", "From", "To", "Cc", "Bcc", "Reply-To", "X-Order")
    assert [mime[name] for name in names] == [
        *("Hello", "Fred <fred@example.com>", "a@example.com", "b@example.com", None),
        *("d@example.com", "7"),
    ]
    assert recipients(queue, message) == ["a@example.com", "b@example.com", "c@example.com"]


def test_headers_show_other_people_than_those_who_get_it(sent, queue):
    shown = {"To": "list@example.com", "Cc": "team@example.com", "Reply-To": "desk@example.com"}
    message = EmailMessage(
        "Hello",
        "Hi",
        to=["a@example.com"],
        cc=["b@example.com"],
        reply_to=["c@example.com"],
        headers=shown,
    )
    message.send()
    [mime] = sent()
    assert {name: mime[name] for name in shown} == shown
    assert recipients(queue, message) == ["a@example.com", "b@example.com"]


def test_only_bcc(sent, queue):
    message = EmailMessage("Hello", "Hi", bcc=["a@example.com"])
    assert message.send() == 1
    [mime] = sent()
    assert (mime["To"], mime["Bcc"]) == (None, None)
    assert recipients(queue, message) == ["a@example.com"]


def test_empty_addresses_are_left_out(queue):
    message = EmailMessage("Hello", "Hi", to=["a@example.com"], bcc=["", None])
    assert message.send() == 1
    assert recipients(queue, message) == ["a@example.com"]


def test_nobody_is_no_error(queue):
    message = EmailMessage("Hello", "Hi")
    assert message.send() == message.send(fail_silently=True) == 0
    assert queue.stats().accepted == 0


def test_translated_late(sent):
    late = gettext_lazy("Hello")
    EmailMessage(
        late,
        "Hi",
        gettext_lazy("me@example.com"),
        [gettext_lazy("ann@example.com")],
        headers={"X-Word": late},
    ).send()
    [mime] = sent()
    assert (mime["Subject"], mime["From"], mime["To"], mime["X-Word"]) == (
        *("Hello", "me@example.com", "ann@example.com", "Hello"),
    )


def test_a_domain_in_any_script_travels_as_punycode(queue, claimed):
    message = EmailMessage("Hello", "Hi", "desk@bücher.example", ["Änne <ann@bücher.example>"])
    message.send()
    [id] = message.mailtasks_ids
    mail = claimed(id)
    [shown] = message_from_bytes(mail.body, policy=policy.default)["To"].addresses
    assert (shown.display_name, shown.domain) == ("Änne", "xn--bcher-kva.example")
    assert mail.record.sender == "desk@xn--bcher-kva.example"
    assert recipients(queue, message) == ["ann@xn--bcher-kva.example"]


def test_the_charset_is_that_of_the_settings_or_of_the_message(sent, override):
    override(DEFAULT_CHARSET="iso-8859-1")
    first, second = (EmailMessage("Hello", "Grüße", to=["ann@example.com"]) for _ in range(2))
    second.encoding = "iso-8859-15"
    for message in (first, second):
        message.send()
    assert [mime.get_content_charset() for mime in sent()] == ["iso-8859-1", "iso-8859-15"]
    assert [mime.get_content().strip() for mime in sent()] == ["Grüße"] * 2


if django.VERSION < (6, 0):

    def test_the_charset_may_be_an_object_of_email(sent):
        message = EmailMessage("Hello", "Grüße", to=["ann@example.com"])
        message.encoding = Charset("iso-8859-1")
        message.send()
        [mime] = sent()
        assert mime.get_content_charset() == "iso-8859-1"
        assert mime.get_content().strip() == "Grüße"


@pytest.mark.parametrize(("local", "offset"), [(True, "+0900"), (False, ("+0000", "-0000"))])
def test_the_date_is_in_utc_unless_the_settings_say_otherwise(local, offset, sent, override):
    override(EMAIL_USE_LOCALTIME=local, TIME_ZONE="Asia/Tokyo")
    send_mail("Hello", "Hi", None, ["ann@example.com"])
    [mime] = sent()
    assert mime["Date"].endswith(offset)


def test_other_forms_without_a_text(sent):
    message = EmailMultiAlternatives("Hello", "", to=["ann@example.com"])
    message.attach_alternative("<p>Hi</p>", "text/html")
    message.send()
    [mime] = sent()
    assert "text/html" in types(mime)
    assert "Hi" in mime.get_body(("html",)).get_content()


def test_attachments_by_name_and_type(sent, tmp_path):
    (tmp_path / "map.png").write_bytes(b"\x89PNG")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    message = EmailMessage("Hello", "Hi", to=["ann@example.com"])
    message.attach("design.png", b"\x89PNG")
    message.attach("report", "plain words", "text/plain")
    message.attach("unknown", b"\x00")
    message.attach(content=b"nameless", mimetype="application/pdf")
    message.attach_file(str(tmp_path / "map.png"), "image/x-map")
    message.attach_file(tmp_path / "odd.txt")
    message.send()
    [mime] = sent()
    assert [(part.get_filename(), part.get_content_type()) for part in mime.iter_attachments()] == [
        ("design.png", "image/png"),
        ("report", "text/plain"),
        ("unknown", "application/octet-stream"),
        (None, "application/pdf"),
        ("map.png", "image/x-map"),
        ("odd.txt", "application/octet-stream"),
    ]


def test_an_attached_message_is_never_in_base64(sent):
    inner = EmailMessage("Inner", "Schöne Grüße", to=["bob@example.com"])
    message = EmailMessage("Hello", "Hi", to=["ann@example.com"])
    message.attach("inner.eml", inner, "message/rfc822")
    message.attach("again.eml", inner.message(), "message/rfc822")
    message.send()
    [mime] = sent()
    for part in mime.iter_attachments():
        assert part["Content-Transfer-Encoding"] in (None, "7bit", "8bit")  # RFC 2046 5.2.1
        assert part.get_content()["Subject"] == "Inner"


# --- Backends ----------------------------------------------------------------------------------------


def messages(*addresses, **fields):
    return [EmailMessage("Hello", "Hi", to=[address], **fields) for address in addresses]


def test_one_connection_for_many(queue):
    connection = get_connection()
    connection.open()
    [first] = messages("a@example.com", connection=connection)
    assert first.send() == 1
    assert connection.send_messages(messages("b@example.com", "c@example.com")) == 2
    connection.close()
    with get_connection() as other:
        [second] = messages("d@example.com", connection=other)
        assert second.send() == 1
        assert send_mail("Hello", "Hi", None, ["e@example.com"], connection=other) == 1
        assert send_mass_mail([("Hello", "Hi", None, ["f@example.com"])], connection=other) == 1
    assert queue.stats().accepted == 6
    assert other.send_messages(messages("g@example.com")) == 1, "it can be opened again"


def test_what_send_messages_takes(queue):
    backend = get_connection()
    assert backend.send_messages(None) == backend.send_messages([]) == backend.send_messages(iter(())) == 0
    assert backend.send_messages(one for one in messages("a@example.com", "b@example.com")) == 2
    assert backend.send_messages(tuple(messages("c@example.com"))) == 1


def test_a_connection_is_told_to_be_silent(override):
    override(MAILTASKS={"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    connection = get_connection(fail_silently=True)
    assert connection.send_messages(messages("a@example.com")) == 0
    assert messages("a@example.com", connection=connection)[0].send() == 0
    forget_default_mailer()


def test_a_backend_by_its_path(override, queue):
    override(EMAIL_BACKEND="django.core.mail.backends.dummy.EmailBackend")
    assert get_connection(BACKEND).send_messages(messages("a@example.com")) == 1
    assert queue.stats().accepted == 1


# --- Who else sends ----------------------------------------------------------------------------------


def test_a_forgotten_password(sent):
    from django.contrib.auth.forms import PasswordResetForm
    from django.contrib.auth.models import User

    class Form(PasswordResetForm):
        def get_users(self, email):
            return [User(pk=7, username="ann", email=email)]

    form = Form({"email": "ann@example.com"})
    assert form.is_valid()
    form.save(
        domain_override="shop.example.com",
        subject_template_name="reset_subject.txt",
        email_template_name="reset.txt",
        html_email_template_name="reset.html",
        use_https=True,
    )
    [mime] = sent()
    assert (mime["Subject"], mime["To"]) == ("Your password at shop.example.com", "ann@example.com")
    assert "https://shop.example.com/reset/Nw/" in mime.get_body(("plain",)).get_content()
    assert types(mime) == ["multipart/alternative", "text/plain", "text/html"]

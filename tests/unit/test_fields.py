from __future__ import annotations

import pytest

from mailtasks.errors import AddressError, MessageError
from mailtasks.fields import KINDS, Kind, checked, kind_of, list_id, mailboxes


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("X-Order", Kind.TEXT),
        ("Comments", Kind.TEXT),
        ("LIST-UNSUBSCRIBE", Kind.URLS),
        ("References", Kind.IDS),
        ("Sender", Kind.MAILBOX),
        ("Disposition-Notification-To", Kind.ADDRESSES),
        ("List-Id", Kind.LIST_ID),
        ("Feedback-ID", Kind.WORDS),
    ],
)
def test_each_name_has_a_kind(name, kind):
    assert kind_of(name) is kind


def test_names_are_kept_in_lower_case():
    assert all(name == name.lower() for name in KINDS)


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("X-A", ["  two  spaces "], ("  two  spaces ",)),
        ("X-A", ["one", "two"], ("one", "two")),
        ("Precedence", ["bulk"], ("bulk",)),
        ("Auto-Submitted", ["auto-generated; owner=x"], ("auto-generated; owner=x",)),
        ("Auto-Submitted", ["No"], ("No",)),
        ("List-Unsubscribe-Post", ["List-Unsubscribe=One-Click"], ("List-Unsubscribe=One-Click",)),
        ("References", ["<a@b>  <c@d>"], ("<a@b> <c@d>",)),
        ("References", ["<a@b>", "<c@d>"], ("<a@b> <c@d>",)),
        ("Sender", ["Ann <ann@EXAMPLE.com>"], ("Ann <ann@example.com>",)),
        ("Resent-To", ['"Doe, Ann" <a@b>,c@d', "e@f"], ('"Doe, Ann" <a@b>, c@d, e@f',)),
        ("List-Post", ["NO (posting is closed)"], ("NO (posting is closed)",)),
        (
            "List-Unsubscribe",
            ["<https://example.com/u,1>,<mailto:u@example.com>"],
            ("<https://example.com/u,1>, <mailto:u@example.com>",),
        ),
        ("List-Unsubscribe", ["<https://a/1>", "<mailto:b@c>"], ("<https://a/1>, <mailto:b@c>",)),
        ("List-Id", ["Grüße <news.example.com>"], ("Grüße <news.example.com>",)),
    ],
)
def test_a_value_is_brought_into_one_spelling(name, values, kept):
    assert checked(name, values) == kept
    assert checked(name, kept) == kept


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "Feedback-ID",
            "für:uns",
            "headers: Feedback-ID holds 'für:uns': give printable ASCII, for what this header says is read "
            "by programs, which decode nothing there",
        ),
        ("Precedence", "", "headers: Precedence is empty: give it a value, or leave it out"),
        (
            "List-Help",
            f"<https://example.com/{'x' * 900}>",
            "headers: List-Help has 922 characters without a space: give at most 900, since a header is only "
            "folded at spaces",
        ),
        (
            "In-Reply-To",
            "1234@example.com",
            "headers: In-Reply-To holds '1234@example.com', which is no message id: give ids such as "
            "'<1234@example.com>', with spaces between",
        ),
        (
            "References",
            "",
            "headers: References holds '', which is no message id: give ids such as "
            "'<1234@example.com>', with spaces between",
        ),
        (
            "Sender",
            "ann@example.com, bob@example.com",
            "headers: Sender holds 'ann@example.com, bob@example.com': give exactly one address "
            "(RFC 5322 3.6.2)",
        ),
        (
            "List-Unsubscribe",
            "https://example.com/u/1",
            "headers: List-Unsubscribe holds 'https://example.com/u/1': put each URL in angle brackets, and "
            "commas between them, as in '<https://example.com/u/1>, <mailto:u@example.com>' (RFC 2369)",
        ),
        (
            "List-Id",
            "news",
            "headers: List-Id holds 'news': give the list's name in angle brackets, as in "
            "'Our news <news.example.com>' (RFC 2919)",
        ),
        (
            "List-Unsubscribe-Post",
            "yes",
            "headers: List-Unsubscribe-Post is 'yes': expected List-Unsubscribe=One-Click (RFC 8058)",
        ),
        (
            "Auto-Submitted",
            "yes",
            "headers: Auto-Submitted is 'yes': expected no, auto-generated, auto-replied or auto-notified "
            "(RFC 3834)",
        ),
    ],
)
def test_what_a_kind_cannot_hold_is_refused_in_one_sentence(name, value, sentence):
    with pytest.raises(MessageError) as caught:
        checked(name, [value])
    assert str(caught.value) == sentence


def test_an_address_that_is_none_is_told_with_its_header():
    with pytest.raises(AddressError) as caught:
        checked("Resent-To", ["ann@example.com, bob"])
    assert str(caught.value) == (
        "headers: Resent-To: 'bob' is no mail address: An email address must have an @-sign"
    )


def test_what_was_kept_is_read_again():
    [kept] = checked("Resent-To", ['"Doe, Ann" <a@b>', "Jörg <c@d>"])
    assert [(one.display_name, one.address) for one in mailboxes(kept)] == [
        ("Doe, Ann", "a@b"),
        ("Jörg", "c@d"),
    ]
    assert list_id('"Our, news" <news.example.com>') == ("Our, news", "news.example.com")
    assert list_id("<news.example.com>") == ("", "news.example.com")

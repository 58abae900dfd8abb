from __future__ import annotations

import pytest

from mailtasks.address import Address
from mailtasks.compose.headers import address_header, encoded_words, fold, parameter_header, text_header


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Your code", "Subject: Your code\r\n"),
        ("", "Subject: \r\n"),
        ("Hello 🎉 there", "Subject: Hello =?utf-8?q?=F0=9F=8E=89?= there\r\n"),
        ("a Grüße aus Köln b", "Subject: a =?utf-8?q?Gr=C3=BC=C3=9Fe?= aus =?utf-8?q?K=C3=B6ln?= b\r\n"),
        ("Müller Söhne", "Subject: =?utf-8?q?M=C3=BCller_S=C3=B6hne?=\r\n"),  # one run of two words
        ("日本語", "Subject: =?utf-8?b?5pel5pys6Kqe?=\r\n"),
        ("two  spaces", "Subject: two  spaces\r\n"),
        (" at the ends ", "Subject: =?utf-8?q?_at_the_ends_?=\r\n"),
        ("tab\there", "Subject: =?utf-8?q?tab=09here?=\r\n"),
        ("=?utf-8?q?x?=", "Subject: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=\r\n"),
    ],
)
def test_text(value, written):
    assert text_header("Subject", value) == written


def test_a_long_text_is_folded_at_its_spaces():
    written = text_header("Subject", " ".join(["word"] * 30))
    assert [len(line) for line in written.split("\r\n")] == [73, 75, 10, 0]
    assert written.replace("\r\n", "") == "Subject: " + " ".join(["word"] * 30)


def test_a_long_word_that_others_must_read_stays_whole():
    link = "<https://example.com/" + "u" * 200 + ">"
    assert text_header("List-Unsubscribe", link) == f"List-Unsubscribe: {link}\r\n"


def test_a_word_too_long_for_any_line_is_encoded():
    lines = text_header("X-Long", "x" * 1000).split("\r\n")
    assert max(map(len, lines)) <= 76
    assert lines[0].startswith("X-Long: =?utf-8?q?xxx")


@pytest.mark.parametrize(
    ("addresses", "written"),
    [
        ([Address("", "a@b.c")], "To: a@b.c\r\n"),
        ([Address("Ann", "a@b.c"), Address("", "d@e.f")], "To: Ann <a@b.c>, d@e.f\r\n"),
        ([Address("Doe, Ann", "a@b.c")], 'To: "Doe, Ann" <a@b.c>\r\n'),
        ([Address('Ann "A"', "a@b.c")], 'To: "Ann \\"A\\"" <a@b.c>\r\n'),
        ([Address("Jörg", "a@b.c")], "To: =?utf-8?q?J=C3=B6rg?= <a@b.c>\r\n"),
        ([Address("=?utf-8?q?x?=", "a@b.c")], "To: =?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?= <a@b.c>\r\n"),
        ([Address("", "jörg@b.c")], "To: jörg@b.c\r\n"),
    ],
)
def test_addresses(addresses, written):
    assert address_header("To", addresses) == written


def test_many_addresses_are_folded_between_them():
    written = address_header("To", [Address("Ann Other", "ann.other@example.com")] * 4)
    assert written == (
        "To: Ann Other <ann.other@example.com>, Ann Other <ann.other@example.com>,\r\n"
        " Ann Other <ann.other@example.com>, Ann Other <ann.other@example.com>\r\n"
    )


@pytest.mark.parametrize(
    ("filename", "lines"),
    [
        ("a.pdf", ['Content-Disposition: attachment; filename="a.pdf"']),
        ('a"b\\c', ['Content-Disposition: attachment; filename="a\\"b\\\\c"']),
        ("Übersicht.pdf", ["Content-Disposition: attachment; filename*=utf-8''%C3%9Cbersicht.pdf"]),
        (
            "ü" * 20,
            [
                "Content-Disposition: attachment;",
                " filename*0*=utf-8''" + "%C3%BC" * 8 + ";",
                " filename*1*=" + "%C3%BC" * 10 + ";",
                " filename*2*=" + "%C3%BC" * 2,
            ],
        ),
    ],
)
def test_parameters(filename, lines):
    written = parameter_header("Content-Disposition", "attachment", "filename", filename)
    assert written == "\r\n".join([*lines, ""])


def test_encoded_words_never_tear_a_character():
    words = encoded_words("🎉" * 40, room=40)
    assert [len(word) for word in words] == [40, 72, 72, 72, 24]


def test_a_fold_never_leaves_the_name_alone():
    assert fold("X", [" " + "x" * 90, " y"]) == f"X: {'x' * 90}\r\n y\r\n"

from __future__ import annotations

import dataclasses

import pytest

from mailtasks.address import Address, excerpt, mailbox, parse, split
from mailtasks.errors import AddressError


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("ann@example.com", "", "ann@example.com"),
        ("ann+tag@EXAMPLE.com", "", "ann+tag@example.com"),
        ("Ann@example.com", "", "Ann@example.com"),
        ("  ann@example.com ", "", "ann@example.com"),
        ("<ann@example.com>", "", "ann@example.com"),
        ("Ann <ann@example.com>", "Ann", "ann@example.com"),
        ("Jörg Müller <joerg@example.com>", "Jörg Müller", "joerg@example.com"),
        ("Ann (Sales) <ann@example.com>", "Ann (Sales)", "ann@example.com"),
        ('"Doe, Ann" <ann@example.com>', "Doe, Ann", "ann@example.com"),
        (r'"Ann \"A\" Doe" <ann@example.com>', 'Ann "A" Doe', "ann@example.com"),
        ("root@localhost", "", "root@localhost"),
        ("ann@mail.test", "", "ann@mail.test"),
        ("ann@bücher.test", "", "ann@xn--bcher-kva.test"),
        ("ann@Bücher.Example", "", "ann@xn--bcher-kva.example"),
        ("jörg@example.com", "", "jörg@example.com"),
        ("ann@straße.example", "", "ann@xn--strae-oqa.example"),  # IDNA 2008: not strasse
        ("ann@نامه\u200cای.com", "", "ann@xn--mgba3gch31f060k.com"),  # RFC 5892 A.1
        ("Ann <ann@xn--mgba3gch31f060k.com>", "Ann", "ann@xn--mgba3gch31f060k.com"),
        ("jörg@ශ්\u200dරී.test", "", "jörg@xn--10cl1a0b660p.test"),  # RFC 5892 A.2
        ('"a b@c"@example.com', "", '"a b@c"@example.com'),
        ('"plain"@example.com', "", "plain@example.com"),
        ('Ann <"a<b>"@example.com>', "Ann", '"a<b>"@example.com'),
        ("ann@[192.0.2.1]", "", "ann@[192.0.2.1]"),
        ("ann@[IPv6:2001:db8::1]", "", "ann@[IPv6:2001:db8::1]"),
        ("a" * 64 + "@" + "b." * 93 + "com", "", "a" * 64 + "@" + "b." * 93 + "com"),  # 254 octets
    ],
)
def test_takes(text, name, address):
    assert parse(text) == Address(name, address)


def test_a_domain_with_a_joiner_has_no_period_at_its_end():
    with pytest.raises(AddressError):
        parse("ann@نامه\u200cای.com.")


def test_decodes_the_name_that_formataddr_encoded():
    assert parse("=?utf-8?b?SsO2cmc=?= <joerg@example.com>").display_name == "Jörg"


def test_leaves_a_name_alone_that_only_looks_encoded():
    assert parse("=?no-such-charset?q?x?= <a@example.com>").display_name == "=?no-such-charset?q?x?="
    assert parse('"=?utf-8?q?x?=" <a@example.com>').display_name == "=?utf-8?q?x?="


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no mail address: An email address must have an @-sign"),
        ("ann", "'ann' is no mail address: An email address must have an @-sign"),
        ("ann@", "'ann@' is no mail address: There must be something after the @-sign"),
        (
            "ann@example..com",
            "'ann@example..com' is no mail address: An email address cannot have two periods in a row",
        ),
        (
            "a" * 64 + "@" + "b." * 93 + "come",
            f"'{'a' * 57}...' is no mail address: The email address is too long (1 character too many)",
        ),
        (
            "a" * 65 + "@example.com",
            f"'{'a' * 57}...' is no mail address: 65 octets stand before the @, and RFC 5321 allows 64",
        ),
        (
            "ö" * 33 + "@example.com",
            f"'{'ö' * 33}@example.com' is no mail address: 66 octets stand before the @, "
            "and RFC 5321 allows 64",
        ),
        (
            "ann@example.com, bob@example.com",
            "'ann@example.com, bob@example.com' is no mail address: The part after the @-sign contains "
            "invalid characters: ',', '@', SPACE; give several addresses as a list (on the command line: "
            "each with a --to of its own)",
        ),
        (
            "ann@example.com, Bob <bob@example.com>",
            "'ann@example.com, Bob <bob@example.com>' is no mail address: put the display name in double "
            "quotes, and give several addresses as a list (on the command line: each with a --to of its own)",
        ),
        (
            "ann@example.com\r\nRCPT TO:<eve@example.com>",
            "the address 'ann@example.com\\r\\nRCPT TO:<eve@example.com>' holds '\\r': line breaks, control "
            "characters and surrogates can't be mailed; remove them",
        ),
        (
            "ann\0@example.com",
            "the address 'ann\\x00@example.com' holds '\\x00': line breaks, control characters and "
            "surrogates can't be mailed; remove them",
        ),
        (
            "ann\udc80@example.com",
            "the address 'ann\\udc80@example.com' holds '\\udc80': line breaks, control characters and "
            "surrogates can't be mailed; remove them",
        ),
        (
            "=?utf-8?q?a=0D=0ABcc=3A_eve?= <ann@example.com>",
            "the address '=?utf-8?q?a=0D=0ABcc=3A_eve?= <ann@example.com>' holds '\\r': line breaks, control "
            "characters and surrogates can't be mailed; remove them",
        ),
        (
            "a" * 600 + "@example.com",
            f"'{'a' * 57}...' is no mail address: it has 612 characters, and RFC 5321 allows 254 octets",
        ),
        (
            "ann@a\u200cb.com",
            "'ann@a\\u200cb.com' is no mail address: The email address contains unsafe characters: "
            "ZERO WIDTH NON-JOINER",
        ),
        (
            "a" * 64 + "@نامه\u200cای." + "b." * 84 + "com",
            f"'{'a' * 57}...' is no mail address: it has 256 octets, and RFC 5321 allows 254",
        ),
        (
            "a b@نامه\u200cای.com",
            "'a b@نامه\\u200cای.com' is no mail address: The email address contains invalid characters "
            "before the @-sign: SPACE",
        ),
        (
            "ann@אa.com",
            "'ann@אa.com' is no mail address: The part after the @-sign is invalid (Invalid direction for "
            "codepoint at position 2 in a right-to-left label)",
        ),
        ("a" * 1_000_000, f"'{'a' * 57}...' is no mail address: it has 1,000,000 characters"),
        (None, "'None' (NoneType) is no mail address: give a string such as 'ann@example.com'"),
    ],
)
def test_refuses_in_one_sentence(text, sentence):
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("a@faß.de", "xn--fa-hia.de"),  # IDNA 2003 said fass.de
        ("a@FASS.de", "fass.de"),
        ("a@ς.gr", "xn--3xa.gr"),  # a final sigma is a letter of its own
        ("a@Σ.gr", "xn--4xa.gr"),
        ("a@ＥＸＡＭＰＬＥ.com", "example.com"),
        ("a@BÜCHER.example", "xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a@[IPv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_domains_are_written_as_idna_2008_has_them(text, domain):
    assert parse(text).domain == domain


@pytest.mark.parametrize("text", ["a@i❤.ws", "a@xn--i-7iq.ws", "a@💩.la"])
def test_a_domain_of_emoji_is_none_in_idna_2008(text):
    with pytest.raises(AddressError, match="not allowed"):
        parse(text)


def test_a_local_part_keeps_its_case_and_characters():
    assert parse("Ann.ÖTZI@Example.COM").address == "Ann.ÖTZI@example.com"
    assert parse('"a@b c"@example.com').address == '"a@b c"@example.com'
    assert parse('"ann"@example.com').address == "ann@example.com"  # quotes that mean nothing


def test_knows_its_parts():
    address = parse('"a@b"@bücher.example')
    assert address.local_part == '"a@b"'
    assert address.domain == "xn--bcher-kva.example"
    assert address.unicode == '"a@b"@bücher.example'
    assert parse("ann@example.com").unicode == "ann@example.com"


def test_only_a_local_part_beyond_ascii_needs_smtputf8():
    assert parse("Jörg <ann@bücher.example>").ascii_ok
    assert not parse("jörg@example.com").ascii_ok


def test_is_written_as_it_can_be_read():
    assert str(parse("ann@example.com")) == "ann@example.com"
    assert str(parse("Jörg <ann@example.com>")) == "Jörg <ann@example.com>"
    assert str(Address('Doe, "Ann" \\', "ann@example.com")) == r'"Doe, \"Ann\" \\" <ann@example.com>'


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("ann@example.com").address = "eve@example.com"


def test_an_excerpt_is_one_short_line():
    assert excerpt("a\nb") == r"'a\nb'"
    assert excerpt("x" * 61) == "'" + "x" * 57 + "...'"
    assert excerpt(5) == "'5' (int)"


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("ann@example.com", ["ann@example.com"]),
        ("a@b, c@d,e@f", ["a@b", "c@d", "e@f"]),
        ('"Doe, \\"Ann\\", x" <a@b>, c@d', ['"Doe, \\"Ann\\", x" <a@b>', "c@d"]),
        ("a@b,,", ["a@b", "", ""]),
        ('"unclosed, a@b', ['"unclosed, a@b']),
    ],
)
def test_a_list_is_split_at_its_own_commas(text, members):
    assert split(text) == members


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("ÄNN@Straße.example", "änn@xn--strae-oqa.example"),
        ('"A b"@example.com', '"a b"@example.com'),
        ("a.nn+News@example.com", "a.nn+news@example.com"),  # two mailboxes at some hosts
        ("Strauß@example.com", "strauß@example.com"),
    ],
)
def test_a_mailbox_is_known_in_upper_and_lower_case(text, one):
    assert mailbox(parse(text).address) == one
    assert mailbox(one) == one

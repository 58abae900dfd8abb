"""The fast path for plain addresses says what the library says; what was parsed is written and read back."""

from __future__ import annotations

import re
import time
import tracemalloc

import email_validator
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mailtasks.address import Address, parse
from mailtasks.errors import AddressError

ADDRESS_CHARACTERS = "aZ09.-_+!#$%&'*/=?^`{|}~@ \"<>()[]:;,\\x"
looks_like_one = st.from_regex(r"[\x21-\x7e]{1,12}@[A-Za-z0-9.\-]{1,20}", fullmatch=True)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(str.strip)
plain = st.from_regex(
    r"[a-z!#$%&'*+/=?^_`{|}~-]{1,10}(\.[A-Z0-9]{1,5})?@[a-z0-9]{1,9}(\.[a-z]{2,9}){0,2}", fullmatch=True
)


@pytest.fixture(autouse=True)
def every_domain_is_welcome(monkeypatch):
    monkeypatch.setattr(email_validator, "SPECIAL_USE_DOMAIN_NAMES", [])


def by_the_library(text: str) -> str | None:
    """The wire form if the library takes the address without a name, else None."""
    try:
        valid = email_validator.validate_email(
            text,
            allow_quoted_local=True,
            allow_domain_literal=True,
            globally_deliverable=False,
            check_deliverability=False,
        )
    except email_validator.EmailSyntaxError:
        return None
    # The library has no switch for octets, only for characters.
    return f"{valid.local_part}@{valid.ascii_domain}" if len(valid.local_part.encode()) <= 64 else None


def by_us(text: str) -> str | None:
    try:
        return parse(text).address
    except AddressError:
        return None


@given(st.text(ADDRESS_CHARACTERS, max_size=20) | looks_like_one | plain | st.text())
@example("a@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a@ab--c.com")
@example("a@xn--bcher-kva.example")
@example("a@xn--bcher.example")
@example("a@1.2.3.4")
@example("a@b-.com")
@example("a" * 64 + "@" + "b." * 93 + "com")
@example("a" * 64 + "@" + "b." * 93 + "come")
@example("a" * 65 + "@example.com")
@example("ö" * 32 + "@example.com")
@example("ö" * 33 + "@example.com")
@example("jörg@bücher.test")
@example('"a b"@localhost')
@example("a@[IPv6:2001:db8::1]")
def test_both_take_the_same_addresses_and_write_them_alike(text):
    text = text.strip()
    assume(not re.search("[\u200c\u200d]", text))  # it refuses joiners; IDNA 2008 doesn't
    assume(
        not text.endswith(">")
    )  # with a name: the library takes no international one, so that part is ours
    ours, library = by_us(text), by_the_library(text)
    # RFC 2142: the library writes "Postmaster" and its like in lower case; the fast path leaves it alone.
    assert (ours and ours.lower()) == (library and library.lower())


@given(
    names,
    plain
    | st.sampled_from(['"a <b>"@example.com', "jörg@bücher.test", "a@[127.0.0.1]", "a@نامه\u200cای.com"]),
)
@example('quotes " and \\ and, commas', "ann@example.com")
@example("=?utf-8?q?x?=", "ann@example.com")
@example("  two  spaces  ", "ann@example.com")
def test_what_is_written_reads_the_same(name, bare):
    address = Address(name.strip(), parse(bare).address)
    assert parse(str(address)) == address


@given(st.text(), st.sampled_from("\r\n\0\t\x1b\x85"), st.text())
def test_no_control_character_passes(before, control, after):
    with pytest.raises(AddressError):
        parse(f"{before}{control}{after}")


@given(st.text(), st.sampled_from(["ann@example.com", "@", "<>", "\r\n"]), st.text())
def test_nothing_but_an_address_or_an_error_comes_out(before, middle, after):
    try:
        found = parse(before + middle + after)
    except AddressError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert re.fullmatch(r"[^\s\x00-\x1f]+|\".*\"@\S+", found.address)
        assert len(found.address.encode()) <= 254


@pytest.mark.parametrize(
    "text",
    [
        *(unit * 1_000_000 for unit in ("a", "@", '"', "<", "a.", "ü")),
        *(
            start + unit * 4000
            for start in ("", '"', "a@", "=?utf-8?q?")
            for unit in ("\\", '\\"', ".", "\u0301")
        ),
        *("=?utf-8?q?a?=" * 300 + end for end in ("<a@b>", "@b", ">")),
        '"' * 4000 + ">",
        '""' + " " * 4000 + ">",
    ],
    ids=lambda text: text[:12],
)
def test_work_and_memory_are_bounded(text):
    tracemalloc.start()
    began = time.process_time()
    try:
        by_us(text)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        assert time.process_time() - began < 2
    finally:
        tracemalloc.stop()

"""The header fields that a user may give: of which kind each is, and what its value must be.

The rules:

1. An encoded word may stand in text, in a display name and in no other place (RFC 2047 5). So a field
   that has a syntax has a kind, and what it holds is never encoded: URLs, ids and words arrive as they are.
2. A value is checked and brought into one spelling where the message is made. What a kind can't hold
   is refused there, with a sentence.
3. A list of values is one field where its kind is a list, and several fields of one name elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from mailtasks.address import Address, excerpt, parse, split
from mailtasks.errors import AddressError, MessageError

LONGEST_WORD: Final = 900
"""Octets between two spaces: behind a name of 64 it stays below the 998 of RFC 5322 2.1.1."""


class Kind(Enum):
    """What the value of a field is."""

    TEXT = "text"  # may be any; encoded words where needed
    WORDS = "words"  # printable ASCII with a syntax of its own, never encoded
    IDS = "ids"  # message ids in angle brackets (RFC 5322 3.6.4)
    ADDRESSES = "addresses"  # one or more mailboxes; their names may be any text
    MAILBOX = "mailbox"  # exactly one
    URLS = "urls"  # in angle brackets, with commas between (RFC 2369 2)
    LIST_ID = "list id"  # any text, then the list's name in angle brackets (RFC 2919 2)


_KINDS: Final = {
    Kind.IDS: "in-reply-to references resent-message-id original-message-id supersedes obsoletes",
    Kind.ADDRESSES: (
        "resent-from resent-to resent-cc resent-reply-to disposition-notification-to return-receipt-to "
        "errors-to mail-followup-to mail-reply-to abuse-reports-to"
    ),
    Kind.MAILBOX: "sender resent-sender",
    Kind.URLS: ("list-unsubscribe list-subscribe list-help list-post list-owner list-archive archived-at"),
    Kind.LIST_ID: "list-id",
    Kind.WORDS: (
        "list-unsubscribe-post auto-submitted precedence feedback-id importance priority x-priority "
        "x-msmail-priority x-auto-response-suppress x-entity-ref-id sensitivity expires expiry-date reply-by "
        "resent-date content-language accept-language require-recipient-valid-since tls-required "
        "disposition-notification-options delivered-to received received-spf authentication-results "
        "dkim-signature domainkey-signature arc-seal arc-message-signature arc-authentication-results "
        "autocrypt openpgp bimi-selector"
    ),
}

KINDS: Final = {name: kind for kind, names in _KINDS.items() for name in names.split()}
"""The kind of each field, by its name in lower case; whatever isn't here is text."""

_ID: Final = re.compile(r"<[!-;=?-~]+>")
_URLS: Final = re.compile(r"<[!-;=?-~]+>( \([^()]*\))?(, <[!-;=?-~]+>( \([^()]*\))?)*|NO( \([^()]*\))?")
_LIST_ID: Final = re.compile(r"(.*?) ?<([!-;=?-~]+)>")
_ASCII: Final = re.compile(r"[ -~]*")

_EXACT: Final = {
    "list-unsubscribe-post": (r"List-Unsubscribe=One-Click", "List-Unsubscribe=One-Click (RFC 8058)"),
    "auto-submitted": (
        r"(?i:no|auto-generated|auto-replied|auto-notified)( ?;.*)?",
        "no, auto-generated, auto-replied or auto-notified (RFC 3834)",
    ),
}
"""Fields with few values, which readers compare: what fits, and the same for people."""


def kind_of(name: str) -> Kind:
    """The kind of a field; case doesn't matter."""
    return KINDS.get(name.lower(), Kind.TEXT)


def checked(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """The values of a field as they are kept, one for each time that it stands in the header.

    Args:
        name: of the field, which is known to be a header name.
        values: without CR, LF, NUL and surrogates; at least one.

    Raises:
        MessageError: a value isn't of the field's kind; AddressError, if it should be an address.
    """
    kind = kind_of(name)
    if kind in _JOINTS:
        values = [_JOINTS[kind].join(values)]
    return tuple([_CHECKS[kind](name, value) for value in values])


def mailboxes(value: str) -> list[Address]:
    """The addresses of a field that `checked` has let through."""
    return [parse(text) for text in split(value)]


def list_id(value: str) -> tuple[str, str]:
    """Description and name of a list, of a value that `checked` has let through."""
    found = _LIST_ID.fullmatch(value)
    assert found, "it was checked when the message was made"
    return _unquoted(found[1]), found[2]


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _text(name: str, value: str) -> str:
    return value


def _words(name: str, value: str) -> str:
    words = re.sub(" +", " ", value).strip()
    if not words:
        raise MessageError(f"headers: {name} is empty: give it a value, or leave it out")
    if not _ASCII.fullmatch(words):
        raise MessageError(
            f"headers: {name} holds {excerpt(value)}: give printable ASCII, for what this header says is "
            "read by programs, which decode nothing there"
        )
    for word in words.split(" "):
        if len(word) > LONGEST_WORD:
            raise MessageError(
                f"headers: {name} has {len(word)} characters without a space: give at most {LONGEST_WORD}, "
                "since a header is only folded at spaces"
            )
    exact, told = _EXACT.get(name.lower(), ("", ""))
    if exact and not re.fullmatch(exact, words):
        raise MessageError(f"headers: {name} is {excerpt(value)}: expected {told}")
    return words


def _ids(name: str, value: str) -> str:
    ids = value.split()
    for id in ids or [value]:
        if not _ID.fullmatch(id):
            raise MessageError(
                f"headers: {name} holds {excerpt(id)}, which is no message id: "
                "give ids such as '<1234@example.com>', with spaces between"
            )
    return _words(name, " ".join(ids))


def _addresses(name: str, value: str) -> str:
    try:
        found = [parse(text) for text in split(value)]
    except AddressError as error:
        raise AddressError(f"headers: {name}: {error}") from None
    return ", ".join(map(str, found))


def _mailbox(name: str, value: str) -> str:
    if len(split(value)) != 1:
        raise MessageError(
            f"headers: {name} holds {excerpt(value)}: give exactly one address (RFC 5322 3.6.2)"
        )
    return _addresses(name, value)


def _urls(name: str, value: str) -> str:
    urls = re.sub(r"\s*,\s*(?=<)", ", ", _words(name, value))
    if not _URLS.fullmatch(urls):
        raise MessageError(
            f"headers: {name} holds {excerpt(value)}: put each URL in angle brackets, and commas between "
            "them, as in '<https://example.com/u/1>, <mailto:u@example.com>' (RFC 2369)"
        )
    return _words(name, urls)


def _list_id(name: str, value: str) -> str:
    found = _LIST_ID.fullmatch(re.sub("[ \t]+", " ", value).strip())
    if not found or len(found[2]) > LONGEST_WORD:
        raise MessageError(
            f"headers: {name} holds {excerpt(value)}: give the list's name in angle brackets, "
            "as in 'Our news <news.example.com>' (RFC 2919)"
        )
    return found[0]


_JOINTS: Final = {Kind.IDS: " ", Kind.ADDRESSES: ", ", Kind.MAILBOX: ", ", Kind.URLS: ", "}
"""The kinds of which a list of values is one field, and what stands between them there."""

_CHECKS: Final[dict[Kind, Callable[[str, str], str]]] = {
    Kind.TEXT: _text,
    Kind.WORDS: _words,
    Kind.IDS: _ids,
    Kind.ADDRESSES: _addresses,
    Kind.MAILBOX: _mailbox,
    Kind.URLS: _urls,
    Kind.LIST_ID: _list_id,
}

"""One mail address as a user writes it, with or without a display name.

`parse` is the door: what it lets through may stand in a header and in an SMTP command. The rules:

1. No control character passes, so that no address can end a header line or an SMTP command.
2. An `Address` holds what goes over the wire: domain names in lower case and as A-labels
   (RFC 5890). `Address.unicode` is the form for people.
3. Syntax only: no DNS, and special-use domains (`test`, `localhost`) are the user's business.

Plain ASCII addresses take a fast path of one regular expression; a property test holds it to what
the email-validator library, which checks all others, would say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Final

import email_validator
import idna

from mailtasks.errors import AddressError

MAX_OCTETS: Final = 254
"""RFC 5321 4.5.3.1.3 allows a path of 256 octets; two of them are the angle brackets."""

MAX_LOCAL_OCTETS: Final = 64
"""RFC 5321 4.5.3.1.1, for what stands before the last `@`."""

_LONGEST_TEXT: Final = 5000  # characters, with a name; the work on a text grows with the square of its length
_LONGEST_BARE: Final = 2 * MAX_OCTETS  # characters, of which some vanish when a domain is written in ASCII

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 3.2.3
# RFC 1123 2.1. A label with "--" in third place may be an A-label (RFC 5890): the library's.
_LABEL: Final = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN: Final = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
_NAMED: Final = re.compile(r'("(?:[^"\\]|\\.)*" *|[^"<>,;@]*)<(.*)>')
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # controls; surrogates aren't text
_NEEDS_QUOTES: Final = re.compile(r'[()<>\[\]:;@\\,."]|  |=\?')  # RFC 5322 3.2.3 specials; RFC 2047 5
_SEVERAL: Final = "give several addresses as a list (on the command line: each with a --to of its own)"
_JOINERS: Final = re.compile("[\u200c\u200d]")  # in Persian and in Indic names; IDNA 2008 says where
_STAND_IN: Final = "example.com"  # for a domain that the library wouldn't take
_RESERVED: Final = frozenset(email_validator.SPECIAL_USE_DOMAIN_NAMES)


@dataclass(frozen=True, slots=True)
class Address:
    """An address that `parse` has checked.

    Attributes:
        display_name: the name as text, without quotes; "" if there is none.
        address: `local@domain` as it goes over the wire, at most 254 octets.
    """

    display_name: str
    address: str

    @property
    def local_part(self) -> str:
        """What stands before the last `@`, quotes included."""
        return self.address.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The domain in lower case and ASCII (A-labels), or an address literal in brackets."""
        return self.address.rpartition("@")[2]

    @property
    def ascii_ok(self) -> bool:
        """Whether any relay takes it; otherwise the relay must offer SMTPUTF8 (RFC 6531)."""
        return self.address.isascii()

    @property
    def unicode(self) -> str:
        """The address for people: an international domain in its own script."""
        if "xn--" not in self.domain:
            return self.address
        return f"{self.local_part}@{idna.decode(self.domain)}"

    def __str__(self) -> str:
        """The address with its name, as `parse` reads it."""
        if not self.display_name:
            return self.address
        return f"{quoted(self.display_name)} <{self.address}>"


def parse(text: str) -> Address:
    """Read `ann@example.com`, `Ann <ann@example.com>` or `"Doe, Ann" <ann@example.com>`.

    Raises:
        AddressError: with a sentence that shows the text, if it is no address.
    """
    bare = plain(text) if isinstance(text, str) else None
    return Address("", bare) if bare else _parse_any(text)


def plain(text: str) -> str | None:
    """The wire form of an ASCII dot-atom at an ASCII host; None for whatever else it may be: ask `parse`."""
    match = _PLAIN.fullmatch(text) if len(text) <= MAX_OCTETS else None
    if not match or match.end(1) > MAX_LOCAL_OCTETS:
        return None
    return text if text.islower() else f"{match[1]}@{match[2].lower()}"  # most are, and needn't be made anew


def mailbox(address: str) -> str:
    """What two addresses have in common that are taken for one mailbox: all but upper and lower case.

    RFC 5321 2.4 leaves it to the receiving host whether `Ann@` and `ann@` are two people. Hosts where they
    are can hardly be found, and lists that hold one person in both ways are common. Nothing else is taken
    for equal: dots and `+tags` mean one mailbox at some hosts and two at others, and so does `ß` for `ss`.

    Args:
        address: as `Address.address` has it, so that its domain is in ASCII already.
    """
    return address.lower()


def split(text: str) -> list[str]:
    """The members of a list of addresses: what stands between commas that aren't quoted or in brackets."""
    members, quoted, bracketed, start = [], False, False, 0
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\" and quoted:
            at += 1
        elif character == '"':
            quoted = not quoted
        elif character in "<>" and not quoted:
            bracketed = character == "<"
        elif character == "," and not quoted and not bracketed:
            members.append(text[start:at])
            start = at + 1
        at += 1
    return [member.strip() for member in [*members, text[start:]]]


def quoted(name: str) -> str:
    """A display name, in double quotes if it holds what has a meaning of its own (RFC 5322 3.2.4)."""
    return f'"{escaped(name)}"' if _NEEDS_QUOTES.search(name) else name


def escaped(text: str) -> str:
    """Text as it stands between the double quotes of a quoted string (RFC 5322 3.2.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def excerpt(text: object) -> str:
    """The text as an error may show it: one line, escaped, cut at 60 characters."""
    if not isinstance(text, str):
        return f"{str(text)[:60]!r} ({type(text).__name__})"
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _parse_any(text: str) -> Address:
    if not isinstance(text, str):
        raise AddressError(f"{excerpt(text)} is no mail address: give a string such as 'ann@example.com'")
    if len(text) > _LONGEST_TEXT:
        raise AddressError(_refusal(text[:100], f"it has {len(text):,} characters"))
    _check_safe(text, text)
    name, bare = _split(text.strip())
    if len(bare) > _LONGEST_BARE:
        reason = f"it has {len(bare):,} characters, and RFC 5321 allows {MAX_OCTETS} octets"
        raise AddressError(_refusal(text, reason))
    _check_safe(name, text)
    return Address(name, plain(bare) or _checked(bare, text))


def _check_safe(part: str, text: str) -> None:
    unsafe = _UNSAFE.search(part)
    if unsafe:
        raise AddressError(
            f"the address {excerpt(text)} holds {unsafe[0]!r}: line breaks, control characters and "
            "surrogates can't be mailed; remove them"
        )


def _split(text: str) -> tuple[str, str]:
    """Display name and bare address."""
    if not text.endswith(">"):
        return "", text
    named = _NAMED.fullmatch(text)
    if not named:
        raise AddressError(
            f"{excerpt(text)} is no mail address: put the display name in double quotes, and {_SEVERAL}"
        )
    return _name(named[1].strip()), named[2]


def _name(written: str) -> str:
    """The display name's text: unquoted, or decoded if `email.utils.formataddr` has encoded it."""
    if written.startswith('"'):
        return re.sub(r"\\(.)", r"\1", written[1:-1]).strip()
    if "=?" not in written:
        return written
    try:
        return str(make_header(decode_header(written))).strip()
    except (HeaderParseError, LookupError, ValueError):
        return written


def _checked(bare: str, text: str) -> str:
    """The wire form of an address that may be quoted, international or a literal."""
    local, at, domain = bare.rpartition("@")
    if at and (wire := _domain_with_joiners(domain)):
        return _checked_beside(local, wire, text)
    # The library refuses special-use domains and has no switch for it but a global one.
    stand_in = ".com" if bare.rpartition(".")[2].rpartition("@")[2].lower() in _RESERVED else ""
    try:
        valid = email_validator.validate_email(
            bare + stand_in,
            allow_smtputf8=True,
            allow_empty_local=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
            allow_display_name=False,
            strict=False,
            globally_deliverable=False,
            check_deliverability=False,
            test_environment=False,
        )
    except email_validator.EmailSyntaxError as error:
        raise AddressError(_refusal(text, str(error))) from None
    octets = len(valid.local_part.encode())
    if octets > MAX_LOCAL_OCTETS:
        reason = f"{octets} octets stand before the @, and RFC 5321 allows {MAX_LOCAL_OCTETS}"
        raise AddressError(_refusal(text, reason))
    return f"{valid.local_part}@{valid.ascii_domain.removesuffix(stand_in)}"


def _domain_with_joiners(domain: str) -> str:
    """A-labels of a domain that holds a joiner where RFC 5892 A.1 and A.2 allow one; "" for any other.

    The library refuses every joiner as unsafe, in A-labels too.
    """
    if domain.isascii() and "xn--" not in domain.lower():
        return ""
    try:
        wire = idna.encode(domain, uts46=True).decode()
        return wire if _JOINERS.search(idna.decode(wire)) and not wire.endswith(".") else ""
    except UnicodeError:  # of which idna.IDNAError is one
        return ""


def _checked_beside(local: str, domain: str, text: str) -> str:
    """The wire form of an address whose domain is known to be right."""
    plain = _checked(f"{local}@{_STAND_IN}", text).removesuffix(_STAND_IN)
    octets = len(f"{plain}{domain}".encode())
    if octets > MAX_OCTETS:
        raise AddressError(_refusal(text, f"it has {octets} octets, and RFC 5321 allows {MAX_OCTETS}"))
    return plain + domain


def _refusal(text: str, reason: str) -> str:
    hint = f"; {_SEVERAL}" if re.search("[,;]", text) else ""
    return f"{excerpt(text)} is no mail address: {reason.rstrip('.')}{hint}"

import pytest

from mailtasks.errors import AddressError
from mailtasks.reply import Reply
from mailtasks.smtp.grammar import (
    LARGE,
    MAX_LINE,
    MAX_LINES,
    GarbledReply,
    ReplyReader,
    canonical,
    canonical_pieces,
    is_canonical,
    make_reply,
    path,
    printable,
    stuff,
    xtext,
)


def replies(*pieces):
    reader = ReplyReader()
    return [make_reply(code, lines) for piece in pieces for code, lines in reader.feed(piece)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 ok\r\n", Reply(250, "ok")),
        (b"250\r\n", Reply(250, "")),
        (b"250 \r\n", Reply(250, "")),
        (b"250 ok\n", Reply(250, "ok")),
        (b"250-one\r\n250-two\r\n250 three\r\n", Reply(250, "one\ntwo\nthree")),
        (b"550 5.1.1 no such user\r\n", Reply(550, "no such user", "5.1.1")),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", Reply(550, "no\nsuch user", "5.1.1")),
        (b"250 2.0.0\r\n", Reply(250, "", "2.0.0")),
        (b"250 2.0.0abc\r\n", Reply(250, "2.0.0abc")),
        (b"250 caf\xc3\xa9 \xff\x1b[2J\r\n", Reply(250, "café \ufffd?[2J")),
    ],
)
def test_a_reply_is_read(data, expected):
    assert replies(data) == [expected]


def test_the_basic_code_wins_over_an_enhanced_code_that_contradicts_it():
    assert replies(b"450 5.1.1 later\r\n") == [Reply(450, "later")]


def test_several_replies_in_one_piece_and_one_in_several_pieces():
    assert replies(b"250 a\r\n354 b\r\n") == [Reply(250, "a"), Reply(354, "b")]
    assert replies(b"2", b"50-a\r", b"\n250 b", b"\r\n") == [Reply(250, "a\nb")]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"hello\r\n", "not a reply: 'hello'"),
        (b"\r\n", "not a reply: ''"),
        (b"199 x\r\n", "not a reply: '199 x'"),
        (b"600 x\r\n", "not a reply: '600 x'"),
        (b"25x x\r\n", "not a reply: '25x x'"),
        (b"250x\r\n", "not a reply: '250x'"),
        (b"250-a\r\n251 b\r\n", "not the next line of a 250 reply: '251 b'"),
        (b"250-a\r\nb\r\n", "not a reply: 'b'"),
        (
            b"250 " + b"x" * MAX_LINE + b"\r\n",
            f"a reply line of more than {MAX_LINE} bytes: '250 {'x' * 56}'…",
        ),
        (b"250 " + b"x" * MAX_LINE, f"a reply line of more than {MAX_LINE} bytes: '250 {'x' * 56}'…"),
        (b"250-x\r\n" * (MAX_LINES + 1), f"a reply of more than {MAX_LINES} lines"),
    ],
)
def test_what_is_no_reply_is_refused_with_a_sentence(data, sentence):
    with pytest.raises(GarbledReply) as raised:
        replies(data)
    assert str(raised.value) == sentence


def test_what_is_left_over_is_known():
    reader = ReplyReader()
    assert reader.empty
    for piece, empty in [(b"250-a\r\n", False), (b"250 b\r\n", True), (b"2", False), (b"50 c\r\n", True)]:
        list(reader.feed(piece))
        assert reader.empty is empty


def test_control_characters_of_a_server_never_reach_a_terminal():
    assert printable(b"\x1b]0;evil\x07") == "?]0;evil?"


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        ("", b""),
        ("ann@example.com", b"ann@example.com"),
        ("o'neil+tag@sub.example.com", b"o'neil+tag@sub.example.com"),
        ("ann@[192.0.2.1]", b"ann@[192.0.2.1]"),
        ("ann@[IPv6:2001:db8::1]", b"ann@[IPv6:2001:db8::1]"),
        ('"a b"@example.com', b'"a b"@example.com'),
        ('"a<b>@c"@example.com', b'"a<b>@c"@example.com'),
        ("root@localhost", b"root@localhost"),
        (".ann!@example.com", b'".ann!"@example.com'),
        ("jörg@exämple.de", "jörg@exämple.de".encode()),
    ],
)
def test_an_address_is_written_as_it_is_or_quoted(address, wire):
    assert path(address) == wire


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ann", "address 'ann' is none: give it as local@domain"),
        ("@example.com", "address '@example.com' is none: give it as local@domain"),
        ("ann@", "address 'ann@' is none: give it as local@domain"),
        ("ann@exa mple.com", "address 'ann@exa mple.com' is none: give it as local@domain"),
        ("ann@example.com>", "address 'ann@example.com>' is none: give it as local@domain"),
        (
            "a@b\r\nRCPT TO:<c@d>",
            r"address 'a@b\r\nRCPT TO:<c@d>' holds a line break, NUL or control character; remove it",
        ),
        ("a\nb@c", r"address 'a\nb@c' holds a line break, NUL or control character; remove it"),
        ("a\0b@c", r"address 'a\x00b@c' holds a line break, NUL or control character; remove it"),
        ('"a\rb"@c', r"""address '"a\rb"@c' holds a line break, NUL or control character; remove it"""),
        ("a\u2028b@c", r"address 'a\u2028b@c' holds a line break, NUL or control character; remove it"),
        (
            "Ann <ann@example.com",
            "address 'Ann <ann@example.com' holds a space, an angle bracket or a quote outside quotes; "
            "write the bare address, without a display name",
        ),
        (
            "a" * 250 + "@b.cd",
            f"address '{'a' * 40}'… has 255 octets; SMTP allows 254 (RFC 5321 4.5.3.1.3)",
        ),
    ],
)
def test_an_address_that_would_break_out_is_refused_with_a_sentence(address, sentence):
    with pytest.raises(AddressError) as raised:
        path(address)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n"),
        (b"\n.\n", b"\r\n.\r\n"),
        (b"a\n\rb", b"a\r\n\r\nb\r\n"),
    ],
)
def test_every_line_ends_in_crlf_and_nothing_else_holds_one(content, expected):
    assert canonical(content) == expected
    assert is_canonical(content) is (content == expected != b"")


def test_what_is_large_and_canonical_is_not_copied():
    content = b"a line\r\n" * LARGE
    assert canonical(content[:-2]) == content
    assert canonical(content) is content
    assert canonical_pieces((content, content))[1] is content
    assert stuff(content) is content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a", (b"a\r\n",)),
        ((b"a\r\n", b"b\r\n"), (b"a\r\n", b"b\r\n")),
        ((b"a\r", b"\nb"), (b"a\r\nb\r\n",)),
        ((b"a", b"b\r\n"), (b"ab\r\n",)),
        ((), ()),
    ],
)
def test_pieces_stay_pieces_if_each_ends_with_a_line(content, expected):
    assert canonical_pieces(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", b""),
        (b".\r\n", b"..\r\n"),
        (b"a\r\n.\r\n.b\r\n..\r\nc.\r\n", b"a\r\n..\r\n..b\r\n...\r\nc.\r\n"),
    ],
)
def test_a_dot_at_a_lines_start_is_doubled(content, expected):
    assert stuff(content) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@example.com", b"ann@example.com"),
        ("a+b=c", b"a+2Bb+3Dc"),
        ("a b\r\n\x7f", b"a+20b+0D+0A+7F"),
        ("é", b"+C3+A9"),
        ("!~*,<>", b"!~*,<>"),
    ],
)
def test_in_a_parameter_nothing_ends_it(text, expected):
    assert xtext(text) == expected

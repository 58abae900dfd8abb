import threading

import pytest

from mailtasks.local.book import Book, Entry, message_id_of, read_journal

CONTENT = b"Subject: hello\r\nMESSAGE-ID:  <1@example.com>\r\n\r\nMessage-ID: <not.this@example.com>\r\n"


def accept(book, *recipients, content=CONTENT):
    book.accept("ann@example.com", recipients, message_id_of(content), content, "250 2.0.0 ok")
    book.flush()


@pytest.mark.parametrize(
    ("content", "message_id"),
    [
        (CONTENT, "<1@example.com>"),
        (b"Message-ID:\r\n <folded@example.com>\r\n\r\n", "<folded@example.com>"),
        (b"Subject: none\r\n\r\nMessage-ID: <in.the.body@example.com>\r\n", ""),
        (b"X-Message-ID: <another@example.com>\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_the_message_id_is_that_of_the_header(content, message_id):
    assert message_id_of(content) == message_id


def test_pairs_are_counted():
    with Book() as book:
        accept(book, "bob@example.com", "cat@example.com")
        accept(book, "bob@example.com")
    assert book.accepted == {
        ("<1@example.com>", "bob@example.com"): 2,
        ("<1@example.com>", "cat@example.com"): 1,
    }


def test_the_journal_holds_a_line_for_each_recipient(tmp_path):
    journal = tmp_path / "journal"
    with Book(journal=journal) as book:
        book.refuse("ann@example.com", ["no@example.com"], None, "550 5.1.1 no such user")
        accept(book, "bob@example.com", "cat@example.com")
        refused, *accepted = read_journal(journal)
    assert refused == book.refusals[0]
    assert (refused.message_id, refused.recipient, refused.accepted) == (None, "no@example.com", False)
    assert [(e.message_id, e.sender, e.recipient, e.verdict, e.accepted) for e in accepted] == [
        ("<1@example.com>", "ann@example.com", "bob@example.com", "250 2.0.0 ok", True),
        ("<1@example.com>", "ann@example.com", "cat@example.com", "250 2.0.0 ok", True),
    ]


def test_a_line_that_a_killed_server_left_unfinished_is_passed_over(tmp_path):
    journal = tmp_path / "journal"
    with Book(journal=journal) as book:
        accept(book, "bob@example.com")
    with journal.open("ab") as torn:
        torn.write(b'{"time":1')
    assert [entry.recipient for entry in read_journal(journal)] == ["bob@example.com"]


def test_a_second_book_appends(tmp_path):
    for recipient in ("bob@example.com", "cat@example.com"):
        with Book(save=tmp_path) as book:
            accept(book, recipient)
    entries = list(read_journal(tmp_path / "journal.jsonl"))
    assert [entry.recipient for entry in entries] == ["bob@example.com", "cat@example.com"]
    assert all(isinstance(entry, Entry) for entry in entries)
    assert [path.name for path in sorted(tmp_path.glob("*.eml"))] == ["000001.eml", "000002.eml"]
    assert (tmp_path / "000002.eml").read_bytes() == CONTENT


def test_content_is_kept_unless_told_otherwise():
    with Book() as book:
        accept(book, "bob@example.com")
    with Book(keep_content=False) as small:
        accept(small, "bob@example.com")
    assert (book.messages[0].content, book.messages[0].size) == (CONTENT, len(CONTENT))
    assert (small.messages[0].content, small.messages[0].size) == (b"", len(CONTENT))


def test_waiting_ends_when_the_messages_are_there():
    with Book() as book:
        thread = threading.Timer(0.05, accept, (book, "bob@example.com"))
        thread.start()
        assert len(book.wait_for(1, timeout=5)) == 1
        thread.join()


def test_waiting_in_vain_says_what_was_there():
    with Book() as book:
        book.refuse("ann@example.com", ["no@example.com"], None, "550 5.1.1 no such user")
        with pytest.raises(TimeoutError) as caught:
            book.wait_for(2, timeout=0.01)
    assert str(caught.value) == ("messages caught within 0.01 s: 0 of 2; recipients refused or deferred: 1")

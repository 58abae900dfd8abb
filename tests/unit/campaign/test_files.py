"""Files of people's own: what may be attached, and how it comes from a folder into each one's mail."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from mailtasks.blobs import Blobs
from mailtasks.campaign import Campaign, Prepared, intake
from mailtasks.campaign.batches import ROWS_WITH_FILES_A_BATCH
from mailtasks.campaign.files import OwnFiles
from mailtasks.compose.template import Template
from mailtasks.errors import BlobsFull, BlobStoreError, InputChanged, InputError, TemplateError
from mailtasks.message import Priority
from mailtasks.people import Person, Reason, Rejected
from mailtasks.pieces import base64_size
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.state import State
from mailtasks.store.campaigns import Campaigns
from mailtasks.testing import CatchingServer
from tests.bench import Bench

LARGE, SMALL = os.urandom(200_000), b"%PDF small"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bills"
    (made / "may").mkdir(parents=True)
    (made / "may" / "ann.pdf").write_bytes(LARGE)
    (made / "bob.txt").write_bytes(SMALL)
    (tmp_path / "secret").write_text("of others")
    return made


@pytest.fixture
def bench(redis_url: str, sink: CatchingServer) -> Iterator[Bench]:
    with closing(Bench(redis_url, sink.url, RetryPolicy(retry_jitter=False))) as one:
        yield one


def row(path: object, line: int = 2, **more: object) -> Person:
    return Person(line, f"r{line}@example.com", {"bill": path, **more})


def looked_at(folder: Path, *rows: Person, room: int = 1_000_000, **more: Any) -> list[Person | Rejected]:
    fields = tuple(name for name in ("bill", "terms") if name in rows[0].fields)
    return list(OwnFiles(fields, folder, room=room, **more).of(rows))


def refusal(folder: Path, path: object, **more: Any) -> str:
    [told] = looked_at(folder, row(path), **more)
    assert isinstance(told, Rejected)
    assert (told.line, told.reason) == (2, Reason.BAD_FILE)
    return told.what


# What may be attached


def test_a_file_is_known_by_its_content_and_called_by_its_own_name(folder: Path) -> None:
    ann, bob, nobody, null = looked_at(
        folder, row("may/ann.pdf"), row("./may/../bob.txt"), row(""), row(None)
    )
    assert isinstance(ann, Person)
    assert isinstance(bob, Person)
    [large], [small] = ann.files, bob.files
    assert (large.name, large.size, large.media_type) == ("ann.pdf", len(LARGE), "application/pdf")
    assert (small.name, small.size, small.media_type) == ("bob.txt", len(SMALL), "text/plain")
    assert len(large.digest) == 64
    assert large.digest != small.digest
    assert nobody == row("")
    assert null == row(None)


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "latest.pdf").symlink_to("may/ann.pdf")
    [ann] = looked_at(folder, row("latest.pdf"))
    assert isinstance(ann, Person)
    assert (ann.files[0].name, ann.files[0].size) == ("latest.pdf", len(LARGE))


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    [ann] = looked_at(tmp_path / "link", row("may/ann.pdf"))
    assert isinstance(ann, Person)


@pytest.mark.parametrize("path", ["../secret", "may/../../secret", "out.pdf", "outside/secret", ".."])
def test_what_lies_elsewhere_is_not_mailed(folder: Path, path: str) -> None:
    (folder / "out.pdf").symlink_to("../secret")
    (folder / "outside").symlink_to("..")
    assert refusal(folder, path) == f"bill names the file {path!r}, which lies outside of {folder}"


def test_neither_is_what_has_a_name_that_begins_alike(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bills-of-others").mkdir()
    (tmp_path / "bills-of-others" / "a.pdf").write_bytes(SMALL)
    assert "lies outside of" in refusal(folder, "../bills-of-others/a.pdf")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("cy.pdf", "can't be read (No such file or directory)"),
        ("bob.txt/a.pdf", "can't be read (Not a directory)"),
        ("may", "is a folder"),
        (".", "is a folder"),
        ("pipe", "is no regular file"),
        ("a\0b", "can't be read (embedded null byte)"),
        ("loop", "can't be read ("),
        ("\ud800.pdf", "can't be read ("),
        ("x" * 300, "can't be read (File name too long)"),
        (7, "is of type int: give a text"),
        (["bob.txt"], "is of type list: give a text"),
        ("two\nlines.txt", "can't be attached: the attachment's filename holds '\\n'"),
    ],
)
def test_what_cant_be_read_is_told(folder: Path, path: object, words: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "two\nlines.txt").write_bytes(SMALL)
    assert f", which {words}" in refusal(folder, path)


def test_an_absolute_path_is_refused_wherever_it_leads(folder: Path) -> None:
    for path in ("/etc/passwd", str(folder / "bob.txt")):
        assert refusal(folder, path).endswith("which is an absolute path: give it as it is within the folder")


@pytest.mark.parametrize("slipped_in", ["may", "may/ann.pdf"])
def test_a_link_that_is_slipped_in_after_the_look_is_not_followed(
    folder: Path, tmp_path: Path, slipped_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = os.path.realpath(folder / "may/ann.pdf")
    files = OwnFiles(("bill",), folder, room=1_000_000)
    (folder / slipped_in).rename(tmp_path / "was")
    (folder / slipped_in).symlink_to(tmp_path / "was")
    monkeypatch.setattr(os.path, "realpath", lambda path: seen)
    [told] = files.of([row("may/ann.pdf")])
    assert isinstance(told, Rejected)
    assert "which can't be read (" in told.what


def test_what_is_too_large_for_a_mail_is_told_with_both_sizes(folder: Path) -> None:
    room = base64_size(len(LARGE))
    [ann] = looked_at(folder, row("may/ann.pdf"), room=room)
    assert isinstance(ann, Person)
    assert refusal(folder, "may/ann.pdf", room=room - 1) == (
        "bill names the file 'may/ann.pdf', which is too large: encoded, 273,686 bytes would be attached, "
        "and size_limit leaves room for 273,685"
    )


def test_so_are_files_that_are_too_large_together(folder: Path) -> None:
    both = row("may/ann.pdf", terms="bob.txt")
    [ann] = looked_at(folder, both, room=base64_size(len(LARGE)) + base64_size(len(SMALL)))
    assert isinstance(ann, Person)
    assert [file.name for file in ann.files] == ["ann.pdf", "bob.txt"]
    [told] = looked_at(folder, both, room=base64_size(len(LARGE)))
    assert isinstance(told, Rejected)
    assert told.what.startswith("the row's files are too large: encoded, 273,704 bytes would be attached")


def test_and_what_redis_may_not_hold(folder: Path) -> None:
    assert refusal(folder, "may/ann.pdf", cap=199_999).endswith(
        "of 200,000 bytes only blob_cap = 199,999 may be in Redis: raise it, or let `blobs` name a folder"
    )


def test_a_file_that_many_name_is_read_once(folder: Path) -> None:
    def rows() -> Iterator[Person]:
        yield row("bob.txt", 2)
        (folder / "bob.txt").unlink()
        yield row("bob.txt", 3)

    first, second = OwnFiles(("bill",), folder, room=1_000_000).of(rows())
    assert isinstance(first, Person)
    assert isinstance(second, Person)
    assert first.files == second.files


def test_a_row_that_is_rejected_already_stays_so(folder: Path) -> None:
    rejected = Rejected(3, Reason.NO_ADDRESS, "the row has no address")
    assert list(OwnFiles(("bill",), folder, room=1).of([rejected])) == [rejected]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"attachment_fields": ["bill"]},
            "attachment_fields: the files that they name must lie in a folder: give attachment_folder",
        ),
        (
            {"attachment_folder": "bills"},
            "attachment_folder: nobody has a file of it: give attachment_fields, or leave it out",
        ),
        (
            {"attachment_fields": ["bill"], "attachment_folder": "elsewhere"},
            "attachment_folder: 'elsewhere' is no folder; check the path",
        ),
        (
            {"attachment_fields": ["bil"], "attachment_folder": "bills"},
            "attachment_fields: there is no field 'bil'; give one, or leave it out",
        ),
    ],
)
def test_a_template_that_doesnt_say_enough_is_refused_before_rows_are_read(
    bench: Bench, folder: Path, given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "people.csv").write_text("email,bill\nann@example.com,gone.pdf\n")
    template = Template(subject="Hi", sender="shop@example.com", text="Hi", **given)
    with pytest.raises(TemplateError) as raised:
        Campaign("spring", template, mailer=bench.mailer).prepare("people.csv")
    assert str(raised.value) == words


def test_files_of_all_take_room_from_those_of_each(bench: Bench, folder: Path) -> None:
    template = bill_template(folder, attachments=[folder / "may/ann.pdf"])
    files = OwnFiles.of_template(template, template.load(), bench.settings)
    assert files is not None
    (folder / "large.pdf").write_bytes(bytes(7_700_000))
    [told] = files.of([row("large.pdf")])
    assert isinstance(told, Rejected)
    assert told.what.endswith(
        f"would be attached, and size_limit leaves room for {bench.settings.size_limit - 273_686:,}"
    )


# From a folder into each one's mail

CSV = """\
email,name,bill
ann@example.com,Ann,may/ann.pdf
bob@example.com,Bob,bob.txt
cy@example.com,Cy,
"""


def bill_template(folder: Path, **more: Any) -> Template:
    return Template(
        subject="Hi {{ name }}",
        sender="shop@example.com",
        text="Dear {{ name }}\n",
        attachment_fields=["bill"],
        attachment_folder=folder,
        **more,
    )


def prepared(bench: Bench, folder: Path, people: Any = CSV, name: str | None = "spring") -> Prepared:
    if isinstance(people, str):
        (folder.parent / "people.csv").write_text(people)
        people = folder.parent / "people.csv"
    return Campaign(name, bill_template(folder), mailer=bench.mailer).prepare(people)


def sent(bench: Bench) -> None:
    """Workers and pumps have done their work."""
    while hints := bench.mailer.campaigns.feed(Priority.BULK, 100):
        for hint in hints:
            bench.delivery.deliver(hint.batch, hint.priority)
    bench.mailer.campaigns.tend()


def collected(bench: Bench) -> int:
    """As if its time had come; returns how many files are left."""
    for digest in bench.mailer.redis.hkeys(bench.mailer.ledger.keys.blobs):
        bench.mailer.redis.zadd(bench.mailer.ledger.keys.blobs_due, {digest: 0})
    bench.mailer.blobs.collect()
    return bench.mailer.attachments().stored


def files_in(content: bytes) -> dict[str, bytes]:
    mail = message_from_bytes(content, policy=default)
    return {str(part.get_filename()): part.get_payload(decode=True) for part in mail.iter_attachments()}  # type: ignore[misc]


def caught(sink: CatchingServer) -> dict[str, dict[str, bytes]]:
    return {mail.recipients[0].partition("@")[0]: files_in(mail.content) for mail in sink.messages}


@pytest.mark.parametrize("where", ["redis", "file"])
def test_each_gets_the_own_file_and_nothing_is_left(
    redis_url: str, sink: CatchingServer, folder: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = "redis" if where == "redis" else f"file://{tmp_path / 'blobs'}"
    with closing(Bench(redis_url, sink.url, RetryPolicy(), blobs=blobs)) as bench:
        with prepared(bench, folder) as ready:
            assert ready.send().accepted == 3
        assert (bench.mailer.attachments().stored, collected(bench)) == (2, 2)
        (folder / "bob.txt").unlink()  # it isn't needed any more
        sent(bench)
        assert caught(sink) == {"ann": {"ann.pdf": LARGE}, "bob": {"bob.txt": SMALL}, "cy": {}}
        assert collected(bench) == 0
        assert not bench.mailer.redis.keys("*:blob*")
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_an_empty_file_and_a_message_are_files_like_others(
    bench: Bench, folder: Path, sink: CatchingServer
) -> None:
    message = b"Subject: old\r\n\r\nhi\r\n"
    (folder / "empty.csv").touch()
    (folder / "old.eml").write_bytes(message)
    people = [
        {"email": "ann@example.com", "name": "Ann", "bill": "empty.csv"},
        {"email": "bob@example.com", "name": "Bob", "bill": "old.eml"},
    ]
    with prepared(bench, folder, people) as ready:
        ready.send()
    sent(bench)
    assert caught(sink) == {"ann": {"empty.csv": b""}, "bob": {"old.eml": message}}


def test_each_content_is_stored_once(bench: Bench, folder: Path, sink: CatchingServer) -> None:
    (folder / "copy.txt").write_bytes(SMALL)
    people = [
        {"email": f"r{n}@example.com", "name": "R", "bill": ("bob.txt", "copy.txt")[n % 2]} for n in range(35)
    ]
    with prepared(bench, folder, people) as ready:
        ready.send()
    assert (bench.mailer.attachments().stored, bench.mailer.attachments().bytes) == (1, len(SMALL))
    sent(bench)
    assert [list(files.values()) for files in caught(sink).values()] == [[SMALL]] * 35
    assert collected(bench) == 0


def test_who_names_what_cant_be_attached_is_rejected_before_anybody_is_accepted(
    bench: Bench, folder: Path
) -> None:
    people = (
        CSV + "eve@example.com,Eve,/etc/passwd\ndan@example.com,Dan,dan.pdf\ndan@example.com,Dan,bob.txt\n"
    )
    with prepared(bench, folder, people) as ready:
        assert (ready.people, ready.rejected) == (4, {Reason.BAD_FILE: 2})
        assert [(it.line, it.what) for it in ready.told] == [
            (
                5,
                "bill names the file '/etc/passwd', which is an absolute path: give it as it is within the "
                "folder",
            ),
            (6, "bill names the file 'dan.pdf', which can't be read (No such file or directory)"),
        ]
        assert bench.mailer.stats().accepted == 0
        assert bench.mailer.attachments().stored == 0
        assert ready.send().accepted == 4


def test_the_first_persons_mail_has_its_file(bench: Bench, folder: Path, sink: CatchingServer) -> None:
    with prepared(bench, folder) as ready:
        assert isinstance(ready.mail.content, bytes)
        assert files_in(ready.mail.content) == {"ann.pdf": LARGE}
        bench.deliver(ready.test("me@example.com"))
    [mail] = sink.messages
    assert (mail.recipients[0], files_in(mail.content)) == ("me@example.com", {"ann.pdf": LARGE})


# Files that change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(b"%PDF other"), "it has another content;"),
        (lambda path: path.write_bytes(SMALL + b"x"), "it has another content;"),
        (lambda path: path.unlink(), "it can't be read (No such file or directory);"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "it lies outside of "),
    ],
)
def test_a_file_that_changes_before_it_is_accepted_isnt_mailed(
    bench: Bench, folder: Path, change: Callable[[Path], object], words: str
) -> None:
    with prepared(bench, folder) as ready:
        change(folder / "bob.txt")
        with pytest.raises(InputError) as raised:
            ready.send()
    assert str(raised.value).startswith(
        f"{folder}/bob.txt: since the people were read it has changed: {words}"
    )
    assert str(raised.value).endswith(
        "so those who should get it aren't accepted: let it be, and give the same again"
    )
    assert bench.mailer.stats().accepted == 0
    (folder / "bob.txt").unlink(missing_ok=True)
    (folder / "bob.txt").write_bytes(b"%PDF other")
    with prepared(bench, folder) as ready:
        assert ready.send().accepted == 3


def many(folder: Path, number: int = 35) -> list[dict[str, str]]:
    for n in range(number):
        (folder / f"{n}.pdf").write_bytes(b"%d" % n * 100)
    return [{"email": f"r{n}@example.com", "name": "R", "bill": f"{n}.pdf"} for n in range(number)]


def interrupted(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A campaign without a name, of which two batches are accepted."""
    accept, calls = intake.Intake._accept, []

    def dies(self: intake.Intake) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        accept(self)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "_BATCHES_A_CALL", 1)
        patch.setattr(intake.Intake, "_accept", dies)
        with prepared(bench, folder, many(folder), None) as ready:
            with pytest.raises(KeyboardInterrupt):
                ready.send()
            return ready.name


def test_who_was_interrupted_goes_on_with_the_same_files(
    bench: Bench, folder: Path, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = interrupted(bench, folder, monkeypatch)
    with prepared(bench, folder, many(folder), None) as ready:
        assert (ready.name, ready.before) == (name, 2 * ROWS_WITH_FILES_A_BATCH)
        assert ready.send().accepted == 35
    sent(bench)
    assert caught(sink) == {f"r{n}": {f"{n}.pdf": b"%d" % n * 100} for n in range(35)}
    assert len(sink.messages) == 35


def test_and_is_told_if_a_file_of_who_is_accepted_is_another(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = interrupted(bench, folder, monkeypatch)
    people = many(folder)
    (folder / "13.pdf").write_bytes(b"another")
    with pytest.raises(InputChanged) as raised:
        prepared(bench, folder, people, None)
    assert raised.value.name == name, "it is the same campaign, though a file was made anew"
    assert "has changed: rows 11 to 20, or their files, aren't those that were accepted there" in str(
        raised.value
    )
    assert bench.mailer.stats().accepted == 20


def test_a_file_of_who_isnt_accepted_yet_may_be_another(
    bench: Bench, folder: Path, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(bench, folder, monkeypatch)
    people = many(folder)
    (folder / "27.pdf").write_bytes(b"another")
    with prepared(bench, folder, people, None) as ready:
        assert ready.send().accepted == 35
    sent(bench)
    assert caught(sink)["r27"] == {"27.pdf": b"another"}


# Room


def test_one_file_at_a_time_is_in_memory(
    redis_url: str, sink: CatchingServer, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    people = []
    for n in range(30):
        (folder / f"{n}.pdf").write_bytes(bytes([n]) * 1_000_000)
        people.append({"email": f"r{n}@example.com", "name": "R", "bill": f"{n}.pdf"})
    with closing(Bench(redis_url, sink.url, RetryPolicy(), blobs=f"file://{tmp_path}/blobs")) as bench:
        tracemalloc.start()
        with prepared(bench, folder, people) as ready:
            ready.send()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert bench.mailer.attachments().bytes == 30_000_000
    assert 1_000_000 < peak < 15_000_000, "the first one's mail takes some copies of one file"


def test_no_more_is_stored_than_the_cap_and_it_goes_on_when_there_is_room(
    redis_url: str, sink: CatchingServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_BATCHES_A_CALL", 1)
    with closing(Bench(redis_url, sink.url, RetryPolicy(), blob_cap=2_500)) as bench:
        accepted = []
        for _ in range(5):
            with prepared(bench, folder, many(folder, 45)) as ready:
                try:
                    accepted.append(ready.send().accepted)
                except BlobsFull:
                    accepted.append(bench.mailer.stats().accepted)
            sent(bench)
            assert collected(bench) == 0
    assert accepted == [10, 20, 30, 40, 45]
    assert len(sink.messages) == 45


def test_large_files_are_accepted_a_few_batches_a_call(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_FILE_BYTES_A_CALL", 1_500)
    accept, calls = Campaigns.accept, []

    def counted(self: Any, batches: Any) -> Any:
        calls.append(len(batches))
        return accept(self, batches)

    monkeypatch.setattr(Campaigns, "accept", counted)
    with prepared(bench, folder, many(folder)) as ready:
        ready.send()
    assert calls == [2, 1, 1]


def test_what_was_collected_before_accept_is_stored_again(
    bench: Bench, folder: Path, sink: CatchingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch lacks its files, those behind it the batch before them; then all are accepted."""
    bring, calls = Blobs.bring, []

    def in_vain(self: Any, batches: Any) -> None:
        calls.append(len(batches))
        if len(calls) > 1:
            bring(self, batches)

    monkeypatch.setattr(Blobs, "bring", in_vain)
    with prepared(bench, folder, many(folder)) as ready:
        assert ready.send().accepted == 35
    assert calls == [4, 4]
    sent(bench)
    assert len(caught(sink)) == 35


def test_what_is_collected_each_time_is_given_up(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with prepared(bench, folder) as ready:
        monkeypatch.setattr(Blobs, "bring", lambda self, batches: None)
        with pytest.raises(
            BlobStoreError, match="are deleted as soon as they are stored, so their mail can't"
        ):
            ready.send()
    assert bench.mailer.stats().accepted == 0


# How long they are kept


def test_who_was_refused_keeps_the_own_file_and_no_other(
    bench: Bench, folder: Path, sink: CatchingServer
) -> None:
    with prepared(bench, folder, CSV.replace("bob@", "refuse@")) as ready:
        ready.send()
    sent(bench)
    assert collected(bench) == 1
    bench.mailer.suppressions.remove("refuse@example.com")
    assert bench.mailer.retry(campaign="spring", force=True).retried == 1
    assert collected(bench) == 1
    [hint] = bench.mailer.campaigns.feed(Priority.BULK, 1)
    claim = bench.mailer.ledger.claim(hint.batch, "w@here")
    assert [file.name for file in claim.window[0].files] == ["bob.txt"]  # type: ignore[union-attr]


def test_a_cancelled_campaign_needs_none(bench: Bench, folder: Path) -> None:
    with prepared(bench, folder) as ready:
        ready.send()
    campaign = Campaign("spring", mailer=bench.mailer)
    campaign.pause()
    assert collected(bench) == 2
    campaign.cancel()
    assert collected(bench) == 0


def test_a_file_that_is_lost_is_told_and_the_others_go(
    bench: Bench, folder: Path, sink: CatchingServer
) -> None:
    with prepared(bench, folder) as ready:
        ready.send()
    [digest] = [file.digest for file in looked_at(folder, row("bob.txt"))[0].files]  # type: ignore[union-attr]
    place = bench.mailer.blobs._index.places([digest])[digest]
    bench.mailer.blobs.store.delete(place.partition(":")[2])
    sent(bench)
    assert set(caught(sink)) == {"ann", "cy"}
    [bob] = Campaign("spring", mailer=bench.mailer).failures()
    assert bob.recipients[0].state is State.FAILED
    assert "the attachment 'bob.txt' isn't in Redis" in bob.reply

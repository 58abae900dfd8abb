import csv
import gzip
import io
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import click
import pytest
from backports import zstd

from mailtasks.campaign import gathering, intake
from mailtasks.cli import campaign_status
from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.store.campaigns import Campaigns
from tests.campaigns import sent_to_all

PEOPLE = b"email,name\nann@example.com,Ann\nbob@example.com,Bob\n"
LINES = b'{"email": "ann@example.com", "name": "Ann"}\n{"email": "bob@example.com", "name": "Bob"}\n'
MANY = b"email,name\n" + b"".join(b"ann%d@example.com,Ann\n" % number for number in range(1000))
NO_UNSUBSCRIBE = (
    "mailtasks: without --unsubscribe nobody can leave in one click, as large providers demand of bulk mail\n"
)
TAKEN_UP = (
    "mailtasks: interrupted after 600 of 1,000 people; the same command takes campaign 'spring' up, and "
    "mails "
    "nobody twice\n"
)
INTERRUPTED = 130


def accepted():
    with Mailer() as mailer:
        return mailer.stats().accepted


def piped(monkeypatch, octets):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(octets)))


def caught(sink):
    return sorted(recipient for mail in sink.messages for recipient in mail.recipients)


# People


@pytest.mark.parametrize(
    "people",
    [PEOPLE, LINES, gzip.compress(PEOPLE), zstd.compress(LINES), "-"],
    ids=["csv", "json lines", "gzip", "zstd", "standard input"],
)
def test_people_are_accepted_and_mailed(campaign_send, people, monkeypatch, worker, sink):
    piped(monkeypatch, PEOPLE)
    ran = campaign_send(people, "--yes")
    assert (ran.code, ran.err) == (0, NO_UNSUBSCRIBE)
    assert ran.out == (
        "accepted 2 people in campaign 'spring'\n`mailtasks campaign status spring` shows how it goes\n"
    )
    sent_to_all(worker)
    assert caught(sink) == ["ann@example.com", "bob@example.com"]
    assert sum(b"\nSubject: Hi Bob\r" in mail.content for mail in sink.messages) == 1


def test_one_is_a_person(campaign_send):
    assert campaign_send(b"email,name\nann@example.com,Ann\n", "--yes").out.startswith(
        "accepted 1 person in "
    )


def test_json(campaign_send):
    ran = campaign_send(PEOPLE + b"nobody,N\n", "--yes", "--json")
    assert ran.code == 0
    assert ran.json == {
        "campaign": "spring",
        "accepted": 2,
        "before": 0,
        "rejected": 1,
        "reasons": {"bad address": 1},
    }


def test_everything_reaches_the_mail(campaign_send, live, tmp_path, worker, sink):
    (tmp_path / "mail.html").write_text("<style>p{color:red}</style><p>{{ name }}: {{ unsubscribe_url }}</p>")
    (tmp_path / "a.txt").write_text("attached")
    ran = campaign_send(
        b"email,name\nann@example.com,Ann\n",
        *(
            "--yes",
            "--html",
            "mail.html",
            "--inline-css",
            "--attach",
            "a.txt",
            "--from",
            "Boss <boss@example.com>",
        ),
        *("--reply-to", "answers@example.com", "--header", "X-For: {{ name }}", "--tag", "spring"),
        *("--unsubscribe", "https://example.com/u?who={{ email|urlencode }}", "--rate", "100/s"),
        *("--priority", "normal", "--start", "2020-01-01T00:00Z", "--end", "2130-01-01T00:00Z"),
    )
    assert (ran.code, ran.err) == (0, "")
    told = live("campaign", "status", "spring", "--json").json
    assert (told["priority"], told["tags"], told["rate"]) == ("normal", ["spring"], 100)
    assert (told["begins_at"][:4], told["ends_at"][:4]) == ("2020", "2130")
    sent_to_all(worker, Priority.NORMAL)
    [mail] = sink.messages
    assert mail.sender == "boss@example.com"
    for line in (
        b"From: Boss <boss@example.com>",
        b"Reply-To: answers@example.com",
        b"X-For: Ann",
        b"List-Unsubscribe: <https://example.com/u?who=ann%40example.com>",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ):
        assert b"\n%b\r\n" % line in mail.content
    assert b"color: red" in mail.content.replace(b"=\r\n", b"")
    assert b'filename="a.txt"' in mail.content


# Rows that can't be mailed

BAD = (
    b"nobody,N\nann@example.com,Again\nonly-one-column\neve@example.com,Eve\n=1+1@example.com,X\n"
    b"=1+1@example.com,Y\n"
)


def test_bad_rows_are_told_and_dont_stop_the_rest(campaign_send):
    ran = campaign_send(PEOPLE + BAD, "--yes")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "accepted 4 people in campaign 'spring'")
    assert ran.err == (
        "mailtasks: people.csv, line 4: 'nobody' is no mail address: An email address must have an @-sign\n"
        "mailtasks: people.csv, line 5: ann@example.com stands in line 2 already, and is mailed once\n"
        "mailtasks: people.csv, line 6: the row has 1 column, and the first line names 2\n"
        "mailtasks: people.csv, line 9: =1+1@example.com stands in line 8 already, and is mailed once\n"
        "mailtasks: rejected 4 rows: 1 × bad address, 2 × repeated, 1 × too few or too many columns\n"
        f"{NO_UNSUBSCRIBE}"
    )


def test_a_file_has_all_of_them_and_no_formula(campaign_send, tmp_path):
    campaign_send(PEOPLE + BAD, "--dry-run", "--rejects", "rejects.csv")
    with open(tmp_path / "rejects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["reason"]) for row in rows] == [
        ("4", "bad address"),
        ("5", "repeated"),
        ("6", "too few or too many columns"),
        ("9", "repeated"),
    ]
    assert rows[1]["what"] == "ann@example.com stands in line 2 already, and is mailed once"
    assert rows[3]["what"] == "'=1+1@example.com stands in line 8 already, and is mailed once"


def test_of_many_the_first_few_of_each_kind_are_told(campaign_send, tmp_path):
    repeated, bad = b"ann@example.com,A\n" * 1500, b"nobody,N\n" * 12
    ran = campaign_send(PEOPLE + repeated + bad, "--yes", "--rejects", "rejects.csv")
    lines = ran.err.splitlines()
    assert len(lines) == 10 + 10 + 2
    assert lines[-2] == (
        "mailtasks: rejected 1,512 rows: 12 × bad address, 1,500 × repeated; at most 10 of a kind are shown, "
        "--rejects FILE writes all"
    )
    assert len((tmp_path / "rejects.csv").read_text().splitlines()) == 1 + 1512


def test_huge_rows_are_rejected_and_the_others_mailed(campaign_send):
    """One of 10 MB, and one of ten million columns."""
    huge = b"eve@example.com," + b"x" * 10_000_000 + b"\n" + b"zoe@example.com" + b"," * 10_000_000 + b"\n"
    ran = campaign_send(PEOPLE + huge + b"ann@example.org,Ann\n", "--yes")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "accepted 3 people in campaign 'spring'")
    assert ran.err.splitlines()[:3] == [
        "mailtasks: people.csv, line 4: the row has more than 1,000,000 characters",
        "mailtasks: people.csv, line 5: the row has more than 1,000,000 characters",
        "mailtasks: rejected 2 rows: 2 × too large",
    ]


def test_columns_that_no_template_can_use_are_told(campaign_send):
    ran = campaign_send("email,name,first name,\u202exyz\nann@example.com,Ann,A,\n".encode(), "--dry-run")
    assert ran.err.splitlines()[0] == (
        "mailtasks: no template can use the columns first name, \N{REPLACEMENT CHARACTER}xyz: rename them, "
        "if "
        "one should"
    )


def test_the_people_arent_overwritten(campaign_send, tmp_path):
    ran = campaign_send(PEOPLE, "--yes", "--rejects", tmp_path / "people.csv")
    assert ran.code == 2
    assert "--rejects would overwrite the people in 'people.csv': name another file." in ran.err
    assert (tmp_path / "people.csv").read_bytes() == PEOPLE


def test_a_file_that_cant_be_written_is_wrong_use(campaign_send):
    ran = campaign_send(PEOPLE, "--yes", "--rejects", "nowhere/rejects.csv")
    assert ran.code == 2
    assert "--rejects: 'nowhere/rejects.csv' can't be written: No such file or directory." in ran.err
    assert accepted() == 0


# Who is suppressed


def test_who_is_suppressed_is_told(campaign_send, live):
    live("suppress", "add", "ann@example.com", "bob@example.com")
    ran = campaign_send(PEOPLE, "--dry-run")
    assert ran.err == f"{NO_UNSUBSCRIBE}mailtasks: 2 addresses on the suppression list will get nothing\n"
    assert ran.out.startswith("would send to 0 people as campaign 'spring'; one of the mails:\n")
    live("suppress", "remove", "bob@example.com")
    told = campaign_send(PEOPLE, "--dry-run", "--json").json
    assert (told["suppressed"], told["would_accept"], told["would_send"]) == (1, 2, 1)


# Before it is sent


def test_a_dry_run_shows_one_mail_and_accepts_nothing(campaign_send, live):
    ran = campaign_send(PEOPLE, "--dry-run")
    assert ran.code == 0
    head, _, *mail = ran.out.splitlines()
    assert head == "would send to 2 people as campaign 'spring'; one of the mails:"
    assert {"To: ann@example.com", "Subject: Hi Ann", "From: Shop <shop@example.com>"} <= set(mail)
    assert mail[-2:] == ["Dear Ann,", "        spring is here."]
    told = campaign_send(PEOPLE + b"nobody,N\n", "--dry-run", "--json").json
    assert ["Subject", "Hi Ann"] in told.pop("mail")["headers"]
    assert told == {
        "campaign": "spring",
        "accepted": 0,
        "rejected": 1,
        "reasons": {"bad address": 1},
        "before": 0,
        "suppressed": 0,
        "would_accept": 2,
        "would_send": 2,
    }
    assert (live("campaign", "list", "--json").json, accepted()) == ([], 0)


def test_one_mail_goes_to_oneself(campaign_send, live, worker, sink):
    ran = campaign_send(PEOPLE, "--test-to", "me@example.org")
    said, id = ran.out.strip().rsplit(": ", 1)
    assert said == "the mail to ann@example.com goes to me@example.org, with that person's links"
    worker.deliver(id)
    [mail] = sink.messages
    assert mail.recipients == ("me@example.org",)
    assert b"\nSubject: Hi Ann\r\n" in mail.content
    told = campaign_send(PEOPLE, "--test-to", "me@example.org", "--json").json
    assert {name: told[name] for name in ("campaign", "accepted", "rejected")} == {
        "campaign": "spring",
        "accepted": 0,
        "rejected": 0,
    }
    assert live("status", told["id"], "--json").json["state"] == "queued"
    assert live("campaign", "list", "--json").json == []


def test_a_test_to_what_is_no_address(campaign_send):
    ran = campaign_send(PEOPLE, "--test-to", "me")
    assert ran.code == 2
    assert ran.err.endswith("mailtasks: 'me' is no mail address: An email address must have an @-sign\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--dry-run", "--test-to", "me@example.com"),
            "--dry-run sends nothing, and --test-to a mail: leave one out.",
        ),
        (("--yes", "--rate", "fast"), "the campaign's rate 'fast' is none; give a text such as"),
        (("--yes", "--end", "tomorrow"), "'tomorrow' is no time; write one such as 2030-01-31T09:00+01:00"),
        (("--yes", "--name", "a\nb"), "'a\\nb' can't name a campaign: give up to 200 printable characters"),
        (("--yes", "--from", "News"), "'News' is no mail address"),
        (("--yes", "--attach", "a.txt"), "'a.txt'"),
        (
            ("--yes", "--encoding", "utf-9"),
            "people.csv: there is no encoding 'utf-9'; name one that Python knows",
        ),
        (("--yes", "--unsubscribe", "http://example.com"), "unsubscribe"),
    ],
)
def test_wrong_use(campaign_send, options, sentence):
    ran = campaign_send(PEOPLE, *options)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("mailtasks: ")
    assert sentence in ran.err
    assert accepted() == 0


@pytest.mark.parametrize(
    ("people", "why"), [(PEOPLE, "There is no terminal"), ("-", "Standard input is the list")]
)
def test_without_a_terminal_it_must_be_said(campaign_send, people, why, monkeypatch):
    piped(monkeypatch, PEOPLE)
    ran = campaign_send(people)
    assert (ran.code, ran.out, accepted()) == (2, "", 0)
    assert ran.err == (
        f"mailtasks: {why}, so nobody can be asked whether it should be sent: add --yes. "
        "See `mailtasks campaign send --help`.\n"
    )


def test_neither_body_nor_sender(live, monkeypatch):
    monkeypatch.delenv("MAILTASKS_DEFAULT_FROM")
    ran = live("campaign", "send", "people.csv", "--subject", "Hi", "--yes")
    assert (ran.code, "The mails would be empty: give --text, --html or both." in ran.err) == (2, True)
    ran = live("campaign", "send", "people.csv", "--subject", "Hi", "--yes", "--text", "mail.txt")
    assert (ran.code, "Name the sender with --from, or set MAILTASKS_DEFAULT_FROM." in ran.err) == (2, True)


# Bad input

BAD_PEOPLE = {
    "wrong encoding": (
        "email,name\nann@example.com,Ann\nbob@example.com,Jörg\n".encode("cp1252"),
        "people.csv, line 3: the byte 0xf6 (number 49 of the file) isn't UTF-8; say what encoding it has "
        "(Excel's "
        "is often cp1252), or save it as UTF-8",
    ),
    "wrong encoding, far behind": (
        MANY * 5 + b"\xf6\n",
        "people.csv, line 5006: the byte 0xf6 (number 114,506 of the file) isn't UTF-8; say what encoding "
        "it has "
        "(Excel's is often cp1252), or save it as UTF-8 (5,004 rows came before)",
    ),
    "no column email": (
        b"mail,name\nann@example.com,Ann\n",
        "people.csv, line 1: there is no column `email`, only 'mail', 'name'; name it so in the first line",
    ),
    "no first line": (
        b"ann@example.com,Ann\n",
        "people.csv, line 1: the first line must name the columns, one of them `email`, and here stands an "
        "address",
    ),
    "unclosed quote": (
        PEOPLE + b'cy@example.com,"Cy\ndan@example.com,Dan\n',
        "people.csv, line 4: the quote that opens a field here is never closed, so that all behind it "
        "would be one "
        "field; close it, or write it twice within a field in quotes if it is text (2 rows came before)",
    ),
    "empty": (
        b"",
        "people.csv: is empty; its first line should name the columns, one of them `email`, or be a JSON "
        "object",
    ),
    "only a first line": (
        b"email,name\n",
        "people.csv: names its columns and nobody to mail; give it a row a person",
    ),
    "ten million columns": (
        b"email" + b",c" * 10_000_000 + b"\n",
        "people.csv, line 1: the first line should name the columns, and has more than 1,000,000 "
        "characters; is "
        "this a table, with a row a person?",
    ),
    "a single row, of 10 MB": (
        b"email,name\nann@example.com," + b"x" * 10_000_000 + b"\n",
        "people.csv, line 2: its only row can't be mailed: the row has more than 1,000,000 characters",
    ),
    "binary": (
        bytes(range(256)),
        "people.csv, line 1: is no text, but something binary; save it as CSV (UTF-8) or as JSON Lines, "
        "plain or "
        "compressed by gzip or zstd (if it is UTF-16 without a byte order mark, say so: utf-16-le)",
    ),
    "a workbook": (
        b"PK\x03\x04rest",
        "people.csv: is a ZIP archive or a workbook (XLSX, ODS), and no text; save it as CSV (UTF-8) or as "
        "JSON "
        "Lines, plain or compressed by gzip or zstd",
    ),
    "breaks off": (
        gzip.compress(PEOPLE)[:-9],
        "people.csv, line 4: the compressed file breaks off here; get it again, in whole",
    ),
    "nobody": (
        b"email,name\nann,Ann\n,Bob\n",
        "people.csv, line 2: none of its 2 rows can be mailed; the first: 'ann' is no mail address: An email "
        "address must have an @-sign",
    ),
}


@pytest.mark.parametrize("case", BAD_PEOPLE)
def test_bad_people(campaign_send, live, case):
    content, sentence = BAD_PEOPLE[case]
    ran = campaign_send(content, "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == f"mailtasks: {sentence}"
    assert (live("campaign", "list", "--json").json, accepted()) == ([], 0)


def test_a_file_that_isnt_there(campaign_send):
    ran = campaign_send("nobody.csv", "--yes")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: nobody.csv: can't be opened (No such file or directory); check its path and that you "
        "may read it\n",
    )


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"\xef\xbb\xbf" + PEOPLE, ()),
        (PEOPLE.decode().encode("utf-16"), ()),
        (PEOPLE.replace(b"Ann", b"\xc4nn"), ("--encoding", "cp1252")),
        (PEOPLE.replace(b"\n", b"\r\n").replace(b",", b";"), ()),
    ],
)
def test_what_only_looks_odd(campaign_send, content, options):
    assert campaign_send(content, "--yes", "--json", *options).json["accepted"] == 2


LOOP = "Dear {{ name }}\n{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
BAD_TEMPLATES = {
    "loops for ever": (
        {"text.txt": LOOP},
        "the mail to ann@example.com: text.txt, line 2: it takes more than 100,000 steps (turns of loops, "
        "calls, "
        "includes); let it do less, or raise the limit",
    ),
    "calls itself for ever": (
        {"text.txt": "{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}"},
        "the mail to ann@example.com: text.txt, line 1: ",
    ),
    "a long range": (
        {"text.txt": "{% for i in range(10**12) %}{% endfor %}"},
        "the mail to ann@example.com: text.txt, line 1: ",
    ),
    "asks for __class__": (
        {"text.txt": "Dear\n{{ name.__class__ }}"},
        "text.txt, line 2: a template may not ask for '__class__': what begins with an underscore isn't for "
        "templates; leave it out",
    ),
    "an unknown name": (
        {"text.txt": "Dear\n{{ nome }}"},
        "text.txt, line 2: nothing gives 'nome' (did you mean 'name'?); the fields are: name",
    ),
    "syntax": (
        {"text.txt": "Dear\n\n{% if %}"},
        "text.txt, line 3: expected an expression, got 'end of statement block'; mend the template there",
    ),
    "isn't there": ({}, "text: 'text.txt' isn't there; check the path"),
    "an include that isn't there": (
        {"text.txt": "Dear\n{% include 'foot.txt' %}"},
        "text.txt, line 2: there is no template 'foot.txt'; check the name and the folder",
    ),
    "in an include": (
        {"text.txt": "Dear {% include 'foot.txt' %}", "foot.txt": "--\n{{ nome }}"},
        "foot.txt, line 2: nothing gives 'nome' (did you mean 'name'?); the fields are: name",
    ),
    "wrong encoding": (
        {"text.txt": "Dear\nJörg".encode("cp1252")},
        "text.txt, line 2: it isn't UTF-8 (octet 0xf6); save it as UTF-8",
    ),
    "HTML that is none": (
        {"mail.html": "just words"},
        "mail.html, line 1: it holds no HTML, not a single tag; give it as text, or see whether it is the "
        "right "
        "file",
    ),
    "HTML that is an image": (
        {"mail.html": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"},
        "mail.html, line 1: it isn't UTF-8 (octet 0x89); save it as UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_bad_templates(campaign_send, live, tmp_path, case):
    files, sentence = BAD_TEMPLATES[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    html = ("--html", "mail.html") if "mail.html" in files else ()
    ran = campaign_send(PEOPLE, "--yes", *html, text="mail.txt" if html else "text.txt")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.removeprefix("mailtasks: ").startswith(sentence)
    assert len(ran.err.splitlines()) == 1
    assert (live("campaign", "list", "--json").json, accepted()) == ([], 0)


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ("Hi\nthere", "subject: it renders to two lines: 'Hi\\nthere'; make it one"),
        ("", "subject: it renders to nothing; give it a text for every case"),
        ("{{ nome }}", "subject, line 1: nothing gives 'nome' (did you mean 'name'?); the fields are: name"),
    ],
)
def test_bad_subjects(campaign_send, live, subject, sentence):
    ran = campaign_send(PEOPLE, "--yes", subject=subject)
    assert (ran.code, ran.out, ran.err) == (2, "", f"mailtasks: {sentence}\n")
    assert (live("campaign", "list", "--json").json, accepted()) == ([], 0)


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ("{{ name }}\n{{ name }}", "subject renders to two lines: 'Ann\\nAnn'; make it one"),
        (
            "{% if name == 'Zoe' %}Hi{% endif %}",
            "subject renders to nothing; give it a text for every case",
        ),
    ],
)
def test_subjects_that_fit_nobody(campaign_send, live, subject, sentence):
    ran = campaign_send(PEOPLE, "--yes", subject=subject)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == (
        "mailtasks: people.csv, line 2: none of its 2 rows can be mailed; the first: "
        f"the mail to ann@example.com: {sentence}"
    )
    assert (live("campaign", "list", "--json").json, accepted()) == ([], 0)


def test_a_missing_column(campaign_send):
    ran = campaign_send(PEOPLE.replace(b"name", b"vorname"), "--yes")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: subject, line 1: nothing gives 'name' (did you mean 'vorname'?); the fields are: "
        "vorname\n",
    )


# Taken up


@contextmanager
def after(calls, what):
    """Something happens when so many batches are accepted."""
    real, left = Campaigns.accept, iter(range(calls))

    def accept(self, batches):
        if next(left, None) is None:
            what()
        return real(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "_BATCHES_A_CALL", 1)
        patch.setattr(Campaigns, "accept", accept)
        yield


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_while_people_are_read(campaign_send, live, monkeypatch):
    monkeypatch.setattr(gathering, "_people", lambda *_: interrupt())
    ran = campaign_send(MANY, "--yes")
    assert (ran.code, ran.out) == (INTERRUPTED, "")
    assert ran.err.strip() == "mailtasks: interrupted while reading; this has accepted nobody"
    assert live("campaign", "list", "--json").json == []


def test_ctrl_c_while_people_are_accepted(campaign_send, live, worker, sink):
    with after(2, interrupt):
        ran = campaign_send(MANY, "--yes")
    assert (ran.code, ran.out) == (INTERRUPTED, "")
    assert ran.err.strip() == (NO_UNSUBSCRIBE + TAKEN_UP).strip()
    assert live("campaign", "status", "spring", "--json").json["state"] == "open"
    sent_to_all(worker)
    assert len(sink.messages) == 600, "who is accepted is mailed"
    ran = campaign_send(MANY, "--yes")
    assert ran.code == 0
    assert ran.out.startswith("accepted 1,000 people in campaign 'spring', 600 of them before\n")
    assert ran.err.startswith("mailtasks: 600 of 1,000 people are accepted already\n")
    sent_to_all(worker)
    assert caught(sink) == sorted(f"ann{number}@example.com" for number in range(1000))
    assert live("campaign", "status", "spring", "--json").json["state"] == "finished"


KILLED = """
import os, signal
from mailtasks.campaign import gathering, intake
from mailtasks.cli import main
from mailtasks.store.campaigns import Campaigns

accept, calls = Campaigns.accept, iter("ab")
intake._BATCHES_A_CALL = 1
Campaigns.accept = lambda *given: accept(*given) if next(calls, "") else os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def test_a_kill_while_people_are_accepted(campaign_send, tmp_path):
    (tmp_path / "people.csv").write_bytes(MANY)
    command = ("campaign", "send", "people.csv", "--subject", "Hi {{ name }}", "--text", "mail.txt", "--yes")
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert accepted() == 600
    told = campaign_send(MANY, "--yes", "--json", name=None).json
    assert (told["accepted"], told["before"], accepted()) == (1000, 600, 1000)
    assert len(told["campaign"]) == 16, "it is known by its content"


def test_redis_goes_away_while_people_are_accepted(own_redis, campaign_send, monkeypatch):
    monkeypatch.setenv("MAILTASKS_BROKER_URL", own_redis.url)
    with after(2, own_redis.kill):
        ran = campaign_send(MANY, "--yes")
    assert (ran.code, ran.out) == (1, "")
    where = own_redis.url.removeprefix("redis://")
    *_, interrupted, sentence = ran.err.splitlines(keepends=True)
    assert interrupted == TAKEN_UP
    assert sentence == (
        f"mailtasks: Redis at {where} can't be reached (Error 111 connecting to 127.0.0.1:{own_redis.port}. "
        "Connection refused); is it running and reachable?\n"
    )
    own_redis.start()
    told = campaign_send(MANY, "--yes", "--json").json
    assert (told["accepted"], told["before"], accepted()) == (1000, 600, 1000)


def test_no_room_for_more(campaign_send, monkeypatch, worker):
    monkeypatch.setenv("MAILTASKS_BACKLOG_BULK", "700")
    monkeypatch.setattr(intake, "_BATCHES_A_CALL", 1)
    ran = campaign_send(MANY, "--yes")
    assert ran.code == 1
    assert TAKEN_UP in ran.err
    assert "would exceed backlog_bulk = 700" in ran.err
    sent_to_all(worker)
    assert campaign_send(MANY, "--yes", "--json").json["accepted"] == 1000
    assert accepted() == 1000


def test_who_takes_it_up_gives_the_same(campaign_send):
    with after(1, interrupt):
        campaign_send(MANY, "--yes")
    for people, options, sentence in (
        (
            MANY,
            ("--subject", "Other"),
            "was begun with other values of template, subject; give those of then",
        ),
        (MANY, ("--rate", "9/s"), "was begun with other values of rate; give those of then"),
        (
            MANY.replace(b"ann7@", b"eve@"),
            (),
            "has changed: rows 1 to 300 aren't those that were accepted there",
        ),
        (MANY.replace(b"ann7@", b"eve@"), ("--dry-run",), "has changed: rows 1 to 300 aren't those"),
    ):
        ran = campaign_send(people, "--yes", *options)
        assert (ran.code, ran.out) == (1, "")
        assert f"campaign 'spring' {sentence}" in ran.err
    assert accepted() == 300


def test_a_finished_one_is_sent_again_only_if_that_is_said(campaign_send, worker, sink):
    campaign_send(PEOPLE, "--yes")
    ran = campaign_send(PEOPLE, "--yes")
    assert ran.out.startswith("accepted nobody: all 2 people of campaign 'spring' were before\n")
    sent_to_all(worker)
    ran = campaign_send(PEOPLE, "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "mailtasks: the campaign 'spring' is finished: 2 rows were accepted; to send it once more, to "
        "everybody, "
        "say so (--again, from Python again=True), or give it another name\n"
    )
    assert campaign_send(PEOPLE, "--yes", "--again", "--json").json["accepted"] == 2
    sent_to_all(worker)
    assert len(sink.messages) == 4


# Waiting


@pytest.fixture
def works(monkeypatch, worker):
    """Between two looks a worker sends all there is."""
    working = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: sent_to_all(worker))
    monkeypatch.setattr(campaign_status, "time", working)


@pytest.mark.usefixtures("works")
def test_waiting_ends_with_the_table(campaign_send, live):
    live("suppress", "add", "bob@example.com")
    ran = campaign_send(PEOPLE, "--yes", "--wait")
    assert ran.code == 0
    assert ran.err.splitlines()[-2:] == [
        "1 of 2 (50 %), 0/s, -; sent 0, deferred 0, failed 0, queued 1, suppressed 1",
        "2 of 2 (100 %), finished; sent 1, deferred 0, failed 0, suppressed 1",
    ]
    first, *_, head, sent, suppressed, all_ = ran.out.splitlines()
    assert first == "accepted 2 people in campaign 'spring', 1 of them on the suppression list"
    assert [line.split() for line in (head, sent, suppressed, all_)] == [
        ["STATE", "PEOPLE"],
        ["sent", "1"],
        ["suppressed", "1"],
        ["all", "2"],
    ]


@pytest.mark.usefixtures("works")
def test_waiting_exits_with_1_if_somebody_didnt_get_it(campaign_send):
    ran = campaign_send(PEOPLE + b"refuse@example.com,R\n", "--yes", "--wait", "--json")
    assert (ran.code, ran.json["accepted"], ran.json["rejected"]) == (1, 3, 0)
    assert (ran.json["status"]["state"], ran.json["status"]["states"]["failed"]) == ("finished", 1)


def test_who_no_longer_waits_stops_nothing(campaign_send, monkeypatch):
    monkeypatch.setattr(
        campaign_status, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt_in)
    )
    ran = campaign_send(PEOPLE, "--yes", "--wait")
    assert ran.code == INTERRUPTED
    assert ran.err.rstrip().endswith("it goes on without this command: `mailtasks campaign status spring`")
    assert accepted() == 2


def interrupt_in(seconds):
    raise KeyboardInterrupt


# On a terminal


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, arguments, folder):
        self._ours, its = pty.openpty()
        command = [sys.executable, "-m", "mailtasks.cli", *arguments]
        self._process = subprocess.Popen(command, cwd=folder, stdin=its, stdout=its, stderr=its)
        os.close(its)
        self.shown = ""

    def wait_for(self, text):
        while text not in self.shown:
            self.shown += os.read(self._ours, 4096).decode()

    def type(self, text):
        os.write(self._ours, text.encode())

    def end(self):
        """Its exit code."""
        with suppress(OSError):  # how Linux says that the other end of a terminal is closed
            while data := os.read(self._ours, 4096):
                self.shown += data.decode()
        os.close(self._ours)
        return self._process.wait(60)


ASKED = (
    "campaign",
    "send",
    "people.csv",
    "--name",
    "spring",
    "--subject",
    "Hi {{ name }}",
    "--text",
    "mail.txt",
)


@pytest.mark.parametrize(("answer", "code", "number"), [("y", 0, 1000), ("n", 1, 0)])
def test_a_person_is_asked(campaign_send, tmp_path, answer, code, number):
    """Numbers that grow are cleared away by what is said next, and by the question."""
    (tmp_path / "people.csv").write_bytes(MANY + b"nobody,N\n")
    terminal = Terminal(ASKED, tmp_path)
    terminal.wait_for("Send to 1,000 people? [y/N]: ")
    assert "1,000 read \r\x1b[K" in terminal.shown
    assert "\r\x1b[Kmailtasks: people.csv, line 1002: 'nobody' is no mail address" in terminal.shown
    assert accepted() == 0
    terminal.type(f"{answer}\n")
    assert terminal.end() == code
    assert accepted() == number
    said = "accepted 1,000 people in campaign 'spring'" if number else "mailtasks: nothing was accepted"
    assert said in terminal.shown


def test_who_is_asked_knows_what_about_and_may_leave(campaign_send, monkeypatch):
    def leave(*given, **more):
        raise click.Abort

    monkeypatch.setattr("click.confirm", leave)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    ran = campaign_send(PEOPLE, "--rate", "9/s", "--start", "2050-01-31T09:00+01:00")
    assert (ran.code, ran.out, accepted()) == (INTERRUPTED, "", 0)
    *_, described, empty, nothing = ran.err.splitlines()
    assert described == (
        "mailtasks: campaign 'spring' from Shop <shop@example.com>: Hi {{ name }}; "
        "not before 2050-01-31T09:00+01:00; at most 9/s"
    )
    assert (empty, nothing) == ("", "mailtasks: nothing was accepted")


def test_a_column_that_cant_be_named_is_told_where_it_is_missed(campaign_send):
    ran = campaign_send(b"email,First Name,2nd\nann@example.com,Ann,x\n", "--yes")
    assert ran.code == 2
    assert ran.err == (
        "mailtasks: subject, line 1: nothing gives 'name'; the fields are: none. No template can name these "
        "columns, so rename them: 'First Name' (say, first_name), '2nd' (say, column_2nd)\n"
    )


def test_people_who_are_typed_are_asked_about_as_well(campaign_send, tmp_path):
    terminal = Terminal([*ASKED[:2], "-", *ASKED[3:]], tmp_path)
    terminal.type(PEOPLE.decode() + "\x04")
    terminal.wait_for("Send to 2 people? [y/N]: ")
    terminal.type("y\n")
    assert (terminal.end(), accepted()) == (0, 2)

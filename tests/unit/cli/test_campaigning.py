import csv
import io
from collections import Counter

import pytest

from mailtasks.mailer import Mailer
from mailtasks.message import Priority
from mailtasks.state import State
from tests.campaigns import sent_to_all

PEOPLE = b"email,name\nann@example.com,Ann\nrefuse@example.com,R\nspam@example.com,S\n"


@pytest.fixture
def spring(campaign_send, live):
    """`mailtasks campaign COMMAND spring`, of a campaign of three people, two of whom will be refused."""
    assert campaign_send(PEOPLE, "--yes").code == 0
    return lambda command, *options: live("campaign", command, "spring", *options)


def state(spring):
    return spring("status", "--json").json["state"]


# list and status


def test_a_list_of_none(live):
    assert live("campaign", "list").out == "there is no campaign\n"
    assert live("campaign", "list", "--json").json == []


def test_all_are_listed_the_latest_first(spring, campaign_send, live, worker):
    sent_to_all(worker)
    campaign_send(PEOPLE, "--yes", name="autumn")
    head, *rows = live("campaign", "list").out.splitlines()
    assert head.split() == ["NAME", "STATE", "PEOPLE", "SENT", "UNFINISHED", "UNSENT", "BEGUN", "FINISHED"]
    assert [row.split()[:6] for row in rows] == [
        ["autumn", "running", "3", "0", "2", "0"],  # one has entered the suppression list
        ["spring", "finished", "3", "1", "0", "2"],
    ]
    assert rows[0].endswith("-")
    assert [it["name"] for it in live("campaign", "list", "--json").json] == ["autumn", "spring"]


def test_status(spring):
    told = spring("status", "--json").json
    assert (told["name"], told["rows"], told["states"]["queued"]) == ("spring", 3, 3)
    lines = spring("status").out.splitlines()
    assert lines[0].split() == ["campaign", "spring"]
    assert [line.split() for line in lines[-3:]] == [["STATE", "PEOPLE"], ["queued", "3"], ["all", "3"]]


@pytest.mark.parametrize("command", ["status", "pause", "resume", "cancel", "failures", "retry"])
def test_one_that_isnt_there(live, command):
    ran = live("campaign", command, "spring")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "mailtasks: no campaign is called 'spring'; there is none\n"


@pytest.mark.parametrize("command", ["list", "status spring", "cancel spring", "retry spring"])
def test_redis_is_away(nowhere, command):
    ran = nowhere("campaign", *command.split())
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("mailtasks: Redis at 127.0.0.1:")
    assert ran.err.endswith("; is it running and reachable?\n")


def test_what_is_no_name_is_wrong_use(live):
    ran = live("campaign", "status", "a\nb")
    assert ran.code == 2
    assert ran.err == "mailtasks: 'a\\nb' can't name a campaign: give up to 200 printable characters\n"


# pause, resume and cancel


def test_pause_and_resume(spring):
    ran = spring("pause", "--reason", "lunch")
    assert (ran.code, ran.out) == (0, "paused 'spring'\n")
    assert "paused (lunch)" in spring("status").out
    assert spring("pause").out == "'spring' is paused already (lunch)\n"
    assert spring("pause", "--json").json == {"campaign": "spring", "paused": False}
    assert spring("resume").out == "resumed 'spring'\n"
    assert spring("resume").out == "'spring' wasn't paused\n"
    assert spring("resume", "--json").json == {"campaign": "spring", "resumed": False}
    assert state(spring) == "running"


def test_cancel(spring):
    ran = spring("cancel")
    assert (ran.code, ran.out) == (0, "cancelled 3 people of 'spring'\n")
    assert spring("cancel").out == "'spring' is cancelled already\n"
    assert spring("cancel", "--json").json == {"campaign": "spring", "cancelled": 3}
    assert state(spring) == "cancelled"


# failures and retry


@pytest.fixture
def failed(spring, worker):
    sent_to_all(worker)
    return spring


def test_nobody_failed(spring):
    assert spring("failures").out == "nobody of 'spring' failed\n"
    assert spring("failures", "--json").json == []
    assert spring("failures", "--csv").out == "email,state,attempts,tried,reply,id\n"


def test_failures(failed):
    head, *rows = failed("failures").out.splitlines()
    assert head.split() == ["EMAIL", "STATE", "REPLY"]
    assert [row.split()[:3] for row in rows] == [
        ["refuse@example.com", "failed", "550"],
        ["spam@example.com", "failed", "554"],
    ]
    told = failed("failures", "--json").json
    assert [it["email"] for it in told] == ["refuse@example.com", "spam@example.com"]
    assert told[0]["reply"].startswith("550 5.1.1 ")


def test_failures_as_csv(failed):
    ran = failed("failures", "--csv")
    assert (ran.code, ran.err, ran.out.count("\r")) == (0, "", 0)
    assert list(csv.DictReader(io.StringIO(ran.out))) == [
        {name: str(value) for name, value in it.items()} for it in failed("failures", "--json").json
    ]


def test_a_long_list_is_cut_and_says_so(failed):
    _, row, more = failed("failures", "--limit", 1).out.splitlines()
    assert row.startswith("refuse@example.com")
    assert more == "and more than these 1: --limit shows more, --csv all of them"
    assert len(failed("failures", "--limit", 2).out.splitlines()) == 3
    assert len(failed("failures", "--limit", 1, "--csv").out.splitlines()) == 3
    assert len(failed("failures", "--limit", 1, "--json").json) == 2


def test_a_reply_is_no_formula_to_a_spreadsheet(spring, settle):
    settle(campaign_batch(), State.FAILED, '=HYPERLINK("http://example.org")')
    rows = list(csv.DictReader(io.StringIO(spring("failures", "--csv").out)))
    assert {row["reply"] for row in rows} == {'\'=HYPERLINK("http://example.org")'}
    assert {it["reply"] for it in spring("failures", "--json").json} == {'=HYPERLINK("http://example.org")'}


def campaign_batch():
    with Mailer() as mailer:
        [hint] = mailer.campaigns.feed(Priority.BULK, 1)
        return hint.batch


def test_retry(failed, live):
    ran = failed("retry", "--dry-run")
    assert (ran.code, ran.out) == (
        1,
        "would retry 1 recipient\nleft alone 1 recipient on the suppression list; "
        "`mailtasks suppress remove ADDRESS` comes first\n",
    )
    ran = failed("retry", "--json")
    assert (ran.code, ran.json["retried"], ran.json["suppressed"]) == (1, 1, 1)
    assert state(failed) == "running"
    live("suppress", "remove", "refuse@example.com")
    ran = failed("retry")
    assert (ran.code, ran.out) == (
        1,
        "retried 0 recipients\nleft alone 1 hard bounce; --force retries those, too\n",
    )
    ran = live("retry", "--campaign", "spring", "--force", "--json")
    assert (ran.code, ran.json["retried"]) == (0, 1)
    assert failed("status", "--json").json["states"]["queued"] == 2


def test_what_is_retried_is_sent(failed, worker, sink):
    failed("retry")
    sent_to_all(worker)
    assert Counter(entry.recipient for entry in sink.refusals) == {
        "refuse@example.com": 1,
        "spam@example.com": 2,
    }
    assert state(failed) == "finished"

import pytest

from mailtasks.cli import doubt
from mailtasks.mailer import Mailer
from mailtasks.state import State


@pytest.fixture
def doubtful(live, settle):
    """Three mails: two in doubt, and one that is sent."""
    ids = []
    for name, state in (("ann", State.IN_DOUBT), ("bob", State.IN_DOUBT), ("eve", State.SENT)):
        sent = live("send", "--to", f"{name}@example.com", "--text", "hi", "--priority", "bulk")
        ids.append(sent.out.strip())
        settle(ids[-1], state, f"lost after the dot to {name}")
    return ids


def states(live, ids):
    return [live("status", id, "--json").json["state"] for id in ids]


def test_the_list_says_since_when_where_and_by_whom(live, doubtful):
    told = {it["id"]: it for it in live("in-doubt", "list", "--json").json}
    assert set(told) == set(doubtful[:2])
    one = told[doubtful[0]]
    assert (one["address"], one["relay"], one["worker"]) == (
        "ann@example.com",
        "mx.example.com:25",
        "a worker",
    )
    assert (one["reply"], one["resends"], one["priority"]) == ("lost after the dot to ann", 0, "bulk")
    assert one["since"] == live("status", doubtful[0], "--json").json["recipients"][0]["tried_at"]
    assert one["message_id"].startswith("<")


def test_the_list_for_people(live, doubtful):
    head, *rows = live("in-doubt", "list").out.splitlines()
    assert head.split() == ["ID", "TO", "SINCE", "RELAY", "WORKER", "RESENT", "MESSAGE-ID", "SAID"]
    assert {row.split()[0] for row in rows} == set(doubtful[:2])
    assert all(row.split("a worker")[1].split()[0] == "no" for row in rows)


def test_check_and_queue_show_it(live, sink, monkeypatch, doubtful):
    monkeypatch.setenv("MAILTASKS_RELAY", sink.url)
    [finding] = [it for it in live("check", "--json").json["findings"] if it["subject"] == "in doubt"]
    assert (finding["level"], finding["found"]) == ("warn", "2 recipients, held until somebody decides")
    assert "mailtasks in-doubt resend" in finding["advice"]
    assert live("queue", "--json").json["bulk"]["in_doubt"] == 2
    assert live("queue").out.splitlines()[0].endswith("IN DOUBT")
    assert live("stats", "--json").json["states"]["in_doubt"] == 2


def test_nothing_in_doubt(live):
    assert live("in-doubt", "list").out == "nothing is in doubt\n"
    assert live("in-doubt", "list", "--json").json == []
    assert live("in-doubt", "resend", "--all", "--yes").out == "resent 0 recipients\n"


def test_resend_sends_once_and_says_why_not_again(live, doubtful):
    assert live("in-doubt", "resend", doubtful[0], "--dry-run").out == "would resend 1 recipient\n"
    ran = live("in-doubt", "resend", *doubtful[::2])
    assert (ran.code, ran.out) == (0, "resent 1 recipient\n")
    assert states(live, doubtful) == ["queued", "in_doubt", "sent"]
    ran = live("in-doubt", "resend", *doubtful[::2])
    assert (ran.code, ran.out) == (
        0,
        "resent 0 recipients\nann@example.com is queued\neve@example.com is sent\n",
    )
    assert live("in-doubt", "resend", doubtful[1], "--json").json["retried"] == 1


def test_what_was_resent_and_is_in_doubt_again_says_so(live, settle, doubtful):
    live("in-doubt", "resend", doubtful[0])
    settle(doubtful[0], State.IN_DOUBT, "lost again")
    told = {it["id"]: it["resends"] for it in live("in-doubt", "list", "--json").json}
    assert told == {doubtful[0]: 1, doubtful[1]: 0}
    assert "1 x" in live("in-doubt", "list").out


def test_mail_whose_text_is_gone_is_named(live, doubtful):
    with Mailer() as mailer:
        mailer.redis.hdel(mailer.ledger.keys.batch(doubtful[0].partition(".")[0])[0], "c0")
    sentence = f"{doubtful[0]} is left alone: its text is no longer kept; send it anew, or settle it\n"
    for dry_run in (("--dry-run",), ()):
        ran = live("in-doubt", "resend", *doubtful[:2], *dry_run)
        assert ran.code == 1
        assert ran.out.endswith("esend 1 recipient\n" * bool(dry_run) + sentence)
    assert states(live, doubtful) == ["in_doubt", "queued", "sent"]


@pytest.mark.parametrize("state", ["sent", "failed"])
def test_settle_records_what_somebody_found_out(live, doubtful, state):
    assert live("in-doubt", "settle", doubtful[0], "--as", state, "--dry-run").out == (
        f"would settle 1 recipient as {state}\n"
    )
    ran = live("in-doubt", "settle", doubtful[0], "--as", state)
    assert (ran.code, ran.out) == (0, f"settled 1 recipient as {state}\n")
    told = live("status", doubtful[0], "--json").json
    assert (told["state"], told["reply"]) == (
        state,
        f"settled by hand as {state}; lost after the dot to ann",
    )
    ran = live("in-doubt", "settle", doubtful[0], "--as", state)
    assert ran.out == f"settled 0 recipients as {state}\nann@example.com is {state}\n"
    assert live("in-doubt", "settle", doubtful[1], "--as", state, "--json").json == {
        "settled": 1,
        "as": state,
    }


@pytest.mark.parametrize("command", [("resend",), ("settle", "--as", "sent")])
class TestAll:
    def test_without_a_terminal_it_is_refused(self, live, doubtful, command):
        ran = live("in-doubt", *command, "--all")
        assert (ran.code, ran.out) == (2, "")
        assert "--all asks first, and this is no terminal; add --yes." in ran.err
        assert states(live, doubtful) == ["in_doubt", "in_doubt", "sent"]

    def test_with_yes_it_is_done(self, live, doubtful, command):
        assert live("in-doubt", *command, "--all", "--yes").code == 0
        assert "in_doubt" not in states(live, doubtful)

    def test_a_dry_run_needs_no_yes(self, live, doubtful, command):
        assert "2 recipients" in live("in-doubt", *command, "--all", "--dry-run").out
        assert states(live, doubtful) == ["in_doubt", "in_doubt", "sent"]

    @pytest.mark.parametrize("answer", [True, False])
    def test_on_a_terminal_it_asks(self, live, doubtful, command, monkeypatch, answer):
        asked = []

        def confirm(question, abort):
            asked.append(question)
            if not answer:
                raise doubt.click.Abort

        monkeypatch.setattr(doubt.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
        monkeypatch.setattr(doubt.click, "confirm", confirm)
        ran = live("in-doubt", *command, "--all")
        assert ran.out.startswith("2 recipients in doubt\n")
        assert len(asked) == 1
        assert (ran.code == 0) is answer
        assert ("in_doubt" not in states(live, doubtful)) is answer

    @pytest.mark.parametrize("ids", [(), ("0" * 27, "--all")])
    def test_ids_or_all(self, live, command, ids):
        ran = live("in-doubt", *command, *ids)
        assert (ran.code, ran.out) == (2, "")
        assert "Name ids, or all of it with --all." in ran.err

    def test_an_unknown_id_stops_all(self, live, doubtful, command):
        ran = live("in-doubt", *command, doubtful[0], "nonsense")
        assert (ran.code, ran.out) == (1, "")
        assert "no message 'nonsense' is known" in ran.err
        assert states(live, doubtful) == ["in_doubt", "in_doubt", "sent"]

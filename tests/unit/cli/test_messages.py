import io
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from mailtasks.errors import StoreError
from mailtasks.mailer import Mailer
from mailtasks.state import State
from mailtasks.store.ledger import Result

MAIL = ("--to", "ann@example.com", "--subject", "Hello", "--text", "It works")
NO_SUCH_USER = "550 5.1.1 no such user"
SPAM = "554 5.7.1 looks like spam"
FATES = {
    "defer": (State.DEFERRED, "451 4.3.0 try again later"),
    "refuse": (State.FAILED, NO_SUCH_USER),
    "ok": (State.SENT, "250 2.0.0 Ok"),
}


def sent(live, *options):
    """The id of a mail that was accepted."""
    ran = live("send", "--json", *MAIL, *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.json["id"]


def claimed(id):
    """What workers would send."""
    with Mailer() as mailer:
        return mailer.ledger.claim(id.partition(".")[0], "a test").window[0]


def body(id):
    return claimed(id).body.decode()


# --- send


def test_send_prints_the_id(live):
    ran = live("send", *MAIL)
    assert (ran.code, ran.err) == (0, "")
    assert live("status", ran.out.strip(), "--json").json["state"] == "queued"


def test_send_json_holds_the_id(live):
    ran = live("send", *MAIL, "--json")
    assert list(ran.json) == ["id"]


def test_every_field_reaches_the_message(live, tmp_path):
    (tmp_path / "mail.html").write_text("<p>Hällo</p>")
    (tmp_path / "a.txt").write_text("attached")
    id = sent(
        live,
        *("--to", "Bob <bob@example.com>", "--cc", "cc@example.com", "--bcc", "bcc@example.com"),
        *("--reply-to", "answers@example.com", "--from", "Boss <boss@example.com>"),
        *("--html", "mail.html", "--attach", "a.txt", "--header", "X-Campaign: spring: 1"),
        *("--priority", "urgent", "--expires-after", "2h", "--tag", "welcome", "--metadata", "order=7=8"),
        *("--dsn-notify", "failure", "--dsn-notify", "delay", "--dsn-return", "full", "--require-tls"),
    )
    told = live("status", id, "--json").json
    assert [it["address"] for it in told["recipients"]] == [
        "ann@example.com",
        "bob@example.com",
        "cc@example.com",
        "bcc@example.com",
    ]
    assert (told["priority"], told["tags"], told["metadata"]) == ("urgent", ["welcome"], {"order": "7=8"})
    lifetime = datetime.fromisoformat(told["expires_at"]) - datetime.fromisoformat(told["accepted_at"])
    assert abs(lifetime - timedelta(hours=2)) < timedelta(seconds=1)
    message = claimed(id)
    record = message.record
    assert (record.dsn_notify, record.dsn_return, record.require_tls) == (("failure", "delay"), "full", True)
    content = message.body.decode()
    for header in ("From: Boss <boss@example.com>", "Reply-To: answers@example.com", "X-Campaign: spring: 1"):
        assert header in content
    assert "bcc@example.com" not in content
    assert all(it in content for it in ("It works", "text/html", "a.txt"))


def test_a_header_may_be_given_several_times(live):
    content = body(sent(live, "--header", "X-Note: one", "--header", "X-Note: two", "--header", "X-A:b"))
    assert "X-Note: one\r\nX-Note: two\r\nX-A: b\r\n" in content


@pytest.mark.parametrize("bounces", ["bounces@example.com", ""])
def test_bounces_go_elsewhere_or_nowhere(live, bounces):
    id = sent(live, "--envelope-sender", bounces)
    with Mailer() as mailer:
        [claimed] = mailer.ledger.claim(id.partition(".")[0], "a test").window
    assert claimed.record.sender == bounces


def test_a_mail_for_later(live):
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    id = sent(live, "--send-at", later.isoformat())
    assert datetime.fromisoformat(live("status", id, "--json").json["send_at"]) == later


def test_text_from_a_file(live, tmp_path):
    (tmp_path / "mail.txt").write_text("from a file")
    ran = live("send", "--to", "ann@example.com", "--text-file", "mail.txt")
    assert "from a file" in body(ran.out.strip())


def test_text_from_standard_input(live, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    ran = live("send", "--to", "ann@example.com", "--text-file", "-")
    assert "from a pipe" in body(ran.out.strip())


def test_the_same_key_is_the_same_mail(live):
    assert sent(live, "--idempotency-key", "k") == sent(live, "--idempotency-key", "k")


def test_the_same_key_for_another_mail_is_refused(live):
    id = sent(live, "--idempotency-key", "k")
    ran = live("send", *MAIL, "--text", "other", "--idempotency-key", "k")
    assert ran.code == 1
    assert ran.err == (
        f"mailtasks: idempotency key 'k' was used before with other content, by message {id}; "
        "use another key for another mail\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--to", "nobody"), "to: 'nobody' is no mail address"),
        (("--to", "ann@example.com\nBcc: eve@example.com"), "to: the address 'ann@example.com\\nBcc: "),
        (("--subject", "a\nBcc: eve@example.com"), "subject holds '\\n'"),
        (("--priority", "asap"), "asap"),
        (
            ("--send-at", "2030-01-31T09:00"),
            "'2030-01-31T09:00' has no offset from UTC; add one, such as 2030-01-31T09:00+01:00, or Z",
        ),
        (("--id", "4711"), "'4711' is no message id; give the one that the error printed"),
        (("--expires-after", "0"), "'0' is no duration"),
        (("--expires-after", "999999999d"), "write one such as 90s, 15m or 2h, of at most 3650 days"),
        (("--send-at", "9999-12-31T23:59:59-05:00"), "give a time from 1970 on and before 2100"),
        (("--send-at", "tomorrow"), "'tomorrow' is no time; write one such as 2030-01-31T09:00+01:00"),
        (("--expires-after", "soon"), "'soon' is no duration; write one such as 90s, 15m or 2h"),
        (("--header", "X-Campaign"), "'X-Campaign' is not NAME:VALUE"),
        (("--metadata", "=7"), "'=7' is not NAME=VALUE"),
        (("--attach", "no.pdf"), "the attachment 'no.pdf' can't be read: No such file or directory"),
        (("--html", "no.html"), "'no.html' can't be read: No such file or directory"),
        (("--html", "latin1.html"), "'latin1.html' is no UTF-8 text"),
        (("--text-file", "latin1.html"), "is no UTF-8 text"),
    ],
)  # fmt: skip
def test_what_can_not_be_mailed_is_wrong_use(live, tmp_path, options, sentence):
    (tmp_path / "latin1.html").write_bytes(b"\xe4")
    ran = live("send", *MAIL, *options)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert ran.err.startswith("mailtasks: ")
    assert ran.err.count("\n") == 1
    assert live("stats", "--json").json["accepted"] == 0


def test_an_empty_mail_is_sent_only_on_purpose(live, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("in vain"))
    ran = live("send", "--to", "ann@example.com", "--subject", "Hello")
    assert (ran.code, ran.out, ran.err) == (
        2,
        "",
        "mailtasks: The mail would be empty: give --text, --text-file (- is standard input), --html, "
        "--attach or --raw, or --text '' if it should be. See `mailtasks send --help`.\n",
    )
    assert live("send", "--to", "ann@example.com", "--text", "").code == 0


RAW = b"From: boss@example.com\nTo: ann@example.com\nBcc: hidden@example.com\nMessage-ID: <1@x>\n\nHi\xe4\n"


def test_a_whole_mail_from_a_file_is_sent_as_it_is(live, tmp_path):
    (tmp_path / "mail.eml").write_bytes(RAW)
    ran = live("send", "--raw", "mail.eml", "--tag", "raw", "--json")
    assert (ran.code, ran.err) == (0, "")
    told = live("status", ran.json["id"], "--json").json
    assert [it["address"] for it in told["recipients"]] == ["ann@example.com", "hidden@example.com"]
    assert told["message_id"] == "<1@x>"
    with Mailer() as mailer:
        [claimed] = mailer.ledger.claim(ran.json["id"].partition(".")[0], "a test").window
    kept = claimed.body.partition(b"\r\n")[2] if claimed.body.startswith(b"Date: ") else b""
    assert kept == b"From: boss@example.com\r\nTo: ann@example.com\r\nMessage-ID: <1@x>\r\n\r\nHi\xe4\r\n"


def test_a_whole_mail_from_standard_input_and_other_recipients(live, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(RAW)))
    ran = live("send", "--raw", "-", "--to", "bob@example.com", "--json")
    told = live("status", ran.json["id"], "--json").json
    assert [it["address"] for it in told["recipients"]] == ["bob@example.com"]


def test_a_whole_mail_has_no_other_subject(live, tmp_path):
    (tmp_path / "mail.eml").write_bytes(RAW)
    ran = live("send", "--raw", "mail.eml", "--subject", "Hello")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: subject can't be given beside raw, which is the whole message: write it there\n",
    )
    assert "can't be read: No such file" in live("send", "--raw", "nowhere.eml").err


def test_one_each_prints_an_id_for_each(live):
    to = ("--to", "bob@example.com", "--cc", "Cy <cy@example.com>", "--one-each")
    ids = live("send", *MAIL, *to).out.split()
    ran = live("send", *MAIL, *to, "--json")
    told = [live("status", id, "--json").json for id in ran.json["ids"]]
    assert len(ids) == 3
    assert [[it["address"] for it in one["recipients"]] for one in told] == [
        ["ann@example.com"],
        ["bob@example.com"],
        ["cy@example.com"],
    ]
    assert "Give --id or --one-each, not both" in live("send", *MAIL, *to, "--id", ids[0]).err


def test_no_recipient(live):
    ran = live("send", "--subject", "Hello", "--text", "It works")
    assert ran.code == 2
    assert "at least one recipient" in ran.err


def test_two_texts(live, tmp_path):
    (tmp_path / "mail.txt").write_text("x")
    ran = live("send", *MAIL, "--text-file", "mail.txt")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: Give --text or --text-file, not both. See `mailtasks send --help`.\n",
    )


def test_no_sender(live, monkeypatch):
    monkeypatch.delenv("MAILTASKS_DEFAULT_FROM")
    ran = live("send", *MAIL)
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: Name the sender with --from, or set MAILTASKS_DEFAULT_FROM. "
        "See `mailtasks send --help`.\n",
    )


def test_trying_again_with_the_id_sends_one_mail(live):
    id = sent(live)
    assert sent(live, "--id", id) == id
    assert live("stats", "--json").json["accepted"] == 1


@pytest.mark.parametrize(
    "command", [("send", *MAIL), ("status", "x.0"), ("stats",), ("queue",), ("failed",), ("pause",)]
)
def test_redis_away_is_a_failure_told_soon_in_one_sentence(nowhere, command):
    id = "0" * 27 + ".0"
    begin = time.monotonic()
    ran = nowhere(*(id if word == "x.0" else word for word in command))
    assert time.monotonic() - begin < 5
    assert (ran.code, ran.out) == (1, "")
    assert "127.0.0.1:" in ran.err
    assert "Connection refused" in ran.err
    assert ran.err.endswith("is it running and reachable?\n")
    assert ran.err.count("\n") == 1


# --- status, find, failed


def test_status_for_people(live, settle):
    id = sent(live)
    settle(id, State.FAILED, NO_SUCH_USER)
    ran = live("status", id)
    lines = dict(line.split(maxsplit=1) for line in ran.out.splitlines()[:4])
    assert lines == {"id": id, "state": "failed", "subject": "Hello", "priority": "normal"}
    assert "ann@example.com  failed" in ran.out
    assert NO_SUCH_USER in ran.out


def test_status_has_the_moment_of_a_plan_only(live, settle):
    later = datetime.now(UTC) + timedelta(days=7)
    assert "send at" in live("status", sent(live, "--send-at", later.isoformat())).out
    id = sent(live)
    assert "send at" not in live("status", id).out
    settle(id, State.FAILED, SPAM)
    live("retry", id)
    assert "send at" not in live("status", id).out


def test_status_json(live, settle):
    id = sent(live)
    settle(id, State.FAILED, NO_SUCH_USER)
    told = live("status", id, "--json").json
    assert (told["id"], told["state"], told["attempts"], told["reply"]) == (id, "failed", 1, NO_SUCH_USER)


@pytest.mark.parametrize("command", ["status", "cancel", "retry"])
def test_an_unknown_id(live, command):
    ran = live(command, "nonsense")
    assert (ran.code, ran.out) == (1, "")
    assert "no message 'nonsense' is known in redis://127.0.0.1:" in ran.err


def test_find(live):
    ids = {sent(live), sent(live, "--to", "bob@example.com")}
    assert {it["id"] for it in live("find", "Ann <ANN@example.com>", "--json").json} == ids
    ran = live("find", "bob@example.com")
    assert len(ran.out.splitlines()) == 2
    assert "bob@example.com" in ran.out


@pytest.fixture
def parted(live):
    """A mail whose recipients came to different ends."""
    id = live("send", "--text", "hi", *(f"--to={name}@example.com" for name in FATES)).out.strip()
    with Mailer() as mailer:
        claim = mailer.ledger.claim(id.partition(".")[0], "a worker")
        results = [
            Result(index, state, delay=3600, reply=reply)
            for index, (state, reply) in enumerate(FATES.values())
        ]
        mailer.ledger.release(claim, "a worker", results)
    return id


@pytest.mark.parametrize("name", FATES)
def test_find_tells_the_fate_of_who_was_asked_for(live, parted, name):
    state, reply = FATES[name]
    _, row = live("find", f"{name.upper()}@example.com").out.splitlines()
    assert row.split()[:2] == [parted, state]
    assert row.endswith(reply)
    [told] = live("find", f"{name}@example.com", "--json").json
    assert (told["state"], told["attempts"], told["reply"]) == (state, 1, reply)
    assert [it["state"] for it in told["recipients"]] == [state for state, _ in FATES.values()]


def test_failed_tells_of_who_failed(live, parted):
    _, row = live("failed").out.splitlines()
    assert row.split()[:2] == [parted, "failed"]
    assert "refuse@example.com" in row
    assert "defer@example.com" not in row
    assert row.endswith(NO_SUCH_USER)
    [told] = live("failed", "--json").json
    assert (told["state"], told["reply"]) == ("failed", NO_SUCH_USER)
    assert len(told["recipients"]) == len(FATES)


def test_find_nothing_names_the_redis_that_was_asked(live, redis_url):
    assert live("find", "eve@example.com").out == f"no mail to eve@example.com is known in {redis_url}\n"
    assert live("find", "eve@example.com", "--json").json == []


def test_find_what_is_no_address(live):
    ran = live("find", "eve")
    assert ran.code == 2
    assert "'eve' is no mail address" in ran.err


def test_failed(live, settle):
    assert live("failed").out == "nothing failed\n"
    first, second, fine = sent(live), sent(live), sent(live)
    settle(first, State.FAILED, NO_SUCH_USER)
    settle(second, State.FAILED, SPAM)
    settle(fine, State.SENT)
    assert {it["id"] for it in live("failed", "--json").json} == {first, second}
    assert len(live("failed", "--limit", "1", "--json").json) == 1
    assert SPAM in live("failed").out


def test_failed_lists_first_what_was_set_aside(live, settle):
    lapsed, damaged, failed = sent(live), sent(live, "--priority", "bulk"), sent(live)
    with Mailer() as mailer:
        for id, field, value in ((lapsed, "z", "3"), (damaged, "r", "x")):
            key = mailer.ledger.keys.batch(id.partition(".")[0])[0]
            mailer.redis.hset(key, field, value)
            with suppress(StoreError):
                mailer.ledger.claim(id.partition(".")[0], "a worker")
    settle(failed, State.FAILED, SPAM)
    lapses = (
        "set aside after 3 lapsed claims, the last workers that took it having died or hung; "
        f"mend the cause, then `mailtasks retry {lapsed}`"
    )
    records = (
        "set aside because its records can't be read; mend what the workers' log says of it, "
        f"then `mailtasks retry {damaged}`"
    )
    _, *rows = live("failed").out.splitlines()
    for row, id, why in zip(rows, (lapsed, damaged, failed), (lapses, records, SPAM), strict=True):
        assert row.startswith(id)
        assert row.endswith(why)
    told = live("failed", "--json").json
    assert [(it["id"], it["state"], it["reply"]) for it in told] == [
        (lapsed, "set_aside", lapses),
        (damaged, "set_aside", records),
        (failed, "failed", SPAM),
    ]
    assert (told[0]["priority"], told[0]["lapses"], told[0]["recipients"]) == ("normal", 3, [])
    assert [it["id"] for it in live("failed", "--limit", "1", "--json").json] == [lapsed]
    assert live("retry", lapsed, "--dry-run").out == "would retry 1 recipient\n"
    assert live("retry", lapsed).out == "retried 1 recipient\n"
    assert [it["id"] for it in live("failed", "--json").json] == [damaged, failed]
    waiting = {name: queue["waiting"] for name, queue in live("queue", "--json").json.items()}
    assert waiting == {"urgent": {}, "normal": {}, "bulk": {"aside": 1}}


# --- cancel, retry


def test_cancel(live):
    id = sent(live, "--to", "bob@example.com")
    ran = live("cancel", id)
    assert (ran.code, ran.out) == (0, "cancelled 2 recipients\n")
    assert live("status", id, "--json").json["state"] == "cancelled"


def test_cancel_too_late(live, settle):
    id = sent(live)
    settle(id, State.SENT)
    ran = live("cancel", id)
    assert (ran.code, ran.out) == (1, "too late: nothing was left to cancel\n")
    assert live("cancel", id, "--json").json == {"id": id, "cancelled": 0}


@pytest.fixture
def failures(live, settle):
    """Two mails that failed, one for good."""
    gone, spam = sent(live), sent(live)
    settle(gone, State.FAILED, NO_SUCH_USER)
    settle(spam, State.FAILED, SPAM)
    return gone, spam


def states(live, *ids):
    return [live("status", id, "--json").json["state"] for id in ids]


def test_retry_by_id(live, failures):
    ran = live("retry", failures[1])
    assert (ran.code, ran.out) == (0, "retried 1 recipient\n")
    assert states(live, *failures) == ["failed", "queued"]


@pytest.mark.parametrize("choice", [("--reason", "spam"), ("--code", "554"), ("--code", "5.7.1")])
def test_retry_by_what_was_said(live, failures, choice):
    told = live("retry", *choice, "--json").json
    assert (told["retried"], told["bodiless"], told["hard_bounces"]) == (1, 0, 0)
    assert states(live, *failures) == ["failed", "queued"]


def test_retry_needs_force_for_a_hard_bounce(live, failures):
    ran = live("retry", failures[0])
    assert ran.code == 1
    assert ran.out == "retried 0 recipients\nleft alone 1 hard bounce; --force retries those, too\n"
    assert live("retry", failures[0], "--force").code == 0
    assert states(live, *failures) == ["queued", "failed"]


def test_a_dry_run_changes_nothing(live, failures):
    ran = live("retry", "--code", "5", "--dry-run")
    assert ran.code == 1  # the hard bounce would be left alone
    assert ran.out.startswith("would retry 1 recipient\n")
    assert states(live, *failures) == ["failed", "failed"]


def test_retry_of_nothing_in_particular_is_wrong_use(live):
    ran = live("retry")
    assert (ran.code, ran.err) == (
        2,
        "mailtasks: Name what to retry: ids, --reason, --code, --domain, --tag or --campaign. "
        "See `mailtasks retry --help`.\n",
    )


@pytest.mark.parametrize(
    ("state", "options", "why"),
    [
        (State.SENT, (), "is sent"),
        (State.FAILED, ("--reason", "quota"), "isn't what the options mean"),
    ],
)
def test_why_nothing_was_retried(live, settle, state, options, why):
    id = sent(live)
    settle(id, state, SPAM)
    ran = live("retry", id, *options)
    assert (ran.code, ran.out) == (0, f"retried 0 recipients\nann@example.com {why}\n")


def test_what_waits_already_is_not_retried(live):
    ran = live("retry", sent(live))
    assert (ran.code, ran.out) == (0, "retried 0 recipients\nann@example.com is queued already\n")


def test_nothing_fits(live):
    ran = live("retry", "--reason", "quota")
    assert (ran.code, ran.out) == (0, "retried 0 recipients\nnothing that failed or expired fits\n")


def test_retry_leaves_alone_what_is_in_doubt(live, settle):
    id = sent(live, "--priority", "bulk")
    settle(id, State.IN_DOUBT)
    ran = live("retry", id)
    assert ran.code == 1
    assert "left alone 1 recipient in doubt; --force sends again, on your word\n" in ran.out
    assert states(live, id) == ["in_doubt"]


def test_force_sends_again_what_is_in_doubt(live, settle):
    id = sent(live, "--priority", "bulk")
    settle(id, State.IN_DOUBT)
    ran = live("retry", id, "--force")
    assert (ran.code, ran.out) == (0, "retried 1 recipient\n")
    assert states(live, id) == ["queued"]


def test_what_was_resent_out_of_doubt_and_then_failed_may_have_arrived(live, settle):
    id = sent(live, "--priority", "urgent")
    settle(id, State.IN_DOUBT, "lost behind the dot")  # urgent mail is resent
    settle(id, State.FAILED, "550 no such user")
    said = "550 no such user (may have arrived before: it was resent out of doubt)"
    for ran in (live("status", id), live("find", "ann@example.com"), live("failed")):
        assert said in ran.out
    assert live("status", id, "--json").json["recipients"][0]["resends"] == 1
    ran = live("retry", id)
    assert (ran.code, ran.out) == (
        1,
        "retried 0 recipients\nleft alone 1 recipient that may have arrived, since resent out of doubt; "
        "--force sends again, on your word\n",
    )
    assert live("retry", id, "--force").code == 0

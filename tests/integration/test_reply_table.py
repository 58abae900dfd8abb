"""The reply table, row by row, against a relay that says what the row is about, with a real delivery.

Three mails are in one window, and the second meets the row: what becomes of it, of the connection and of the
two beside it is what the table says. A row that nobody can play fails `test_every_row_is_played`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from mailtasks import delivery
from mailtasks.local.redis import free_port
from mailtasks.message import Attachment, Message
from mailtasks.policy.backoff import RetryPolicy
from mailtasks.policy.patience import named_wait
from mailtasks.policy.verdict import CONSEQUENCES, ROWS, Case, Connection, Destination, Move, Row
from mailtasks.reply import How, Outcome, Stage
from mailtasks.smtp.grammar import make_reply
from mailtasks.state import State
from mailtasks.testing import CLOSE, HANG, ScriptedRelay
from mailtasks.testing.scripted import DEFAULTS
from tests.bench import Bench

NETS: Final = {
    *ROWS[-2:],
    next(r for r in ROWS if (r.stages, r.hows, r.words) == ((Stage.MAIL,), (How.UNSUITABLE,), ())),
}
"""For what an engine that is sound never reports: there is no dialogue that leads there."""

UNTOUCHED: Final = next(row for row in ROWS if row.hows == (How.UNTOUCHED,))
"""Has a test of its own: no server brings it about by itself."""

APART: Final = [row for row in ROWS if row.stages == (Stage.CONTENT,)]
"""Have a test of their own: where attachments are stored brings them about, before any dialogue."""

WARM: Final = 2
"""Mails that go before, over the same connection: the relay is in use, and known to be sound."""

FIRST_RETRY: Final = 60  # seconds, without jitter

FATES: Final[dict[Move, tuple[State, int]]] = {
    Move.SENT: (State.SENT, 1),
    Move.GIVE_BACK: (State.SENT, 1),  # at once, in the next transaction; what was given back cost nothing
    Move.RETRY: (State.DEFERRED, 1),
    Move.RETRY_FREE: (State.DEFERRED, 0),
    Move.ONCE_MORE: (State.DEFERRED, 1),
    Move.FAIL: (State.FAILED, 1),
    Move.FAIL_AND_SUPPRESS: (State.FAILED, 1),
    Move.FAIL_AND_COUNT: (State.FAILED, 1),
    Move.DOUBT: (State.IN_DOUBT, 1),
}
"""State and counted attempts."""

VERBS: Final = {
    Stage.GREETING: "CONNECT",
    Stage.EHLO: "EHLO",
    Stage.TLS: "STARTTLS",
    Stage.AUTH: "AUTH",
    Stage.MAIL: "MAIL",
    Stage.RCPT: "RCPT",
    Stage.DATA: "DATA",
    Stage.DOT: "DOT",
}
OPENING: Final = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.TLS, Stage.AUTH})
BROKEN: Final = {How.LOST: CLOSE, How.TIMED_OUT: HANG, How.GARBAGE: "what?"}
QUICK: Final = dict.fromkeys(("timeout_greeting", "timeout_command", "timeout_data", "timeout_dot"), 0.3)

UNSUITABLE: Final[dict[tuple[Stage, tuple[str, ...]], dict[str, Any]]] = {
    (Stage.TLS, ()): {"offered": ("PIPELINING",), "detail": "the relay offers no STARTTLS"},
    (Stage.AUTH, ()): {"offered": ("PIPELINING",), "detail": "the relay offers no login"},
    (Stage.MAIL, ("(size)",)): {"offered": ("SIZE 900",), "detail": "larger (SIZE)", "body": "x" * 900},
    (Stage.MAIL, ("smtputf8",)): {"offered": (), "detail": "no SMTPUTF8", "to": "jürgen@example.com"},
    (Stage.MAIL, ("requiretls",)): {
        "offered": ("REQUIRETLS",),  # worth nothing in plain text
        "detail": "no REQUIRETLS",
        "require_tls": True,
    },
}
"""What a server doesn't offer, and the mail that can't do without, by stage and the row's words."""


@dataclass(frozen=True)
class Play:
    """A row at one stage, in one way."""

    row: Row
    stage: Stage
    how: How
    stepwise: bool = False
    chunked: bool = False

    def __str__(self) -> str:
        way = "-stepwise" if self.stepwise else "-chunked" if self.chunked else ""
        return f"{ROWS.index(self.row) + 1}-{self.row.case}-{self.stage}-{self.how}{way}"

    @property
    def opening(self) -> bool:
        return self.stage in OPENING

    @property
    def unsuitable(self) -> dict[str, Any]:
        return UNSUITABLE[self.stage, self.row.words] if self.how is How.UNSUITABLE else {}

    @property
    def outcome(self) -> Outcome | None:
        """What the engine should report; None if no server can bring it to."""
        if not self._playable():
            return None
        example = self.row.example.encode()
        return Outcome(
            self.stage,
            self.how,
            make_reply(int(example[:3]), [example]) if self.how is How.REFUSED else None,
            detail=self.unsuitable.get("detail", ""),
            dot_begun=self.stage is Stage.DOT,
            others_accepted=bool(self.row.others_accepted),
        )

    def _playable(self) -> bool:
        if self.chunked and not self._concerns_one_of_a_flight():
            return False
        match self.how:
            case How.REFUSED:
                return self.stage in VERBS and bool(self.row.example)
            case How.TIMED_OUT if self.stage is Stage.TLS:
                return False  # half a minute, and no setting
            case How.LOST if self.stage is Stage.CONNECT:
                return True
            case How.LOST | How.TIMED_OUT | How.GARBAGE:
                return self.stage in VERBS
            case How.UNSUITABLE:
                return (self.stage, self.row.words) in UNSUITABLE
            case How.ACCEPTED:
                return self.stage is Stage.DOT
        return False  # untouched: see the test of its own

    def _concerns_one_of_a_flight(self) -> bool:
        """In what else may happen to it the whole of it has a share: see tests/unit/smtp/test_chunking.py."""
        refused = self.how is How.REFUSED and self.row.case is not Case.CONFUSED
        return refused and self.stage is not Stage.DATA

    # What the relay says, and offers

    @property
    def replies(self) -> dict[str, Any]:
        if self.how in (How.UNSUITABLE, How.ACCEPTED) or self.stage is Stage.CONNECT:
            return {}
        answer = BROKEN.get(self.how, self.row.example)
        verb = "BDAT" if self.chunked and self.stage is Stage.DOT else VERBS[self.stage]
        if self.opening:
            return {verb: answer} | ({"HELO": answer} if self.stage is Stage.EHLO else {})
        usual = DEFAULTS[verb]
        before = WARM + (2 if self.row.others_accepted else 1)
        return {verb: [*[usual] * before, answer, usual]}

    @property
    def offered(self) -> tuple[str, ...]:
        usual = ("8BITMIME", "STARTTLS", "AUTH PLAIN")
        offered: tuple[str, ...] = self.unsuitable.get("offered", usual)
        chunked = ("CHUNKING",) if self.chunked else ()
        return offered if self.stepwise else (*offered, "PIPELINING", *chunked)

    def url(self, relay: ScriptedRelay) -> str:
        port = free_port() if self.stage is Stage.CONNECT else relay.port
        login = "ann:secret@" if self.stage is Stage.AUTH else ""
        options = "?tls=required" if self.stage is Stage.TLS else "?chunking=yes" if self.chunked else ""
        return f"smtp://{login}127.0.0.1:{port}{options}"

    @property
    def messages(self) -> list[Message]:
        to = ["first@example.com"] if self.row.others_accepted else []
        wanted = self.unsuitable
        second = Message(
            to=[*to, wanted.get("to", "second@example.com")],
            subject="2",
            text=wanted.get("body", "hi"),
            require_tls=wanted.get("require_tls", False),
        )
        return [Message(to="a@example.org", text="hi"), second, Message(to="c@example.org", text="hi")]


def plays(row: Row) -> Iterator[Play]:
    """Each stage and way in which a server can bring about what this row, and none before it, is about."""
    for stage in row.stages or tuple(Stage):
        for how in row.hows:
            for way in ([], ["stepwise"], ["chunked"]) if stage not in OPENING else ([],):
                play = Play(row, stage, how, **dict.fromkeys(way, True))
                if play.outcome and next(each for each in ROWS if each.fits(play.outcome)) is row:
                    yield play


ALL: Final = [play for row in ROWS for play in plays(row)]


def test_every_row_is_played() -> None:
    left_out = {row for row in ROWS if row not in {play.row for play in ALL}}
    assert left_out == {UNTOUCHED, *APART, *NETS}, (
        "a row needs an example, or a way for a server to bring it about"
    )


@pytest.mark.parametrize("play", ALL, ids=str)
def test_row(play: Play, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"doubt_normal": "hold", "window_normal": 8, **(QUICK if play.how is How.TIMED_OUT else {})}
    with ScriptedRelay(play.replies, play.offered) as relay:
        bench = Bench(redis_url, play.url(relay), RetryPolicy(retry_jitter=False), **settings)
        try:
            if not play.opening:
                warm_up(bench)
            seen = outcomes_of(monkeypatch)
            ids = bench.mailer.send_many(play.messages)
            bench.deliver(ids[0])
            check_recipient(play, bench, ids[1], seen)
            check_neighbours(play, bench, ids)
            check_connection(play, relay)
            check_event(play, bench)
        finally:
            bench.close()


def warm_up(bench: Bench) -> None:
    ids = bench.mailer.send_many([Message(to=f"warm{n}@example.com", text="hi") for n in range(WARM)])
    bench.deliver(ids[0])
    assert [bench.state(id) for id in ids] == [State.SENT] * WARM


def outcomes_of(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Every outcome that is decided about from now on."""
    seen: list[Outcome] = []
    original = delivery.decide

    def note(outcome: Outcome, *rest: Any) -> Any:
        seen.append(outcome)
        return original(outcome, *rest)

    monkeypatch.setattr(delivery, "decide", note)
    return seen


def check_recipient(play: Play, bench: Bench, id: str, seen: list[Outcome]) -> None:
    """State, attempts, and what is kept of the reply."""
    expected = play.outcome
    assert expected
    met = [outcome for outcome in seen if (outcome.stage, outcome.how) == (play.stage, play.how)]
    assert any(next(row for row in ROWS if row.fits(outcome)) is play.row for outcome in met), seen
    consequence = CONSEQUENCES[play.row.case]
    recipient = bench.mailer.status(id).recipients[-1]
    assert (recipient.state, recipient.attempts) == FATES[consequence.move]
    if consequence.move in (Move.SENT, Move.GIVE_BACK):
        assert recipient.reply == DEFAULTS["DOT"]
    elif expected.reply:
        assert recipient.reply == play.row.example
    else:
        assert recipient.reply.startswith(f"{play.stage}: ")
    if recipient.state is State.DEFERRED:
        wait = (recipient.next_attempt - recipient.tried_at).total_seconds()
        assert wait >= max(FIRST_RETRY, consequence.wait, named_wait(expected.reply)) - 1


def check_neighbours(play: Play, bench: Bench, ids: list[str]) -> None:
    """Without a connection all wait; else both were sent, over this or another one.

    Garbage in one flight with the answer to the first one's dot makes that answer unsure, too.
    """
    sent = State.SENT, 1
    last = FATES[CONSEQUENCES[play.row.case].move] if play.opening else sent
    unsure = (
        play.how is How.GARBAGE and not play.opening and play.stage is not Stage.DOT and not play.stepwise
    )
    first = (State.IN_DOUBT, 1) if unsure else last
    for id, expected in ((ids[0], first), (ids[2], last)):
        [recipient] = bench.mailer.status(id).recipients
        assert (recipient.state, recipient.attempts) == expected
    for recipient in bench.mailer.status(ids[1]).recipients[:-1]:
        assert (recipient.state, recipient.attempts) == (State.SENT, 1)


def check_connection(play: Play, relay: ScriptedRelay) -> None:
    connection = CONSEQUENCES[play.row.case].connection
    if play.opening:
        assert relay.connections == (play.stage is not Stage.CONNECT), "once, then the relay is left alone"
        assert "MAIL" not in {command[:4] for command in relay.script.commands}
        return
    # By BDAT the third mail was on its way already; only what is behind a 421 isn't taken any more.
    in_time = play.chunked and play.row.case is not Case.SHUTTING_DOWN
    assert relay.connections == (2 if connection is Connection.CLOSE and not in_time else 1)
    if connection is Connection.RESET and play.stage in (Stage.MAIL, Stage.RCPT, Stage.DATA):
        assert "RSET" in relay.script.commands


def check_event(play: Play, bench: Bench) -> None:
    action = CONSEQUENCES[play.row.case].destination
    events = {(event.case, event.action) for _, event in bench.mailer.events.latest()}
    silent = action in (Destination.NONE, Destination.CREDIT)
    assert events == (set() if silent else {(play.row.case.value, action.value)})


@pytest.mark.parametrize("row", APART, ids=lambda row: row.case)
def test_what_attachments_bring_about_before_the_dialogue(
    row: Row, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three mails lacks its attachment: it is gone, or the folder is."""
    folder = tmp_path / "mount"
    folder.mkdir()
    file = Attachment(filename="a.pdf", content=b"x" * 2000)
    settings = {"blobs": f"file://{folder}", "blob_threshold": 1000, "window_normal": 8}
    with ScriptedRelay() as relay:
        bench = Bench(redis_url, relay.url, RetryPolicy(retry_jitter=False), **settings)
        try:
            seen = outcomes_of(monkeypatch)
            files: list[list[Attachment]] = [[], [file], []]
            ids = bench.mailer.send_many(
                [Message(to=f"{n}@example.com", text="hi", attachments=it) for n, it in enumerate(files)]
            )
            lost = row.hows == (How.UNSUITABLE,)
            gone = next(it for it in folder.rglob("*") if it.is_file()) if lost else folder
            gone.rename(tmp_path / "gone")
            bench.deliver(ids[0])
            told = [bench.mailer.status(id).recipients[0] for id in ids]
            assert not list(bench.mailer.events.latest()), "the relay has nothing to do with it"
        finally:
            bench.close()
    [met] = [outcome for outcome in seen if outcome.stage is Stage.CONTENT]
    assert next(each for each in ROWS if each.fits(met)) is row
    consequence = CONSEQUENCES[row.case]
    assert (consequence.destination, consequence.connection) == (Destination.NONE, Connection.NONE)
    fates = [(State.SENT, 1), FATES[consequence.move], (State.SENT, 1)]
    assert [(it.state, it.attempts) for it in told] == fates
    assert told[1].reply.startswith("content: ")
    assert relay.connections == 1


def test_what_was_not_touched_costs_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that no server brings about by itself: the mail behind one that ended the connection."""
    go_on = DEFAULTS["DATA"]
    with ScriptedRelay({"DATA": [*[go_on] * WARM, go_on, CLOSE, go_on]}) as relay:
        bench = Bench(redis_url, relay.url, RetryPolicy(), window_normal=8)
        try:
            warm_up(bench)
            seen = outcomes_of(monkeypatch)
            ids = bench.mailer.send_many([Message(to=f"{n}@example.com", text="hi") for n in range(4)])
            bench.deliver(ids[0])
            told = [bench.mailer.status(id).recipients[0] for id in ids]
        finally:
            bench.close()
    assert [outcome.how for outcome in seen[:4]] == [How.ACCEPTED, How.LOST, How.UNTOUCHED, How.UNTOUCHED]
    assert [(it.state, it.attempts) for it in told] == [
        (State.SENT, 1),
        (State.DEFERRED, 1),
        (State.SENT, 1),
        (State.SENT, 1),
    ]

"""The engine against a strict server, wherever the network cuts the bytes and whatever the server says."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailtasks.errors import AddressError
from mailtasks.reply import How, Stage
from mailtasks.smtp import Envelope
from mailtasks.smtp.engine import Engine, Opening, State
from mailtasks.smtp.grammar import GarbledReply, ReplyReader, canonical, path
from mailtasks.testing.scripted import Script
from tests.lmtp import LmtpScript

WHOLE = [10**6]
CALM = settings(deadline=None)  # other tests run at the same time


def replies_to(*codes):
    return st.lists(st.sampled_from(codes), min_size=1, max_size=6).map(
        lambda said: [f"{code} x" for code in said]
    )


SANE = st.fixed_dictionaries(
    {},
    optional={
        "MAIL": replies_to(250, 250, 250, 450, 550),
        "RCPT": replies_to(250, 250, 250, 251, 450, 452, 550),
        "DATA": replies_to(354, 354, 354, 451, 554),
        "DOT": replies_to(250, 250, 250, 451, 552),
    },
)
VERBS = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT", "RSET"]
NONSENSE = [
    "250 ok",
    "354 go",
    "450 later",
    "550 no",
    "421 bye",
    "500 what",
    "what?",
    "250-a\n251 b",
    "x" * 60,
]
TOO_MUCH = ["250 one\n250 two", "354 go\n250 extra", "250 ok\n354 go", "250 ok\n42"]


def replies_of(said):
    return st.dictionaries(st.sampled_from(VERBS), st.lists(st.sampled_from(said), min_size=1, max_size=4))


BODIES = st.binary(max_size=80) | st.text(alphabet=".\r\n a", max_size=40).map(str.encode)
SIZES_AND_BODIES = st.lists(st.tuples(st.integers(1, 3), BODIES), max_size=5)
ENVELOPES = SIZES_AND_BODIES.map(
    lambda drawn: [
        Envelope("s@example.com", tuple(f"r{n}@example.com" for n in range(size)), b"%d " % number + body)
        for number, (size, body) in enumerate(drawn)
    ]
)
OFFERED = st.sampled_from([("PIPELINING", "8BITMIME"), ("8BITMIME",)])
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


class Run:
    """One dialogue from the greeting on; each flight of replies is cut into pieces of the given lengths."""

    def __init__(self, script, envelopes, cuts, may_begin=lambda index: True):
        lmtp = isinstance(script, LmtpScript)
        self.script, self.engine = script, Engine(Opening("client.test", lmtp=lmtp))
        self.cuts, self.cut = cuts, 0
        self.begun, self.wire = [], b""
        self.hear([script.greet()])
        self.exchange(lambda: self.engine.state is State.OPENING)
        self.opening = self.engine.events()
        self.ready = self.engine.state is State.IDLE
        if self.ready:
            self.deliver(envelopes, may_begin)
        self.outcomes = {event.index: event.outcomes for event in self.engine.events()}

    def deliver(self, envelopes, may_begin):
        self.engine.begin(envelopes)
        while self.engine.state in {State.TALKING, State.BODY}:
            if self.engine.state is State.TALKING:
                self.exchange(lambda: self.engine.state is State.TALKING)
            elif may_begin(self.engine.body_index):
                self.begun.append(self.engine.body_index)
                self.engine.write_body()
            else:
                self.engine.abort()

    def exchange(self, going_on):
        while going_on():
            sent = self.engine.data_to_send()
            self.wire += sent
            replies = self.script.feed(sent)
            if not replies:
                return self.engine.break_off(How.TIMED_OUT, "silence")
            self.hear(replies)
        return None

    def hear(self, replies):
        said = "".join(f"{line}\r\n" for reply in replies for line in reply.split("\n")).encode()
        while said:
            length = self.cuts[self.cut % len(self.cuts)]
            self.cut += 1
            self.engine.receive(said[:length])
            said = said[length:]


@CALM
@given(SANE, ENVELOPES, OFFERED, CUTS)
def test_wherever_the_bytes_are_cut_the_outcomes_are_the_same(replies, envelopes, offered, cuts):
    whole = Run(Script(replies, offered), envelopes, [10**6])
    cut = Run(Script(replies, offered), envelopes, cuts)
    assert cut.outcomes == whole.outcomes
    assert cut.wire == whole.wire
    assert cut.engine.state is whole.engine.state


@CALM
@given(replies_of(NONSENSE), ENVELOPES, OFFERED, CUTS)
def test_so_they_are_for_a_server_that_says_421_or_nonsense(replies, envelopes, offered, cuts):
    whole = Run(Script(replies, offered), envelopes, [10**6])
    cut = Run(Script(replies, offered), envelopes, cuts)
    assert cut.outcomes == whole.outcomes
    assert cut.engine.state is whole.engine.state


@CALM
@given(SANE, ENVELOPES, OFFERED, CUTS)
def test_what_is_reported_accepted_is_what_a_sane_server_took(replies, envelopes, offered, cuts):
    run = Run(Script(replies, offered), envelopes, cuts)
    accepted = [index for index, each in sorted(run.outcomes.items()) if has(How.ACCEPTED, each)]
    assert [canonical(envelopes[index].content) for index in accepted] == list(filter(None, run.script.taken))


@CALM
@given(replies_of(NONSENSE + TOO_MUCH), ENVELOPES, OFFERED, CUTS)
def test_nothing_is_reported_accepted_that_was_not_and_no_dot_is_forgotten(replies, envelopes, offered, cuts):
    run = Run(Script(replies, offered), envelopes, cuts)
    contents = [canonical(envelope.content) for envelope in envelopes]
    for index, outcomes in run.outcomes.items():
        begun = any(outcome.dot_begun for outcome in outcomes)
        assert begun is (index in run.begun) is (contents[index] in run.script.messages)
        assert not has(How.ACCEPTED, outcomes) or contents[index] in run.script.taken


@CALM
@given(replies_of(NONSENSE + TOO_MUCH), ENVELOPES, OFFERED, st.sets(st.integers(0, 4)))
def test_every_recipient_has_one_outcome_and_only_what_may_begin_does(replies, envelopes, offered, forbidden):
    run = Run(Script(replies, offered), envelopes, WHOLE, lambda index: index not in forbidden)
    if run.ready:
        assert {index: len(each) for index, each in run.outcomes.items()} == {
            index: len(envelope.recipients) for index, envelope in enumerate(envelopes)
        }
    assert not forbidden & set(run.begun)


# LMTP: the same, with an answer for each recipient

DELIVERIES = replies_to(250, 250, 250, 451, 552)
NONSENSE_BEHIND_DOT = st.lists(st.sampled_from(NONSENSE), min_size=1, max_size=6)
TWO = Envelope("s@example.com", ("r0@example.com", "r1@example.com"), b"0")
TOO_MUCH_BEHIND_DOT = st.lists(st.sampled_from(NONSENSE + TOO_MUCH), min_size=1, max_size=6)


@CALM
@given(SANE, DELIVERIES | NONSENSE_BEHIND_DOT, ENVELOPES, OFFERED, CUTS)
def test_lmtp_wherever_the_bytes_are_cut(replies, deliveries, envelopes, offered, cuts):
    whole = Run(LmtpScript(replies, offered, deliveries), envelopes, WHOLE)
    cut = Run(LmtpScript(replies, offered, deliveries), envelopes, cuts)
    assert cut.outcomes == whole.outcomes
    assert cut.engine.state is whole.engine.state


@CALM
@given(SANE, DELIVERIES, ENVELOPES, OFFERED, CUTS)
def test_lmtp_reports_for_whom_it_was_delivered(replies, deliveries, envelopes, offered, cuts):
    run = Run(LmtpScript(replies, offered, deliveries), envelopes, cuts)
    reported = [
        (canonical(envelopes[index].content), place)
        for index, outcomes in sorted(run.outcomes.items())
        for place, outcome in enumerate(at_the_dot(outcomes))
        if outcome.how is How.ACCEPTED
    ]
    assert reported == run.script.delivered


def at_the_dot(outcomes):
    return [outcome for outcome in outcomes if outcome.stage is Stage.DOT]


@CALM
@given(replies_of(NONSENSE + TOO_MUCH), TOO_MUCH_BEHIND_DOT, ENVELOPES, OFFERED, st.sets(st.integers(0, 4)))
@example({}, ["250 one\n250 two", "421 bye"], [TWO], ("PIPELINING", "8BITMIME"), set())
def test_lmtp_has_one_outcome_for_every_recipient_and_forgets_no_dot(
    replies, deliveries, envelopes, offered, forbidden
):
    script = LmtpScript(replies, offered, deliveries)
    run = Run(script, envelopes, WHOLE, lambda index: index not in forbidden)
    if run.ready:
        assert {index: len(each) for index, each in run.outcomes.items()} == {
            index: len(envelope.recipients) for index, envelope in enumerate(envelopes)
        }
    for index, outcomes in run.outcomes.items():
        assert any(outcome.dot_begun for outcome in outcomes) is (index in run.begun)
        body = canonical(envelopes[index].content)
        for place, outcome in enumerate(at_the_dot(outcomes)):
            assert outcome.dot_begun
            assert outcome.how is not How.ACCEPTED or (body, place) in script.delivered


class Interrupted(Script):
    """Says something else instead of its reply number `position`, and nothing any more."""

    def __init__(self, position, instead, offered):
        super().__init__(extensions=offered)
        self.left, self.instead = position, instead

    def feed(self, data):
        replies = super().feed(data)
        kept = replies[: max(0, self.left)]
        interrupted = 0 <= self.left < len(replies)
        self.left -= len(replies)
        return [*kept, self.instead] if interrupted else kept


@pytest.mark.parametrize("instead", ["421 bye", "what?", "250-a\n251 b"])
@CALM
@given(position=st.integers(1, 24), offered=OFFERED, cuts=CUTS)
def test_an_end_at_any_reply_is_borne_by_one_message(instead, position, offered, cuts):
    envelopes = [Envelope("s@example.com", ("r@example.com",), b"%d" % number) for number in range(4)]
    run = Run(Interrupted(position, instead, offered), envelopes, cuts)
    outcomes = [run.outcomes[index][0] for index in range(4)]
    hows = "".join(HOWS[outcome.how] for outcome in outcomes)
    assert re.fullmatch("A*R?U*" if instead == "421 bye" else "A*G{0,2}U*", hows)
    assert hows.count("A") <= len(run.script.taken)
    for outcome in outcomes:
        assert outcome.dot_begun is (outcome.stage is Stage.DOT)


HOWS = {How.ACCEPTED: "A", How.REFUSED: "R", How.GARBAGE: "G", How.UNTOUCHED: "U", How.TIMED_OUT: "T"}


@CALM
@given(BODIES | st.binary(max_size=3000))
@example(b"a\r\n.\r\nMAIL FROM:<evil@example.com>\r\n")
@example(b"a\n.\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<b@c>\r\nDATA\r\nx\r\n.\r\n")
@example(b"a\n.\r\nMAIL FROM:<evil@example.com>\r\n")
@example(b"a\r.\rMAIL FROM:<evil@example.com>\r\n")
@example(b"a\r\n.\rMAIL FROM:<evil@example.com>\r\n")
@example(b"a\r\n\0.\r\nMAIL FROM:<evil@example.com>\r\n")
@example(b".")
@example(b".\r\n.\r\n")
def test_no_body_says_anything_but_itself(body):
    run = Run(Script(), [Envelope("a@b.example", ("c@d.example",), body)] * 2, WHOLE)
    assert run.script.messages == [canonical(body)] * 2
    assert [command.split()[0] for command in run.script.commands] == ["EHLO", *["MAIL", "RCPT", "DATA"] * 2]
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", run.wire)


@CALM
@given(st.text(max_size=30) | st.text(alphabet='a@.<>"\\ \r\n\0\tRCPT:', max_size=30))
@example("a@b>\r\nRCPT TO:<c@d")
@example('"a\r\n"@b')
@example("a@b> SIZE=1")
def test_no_address_breaks_out_of_its_place(address):
    try:
        written = path(address).decode()
    except AddressError:
        return
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", written)
    assert not re.search(r"[\x00-\x1f\x7f]", written)
    assert not re.search(r'[<> "]', unquoted)


@CALM
@given(
    st.lists(
        st.binary(max_size=20) | st.sampled_from([b"250 ok\r\n", b"250-a\r\n", b"354 go\n"]), max_size=20
    )
)
def test_whatever_is_read_the_reader_keeps_little_and_raises_nothing_else(pieces):
    reader = ReplyReader()
    try:
        for piece in pieces:
            for code, lines in reader.feed(piece):
                assert 200 <= code <= 599
                assert lines
    except GarbledReply:
        pass  # as it says


def has(how, outcomes):
    return any(outcome.how is how for outcome in outcomes)

"""Flights by BDAT: wherever the network cuts the bytes, whatever the relay says, and wherever it ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mailtasks.reply import How
from mailtasks.smtp import Envelope
from mailtasks.smtp.chunking import Chunking
from mailtasks.smtp.engine import State
from mailtasks.smtp.grammar import canonical
from mailtasks.smtp.transaction import Extensions
from mailtasks.testing.scripted import Script

CALM = settings(deadline=None)  # other tests run at the same time
OFFERED = ("PIPELINING", "8BITMIME", "CHUNKING")
EXTENSIONS = Extensions.parse([b"250-relay.test", *(b"250-" + each.encode() for each in OFFERED)])
WHOLE = [10**6]


def replies_to(*said):
    return st.lists(st.sampled_from(said), min_size=1, max_size=6)


def replies_of(*said):
    return st.dictionaries(st.sampled_from(["RSET", "MAIL", "RCPT", "BDAT"]), replies_to(*said))


SANE = st.fixed_dictionaries(
    {},
    optional={
        "MAIL": replies_to("250 x", "250 x", "450 x", "550 x"),
        "RCPT": replies_to("250 x", "250 x", "251 x", "452 x", "550 x"),
        "BDAT": replies_to("250 x", "250 x", "451 x", "554 x"),
    },
)
NONSENSE = ["250 ok", "250 2.0.0 ok", "354 go", "450 later", "550 no", "503 what", "what?", "250-a\n251 b"]
TOO_MUCH = ["250 one\n250 two", "550 no\n250 extra", "250 ok\n354 go", "250 ok\n42"]
BODIES = st.binary(max_size=80) | st.text(alphabet=".\r\n aQUIT", max_size=40).map(str.encode)
ENVELOPES = st.lists(st.tuples(st.integers(1, 3), BODIES), max_size=5).map(
    lambda drawn: [
        Envelope("s@example.com", tuple(f"r{n}@example.com" for n in range(size)), b"%d " % number + body)
        for number, (size, body) in enumerate(drawn)
    ]
)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


class Book(Script):
    """Writes down which body it took for whom: the recipients that it accepted, in the same transaction."""

    def __init__(self, *args):
        super().__init__(*args)
        self.recipients, self.given = [], set()

    def _answer(self, line):
        said = super()._answer(line)
        if line.startswith(b"RCPT") and said.startswith("2"):
            self.recipients.append(line[9:-1].decode())
        elif line.startswith(b"BDAT") and said.startswith("2"):
            self.given |= {(self.messages[-1], each) for each in self.recipients}
        if not line.startswith((b"MAIL", b"RCPT")):
            self.recipients = []
        return said


class Sane(Book):
    """Takes no body for nobody, whatever it was told to say."""

    def _choose(self, verb, line):
        missing = {"RCPT": "MAIL", "BDAT": "RCPT"}.get(verb)
        said = super()._choose(verb, line)
        return said if not missing or self._accepted[missing] else "503 5.5.1 nobody"


class Run:
    """One dialogue; the replies are cut into pieces of the given lengths."""

    def __init__(self, script, envelopes, cuts, may_begin=lambda index: True):
        self.script, self.cuts, self.cut = script, cuts, 0
        self.chunking = Chunking(EXTENSIONS, enumerate(envelopes))
        self.begun, self.wire = [], b""
        while self.chunking.state in {State.TALKING, State.BODY}:
            if self.chunking.state is State.TALKING:
                self.exchange()
            elif may_begin(self.chunking.body_index):
                self.begun.append(self.chunking.body_index)
                self.chunking.write_body()
            else:
                self.chunking.abort()
        self.outcomes = {event.index: event.outcomes for event in self.chunking.events()}

    def exchange(self):
        sent = self.chunking.data_to_send()
        self.wire += sent
        said = wire(self.script.feed(sent))
        if not said:
            self.chunking.break_off(How.TIMED_OUT, "silence")
        while said:
            length = self.cuts[self.cut % len(self.cuts)]
            self.cut += 1
            self.chunking.receive(said[:length])
            said = said[length:]


def wire(replies):
    return "".join(f"{line}\r\n" for reply in replies for line in reply.split("\n")).encode()


def has(how, outcomes):
    return any(outcome.how is how for outcome in outcomes)


def in_doubt(outcomes):
    return any(each.dot_begun and each.how not in {How.ACCEPTED, How.REFUSED} for each in outcomes)


@CALM
@given(SANE | replies_of("421 bye", *NONSENSE), ENVELOPES, CUTS)
def test_wherever_the_bytes_are_cut_the_outcomes_are_the_same(replies, envelopes, cuts):
    whole = Run(Script(replies, OFFERED), envelopes, WHOLE)
    cut = Run(Script(replies, OFFERED), envelopes, cuts)
    assert cut.outcomes == whole.outcomes
    assert cut.wire == whole.wire
    assert cut.chunking.state is whole.chunking.state


@CALM
@given(SANE, ENVELOPES, CUTS)
def test_what_is_reported_accepted_is_what_a_sane_server_took(replies, envelopes, cuts):
    run = Run(Sane(replies, OFFERED), envelopes, cuts)
    accepted = [index for index, each in sorted(run.outcomes.items()) if has(How.ACCEPTED, each)]
    assert [canonical(envelopes[index].content) for index in accepted] == run.script.taken
    assert not any(map(in_doubt, run.outcomes.values()))


@CALM
@given(
    replies_of(*NONSENSE, *TOO_MUCH) | replies_of("421 bye", "250 ok", "250 ok", "450 later", "550 no"),
    ENVELOPES,
    CUTS,
)
def test_nothing_is_reported_accepted_that_was_not_and_nothing_taken_is_forgotten(replies, envelopes, cuts):
    run = Run(Book(replies, OFFERED), envelopes, cuts)
    check(run.script, envelopes, run.outcomes)


@CALM
@given(SANE, ENVELOPES, st.integers(0, 3000), st.integers(0, 30))
def test_wherever_the_connection_ends_doubt_is_where_it_should_be(replies, envelopes, sent, heard):
    script = Sane(replies, OFFERED)
    chunking = Chunking(EXTENSIONS, enumerate(envelopes))
    while chunking.state is State.BODY:
        chunking.write_body()
    flight = chunking.data_to_send()
    sent = min(sent, len(flight))
    said = script.feed(flight[:sent])
    chunking.cut_off(len(flight) - sent)
    chunking.receive(wire(said[:heard]))
    chunking.break_off(How.LOST, "reset")
    outcomes = {event.index: event.outcomes for event in chunking.events()}
    assert outcomes.keys() == set(range(len(envelopes)))
    check(script, envelopes, outcomes)
    came = [canonical(envelopes[index].content) for index, each in outcomes.items() if in_doubt(each)]
    assert set(came) <= set(script.messages), "what can't have come as a whole is in no doubt"


@CALM
@given(ENVELOPES.filter(len), st.data())
def test_an_answer_that_is_missing_makes_no_verdict_of_another_message(envelopes, data):
    """Only if it is the very first, the relay's answer to RSET isn't known."""
    script = Sane(
        {"RCPT": ["250 2.1.5 x", "550 5.1.1 x", "250 2.1.5 x", "250 2.1.5 x", "452 4.5.3 x"]}, OFFERED
    )
    chunking = Chunking(EXTENSIONS, enumerate(envelopes))
    while chunking.state is State.BODY:
        chunking.write_body()
    said = script.feed(chunking.data_to_send())
    del said[data.draw(st.integers(1, len(said) - 1), "missing")]
    chunking.receive(wire(said))
    chunking.break_off(How.TIMED_OUT, "silence")
    outcomes = {event.index: event.outcomes for event in chunking.events()}
    check(script, envelopes, outcomes, forgotten=True)


def check(script, envelopes, outcomes, forgotten=False):
    """Sent is what was taken, and what was taken is sent or in doubt (or, if that may be, forgotten)."""
    for index, envelope in enumerate(envelopes):
        for recipient, outcome in zip(envelope.recipients, outcomes[index], strict=True):
            given = (canonical(envelope.content), recipient) in script.given
            assert given or outcome.how is not How.ACCEPTED
            assert not given or outcome.how is How.ACCEPTED or in_doubt([outcome]) or forgotten


@CALM
@given(replies_of("421 bye", *NONSENSE, *TOO_MUCH), ENVELOPES, st.sets(st.integers(0, 4)))
def test_every_recipient_has_one_outcome_and_only_what_may_begin_does(replies, envelopes, forbidden):
    run = Run(Script(replies, OFFERED), envelopes, WHOLE, lambda index: index not in forbidden)
    assert {index: len(each) for index, each in run.outcomes.items()} == {
        index: len(envelope.recipients) for index, envelope in enumerate(envelopes)
    }
    assert not forbidden & set(run.begun)
    assert run.wire.count(b" LAST\r\n") == len(run.begun)


@CALM
@given(BODIES | st.binary(max_size=3000))
def test_no_body_says_anything_but_itself(body):
    run = Run(Script(extensions=OFFERED), [Envelope("a@b.example", ("c@d.example",), body)] * 2, WHOLE)
    assert run.script.messages == [canonical(body)] * 2
    assert [command.split()[0] for command in run.script.commands] == ["RSET", "MAIL", "RCPT", "BDAT"] * 2

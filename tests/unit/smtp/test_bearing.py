"""Servers that offer PIPELINING and don't bear it: noticed, remembered, and no mail pays for it."""

import pytest

from mailtasks.relay import Relay
from mailtasks.reply import How, Outcome, Reply, Stage
from mailtasks.smtp import Envelope, Session, Timeouts
from mailtasks.smtp.bearing import FIRST_TERM, LATELY, LONGEST_TERM, Bearing, Finding, Manner, trouble
from mailtasks.smtp.engine import Finished
from mailtasks.smtp.transaction import Written
from mailtasks.testing.scripted import CLOSE, Script, ScriptedRelay

FREELY, STEPWISE, PROBE = Manner.FREELY, Manner.STEPWISE, Manner.PROBE
SENT = Outcome(Stage.DOT, How.ACCEPTED, Reply(250, "ok"), dot_begun=True)
SILENT = Outcome(Stage.RCPT, How.TIMED_OUT, detail="no answer")
LOST = Outcome(Stage.MAIL, How.LOST, detail="reset")
NO_USER = Outcome(Stage.RCPT, How.REFUSED, Reply(550, "no such user", "5.1.1"))
DOUBT = Outcome(Stage.DOT, How.TIMED_OUT, dot_begun=True)


def refused(stage, code, text="no"):
    return Outcome(stage, How.REFUSED, Reply(code, text))


def flight(*outcomes, written=Written.IN_FLIGHT):
    return Finished(0, outcomes, written)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def bearing(clock):
    return Bearing(clock)


def hold(bearing, *outcomes, messages=2, written=Written.IN_FLIGHT):
    """One dialogue that comes to these outcomes; how it was held and what is told of it."""
    manner = bearing.begin(messages)
    written = Written.STEPWISE if manner is STEPWISE else written
    [told] = bearing.judge([Finished(0, outcomes, written)], manner)
    return manner, told.outcomes


# What is trouble


@pytest.mark.parametrize(
    "outcomes",
    [
        (SILENT,),
        (LOST,),
        (Outcome(Stage.DATA, How.GARBAGE, detail="354 too early"),),
        (refused(Stage.MAIL, 503),),
        (refused(Stage.RCPT, 500),),
        (refused(Stage.DATA, 502),),
        (refused(Stage.MAIL, 554, "SMTP protocol synchronization error"),),
        (refused(Stage.RCPT, 421, "Improper command PIPELINING"),),
        (NO_USER, SILENT),
    ],
)
def test_confusion_or_silence_before_any_dot_is_trouble(outcomes):
    assert trouble(flight(*outcomes)) == str(outcomes[-1])


@pytest.mark.parametrize(
    "outcomes",
    [
        (SENT,),
        (DOUBT,),
        (NO_USER,),
        (NO_USER, SENT),
        (refused(Stage.RCPT, 501),),  # about the address, as 504 is
        (refused(Stage.MAIL, 421),),
        (refused(Stage.DATA, 451),),
        (refused(Stage.DOT, 503),),
        (Outcome(Stage.DOT, How.LOST),),  # in the middle of a body
        (Outcome(Stage.DATA, How.UNTOUCHED),),
        (Outcome(Stage.MAIL, How.UNSUITABLE, detail="larger than SIZE"),),
    ],
)
def test_all_else_is_none(outcomes):
    assert trouble(flight(*outcomes)) == ""


# What follows from it


def test_trouble_twice_and_none_step_by_step_is_the_proof(bearing, clock):
    assert hold(bearing, SILENT) == (FREELY, (untouched(SILENT),))
    assert bearing.doubted
    assert hold(bearing, SENT) == (STEPWISE, (SENT,))
    assert bearing.news() == []
    assert hold(bearing, LOST) == (PROBE, (untouched(LOST),))
    assert bearing.news() == [Finding("mail: reset", FIRST_TERM)]
    assert bearing.news() == []
    assert hold(bearing, SENT) == (STEPWISE, (SENT,))
    clock.now += FIRST_TERM - 1
    assert bearing.begin(2) is STEPWISE


def untouched(outcome):
    detail = f"the relay may not bear the PIPELINING that it offers ({outcome})"
    return Outcome(Stage.MAIL, How.UNTOUCHED, detail=detail)


def test_it_is_tried_again_after_a_term_which_grows(bearing, clock):
    for outcome in (SILENT, SENT, SILENT):
        hold(bearing, outcome)
    terms = []
    for _ in range(7):
        [finding] = bearing.news()
        terms.append(finding.seconds)
        clock.now += finding.seconds
        assert hold(bearing, SILENT)[0] is PROBE
    assert terms == [FIRST_TERM * factor for factor in (1, 2, 4, 8, 16)] + [LONGEST_TERM] * 2


def test_a_relay_that_was_mended_is_trusted_again(bearing, clock):
    for outcome in (SILENT, SENT, SILENT):
        hold(bearing, outcome)
    clock.now += FIRST_TERM
    assert hold(bearing, SENT) == (PROBE, (SENT,))
    assert not bearing.doubted
    assert bearing.begin(2) is FREELY


def test_a_relay_that_died_once_is_not_condemned(bearing):
    hold(bearing, LOST)
    hold(bearing, SENT)
    assert hold(bearing, SENT) == (PROBE, (SENT,))
    assert not bearing.doubted
    assert bearing.news() == []


def test_a_relay_that_is_unwell_step_by_step_too_pays_for_itself(bearing, clock):
    hold(bearing, SILENT)
    assert hold(bearing, SILENT) == (STEPWISE, (SILENT,))
    assert not bearing.doubted
    assert hold(bearing, SILENT) == (FREELY, (SILENT,))
    clock.now += LATELY
    assert hold(bearing, SILENT) == (FREELY, (untouched(SILENT),))


def test_where_flights_went_well_lately_trouble_is_not_their_fault(bearing, clock):
    hold(bearing, SENT)
    assert hold(bearing, SILENT) == (FREELY, (SILENT,))
    assert not bearing.doubted
    clock.now += LATELY
    assert hold(bearing, SILENT) == (FREELY, (untouched(SILENT),))


def test_flights_behind_a_dot_are_a_kind_of_their_own(bearing):
    hold(bearing, SENT)
    assert hold(bearing, SILENT, written=Written.BEHIND_DOT) == (FREELY, (untouched(SILENT),))
    assert bearing.begin(2) is STEPWISE
    assert bearing.begin(1) is FREELY  # nothing is behind the dot of a lone message


def test_a_lone_message_that_fails_in_flight_though_is_not_tried_so_for_ever(bearing):
    for outcome in (SILENT, SENT, SILENT):
        hold(bearing, outcome, written=Written.BEHIND_DOT)
    assert hold(bearing, SILENT, messages=1) == (FREELY, (untouched(SILENT),))
    assert bearing.begin(1) is STEPWISE


def test_one_dialogue_at_a_time_tries_a_flight_again(bearing):
    hold(bearing, SILENT)
    hold(bearing, SENT)
    assert [bearing.begin(2), bearing.begin(2)] == [PROBE, STEPWISE]
    bearing.judge([], PROBE)  # it came to nothing
    assert bearing.begin(2) is PROBE


def test_what_a_flight_on_another_connection_comes_to_counts(bearing):
    manner = bearing.begin(2)
    hold(bearing, SILENT)
    bearing.judge([flight(SENT)], manner)
    assert not bearing.doubted


def test_a_refusal_step_by_step_proves_nothing(bearing):
    hold(bearing, SILENT)
    hold(bearing, NO_USER)
    assert bearing.begin(2) is STEPWISE


def test_only_what_was_spoilt_is_untouched(bearing):
    sent = Finished(0, (SENT,), Written.IN_FLIGHT)
    spoilt = Finished(1, (NO_USER, SILENT), Written.BEHIND_DOT)
    told = bearing.judge([sent, spoilt], bearing.begin(2))
    assert told[0] is sent
    assert told[1].outcomes == (untouched(SILENT),) * 2


def test_what_was_said_step_by_step_is_not_the_fault_of_flights(bearing):
    behind_a_reset = Finished(0, (SILENT,), Written.STEPWISE)
    assert bearing.judge([behind_a_reset], bearing.begin(2)) == [behind_a_reset]
    assert not bearing.doubted


# With bodies in the flight


def bodies(*outcomes):
    return [Finished(number, (outcome,), Written.WITH_BODY) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize("how", [How.GARBAGE, How.TIMED_OUT])
def test_a_flight_of_bodies_that_leaves_doubt_is_the_last_one_and_told_of_once(bearing, how):
    doubt = Outcome(Stage.DOT, how, detail="what?", dot_begun=True)
    for _ in range(2):
        bearing.judge_bodies([*bodies(SENT), Finished(1, (NO_USER, doubt), Written.WITH_BODY)])
    assert not bearing.bears_bodies
    assert bearing.news() == [Finding("dot: what?", None)]
    assert (bearing.doubted, bearing.begin(2)) == (False, FREELY), "flights by DATA go on"


@pytest.mark.parametrize(
    "finished",
    [
        bodies(SENT, NO_USER, refused(Stage.DOT, 554)),
        bodies(Outcome(Stage.DOT, How.LOST, detail="reset", dot_begun=True)),
        bodies(LOST),
        [flight(DOUBT)],
    ],
)
def test_no_other_flight_is(bearing, finished):
    assert bearing.judge(bearing.judge_bodies(finished), FREELY) == finished
    assert (bearing.bears_bodies, bearing.news()) == (True, [])


@pytest.mark.parametrize(
    "confused",
    [
        refused(Stage.DATA, 502),
        refused(Stage.MAIL, 503),
        refused(Stage.RCPT, 421, "improper pipelining"),
        Outcome(Stage.MAIL, How.GARBAGE, detail="what?"),
    ],
)
def test_confusion_before_any_body_was_taken_costs_no_mail_and_ends_it_as_well(bearing, confused):
    sent, told = bearing.judge_bodies(bodies(SENT, confused))
    assert (sent.outcomes, told.outcomes) == ((SENT,), (untouched(confused),))
    assert not bearing.bears_bodies
    assert (bearing.judge([sent, told], FREELY), bearing.begin(2)) == ([sent, told], FREELY)


def test_where_pipelining_is_doubted_no_bodies_are_written_blind(bearing):
    hold(bearing, SILENT)
    assert not bearing.bears_bodies


# Against servers


class Overtaxed(Script):
    """Takes one command at a time; `way` is what it makes of more than one at once."""

    def __init__(self, way, *, only_behind_a_dot=False):
        super().__init__()
        self.way, self.only_behind_a_dot = way, only_behind_a_dot

    def feed(self, data):
        body, end, behind = data.partition(b"\r\n.\r\n")
        if end:
            taken = super().feed(body + end)
            return taken + (self.bear(behind, 0) if behind else [])
        if data.count(b"\r\n") > 1 and not self.only_behind_a_dot:
            return self.bear(data, 1)
        return super().feed(data)

    def bear(self, data, understood):
        if self.way in INSTEAD:
            return INSTEAD[self.way]
        first = data.splitlines(keepends=True)[:understood]
        taken = [reply for line in first for reply in super(Overtaxed, self).feed(line)]
        return [*taken, *BEHIND.get(self.way, [self.way] * 2)]


INSTEAD = {"knows only the last": ["503 5.5.1 MAIL comes first"], "says nothing": []}
BEHIND = {"loses the rest": [], "closes": [CLOSE]}
WAYS = ["what? one at a time!", "503 5.5.1 one at a time", *INSTEAD, *BEHIND]
QUICK = Timeouts(**dict.fromkeys(Timeouts.__dataclass_fields__, 0.15) | {"connect": 5, "block": 5})


class Way:
    """Deliveries to such a relay, each of two messages, over connections that share what is known."""

    def __init__(self, relay):
        self.bearing = Bearing()
        self.relay = Relay.parse(f"smtp://127.0.0.1:{relay.port}")
        self.session = None

    def deliver(self):
        if not (self.session and self.session.usable):
            self.session = Session.connect(self.relay, timeouts=QUICK, bearing=self.bearing)
        envelopes = [Envelope("s@example.com", ("r@example.com",), b"%d" % number) for number in range(2)]
        return [outcome.how for [outcome] in self.session.deliver(envelopes)]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_does_not_bear_a_flight_is_spoken_to_step_by_step(way):
    with ScriptedRelay() as relay:
        relay.script = Overtaxed(way)
        mails = Way(relay)
        assert mails.deliver() == [How.UNTOUCHED] * 2
        assert mails.deliver() == [How.ACCEPTED] * 2
        assert mails.deliver() == [How.UNTOUCHED] * 2
        assert len(mails.bearing.news()) == 1
        assert mails.deliver() == mails.deliver() == [How.ACCEPTED] * 2
        assert relay.connections == 3
        mails.session.close()
    assert len(relay.script.taken) == 6


@pytest.mark.parametrize("way", WAYS)
def test_nor_behind_a_dot(way):
    with ScriptedRelay() as relay:
        relay.script = Overtaxed(way, only_behind_a_dot=True)
        mails = Way(relay)
        first = mails.deliver()
        assert mails.deliver() == [How.ACCEPTED] * 2
        mails.deliver()
        assert len(mails.bearing.news()) == 1
        assert mails.deliver() == [How.ACCEPTED] * 2
        mails.session.close()
    # What was said behind nonsense isn't believed, so that the dot before it is in doubt.
    assert first == [How.GARBAGE if way.startswith("what?") else How.ACCEPTED, How.UNTOUCHED]

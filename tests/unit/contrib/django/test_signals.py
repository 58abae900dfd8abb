"""Signals of attempts; that of a hand-over is in `test_handover`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
from django.core.mail import EmailMessage
from django.db import connections

from mailtasks.contrib.django import signals
from mailtasks.event import Attempt, attempt_listeners
from mailtasks.state import State

SIGNALS = {
    "sent": State.SENT,
    "failed": State.FAILED,
    "deferred": State.DEFERRED,
    "expired": State.EXPIRED,
    "suppressed": State.SUPPRESSED,
    "in_doubt": State.IN_DOUBT,
}


def attempt(state):
    return Attempt("0abc.0", "ann@example.com", state, "the reply", 2, ("a",), {"order": "7"})


@pytest.fixture
def heard():
    heard, receivers = [], {}
    for name in SIGNALS:
        receivers[name] = lambda name=name, **told: heard.append((name, told))
        getattr(signals, f"message_{name}").connect(receivers[name])
    yield heard
    for name, receiver in receivers.items():
        getattr(signals, f"message_{name}").disconnect(receiver)


def test_the_app_listens_once():
    from django.apps import apps

    apps.get_app_config("mailtasks").ready()
    assert attempt_listeners.count(signals.pass_on) == 1


@pytest.mark.parametrize("name", SIGNALS)
def test_each_state_has_its_signal(name, heard):
    signals.pass_on([attempt(SIGNALS[name])])
    [(signal, told)] = heard
    assert signal == name
    told.pop("signal")
    assert told == {
        "sender": Attempt,
        "id": "0abc.0",
        "recipient": "ann@example.com",
        "reply": "the reply",
        "attempt": 2,
        "tags": ("a",),
        "metadata": {"order": "7"},
    }


def test_who_is_suppressed_is_told_in_the_process_that_sends(heard, queue):
    queue.suppressions.add("ann@example.com", reason="asked")
    message = EmailMessage("Hello", "Hi", to=["ann@example.com", "bob@example.com"])
    message.tags = ["a"]
    message.send()
    [(signal, told)] = heard
    assert (signal, told["recipient"], told["reply"]) == ("suppressed", "ann@example.com", "asked")
    assert (told["id"], told["attempt"], told["tags"]) == (*message.mailtasks_ids, 0, ("a",))


@pytest.mark.parametrize("broken", [True, False])
def test_a_connection_that_a_receiver_found_broken_is_let_go(broken):
    def let_go():
        connection = connections["default"]
        connection.ensure_connection()
        connection.errors_occurred = broken
        with patch.object(connection, "close_if_unusable_or_obsolete") as close:
            signals.pass_on([attempt(State.SENT)])
        connection.close()
        return close.called

    with ThreadPoolExecutor(1) as thread:  # its connection is its own
        assert thread.submit(let_go).result() is broken


def test_a_receiver_that_fails_harms_no_other(heard):
    def fail(**_):
        raise RuntimeError

    signals.message_sent.connect(fail)
    try:
        signals.pass_on([attempt(State.SENT), attempt(State.SENT)])
    finally:
        signals.message_sent.disconnect(fail)
    assert len(heard) == 2

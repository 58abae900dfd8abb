"""How the state machines are played."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def play(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """So many examples of so many steps, or half of them in `make test`; a Redis may take its time."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * settings().max_examples // 100,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""What tests of mail need: a real Redis and a real SMTP server of their own, and no waiting in the dark.

For the tests of a user's project as much as for ours::

    from mailtasks.testing import CatchingServer, LocalRedis

    with LocalRedis() as redis, CatchingServer() as relay:
        ...                                  # redis.url, relay.url
        [caught] = relay.wait_for(1)
        assert b"Your code" in caught.content

With pytest there is a plugin that has both, and more, as fixtures: see `mailtasks.testing.plugin`.

Which recipients the server defers, refuses, answers late or drops: see `mailtasks.local.faults`. A relay that
says word by word what a test has written down is `ScriptedRelay`: see `mailtasks.testing.scripted`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mailtasks.local.book import Caught, Entry
from mailtasks.local.faults import Behaviour, Ending, Faults
from mailtasks.local.redis import LocalRedis
from mailtasks.local.sink import CatchingProcess, CatchingServer
from mailtasks.reply import Stage
from mailtasks.testing.scripted import CLOSE, HANG, Pause, Say, Script, ScriptedRelay, ScriptNotFollowed
from mailtasks.testing.servers import descendants, empty, program, wait_until

if TYPE_CHECKING:
    from mailtasks.testing.outbox import OutgoingMail, recorded
    from mailtasks.testing.worker import Worker, running_worker

__all__ = [
    "CLOSE",
    "HANG",
    "Behaviour",
    "CatchingProcess",
    "CatchingServer",
    "Caught",
    "Ending",
    "Entry",
    "Faults",
    "LocalRedis",
    "OutgoingMail",
    "Pause",
    "Say",
    "Script",
    "ScriptNotFollowed",
    "ScriptedRelay",
    "Stage",
    "Worker",
    "descendants",
    "empty",
    "program",
    "recorded",
    "running_worker",
    "wait_until",
]

_LAZY = {
    "OutgoingMail": "mailtasks.testing.outbox",
    "Worker": "mailtasks.testing.worker",
    "recorded": "mailtasks.testing.outbox",
    "running_worker": "mailtasks.testing.worker",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

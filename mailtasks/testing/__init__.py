"""What tests of mail need: a real Redis and a real SMTP server of their own, and no waiting in the dark.

For the tests of a user's project as much as for ours::

    from mailtasks.testing import CatchingServer, LocalRedis

    with LocalRedis() as redis, CatchingServer() as relay:
        ...                                  # redis.url, relay.url
        [caught] = relay.wait_for(1)
        assert b"Your code" in caught.content

Which recipients the server defers, refuses, answers late or drops: see `mailtasks.local.faults`. A relay that
says word by word what a test has written down is `ScriptedRelay`: see `mailtasks.testing.scripted`.
"""

from mailtasks.local.book import Caught, Entry
from mailtasks.local.faults import Behaviour, Ending, Faults
from mailtasks.local.redis import LocalRedis
from mailtasks.local.sink import CatchingProcess, CatchingServer
from mailtasks.testing.scripted import CLOSE, HANG, Pause, Say, Script, ScriptedRelay, ScriptNotFollowed
from mailtasks.testing.servers import descendants, empty, program, wait_until

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
    "Pause",
    "Say",
    "Script",
    "ScriptNotFollowed",
    "ScriptedRelay",
    "descendants",
    "empty",
    "program",
    "wait_until",
]

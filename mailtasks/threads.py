"""Calls that block, for asyncio: in threads of our own.

The threads that `asyncio.to_thread` takes are few (four more than there are processors, 32 at most), and a
program's look-ups of names want them, too. A Redis that hangs would have them all. These are ours alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, TypeVar

T = TypeVar("T")

MOST: Final = 32
"""Threads of a process; what is beyond them waits for one."""

_executor: ThreadPoolExecutor | None = None


async def in_thread(call: Callable[[], T]) -> T:
    """Call it in a thread, with this task's context.

    If the await is cancelled while the call waits for a thread, it is never made; later, it goes on.
    """
    global _executor
    _executor = _executor or ThreadPoolExecutor(MOST, thread_name_prefix="mailtasks")
    return await asyncio.get_running_loop().run_in_executor(_executor, copy_context().run, call)


def _forget() -> None:
    global _executor
    _executor = None


os.register_at_fork(after_in_child=_forget)  # a child has none of its parent's threads

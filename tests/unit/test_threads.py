from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from mailtasks.threads import MOST, in_thread

request: ContextVar[str] = ContextVar("request")


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What calls wait for; no thread waits on when the test is over."""
    held = threading.Event()
    yield held
    held.set()


async def hanging(held: threading.Event, calls: int) -> list[asyncio.Task[bool]]:
    """So many calls that hang; those that have a thread are in it."""
    inside = threading.Semaphore(0)

    def call() -> bool:
        inside.release()
        return held.wait()

    tasks = [asyncio.create_task(in_thread(call)) for _ in range(calls)]
    for _ in range(min(calls, MOST)):
        await asyncio.to_thread(inside.acquire)
    return tasks


def test_it_returns_and_raises_what_the_call_does() -> None:
    assert asyncio.run(in_thread(threading.current_thread)) is not threading.main_thread()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 // 0))


def test_calls_that_hang_take_no_thread_of_the_programs(held: threading.Event) -> None:
    async def main() -> None:
        tasks = await hanging(held, MOST + 8)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30) == "free"
        assert not any(task.done() for task in tasks)
        held.set()
        assert all(await asyncio.gather(*tasks))

    asyncio.run(main())


def test_what_is_cancelled_while_it_waits_for_a_thread_is_never_called(held: threading.Event) -> None:
    called: list[int] = []

    async def main() -> None:
        tasks = await hanging(held, MOST)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(lambda: called.append(1)), 0.01)
        held.set()
        await asyncio.gather(*tasks)
        await in_thread(lambda: called.append(2))

    asyncio.run(main())
    assert called == [2]


def test_the_call_sees_the_tasks_context() -> None:
    async def main() -> str:
        request.set("the task's")
        return await in_thread(request.get)

    assert asyncio.run(main()) == "the task's"


FORKED = """
import asyncio, os
from mailtasks.threads import in_thread

asyncio.run(in_thread(int))
child = os.fork()
asyncio.run(in_thread(int))
if child:
    _, status = os.waitpid(child, 0)
    raise SystemExit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], timeout=60, check=False)
    assert ran.returncode == 0

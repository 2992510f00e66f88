"""Tasks of the service: a caller who goes away ends nothing, and nothing is left when they are closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from datetime import timedelta

import pytest

from reset_flow.deadlines import Deadlines
from reset_flow.domain.errors import OutcomeInDoubt, StaleRecord, StoreUnavailable
from reset_flow.engine.background_tasks import BackgroundTasks, attempt
from reset_flow.testing import refused

AT_ONCE = timedelta(0)
SOON = timedelta(seconds=30)


def others() -> set[asyncio.Task[object]]:
    """All tasks but the test's own."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def test_the_result_of_the_work_is_returned_or_raised() -> None:
    tasks = BackgroundTasks()

    async def fails() -> None:
        raise StaleRecord("a", 1)

    assert await tasks.run(asyncio.sleep(0, "done")) == "done"
    await refused(tasks.run(fails()), StaleRecord)
    await tasks.wait_idle()
    assert others() == set()


async def test_a_caller_who_goes_away_does_not_end_the_work() -> None:
    tasks, begun, go, done = BackgroundTasks(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        done.set()

    caller = asyncio.create_task(tasks.run(work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await tasks.aclose(SOON)
    assert done.is_set()


async def test_an_error_that_nobody_waits_for_is_logged_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    tasks = BackgroundTasks()

    async def breaks() -> None:
        raise KeyError("Peterson")

    with caplog.at_level(logging.DEBUG, logger="reset_flow"):
        tasks.spawn(breaks())
        await tasks.aclose(SOON)
    messages = [record.getMessage() for record in caplog.records if record.name == "reset_flow"]
    assert messages == ["a command broke off: KeyError"]


async def test_a_caller_who_is_closed_out_is_told_that_nobody_knows() -> None:
    tasks, begun = BackgroundTasks(), asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(tasks.run(hangs()))
    await begun.wait()
    await tasks.aclose(AT_ONCE)
    await refused(caller, OutcomeInDoubt)
    await refused(tasks.run(asyncio.sleep(0)), StoreUnavailable)
    assert tasks.closed


async def test_work_that_had_not_even_begun_leaves_nobody_waiting() -> None:
    tasks = BackgroundTasks()
    caller = asyncio.create_task(tasks.run(asyncio.sleep(0, "never")))
    await asyncio.sleep(0)
    tasks.spawn(asyncio.sleep(0))
    await tasks.aclose(AT_ONCE)
    async with asyncio.timeout(30):
        await refused(caller, OutcomeInDoubt)
    gc.collect()  # a coroutine that was never awaited would complain, and complaints are errors
    assert others() == set()


async def test_work_that_will_not_end_is_left_behind() -> None:
    tasks, free = BackgroundTasks(), asyncio.Event()

    async def stubborn() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.spawn(stubborn())
    await asyncio.sleep(0)
    await tasks.aclose(AT_ONCE)
    assert not task.done()
    free.set()
    await task


class _Odd(BaseException):
    """Such as some test tools and schedulers raise."""


async def test_whatever_is_raised_reaches_the_caller() -> None:
    async def work() -> None:
        raise _Odd

    with pytest.raises(_Odd):
        async with asyncio.timeout(30):
            await BackgroundTasks().run(work())


async def test_a_result_that_came_while_the_process_stalled_is_taken() -> None:
    async def quick() -> str:
        return "done"

    attempting = asyncio.create_task(attempt(quick, Deadlines().within(0.01)))
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)  # right after it began
    assert await attempting == ("done", "")

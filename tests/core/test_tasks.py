from __future__ import annotations

import asyncio
import gc
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest

from reset_flow.domain.errors import OutcomeInDoubt, StaleRecord, StoreUnavailable
from reset_flow.engine.background_tasks import OwnTasks, apart
from reset_flow.testing import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")
AT_ONCE = timedelta(0)
SOON = timedelta(seconds=5)


async def waiting(outcome: Awaitable[T]) -> T:
    return await outcome


async def test_what_comes_of_the_work_is_returned_or_raised() -> None:
    tasks = OwnTasks()

    async def fails() -> None:
        raise StaleRecord("a", 1)

    assert await tasks.run(asyncio.sleep(0, "done")) == "done"
    await refused(tasks.run(fails()), StaleRecord)
    assert len(tasks) == 0


async def test_a_caller_who_goes_away_does_not_end_the_work() -> None:
    tasks, done = OwnTasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    caller = asyncio.create_task(waiting(tasks.run(work())))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(tasks) == 1
    await tasks.aclose(SOON)
    assert done.is_set()


async def test_an_error_that_nobody_waits_for_is_logged_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    tasks = OwnTasks()

    async def breaks() -> None:
        raise KeyError("Peterson")

    with caplog.at_level(logging.DEBUG):
        tasks.spawn(breaks())
        await tasks.aclose(SOON)
    assert [record.getMessage() for record in caplog.records] == ["a command broke off: KeyError"]


async def test_whoever_is_closed_out_is_told_that_nobody_knows() -> None:
    tasks = OwnTasks()
    caller = asyncio.create_task(waiting(tasks.run(asyncio.Event().wait())))
    await asyncio.sleep(0.01)
    await tasks.aclose(AT_ONCE)
    await refused(caller, OutcomeInDoubt)
    with pytest.raises(StoreUnavailable):
        tasks.run(asyncio.sleep(0))


async def test_work_that_had_not_even_begun_leaves_nobody_waiting() -> None:
    tasks = OwnTasks()
    caller = asyncio.create_task(waiting(tasks.run(asyncio.sleep(0, "never"))))
    await asyncio.sleep(0)
    tasks.spawn(asyncio.sleep(0))
    await tasks.aclose(AT_ONCE)
    async with asyncio.timeout(5):
        await refused(caller, OutcomeInDoubt)
    gc.collect()  # a coroutine that was never awaited would complain, and complaints are errors


async def test_what_is_done_apart_ends_with_its_caller() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(apart(work()))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with asyncio.timeout(5):
        await ended.wait()
    assert await apart(asyncio.sleep(0, "done")) == "done"


class _Odd(BaseException):
    """Such as some test tools and schedulers raise."""


@pytest.mark.parametrize("how", ["in a task of the service", "apart"])
async def test_whatever_is_raised_reaches_the_caller(how: str) -> None:
    async def work() -> None:
        raise _Odd

    with pytest.raises(_Odd):
        async with asyncio.timeout(5):
            await (apart(work()) if how == "apart" else OwnTasks().run(work()))


async def test_nothing_is_left_of_work_that_never_began() -> None:
    tasks = OwnTasks()
    tasks.spawn(asyncio.sleep(0))
    await tasks.aclose(AT_ONCE)
    assert len(tasks) == 0

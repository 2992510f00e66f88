from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from reset_flow.deadlines import Deadlines


async def test_what_ends_in_time_is_not_disturbed() -> None:
    deadlines = Deadlines()
    with deadlines.within(10):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_takes_too_long_is_cut_off() -> None:
    with pytest.raises(TimeoutError), Deadlines().within(0.01):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_no_time_at_all_still_lets_begin() -> None:
    began: list[bool] = []

    async def begin() -> None:
        with Deadlines().within(0):
            began.append(True)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await begin()
    assert began


async def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError), Deadlines().within(10):
        raise KeyError


async def test_each_of_many_is_cut_off_at_its_own_time() -> None:
    deadlines, order = Deadlines(), []

    async def wait(name: str, seconds: float) -> None:
        try:
            with deadlines.within(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            order.append(name)

    async with asyncio.timeout(30):
        await asyncio.gather(wait("last", 0.15), wait("first", 0.05), wait("second", 0.1))
    assert order == ["first", "second", "last"]


@pytest.mark.parametrize(("outer", "inner", "reached"), [(0.01, 10, []), (10, 0.01, ["outer"])])
async def test_of_two_inside_each_other_the_shorter_one_counts(outer: float, inner: float, reached: list[str]) -> None:
    deadlines, seen = Deadlines(), []
    try:
        with deadlines.within(outer):
            try:
                with deadlines.within(inner):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("outer")
    except TimeoutError:
        assert not seen
    assert seen == reached


async def test_who_cancels_the_task_is_obeyed() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        with deadlines.within(0.01):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_thousand_calls_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines, timers = Deadlines(), []
    loop = asyncio.get_running_loop()
    really = loop.call_at

    def counted(when: float, *args: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(really(when, *args, **more))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(1000):
        with deadlines.within(10):
            pass
    assert len(timers) == 1
    timers[0].cancel()


def test_a_loop_that_ended_is_no_end_of_it() -> None:
    deadlines = Deadlines()

    async def late() -> None:
        with pytest.raises(TimeoutError), deadlines.within(0.01):
            await asyncio.Event().wait()

    async def left_behind() -> None:
        with deadlines.within(0.02):
            asyncio.get_running_loop().stop()
            await asyncio.Event().wait()

    asyncio.run(late())
    with pytest.raises(RuntimeError):
        asyncio.run(left_behind())
    asyncio.run(late())


def test_two_loops_at_once_do_not_take_each_others_deadlines_away() -> None:
    deadlines, ends = Deadlines(), []
    began = threading.Event()

    async def silent() -> None:
        try:
            with deadlines.within(0.2):
                began.set()
                await asyncio.Event().wait()
        except TimeoutError:
            ends.append("cut off")

    async def brief() -> None:
        with deadlines.within(10):
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(silent()))
    thread.start()
    assert began.wait(10)
    asyncio.run(brief())
    thread.join(10)
    assert ends == ["cut off"]

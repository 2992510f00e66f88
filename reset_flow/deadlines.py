"""
What `asyncio.timeout` does, for many short calls: they share one timer, which hardly ever goes off.

A timer for each call costs as much as sealing what it is about to send.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Deadlines"]


class Deadlines:
    """The deadlines of the calls that are under way, in whatever loop."""

    def __init__(self) -> None:
        self._watch: _Watch | None = None

    def within(self, seconds: float) -> _Deadline:
        """A context that raises `TimeoutError` where its end is not reached in time."""
        watch, loop = self._watch, asyncio.get_running_loop()
        if watch is None or watch.loop is not loop:
            watch = self._watch = _Watch(loop)  # the other one goes on with what it has
        return _Deadline(watch, seconds)


class _Watch:
    """
    Some deadlines of one loop, and their timer.

    Attributes:
        running: Those to keep. The timer stays behind when there are none: for the next one.

        at: When the timer goes off, by the clock of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.running: set[_Deadline] = set()
        self.at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wake_at(self, time: float) -> None:
        """Have the timer go off then, and not later."""
        if self._timer is not None:
            self._timer.cancel()
        self.at, self._timer = time, self.loop.call_at(time, self._look)

    def _look(self) -> None:
        self.at, self._timer, now = math.inf, None, self.loop.time()
        for deadline in tuple(self.running):
            if deadline.end <= now:
                self.running.discard(deadline)
                deadline.pass_by()
        if self.running:
            self.wake_at(min(deadline.end for deadline in self.running))


class _Deadline:
    """
    One of them; entered once.

    Attributes:
        end: By the clock of the loop.
    """

    __slots__ = ("_before", "_passed", "_seconds", "_task", "_watch", "end")

    def __init__(self, watch: _Watch, seconds: float) -> None:
        self._watch = watch
        self._seconds = seconds
        self._passed = False

    def __enter__(self) -> None:
        watch = self._watch
        task = asyncio.current_task(watch.loop)
        assert task is not None
        self._task, self._before = task, task.cancelling()
        self.end = end = watch.loop.time() + self._seconds
        if end < watch.at:
            watch.wake_at(end)
        watch.running.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._watch.running.discard(self)
        # Another who cancels the task goes first.
        if self._passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def pass_by(self) -> None:
        """Cut off what takes too long."""
        self._passed = True
        self._task.cancel()

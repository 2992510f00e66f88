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
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.loop is not loop:
            self._watch = _Watch(loop)  # the other one goes on with what it has
        return _Deadline(self._watch, seconds)


class _Watch:
    """
    Some deadlines of one loop, and their timer.

    Attributes:
        running: Those to keep. The timer stays behind when there are none: for the next one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.running: set[_Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def add(self, deadline: _Deadline) -> None:
        """See that it is kept."""
        if deadline.end < self._at:
            self._wake_at(deadline.end)
        self.running.add(deadline)

    def _wake_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at, self._timer = time, self.loop.call_at(time, self._look)

    def _look(self) -> None:
        self._at, self._timer, now = math.inf, None, self.loop.time()
        for deadline in tuple(self.running):
            if deadline.end <= now:
                self.running.discard(deadline)
                deadline.pass_by()
        if self.running:
            self._wake_at(min(deadline.end for deadline in self.running))


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
        self.end = watch.loop.time() + self._seconds
        watch.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._watch.running.discard(self)
        # Another who cancels the task goes first.
        if self._passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def pass_by(self) -> None:
        """Cut off what takes too long."""
        self._passed = True
        self._task.cancel()

"""
What `asyncio.timeout` does, for many short calls: they share one timer, which hardly ever goes off.

A timer for each call costs as much as sealing what it is about to send.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Deadlines"]


class Deadlines:
    """The deadlines of the calls that are under way, in one event loop after the other."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[_Deadline] = set()

    def within(self, seconds: float) -> _Deadline:
        """A context that raises `TimeoutError` where its end is not reached in time."""
        return _Deadline(self, seconds)

    def add(self, deadline: _Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """See that it is kept."""
        if loop is not self._loop:
            self._loop, self._timer = loop, None
            self._running.clear()
        self._running.add(deadline)
        if self._timer is None or deadline.end < self._timer.when():
            self._wake_at(deadline.end)

    def discard(self, deadline: _Deadline) -> None:
        """It was kept. The timer stays: it is there for the next one."""
        self._running.discard(deadline)

    def _wake_at(self, time: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(time, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        self._timer, now = None, self._loop.time()
        for deadline in tuple(self._running):
            if deadline.end <= now:
                self._running.discard(deadline)
                deadline.pass_by()
        if self._running:
            self._wake_at(min(deadline.end for deadline in self._running))


class _Deadline:
    """
    One of them; entered once.

    Attributes:
        end: By the clock of the loop.
    """

    __slots__ = ("_before", "_owner", "_passed", "_seconds", "_task", "end")

    def __init__(self, owner: Deadlines, seconds: float) -> None:
        self._owner = owner
        self._seconds = seconds
        self._passed = False

    def __enter__(self) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._task, self._before = task, task.cancelling()
        self.end = loop.time() + self._seconds
        self._owner.add(self, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._owner.discard(self)
        # Another who cancels the task goes first.
        if self._passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def pass_by(self) -> None:
        """Cut off what takes too long."""
        self._passed = True
        self._task.cancel()

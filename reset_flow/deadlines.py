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
        self.running: set[_Deadline] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> _Deadline:
        """A context that raises `TimeoutError` where its end is not reached in time."""
        return _Deadline(self, seconds)

    def keep(self, deadline: _Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """See that it is kept, for as long as it is among those that run. The timer stays behind: for the next one."""
        if loop is not self._loop:
            self._loop, self._timer = loop, None
            self.running.clear()
        self.running.add(deadline)
        if self._timer is None or deadline.end < self._timer.when():
            self._wake_at(deadline.end)

    def _wake_at(self, time: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(time, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        self._timer, now = None, self._loop.time()
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
        self._owner.keep(self, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._owner.running.discard(self)
        # Another who cancels the task goes first.
        if self._passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def pass_by(self) -> None:
        """Cut off what takes too long."""
        self._passed = True
        self._task.cancel()

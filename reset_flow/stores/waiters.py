"""Tasks that wait for a flow to change."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

Key = TypeVar("Key")


class Waiters(Generic[Key]):
    """
    Wakes tasks when the flow may have changed that they wait for.

    Args:
        poll: How many seconds a task waits at most before it looks again.
    """

    def __init__(self, poll: float) -> None:
        self.poll = poll
        self.stopped = False
        self._events: dict[Key, set[asyncio.Event]] = {}

    async def wait(self, key: Key, timeout: timedelta, is_newer: Callable[[], Awaitable[bool]]) -> None:
        """Return once `is_newer` returns True, or when the time is up."""
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        event = asyncio.Event()
        self._events.setdefault(key, set()).add(event)
        try:
            while not await is_newer() and (left := end - now()) > 0:
                poll = 0.0 if self.stopped else await self.listen(left)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(poll, end - now())):
                        await event.wait()
                event.clear()
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]

    async def listen(self, timeout: float) -> float:  # noqa: ARG002 - for stores that other workers write to
        """Have changes by other workers wake tasks, if that can be had in time. Return when to look at the latest."""
        return self.poll

    def wake(self, key: Key) -> None:
        """Wake the tasks that wait for this key."""
        for event in self._events.get(key, ()):
            with suppress(RuntimeError):  # its loop has ended
                event.set()

    def stop(self) -> None:
        """Wake all tasks, and have none listen any more: the store is closed, and their next look raises that."""
        self.stopped = True
        self.wake_all()

    def wake_all(self) -> None:
        """Wake all tasks."""
        for key in self._events:
            self.wake(key)

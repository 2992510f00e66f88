"""Tasks that wait for a flow to change."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from reset_flow.ports import Record

Key = TypeVar("Key")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two connections for messages."""

PING_INTERVAL = 5.0
"""Seconds without a message after which the connection for messages is checked: it may have been cut without a word."""


class Waiters(Generic[Key]):
    """
    Wakes tasks when the flow may have changed that they wait for.

    Attributes:
        poll: How many seconds a task waits at most before it looks again.
    """

    def __init__(self, poll: float) -> None:
        self.poll = poll
        self.stopped = False
        self._events: dict[Key, set[asyncio.Event]] = {}

    async def wait(self, key: Key, version: int, timeout: timedelta, load: Callable[[], Awaitable[Record]]) -> None:
        """Return once a newer version than this one is loaded, or when the time is up."""
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        event = asyncio.Event()
        self._events.setdefault(key, set()).add(event)
        try:
            while (await load()).version <= version and (left := end - now()) > 0:
                if not self.stopped:
                    self.listen()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0 if self.stopped else min(self.poll, left)):
                        await event.wait()
                event.clear()
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]

    def listen(self) -> None:
        """Have changes by other workers wake tasks, too, if the store can tell."""

    def wake(self, key: Key) -> None:
        """Wake the tasks that wait for this key."""
        for event in self._events.get(key, ()):
            with suppress(RuntimeError):  # its loop has ended
                event.set()

    def wake_all(self) -> None:
        """Wake all tasks."""
        for key in self._events:
            self.wake(key)

    def stop(self) -> None:
        """Wake all tasks, and have none listen any more: the store is closed, and their next look raises that."""
        self.stopped = True
        self.wake_all()


class Listener(Waiters[Key]):
    """Wakes tasks for the saves of other workers: hears of them in a task of its own from the first wait on."""

    _task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Connect in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="reset-flow-listener")

    async def close(self) -> None:
        """Stop listening."""
        while self._task is not None and not self._task.done():
            # Until it is heard: `asyncio.wait_for` of Python 3.11, by which redis-py sends, loses a cancellation that
            # comes just as it is done.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=FIRST_PAUSE)

    async def receive(self) -> None:
        """Connect, call `connected`, and wake tasks until the connection is lost."""
        raise NotImplementedError

    def connected(self) -> None:
        """Wake all tasks: earlier messages were missed."""
        self._pause = FIRST_PAUSE
        self.wake_all()

    async def _listen(self) -> None:
        self._pause = FIRST_PAUSE
        while True:
            # Tasks that wait also look from time to time, and tell what is wrong with the server.
            with suppress(Exception):
                await self.receive()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

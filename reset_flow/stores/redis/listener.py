"""A second connection, which hears of what other workers save while somebody waits for it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.asyncio.client import PubSub

__all__ = ["Listener"]

# Seconds.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
PING_INTERVAL = 15.0


class Listener:
    """
    Wakes those who wait for a message. Subscribes from a task of its own, which the first of them starts.

    Args:
        subscription: Makes a subscriber that is not connected yet, or raises; called again after each failure.
    """

    def __init__(self, subscription: Callable[[], PubSub]) -> None:
        self._subscription = subscription
        self._watched: dict[bytes, set[asyncio.Event]] = {}
        self._watches_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE

    @contextmanager
    def watching(self, channel: bytes) -> Iterator[asyncio.Event]:
        """Give an event that is set when there is a message, or when one may have been missed."""
        event = asyncio.Event()
        self._watched.setdefault(channel, set()).add(event)
        self._watches_changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="reset-flow-redis-listener")
        try:
            yield event
        finally:
            self._watched[channel].discard(event)
            if not self._watched[channel]:
                del self._watched[channel]
            self._watches_changed.set()

    def wake(self, channel: bytes) -> None:
        """Set the events of a channel."""
        for event in self._watched.get(channel, ()):
            event.set()

    def wake_all(self) -> None:
        """Set all events."""
        for channel in self._watched:
            self.wake(channel)

    async def aclose(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen(self) -> None:
        while True:
            # Whoever waits also looks from time to time, and tells what is wrong with the server.
            with suppress(Exception):
                await self._listen_once()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _listen_once(self) -> None:
        subscription = self._subscription()
        try:
            await subscription.connect()  # type: ignore[no-untyped-call]
            async with asyncio.TaskGroup() as both:
                both.create_task(self._subscribe(subscription))
                both.create_task(self._receive(subscription))
        finally:
            with suppress(Exception):
                await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _subscribe(self, subscription: PubSub) -> None:
        """Keep the subscriptions equal to what is watched."""
        subscribed: set[bytes] = set()
        while True:
            self._watches_changed.clear()
            watched = set(self._watched)
            if missing := watched - subscribed:
                await subscription.subscribe(*missing)
            if superfluous := subscribed - watched:
                await subscription.unsubscribe(*superfluous)
            subscribed = watched
            await self._watches_changed.wait()

    async def _receive(self, subscription: PubSub) -> None:
        """Wake for each message, and for each confirmed subscription: what came before it was not heard."""
        pinged = False
        while True:
            message = await subscription.get_message(timeout=PING_INTERVAL)
            if message is not None:
                pinged, self._pause = False, FIRST_PAUSE
                if message["type"] in ("message", "subscribe"):
                    self.wake(message["channel"])
            elif pinged:
                raise TimeoutError("a ping was not answered")
            else:
                pinged = True
                await subscription.ping()

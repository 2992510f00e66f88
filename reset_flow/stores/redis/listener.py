"""A second connection, which hears of other workers' saves as soon as somebody waits for one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from reset_flow.stores.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.client import PubSub

# Seconds.
POLL = 1.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
PING_INTERVAL = 15.0


class Listener(Waiters[bytes]):
    """
    Wakes tasks, by the ids of their flows. Subscribes from a task of its own, which starts when the first task waits.

    Args:
        subscription: Makes a subscriber that is not connected yet, or raises; called again after each failure.

        channel: On which the scripts tell the ids of changed flows.
    """

    def __init__(self, subscription: Callable[[], PubSub], channel: bytes) -> None:
        super().__init__(POLL)
        self._subscription = subscription
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE

    async def listen(self, timeout: float) -> float:  # noqa: ARG002 - nobody waits for the subscription
        """Subscribe. Return when to look at the latest."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="reset-flow-redis-listener")
        return self.poll

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen(self) -> None:
        while True:
            # Tasks that wait also look from time to time, and tell what is wrong with the server.
            with suppress(Exception):
                await self._receive(self._subscription())
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _receive(self, subscription: PubSub) -> None:
        pinged = False
        try:
            await subscription.subscribe(self._channel)
            while True:
                message = await subscription.get_message(timeout=PING_INTERVAL)
                if message is not None:
                    pinged, self._pause = False, FIRST_PAUSE
                    if message["type"] == "message":
                        for flow_id in message["data"].split():
                            self.wake(flow_id)
                    elif message["type"] == "subscribe":
                        self.wake_all()  # earlier messages were missed
                elif pinged:
                    raise TimeoutError("a ping was not answered")
                else:
                    pinged = True
                    await subscription.ping()
        finally:
            with suppress(Exception):
                await subscription.aclose()  # type: ignore[no-untyped-call]

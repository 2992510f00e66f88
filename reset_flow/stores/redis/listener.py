"""A second connection, which hears of other workers' saves as soon as somebody waits for one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from reset_flow.stores.waiters import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.client import PubSub

# Seconds.
POLL = 1.0
PING_INTERVAL = 15.0


class RedisListener(Listener[bytes]):
    """
    Wakes tasks, by the ids of their flows.

    Args:
        subscription: Makes a subscriber that is not connected yet, or raises; called again after each failure.

        channel: On which the scripts tell the ids of changed flows.
    """

    def __init__(self, subscription: Callable[[], PubSub], channel: bytes) -> None:
        super().__init__(POLL)
        self._subscription = subscription
        self._channel = channel

    async def receive(self) -> None:
        """Wake tasks until the connection is lost, or a ping is not answered."""
        subscription = self._subscription()
        pinged = False
        try:
            await subscription.subscribe(self._channel)
            while True:
                message = await subscription.get_message(timeout=PING_INTERVAL)
                if message is None:
                    if pinged:
                        return
                    await subscription.ping()
                elif message["type"] == "message":
                    for flow_id in message["data"].split():
                        self.wake(flow_id)
                elif message["type"] == "subscribe":
                    self.connected()
                pinged = message is None
        finally:
            with suppress(Exception):
                await subscription.aclose()  # type: ignore[no-untyped-call]

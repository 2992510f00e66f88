"""The connection that receives the notifications of other workers' saves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from zlib import crc32

from reset_flow.stores.waiters import Listener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# How often, in seconds, a waiter looks for a change: with notifications, which may get lost, and without.
POLL = 5.0
POLL_UNNOTIFIED = 0.5


def notification_name(flow_id: str) -> int:
    """
    Return the name of a flow in notifications, which every user of the database can read.

    Two flows may share a name: their waiters wake each other, look, and wait on.
    """
    return crc32(flow_id.encode(errors="surrogatepass"))


class Notifications(Listener[int]):
    """Wakes tasks, by the notification names of their flows."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], channel: str) -> None:
        super().__init__(POLL_UNNOTIFIED)
        self._connect = connect
        self._channel = channel

    async def receive(self) -> None:
        """Wake tasks until the connection is lost."""
        connection = await self._connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(self._channel, self._on_notification)
            self.poll = POLL
            self.connected()
            await lost.wait()
        finally:
            connection.terminate()
            self.poll = POLL_UNNOTIFIED
            self.wake_all()

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for name in payload.split():
            if name.isdecimal():
                self.wake(int(name))

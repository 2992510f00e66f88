"""The connection that receives the notifications of other workers' saves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from zlib import crc32

from reset_flow.stores.postgres.connections import driver_errors
from reset_flow.stores.waiters import Waiters

if TYPE_CHECKING:
    from reset_flow.stores.postgres.connections import Server

# How often, in seconds, a waiter looks for a change: with notifications, which may get lost, and without.
POLL = 5.0
POLL_UNNOTIFIED = 0.5


def notification_name(flow_id: str) -> int:
    """
    Return the name of a flow in notifications, which every user of the database can read.

    Two flows may share a name: their waiters wake each other, look, and wait on.
    """
    return crc32(flow_id.encode(errors="surrogatepass"))


class Notifications(Waiters[int]):
    """
    Wakes tasks, by the notification names of their flows. Connects when the first task waits.

    Args:
        channel: On which the server tells the names of saved flows.
    """

    def __init__(self, server: Server, channel: str) -> None:
        super().__init__(POLL)
        self._server = server
        self._channel = channel
        self._connection: Any = None
        self._connecting = asyncio.Lock()

    async def listen(self, timeout: float) -> float:
        """Connect, if that can be had in time. Return when to look at the latest."""
        with suppress(*driver_errors()):
            async with asyncio.timeout(timeout), self._connecting:
                if self._connection is None or self._connection.is_closed():
                    connection = await self._server.connect()
                    try:
                        await connection.add_listener(self._channel, self._on_notification)
                    except BaseException:
                        connection.terminate()
                        raise
                    connection.add_termination_listener(lambda _: self.wake_all())
                    self._connection = connection
                    if self.stopped:  # too late for `close`
                        connection.terminate()
                    self.wake_all()  # an earlier save was not notified
            return self.poll
        return POLL_UNNOTIFIED

    async def close(self) -> None:
        """Close the connection in good order."""
        if self._connection is not None:
            await self._connection.close()

    def terminate(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.terminate()

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for name in payload.split():
            if name.isdecimal():
                self.wake(int(name))

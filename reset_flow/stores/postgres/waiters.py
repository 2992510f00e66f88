"""Tasks that wait for a flow to change, and the connection that receives the notifications of other workers' saves."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from zlib import crc32

from reset_flow.stores.postgres.connections import driver_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow.stores.postgres.connections import Server

__all__ = ["Waiters", "notification_name"]


def notification_name(flow_id: str) -> int:
    """
    Return the name of a flow in notifications, which every user of the database can read.

    Two flows may share a name: their waiters wake each other, look, and wait on.
    """
    return crc32(flow_id.encode(errors="surrogatepass"))


class Waiters:
    """
    Wakes tasks when the flow may have changed that they wait for.

    Opens a connection of its own for notifications as soon as one is needed.

    Args:
        channel: On which the server tells the names of saved flows.
    """

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._events: dict[int, set[asyncio.Event]] = {}
        self._connection: Any = None
        self._connecting = asyncio.Lock()
        self._stopped = False

    @contextmanager
    def waiting(self, flow_id: str) -> Iterator[asyncio.Event]:
        """Provide an event that is set whenever the flow may have changed."""
        name, event = notification_name(flow_id), asyncio.Event()
        self._events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._events[name].discard(event)
            if not self._events[name]:
                del self._events[name]

    def wake(self, flow_id: str) -> None:
        """Wake the tasks that wait for this flow."""
        if self._events:
            self._wake(notification_name(flow_id))

    async def listen(self, timeout: float) -> bool:
        """Return True if notifications arrive from now on."""
        with suppress(*driver_errors()):
            async with asyncio.timeout(timeout), self._connecting:
                if self._connection is None or self._connection.is_closed():
                    connection = await self._server.connect()
                    try:
                        await connection.add_listener(self._channel, self._on_notification)
                    except BaseException:
                        connection.terminate()
                        raise
                    connection.add_termination_listener(self._wake_all)
                    self._connection = connection
                    if self._stopped:  # too late for `close`
                        connection.terminate()
            return True
        return False

    def stop(self) -> None:
        """Wake all tasks, and keep no connection that is opened from now on."""
        self._stopped = True
        self._wake_all()

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
                self._wake(int(name))

    def _wake(self, name: int) -> None:
        for event in self._events.get(name, ()):
            event.set()

    def _wake_all(self, *_: Any) -> None:
        for name in self._events:
            self._wake(name)

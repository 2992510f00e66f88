"""Who waits for a flow to change, and the connection that hears of what other workers save."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from reset_flow.stores.postgres.connections import failures
from reset_flow.stores.postgres.statements import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow.stores.postgres.connections import Server

__all__ = ["Listener"]


class Listener:
    """
    Wakes those who wait. It takes a connection of its own, as soon as somebody wants to hear of what others do.

    Args:
        channel: Where the server tells the names of the flows that were saved.
    """

    def __init__(self, server: Server, channel: str) -> None:
        self._server = server
        self._channel = channel
        self._watched: dict[int, set[asyncio.Event]] = {}
        self._ear: Any = None
        self._ear_lock = asyncio.Lock()
        self._stopped = False

    @contextmanager
    def watching(self, flow_id: str) -> Iterator[asyncio.Event]:
        """What is set when the flow may have changed; others of its name set it too."""
        name, event = name_of(flow_id), asyncio.Event()
        self._watched.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._watched[name].discard(event)
            if not self._watched[name]:
                del self._watched[name]

    def wake(self, flow_id: str) -> None:
        """Have those look who wait for this flow."""
        if self._watched:
            self._wake(name_of(flow_id))

    async def listen(self, patience: float) -> bool:
        """Whether notifications are heard from now on."""
        with suppress(*failures()):
            async with asyncio.timeout(patience), self._ear_lock:
                if self._ear is None or self._ear.is_closed():
                    ear = await self._server.connect()
                    try:
                        await ear.add_listener(self._channel, self._heard)
                    except BaseException:
                        ear.terminate()
                        raise
                    ear.add_termination_listener(self._wake_all)
                    self._ear = ear
                    if self._stopped:  # it came too late to be closed with the others
                        ear.terminate()
            return True
        return False

    def stop(self) -> None:
        """Wake everybody, and keep no connection from now on but the one to be closed."""
        self._stopped = True
        self._wake_all()

    async def close(self) -> None:
        """Take leave of the server."""
        if self._ear is not None:
            await self._ear.close()

    def terminate(self) -> None:
        """Drop the connection."""
        if self._ear is not None:
            self._ear.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for name in payload.split():
            if name.isdecimal():
                self._wake(int(name))

    def _wake(self, name: int) -> None:
        for event in self._watched.get(name, ()):
            event.set()

    def _wake_all(self, *_: Any) -> None:
        for name in self._watched:
            self._wake(name)

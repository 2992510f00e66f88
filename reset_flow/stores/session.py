"""What a store holds in one event loop, after another in the next."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CLOSED = "the store was closed: make another one"
FORKED = "the store was opened before this process was forked: make one after the fork"
IN_USE = "the store is in use by another event loop: make one for each loop"

Session = TypeVar("Session")


class SessionHolder(Generic[Session]):
    """
    Gives each event loop that uses a store, one after another, a session, and closes it when the loop ends.

    Making a session is no I/O. Closing it finishes what waits, and closes the connections.
    """

    def __init__(self, make: Callable[[], Session], close: Callable[[Session], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._session: Session | None = None
        self._pid = 0
        self._closed = False

    def get(self) -> Session:
        """Return the session of the running loop."""
        if self._closed:
            raise StoreUnavailable(CLOSED)
        loop = asyncio.get_running_loop()
        if self._session is None or self._keeper.done() or (self._pid == os.getpid() and self._ended()):
            self._session = self._make()
            self._pid, self._loop, self._closing = os.getpid(), loop, asyncio.Event()
            self._keeper: asyncio.Task[None] = loop.create_task(self._keep(self._session, self._closing))
        elif self._pid != os.getpid():
            raise StoreUnavailable(FORKED)
        elif self._loop is not loop:
            raise ConfigurationError(IN_USE)
        return self._session

    async def aclose(self) -> None:
        """Close the session and give out no other. From another event loop: have it closed, without waiting."""
        self._closed = True
        if self._session is None or self._pid != os.getpid() or self._ended():
            return
        if self._loop is asyncio.get_running_loop():
            self._closing.set()
            await asyncio.wait([self._keeper])
        else:
            with suppress(RuntimeError):  # it was closed a moment ago
                self._loop.call_soon_threadsafe(self._closing.set)

    def _ended(self) -> bool:
        return self._keeper.done() or self._loop.is_closed()

    async def _keep(self, session: Session, closing: asyncio.Event) -> None:
        """Close the session when told to, or when the loop cancels its last tasks."""
        try:
            await closing.wait()
        finally:
            await self._close(session)

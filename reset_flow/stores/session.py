"""Who may use a store, and what it holds in one event loop, after another in the next."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable

CLOSED = "the store was closed: make another one"
FORKED = "the store was opened before this process was forked: make one after the fork"
IN_USE = "the store is in use by another event loop: make one for each loop"

Session = TypeVar("Session")


class Ownership:
    """
    Gives a store to the process that uses it first, and there to one event loop after another, until it is closed.

    Args:
        is_over: Returns True if the store can be taken from this loop.
    """

    def __init__(self, is_over: Callable[[AbstractEventLoop], bool]) -> None:
        self._is_over = is_over
        self._loop: AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False
        self._taking = threading.Lock()

    def take(self) -> bool:
        """
        Return True if the running loop did not have the store before.

        Raises:
            ConfigurationError: Another loop has it.
            StoreUnavailable: It was closed, or used before a fork.
        """
        if self._closed:
            raise StoreUnavailable(CLOSED)
        if self._pid not in (0, os.getpid()):
            raise StoreUnavailable(FORKED)
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return False
        with self._taking:
            if self._loop is not None and not self._is_over(self._loop):
                raise ConfigurationError(IN_USE)
            self._pid, self._loop = os.getpid(), loop
        return True

    def release(self) -> None:
        """Let any loop have the store, also in a forked process: nothing is open."""
        self._pid, self._loop = 0, None

    def close(self) -> AbstractEventLoop | None:
        """Give the store to nobody any more. Return the loop of this process that has it, if there is one."""
        self._closed = True
        return self._loop if self._pid == os.getpid() else None


class SessionHolder(Generic[Session]):
    """
    Gives each event loop that uses a store, one after another, a session, and closes it when the loop ends.

    Making a session is no I/O. Closing it finishes what waits, and closes the connections.
    """

    _session: Session

    def __init__(self, make: Callable[[], Session], close: Callable[[Session], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._ownership = Ownership(lambda loop: loop.is_closed())

    def get(self) -> Session:
        """Return the session of the running loop."""
        if self._ownership.take():
            self._session, self._closing = self._make(), asyncio.Event()
            self._keeper = asyncio.create_task(self._keep(self._session, self._closing))
        return self._session

    async def aclose(self) -> None:
        """Close the session and give out no other. From another event loop: have it closed, without waiting."""
        loop = self._ownership.close()
        if loop is asyncio.get_running_loop():
            self._closing.set()
            await asyncio.wait([self._keeper])
        elif loop is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._closing.set)

    async def _keep(self, session: Session, closing: asyncio.Event) -> None:
        """Close the session when told to, or when the loop cancels its last tasks."""
        try:
            await closing.wait()
        finally:
            try:
                await self._close(session)
            finally:
                if self._session is session:  # else its loop was closed, and the next one has the store
                    self._ownership.release()

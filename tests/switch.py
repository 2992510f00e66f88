"""A TCP switch in front of a server: what an address with failover looks like to its clients."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TURNS = 10
"""Of the event loop, in which both ends of a connection hear that it was closed."""


class Switch:
    """
    Passes new connections on to the port in `target`. Those that exist stay where they are.

    Attributes:
        opened: How many connections there were.

        is_silent: Nothing is passed on, and new connections hear nothing.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.opened = 0
        self.is_silent = False
        self._frozen: set[asyncio.Task[None]] = set()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.port = 0

    def url(self, url: str) -> str:
        """Return the URL by way of the switch."""
        parts = urlsplit(url)
        who = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{who}@127.0.0.1:{self.port}").geturl()

    def freeze(self, *, newest: bool = False) -> None:
        """Leave the connections, or the newest alone, half open: no more data pass, and nobody is told."""
        self._frozen |= set([*self._tasks][-1:] if newest else self._tasks)

    async def cut(self) -> None:
        """Close the connections. Return when their clients, in this event loop, have been told."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Switch]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        self.opened += 1
        ends = [writer]
        try:
            with suppress(OSError, asyncio.CancelledError, ExceptionGroup):
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                ends.append(back)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(task, reader, back))
                    group.create_task(self._pump(task, there, writer))
        finally:
            for end in ends:
                end.transport.abort()
            del self._tasks[task]
            self._frozen.discard(task)

    async def _pump(self, task: asyncio.Task[None], source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if not self.is_silent and task not in self._frozen:
                target.write(data)
                await target.drain()
        if task in self._frozen:
            await asyncio.Event().wait()
        raise ConnectionError

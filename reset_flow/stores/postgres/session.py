"""All that a store has in one event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.postgres.batcher import Lane
from reset_flow.stores.postgres.connections import Line, Pool, failures
from reset_flow.stores.postgres.listener import Listener
from reset_flow.stores.postgres.migrations import migrate
from reset_flow.stores.postgres.rows import arguments, texts
from reset_flow.stores.postgres.statements import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.stores.postgres.connections import Server
    from reset_flow.stores.postgres.rows import Save

__all__ = ["NEVER", "SAVED", "STALE", "Session"]

# A lock for each budget of a batch: with 64 saves it stays far below what a server has room for (6400, unless told).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256

SAVED, STALE, NEVER = 0, -1, -2
"""What the function `save` says of a record; above zero it is how long to wait."""


class Session:
    """
    The connections, and what waits for them. It belongs to the running loop and to this process.

    Attributes:
        pool: For scans and purges; loads and saves go by lines of their own.

        saves: Where a save gets what the function says of it.

        loads: Where an id gets its row, or `None`.

    Args:
        now: The time by which leases and budgets are judged, or `None`: by the server's.
    """

    def __init__(self, server: Server, prefix: str, now: Callable[[], int | None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._server = server
        self._prefix = prefix
        self._now = now
        self._sql = statements(prefix)
        self._loading, self._saving = Line(server), Line(server)
        self.pool = Pool(server)
        self.listener = Listener(server, f"{prefix}_changed")
        self.loads: Lane[str] = Lane(self._load_all, LOADS_AT_ONCE)
        self.saves: Lane[Save] = Lane(self._save_all, SAVES_AT_ONCE)

    async def open(self) -> None:
        """
        Before anything else.

        Raises:
            ConfigurationError: The tables can't be had.
        """
        try:
            await self.pool.open()
            await migrate(self.pool, self._prefix)
        except BaseException:
            self._terminate()
            raise

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        """
        Whether it is of this loop; if not, whoever asks may open another one.

        Raises:
            StoreUnavailable: It is of another process.
            ConfigurationError: Its loop still runs.
        """
        if self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")
        if self.loop is not loop and not self.loop.is_closed():
            raise ConfigurationError("the store is in use by another event loop: make one for each loop")
        return self.loop is loop

    async def close(self) -> None:
        """Finish what waits, then close the connections."""
        await self.saves.finish()
        await self.loads.finish()
        try:
            async with asyncio.timeout(self._server.connect_timeout):
                for each in (self._loading, self._saving, self.listener, self.pool):
                    await each.close()
        except failures():
            self._terminate()
            await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    def _terminate(self) -> None:
        for each in (self._loading, self._saving, self.listener, self.pool):
            each.terminate()

    async def _load_all(self, flow_ids: list[str]) -> list[Any]:
        found = await self._loading.fetch(self._sql["load"], self._now(), texts(flow_ids))
        rows = {row["id"]: row for row in found}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, saves: list[Save]) -> list[Any]:
        order = sorted(range(len(saves)), key=lambda place: saves[place].row["id"])
        values = arguments(self._prefix, [saves[place] for place in order])
        ((codes,),) = await self._saving.fetch(self._sql["save"], self._now(), *values)
        outcomes: list[Any] = [None] * len(saves)
        for place, code in zip(order, codes, strict=True):
            outcomes[place] = code
            if code == SAVED:
                self.listener.wake(saves[place].row["id"])
        return outcomes

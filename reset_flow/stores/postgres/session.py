"""What a store holds in one event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.postgres.batcher import Batcher
from reset_flow.stores.postgres.connections import Pool, driver_errors
from reset_flow.stores.postgres.schema import create_tables, statements
from reset_flow.stores.postgres.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.stores.postgres.connections import Server
    from reset_flow.stores.postgres.rows import Save

__all__ = ["Session"]

# Each key of a batch takes a lock: 64 saves stay far below a server's room for them (6400, unless configured).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256


class Session:
    """
    Connections, and the batches that wait for them. It belongs to the running loop and to this process.

    Attributes:
        saves: Returns `None` for what was saved, and else its row of the function `save`.

        loads: Returns the row of an id, or `None`.

    Args:
        now: Returns the time that judges leases and uses, or `None` for the server's.
    """

    def __init__(self, server: Server, prefix: str, now: Callable[[], int | None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._server = server
        self._prefix = prefix
        self._now = now
        self._sql = statements(prefix)
        self._pool = Pool(server, server.connections + 2)
        self._others = asyncio.Semaphore(server.connections)
        self.waiters = Waiters(server, f"{prefix}_changed")
        self.loads: Batcher[str] = Batcher(self._load_all, LOADS_AT_ONCE)
        self.saves: Batcher[Save] = Batcher(self._save_all, SAVES_AT_ONCE)

    async def open(self) -> None:
        """
        Prepare the tables; call it before anything else.

        Raises:
            ConfigurationError: The tables can't be created, or are of a newer release.
        """
        try:
            await self._pool.open()
            await create_tables(self._pool, self._prefix)
        except BaseException:
            self._terminate()
            raise

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        """
        Return True if the session belongs to this loop; else another one may be opened.

        Raises:
            StoreUnavailable: It belongs to another process.
            ConfigurationError: It belongs to another loop that is not closed.
        """
        if self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")
        if self.loop is not loop and not self.loop.is_closed():
            raise ConfigurationError("the store is in use by another event loop: make one for each loop")
        return self.loop is loop

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement, by its name, that is neither a save nor a load: those always find a connection left."""
        async with self._others:
            return await self._pool.fetch(self._sql[statement], *values)

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        await self.saves.finish()
        await self.loads.finish()
        try:
            async with asyncio.timeout(self._server.connect_timeout):
                for each in (self.waiters, self._pool):
                    await each.close()
        except driver_errors():
            self._terminate()
            await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    def _terminate(self) -> None:
        for each in (self.waiters, self._pool):
            each.terminate()

    async def _load_all(self, flow_ids: list[str]) -> list[Any]:
        found = await self._pool.fetch(self._sql["load"], self._now(), flow_ids)
        rows = {row["id"]: row for row in found}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, saves: list[Save]) -> list[Any]:
        locks = sorted({lock for save in saves for lock in save.locks})
        batch = b"[%b]" % b",".join([save.json for save in saves])
        rows = await self._pool.fetch(
            self._sql["save"], self._now(), locks, batch.decode(), [save.body for save in saves]
        )
        not_saved = {row["place"]: row for row in rows}
        for place, save in enumerate(saves, 1):
            if place not in not_saved:
                self.waiters.wake(save.flow_id)
        return [not_saved.get(place) for place in range(1, len(saves) + 1)]

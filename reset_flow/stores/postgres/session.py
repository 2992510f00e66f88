"""What a store holds in one event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import StoreUnavailable
from reset_flow.stores.batcher import Batcher
from reset_flow.stores.postgres.connections import Pool, is_per_row_error
from reset_flow.stores.postgres.notifications import Notifications
from reset_flow.stores.postgres.schema import create_tables
from reset_flow.stores.session import CLOSED
from reset_flow.stores.statements import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.stores.postgres.connections import Server
    from reset_flow.stores.postgres.rows import Save

# Each key of a batch takes a lock: 64 saves stay far below a server's room for them (6400, unless configured).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256


class Session:
    """
    Connections, and the batches that wait for them. The first statement prepares the tables.

    Attributes:
        saves: Returns `None` for what was saved, and else its row of the function `save`.

        loads: Returns the row of an id, or `None`.

    Args:
        connections: How many may be used for other things than saves, loads and notifications.

        now: Returns the time that judges leases and uses, or `None` for the server's.
    """

    def __init__(self, server: Server, prefix: str, connections: int, now: Callable[[], int | None]) -> None:
        self._timeout = server.connect_timeout
        self._prefix = prefix
        self._now = now
        self._sql = statements("postgres", prefix)
        self._pool = Pool(server)
        self._connections = connections
        self._others = asyncio.Semaphore(connections)
        self._opening = asyncio.Lock()
        self._is_open = False
        self.notifications = Notifications(server, f"{prefix}_changed")
        self.loads: Batcher[str] = Batcher(self._load_all, LOADS_AT_ONCE)
        self.saves: Batcher[Save] = Batcher(self._save_all, SAVES_AT_ONCE, is_per_job_error=is_per_row_error)

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement, by its name, that is neither a save nor a load: those always find a connection left."""
        async with self._others:
            return await self._fetch(statement, *values)

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        self.notifications.stop()
        await self.saves.finish()
        await self.loads.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                for _ in range(self._connections):
                    await self._others.acquire()
        await self.notifications.close()
        self._pool.terminate()
        await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        async with self._opening:
            if not self._is_open:
                await create_tables(self._pool, self._prefix)
                if self.notifications.stopped:
                    raise StoreUnavailable(CLOSED)
                self._is_open = True
        return await self._pool.fetch(self._sql[statement], *values)

    async def _load_all(self, flow_ids: list[str]) -> list[Any]:
        rows = {row["id"]: row for row in await self._fetch("load", self._now(), flow_ids)}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, saves: list[Save]) -> list[Any]:
        locks = sorted({lock for save in saves for lock in save.locks})
        batch = b"[%b]" % b",".join([save.json for save in saves])
        bodies = [save.body for save in saves]
        rows = {row["place"]: row for row in await self._fetch("save", self._now(), locks, batch.decode(), bodies)}
        return [rows.get(place) for place in range(1, len(saves) + 1)]

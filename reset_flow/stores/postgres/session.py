"""What a store holds in one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from reset_flow.stores.batcher import Batcher
from reset_flow.stores.postgres.connections import Pool, driver_errors, is_per_row_error
from reset_flow.stores.postgres.notifications import Notifications, notification_name
from reset_flow.stores.postgres.schema import create_tables
from reset_flow.stores.statements import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.stores.postgres.connections import Server
    from reset_flow.stores.postgres.rows import Save

__all__ = ["Session"]

# Each key of a batch takes a lock: 64 saves stay far below a server's room for them (6400, unless configured).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256
CALLERS_AT_ONCE = 1_000_000


class Session:
    """
    Connections, and the batches that wait for them.

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
        self._pool = Pool(server, connections + 2)
        self._others = asyncio.Semaphore(connections)
        self._is_open = False
        self._openings: Batcher[None] = Batcher(self._open, CALLERS_AT_ONCE)
        self.notifications = Notifications(server, f"{prefix}_changed")
        self.loads: Batcher[str] = Batcher(self._load_all, LOADS_AT_ONCE)
        self.saves: Batcher[Save] = Batcher(self._save_all, SAVES_AT_ONCE, is_per_job_error=is_per_row_error)

    async def open(self) -> None:
        """
        Prepare the tables; call it before anything else, however often.

        Raises:
            ConfigurationError: The tables can't be created, or are of a newer release.
        """
        if not self._is_open:
            await self._openings.run(None)

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement, by its name, that is neither a save nor a load: those always find a connection left."""
        async with self._others:
            return await self._pool.fetch(self._sql[statement], *values)

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        self.notifications.stop()
        for batcher in (self._openings, self.saves, self.loads):
            await batcher.finish()
        try:
            async with asyncio.timeout(self._timeout):
                await self.notifications.close()
                await self._pool.close()
        except driver_errors():
            self.notifications.terminate()
            self._pool.terminate()
            await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    async def _open(self, callers: list[None]) -> list[None]:
        if not self._is_open:
            await create_tables(self._pool, self._prefix)
            self._is_open = True
        return callers

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
                self.notifications.wake(notification_name(save.flow_id))
        return [not_saved.get(place) for place in range(1, len(saves) + 1)]

"""What a store holds in one event loop; it makes the tables, whose names begin with the prefix of the store."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, ResetFlowError, StoreUnavailable
from reset_flow.stores.batcher import Batcher, copy_error
from reset_flow.stores.postgres.connections import LIFETIME, driver, is_per_row_error
from reset_flow.stores.session import CLOSED
from reset_flow.stores.statements import script, statements
from reset_flow.stores.waiters import PING_INTERVAL, Listener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from reset_flow.stores.postgres.connections import Pool
    from reset_flow.stores.postgres.rows import Save

SCHEMA = 1
"""The version of the tables that this release makes and works with; `schema.sql` writes it into them."""

OLDEST_SERVER = 12
CREATION_TIMEOUT = 60

# How often, in seconds, a waiter looks for a change: with notifications, which may get lost, and without.
POLL = 5.0
POLL_UNNOTIFIED = 0.5

# Each key of a batch takes a lock: 64 saves stay far below a server's room for them (6400, unless configured).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256


class Session:
    """
    Connections, and the batches that wait for them. The first save creates the tables; before it, nothing is found.

    Attributes:
        saves: Returns `None` for what was saved, and else its row of the function `save`.

        loads: Returns the row of an id, or `None`.

    Args:
        connections: How many may be used for other things than saves, loads and notifications.

        now: Returns the time that judges leases and uses, or `None` for the server's.
    """

    def __init__(
        self, make_pool: Callable[[], Pool], prefix: str, connections: int, now: Callable[[], int | None]
    ) -> None:
        self._prefix = prefix
        self._now = now
        self._sql = statements("postgres", prefix)
        self._pool = make_pool()
        self._connections = connections
        self._others = asyncio.Semaphore(connections)
        self._attempts: dict[Callable[[], Coroutine[Any, Any, bool]], asyncio.Task[bool]] = {}  # to find or make tables
        self._is_open = False
        self.notifications = _Notifications(self._pool, f"{prefix}_changed")
        self.loads: Batcher[str] = Batcher(self._load_all, LOADS_AT_ONCE)
        self.saves: Batcher[Save] = Batcher(self._save_all, SAVES_AT_ONCE, is_per_job_error=is_per_row_error)

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement, by its name, that is neither a save nor a load: those always find a connection left."""
        if not self._is_open and not await self._open():
            return []
        async with self._others:
            return await self._fetch(statement, *values)

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        self.notifications.stop()
        await self.saves.finish()
        await self.loads.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pool.connect_timeout):
                for _ in range(self._connections):
                    await self._others.acquire()
        if attempts := list(self._attempts.values()):
            for attempt in attempts:
                attempt.cancel()
            await asyncio.wait(attempts)
        await self.notifications.close()
        self._pool.terminate()
        await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    async def _fetch(self, statement: str, *values: Any, create: bool = False) -> list[Any]:
        if not self._is_open and not await self._open(create=create):
            return []
        return await self._pool.fetch(self._sql[statement], *values)

    async def _open(self, *, create: bool = False) -> bool:
        """Return True if the tables are there, or are created because that is wanted."""
        self._is_open = await self._shared(self._find_tables) or (create and await self._shared(self._create_tables))
        return self._is_open

    async def _shared(self, work: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        """Return the result of the work. All that wait share one attempt: a silent server is waited for once."""
        attempt = self._attempts.get(work)
        if attempt is None:
            attempt = self._attempts[work] = asyncio.create_task(work())
            attempt.add_done_callback(partial(self._end_attempt, work))
        try:
            result = await asyncio.shield(attempt)
        except ResetFlowError as error:
            raise copy_error(error) from error.__cause__
        if self.notifications.stopped:
            raise StoreUnavailable(CLOSED)
        return result

    def _end_attempt(self, work: Callable[[], Coroutine[Any, Any, bool]], attempt: asyncio.Task[bool]) -> None:
        del self._attempts[work]
        if not attempt.cancelled():
            attempt.exception()  # those who waited may all have given up: asyncio would log it

    async def _find_tables(self) -> bool:
        return await self._exist(self._pool.fetch)

    async def _create_tables(self) -> bool:
        asyncpg = driver()
        try:
            async with self._pool.transaction(CREATION_TIMEOUT) as connection:
                # Of many workers that open an empty database at once, one creates the tables.
                await connection.execute(self._sql["lock_schema"])
                await connection.execute(f"SET LOCAL statement_timeout = '{CREATION_TIMEOUT}s'")
                if not await self._exist(connection.fetch):
                    await connection.execute(script("postgres", "schema.sql", self._prefix))
        except StoreUnavailable as error:
            if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError | asyncpg.InvalidSchemaNameError):
                raise ConfigurationError(
                    f"the tables {self._prefix}_* can't be created in this database: grant its user CREATE on a schema "
                    "of its search path, or save once as a user who may"
                ) from error.__cause__
            raise
        return True

    async def _exist(self, fetch: Callable[[str], Awaitable[list[Any]]]) -> bool:
        ((found, encoding, server),) = await fetch(self._sql["find_schema"])
        if encoding != "UTF8" or server < OLDEST_SERVER * 10000:
            raise ConfigurationError(f"the database must be of PostgreSQL {OLDEST_SERVER} or newer, and UTF-8")
        if not found:
            return False
        ((version,),) = await fetch(self._sql["read_schema"])
        if version is None or version > SCHEMA:
            raise ConfigurationError(
                f"the tables have schema {version}, and this release knows {SCHEMA}: a newer one wrote them, run that, "
                "or choose another prefix"
            )
        return True

    async def _load_all(self, flow_ids: list[str]) -> list[Any]:
        rows = {row["id"]: row for row in await self._fetch("load", self._now(), flow_ids)}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, saves: list[Save]) -> list[Any]:
        locks = sorted({lock for save in saves for lock in save.locks})
        batch = b"[%b]" % b",".join([save.json for save in saves])
        bodies = [save.body for save in saves]
        values = self._now(), locks, batch.decode(), bodies
        rows = {row["place"]: row for row in await self._fetch("save", *values, create=True)}
        return [rows.get(place) for place in range(1, len(saves) + 1)]


class _Notifications(Listener[int]):
    """Wakes tasks, by the notification names of their flows."""

    def __init__(self, pool: Pool, channel: str) -> None:
        super().__init__(POLL_UNNOTIFIED)
        self._pool = pool
        self._channel = channel

    async def receive(self) -> None:
        """Wake tasks until the connection is lost, does not answer, or is to be opened anew."""
        if self._pool.pooled:
            return
        connection = await self._pool.connect()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            if self._pool.pooled:
                return
            async with asyncio.timeout(self._pool.connect_timeout):
                await connection.add_listener(self._channel, self._on_notification)
            self.poll = POLL
            self.connected()
            for _ in range(int(LIFETIME / PING_INTERVAL)):
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING_INTERVAL):
                        await lost.wait()
                        return
                await self._pool.check(connection)
        finally:
            connection.terminate()
            self.poll = POLL_UNNOTIFIED
            self.wake_all()

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for name in payload.split():
            if name.isdecimal():
                self.wake(int(name))

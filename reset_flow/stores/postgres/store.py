"""
Flows in PostgreSQL, for any number of workers.

A round trip and a commit cost more than what is done in them. So whatever waits to be saved is saved by one call of one
function in one transaction, and meanwhile the next ones gather; likewise for what waits to be loaded.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import (
    ConfigurationError,
    FlowNotFound,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.domain.secret import Secret
from reset_flow.stores.postgres.batcher import copy
from reset_flow.stores.postgres.connections import Server, check_dsn
from reset_flow.stores.postgres.rows import Save, readable, record_of, storable
from reset_flow.stores.postgres.session import NEVER, SAVED, STALE, Session
from reset_flow.stores.postgres.statements import check_prefix, statements
from reset_flow.stores.rows import micros, to_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.ports import Charge, Query, Record

__all__ = ["PostgresStore"]

PAGE = 50
PIECE = 256

# Seconds.
POLL = 5.0
POLL_UNHEARD = 0.5

MAX = 2**63 - 1


class PostgresStore:
    """
    Keeps records in tables of a PostgreSQL database (12 or newer, UTF-8), which it creates where they are missing.

    Any number of processes may share them. A store is used by one event loop at a time, and opened after a fork, not
    before. What was saved is on disk (`synchronous_commit` is never off). A scan skips rows that were damaged beyond
    reading, `load` raises `RecordUnreadable` for them. A call raises `ConfigurationError` where the tables can't be
    made, or are those of a newer release. It needs connections of its own: a pooler in between must pool by session.

    Args:
        dsn: `postgresql://user:password@host/database`, with the options that libpq has; shown in no message.

        prefix: What the names of the tables begin with, behind the schema that the user's search path puts first.

        connections: At most so many for scans and purges; saves and loads have one each, and so has whoever waits for
            changes.

        connect_timeout: How long a connection may take, before `StoreUnavailable`.

        statement_timeout: How long a statement may.

        clock: For tests: what leases and budgets are judged by instead of the server's clock.
    """

    durable = True

    def __init__(
        self,
        dsn: str | Secret,
        *,
        prefix: str = "reset_flow",
        connections: int = 2,
        connect_timeout: timedelta = timedelta(seconds=5),
        statement_timeout: timedelta = timedelta(seconds=10),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        dsn = Secret(dsn)
        check_prefix(prefix)
        if connections < 1 or min(connect_timeout, statement_timeout) <= timedelta(0):
            raise ConfigurationError("connections and timeouts must be above zero")
        check_dsn(dsn)
        self._sql = statements(prefix)
        self._prefix = prefix
        self._clock = clock
        self._server = Server(
            dsn,
            connections,
            connect_timeout.total_seconds(),
            statement_timeout.total_seconds(),
            self._sql["prepare"],
        )
        self._session: Session | None = None
        self._opening: asyncio.Task[Session | ResetFlowError] | None = None
        self._closed = False

    async def save(self, record: Record, *, charges: Sequence[Charge] = ()) -> None:
        """As the port says. One that is cancelled may have been written, or not."""
        row = to_row(record)
        if "\0" in record.id or "\0" in record.realm:
            raise InvalidInput("PostgreSQL can't store a text with a null character")
        session = await self._open()
        code = await session.saves.add(Save(row, tuple(charges)))
        if code == STALE:
            raise StaleRecord(record.id, record.version)
        if code != SAVED:
            raise LimitReached("uses of this budget", None if code == NEVER else timedelta(microseconds=code))

    async def load(self, flow_id: str) -> Record:
        """
        As the port says.

        Raises:
            RecordUnreadable: The row is damaged.
        """
        row = await self._find(flow_id)
        try:
            return record_of(row)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says. A page at a time is read; what is saved meanwhile may be seen or not."""
        if not storable(query.after):
            raise InvalidInput("no id is like the one to go on from")
        if not storable(query.realm):
            return
        session = await self._open()
        left = limit
        identifier, number, due = query.after, 0 if query.due else MAX, -MAX
        while left > 0:
            size = min(left, PAGE)
            if query.due:
                rows = await session.pool.fetch(self._sql["scan_due"], self._now(), query.realm, due, number, size)
            elif query.lookup is not None:
                rows = await session.pool.fetch(self._sql["scan_lookup"], self._now(), query.lookup, number, size)
            else:
                rows = await session.pool.fetch(self._sql["scan_ids"], self._now(), identifier, size)
            for record in readable(rows):
                if _wanted(record, query):
                    yield record
                    left -= 1
            if len(rows) < size:
                return
            identifier, number, due = rows[-1]["id"], rows[-1]["number"], rows[-1]["due"]

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        As the port says: at once for what any store saves, and within seconds if the server can't notify this one.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        pause = 0.0  # what was saved before one listened is not heard: look once more
        session = await self._open()
        with session.listener.watching(flow_id) as event:
            while (await self._find(flow_id))[2] <= version and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await event.wait()
                event.clear()
                if (left := end - now()) > 0:
                    self._check_open()
                    pause = POLL if await session.listener.listen(left) else POLL_UNHEARD

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says, in small transactions. What others are busy with is left for the next time."""
        session = await self._open()
        purged = 0
        while purged < limit and storable(realm):
            size = min(limit - purged, PIECE)
            gone = await session.pool.fetch(self._sql["purge_flows"], realm, micros(before), size)
            purged += len(gone)
            for (flow_id,) in gone:
                session.listener.wake(flow_id)
            if len(gone) < size:
                break
        while len(await session.pool.fetch(self._sql["purge_uses"], self._now(), PIECE)) == PIECE:
            pass
        return purged

    async def aclose(self) -> None:
        """As the port says. What was waiting to be saved is saved."""
        self._closed = True
        opening, self._opening = self._opening, None
        session, self._session = self._session, None
        loop = asyncio.get_running_loop()
        if opening is not None and opening.get_loop() is loop:
            opening.cancel()
            await asyncio.wait([opening])
        if session is not None:
            session.listener.stop()
            if session.loop is loop:
                await session.close()

    def _now(self) -> int | None:
        return None if self._clock is None else micros(self._clock())

    async def _find(self, flow_id: str) -> Any:
        session = await self._open()
        row = await session.loads.add(flow_id) if storable(flow_id) else None
        if row is None:
            raise FlowNotFound(flow_id)
        return row

    async def _open(self) -> Session:
        """The session of this loop; opened by the first who asks, awaited by all."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._session is not None and self._session.usable(loop):
            return self._session
        opening = self._opening
        if opening is None or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._try_to_open())
        # Who is cancelled while waiting leaves the opening to the others.
        await asyncio.wait([opening])
        self._check_open()
        session = opening.result()
        if isinstance(session, ResetFlowError):
            raise copy(session)
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")

    async def _try_to_open(self) -> Session | ResetFlowError:
        """-> the session or why not: nobody may be left who takes an error that is raised"""
        try:
            session = Session(self._server, self._prefix, self._now)
            await session.open()
        except ResetFlowError as error:
            return error
        else:
            self._session = session
            return session
        finally:
            self._opening = None


def _wanted(record: Record, query: Query) -> bool:
    """What the statement left to be asked."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )

"""
Flows in PostgreSQL, for any number of workers.

A round trip and a commit cost more than the work in them. So all saves that wait are done by one call of a function in
one transaction, while the next ones gather; likewise loads.
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
from reset_flow.stores.postgres.batcher import copy_error
from reset_flow.stores.postgres.connections import Server, check_dsn
from reset_flow.stores.postgres.rows import is_storable, record_of, records_of, to_save
from reset_flow.stores.postgres.schema import check_prefix, statements
from reset_flow.stores.postgres.session import Session
from reset_flow.stores.rows import micros

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.ports import Query, Record, Use, UseName

__all__ = ["PostgresStore"]

PAGE = 50
"""How many rows a scan reads at once."""

PURGE_BATCH = 256
"""How many rows a purge deletes in one transaction."""

# How often, in seconds, a waiter looks for a change: with notifications, which may get lost, and without.
POLL_INTERVAL = 5.0
POLL_INTERVAL_UNNOTIFIED = 0.5

MAX = 2**63 - 1


class PostgresStore:
    """
    Keeps records in tables of a PostgreSQL database (12 or newer, UTF-8), which it creates where they are missing.

    Any number of processes may share them. A store is used by one event loop at a time, and opened after a fork, not
    before. A save that returned is on disk (`synchronous_commit` is never off). A scan skips rows that were damaged
    beyond reading; `load` raises `RecordUnreadable` for them. A call raises `ConfigurationError` where the tables can't
    be created, or are those of a newer release. A pooler in between must pool by session.

    Args:
        dsn: `postgresql://user:password@host/database`, with the options of libpq; shown in no message.

        prefix: Begins the names of the tables, which are in the first schema of the user's search path.

        connections: How many scans and purges use at most. Saves, loads and notifications have one more each.

        connect_timeout: How long connecting may take, before `StoreUnavailable`.

        statement_timeout: How long a statement may take, before `StoreUnavailable`.

        clock: For tests: judges leases and uses instead of the server's clock.
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
        self._prefix = prefix
        self._clock = clock
        self._server = Server(
            dsn,
            connections,
            connect_timeout.total_seconds(),
            statement_timeout.total_seconds(),
            statements(prefix)["setup"],
        )
        self._session: Session | None = None
        self._opening: asyncio.Task[Session | ResetFlowError] | None = None
        self._closed = False

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """Save as the port says. A save that is cancelled may have been written, or not."""
        save = to_save(record, add, drop)
        session = await self._open()
        failure = await session.saves.run(save)
        if failure is None:
            return
        if failure["refused"] is None:
            raise StaleRecord(record.id, record.version)
        waits = failure["waits"]
        retry_after = None if None in waits else timedelta(microseconds=max(waits))
        raise LimitReached("uses", retry_after, keys=tuple(failure["refused"]))

    async def load(self, flow_id: str) -> Record:
        """
        Load as the port says.

        Raises:
            RecordUnreadable: The row is damaged.
        """
        row = await self._find(flow_id)
        try:
            return record_of(row)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """Scan as the port says, a page at a time. Concurrent saves may be seen or not."""
        if not is_storable(query.after):
            raise InvalidInput("no id is like the one to go on from")
        if not is_storable(query.realm):
            return
        session = await self._open()
        left = limit
        identifier, number, due = query.after, 0 if query.due else MAX, -MAX
        while left > 0:
            size = min(left, PAGE)
            if query.due:
                rows = await session.fetch("scan_due", self._now(), query.realm, due, number, size)
            elif query.lookup is not None:
                rows = await session.fetch("scan_lookup", self._now(), query.lookup, number, size)
            else:
                rows = await session.fetch("scan_ids", self._now(), identifier, size)
            for record in records_of(rows):
                if _matches(record, query):
                    yield record
                    left -= 1
            if len(rows) < size:
                return
            identifier, number, due = rows[-1]["id"], rows[-1]["number"], rows[-1]["due"]

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        Wait as the port says: wakes at once for saves of any store, and within seconds without notifications.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        pause = 0.0  # look once more after listening began: an earlier save was not notified
        session = await self._open()
        with session.waiters.waiting(flow_id) as event:
            while (await self._find(flow_id))[2] <= version and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await event.wait()
                event.clear()
                if (left := end - now()) > 0:
                    self._check_open()
                    pause = POLL_INTERVAL if await session.waiters.listen(left) else POLL_INTERVAL_UNNOTIFIED

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """Purge as the port says, in small transactions. Skip rows that others have locked."""
        session = await self._open()
        purged = 0
        while purged < limit and is_storable(realm):
            size = min(limit - purged, PURGE_BATCH)
            gone = await session.fetch("purge_flows", realm, micros(before), size)
            purged += len(gone)
            for (flow_id,) in gone:
                session.waiters.wake(flow_id)
            if len(gone) < size:
                break
        while len(await session.fetch("purge_uses", self._now(), PURGE_BATCH)) == PURGE_BATCH:
            pass
        return purged

    async def aclose(self) -> None:
        """Close as the port says, after the saves that wait."""
        self._closed = True
        opening, self._opening = self._opening, None
        session, self._session = self._session, None
        loop = asyncio.get_running_loop()
        if opening is not None and opening.get_loop() is loop:
            opening.cancel()
            await asyncio.wait([opening])
        if session is not None:
            session.waiters.stop()
            if session.loop is loop:
                await session.close()

    def _now(self) -> int | None:
        return None if self._clock is None else micros(self._clock())

    async def _find(self, flow_id: str) -> Any:
        session = await self._open()
        row = await session.loads.run(flow_id) if is_storable(flow_id) else None
        if row is None:
            raise FlowNotFound(flow_id)
        return row

    async def _open(self) -> Session:
        """Return the session of this loop; the first caller opens it, all await it."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._session is not None and self._session.usable(loop):
            return self._session
        opening = self._opening
        if opening is None or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._try_to_open())
        # Cancelling one caller leaves the opening to the others.
        await asyncio.wait([opening])
        self._check_open()
        session = opening.result()
        if isinstance(session, ResetFlowError):
            raise copy_error(session)
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")

    async def _try_to_open(self) -> Session | ResetFlowError:
        """Return an error instead of raising it: asyncio logs errors of tasks whose callers have all been cancelled."""
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


def _matches(record: Record, query: Query) -> bool:
    """Return True if a row of a scan's statement, which may ask for less, matches the query."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )

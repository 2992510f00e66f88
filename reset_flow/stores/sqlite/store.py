"""
Flows in one file of SQLite: the embedded default.

Writing runs in a thread, many saves to a transaction. Reads run in the event loop, by a connection of their own: they
are points on an index and take microseconds, and in WAL mode no writer holds them up.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, FlowNotFound, RecordUnreadable
from reset_flow.stores.rows import COLUMNS, micros, to_record, to_row
from reset_flow.stores.sqlite import changes, statements as sql
from reset_flow.stores.sqlite.database import is_busy, open_database
from reset_flow.stores.sqlite.writer import Writer, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from datetime import datetime

    from reset_flow.ports import Query, Record, Use, UseName

__all__ = ["SQLiteStore"]

PAGE = 50
"""Rows that a scan reads at once."""

PIECE = 256
"""Rows that a purge deletes in one transaction."""

FIRST_POLL = 0.05
LONGEST_POLL = 0.5
MAX = 2**63 - 1
TO_LEASE = len(COLUMNS) + 1
"""How many columns of a scanned row belong to the record."""


class SQLiteStore:
    """
    Keeps records in one file, which it creates (mode 0600; its folder must be there).

    Any number of processes of one machine may share the file. A store is used by one event loop at a time, and opened
    after a fork, not before. What was saved is on disk (WAL, `synchronous=FULL`). A scan skips rows that were damaged
    beyond reading, `load` raises `RecordUnreadable` for them. A call raises `ConfigurationError` where the file is no
    database of this library, or one of a newer release; the file is then left as it is.

    Args:
        clock: What leases and budgets are judged by; gives an aware time, and may be called by a thread.

        busy_timeout: How long to wait for another process that writes, before `StoreUnavailable`.
    """

    durable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], datetime] | None = None,
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ConfigurationError("an SQLite store needs the path of a file: without one, take a MemoryStore")
        self._clock = clock
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._writer = Writer(partial(open_database, os.fspath(path), busy_timeout.total_seconds()))

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """Save as the port says. A save that is cancelled may have been written, or not."""
        await self._writer.run(changes.save, to_row(record), tuple(add), tuple(drop), self._now)
        self._wake(record.id)

    async def load(self, flow_id: str) -> Record:
        """
        Load as the port says.

        Raises:
            RecordUnreadable: The row is damaged.
        """
        row = await self._find(sql.LOAD, flow_id)
        try:
            return to_record(row, self._now())
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """Scan as the port says. Reads a page at a time: what is saved meanwhile may be seen or not."""
        statement = sql.SCAN_DUE if query.due else sql.SCAN_IDS if query.lookup is None else sql.SCAN_LOOKUP
        values = {"realm": query.realm, "lookup": query.lookup, "now": self._now(), "size": PAGE}
        place: dict[str, Any] = {"id": query.after, "number": 0 if query.due else MAX, "due": -MAX}
        left = limit
        while left > 0:
            rows = await self._read(statement, values | place)
            for record in _readable(rows, self._now()):
                if _matches(record, query):
                    yield record
                    left -= 1
                    if left == 0:
                        return
            if len(rows) < PAGE:
                return
            place = {"id": rows[-1][0], "number": rows[-1][TO_LEASE], "due": rows[-1][TO_LEASE + 1]}
            await asyncio.sleep(0)

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        Wait as the port says: returns at once for a save of this store, within half a second for one of another.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        pause = FIRST_POLL
        event = asyncio.Event()
        self._watchers.setdefault(flow_id, set()).add(event)
        try:
            while (await self._find(sql.VERSION, flow_id))[0] <= version and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await event.wait()
                event.clear()
                pause = min(2 * pause, LONGEST_POLL)
        finally:
            self._watchers[flow_id].discard(event)
            if not self._watchers[flow_id]:
                del self._watchers[flow_id]

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """Purge as the port says, in pieces: saves of others come between them."""
        purged = 0
        while purged < limit:
            size = min(limit - purged, PIECE)
            piece = await self._writer.run(changes.purge_flows, realm, micros(before), size)
            purged += piece
            if piece < size:
                break
        key: bytes | None = b""
        while key is not None:
            key = await self._writer.run(changes.purge_uses, key, self._now(), PIECE)
        return purged

    async def aclose(self) -> None:
        """Close as the port says. What was waiting to be saved is saved."""
        for flow_id in self._watchers:
            self._wake(flow_id)
        await self._writer.aclose()

    def _now(self) -> int:
        return time.time_ns() // 1000 if self._clock is None else micros(self._clock())

    def _wake(self, flow_id: str) -> None:
        for event in self._watchers.get(flow_id, ()):
            with suppress(RuntimeError):  # of another loop, which has ended
                event.set()

    async def _find(self, statement: str, flow_id: str) -> tuple[Any, ...]:
        try:
            rows = await self._read(statement, (flow_id,))
        except UnicodeEncodeError:  # a name that can't be written names no flow
            rows = []
        if not rows:
            raise FlowNotFound(flow_id)
        return rows[0]

    async def _read(self, statement: str, values: Any) -> list[tuple[Any, ...]]:
        database = await self._writer.database()
        try:
            return _fetch(database.reader, statement, values)
        except sqlite3.Error as error:
            if not is_busy(error):
                raise unavailable(error) from error
        # Another process repairs or closes the log; the loop must not wait for it.
        rows: list[tuple[Any, ...]] = await self._writer.run(_fetch, statement, values)
        return rows


def _fetch(db: sqlite3.Cursor, statement: str, values: Any) -> list[tuple[Any, ...]]:
    # To the end: a statement that is left half-way holds a snapshot, and the log can't be reused.
    return db.execute(statement, values).fetchall()


def _readable(rows: list[tuple[Any, ...]], now: int) -> Iterator[Record]:
    for row in rows:
        with suppress(ValueError):
            yield to_record(row[:TO_LEASE], now)


def _matches(record: Record, query: Query) -> bool:
    """Return whether a record meets the conditions that the statement left out."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )

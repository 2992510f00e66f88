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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, FlowNotFound
from reset_flow.ports import Store
from reset_flow.stores.rows import PAGE, Place, micros, scan_pages, to_record, to_row
from reset_flow.stores.sqlite import backup, changes
from reset_flow.stores.sqlite.changes import SQL
from reset_flow.stores.sqlite.database import is_busy, open_database
from reset_flow.stores.sqlite.writer import Writer, unavailable
from reset_flow.stores.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.ports import Query, Record, Use, UseName
    from reset_flow.stores.sqlite.open_file import OpenFile

PIECE = 256
"""Rows that a purge deletes in one transaction."""

POLL = 0.25
"""Seconds between two looks at a flow that is waited for: nobody hears of saves by other stores."""


class SQLiteStore(Store):
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
        name = _decoded(path, "an SQLite store")
        if name in ("", ":memory:"):
            raise ConfigurationError("an SQLite store needs the path of a file: without one, take a MemoryStore")
        self._clock = clock
        self._waiters: Waiters[str] = Waiters(POLL)
        # Absolute: the process may change its folder before the file is opened, and after.
        try:
            self._path = str(Path(name).absolute())
        except FileNotFoundError:
            raise ConfigurationError(f"the folder of this process is gone: give {name} by its whole path") from None
        self._busy_timeout = busy_timeout.total_seconds()
        self._writer = Writer(partial(open_database, self._path, self._busy_timeout))

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        row = to_row(record) | {"replaces": record.replaces}
        await self._writer.run(changes.save, row, tuple(add), tuple(drop), self._now)
        self._waiters.wake(record.id)

    async def load(self, flow_id: str) -> Record:
        try:
            rows = await self._read("load", {"id": flow_id})
        except UnicodeEncodeError:  # a name that can't be written names no flow
            rows = []
        if not rows:
            raise FlowNotFound(flow_id)
        return to_record(rows[0], self._now())

    def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        async def fetch(statement: str, place: Place) -> list[Any]:
            after, number, due = place
            values = {"realm": query.realm, "lookup": query.lookup, "now": self._now(), "size": PAGE}
            return await self._read(statement, values | {"id": after, "number": number, "due": due})

        return scan_pages(query, limit, fetch, lambda row: to_record(row, self._now()))

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._waiters.wait(flow_id, version, timeout, partial(self.load, flow_id))

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
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

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """
        Copy all that was saved to a new file, which is then complete in itself. Others may save meanwhile.

        Raises:
            ConfigurationError: The file exists, or there is no database.
        """
        target = _decoded(path, "a backup")
        if not await asyncio.to_thread(os.path.exists, self._path):
            raise ConfigurationError(f"there is no database at {self._path}: check the address of the store")
        await self._copy(backup.back_up, target)

    async def restore(self, path: str | os.PathLike[str]) -> None:
        """
        Replace all that is stored by what is in a backup, for every process at once.

        Raises:
            ConfigurationError: The file is no backup of a store, or is damaged.
        """
        await self._copy(backup.restore, _decoded(path, "a backup"))
        self._waiters.wake_all()

    async def _copy(self, work: Callable[[OpenFile, str, float], None], path: str) -> None:
        database = await self._writer.database()
        await asyncio.to_thread(work, database.file, path, self._busy_timeout)
        await self._writer.look()

    async def aclose(self) -> None:
        self._waiters.stop()
        await self._writer.aclose()

    def _now(self) -> int:
        return time.time_ns() // 1000 if self._clock is None else micros(self._clock())

    async def _read(self, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        database = await self._writer.database()
        try:
            return database.read(SQL[statement], values)
        except sqlite3.Error as error:
            if not (is_busy(error) or database.closed):
                await asyncio.to_thread(database.explain, error)
                raise unavailable(error) from error
        # Another process repairs or closes the log, and the loop must not wait for it; or the file was replaced.
        rows: list[tuple[Any, ...]] = await self._writer.run(_fetch, statement, values)
        return rows


def _decoded(path: str | os.PathLike[str], what: str) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise ConfigurationError(f"{what} needs the path of a file, as text or as a Path") from None
    if "\0" in name:
        raise ConfigurationError(f"the path of {what} can't have a null character in it")
    return name


def _fetch(db: sqlite3.Cursor, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    return db.execute(SQL[statement], values).fetchall()

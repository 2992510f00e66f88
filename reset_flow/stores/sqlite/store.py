"""
Flows in one file of SQLite: the embedded default.

Whatever waits to be written, from however many flows, is committed in one transaction, because it is the commits that
cost: they wait for the disk, in a thread unless they are sure to be short. All else takes microseconds and happens in
the event loop: to ask another thread takes longer. Reads are points on an index, by a connection of their own: in WAL
mode no writer holds them up.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError, FlowNotFound, RecordUnreadable, StoreUnavailable
from reset_flow.stores.rows import COLUMNS, micros, to_record
from reset_flow.stores.sqlite import changes, statements as sql
from reset_flow.stores.sqlite.writer import Writer, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from reset_flow.ports import Charge, Query, Record
    from reset_flow.stores.sqlite.writer import Cursor

__all__ = ["SQLiteStore"]

SCHEMA = 1
"""`PRAGMA user_version` of the databases that this file writes."""

MIGRATIONS: dict[int, str] = {0: "schema.sql"}
"""For each older schema, the script beside this file that makes the next one of it; 0 is an empty database."""

APPLICATION_ID = 0x72666C77
OLDEST_SQLITE = (3, 37)

LOG_PAGES = 1000
"""How long the log may grow before it is written back; SQLite's own figure."""

PAGE = 50
PIECE = 256
FIRST_POLL = 0.05
LONGEST_POLL = 0.5
MAX = 2**63 - 1
TO_LEASE = len(COLUMNS) + 1

_OPEN: list[_Database] = []
"""
Every database that is open, those that a fork inherited among them. An inherited connection must be neither used nor
closed. Nor can the file be opened anew beside it: SQLite counts its locks by process, and would take those that the
parent holds for its own; the parent's last close then deletes the log that the child writes to.
"""


@attrs.define(eq=False)
class _Database:
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    file: tuple[int, int]
    patience: float
    pid: int = attrs.field(factory=os.getpid)
    tidy: bool | None = None
    writing: sqlite3.Cursor = attrs.field(init=False)
    reading: sqlite3.Cursor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.writing, self.reading = self.writer.cursor(), self.reader.cursor()

    def begin(self) -> None:
        self.writer.execute(f"PRAGMA busy_timeout = {round(self.patience * 1000)}")
        try:
            self.writer.execute("BEGIN IMMEDIATE")
        finally:
            self.writer.execute("PRAGMA busy_timeout = 0")

    def commit(self, *, tidy: bool) -> None:
        if tidy is not self.tidy:
            self.writing.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES if tidy else 0}").fetchall()
            self.tidy = tidy
        self.writing.execute("COMMIT")

    def close(self) -> None:
        self.reader.close()
        with suppress(sqlite3.Error):
            self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.writer.close()
        _OPEN.remove(self)


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
        self._now = _present if clock is None else partial(_told, clock)
        self._watched: dict[str, set[asyncio.Event]] = {}
        self._writer = Writer(partial(_open, os.fspath(path), busy_timeout.total_seconds()), self._wake)

    async def save(self, record: Record, *, charges: Sequence[Charge] = ()) -> None:
        """As the port says. One that is cancelled may have been written, or not."""
        writer, values = self._writer, (record, changes.usual(record), tuple(charges), self._now)
        done = writer.at_once(record.id, changes.save, *values) if writer.alone(record.id) else None
        outcome = done[0] if done else await writer.put(record.id, changes.save, *values)
        if outcome is not None:
            raise outcome

    async def load(self, flow_id: str) -> Record:
        """
        As the port says.

        Raises:
            RecordUnreadable: The row is damaged.
        """
        row = await self._find(sql.LOAD, flow_id)
        try:
            return to_record(row, 0 if row[-1] is None else self._now())
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says. A piece at a time is read; what is saved meanwhile may be seen or not."""
        statement = sql.SCAN_DUE if query.due else sql.SCAN_IDS if query.lookup is None else sql.SCAN_LOOKUP
        values = {"realm": query.realm, "lookup": query.lookup, "now": self._now(), "size": PAGE}
        place: dict[str, Any] = {"id": query.after, "number": 0 if query.due else MAX, "due": -MAX}
        left = limit
        while left > 0:
            rows = await self._read(statement, values | place)
            for record in _readable(rows, self._now()):
                if _wanted(record, query):
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
        As the port says: at once for what this store saves, within half a second for what others do.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        pause = FIRST_POLL
        event = asyncio.Event()
        self._watched.setdefault(flow_id, set()).add(event)
        try:
            while (await self._find(sql.VERSION, flow_id))[0] <= version and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await event.wait()
                event.clear()
                pause = min(2 * pause, LONGEST_POLL)
        finally:
            self._watched[flow_id].discard(event)
            if not self._watched[flow_id]:
                del self._watched[flow_id]

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says. Saves of others come between its pieces."""
        purged = 0
        while purged < limit:
            size = min(limit - purged, PIECE)
            values = {"realm": realm, "before": micros(before), "size": size}
            piece = await self._writer.run(changes.purge_flows, values)
            purged += piece
            if piece < size:
                break
        key: bytes | None = b""
        while key is not None:
            key = await self._writer.run(changes.purge_uses, {"key": key, "now": self._now(), "size": PIECE})
        return purged

    async def aclose(self) -> None:
        """As the port says. What was waiting to be saved is saved."""
        self._writer.stop()
        self._wake(tuple(self._watched))
        await self._writer.stopped()

    def _wake(self, flow_ids: Sequence[str]) -> None:
        if self._watched:
            for event in (event for flow_id in flow_ids for event in self._watched.get(flow_id, ())):
                with suppress(RuntimeError):  # somebody waits in another loop, which has ended
                    event.set()

    async def _find(self, statement: str, flow_id: str) -> tuple[Any, ...]:
        try:
            rows = await self._read(statement, (flow_id,))
        except UnicodeEncodeError:  # what can't be written names no flow
            rows = []
        if not rows:
            raise FlowNotFound(flow_id)
        return rows[0]

    async def _read(self, statement: str, values: Any) -> list[tuple[Any, ...]]:
        reader = self._writer.reader()
        if reader is None:
            await self._writer.run(None)
            reader = self._writer.reader()
            assert reader is not None
        try:
            return _fetch(reader, statement, values)
        except sqlite3.Error as error:
            if not _busy(error):
                raise failure(error) from error
        # Another process repairs or closes the log; the loop must not wait for it.
        found: list[tuple[Any, ...]] = await self._writer.run(_fetch, statement, values)
        return found


def _present() -> int:
    return time.time_ns() // 1000


def _told(clock: Callable[[], datetime]) -> int:
    return micros(clock())


def _fetch(db: Cursor, statement: str, values: Any) -> list[tuple[Any, ...]]:
    # To the end: a statement that is left half-way holds a snapshot, and the log can't be reused.
    rows: list[tuple[Any, ...]] = db.execute(statement, values).fetchall()
    return rows


def _busy(error: sqlite3.Error) -> bool:
    # The lower byte is the primary code, whatever detail stands above it.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _open(path: str, patience: float) -> _Database:
    """The database, created or migrated where it must be."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
    try:
        # Only ever a new file: to close a descriptor of an open database drops all its locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise StoreUnavailable(f"the folder of {path} does not exist: create it") from error
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be created: {error.strerror}") from error
    found = Path(path).stat()
    file = (found.st_dev, found.st_ino)
    if any(database.file == file and database.pid != os.getpid() for database in _OPEN):
        raise StoreUnavailable(
            f"{path} was open when this process was forked, and can't be used in it: fork before a store is opened, "
            "or start the process afresh (spawn)"
        )
    connections: list[sqlite3.Connection] = []
    try:
        for timeout in (patience, 0.0):
            db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
            # Decoded row by row: one text that is no UTF-8 must not spoil its neighbours.
            db.text_factory = bytes
            connections.append(db)
        writer, reader = connections
        _prepare(writer, path, patience)
        writer.execute("PRAGMA busy_timeout = 0")
        reader.execute("PRAGMA query_only = ON")
        database = _Database(writer, reader, file, patience)
    except BaseException as error:
        for db in connections:
            db.close()
        if isinstance(error, sqlite3.DatabaseError) and error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError(f"{path} is no SQLite database: give the store a file of its own") from error
        raise
    _OPEN.append(database)
    return database


def _prepare(db: sqlite3.Connection, path: str, patience: float) -> None:
    # Before anything is written, the mode of the journal among it.
    db.execute("BEGIN")
    _version(db, path)
    db.execute("COMMIT")
    _use_wal(db, path, time.monotonic() + patience)
    db.execute("PRAGMA synchronous = FULL")
    if _version(db, path) < SCHEMA:
        db.execute("BEGIN IMMEDIATE")
        for version in range(_version(db, path), SCHEMA):
            for statement in sql.statements(
                files("reset_flow.stores.sqlite").joinpath(MIGRATIONS[version]).read_text()
            ):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")


def _version(db: sqlite3.Connection, path: str) -> int:
    """The schema of a database that is ours; 0: empty."""
    version, application, tables = (
        db.execute(statement).fetchall()[0][0]
        for statement in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_schema")
    )
    if application != APPLICATION_ID and (version, application, tables) != (0, 0, 0):
        raise ConfigurationError(f"{path} holds something else: give the store a file of its own")
    if version > SCHEMA:
        raise ConfigurationError(
            f"{path} has schema {version}, and this release knows {SCHEMA}: it was written by a newer one, run that"
        )
    return int(version)


def _use_wal(db: sqlite3.Connection, path: str, end: float) -> None:
    while True:
        try:
            ((mode,),) = db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            # Two who switch at once would wait for each other, so SQLite refuses without waiting.
            if not _busy(error) or time.monotonic() > end:
                raise
            threading.Event().wait(0.01)
        else:
            if mode != b"wal":
                raise ConfigurationError(f"{path} can't have a write-ahead log: put it on a local file system")
            return


def _readable(rows: list[tuple[Any, ...]], now: int) -> Iterator[Record]:
    for row in rows:
        with suppress(ValueError):
            yield to_record(row[:TO_LEASE], now)


def _wanted(record: Record, query: Query) -> bool:
    """What the statement left to be asked."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )

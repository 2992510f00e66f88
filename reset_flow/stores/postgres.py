"""
Flows in PostgreSQL, for any number of workers.

A round trip and a commit cost more than what is done in them. So whatever waits to be saved is saved by one call of one
function in one transaction, and meanwhile the next ones gather; likewise for what waits to be loaded.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from contextlib import suppress
from datetime import timedelta
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zlib import crc32

import attrs

from reset_flow.errors import (
    ConfigurationError,
    FlowNotFound,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.models import printable
from reset_flow.stores.sql.rows import COLUMNS, micros, span, to_record, to_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from datetime import datetime

    from reset_flow.ports import Charge, Query, Record

__all__ = ["PostgresStore"]

SCHEMA = 1
"""The version in the schema's table that this file writes."""

MIGRATIONS: dict[int, str] = {0: "postgres.sql"}
"""For each older schema, the script in `sql/` that makes the next one of it; 0 is an empty database."""

OLDEST_SERVER = 12
PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}")

# A lock for each budget of a batch: with 64 saves it stays far below what a server has room for (6400, unless told).
SAVES_AT_ONCE = 64
LOADS_AT_ONCE = 256
PAGE = 50
PIECE = 256
POLL = 5.0
POLL_UNHEARD = 0.5
MAX = 2**63 - 1

SAVED, STALE, NEVER = 0, -1, -2
"""What the function `save` says of a record; above zero it is how long to wait."""

TO_LEASE = len(COLUMNS) + 1
CLOSED = "the store was closed: make another one"


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

        connections: At most so many, and one more while somebody waits for a change.

        connect_timeout: How long a connection may take, before `StoreUnavailable`.

        statement_timeout: How long a statement may.

        clock: For tests: what leases and budgets are judged by instead of the server's clock.
    """

    durable = True

    def __init__(
        self,
        dsn: str,
        *,
        prefix: str = "reset_flow",
        connections: int = 4,
        connect_timeout: timedelta = timedelta(seconds=5),
        statement_timeout: timedelta = timedelta(seconds=10),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        if not PREFIX.fullmatch(prefix):
            raise ConfigurationError("a prefix has at most 40 of a-z, 0-9 and _, and does not begin with a digit")
        if connections < 1 or min(connect_timeout, statement_timeout) <= timedelta(0):
            raise ConfigurationError("connections and timeouts must be above zero")
        _check_dsn(dsn)
        self._sql = _statements(prefix)
        self._prefix = prefix
        self._clock = clock
        self._server = _Server(dsn, connections, connect_timeout.total_seconds(), statement_timeout.total_seconds())
        self._session: _Session | None = None
        self._opening: asyncio.Task[Exception | None] | None = None
        self._watched: dict[int, set[asyncio.Event]] = {}
        self._closed = False

    async def save(self, record: Record, *, charges: Sequence[Charge] = ()) -> None:
        """As the port says. One that is cancelled may have been written, or not."""
        row = to_row(record)
        if not (_storable(record.id) and _storable(record.realm)):
            raise InvalidInput("PostgreSQL can't store a text with a null character")
        session = await self._open()
        code = await session.saves.add(_Save(row, tuple(charges)))
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
            return _to_record(row)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says. A page at a time is read; what is saved meanwhile may be seen or not."""
        if not _storable(query.after):
            raise InvalidInput("no id is like the one to go on from")
        if not _storable(query.realm):
            return
        session = await self._open()
        left = limit
        identifier, number, due = query.after, 0 if query.due else MAX, -MAX
        while left > 0:
            size = min(left, PAGE)
            if query.due:
                rows = await session.fetch(self._sql["scan_due"], self._now(), query.realm, due, number, size)
            elif query.lookup is not None:
                rows = await session.fetch(self._sql["scan_lookup"], self._now(), query.lookup, number, size)
            else:
                rows = await session.fetch(self._sql["scan_ids"], self._now(), identifier, size)
            for record in _readable(rows):
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
        event = asyncio.Event()
        name = _name(flow_id)
        self._watched.setdefault(name, set()).add(event)
        pause = 0.0  # what was saved before one listened is not heard: look once more
        try:
            while (await self._find(flow_id))[2] <= version and (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await event.wait()
                event.clear()
                if (left := end - now()) > 0:
                    session = await self._open()
                    pause = POLL if await session.listen(left) else POLL_UNHEARD
        finally:
            self._watched[name].discard(event)
            if not self._watched[name]:
                del self._watched[name]

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says, in small transactions. What others are busy with is left for the next time."""
        session = await self._open()
        purged = 0
        while purged < limit and _storable(realm):
            size = min(limit - purged, PIECE)
            gone = await session.fetch(self._sql["purge_flows"], realm, micros(before), size)
            purged += len(gone)
            for (flow_id,) in gone:
                self._wake(_name(flow_id))
            if len(gone) < size:
                break
        while len(await session.fetch(self._sql["purge_uses"], self._now(), PIECE)) == PIECE:
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
        self._wake_all()
        if session is not None and session.loop is loop:
            await session.close()

    def _now(self) -> int | None:
        return None if self._clock is None else micros(self._clock())

    def _wake(self, name: int) -> None:
        for event in self._watched.get(name, ()):
            event.set()

    def _wake_all(self, *_: Any) -> None:
        for name in self._watched:
            self._wake(name)

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        for name in payload.split():
            if name.isdecimal():
                self._wake(int(name))

    async def _find(self, flow_id: str) -> Any:
        session = await self._open()
        row = await session.loads.add(flow_id) if _storable(flow_id) else None
        if row is None:
            raise FlowNotFound(flow_id)
        return row

    async def _load_all(self, session: _Session, flow_ids: list[str]) -> list[Any]:
        rows = {row["id"]: row for row in await session.fetch(self._sql["load"], self._now(), flow_ids)}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, session: _Session, saves: list[_Save]) -> list[Any]:
        order = sorted(range(len(saves)), key=lambda place: saves[place].row["id"])
        values = _arguments(self._prefix, [saves[place] for place in order])
        ((codes,),) = await session.fetch(self._sql["save"], self._now(), *values)
        outcomes: list[Any] = [None] * len(saves)
        for place, code in zip(order, codes, strict=True):
            outcomes[place] = code
            if code == SAVED:
                self._wake(_name(saves[place].row["id"]))
        return outcomes

    async def _open(self) -> _Session:
        """The session of this loop; opened by the first who asks, awaited by all."""
        if self._closed:
            raise StoreUnavailable(CLOSED)
        loop = asyncio.get_running_loop()
        if self._session is not None and self._session.usable(loop):
            return self._session
        if self._opening is None or self._opening.get_loop() is not loop:
            self._opening = loop.create_task(self._try_to_open())
        error = await asyncio.shield(self._opening)
        if error is not None:
            raise _copy(error)
        if self._closed or self._session is None:
            raise StoreUnavailable(CLOSED)
        return self._session

    async def _try_to_open(self) -> Exception | None:
        """-> why not: nobody may be left who waits for it, and an error that nobody takes is reported."""
        session = _Session(self._server, self._load_all, self._save_all, self._sql, self._prefix)
        session.on_notification, session.on_silence = self._heard, self._wake_all
        try:
            await session.migrate()
        except ResetFlowError as error:
            await session.close()
            return error
        except BaseException:
            session.terminate()
            raise
        else:
            self._session = session
            return None
        finally:
            self._opening = None

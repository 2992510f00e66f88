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
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from hashlib import blake2b
from importlib.resources import files
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar
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

Job = TypeVar("Job")

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

# Seconds.
POLL = 5.0
POLL_UNHEARD = 0.5
GRACE = 1.0
MIGRATION_TIMEOUT = 60.0

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

        connections: At most so many for scans and purges; saves and loads have one each, and so has whoever waits for
            changes.

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
        connections: int = 2,
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
        self._server = _Server(
            dsn,
            connections,
            connect_timeout.total_seconds(),
            statement_timeout.total_seconds(),
            self._sql["prepare"],
        )
        self._session: _Session | None = None
        self._opening: asyncio.Task[_Session | ResetFlowError] | None = None
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

    async def _load_all(self, line: _Line, flow_ids: list[str]) -> list[Any]:
        rows = {row["id"]: row for row in await line.fetch(self._sql["load"], self._now(), flow_ids)}
        return [rows.get(flow_id) for flow_id in flow_ids]

    async def _save_all(self, line: _Line, saves: list[_Save]) -> list[Any]:
        order = sorted(range(len(saves)), key=lambda place: saves[place].row["id"])
        values = _arguments(self._prefix, [saves[place] for place in order])
        ((codes,),) = await line.fetch(self._sql["save"], self._now(), *values)
        outcomes: list[Any] = [None] * len(saves)
        for place, code in zip(order, codes, strict=True):
            outcomes[place] = code
            if code == SAVED:
                self._wake(_name(saves[place].row["id"]))
        return outcomes

    async def _open(self) -> _Session:
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
            raise _copy(session)
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(CLOSED)

    async def _try_to_open(self) -> _Session | ResetFlowError:
        """-> the session or why not: nobody may be left who takes an error that is raised"""
        try:
            session = _Session(self._server, self._load_all, self._save_all, self._heard, self._wake_all)
            try:
                await session.migrate(self._sql, self._prefix)
            except BaseException:
                session.terminate()
                raise
        except ResetFlowError as error:
            return error
        else:
            self._session = session
            return session
        finally:
            self._opening = None


@attrs.frozen
class _Server:
    dsn: str = attrs.field(repr=False)
    connections: int
    connect_timeout: float
    statement_timeout: float
    prepare: str

    async def connect(self) -> Any:
        """A connection beside the pool."""
        with _dsn_kept():
            connection = await _driver().connect(self.dsn, timeout=self.connect_timeout)
        async with _given_up(connection, self.connect_timeout):
            await self._prepare(connection)
        return connection

    def pool(self) -> Any:
        """Not yet connected, and without the round trip that a pool spends on each connection that comes back."""
        return _driver().create_pool(
            self.dsn,
            min_size=0,
            max_size=self.connections,
            timeout=self.connect_timeout,
            init=self._prepare,
            reset=_as_it_is,
        )

    async def _prepare(self, connection: Any) -> None:
        await connection.fetch(self.prepare, str(int(self.statement_timeout * 1000)))


async def _as_it_is(_connection: Any) -> None:
    """No statement of this file leaves anything behind in its session."""


class _Session:
    """What belongs to one event loop: the connections, and what waits for them."""

    def __init__(
        self,
        server: _Server,
        load_all: Callable[[_Line, list[str]], Awaitable[list[Any]]],
        save_all: Callable[[_Line, list[_Save]], Awaitable[list[Any]]],
        heard: Callable[..., None],
        unheard: Callable[..., None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._lines = (_Line(server), _Line(server))
        self.loads: _Lane[str] = _Lane(partial(load_all, self._lines[0]), LOADS_AT_ONCE)
        self.saves: _Lane[_Save] = _Lane(partial(save_all, self._lines[1]), SAVES_AT_ONCE)
        self._pid = os.getpid()
        self._server = server
        self._pool = server.pool()
        self._heard, self._unheard = heard, unheard
        self._channel = ""
        self._ear: Any = None
        self._ear_lock = asyncio.Lock()
        self._closing = False

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        """
        Whether it is of this loop; if not, whoever asks may open another one.

        Raises:
            StoreUnavailable: It is of another process.
            ConfigurationError: Its loop still runs.
        """
        if self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")
        if self.loop is not loop and not self.loop.is_closed():
            raise ConfigurationError("the store is in use by another event loop: make one for each loop")
        return self.loop is loop

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """All rows, in a transaction of its own."""
        async with self._connection(self._server.statement_timeout + GRACE) as connection:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows

    async def listen(self, patience: float) -> bool:
        """Whether notifications are heard from now on."""
        with suppress(*_failures()):
            async with asyncio.timeout(patience), self._ear_lock:
                if self._ear is None or self._ear.is_closed():
                    ear = await self._server.connect()
                    try:
                        await ear.add_listener(self._channel, self._heard)
                    except BaseException:
                        ear.terminate()
                        raise
                    ear.add_termination_listener(self._unheard)
                    self._ear = ear
                    if self._closing:  # it came too late to be closed with the others
                        ear.terminate()
            return True
        return False

    async def migrate(self, sql: dict[str, str], prefix: str) -> None:
        """
        Have the tables as this release wants them.

        Raises:
            ConfigurationError: They can't be had.
        """
        self._channel = f"{prefix}_changed"
        await self._pool
        if await self._version(sql) == SCHEMA:
            return
        driver = _driver()
        try:
            async with self._connection(MIGRATION_TIMEOUT) as connection, connection.transaction():
                # Of many who open an empty database at once, one makes the tables.
                await connection.execute(f"SELECT pg_advisory_xact_lock({_lock(prefix, b'schema')})")
                await connection.execute(f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT:.0f}s'")
                for version in range(await self._version(sql, connection), SCHEMA):
                    await connection.execute(_script(MIGRATIONS[version], prefix))
        except StoreUnavailable as error:
            if isinstance(error.__cause__, driver.InsufficientPrivilegeError | driver.InvalidSchemaNameError):
                raise ConfigurationError(
                    f"the tables {prefix}_* can't be made in this database: have its user granted CREATE on a schema "
                    "of its search path, or open the store once as one who may"
                ) from error.__cause__
            raise

    async def _version(self, sql: dict[str, str], connection: Any = None) -> int:
        fetch = self.fetch if connection is None else connection.fetch
        ((found, encoding, server),) = await fetch(sql["find_schema"])
        if encoding != "UTF8" or server < OLDEST_SERVER * 10000:
            raise ConfigurationError(f"the database must be of PostgreSQL {OLDEST_SERVER} or newer, and UTF-8")
        if not found:
            return 0
        ((version,),) = await fetch(sql["read_schema"])
        if version is None or version > SCHEMA:
            raise ConfigurationError(
                f"the tables have schema {version}, and this release knows {SCHEMA}: they were written by a newer one, "
                "run that, or choose another prefix"
            )
        return int(version)

    @asynccontextmanager
    async def _connection(self, patience: float) -> AsyncIterator[Any]:
        with _translated():
            with _dsn_kept():
                connection = await self._pool.acquire(timeout=self._server.connect_timeout)
            try:
                async with _given_up(connection, patience):
                    yield connection
            finally:
                await self._pool.release(connection)

    async def close(self) -> None:
        """Finish what waits, then close the connections."""
        self._closing = True
        await self.saves.finish()
        await self.loads.finish()
        try:
            async with asyncio.timeout(self._server.connect_timeout):
                for line in self._lines:
                    await line.close()
                if self._ear is not None:
                    await self._ear.close()
                await self._pool.close()
        except _failures():
            self.terminate()
            await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop

    def terminate(self) -> None:
        """Drop the connections."""
        for line in self._lines:
            line.terminate()
        if self._ear is not None:
            self._ear.terminate()
        self._pool.terminate()


class _Line:
    """One connection that is kept, for one user at a time: a pool's ways of lending cost as much as a statement."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._connection: Any = None

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """All rows, in a transaction of its own."""
        with _translated():
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._server.connect()
            async with _given_up(self._connection, self._server.statement_timeout + GRACE):
                rows: list[Any] = await self._connection.fetch(statement, *values)
                return rows

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    def terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()


class _Lane(Generic[Job]):
    """
    Does what waits together. What comes meanwhile waits in its turn.

    Args:
        work: Gives an outcome for each job.

        most: How many jobs it gets at once.
    """

    def __init__(self, work: Callable[[list[Job]], Awaitable[list[Any]]], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[Job, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, job: Job) -> Any:
        """The outcome of a job. Who is cancelled while waiting disturbs nobody."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((job, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def finish(self) -> None:
        """Return once nothing waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        batch: list[tuple[Job, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                batch = [(job, future) for job, future in taken if not future.done()]
                if batch:
                    _tell(batch, await self._outcomes([job for job, _ in batch]))
        finally:
            self._task = None
            if rest := [*batch, *self._waiting]:  # none, unless the loop is being shut down
                self._waiting.clear()
                _tell(rest, [StoreUnavailable("the event loop is ending") for _ in rest])

    async def _outcomes(self, jobs: list[Job]) -> list[Any]:
        try:
            return await self._work(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            if len(jobs) > 1 and _of_one(error.__cause__):
                return [outcome for job in jobs for outcome in await self._outcomes([job])]
            return [_copy(error) for _ in jobs]


def _tell(batch: list[tuple[Any, asyncio.Future[Any]]], outcomes: list[Any]) -> None:
    """An error comes as a result, so that nobody complains when the one who waited has gone."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if not future.done():
            future.set_result(outcome)


@attrs.frozen(eq=False)
class _Save:
    row: dict[str, Any]
    charges: tuple[Charge, ...]


def _arguments(prefix: str, saves: list[_Save]) -> list[Any]:
    """What the function `save` takes, behind the time."""
    charges = [charge for save in saves for charge in save.charges]
    return [
        sorted({_lock(prefix, charge.key) for charge in charges}),
        *([save.row[column] for save in saves] for column in COLUMNS),
        [_name(save.row["id"]) for save in saves],
        list(accumulate(len(save.charges) for save in saves)),
        [charge.key for charge in charges],
        [charge.amount for charge in charges],
        [charge.limit for charge in charges],
        [span(charge.window) for charge in charges],
    ]


def _lock(prefix: str, key: bytes) -> int:
    """The number of an advisory lock. Two keys that share one wait for each other, and do nothing worse."""
    return int.from_bytes(blake2b(key, digest_size=8, key=prefix.encode()).digest(), "big", signed=True)


def _name(flow_id: str) -> int:
    """What a notification calls a flow. Two that share a name wake each other's waiters, who look and wait on."""
    return crc32(flow_id.encode(errors="surrogatepass"))


def _storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _to_record(row: Any) -> Record:
    flow_id, realm, version, state, *rest = row[:TO_LEASE]
    return to_record((flow_id.encode(), realm.encode(), version, state.encode(), *rest), row["present"])


def _readable(rows: list[Any]) -> Iterator[Record]:
    for row in rows:
        with suppress(ValueError):
            yield _to_record(row)


def _wanted(record: Record, query: Query) -> bool:
    """What the statement left to be asked."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )


@cache
def _statements(prefix: str) -> dict[str, str]:
    """The statements by name."""
    parts = _script("postgres_statements.sql", prefix).split("-- name: ")[1:]
    return {
        name.strip(): text.partition("\n--")[0].strip() for name, _, text in (part.partition("\n") for part in parts)
    }


def _script(file: str, prefix: str) -> str:
    return files("reset_flow.stores.sql").joinpath(file).read_text(encoding="utf-8").replace("{prefix}", prefix)


def _check_dsn(dsn: str) -> None:
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("the dsn of a PostgresStore begins with postgresql://")


def _driver() -> Any:
    try:
        import asyncpg  # noqa: PLC0415 - only who uses the store needs it
    except ImportError:
        raise ConfigurationError("a PostgresStore needs asyncpg: pip install 'reset-flow[postgres]'") from None
    return asyncpg


def _failures() -> tuple[type[Exception], ...]:
    """What the driver raises when the server can't be reached, or says no."""
    driver = _driver()
    return (OSError, driver.PostgresError, driver.InternalClientError, driver.InterfaceError)


@asynccontextmanager
async def _given_up(connection: Any, patience: float) -> AsyncIterator[None]:
    """Drop a connection of which nobody knows where it stands, or that leads to a server which may not write (now)."""
    driver = _driver()
    try:
        async with asyncio.timeout(patience):
            yield
    except BaseException as error:
        if not isinstance(error, driver.PostgresError) or isinstance(error, driver.ReadOnlySQLTransactionError):
            connection.terminate()
        raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ResetFlowError:
        raise
    except _failures() as error:
        raise _unavailable(error) from error


@contextmanager
def _dsn_kept() -> Iterator[None]:
    try:
        yield
    except ValueError:
        # The driver's words may show it.
        raise ConfigurationError("the dsn, or an environment variable of libpq's, can't be read") from None


def _of_one(error: BaseException | None) -> bool:
    """Whether one of many may have been the reason. Not so: lost connections, timeouts and shutdowns."""
    return (getattr(error, "sqlstate", None) or "08")[:2] not in ("08", "25", "57", "58")


def _unavailable(error: Exception) -> StoreUnavailable:
    """In the server's words, never in the driver's: those may show the dsn."""
    sqlstate = getattr(error, "sqlstate", None)
    words = error.args[0] if sqlstate and error.args else getattr(error, "strerror", None)
    return StoreUnavailable(f"the database can't be used: {printable(words or type(error).__name__)}")


def _copy(error: Exception) -> ResetFlowError:
    """An error of its own for one of those who wait."""
    if isinstance(error, ResetFlowError):
        copy = type(error)(str(error))
        copy.__cause__ = error.__cause__
        return copy
    unavailable = StoreUnavailable(f"the database can't be used: {type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

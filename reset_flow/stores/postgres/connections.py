"""Connections to PostgreSQL, and the meaning of their errors. The only file that imports asyncpg."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow.stores.postgres.address import Address

GRACE = 1.0
"""How many seconds longer than `statement_timeout` to wait for a reply: the server's own error says more."""

LIFETIME = 60.0
"""Seconds after which a connection is opened anew: the address may lead to another server by then."""

UNUSED = 5.0
"""Seconds without use after which a connection is checked before it is used: it may have been cut without a word."""

CACHED_STATEMENTS = 100

UNCONFIRMED = "the database can't be used: no synchronous standby has confirmed the commit"

ROOTLESS = (
    "no certificate is there by which to verify the database: add sslrootcert to the dsn (its file, or system for what "
    "the system trusts)"
)
NO_TLS = "the server takes no TLS, which the dsn asks for: set TLS up there, or take sslmode out of the dsn"
TABLES_GONE = (
    "the tables are gone, or the search path leads elsewhere: put the database back, restore a backup, or start the "
    "service anew to begin with none"
)


@attrs.define(eq=False)
class _Entry:
    connection: Any
    timer: asyncio.TimerHandle
    used_at: float
    is_unconfirmed: bool = False
    is_expired: bool = False

    def on_log(self, _connection: Any, message: Any) -> None:
        """Note that the server gave up waiting for a standby. Its words may be in any language; this name is not."""
        if message.server_source_function == "SyncRepWaitForLSN":
            self.is_unconfirmed = True

    def terminate(self) -> None:
        """Drop the connection. No request to cancel its statement is sent: that would end a wait for a standby."""
        self.timer.cancel()
        self.connection.terminate()


@attrs.define(eq=False)
class Pool:
    """
    Connections of the running loop, opened when there is none to be had. Timeouts are in seconds.

    The driver's own pool makes a task for each return of a connection: it takes twice the CPU of the statement.

    Attributes:
        setup: Sets up and checks a session, or a transaction where sessions are pooled.

        pooled: Whether a pooler was found in between. It may give each transaction another session, so there are no
            prepared statements, no notifications, and settings for one transaction only.
    """

    address: Address
    connect_timeout: float
    statement_timeout: float
    setup: str
    pooled: bool = False
    _entries: set[_Entry] = attrs.field(factory=set, init=False, repr=False)
    _idle: list[_Entry] = attrs.field(factory=list, init=False, repr=False)

    async def connect(self) -> Any:
        """Open a connection beside the pool, to a server that takes writes, and set up its session."""
        async with asyncio.timeout(self.connect_timeout):
            connection = await self._dial()
            try:
                if not await self.check(connection) and not self.pooled:
                    self.pooled = True
                    connection.terminate()
                    connection = await self._dial()
                if self.pooled:
                    await self._check_pooler(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def check(self, connection: Any) -> bool:
        """Set up the session or transaction. Return True if it is with the server that was connected, not a pooler."""
        async with asyncio.timeout(self.connect_timeout):
            # Without a name: a pooler's other clients have the same names.
            statement = await connection.prepare(self.setup, name="")
            timeout = str(int(self.statement_timeout * 1000))
            ((is_direct, is_standby, *_),) = await statement.fetch(timeout, connection.get_server_pid())
        if is_standby:
            raise StoreUnavailable("the database can't be used: the server is a standby, and takes no writes")
        return bool(is_direct)

    async def _check_pooler(self, connection: Any) -> None:
        try:
            async with self._transaction(connection):
                pass
        except driver().PostgresError as error:
            forget_frames(error)
            if "statement pooling" in str(error):  # PgBouncer's words, which are not translated
                raise ConfigurationError(
                    "the pooler in front of the database pools by statement: set it to pool by transaction or session"
                ) from None
            raise

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement in a transaction of its own, and return all rows."""
        rows: list[Any]
        async with self.connection() as connection:
            if not self.pooled:
                rows = await connection.fetch(statement, *values)
                return rows
            async with self._transaction(connection):
                rows = await connection.fetch(statement, *values)
        return rows

    @asynccontextmanager
    async def transaction(self, timeout: float) -> AsyncIterator[Any]:
        """Lend a connection for a transaction that takes so many seconds at most."""
        async with self.connection(timeout) as connection, self._transaction(connection):
            yield connection

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[Any]:
        """
        Lend a connection. Drop it if its state is unknown after an error, or if its server refuses to write.

        The driver's own time-outs would have the server cancel the statement, and with it a commit that waits for a
        synchronous standby: that would then show without being confirmed.
        """
        asyncpg = driver()
        try:
            entry = await self._acquire()
            late = entry.connection.terminate
            timer = asyncio.get_running_loop().call_later((timeout or self.statement_timeout) + GRACE, late)
            try:
                yield entry.connection
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError) or isinstance(error, _misled()):
                    entry.terminate()
                raise
            finally:
                timer.cancel()
                self._give_back(entry)
        except driver_errors() as error:
            forget_frames(error)
            raise _unavailable(error) from error
        if entry.is_unconfirmed:
            raise StoreUnavailable(UNCONFIRMED)

    @asynccontextmanager
    async def _transaction(self, connection: Any) -> AsyncIterator[None]:
        async with connection.transaction(isolation="read_committed"):
            if self.pooled:
                await self.check(connection)
            yield

    async def _dial(self) -> Any:
        options: dict[str, Any] = {"statement_cache_size": 0 if self.pooled else CACHED_STATEMENTS}
        if self.address.system_roots:
            options["ssl"] = True
        if self.address.several_hosts:
            options["target_session_attrs"] = "primary"
        asyncpg = driver()
        try:
            return await asyncpg.connect(self.address.dsn.reveal(), timeout=None, **options)
        except asyncpg.PostgresError as error:
            forget_frames(error)
            # An unknown setting or value, or one that PgBouncer lets nobody set (in words that are not translated).
            if (error.sqlstate or "")[:2] in ("22", "42") or "startup parameter" in str(error):
                words = printable(error.args[0])
                raise ConfigurationError(f"the server refuses an option of the dsn: {words}") from None
            raise
        except (ValueError, asyncio.CancelledError) as error:
            # The driver's message may show the dsn, and its frames do: so this is a new error without them.
            forget_frames(error)
            if isinstance(error, asyncio.CancelledError):
                raise asyncio.CancelledError(*error.args) from None
            if isinstance(error, OSError):  # a certificate that is not trusted
                raise
            if "root certificate" in str(error):
                raise ConfigurationError(ROOTLESS) from None
            raise ConfigurationError("the dsn, or an environment variable of libpq's, can't be read") from None

    async def _acquire(self) -> _Entry:
        now = asyncio.get_running_loop().time
        while self._idle:
            entry = self._idle.pop()
            if entry.connection.is_closed():
                self._forget(entry)
            elif now() - entry.used_at < UNUSED or await self._is_alive(entry):
                return entry
        connection = await self.connect()
        timer = asyncio.get_running_loop().call_later(LIFETIME, lambda: self._expire(entry))
        entry = _Entry(connection, timer, now())
        connection.add_log_listener(entry.on_log)
        self._entries.add(entry)
        return entry

    async def _is_alive(self, entry: _Entry) -> bool:
        try:
            await self.check(entry.connection)
        except BaseException as error:
            entry.terminate()
            self._give_back(entry)
            if isinstance(error, (*driver_errors(), StoreUnavailable)):
                return False
            raise
        return True

    def _give_back(self, entry: _Entry) -> None:
        if entry.is_unconfirmed or entry.is_expired:
            entry.terminate()
        if not entry.connection.is_closed():
            entry.used_at = asyncio.get_running_loop().time()
            self._idle.append(entry)
            return
        self._forget(entry)
        if not entry.is_expired:
            # Whatever ended this one may have ended the others, too, without a word.
            while self._idle:
                self._forget(self._idle.pop())

    def _expire(self, entry: _Entry) -> None:
        entry.is_expired = True
        if entry in self._idle:
            self._idle.remove(entry)
            self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        entry.terminate()
        self._entries.discard(entry)

    def terminate(self) -> None:
        """Drop the connections. A server takes that in good part where no statement runs."""
        for entry in self._entries:
            entry.terminate()


def driver() -> Any:
    """Import and return asyncpg, which ships no types."""
    try:
        import asyncpg  # noqa: PLC0415 - needed only when the store is used
    except ImportError:
        raise ConfigurationError("a PostgresStore needs asyncpg: pip install 'reset-flow[postgres]'") from None
    return asyncpg


def driver_errors() -> tuple[type[Exception], ...]:
    """Return what the driver raises when it can't reach the server, or the server refuses."""
    asyncpg = driver()
    return (OSError, asyncpg.PostgresError, asyncpg.InternalClientError, asyncpg.InterfaceError)


def _misled() -> tuple[type[Exception], ...]:
    """Return what a server says that is not, or no more, the one with our tables, or takes no writes."""
    asyncpg = driver()
    return (asyncpg.ReadOnlySQLTransactionError, asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError)


def is_per_row_error(error: Exception) -> bool:
    """Return True if one row of many may have caused the error, unlike lost connections, timeouts and shutdowns."""
    return (getattr(error.__cause__, "sqlstate", None) or "08")[:2] not in ("08", "25", "55", "57", "58")


def _unavailable(error: Exception) -> StoreUnavailable:
    """Return an error in the server's words, never in the driver's, which may show the dsn."""
    sqlstate = getattr(error, "sqlstate", None)
    words = error.args[0] if sqlstate and error.args else getattr(error, "strerror", None)
    if sqlstate in ("42P01", "42883"):  # an unknown table or function
        words = TABLES_GONE
    elif "rejected SSL" in str(error):
        words = NO_TLS
    return StoreUnavailable(f"the database can't be used: {printable(words or type(error).__name__)}")

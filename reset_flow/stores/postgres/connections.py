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

    from reset_flow.domain.secret import Secret

GRACE = 1.0
"""How many seconds longer than `statement_timeout` to wait for a reply: the server's own error says more."""

IDLE = 300.0
"""Seconds without use after which a connection is dropped."""


@attrs.frozen(eq=False)
class Pool:
    """
    Connections of the running loop, opened when there is none to be had. Timeouts are in seconds.

    The driver's own pool makes a task for each return of a connection: it takes twice the CPU of the statement.

    Attributes:
        setup: The first statement of each connection.
    """

    dsn: Secret
    connect_timeout: float
    statement_timeout: float
    setup: str
    _connections: set[Any] = attrs.field(factory=set, init=False, repr=False)
    _idle: list[tuple[Any, asyncio.TimerHandle]] = attrs.field(factory=list, init=False, repr=False)

    async def connect(self) -> Any:
        """Open a connection beside the pool, and set up its session."""
        timeout = self.statement_timeout + GRACE
        try:
            connection = await driver().connect(
                self.dsn.reveal(), timeout=self.connect_timeout, command_timeout=timeout
            )
        except (ValueError, asyncio.CancelledError) as error:
            # The driver's message may show the dsn, and its frames do: so this is a new error without them.
            forget_frames(error)
            if isinstance(error, asyncio.CancelledError):
                raise asyncio.CancelledError(*error.args) from None
            raise ConfigurationError("the dsn, or an environment variable of libpq's, can't be read") from None
        try:
            await connection.fetch(self.setup, str(int(self.statement_timeout * 1000)), timeout=self.connect_timeout)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement in a transaction of its own, and return all rows."""
        async with self.connection() as connection:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection. Drop it if its state is unknown after an error, or if its server refuses to write."""
        asyncpg = driver()
        try:
            connection = await self._acquire()
            try:
                yield connection
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError) or isinstance(
                    error, asyncpg.ReadOnlySQLTransactionError
                ):
                    connection.terminate()
                raise
            finally:
                timer = asyncio.get_running_loop().call_later(IDLE, connection.terminate)
                self._idle.append((connection, timer))
        except driver_errors() as error:
            forget_frames(error)
            raise _unavailable(error) from error

    async def _acquire(self) -> Any:
        while self._idle:
            connection, timer = self._idle.pop()
            timer.cancel()
            if not connection.is_closed():
                return connection
            self._connections.discard(connection)
        connection = await self.connect()
        self._connections.add(connection)
        return connection

    def terminate(self) -> None:
        """Drop the connections. A server takes that in good part where no statement runs."""
        for _, timer in self._idle:
            timer.cancel()
        for connection in self._connections:
            connection.terminate()


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


def is_per_row_error(error: Exception) -> bool:
    """Return True if one row of many may have caused the error, unlike lost connections, timeouts and shutdowns."""
    return (getattr(error.__cause__, "sqlstate", None) or "08")[:2] not in ("08", "25", "57", "58")


def _unavailable(error: Exception) -> StoreUnavailable:
    """Return an error in the server's words, never in the driver's, which may show the dsn."""
    sqlstate = getattr(error, "sqlstate", None)
    words = error.args[0] if sqlstate and error.args else getattr(error, "strerror", None)
    return StoreUnavailable(f"the database can't be used: {printable(words or type(error).__name__)}")

"""Connections to PostgreSQL, and the meaning of their errors. The only file that imports asyncpg."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from reset_flow.domain.secret import Secret

__all__ = ["Pool", "Server", "driver", "driver_errors", "is_per_row_error"]

GRACE = 1.0
"""How many seconds longer than `statement_timeout` to wait for a reply: the server's own error says more."""


@attrs.frozen
class Server:
    """
    How to connect to a server. Timeouts are in seconds.

    Attributes:
        setup: The first statement of each connection.
    """

    dsn: Secret
    connect_timeout: float
    statement_timeout: float
    setup: str

    async def connect(self) -> Any:
        """Open a connection beside the pool."""
        with _hidden_dsn():
            connection = await driver().connect(self.dsn.reveal(), timeout=self.connect_timeout)
        async with _dropped_in_doubt(connection, self.connect_timeout):
            await self.prepare(connection)
        return connection

    async def prepare(self, connection: Any) -> None:
        """Set up the session of a new connection."""
        await connection.fetch(self.setup, str(int(self.statement_timeout * 1000)))


async def _keep_session(_connection: Any) -> None:
    """Save the round trip of a reset: no statement of ours leaves anything behind in its session."""


class Pool:
    """At most `size` connections, opened when they are used. It belongs to the running loop."""

    def __init__(self, server: Server, size: int) -> None:
        self._server = server
        self._pool = driver().create_pool(
            server.dsn.reveal(),
            min_size=0,
            max_size=size,
            timeout=server.connect_timeout,
            init=server.prepare,
            reset=_keep_session,
        )

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement in a transaction of its own, and return all rows."""
        async with self.connection(self._server.statement_timeout + GRACE) as connection:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncIterator[Any]:
        """Lend a connection for so many seconds at most."""
        try:
            with _hidden_dsn():
                await self._pool  # started by the first call
                connection = await self._pool.acquire(timeout=self._server.connect_timeout)
            try:
                async with _dropped_in_doubt(connection, timeout):
                    yield connection
            finally:
                await self._pool.release(connection)
        except driver_errors() as error:
            forget_frames(error)
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Close the connections in good order, once all have been returned."""
        await self._pool
        await self._pool.close()

    def terminate(self) -> None:
        """Drop the connections."""
        self._pool.terminate()


def driver() -> Any:
    """
    Import and return asyncpg, which ships no types.

    Raises:
        ConfigurationError: It is not installed.
    """
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


@asynccontextmanager
async def _dropped_in_doubt(connection: Any, timeout: float) -> AsyncIterator[None]:
    """Drop the connection if its state is unknown after an error, or if its server refuses to write."""
    asyncpg = driver()
    try:
        async with asyncio.timeout(timeout):
            yield
    except BaseException as error:
        if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            connection.terminate()
        raise


@contextmanager
def _hidden_dsn() -> Iterator[None]:
    """Keep the dsn out of errors and their tracebacks."""
    try:
        yield
    except ValueError as error:
        # The driver's message may show the dsn, and its frames do.
        forget_frames(error)
        raise ConfigurationError("the dsn, or an environment variable of libpq's, can't be read") from None
    except asyncio.CancelledError as error:
        # A new error without the driver's frames, which hold the dsn.
        forget_frames(error)
        raise asyncio.CancelledError(*error.args) from None


def _unavailable(error: Exception) -> StoreUnavailable:
    """Return an error in the server's words, never in the driver's, which may show the dsn."""
    sqlstate = getattr(error, "sqlstate", None)
    words = error.args[0] if sqlstate and error.args else getattr(error, "strerror", None)
    return StoreUnavailable(f"the database can't be used: {printable(words or type(error).__name__)}")

"""Connections to PostgreSQL, and what their failures mean. The only file that imports asyncpg."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError, ResetFlowError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from reset_flow.domain.secret import Secret

__all__ = ["Line", "Pool", "Server", "check_dsn", "driver", "failures", "of_one"]

GRACE = 1.0
"""For how many seconds longer than the server one waits: its own refusal says more."""


@attrs.frozen
class Server:
    """
    How to get at it, and how long to wait for it, in seconds.

    Attributes:
        connections: How many a pool has at most.

        prepare: The first statement of each connection.
    """

    dsn: Secret
    connections: int
    connect_timeout: float
    statement_timeout: float
    prepare: str

    @property
    def patience(self) -> float:
        """How long a reply may take."""
        return self.statement_timeout + GRACE

    async def connect(self) -> Any:
        """A connection beside the pool."""
        with _dsn_kept():
            connection = await driver().connect(self.dsn.reveal(), timeout=self.connect_timeout)
        async with _given_up(connection, self.connect_timeout):
            await self._prepare(connection)
        return connection

    def pool(self) -> Any:
        """Not yet connected, and without the round trip that a pool spends on each connection that comes back."""
        return driver().create_pool(
            self.dsn.reveal(),
            min_size=0,
            max_size=self.connections,
            timeout=self.connect_timeout,
            init=self._prepare,
            reset=_as_it_is,
        )

    async def _prepare(self, connection: Any) -> None:
        await connection.fetch(self.prepare, str(int(self.statement_timeout * 1000)))


async def _as_it_is(_connection: Any) -> None:
    """No statement of ours leaves anything behind in its session."""


class Pool:
    """Connections for whoever comes. It belongs to the running loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool = server.pool()

    async def open(self) -> None:
        """Before anything else."""
        await self._pool

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """All rows, in a transaction of its own."""
        async with self.connection(self._server.patience) as connection:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows

    @asynccontextmanager
    async def connection(self, patience: float) -> AsyncIterator[Any]:
        """One of them, for so many seconds at most."""
        with _translated():
            with _dsn_kept():
                connection = await self._pool.acquire(timeout=self._server.connect_timeout)
            try:
                async with _given_up(connection, patience):
                    yield connection
            finally:
                await self._pool.release(connection)

    async def close(self) -> None:
        """Take leave of the server, once all have come back."""
        await self._pool.close()

    def terminate(self) -> None:
        """Drop the connections."""
        self._pool.terminate()


class Line:
    """One connection that is kept, for one user at a time: a pool's ways of lending cost as much as a statement."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Any = None

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        """All rows, in a transaction of its own."""
        with _translated():
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._server.connect()
            async with _given_up(self._connection, self._server.patience):
                rows: list[Any] = await self._connection.fetch(statement, *values)
                return rows

    async def close(self) -> None:
        """Take leave of the server."""
        if self._connection is not None:
            await self._connection.close()

    def terminate(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.terminate()


def check_dsn(dsn: Secret) -> None:
    """
    Let pass what may be one.

    Raises:
        ConfigurationError: It can't be.
    """
    if not dsn.reveal().startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("the dsn of a PostgresStore begins with postgresql://")


def driver() -> Any:
    """
    Asyncpg, which ships no types.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import asyncpg  # noqa: PLC0415 - only who uses the store needs it
    except ImportError:
        raise ConfigurationError("a PostgresStore needs asyncpg: pip install 'reset-flow[postgres]'") from None
    return asyncpg


def failures() -> tuple[type[Exception], ...]:
    """What the driver raises when the server can't be reached, or says no."""
    asyncpg = driver()
    return (OSError, asyncpg.PostgresError, asyncpg.InternalClientError, asyncpg.InterfaceError)


def of_one(error: BaseException | None) -> bool:
    """Whether one of many may have been the reason. Not so: lost connections, timeouts and shutdowns."""
    if isinstance(error, TypeError):  # it is no number of the server's
        return True
    return (getattr(error, "sqlstate", None) or "08")[:2] not in ("08", "25", "57", "58")


@asynccontextmanager
async def _given_up(connection: Any, patience: float) -> AsyncIterator[None]:
    """Drop a connection of which nobody knows where it stands, or that leads to a server which may not write (now)."""
    asyncpg = driver()
    try:
        async with asyncio.timeout(patience):
            yield
    except BaseException as error:
        if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            connection.terminate()
        raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ResetFlowError:
        raise
    except failures() as error:
        forget_frames(error)
        raise _unavailable(error) from error


@contextmanager
def _dsn_kept() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # The driver's words may show it, and its frames do.
        forget_frames(error)
        raise ConfigurationError("the dsn, or an environment variable of libpq's, can't be read") from None
    except asyncio.CancelledError as error:
        # Another one, without the driver's frames: those have it, too.
        forget_frames(error)
        raise asyncio.CancelledError(*error.args) from None


def _unavailable(error: Exception) -> StoreUnavailable:
    """In the server's words, never in the driver's: those may show the dsn."""
    sqlstate = getattr(error, "sqlstate", None)
    words = error.args[0] if sqlstate and error.args else getattr(error, "strerror", None)
    return StoreUnavailable(f"the database can't be used: {printable(words or type(error).__name__)}")

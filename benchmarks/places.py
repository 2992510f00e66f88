"""Empty stores for measurements, each removed afterwards, and their sizes."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import attrs

from benchmarks import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["STORES", "Place", "Places", "Weight", "weigh"]

STORES = ("memory", "sqlite", "postgres", "redis")
FSYNC = "everysec"
REDIS_DATABASES = 16
DURABILITY = {
    "memory": "nothing kept",
    "sqlite": "WAL, synchronous=FULL",
    "postgres": "synchronous_commit on",
    "redis": f"AOF, appendfsync {FSYNC}",
}


@attrs.frozen
class Place:
    """
    An empty store.

    Attributes:
        folder: Folder of the file, for SQLite.

        pids: Process ids of the server, if there is one.
    """

    store: str
    url: str
    folder: str = ""
    pids: list[int] = attrs.field(factory=list)


class Places:
    """Make empty stores. Start a server for the first store that needs it."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._servers: dict[str, servers.Server] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def settle(self, place: Place) -> None:
        """Do the maintenance that a server would have done itself, had the flows not arrived all at once."""
        if place.store == "postgres":
            _execute(place.url, "VACUUM (ANALYZE)")

    def server(self, store: str) -> servers.Server:
        """Return the server of a store, running."""
        if store not in self._servers:
            made = servers.postgres() if store == "postgres" else servers.redis({"appendfsync": FSYNC})
            self._exits.callback(made.close)
            made.start()
            self._servers[store] = made
        return self._servers[store]

    @contextmanager
    def empty(self, store: str) -> Iterator[Place]:
        """Make an empty store, and remove it at the end of the block."""
        if store == "memory":
            yield Place(store, "memory:")
        elif store == "sqlite":
            folder = tempfile.mkdtemp(prefix="reset-flow-benchmarks-")
            try:
                yield Place(store, f"sqlite:///{folder}/flows.db", folder)
            finally:
                shutil.rmtree(folder)
        else:
            server = self.server(store)
            with _database(server) if store == "postgres" else _numbered(server, next(self._numbers)) as url:
                yield Place(store, url, pids=[server.pid])


@contextmanager
def _database(server: servers.Server) -> Iterator[str]:
    name = f"benchmark_{secrets.token_hex(6)}"
    _execute(server.url, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        _execute(server.url, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    import asyncio  # noqa: PLC0415 - used only with the next one

    import asyncpg  # noqa: PLC0415 - an optional dependency

    async def execute() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


@contextmanager
def _numbered(server: servers.Server, number: int) -> Iterator[str]:
    import redis  # noqa: PLC0415 - an optional dependency

    url = urlsplit(server.url)._replace(path=f"/{number % REDIS_DATABASES}").geturl()
    with redis.Redis.from_url(url) as client:
        yield url
        client.flushdb()


@attrs.frozen
class Weight:
    """
    The size of a store.

    Attributes:
        kept: Bytes of the files, of the database, or of the memory of the server.

        logged: Bytes written to the log of the server; 0 without a log.

        flushes: Number of flushes of that log; `None` if the server does not count them.
    """

    kept: int = 0
    logged: int = 0
    flushes: int | None = None


async def weigh(place: Place) -> Weight:
    """Return the current size of a store. A file must be closed."""
    if place.folder:
        with os.scandir(place.folder) as files:
            return Weight(kept=sum(each.stat().st_size for each in files))
    if place.store == "postgres":
        async with _postgres(place.url) as connection:
            kept = await connection.fetchval("SELECT pg_database_size(current_database())")
            logged = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'")
            return Weight(kept, int(logged), await _wal_flushes(connection))
    if place.store == "redis":
        import redis  # noqa: PLC0415 - an optional dependency

        with redis.Redis.from_url(place.url) as client:
            info: Any = client.info()
            return Weight(info["used_memory_dataset"], info["aof_current_size"])
    return Weight()


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Any]:
    import asyncpg  # noqa: PLC0415 - an optional dependency

    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _wal_flushes(connection: Any) -> int | None:
    version = await connection.fetchval("SELECT current_setting('server_version_num')::integer")
    if version >= 180000:
        statement = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
    elif version >= 140000:
        statement = "SELECT wal_sync FROM pg_stat_wal"
    else:
        return None
    return int(await connection.fetchval(statement))

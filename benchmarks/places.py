"""Where flows are kept while they are measured: empty stores, each gone afterwards, and what they weigh."""

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
        folder: Of the file, where it is one.

        pids: Of the server, where there is one.
    """

    store: str
    url: str
    folder: str = ""
    pids: list[int] = attrs.field(factory=list)


class Places:
    """Makes empty stores; starts a server at the first that needs one."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._servers: dict[str, servers.Server] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def settle(self, place: Place) -> None:
        """What a server does by itself while flows come one by one: here they came all at once."""
        if place.store == "postgres":
            _ask(place.url, "VACUUM (ANALYZE)")

    def server(self, store: str) -> servers.Server:
        """The running server of a store."""
        if store not in self._servers:
            made = servers.postgres() if store == "postgres" else servers.redis({"appendfsync": FSYNC})
            self._exits.callback(made.close)
            made.start()
            self._servers[store] = made
        return self._servers[store]

    @contextmanager
    def empty(self, store: str) -> Iterator[Place]:
        """One that is gone when the block ends."""
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
    _ask(server.url, f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        _ask(server.url, f"DROP DATABASE {name} WITH (FORCE)")


def _ask(url: str, statement: str) -> None:
    import asyncio  # noqa: PLC0415 - see the next line

    import asyncpg  # noqa: PLC0415 - only who measures PostgreSQL needs it

    async def ask() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(ask())


@contextmanager
def _numbered(server: servers.Server, number: int) -> Iterator[str]:
    import redis  # noqa: PLC0415 - only who measures Redis needs it

    url = urlsplit(server.url)._replace(path=f"/{number % REDIS_DATABASES}").geturl()
    with redis.Redis.from_url(url) as client:
        yield url
        client.flushdb()


@attrs.frozen
class Weight:
    """
    Of a store, at one time.

    Attributes:
        kept: Bytes: the files, the database, the memory of the server.

        logged: Bytes that went to the log of the server; 0 where there is none.

        flushes: How often the server has flushed its log; `None` where it does not tell.
    """

    kept: int = 0
    logged: int = 0
    flushes: int | None = None


async def weigh(place: Place) -> Weight:
    """What there is now. Of a file: once it is closed."""
    if place.folder:
        with os.scandir(place.folder) as files:
            return Weight(kept=sum(each.stat().st_size for each in files))
    if place.store == "postgres":
        async with _postgres(place.url) as connection:
            kept = await connection.fetchval("SELECT pg_database_size(current_database())")
            logged = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'")
            return Weight(kept, int(logged), await _wal_flushes(connection))
    if place.store == "redis":
        import redis  # noqa: PLC0415 - only who measures Redis needs it

        with redis.Redis.from_url(place.url) as client:
            said: Any = client.info()
            return Weight(said["used_memory_dataset"], said["aof_current_size"])
    return Weight()


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Any]:
    import asyncpg  # noqa: PLC0415 - only who measures PostgreSQL needs it

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

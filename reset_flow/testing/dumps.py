"""For people who embed the library: all that a store keeps, as bytes, to be searched."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reset_flow.config import SQLITE, sqlite_path
from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.domain.secret import Secret
from reset_flow.stores.postgres.address import read_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["dump"]

SQLITE_FILES = ("", "-journal", "-wal", "-shm")


async def dump(url: str | Secret) -> bytes:
    """
    Return all that a store holds, in any order: files and write-ahead log of SQLite, all tables of a PostgreSQL
    database, or all keys of a Redis database with their values.

    Raises:
        ConfigurationError: A store of such an address can't be dumped, or there is no such file.
        StoreUnavailable: The files of SQLite can't be read.
    """
    url = Secret(url)
    for scheme, parts in ((SQLITE, _files), ("postgres", _rows), ("redis", _values)):
        if url.reveal().startswith(scheme):
            return b"\n".join([part async for part in parts(url)])
    raise ConfigurationError("only of sqlite:///, postgresql:// and redis:// stores there are dumps")


async def _files(url: Secret) -> AsyncIterator[bytes]:
    # By another process: closing a descriptor of the file in this one would drop SQLite's locks on it.
    reading = await asyncio.create_subprocess_exec("cat", "--", *_names(url), stdout=PIPE, stderr=PIPE)
    read, complaint = await reading.communicate()
    if reading.returncode:
        raise StoreUnavailable(f"the files of the database can't be read: {complaint.decode(errors='replace').strip()}")
    yield read


def _names(url: Secret) -> list[str]:
    path = sqlite_path(url.reveal())
    if not Path(path).is_file():
        raise ConfigurationError("there is no database at this address")
    return [path + suffix for suffix in SQLITE_FILES if Path(path + suffix).exists()]


async def _rows(url: Secret) -> AsyncIterator[bytes]:
    import asyncpg  # noqa: PLC0415 - only who has such a store has the driver

    connection = await asyncpg.connect(read_address(url).dsn.reveal())
    try:
        tables = await connection.fetch("SELECT relid::regclass::text FROM pg_stat_user_tables")
        for (table,) in tables:
            for row in await connection.fetch(f"SELECT * FROM {table}"):  # noqa: S608 - quoted by the server
                for cell in row.values():
                    yield _plain(cell)
    finally:
        await connection.close()


async def _values(url: Secret) -> AsyncIterator[bytes]:
    import redis.asyncio  # noqa: PLC0415 - only who has such a store has the driver

    # Not by DUMP, which may compress what it gives.
    reads = {
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"list": ("LRANGE", 0, -1),
        b"set": ("SMEMBERS",),
        b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        b"stream": ("XRANGE", "-", "+"),
    }
    async with redis.asyncio.Redis.from_url(url.reveal()) as client:
        ask: Any = client.execute_command
        async for key in client.scan_iter():
            kind = await client.type(key)
            if kind in reads:  # else it is gone meanwhile
                command, *rest = reads[kind]
                yield key
                yield _plain(await ask(command, key, *rest))


def _plain(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return b"\n".join(map(_plain, value))
    if isinstance(value, dict):
        return _plain([*value, *value.values()])
    return str(value).encode()

"""The tables as this release wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.postgres.connections import driver
from reset_flow.stores.postgres.statements import lock_of, script, statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.stores.postgres.connections import Pool

__all__ = ["migrate"]

SCHEMA = 1
"""The version in the schema's table that this release writes."""

MIGRATIONS: dict[int, str] = {0: "schema.sql"}
"""For each older schema, the script that makes the next one of it; 0 is an empty database."""

OLDEST_SERVER = 12
TIMEOUT = 60.0


async def migrate(pool: Pool, prefix: str) -> None:
    """
    Have the tables, made or migrated where they must be.

    Raises:
        ConfigurationError: They can't be had.
    """
    if await _version(pool.fetch, prefix) == SCHEMA:
        return
    asyncpg = driver()
    try:
        async with pool.connection(TIMEOUT) as connection, connection.transaction():
            # Of many who open an empty database at once, one makes the tables.
            await connection.execute(f"SELECT pg_advisory_xact_lock({lock_of(prefix, b'schema')})")
            await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT:.0f}s'")
            for version in range(await _version(connection.fetch, prefix), SCHEMA):
                await connection.execute(script(MIGRATIONS[version], prefix))
    except StoreUnavailable as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError | asyncpg.InvalidSchemaNameError):
            raise ConfigurationError(
                f"the tables {prefix}_* can't be made in this database: have its user granted CREATE on a schema "
                "of its search path, or open the store once as one who may"
            ) from error.__cause__
        raise


async def _version(fetch: Callable[[str], Awaitable[list[Any]]], prefix: str) -> int:
    sql = statements(prefix)
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

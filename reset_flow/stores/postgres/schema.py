"""The tables of a store; all their names begin with its prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.postgres.connections import driver
from reset_flow.stores.statements import script, statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.stores.postgres.connections import Pool

SCHEMA = 1
"""The version of the tables that this release makes and works with; `schema.sql` writes it into them."""

OLDEST_SERVER = 12
CREATION_TIMEOUT = 60


async def create_tables(pool: Pool, prefix: str) -> None:
    """
    Create the tables where they are missing.

    Raises:
        ConfigurationError: They can't be created, or are of a newer release.
    """
    sql = statements("postgres", prefix)
    if await _exist(pool.fetch, sql):
        return
    asyncpg = driver()
    try:
        async with pool.connection() as connection, connection.transaction():
            # Of many workers that open an empty database at once, one creates the tables.
            await connection.execute(sql["lock_schema"])
            await connection.execute(f"SET LOCAL statement_timeout = '{CREATION_TIMEOUT}s'")
            if not await _exist(connection.fetch, sql):
                await connection.execute(script("postgres", "schema.sql", prefix), timeout=CREATION_TIMEOUT)
    except StoreUnavailable as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError | asyncpg.InvalidSchemaNameError):
            raise ConfigurationError(
                f"the tables {prefix}_* can't be created in this database: grant its user CREATE on a schema of its "
                "search path, or open the store once as a user who may"
            ) from error.__cause__
        raise


async def _exist(fetch: Callable[[str], Awaitable[list[Any]]], sql: dict[str, str]) -> bool:
    ((found, encoding, server),) = await fetch(sql["find_schema"])
    if encoding != "UTF8" or server < OLDEST_SERVER * 10000:
        raise ConfigurationError(f"the database must be of PostgreSQL {OLDEST_SERVER} or newer, and UTF-8")
    if not found:
        return False
    ((version,),) = await fetch(sql["read_schema"])
    if version is None or version > SCHEMA:
        raise ConfigurationError(
            f"the tables have schema {version}, and this release knows {SCHEMA}: a newer one wrote them, run that, "
            "or choose another prefix"
        )
    return True

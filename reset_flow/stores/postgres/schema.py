"""The tables and statements of a store; all their names begin with its prefix."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.postgres.connections import driver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.stores.postgres.connections import Pool

__all__ = ["check_prefix", "create_tables", "statements"]

SCHEMA = 1
"""The version of the tables that this release makes and works with; `schema.sql` writes it into them."""

OLDEST_SERVER = 12
CREATION_TIMEOUT = 60.0

PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def check_prefix(prefix: str) -> None:
    """
    Check that a prefix may stand in a statement.

    Raises:
        ConfigurationError: It may not.
    """
    if not PREFIX.fullmatch(prefix):
        raise ConfigurationError("a prefix has at most 40 of a-z, 0-9 and _, and does not begin with a digit")


@cache
def statements(prefix: str) -> dict[str, str]:
    """Return the statements of `statements.sql` by name."""
    parts = _script("statements.sql", prefix).split("-- name: ")[1:]
    return {
        name.strip(): text.partition("\n--")[0].strip() for name, _, text in (part.partition("\n") for part in parts)
    }


async def create_tables(pool: Pool, prefix: str) -> None:
    """
    Create the tables where they are missing.

    Raises:
        ConfigurationError: They can't be created, or are of a newer release.
    """
    if await _exist(pool.fetch, prefix):
        return
    asyncpg = driver()
    try:
        async with pool.connection(CREATION_TIMEOUT) as connection, connection.transaction():
            # Of many workers that open an empty database at once, one creates the tables.
            await connection.execute(statements(prefix)["lock_schema"])
            await connection.execute(f"SET LOCAL statement_timeout = '{CREATION_TIMEOUT:.0f}s'")
            if not await _exist(connection.fetch, prefix):
                await connection.execute(_script("schema.sql", prefix))
    except StoreUnavailable as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError | asyncpg.InvalidSchemaNameError):
            raise ConfigurationError(
                f"the tables {prefix}_* can't be created in this database: grant its user CREATE on a schema of its "
                "search path, or open the store once as a user who may"
            ) from error.__cause__
        raise


async def _exist(fetch: Callable[[str], Awaitable[list[Any]]], prefix: str) -> bool:
    sql = statements(prefix)
    ((found, encoding, server),) = await fetch(sql["find_schema"])
    if encoding != "UTF8" or server < OLDEST_SERVER * 10000:
        raise ConfigurationError(f"the database must be of PostgreSQL {OLDEST_SERVER} or newer, and UTF-8")
    if not found:
        return False
    ((version,),) = await fetch(sql["read_schema"])
    if version != SCHEMA:
        raise ConfigurationError(
            f"the tables have schema {version}, and this release knows {SCHEMA}: a newer one wrote them, run that, "
            "or choose another prefix"
        )
    return True


def _script(file: str, prefix: str) -> str:
    return files("reset_flow.stores.postgres").joinpath(file).read_text(encoding="utf-8").replace("{prefix}", prefix)

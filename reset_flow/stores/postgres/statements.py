"""What PostgreSQL is asked, by name, and what things are called there: all of it begins with the store's prefix."""

from __future__ import annotations

import re
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from zlib import crc32

from reset_flow.domain.errors import ConfigurationError

__all__ = ["check_prefix", "lock_of", "name_of", "script", "statements"]

PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def check_prefix(prefix: str) -> None:
    """
    Let pass what may stand in a statement.

    Raises:
        ConfigurationError: It may not.
    """
    if not PREFIX.fullmatch(prefix):
        raise ConfigurationError("a prefix has at most 40 of a-z, 0-9 and _, and does not begin with a digit")


@cache
def statements(prefix: str) -> dict[str, str]:
    """The statements by name."""
    parts = script("statements.sql", prefix).split("-- name: ")[1:]
    return {
        name.strip(): text.partition("\n--")[0].strip() for name, _, text in (part.partition("\n") for part in parts)
    }


def script(file: str, prefix: str) -> str:
    """The text of a file that stands beside this one."""
    return files("reset_flow.stores.postgres").joinpath(file).read_text(encoding="utf-8").replace("{prefix}", prefix)


def lock_of(prefix: str, key: bytes) -> int:
    """The number of an advisory lock. Two keys that share one wait for each other, and do nothing worse."""
    return int.from_bytes(blake2b(key, digest_size=8, key=prefix.encode()).digest(), "big", signed=True)


def name_of(flow_id: str) -> int:
    """What a notification calls a flow. Two that share a name wake each other's waiters, who look and wait on."""
    return crc32(flow_id.encode(errors="surrogatepass"))

"""Statements in files of SQL. Nothing in them comes from outside."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from reset_flow.stores.rows import COLUMNS


def script(package: str, file: str, prefix: str = "") -> str:
    """Return a file of a package under `stores`, with the prefix and the columns of a record filled in."""
    text = files(f"reset_flow.stores.{package}").joinpath(file).read_text(encoding="utf-8")
    return text.replace("{prefix}", prefix).replace("{columns}", COLUMNS)


@cache
def statements(package: str, prefix: str = "") -> dict[str, str]:
    """Return the statements of `statements.sql` by name."""
    parts = script(package, "statements.sql", prefix).split("-- name: ")[1:]
    return {
        name.strip(): text.partition("\n--")[0].strip() for name, _, text in (part.partition("\n") for part in parts)
    }

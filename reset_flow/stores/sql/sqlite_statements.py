"""What SQLite is asked, statement by statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reset_flow.stores.sql.rows import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

DUE = "coalesce(leased_until, due_at)"
"""The very expression that is indexed."""

_WRITTEN = (*COLUMNS, "leased_until")
_READ = ", ".join((*(f"flows.{name}" for name in _WRITTEN), "number", DUE))
"""Whole records, and where a scan goes on behind them."""

# Nothing in these texts comes from outside: what S608 fears can't be.
STORED = "SELECT number, version, stamp FROM flows WHERE id = :id"
INSERT = f"INSERT INTO flows ({', '.join(_WRITTEN)}) VALUES ({', '.join(f':{name}' for name in _WRITTEN)})"  # noqa: S608
UPDATE = f"UPDATE flows SET {', '.join(f'{name} = :{name}' for name in _WRITTEN[1:])} WHERE number = :number"  # noqa: S608
# The usual save: the next version of a flow that runs. What never changes is asked for and not written, for the sake
# of the indexes; where it is another version's turn, or anything is odd, nothing is found, and those above decide.
_NEXT = (
    "UPDATE flows SET version = :version, state = :state, due_at = :due_at, lease = :lease, "
    "leased_until = :leased_until, stamp = :stamp, body = :body{} WHERE id = :id AND version = :version - 1 "
    "AND realm = :realm AND lookups = :lookups AND ended_at IS NULL"
)
NEXT, LAST = _NEXT.format(""), _NEXT.format(", ended_at = :ended_at")
INSERT_LOOKUP = "INSERT INTO lookups (lookup, flow) VALUES (?, ?) ON CONFLICT DO NOTHING"

LOAD = f"SELECT {_READ} FROM flows WHERE id = :id"  # noqa: S608
VERSION = "SELECT version FROM flows WHERE id = :id"

# Each scan goes by an index, in pages that end after :size rows, however few of them are wanted.
SCAN_DUE = (
    f"SELECT {_READ} FROM flows WHERE realm = :realm AND {DUE} BETWEEN :due AND :now "  # noqa: S608
    f"AND ({DUE}, number) > (:due, :number) ORDER BY {DUE}, number LIMIT :size"
)
SCAN_LOOKUP = (
    f"SELECT {_READ} FROM lookups JOIN flows ON number = flow "  # noqa: S608
    "WHERE lookup = :lookup AND flow < :number ORDER BY flow DESC LIMIT :size"
)
SCAN_IDS = f"SELECT {_READ} FROM flows WHERE id > CAST(:id AS TEXT) ORDER BY id LIMIT :size"  # noqa: S608

ENDED = """
    SELECT number, lookups FROM flows WHERE realm = :realm AND ended_at < :before
    ORDER BY ended_at, number LIMIT :size"""
DELETE = "DELETE FROM flows WHERE number = ?"
DELETE_LOOKUP = "DELETE FROM lookups WHERE lookup = ? AND flow = ?"

# The use that must stop counting before the next one finds a place, and the newest one that a flow may take back. Uses
# from (:at, :nth) on that are the flow's have been taken back already, by the same save.
BLOCKING = (
    "SELECT at FROM uses WHERE key = :key AND at > :start AND NOT (flow = :flow AND (at, nth) >= (:at, :nth)) "
    "ORDER BY at DESC, nth DESC LIMIT 1 OFFSET :offset"
)
NEWEST = (
    "SELECT at, nth FROM uses WHERE key = :key AND flow = :flow AND (at, nth) < (:at, :nth) "
    "ORDER BY at DESC, nth DESC LIMIT 1"
)
TAKE_BACK = "DELETE FROM uses WHERE key = :key AND flow = :flow AND (at, nth) >= (:at, :nth)"
USE = (
    "INSERT INTO uses (key, at, nth, flow, expires_at) VALUES "
    "(:key, :now, (SELECT coalesce(max(nth) + 1, 0) FROM uses WHERE key = :key AND at = :now), :flow, :expires_at)"
)
# Expired uses are found by walking all of them in pieces: an index on their ends would weigh as much as the uses do.
USES_PIECE = "SELECT key FROM uses WHERE key > :key ORDER BY key LIMIT 1 OFFSET :size"
FORGET_PIECE = "DELETE FROM uses WHERE key > :key AND key <= :end AND expires_at <= :now"
FORGET_REST = "DELETE FROM uses WHERE key > :key AND expires_at <= :now"


def statements(script: str) -> Iterator[str]:
    """The statements of a script whose every statement ends a line."""
    lines: list[str] = []
    for line in script.splitlines():
        if not line.startswith("--"):
            lines.append(line)
        if line.endswith(";"):
            yield "\n".join(lines).strip()
            lines = []

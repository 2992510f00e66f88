"""What SQLite is asked, statement by statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reset_flow.stores.rows import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

DUE = "coalesce(leased_until, due_at)"
"""The very expression that is indexed."""

_WRITTEN = (*COLUMNS, "leased_until")
_READ = ", ".join((*(f"flows.{name}" for name in _WRITTEN), "number", DUE))
"""Whole records, and where a scan goes on behind them."""

# Nothing in these texts comes from outside: what S608 fears can't be.

# The usual saves: a new flow, the next version of one that runs, and of one that ends or has ended. What never changes
# is asked for and not written, for the sake of the indexes. Where it is another version's turn, or a budget may have no
# room, or anything is odd, nothing is found and nothing is written, and the statements further down decide.
#
# All three have the same values in the same order. They go by position, as the driver looks each name up anew; and none
# of them is NULL, for which it looks in vain for an adapter, each time.
NOTHING = -(2**63)
USUAL = (
    "leased_until",
    "state",
    "due_at",
    "lease",
    "write_id",
    "body",
    "ended_at",
    "id",
    "realm",
    "version",
    "lookups",
)
LEASE = USUAL.index("lease") - 1
"""Where to find it in what `sqlite_changes.usual` gives, which is all but the first of those."""

_VALUE = dict.fromkeys(USUAL, "?") | dict.fromkeys(
    ("leased_until", "due_at", "lease", "ended_at"), f"nullif(?, {NOTHING})"
)
_SET = f"UPDATE flows SET {', '.join(f'{name} = {_VALUE[name]}' for name in USUAL[:6])}, version = version + 1"  # noqa: S608
_SAME = "id = ? AND realm = ? AND version + 1 = ? AND lookups = ?"
_ROOM = " AND NOT EXISTS (SELECT 1 FROM uses WHERE key = ? AND at > ? AND expires_at > ? LIMIT 1 OFFSET ?)"
"""Behind those values, for each charge that must find a place: its key, when its window began, now, its limit - 1."""

ROOM_VALUES = _ROOM.count("?")
MOST_ROOMS = 3
_ROOMS = [_ROOM * rooms for rooms in range(MOST_ROOMS + 1)]
FIRST = [
    f"INSERT INTO flows ({', '.join(USUAL)}) SELECT {', '.join(_VALUE.values())} WHERE true{rooms} "
    "ON CONFLICT DO NOTHING"
    for rooms in _ROOMS
]
NEXT = [f"{_SET} WHERE ended_at IS {_VALUE['ended_at']} AND {_SAME}{rooms}" for rooms in _ROOMS]
LAST = [f"{_SET}, ended_at = ? WHERE {_SAME}{rooms}" for rooms in _ROOMS]
"""Each by how many rooms it asks for."""

INSERT_LOOKUP = "INSERT INTO lookups (lookup, flow) VALUES (?, ?) ON CONFLICT DO NOTHING"
USE = (
    "INSERT INTO uses (key, at, nth, expires_at, flow) VALUES "
    "(?, ?, (SELECT coalesce(max(nth) + 1, 0) FROM uses WHERE key = ? AND at = ?), ?, "
    "(SELECT number FROM flows WHERE id = ?))"
)
TAKE_BACK = (
    "DELETE FROM uses WHERE (key, at, nth) = (SELECT key, at, nth FROM uses "
    "WHERE key = ? AND flow = (SELECT number FROM flows WHERE id = ?) AND expires_at > ? "
    "ORDER BY at DESC, nth DESC LIMIT 1)"
)

# Any save.
STORED = "SELECT number, version, write_id FROM flows WHERE id = :id"
INSERT = f"INSERT INTO flows ({', '.join(_WRITTEN)}) VALUES ({', '.join(f':{name}' for name in _WRITTEN)})"  # noqa: S608
UPDATE = f"UPDATE flows SET {', '.join(f'{name} = :{name}' for name in _WRITTEN[1:])} WHERE number = :number"  # noqa: S608
# The use that must stop counting before the next one finds a place, and the newest one that a flow may take back. Uses
# from (:at, :nth) on that are the flow's have been taken back already, by the same save.
BLOCKING = (
    "SELECT at FROM uses WHERE key = :key AND at > :start AND expires_at > :now "
    "AND NOT (flow = :flow AND (at, nth) >= (:at, :nth)) "
    "ORDER BY at DESC, nth DESC LIMIT 1 OFFSET :offset"
)
NEWEST = (
    "SELECT at, nth FROM uses WHERE key = :key AND flow = :flow AND (at, nth) < (:at, :nth) AND expires_at > :now "
    "ORDER BY at DESC, nth DESC LIMIT 1"
)
TAKE_ALL_BACK = "DELETE FROM uses WHERE key = :key AND flow = :flow AND (at, nth) >= (:at, :nth)"

LOAD = f"SELECT {', '.join(_WRITTEN)} FROM flows WHERE id = ?"  # noqa: S608
VERSION = "SELECT version FROM flows WHERE id = ?"

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

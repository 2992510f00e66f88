"""Changes of the database. Each shares its transaction with others: it refuses before it writes anything."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import LimitReached, StaleRecord
from reset_flow.stores.rows import cut, span
from reset_flow.stores.sqlite import statements as sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from sqlite3 import Cursor

    from reset_flow.ports import Use, UseName

__all__ = ["purge_flows", "purge_uses", "save"]

AFTER_ALL_KEYS = b"\xff" * 17


def save(
    db: Cursor, row: dict[str, Any], add: Sequence[Use], drop: Sequence[UseName], clock: Callable[[], int]
) -> None:
    """
    Write a record, given as the row of `to_row`, and change its uses.

    Raises:
        StaleRecord: As the port says.
        LimitReached: As the port says.
    """
    stored = db.execute(sql.STORED, row).fetchall()
    number, version, write_id = stored[0] if stored else (None, 0, None)
    if write_id == row["write_id"]:
        return
    if row["version"] != version + 1:
        raise StaleRecord(row["id"], row["version"])
    now = clock()
    if add or drop:
        _change_uses(db, add, drop, now)
    values = {**row, "number": number, "leased_until": None if row["lease"] is None else now + row["lease"]}
    if number is not None:
        db.execute(sql.UPDATE, values)
        return
    number = db.execute(sql.INSERT, values).lastrowid
    db.executemany(sql.INSERT_LOOKUP, [(lookup, number) for lookup in cut(row["lookups"])])


def _change_uses(db: Cursor, add: Sequence[Use], drop: Sequence[UseName], now: int) -> None:
    keys = dict.fromkeys(use.key for use in add)
    waits = {key: wait for key in keys if (wait := _wait(db, key, add, drop, now)) != 0}
    if waits:
        known = [wait for wait in waits.values() if wait is not None]
        longest = timedelta(microseconds=max(known)) if len(known) == len(waits) else None
        raise LimitReached("uses", longest, keys=tuple(waits))
    db.executemany(sql.DELETE_USE, [(name.key, name.id) for name in drop])
    db.executemany(sql.DELETE_EXPIRED, [(key, now) for key in keys])
    db.executemany(sql.INSERT_USE, [(use.key, use.id, now + span(use.window)) for use in add])


def _wait(db: Cursor, key: bytes, add: Sequence[Use], drop: Sequence[UseName], now: int) -> int | None:
    """Return the time until the uses of one key can be added: 0 if they can be now, `None` if they never can."""
    added = {use.id: use.limit for use in add if use.key == key}
    dropped = {name.id for name in drop if name.key == key}
    live = {use_id: end for use_id, end in db.execute(sql.USES, (key,)) if end > now and use_id not in dropped}
    if added.keys() <= live.keys():
        return 0
    others = sorted(end for use_id, end in live.items() if use_id not in added)
    excess = len(others) + len(added) - min(added.values())
    if excess <= 0:
        return 0
    return others[excess - 1] - now if excess <= len(others) else None


def purge_flows(db: Cursor, realm: str, before: int, size: int) -> int:
    """Delete the flows that ended first, with their lookups. Return how many."""
    ended = db.execute(sql.ENDED, {"realm": realm, "before": before, "size": size}).fetchall()
    db.executemany(sql.DELETE_LOOKUP, [(lookup, number) for number, lookups in ended for lookup in cut(lookups)])
    db.executemany(sql.DELETE, [(number,) for number, _ in ended])
    return len(ended)


def purge_uses(db: Cursor, after: bytes, now: int, size: int) -> bytes | None:
    """Delete the expired uses of the next keys. Return the last key of this piece, or `None` at the end of all keys."""
    found = db.execute(sql.END_OF_PIECE, {"after": after, "size": size}).fetchall()
    last: bytes = found[0][0] if found else AFTER_ALL_KEYS
    db.execute(sql.DELETE_EXPIRED_OF_PIECE, {"after": after, "last": last, "now": now})
    return last if found else None

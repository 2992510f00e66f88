"""Changes of the database. Each shares its transaction with others: it refuses before it writes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import StaleRecord
from reset_flow.stores.rows import cut, span
from reset_flow.stores.statements import statements
from reset_flow.stores.uses import check_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from sqlite3 import Cursor

    from reset_flow.ports import Use, UseName

SQL = statements("sqlite")
AFTER_ALL_KEYS = b"\xff" * 17


def save(
    db: Cursor, row: dict[str, Any], add: Sequence[Use], drop: Sequence[UseName], clock: Callable[[], int]
) -> None:
    """Write a record, given as the row of `to_row` with the write id that it replaces, and change its uses."""
    now = clock()
    row["leased_until"] = None if row["lease"] is None else now + row["lease"]
    if not (add or drop) and row["version"] > 1 and db.execute(SQL["update_next"], row).rowcount:
        return
    stored = db.execute(SQL["stored"], row).fetchall()
    version, write_id = stored[0] if stored else (0, b"")
    if stored and write_id == row["write_id"]:
        return
    if (row["version"], row["replaces"]) != (version + 1, write_id):
        raise StaleRecord(row["id"], row["version"])
    if add or drop:
        check_limits(lambda key: db.execute(SQL["uses"], (key,)), add, drop, now)
        db.executemany(SQL["delete_use"], [(name.key, name.id) for name in drop])
        db.executemany(SQL["delete_expired"], [(key, now) for key in {use.key for use in add}])
        db.executemany(SQL["insert_use"], [(use.key, use.id, now + span(use.window)) for use in add])
    if version:
        db.execute(SQL["update_next"], row)
    else:
        number = db.execute(SQL["insert"], row).lastrowid
        db.executemany(SQL["insert_lookup"], [(lookup, number) for lookup in cut(row["lookups"])])


def purge_flows(db: Cursor, realm: str, before: int, size: int) -> int:
    """Delete the flows that ended first, with their lookups. Return how many."""
    ended = db.execute(SQL["ended"], {"realm": realm, "before": before, "size": size}).fetchall()
    db.executemany(SQL["delete_lookup"], [(lookup, number) for number, lookups in ended for lookup in cut(lookups)])
    db.executemany(SQL["delete"], [(number,) for number, _ in ended])
    return len(ended)


def purge_uses(db: Cursor, after: bytes, now: int, size: int) -> bytes | None:
    """Delete the expired uses of the next keys. Return the last key of this piece, or `None` at the end of all keys."""
    found = db.execute(SQL["end_of_piece"], {"after": after, "size": size}).fetchall()
    last: bytes = found[0][0] if found else AFTER_ALL_KEYS
    db.execute(SQL["delete_expired_of_piece"], {"after": after, "last": last, "now": now})
    return last if found else None

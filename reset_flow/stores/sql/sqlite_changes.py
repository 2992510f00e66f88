"""What changes the database. Each function runs inside a transaction that others share: it judges before it writes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.errors import LimitReached, StaleRecord
from reset_flow.stores.sql import sqlite_statements as sql
from reset_flow.stores.sql.rows import LOOKUP_BYTES, micros, span

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.ports import Charge
    from reset_flow.stores.sql.writer import Connection

__all__ = ["purge_flows", "purge_uses", "save"]

MAX = 2**63 - 1


def save(row: dict[str, Any], charges: tuple[Charge, ...], clock: Callable[[], datetime], db: Connection) -> None:
    """
    Write the row of a record, and its charges.

    Raises:
        StaleRecord: As the port says.
        LimitReached: As the port says.
    """
    now = micros(clock())
    row["leased_until"] = None if row["lease"] is None else now + row["lease"]
    if not charges and db.execute(sql.NEXT if row["ended_at"] is None else sql.LAST, row).rowcount:
        return
    stored = db.execute(sql.STORED, row).fetchall()
    number, version, stamp = stored[0] if stored else (0, 0, None)
    if stamp == row["stamp"]:
        return
    if row["version"] != version + 1:
        raise StaleRecord(row["id"], row["version"])
    tallies = _weigh(db, number, charges, now) if charges else {}
    row["number"] = number
    if number and row["ended_at"] is None and db.execute(sql.NEXT, row).rowcount:
        pass
    elif number:
        db.execute(sql.UPDATE, row)
    else:
        number = db.execute(sql.INSERT, row).lastrowid
        if row["lookups"]:
            db.executemany(sql.INSERT_LOOKUP, [(lookup, number) for lookup in _cut(row["lookups"])])
    for key, tally in tallies.items():
        tally.write(db, {"key": key, "flow": number, "now": now, "at": tally.at, "nth": tally.nth})


@attrs.define
class _Tally:
    """
    What one save does to the uses of one key.

    Attributes:
        lengths: How long each new use counts.

        at, nth: Where the uses begin that the flow takes back.
    """

    lengths: list[int] = attrs.field(factory=list)
    at: int = MAX
    nth: int = 0

    def write(self, db: Connection, values: dict[str, Any]) -> None:
        if self.at < MAX:
            db.execute(sql.TAKE_BACK, values)
        for length in self.lengths:
            db.execute(sql.USE, values | {"expires_at": values["now"] + length})


def _weigh(db: Connection, number: int, charges: tuple[Charge, ...], now: int) -> dict[bytes, _Tally]:
    """Judge the charges one after the other, as if those before had been written. Nothing is."""
    tallies: dict[bytes, _Tally] = {}
    waits: list[int | None] = []
    for charge in charges:
        tally = tallies.setdefault(charge.key, _Tally())
        values: dict[str, Any] = {"key": charge.key, "flow": number, "at": tally.at, "nth": tally.nth}
        if charge.amount < 0:
            if tally.lengths:
                tally.lengths.pop()
            elif newest := db.execute(sql.NEWEST, values).fetchall():
                tally.at, tally.nth = newest[0]
            continue
        length = span(charge.window)
        values |= {"start": now - length, "offset": charge.limit - len(tally.lengths) - 1}
        if values["offset"] < 0:
            waits.append(None)
        elif blocking := db.execute(sql.BLOCKING, values).fetchall():
            waits.append(blocking[0][0] + length - now)
        tally.lengths.append(length)
    if waits:
        known = [wait for wait in waits if wait is not None]
        helps = len(known) == len(waits)
        raise LimitReached("uses of this budget", timedelta(microseconds=max(known)) if helps else None)
    return tallies


def purge_flows(values: dict[str, Any], db: Connection) -> int:
    """Delete those that ended first, and what searches find them by. -> how many"""
    ended = db.execute(sql.ENDED, values).fetchall()
    db.executemany(sql.DELETE_LOOKUP, [(lookup, number) for number, lookups in ended for lookup in _cut(lookups)])
    db.executemany(sql.DELETE, [(number,) for number, _ in ended])
    return len(ended)


def purge_uses(values: dict[str, Any], db: Connection) -> bytes | None:
    """Delete those expired among a piece of all uses, behind a key. -> where to go on next"""
    last = db.execute(sql.USES_PIECE, values).fetchall()
    if not last:
        db.execute(sql.FORGET_REST, values)
        return None
    (key,) = last[0]
    db.execute(sql.FORGET_PIECE, values | {"end": key})
    return bytes(key)


def _cut(lookups: bytes) -> list[bytes]:
    return [lookups[at : at + LOOKUP_BYTES] for at in range(0, len(lookups), LOOKUP_BYTES)]

"""What changes the database. Each function runs inside a transaction that others share: it judges before it writes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import LimitReached, StaleRecord
from reset_flow.stores.rows import check, cut, micros, span, to_row
from reset_flow.stores.sqlite import statements as sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.ports import Charge, Record
    from reset_flow.stores.sqlite.writer import Cursor

__all__ = ["purge_flows", "purge_uses", "save", "usual"]

MAX = 2**63 - 1
NOTHING = sql.NOTHING


def usual(record: Record) -> tuple[Any, ...]:
    """
    The columns of a record as the usual saves want them, but for the end of its lease.

    Raises:
        InvalidInput: As `check` does.
    """
    check(record)
    return (
        str(record.state),
        NOTHING if record.due_at is None else micros(record.due_at),
        NOTHING if record.lease is None else span(record.lease),
        bytearray(record.write_id),  # unlike bytes, the driver knows it at once
        bytearray(record.body),
        NOTHING if record.ended_at is None else micros(record.ended_at),
        record.id,
        record.realm,
        record.version,
        bytearray().join(record.lookups),
    )


def save(
    db: Cursor, record: Record, values: tuple[Any, ...], charges: tuple[Charge, ...], clock: Callable[[], int]
) -> None:
    """
    Write a record, whose `usual` columns are known, and its charges.

    Raises:
        StaleRecord: As the port says.
        LimitReached: As the port says.
    """
    lease = values[sql.LEASE]
    now = clock() if charges or lease != NOTHING else 0
    rooms = _rooms(charges, now) if charges else ()
    if rooms is not None:
        kind = sql.FIRST if record.version == 1 else sql.NEXT if record.ended_at is None else sql.LAST
        statement = kind[len(rooms) // sql.ROOM_VALUES]
        if db.execute(statement, (NOTHING if lease == NOTHING else now + lease, *values, *rooms)).rowcount:
            if record.version == 1 and record.lookups:
                _index(db, record)
            for charge in charges:
                _apply(db, charge, record.id, now)
            return
    _save_any(db, record, charges, now)


def _rooms(charges: tuple[Charge, ...], now: int) -> list[Any] | None:
    """What the charges need, if they are sure to get through wherever that is there; `None`: that is to be weighed."""
    counted: dict[bytes, Charge] = {}
    for charge in charges:
        if charge.amount < 0:
            if counted:  # else it can but make room
                return None
        elif charge.limit < 1 or charge.key in counted:
            return None
        else:
            counted[charge.key] = charge
    if len(counted) > sql.MOST_ROOMS:
        return None
    rooms: list[Any] = []
    for key, charge in counted.items():
        rooms += (bytearray(key), now - span(charge.window), now, charge.limit - 1)
    return rooms


def _apply(db: Cursor, charge: Charge, flow_id: str, now: int) -> None:
    key = bytearray(charge.key)
    if charge.amount < 0:
        db.execute(sql.TAKE_BACK, (key, flow_id, now))
    else:
        db.execute(sql.USE, (key, now, key, now, now + span(charge.window), flow_id))


def _index(db: Cursor, record: Record) -> None:
    db.executemany(sql.INSERT_LOOKUP, [(lookup, db.lastrowid) for lookup in record.lookups])


def _save_any(db: Cursor, record: Record, charges: tuple[Charge, ...], now: int) -> None:
    """Whatever the usual statements leave to be decided: what to refuse, and why."""
    row = to_row(record)
    stored = db.execute(sql.STORED, row).fetchall()
    number, version, write_id = stored[0] if stored else (0, 0, None)
    if write_id == record.write_id:
        return
    if record.version != version + 1:
        raise StaleRecord(record.id, record.version)
    tallies = _weigh(db, number, charges, now) if charges else {}
    row |= {"number": number, "leased_until": None if row["lease"] is None else now + row["lease"]}
    if number:
        db.execute(sql.UPDATE, row)
    else:
        db.execute(sql.INSERT, row)
        _index(db, record)
    for key, tally in tallies.items():
        if tally.at < MAX:
            db.execute(sql.TAKE_ALL_BACK, {"key": key, "flow": number, "at": tally.at, "nth": tally.nth})
        for charge in tally.counted:
            _apply(db, charge, record.id, now)


@attrs.define
class _Tally:
    """
    What one save does to the uses of one key.

    Attributes:
        counted: What is a new use each.

        at, nth: Where the uses begin that the flow takes back.
    """

    counted: list[Charge] = attrs.field(factory=list)
    at: int = MAX
    nth: int = 0


def _weigh(db: Cursor, number: int, charges: tuple[Charge, ...], now: int) -> dict[bytes, _Tally]:
    """Judge the charges one after the other, as if those before had been written. Nothing is."""
    tallies: dict[bytes, _Tally] = {}
    waits: list[int | None] = []
    for charge in charges:
        tally = tallies.setdefault(charge.key, _Tally())
        values: dict[str, Any] = {"key": charge.key, "flow": number, "at": tally.at, "nth": tally.nth, "now": now}
        if charge.amount < 0:
            if tally.counted:
                tally.counted.pop()
            elif newest := db.execute(sql.NEWEST, values).fetchall():
                tally.at, tally.nth = newest[0]
            continue
        length = span(charge.window)
        values |= {"start": now - length, "offset": charge.limit - len(tally.counted) - 1}
        if values["offset"] < 0:
            waits.append(None)
        elif blocking := db.execute(sql.BLOCKING, values).fetchall():
            waits.append(blocking[0][0] + length - now)
        tally.counted.append(charge)
    if waits:
        known = [wait for wait in waits if wait is not None]
        helps = len(known) == len(waits)
        raise LimitReached("uses of this budget", timedelta(microseconds=max(known)) if helps else None)
    return tallies


def purge_flows(db: Cursor, values: dict[str, Any]) -> int:
    """Delete those that ended first, and what searches find them by. -> how many"""
    ended = db.execute(sql.ENDED, values).fetchall()
    db.executemany(sql.DELETE_LOOKUP, [(lookup, number) for number, lookups in ended for lookup in cut(lookups)])
    db.executemany(sql.DELETE, [(number,) for number, _ in ended])
    return len(ended)


def purge_uses(db: Cursor, values: dict[str, Any]) -> bytes | None:
    """Delete those expired among a piece of all uses, behind a key. -> where to go on next"""
    last = db.execute(sql.USES_PIECE, values).fetchall()
    if not last:
        db.execute(sql.FORGET_REST, values)
        return None
    (key,) = last[0]
    db.execute(sql.FORGET_PIECE, values | {"end": key})
    return bytes(key)

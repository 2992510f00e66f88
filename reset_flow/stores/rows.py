"""Records as rows of whole numbers, text and bytes, and back; and scans over such rows."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from reset_flow.domain.errors import InvalidInput, RecordUnreadable
from reset_flow.domain.flow import State
from reset_flow.domain.times import EPOCH, MICROSECOND
from reset_flow.ports import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
    from datetime import datetime, timedelta

    from reset_flow.ports import Query

COLUMNS = "id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until"
"""The columns of a stored record, in the order in which `to_record` takes them."""

PAGE = 50
"""How many rows a scan reads at once."""

LOOKUP_BYTES = 16
FOREVER = 2**61
"""73,000 years in microseconds: still a 64-bit number when a time is added."""

MAX = 2**63 - 1
STATES = {state.value: state for state in State}

Row = TypeVar("Row")
Place: TypeAlias = "tuple[Any, int, int]"
"""Where the next page of a scan begins: behind this id, this number (the order of creation), this time."""


def micros(time: datetime) -> int:
    """Convert a time to microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


def span(length: timedelta) -> int:
    """Convert a length of time to microseconds, at most `FOREVER`."""
    return min(length // MICROSECOND, FOREVER)


def to_row(record: Record) -> dict[str, Any]:
    """Return the columns of a record by name, all but the end of its lease."""
    try:
        record.id.encode()
        record.realm.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the id and the realm of a record must be Unicode texts") from None
    for lookup in record.lookups:
        if len(lookup) != LOOKUP_BYTES:
            raise InvalidInput("a lookup must be 16 bytes long")
    return {
        "id": record.id,
        "realm": record.realm,
        "version": record.version,
        "state": str(record.state),
        "due_at": None if record.due_at is None else micros(record.due_at),
        "ended_at": None if record.ended_at is None else micros(record.ended_at),
        "lease": None if record.lease is None else span(record.lease),
        "lookups": b"".join(record.lookups),
        "write_id": record.write_id,
        "body": record.body,
    }


def cut(lookups: bytes) -> tuple[bytes, ...]:
    """Split the lookups of a row."""
    return tuple(lookups[at : at + LOOKUP_BYTES] for at in range(0, len(lookups), LOOKUP_BYTES))


def to_record(row: Sequence[Any], now: int) -> Record:
    """
    Convert a row to a record; ignore columns behind those of `COLUMNS`.

    A text may come as bytes, so that one that is not UTF-8 spoils only its own row.
    """
    flow_id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until, *_ = row
    try:
        valid = version > 0 and (lease or 0) >= 0 and (lease is None) == (leased_until is None)
        if not valid or len(lookups) % LOOKUP_BYTES or not isinstance(write_id, bytes) or not isinstance(body, bytes):
            raise ValueError  # noqa: TRY301 - one way out for all that can be wrong
        return Record(
            realm=_text(realm),
            id=_text(flow_id),
            version=version,
            state=STATES[_text(state)],
            due_at=None if due_at is None else EPOCH + due_at * MICROSECOND,
            ended_at=None if ended_at is None else EPOCH + ended_at * MICROSECOND,
            lease=None if lease is None else lease * MICROSECOND,
            lookups=cut(lookups) if lookups else (),
            write_id=write_id,
            body=body,
            lease_left=None if leased_until is None else (leased_until - now) * MICROSECOND,
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        # The original error may show what is stored.
        shown_id = flow_id.decode(errors="replace") if isinstance(flow_id, bytes) else flow_id
        raise RecordUnreadable(shown_id, "a column holds what no record has") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else value.decode()


def is_match(record: Record, query: Query) -> bool:
    """Return True if a record matches a query, whether it is due aside."""
    return (
        record.realm == query.realm
        and record.id > query.after
        and (query.lookup is None or query.lookup in record.lookups)
    )


def matching(query: Query, rows: Iterable[Row], read: Callable[[Row], Record]) -> Iterator[Record]:
    """Read the rows of a page; skip those that are damaged or do not match the query."""
    for row in rows:
        with suppress(RecordUnreadable):
            record = read(row)
            if is_match(record, query):
                yield record


async def scan_pages(
    query: Query,
    limit: int,
    fetch: Callable[[str, Place], Awaitable[Sequence[Any]]],
    read: Callable[[Any], Record],
) -> AsyncIterator[Record]:
    """
    Yield the records of a scan.

    Args:
        fetch: Returns the next `PAGE` rows behind a place, for a statement: `scan_due`, `scan_lookup` or `scan_ids`.
            The last two columns of a row are its number and the time at which it is due.
    """
    statement = "scan_due" if query.due else "scan_ids" if query.lookup is None else "scan_lookup"
    place: Place = (query.after, 0 if query.due else MAX, -MAX)
    left = limit
    while left > 0:
        rows = await fetch(statement, place)
        for record in islice(matching(query, rows, read), left):
            yield record
            left -= 1
        if len(rows) < PAGE:
            return
        place = (rows[-1][0], rows[-1][-2], rows[-1][-1])

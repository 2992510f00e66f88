"""Records as rows of whole numbers, text and bytes, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from reset_flow.domain.errors import InvalidInput
from reset_flow.domain.flow import State
from reset_flow.ports import Record

__all__ = ["COLUMNS", "check", "cut", "micros", "span", "to_record", "to_row"]

COLUMNS = ("id", "realm", "version", "state", "due_at", "ended_at", "lease", "lookups", "write_id", "body")
"""The columns of `to_row`. `to_record` takes them in this order, followed by the end of the lease."""

LOOKUP_BYTES = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FOREVER = 2**61
"""73,000 years in microseconds: still a 64-bit number when a time is added."""

STATES = {state.value.encode(): state for state in State}


def micros(time: datetime) -> int:
    """Convert a time to microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


def span(length: timedelta) -> int:
    """Convert a length of time to microseconds, at most `FOREVER`."""
    return min(length // MICROSECOND, FOREVER)


def _time(value: int | None) -> datetime | None:
    return None if value is None else EPOCH + value * MICROSECOND


def _length(value: int | None) -> timedelta | None:
    return None if value is None else value * MICROSECOND


def check(record: Record) -> None:
    """
    Refuse a record that no database can hold.

    Raises:
        InvalidInput: A lookup is not 16 bytes long, or a text can't be written as UTF-8.
    """
    try:
        record.id.encode()
        record.realm.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the id and the realm of a record must be Unicode texts") from None
    for lookup in record.lookups:
        if len(lookup) != LOOKUP_BYTES:
            raise InvalidInput("a lookup must be 16 bytes long")


def to_row(record: Record) -> dict[str, Any]:
    """
    Return the columns of a record by name.

    Raises:
        InvalidInput: As `check` does.
    """
    check(record)
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


def to_record(row: tuple[Any, ...], now: int) -> Record:
    """
    Convert a row to a record. Its texts come as bytes, so that a text that is not UTF-8 spoils only its own row.

    Raises:
        ValueError: A column holds a value that no record has.
    """
    flow_id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until = row
    try:
        if version < 1 or (lease or 0) < 0 or (lease is None) != (leased_until is None):
            raise ValueError("a number is out of its range")
        if len(lookups) % LOOKUP_BYTES or not isinstance(write_id, bytes) or not isinstance(body, bytes):
            raise ValueError("its bytes are of the wrong kind or number")
        return Record(
            realm=realm.decode(),
            id=flow_id.decode(),
            version=version,
            state=STATES[state],
            due_at=_time(due_at),
            ended_at=_time(ended_at),
            lease=_length(lease),
            lookups=cut(lookups) if lookups else (),
            write_id=write_id,
            body=body,
            lease_left=None if leased_until is None else (leased_until - now) * MICROSECOND,
        )
    except KeyError:
        raise ValueError("its state is not one of ours") from None
    except UnicodeDecodeError:
        # The original would show the bytes.
        raise ValueError("a text is not UTF-8") from None
    except (AttributeError, OverflowError, TypeError):
        raise ValueError("a column is of the wrong type or out of its range") from None

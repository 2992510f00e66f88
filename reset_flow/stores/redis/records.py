"""
Records as the scripts keep them, and back.

One text for each flow: a head that `save.lua` writes (format, version, number of the flow, end of the lease or 0), then
what `pack` gives. Scripts read as far as the lookups; `record.lua` knows the same layout.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from reset_flow.domain.errors import InvalidInput
from reset_flow.domain.flow import State
from reset_flow.ports import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.ports import Charge

__all__ = ["HEAD", "LOOKUP_BYTES", "micros", "name", "pack", "span", "unpack", "version_of"]

LOOKUP_BYTES = 16
FORMAT = 1
HEAD = struct.Struct(">BQQq")
TIMES = struct.Struct(">qqq")
LENGTH = struct.Struct(">I")
VERSION = struct.Struct(">q")
CHARGE = struct.Struct(">qqq")
NOTHING = -(2**63)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FOREVER = 2**52
"""142 years: Lua's doubles still count microseconds when a time is added."""

NAMES = {state: state.value.encode() for state in State}
STATES = {name: state for state, name in NAMES.items()}


def micros(time: datetime) -> int:
    """Since 1970."""
    return (time - EPOCH) // MICROSECOND


def span(length: timedelta) -> int:
    """A length of time; what is longer than forever is forever."""
    return min(length // MICROSECOND, FOREVER)


def name(text: str) -> bytes:
    """A text as a part of a key. What can't be a record's gives the name of nothing."""
    return text.encode("utf-8", "surrogatepass")


def pack(record: Record, charges: Sequence[Charge]) -> bytes:
    """
    What `save.lua` takes for a save: all of a record that it need not change, between what it puts into the head and
    the charges.

    Raises:
        InvalidInput: A lookup is not 16 bytes long, or a text can't be written as UTF-8.
    """
    try:
        flow_id, realm = record.id.encode(), record.realm.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the id and the realm of a record must be Unicode texts") from None
    for lookup in record.lookups:
        if len(lookup) != LOOKUP_BYTES:
            raise InvalidInput("a lookup must be 16 bytes long")
    lookups, state, write_id, body = b"".join(record.lookups), NAMES[record.state], record.write_id, record.body
    due_at, ended_at, lease = record.due_at, record.ended_at, record.lease
    times = (
        NOTHING if due_at is None else micros(due_at),
        NOTHING if ended_at is None else micros(ended_at),
        NOTHING if lease is None else span(lease),
    )
    length = LENGTH.pack
    texts = (
        *(length(len(realm)), realm, length(len(write_id)), write_id, length(len(lookups)), lookups),
        *(length(len(state)), state, length(len(body)), body, TIMES.pack(*times)),
    )
    packed = b"".join(texts)
    parts = [VERSION.pack(record.version), length(len(flow_id)), flow_id, length(len(packed)), packed]
    for charge in charges:
        numbers = charge.amount, min(charge.limit, FOREVER), span(charge.window)
        parts += (length(len(charge.key)), charge.key, CHARGE.pack(*numbers))
    return b"".join(parts)


def version_of(head: bytes) -> int:
    """
    The version, by the beginning of what is stored.

    Raises:
        ValueError: It is no record.
    """
    return _head(head)[0]


def _head(value: bytes) -> tuple[int, int]:
    """-> version, the lease's end"""
    if len(value) < HEAD.size or value[0] != FORMAT:
        raise ValueError("what is stored is no record of this release")
    _, version, _, leased_until = HEAD.unpack_from(value)
    return version, leased_until


def unpack(flow_id: str, value: bytes, now: int) -> Record:
    """
    The record of a flow.

    Raises:
        ValueError: It holds what no record has.
    """
    version, leased_until = _head(value)
    texts, at = [], HEAD.size
    try:
        for _ in range(5):
            (length,) = LENGTH.unpack_from(value, at)
            at += LENGTH.size + length
            texts.append(value[at - length : at])
        due_at, ended_at, lease = TIMES.unpack(value[at:])
        realm, write_id, lookups, state, body = texts
        if version < 1 or (lease == NOTHING) != (leased_until == 0) or len(lookups) % LOOKUP_BYTES:
            raise ValueError("a number is out of its range")
        return Record(
            realm=realm.decode(),
            id=flow_id,
            version=version,
            state=STATES[state],
            due_at=None if due_at == NOTHING else EPOCH + timedelta(microseconds=due_at),
            ended_at=None if ended_at == NOTHING else EPOCH + timedelta(microseconds=ended_at),
            lease=None if lease == NOTHING else timedelta(microseconds=lease),
            lookups=tuple([lookups[at : at + LOOKUP_BYTES] for at in range(0, len(lookups), LOOKUP_BYTES)]),
            write_id=write_id,
            body=body,
            lease_left=None if lease == NOTHING else timedelta(microseconds=leased_until - now),
        )
    except struct.error:
        raise ValueError("it was cut off, or something was added") from None
    except KeyError:
        raise ValueError("its state is not one of ours") from None
    except UnicodeDecodeError:
        # The original would show the bytes.
        raise ValueError("a text is not UTF-8") from None
    except OverflowError:
        raise ValueError("a time is out of its range") from None

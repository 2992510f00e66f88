"""
Records as the scripts keep them, and back.

One text for each flow: a head that `save.lua` writes (format, version, number of the flow, end of the lease or 0), then
what `pack` gives. Scripts read as far as the lookups; `record.lua` knows the same layout.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

from reset_flow.errors import InvalidInput
from reset_flow.models import State
from reset_flow.ports import Record

__all__ = ["HEAD", "LOOKUP_BYTES", "micros", "name", "pack", "span", "unpack", "version_of"]

LOOKUP_BYTES = 16
FORMAT = 1
HEAD = struct.Struct(">BQQq")
LENGTH = struct.Struct(">I")
TIMES = struct.Struct(">qqq")
NOTHING = -(2**63)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FOREVER = 2**52
"""142 years: Lua's doubles still count microseconds when a time is added."""


def micros(time: datetime) -> int:
    """Since 1970."""
    return (time - EPOCH) // MICROSECOND


def span(length: timedelta) -> int:
    """A length of time; what is longer than forever is forever."""
    return min(length // MICROSECOND, FOREVER)


def name(text: str) -> bytes:
    """A text as a part of a key. What can't be a record's gives the name of nothing."""
    return text.encode("utf-8", "surrogatepass")


def pack(record: Record) -> bytes:
    """
    All of a record that a script need not change.

    Raises:
        InvalidInput: A lookup is not 16 bytes long, or a text can't be written as UTF-8.
    """
    try:
        record.id.encode()
        texts = [record.realm.encode(), record.stamp, b"".join(record.lookups), record.state.encode(), record.body]
    except UnicodeEncodeError:
        raise InvalidInput("the id and the realm of a record must be Unicode texts") from None
    if any(len(lookup) != LOOKUP_BYTES for lookup in record.lookups):
        raise InvalidInput("a lookup must be 16 bytes long")
    times = (
        NOTHING if record.due_at is None else micros(record.due_at),
        NOTHING if record.ended_at is None else micros(record.ended_at),
        NOTHING if record.lease is None else span(record.lease),
    )
    return b"".join(part for text in texts for part in (LENGTH.pack(len(text)), text)) + TIMES.pack(*times)


def version_of(head: bytes) -> int:
    """
    The version, by the beginning of what is stored.

    Raises:
        ValueError: It is no record.
    """
    if len(head) < HEAD.size or head[0] != FORMAT:
        raise ValueError("what is stored is no record of this release")
    return int(HEAD.unpack_from(head)[1])


def unpack(flow_id: str, value: bytes, now: int) -> Record:
    """
    The record of a flow.

    Raises:
        ValueError: It holds what no record has.
    """
    version = version_of(value)
    leased_until = HEAD.unpack_from(value)[3]
    texts, at = [], HEAD.size
    try:
        for _ in range(5):
            (length,) = LENGTH.unpack_from(value, at)
            at += LENGTH.size + length
            texts.append(value[at - length : at])
        due_at, ended_at, lease = (None if each == NOTHING else each for each in TIMES.unpack(value[at:]))
        realm, stamp, lookups, state, body = texts
        if version < 1 or (lease is None) != (leased_until == 0) or len(lookups) % LOOKUP_BYTES:
            raise ValueError("a number is out of its range")
        return Record(
            realm=realm.decode(),
            id=flow_id,
            version=version,
            state=State(state.decode()),
            due_at=None if due_at is None else EPOCH + timedelta(microseconds=due_at),
            ended_at=None if ended_at is None else EPOCH + timedelta(microseconds=ended_at),
            lease=None if lease is None else timedelta(microseconds=lease),
            lookups=tuple(lookups[at : at + LOOKUP_BYTES] for at in range(0, len(lookups), LOOKUP_BYTES)),
            stamp=stamp,
            body=body,
            lease_left=None if lease is None else timedelta(microseconds=leased_until - now),
        )
    except struct.error:
        raise ValueError("it was cut off, or something was added") from None
    except UnicodeDecodeError:
        # The original would show the bytes.
        raise ValueError("a text is not UTF-8") from None
    except OverflowError:
        raise ValueError("a time is out of its range") from None

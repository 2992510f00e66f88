"""
Encode records for the scripts, and decode what they stored.

Integers have 8 bytes, big-endian; bytes have their length in front, 4 bytes. `record.lua` knows the same layout.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from reset_flow.domain.errors import InvalidInput
from reset_flow.domain.flow import State
from reset_flow.ports import Record
from reset_flow.stores.rows import micros, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.ports import Use, UseName

__all__ = ["decode_record", "encode_save", "to_bytes"]

FORMAT = 1
NOTHING = -(2**63)
"""In place of a time that there is none of."""

HEAD = struct.Struct(">BQQqqqq")
"""Format, version, number of the flow, end of the lease or 0, due_at, ended_at, lease."""
INTEGER = struct.Struct(">q")
LENGTH = struct.Struct(">I")

LOOKUP_BYTES = 16
MAX_LIMIT = 2**53
"""Lua's doubles count no further."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_bytes(text: str) -> bytes:
    """Encode a text as part of a key; one that no record can hold gives a key that does not exist."""
    return text.encode("utf-8", "surrogatepass")


def encode_save(record: Record, add: Sequence[Use], drop: Sequence[UseName]) -> bytes:
    """
    Encode a save for `save.lua`: version, id, how many uses are dropped and added, the former with key and id, the
    latter with key, id, limit and window, and the record.

    Raises:
        InvalidInput: A lookup is not 16 bytes long, or a text can't be written as UTF-8.
    """
    for lookup in record.lookups:
        if len(lookup) != LOOKUP_BYTES:
            raise InvalidInput("a lookup must be 16 bytes long")
    try:
        flow_id, realm = record.id.encode(), record.realm.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the id and the realm of a record must be Unicode texts") from None
    fields: list[int | bytes] = [record.version, flow_id, len(drop), len(add)]
    for name in drop:
        fields += (name.key, name.id)
    for use in add:
        fields += (use.key, use.id, min(use.limit, MAX_LIMIT), span(use.window))
    fields += (
        NOTHING if record.due_at is None else micros(record.due_at),
        NOTHING if record.ended_at is None else micros(record.ended_at),
        NOTHING if record.lease is None else span(record.lease),
        realm,
        record.write_id,
        b"".join(record.lookups),
        record.state.encode(),
        record.body,
    )
    parts: list[bytes] = []
    for field in fields:
        parts += (INTEGER.pack(field),) if isinstance(field, int) else (LENGTH.pack(len(field)), field)
    return b"".join(parts)


def decode_record(flow_id: str, value: bytes, now: int) -> Record:
    """
    Decode what is stored of a flow.

    Raises:
        ValueError: It is no record. The message shows nothing of it.
    """
    try:
        return _decode(flow_id, value, now)
    except (ValueError, OverflowError, struct.error):
        raise ValueError("what is stored is no record of this release") from None


def _decode(flow_id: str, value: bytes, now: int) -> Record:
    record_format, version, _, leased_until, due_at, ended_at, lease = HEAD.unpack_from(value)
    texts, at = [], HEAD.size
    for _ in range(5):
        (length,) = LENGTH.unpack_from(value, at)
        at += LENGTH.size + length
        texts.append(value[at - length : at])
    realm, write_id, lookups, state, body = texts
    whole = at == len(value) and len(lookups) % LOOKUP_BYTES == 0
    if record_format != FORMAT or version < 1 or (lease == NOTHING) != (leased_until == 0) or not whole:
        raise ValueError
    return Record(
        realm=realm.decode(),
        id=flow_id,
        version=version,
        state=State(state.decode()),
        due_at=None if due_at == NOTHING else EPOCH + due_at * MICROSECOND,
        ended_at=None if ended_at == NOTHING else EPOCH + ended_at * MICROSECOND,
        lease=None if lease == NOTHING else lease * MICROSECOND,
        lookups=tuple([lookups[at : at + LOOKUP_BYTES] for at in range(0, len(lookups), LOOKUP_BYTES)]),
        write_id=write_id,
        body=body,
        lease_left=None if lease == NOTHING else (leased_until - now) * MICROSECOND,
    )

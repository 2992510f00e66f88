"""
Encode records for the scripts, and decode what they stored.

Integers have 8 bytes, big-endian; bytes have their length in front, 4 bytes. `record.lua` knows the same layout.
"""

from __future__ import annotations

from struct import Struct, error
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import RecordUnreadable
from reset_flow.stores.rows import span, to_record, to_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.ports import Record, Use, UseName

FORMAT = 1
NOTHING = -(2**63)
"""In place of a time that there is none of."""

HEAD = Struct(">BQQqqqq")
"""Format, version, number of the flow, end of the lease or 0, due_at, ended_at, lease."""
VERSION, COUNTS, TIMES, LENGTH = Struct(">q"), Struct(">qq"), Struct(">qqq"), Struct(">I")

MAX_LIMIT = 2**53
"""Lua's doubles count no further."""


def to_bytes(text: str) -> bytes:
    """Encode a text as part of a key; one that no record can hold gives a key that does not exist."""
    return text.encode("utf-8", "surrogatepass")


def encode_save(record: Record, add: Sequence[Use], drop: Sequence[UseName]) -> bytes:
    """
    Encode a save for `save.lua`: version, id, the write id that it replaces, how many uses are dropped and added, the
    former with key and id, the latter with key, id, limit and window, and the record.
    """
    row = to_row(record)
    size = LENGTH.pack
    flow_id, realm, state, lookups = row["id"].encode(), row["realm"].encode(), row["state"].encode(), row["lookups"]
    times = [NOTHING if row[column] is None else row[column] for column in ("due_at", "ended_at", "lease")]
    changes = [size(len(each)) + each for name in drop for each in (name.key, name.id)]
    for use in add:
        changes += [size(len(use.key)), use.key, size(len(use.id)), use.id]
        changes.append(COUNTS.pack(min(use.limit, MAX_LIMIT), span(use.window)))
    return b"".join([
        VERSION.pack(record.version), size(len(flow_id)), flow_id, size(len(record.replaces)), record.replaces,
        COUNTS.pack(len(drop), len(add)), *changes,
        TIMES.pack(*times), size(len(realm)), realm, size(len(record.write_id)), record.write_id,
        size(len(lookups)), lookups, size(len(state)), state, size(len(record.body)), record.body,
    ])  # fmt: skip


def decode_record(flow: Sequence[Any], now: int) -> Record:
    """Decode the id of a flow and what is stored of it."""
    flow_id, value = flow
    try:
        record_format, version, _, leased_until, *times = HEAD.unpack_from(value)
        texts, at = [], HEAD.size
        for _ in range(5):
            (length,) = LENGTH.unpack_from(value, at)
            at += LENGTH.size + length
            texts.append(value[at - length : at])
    except error:
        record_format = None
    if record_format != FORMAT or at != len(value):
        raise RecordUnreadable(flow_id, "what is stored is no record of this release")
    realm, write_id, lookups, state, body = texts
    due_at, ended_at, lease = [None if time == NOTHING else time for time in times]
    row = (flow_id, realm, version, state, due_at, ended_at, lease, lookups, write_id, body, leased_until or None)
    return to_record(row, now)

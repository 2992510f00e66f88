"""
Flow data as bytes, and back.

The bytes are a MessagePack array whose places have fixed meanings; the first is the number of the schema. What a
record has in the clear (id, version, write id, state, the time of its end, lookups) is not repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from reset_flow.domain.flow import State
from reset_flow.domain.flow_data import SCHEMA, FlowData
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import EDGE_BY_LETTER

if TYPE_CHECKING:
    from reset_flow.ports import Record


def _secret(_: type, text: str) -> Secret:
    if not isinstance(text, str):
        raise TypeError("a secret is a text")
    return Secret(text)


def _text(secret: Any) -> str:
    if not isinstance(secret, Secret):
        kind = type(secret).__name__
        del secret  # whatever it is, somebody may log this frame
        raise TypeError(f"flow data holds no {kind}")
    return secret.reveal()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_text)
_DECODER = msgspec.msgpack.Decoder(FlowData, dec_hook=_secret)

_CLEAR = {"id": "", "version": 0, "write_id": b"", "state": State.REQUESTED, "ended_at": None, "lookups": ()}
TAIL = b"".join(msgspec.msgpack.encode(value) for value in _CLEAR.values())
"""The last places of every array: what a record has in the clear. They are not stored."""


def encode(flow: FlowData) -> bytes:
    """Return the bytes to seal. Every text must be fit for UTF-8: validation has seen to it."""
    return _ENCODER.encode(replace(flow, **_CLEAR)).removesuffix(TAIL)


def decode(body: bytes, record: Record) -> FlowData:
    """
    Return the flow data that was written into this record.

    Raises:
        ValueError: It was written by a newer version, or by something else.
    """
    try:
        flow = _DECODER.decode(body + TAIL)
        _check_history(flow)
        return replace(
            flow,
            id=record.id,
            version=record.version,
            write_id=record.write_id,
            state=record.state,
            ended_at=record.ended_at,
            lookups=record.lookups,
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        # Raised below: the frames hold what was opened.
        reason = f"not flow data ({type(error).__name__})"
    if (schema := _schema(body)) > SCHEMA:
        reason = f"schema {schema} is of a newer version of the library: upgrade this one"
    raise ValueError(reason)


def _check_history(flow: FlowData) -> None:
    """Raise ValueError if its history can't be shown."""
    for move in flow.moves:
        if move.letter not in EDGE_BY_LETTER or not 0 <= move.worker < len(flow.workers):
            raise ValueError("a move that leads nowhere, or is nobody's")


def _schema(body: bytes) -> int:
    """Return the schema that the bytes begin with; 0 if they begin with none."""
    try:
        row = msgspec.msgpack.decode(body + TAIL)
    except (ValueError, RecursionError):
        return 0
    return row[0] if isinstance(row, list) and row and type(row[0]) is int else 0

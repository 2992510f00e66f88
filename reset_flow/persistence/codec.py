"""
A dossier as bytes, and back.

The bytes are a MessagePack array whose places have fixed meanings, the first of them the number of the schema; those up
to 2 were JSON. What a record has in the clear (id, version, state, the time of its end, lookups) is not repeated.
"""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from reset_flow.domain.flow import State
from reset_flow.domain.flow_data import ENDS, SCHEMA, Dossier
from reset_flow.domain.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.ports import Record

__all__ = ["SCHEMA", "decode", "encode"]

JSON = ord("[")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def _from_1(row: list[Any]) -> list[Any]:
    """Idempotency keys, listeners, and who did what came with schema 2."""
    intent, history = row[10], row[17]
    return [2, *row[1:10], intent and [*intent, None], *row[11:17], [], [], [], [""], [[*each, 0] for each in history]]


def _from_2(row: list[Any]) -> list[Any]:
    """Times were microseconds, `created_at` since the epoch and all others since that; bytes were base64."""
    (
        _, user, credential, transport, created, expires, question, continuation, answer, token, intent, in_doubt,
        failure, sent, _granted, counts, flags, results, listeners, owed, workers, history,
    ) = row  # fmt: skip
    start: datetime = EPOCH + created * MICROSECOND

    def bytes_of(text: str | None) -> bytes | None:
        return None if text is None else b64decode(text)

    def time_of(since: int) -> datetime:
        return start + since * MICROSECOND

    if intent:
        command, at, sendings, secret, key = intent
        intent = [command, time_of(at), sendings, secret, bytes_of(key)]
    return [
        3, user, credential, transport, start, time_of(expires), question, bytes_of(continuation), answer, token,
        intent, in_doubt, failure, None if sent is None else time_of(sent), *counts,
        bool(flags & 4), bool(flags & 1), bool(flags & 2),
        [[bytes_of(key), *rest] for key, *rest in results], listeners, owed, workers,
        [[trigger, edge, time_of(at), worker] for trigger, edge, at, worker in history],
    ]  # fmt: skip


UPGRADES: dict[int, Callable[[list[Any]], list[Any]]] = {1: _from_1, 2: _from_2}
"""For each older schema, what makes of its array one of the next."""


def _secret(_: type, text: str) -> Secret:
    if not isinstance(text, str):
        raise TypeError("a secret is a text")
    return Secret(text)


def _text(secret: Any) -> str:
    if not isinstance(secret, Secret):
        kind = type(secret).__name__
        del secret  # whatever it is, somebody may log this frame
        raise TypeError(f"a dossier holds no {kind}")
    return secret.reveal()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_text)
_DECODER = msgspec.msgpack.Decoder(Dossier, dec_hook=_secret)


def encode(dossier: Dossier) -> bytes:
    """The bytes to seal. Whoever calls must have checked that every text can be written as UTF-8."""
    return _ENCODER.encode(replace(dossier, id="", version=0, state=State.REQUESTED, ended_at=None, lookups=()))


def decode(body: bytes, record: Record) -> Dossier:
    """
    The dossier that was written into this record.

    Raises:
        ValueError: It was written by a newer version, or by something else.
    """
    try:
        dossier = _DECODER.decode(body) if body[0] != JSON else _upgraded(body)
        _check(dossier)
        return replace(
            dossier,
            id=record.id,
            version=record.version,
            state=record.state,
            ended_at=record.ended_at,
            lookups=record.lookups,
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        # Raised below: the frames hold what was opened.
        reason = f"not a dossier ({type(error).__name__})"
    if (schema := _schema(body)) > SCHEMA:
        reason = f"schema {schema} is of a newer version of the library: upgrade this one"
    raise ValueError(reason)


def _check(dossier: Dossier) -> None:
    """Return if its history can be shown."""
    for move in dossier.moves:
        if move.edge not in ENDS or not 0 <= move.worker < len(dossier.workers):
            raise ValueError("a move that leads nowhere, or is nobody's")


def _upgraded(body: bytes) -> Dossier:
    row = msgspec.json.decode(body)
    while row[0] != SCHEMA:
        row = UPGRADES[row[0]](row)
    return msgspec.convert(row, Dossier, dec_hook=_secret)


def _schema(body: bytes) -> int:
    """The number that it begins with, 0 if it begins with none."""
    try:
        row = msgspec.msgpack.decode(body)
    except (ValueError, RecursionError):
        return 0
    return row[0] if isinstance(row, list) and row and type(row[0]) is int else 0

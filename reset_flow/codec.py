"""
A dossier as bytes, and back.

The bytes are a JSON array whose places have fixed meanings: a quarter of the size of an object with names, and a third
of the time that a converter takes which walks the classes. What a record has in the clear (id, version, state, the time
of its end, lookups) is not repeated. Times are whole microseconds: since the epoch for `created_at`, since that for all
others.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from reset_flow.dossier import Dossier, Intent, Result
from reset_flow.models import Credential, Failure, Secret, State, Step, Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.ports import Record

__all__ = ["SCHEMA", "decode", "encode"]

SCHEMA = 2


def _from_1(row: list[Any]) -> list[Any]:
    """Idempotency keys, listeners, and who did what came with schema 2."""
    intent, history = row[10], row[17]
    return [2, *row[1:10], intent and [*intent, None], *row[11:17], [], [], [], [""], [[*each, 0] for each in history]]


UPGRADES: dict[int, Callable[[list[Any]], list[Any]]] = {1: _from_1}
"""For each older schema, what makes of its array one of the next."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_LETTERS = dict(zip("rqctpf", State, strict=True))
_ENDS = {a + b: (source, target) for a, source in _LETTERS.items() for b, target in _LETTERS.items()}
_EDGES = {ends: letters for letters, ends in _ENDS.items()}
_CREDENTIALS = {credential.value: credential for credential in Credential}  # a dict asks in a tenth of the time


def _after(start: datetime, microseconds: int | None) -> datetime | None:
    # To multiply takes less than half the time of `timedelta(microseconds=...)`.
    return None if microseconds is None else start + microseconds * MICROSECOND


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)


def encode(dossier: Dossier) -> bytes:
    """The bytes to seal. Whoever calls must have checked that every text can be written as UTF-8."""
    start, intent, history = dossier.created_at, dossier.intent, dossier.history
    workers = list(dict.fromkeys([step.worker for step in history]))
    return orjson.dumps(
        [
            SCHEMA,
            dossier.user,
            dossier.credential,
            dossier.transport,
            (start - EPOCH) // MICROSECOND,
            (dossier.expires_at - start) // MICROSECOND,
            dossier.question,
            None if dossier.continuation is None else b64encode(dossier.continuation).decode(),
            None if dossier.answer is None else dossier.answer.reveal(),
            None if dossier.token is None else dossier.token.reveal(),
            intent
            and [
                intent.command,
                (intent.at - start) // MICROSECOND,
                intent.sendings,
                None if intent.secret is None else intent.secret.reveal(),
                None if intent.key is None else b64encode(intent.key).decode(),
            ],
            dossier.in_doubt,
            dossier.failure,
            None if dossier.sent_at is None else (dossier.sent_at - start) // MICROSECOND,
            None if dossier.granted_at is None else (dossier.granted_at - start) // MICROSECOND,
            [dossier.answers, dossier.codes, dossier.passwords, dossier.resends],
            dossier.compensated + 2 * dossier.masked + 4 * dossier.reserved,
            [[b64encode(result.key).decode(), result.command, result.code] for result in dossier.results],
            dossier.listeners,
            dossier.owed,
            workers,
            [
                [
                    step.trigger,
                    _EDGES[step.source, step.target],
                    (step.at - start) // MICROSECOND,
                    workers.index(step.worker),
                ]
                for step in history
            ],
        ]
    )


def decode(body: bytes, record: Record) -> Dossier:
    """
    The dossier that was written into this record.

    Raises:
        ValueError: It was written by a newer version, or by something else.
    """
    try:
        return _decode(orjson.loads(body), record)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, ValueError) as error:
        # `from None`: the frames below hold what was opened.
        reason = str(error) if isinstance(error, _NewerSchemaError) else f"not a dossier ({type(error).__name__})"
    raise ValueError(reason)


class _NewerSchemaError(ValueError):
    pass


def _upgraded(row: list[Any]) -> list[Any]:
    while (schema := row[0]) != SCHEMA:
        if schema > SCHEMA:
            raise _NewerSchemaError(f"schema {schema} is of a newer version of the library: upgrade this one")
        row = UPGRADES[schema](row)
    return row


def _decode(row: list[Any], record: Record) -> Dossier:
    (
        _, user, credential, transport, created, expires, question, continuation, answer, token, intent, in_doubt,
        failure, sent, granted, (answers, codes, passwords, resends), flags, results, listeners, owed, workers,
        history,
    ) = _upgraded(row)  # fmt: skip
    start = EPOCH + created * MICROSECOND
    return Dossier(
        id=record.id,
        version=record.version,
        state=record.state,
        ended_at=record.ended_at,
        lookups=record.lookups,
        user=user,
        credential=_CREDENTIALS[credential],
        transport=transport,
        created_at=start,
        expires_at=start + expires * MICROSECOND,
        question=question,
        continuation=_bytes(continuation),
        answer=_secret(answer),
        token=_secret(token),
        intent=None if intent is None else _intent(start, intent),
        in_doubt=None if in_doubt is None else Step(in_doubt),
        failure=None if failure is None else Failure(failure),
        sent_at=_after(start, sent),
        granted_at=_after(start, granted),
        answers=answers,
        codes=codes,
        passwords=passwords,
        resends=resends,
        compensated=bool(flags & 1),
        masked=bool(flags & 2),
        reserved=bool(flags & 4),
        results=tuple([Result(key=b64decode(key), command=command, code=code) for key, command, code in results]),
        listeners=tuple(listeners),
        owed=tuple(owed),
        history=tuple(
            [
                Transition(
                    trigger=trigger,
                    source=_ENDS[edge][0],
                    target=_ENDS[edge][1],
                    at=start + at * MICROSECOND,
                    worker=workers[worker],
                )
                for trigger, edge, at, worker in history
            ]
        ),
    )


def _intent(start: datetime, row: list[Any]) -> Intent:
    command, at, sendings, secret, key = row
    return Intent(
        command=command,
        at=start + at * MICROSECOND,
        sendings=sendings,
        secret=_secret(secret),
        key=_bytes(key),
    )

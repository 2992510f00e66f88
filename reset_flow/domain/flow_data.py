"""All that is known of one reset, secrets included: the rules work on it, the codec writes it, nobody is shown it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from reset_flow.domain.flow import Credential, Failure, State, Step, Transition
from reset_flow.domain.secret import Secret, Shown, Unpicklable

__all__ = ["EDGES", "ENDS", "SCHEMA", "FlowData", "Intent", "Move", "Result"]

SCHEMA = 1
"""Of the bytes that flow data is written as; the first thing in them."""

Time: TypeAlias = Annotated[datetime, Meta(tz=True)]

_LETTERS = dict(zip("rqctpf", State, strict=True))
ENDS = {a + b: (source, target) for a, source in _LETTERS.items() for b, target in _LETTERS.items()}
EDGES = {ends: letters for letters, ends in ENDS.items()}


class _Kept(Shown, Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What is sealed as an array: the order of its fields is the format."""


class Intent(Unpicklable, _Kept, frozen=True, kw_only=True):
    """
    The durable note that a call is about to be sent.

    Attributes:
        at: When it was first meant to be sent, UTC.

        sendings: How many of the same call were announced, this one included.

        secret: The answer or the code that goes with it. A password is never kept.
    """

    refusal = "an intent can't be pickled, as it has secrets: a keyring seals it"
    hidden = frozenset({"key"})

    command: str
    at: Time
    sendings: int = 1
    secret: Secret | None = None
    key: bytes | None = None


class Result(_Kept, frozen=True, kw_only=True):
    """
    What came of a command that had an idempotency key.

    Attributes:
        key: A keyed hash of it, 16 bytes.

        code: Of the error that it raised; `""` where it returned the flow.
    """

    hidden = frozenset({"key"})

    key: bytes
    command: str
    code: str = ""


class Move(_Kept, frozen=True):
    """
    A transition, as flow data keeps it.

    Attributes:
        edge: A letter for the state that it left, and one for the state that it led to.

        worker: Its place among the workers of the flow data.
    """

    trigger: str
    edge: str
    at: Time
    worker: int

    @property
    def target(self) -> State:
        """The state that it led to."""
        return ENDS[self.edge][1]

    def transition(self, workers: tuple[str, ...]) -> Transition:
        """The same as it is shown."""
        source, target = ENDS[self.edge]
        return Transition(trigger=self.trigger, source=source, target=target, at=self.at, worker=workers[self.worker])


class FlowData(Unpicklable, _Kept, frozen=True, kw_only=True, tag=SCHEMA):
    """
    One reset, as its record holds it.

    Attributes:
        version: Of the stored record; 0 while there is none.

        question: `""`: the broker asks none; `None`: it does not say whether it does.

        answer: Kept until the code is verified, for asking for another one.

        token: Kept until the end.

        sent_at: When a code was last asked for.

        answers, codes, passwords, resends: How many of the attempts are used up.

        reserved: Whether a use of the user's budget of codes is kept for the next guess of this flow.

        compensated: Whether an attempt was given back for a code that was lost to doubt.

        masked: Whether the broker refused this reset, which nobody is to learn: it is not called any more.

        results: Of the last commands that had an idempotency key, oldest first.

        listeners: The names of those that the flow was started with.

        owed: The names of those that have yet to hear of the end.

        workers: Those that took its transitions.

        moves: Its transitions, oldest first.
    """

    refusal = "flow data can't be pickled, as it has a login: a keyring seals it"
    hidden = frozenset({"user", "lookups", "question", "continuation", "workers", "moves"})

    user: str
    credential: Credential
    transport: str
    created_at: Time
    expires_at: Time
    question: str | None = None
    continuation: bytes | None = None
    answer: Secret | None = None
    token: Secret | None = None
    intent: Intent | None = None
    in_doubt: Step | None = None
    failure: Failure | None = None
    sent_at: Time | None = None
    answers: int = 0
    codes: int = 0
    passwords: int = 0
    resends: int = 0
    reserved: bool = False
    compensated: bool = False
    masked: bool = False
    results: tuple[Result, ...] = ()
    listeners: tuple[str, ...] = ()
    owed: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    # What a record has in the clear; its body holds the defaults in their place.
    id: str = ""
    version: int = 0
    state: State = State.REQUESTED
    ended_at: Time | None = None
    lookups: tuple[bytes, ...] = ()

    @property
    def history(self) -> tuple[Transition, ...]:
        """Its transitions, as they are shown."""
        return tuple([move.transition(self.workers) for move in self.moves])

    def saved(self, version: int) -> Self:
        """The same one, now that its record is stored. Until then nobody else had it: there is no need of a copy."""
        force_setattr(self, "version", version)
        return self

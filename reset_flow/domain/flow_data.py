"""Everything known of one reset, secrets included: rules work on it, the codec writes it, nobody is shown it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from reset_flow.domain.flow import Credential, Failure, State, Step, Transition
from reset_flow.domain.secret import Secret, Shown, Unpicklable
from reset_flow.domain.state_machine import EDGE_BY_LETTER, Edge

SCHEMA = 2
"""Version of the bytes that flow data is written as; the first element in them."""

Time: TypeAlias = Annotated[datetime, Meta(tz=True)]


class BudgetName(StrEnum):
    """A budget that counts over many flows: a letter as it is stored; `field` names it in `Policy`."""

    STARTS_PER_USER = "s"
    STARTS_PER_ORIGIN = "o"
    ANSWERS_PER_USER = "a"
    CODES_PER_USER = "c"
    CODES_PER_ORIGIN = "d"

    @property
    def field(self) -> str:
        """The field of `Policy` that holds the budget."""
        return self.name.lower()


PER_ORIGIN = {
    BudgetName.STARTS_PER_USER: BudgetName.STARTS_PER_ORIGIN,
    BudgetName.CODES_PER_USER: BudgetName.CODES_PER_ORIGIN,
}
"""The budget in which a use counts as well if the flow has an origin, by the budget of the user."""


class _Kept(Shown, Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A value that is sealed as an array: the order of its fields is the format."""


class Limits(_Kept, frozen=True, kw_only=True):
    """The limits that a flow was started with, by which every worker judges it. See `Policy`."""

    answer_attempts: int
    code_attempts: int
    password_attempts: int
    resends: int
    resend_cooldown: timedelta
    code_lifetime: timedelta | None
    token_lifetime: timedelta | None
    mask_unknown_users: bool
    flow_lifetime: timedelta


class HeldUse(_Kept, frozen=True):
    """
    A counted use of a budget that this flow may still drop.

    Attributes:
        budget: Of the user; the use counts for the origin as well, as `PER_ORIGIN` says.

        id: The write id of the save that added it.
    """

    budget: BudgetName
    id: bytes


class Intent(Unpicklable, _Kept, frozen=True, kw_only=True):
    """
    The durable note that a call is about to be sent.

    Attributes:
        at: When it was first meant to be sent, UTC.

        write_id: Of the save that first announced it: the id of every use that this save added.

        sendings: How many calls were announced, this one included.

        secret: The answer or the code that goes with it. A password is never kept.

        key: A keyed hash of the idempotency key, 16 bytes.

        holder: A keyed hash of who gave the command, 16 bytes.
    """

    refusal = "an intent can't be pickled, as it has secrets: a keyring seals it"
    hidden = frozenset({"key", "holder", "write_id"})

    command: str
    at: Time
    write_id: bytes
    sendings: int = 1
    secret: Secret | None = None
    key: bytes | None = None
    holder: bytes | None = None


class Result(_Kept, frozen=True, kw_only=True):
    """
    The recorded result of a command that had an idempotency key.

    Attributes:
        key: A keyed hash of it, 16 bytes.

        code: Of the error that it raised; of one in doubt, the trigger; `""` where it returned the flow.
    """

    hidden = frozenset({"key"})

    key: bytes
    command: str
    code: str = ""


class Move(_Kept, frozen=True):
    """
    A transition, as flow data keeps it.

    Attributes:
        letter: Of the edge that was taken. Its source is where the move before it led.

        worker: The index of the worker that took it in `FlowData.workers`.

        reason: Why the flow was abandoned.
    """

    letter: str
    at: Time
    worker: int
    reason: Failure | None = None

    @property
    def edge(self) -> Edge:
        """The edge that was taken."""
        return EDGE_BY_LETTER[self.letter]


class FlowData(Unpicklable, _Kept, frozen=True, kw_only=True, tag=SCHEMA):
    """
    One reset, as its record holds it.

    Attributes:
        version: Of the stored record; 0 while there is none.

        write_id: Of the save of that version; the next save must replace it and no other.

        question: `""`: the broker asks none; `None`: it does not say whether it does.

        answer: Kept until the code is verified, for asking for another one.

        token: Kept until the end; where the broker judges the code only together with the password, the code.

        sent_at: When a code was last asked for.

        sent_to: Where it went, masked by the broker.

        answers, codes, passwords, resends: How many of the attempts are used up.

        limits: As the policy had them at the start.

        user_key, origin_key: Keyed hashes, 15 bytes each, of the user and of user and origin. With the letter of a
            budget behind it, each is a key of that budget.

        uses: The uses of starts and wrong guesses that this flow has added and not dropped; some may have expired.

        reserve: The use that is held for the next guess, or that counts the guess under way, or the code that is held.

        holds_code: Whether `token` is a code that the broker has not judged.

        compensated: Whether an attempt was given back for a code that was lost to doubt.

        masked: Whether the broker refused this reset, which no stranger may learn: it is not called any more.

        results: Of the last commands that had an idempotency key, oldest first.

        listeners: The names of those that the flow was started with.

        undelivered: The names of the listeners that were not told of the end yet.

        workers: The workers that took its transitions.

        moves: Its transitions, oldest first.

        holder: A keyed hash of who gave the code, from when it was taken until another one is needed; `None`: anybody
            may go on with the flow.
    """

    refusal = "flow data can't be pickled, as it has a login: a keyring seals it"
    hidden = frozenset(
        {
            "user",
            "ref",
            "lookups",
            "question",
            "sent_to",
            "continuation",
            "workers",
            "moves",
            "user_key",
            "origin_key",
            "uses",
            "reserve",
            "write_id",
            "holder",
        }
    )

    user: str
    ref: str | None = None
    credential: Credential
    transport: str
    created_at: Time
    expires_at: Time
    limits: Limits
    question: str | None = None
    continuation: bytes | None = None
    answer: Secret | None = None
    token: Secret | None = None
    intent: Intent | None = None
    in_doubt: Step | None = None
    failure: Failure | None = None
    sent_at: Time | None = None
    sent_to: str | None = None
    answers: int = 0
    codes: int = 0
    passwords: int = 0
    resends: int = 0
    user_key: bytes = b""
    origin_key: bytes | None = None
    uses: tuple[HeldUse, ...] = ()
    reserve: HeldUse | None = None
    holds_code: bool = False
    compensated: bool = False
    masked: bool = False
    results: tuple[Result, ...] = ()
    listeners: tuple[str, ...] = ()
    undelivered: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    holder: bytes | None = None
    # What a record has in the clear; its body holds the defaults in their place.
    id: str = ""
    version: int = 0
    write_id: bytes = b""
    state: State = State.REQUESTED
    ended_at: Time | None = None
    lookups: tuple[bytes, ...] = ()

    @property
    def history(self) -> tuple[Transition, ...]:
        """Its transitions, as embedders see them."""
        transitions, source = [], State.REQUESTED
        for move in self.moves:
            edge = EDGE_BY_LETTER[move.letter]
            transitions.append(
                Transition(
                    trigger=edge.trigger,
                    source=source,
                    target=edge.target,
                    at=move.at,
                    worker=self.workers[move.worker],
                    reason=move.reason,
                )
            )
            source = edge.target
        return tuple(transitions)

    @property
    def latest_end(self) -> datetime:
        """When its time is up, unless a token ends it sooner."""
        return self.created_at + self.limits.flow_lifetime

    @property
    def unsent(self) -> bool:
        """Whether its first call needs nothing of the person and was not made yet."""
        return self.state is State.REQUESTED and not self.question and not self.intent and not self.moves

    @property
    def all_uses(self) -> tuple[HeldUse, ...]:
        """All its uses, the reserve included."""
        return self.uses if self.reserve is None else (*self.uses, self.reserve)

    def budget_keys(self, use: HeldUse) -> list[tuple[BudgetName, bytes]]:
        """Return the budgets that a use counts in, each with its key of 16 bytes."""
        keys = [(use.budget, self.user_key + use.budget.encode())]
        if self.origin_key is not None and (budget := PER_ORIGIN.get(use.budget)):
            keys.append((budget, self.origin_key + budget.encode()))
        return keys

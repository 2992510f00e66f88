"""One reset as the embedder sees it: plain frozen values, no I/O."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import attrs
from msgspec import Struct

from reset_flow.domain.secret import Secret, Unpicklable

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict  # pydantic, and so FastAPI, takes no other one there

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """Where a flow durably stands."""

    REQUESTED = "requested"
    QUESTION_ANSWERED = "question_answered"
    CODE_VERIFIED = "code_verified"
    TOKEN_ISSUED = "token_issued"  # noqa: S105 - a state, no token
    PASSWORD_SET = "password_set"  # noqa: S105 - a state, no password
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether no command can move a flow out of this state."""
        return self in ENDED


ENDED = frozenset({State.PASSWORD_SET, State.FAILED})


class Step(StrEnum):
    """The input that a person is asked for."""

    ANSWER = "answer"
    CODE = "code"
    PASSWORD = "password"  # noqa: S105 - the name of a step
    PIN = "pin"

    @property
    def command(self) -> str:
        """The command that takes it: the name of a method of `ResetService`."""
        match self:
            case Step.ANSWER:
                return "answer"
            case Step.CODE:
                return "verify"
            case _:
                return f"set_{self}"


class Credential(StrEnum):
    """The kind of secret that is reset. `PIN` is provisional: the broker's documents are unsure of it."""

    PASSWORD = "password"  # noqa: S105 - the name of a credential
    PIN = "pin"

    @property
    def step(self) -> Step:
        """The step at which the new one is asked for."""
        return Step.PIN if self is Credential.PIN else Step.PASSWORD


class Failure(StrEnum):
    """Why a flow ended without a new password that is known to work."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    OUTCOME_UNKNOWN = "outcome_unknown"
    BROKER_REFUSED = "broker_refused"


class Transition(Struct, frozen=True, kw_only=True, gc=False):
    """
    One step that a flow durably took.

    Attributes:
        trigger: Name in the machine's table.

        at: When it was decided, UTC.

        worker: Which process took it.

        reason: Of `abandon`: why the flow was given up.
    """

    trigger: str
    source: State
    target: State
    at: datetime
    worker: str = ""
    reason: Failure | None = None


class PublicFlow(TypedDict):
    """A flow as `Flow.public` gives it. Times are ISO 8601."""

    id: str
    credential: str
    state: str
    expects: str | None
    allowed: list[str]
    question: str | None
    attempts_left: int | None
    in_doubt: str | None
    busy_until: str | None
    failure: str | None
    created_at: str
    expires_at: str
    resend_at: str | None
    sent_to: str | None
    version: int


@attrs.frozen(kw_only=True)
class Flow(Unpicklable):
    """
    One reset as it stood when it was read. It is a value: commands return new ones. It can't be pickled, as it has a
    login.

    Attributes:
        id: Names the flow; authorizes nobody.

        ref: The embedder's own name of it, where it was started with one.

        expects: What the person is asked for next; `None` once the flow has ended.

        allowed: The commands that may come now, by name, sorted.

        question: The secret question, where one is known.

        attempts_left: How often the step that is expected may still be tried; `None` where nothing is.

        in_doubt: The step on which the broker may have acted or not: nobody knows.

        busy_until: Until then a call of this flow may be under way: by the clock of the service, UTC. While it is set,
            what that call may come to is not called a doubt.

        expires_at: When the flow ends by itself, UTC; for an ended flow, when it would have.

        resend_at: From when on another code may be asked for; `None` where that can't be done (any more).

        sent_to: Where the newest code went, masked by the broker; `None` where it does not say, and while unknown users
            are masked, unless the broker answers alike for them.

        history: What happened so far, oldest first.

        version: Goes up by one with each durable change.
    """

    refusal: ClassVar[str] = "a flow can't be pickled, as it has a login: keep its id, or what flow.public() gives"

    id: str
    ref: str | None = attrs.field(default=None, repr=False)
    user: str = attrs.field(repr=False)
    credential: Credential
    state: State
    expects: Step | None
    allowed: tuple[str, ...]
    question: str | None = attrs.field(repr=False)
    attempts_left: int | None
    in_doubt: Step | None
    busy_until: datetime | None = None
    failure: Failure | None
    created_at: datetime
    expires_at: datetime
    resend_at: datetime | None
    sent_to: str | None = attrs.field(default=None, repr=False)
    history: tuple[Transition, ...] = attrs.field(repr=False)
    version: int

    @property
    def ended(self) -> bool:
        """Whether the flow is over, one way or the other."""
        return self.state.ended

    def public(self) -> PublicFlow:
        """Return what may leave the process, ready for JSON: without the user, the ref and the history."""
        return {
            "id": self.id,
            "credential": self.credential.value,
            "state": self.state.value,
            "expects": self.expects and self.expects.value,
            "allowed": list(self.allowed),
            "question": self.question,
            "attempts_left": self.attempts_left,
            "in_doubt": self.in_doubt and self.in_doubt.value,
            "busy_until": self.busy_until.isoformat() if self.busy_until else None,
            "failure": self.failure and self.failure.value,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "resend_at": self.resend_at.isoformat() if self.resend_at else None,
            "sent_to": self.sent_to,
            "version": self.version,
        }


@attrs.frozen(kw_only=True)
class Event:
    """
    One transition, as listeners are told. It can't be pickled, as its flow can't.

    Attributes:
        id: The same whenever the same transition is told again, so that repeats can be sorted out.

        flow: As it stood after the transition, or later.

        alarm: Whether with this transition, of a wrong code, the wrong codes of the realm became too many to be honest.
    """

    id: str
    flow: Flow
    transition: Transition
    alarm: bool = False


@attrs.frozen(kw_only=True)
class NewCredential:
    """
    The new password or PIN of a person.

    Attributes:
        secret: The new password or PIN.

        details: What goes with it for brokers that want more, by names that their transports know.
    """

    secret: Secret
    details: Mapping[str, Secret] = attrs.field(factory=dict, repr=False)

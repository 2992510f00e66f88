"""What a reset is made of: plain frozen values, no I/O."""

from __future__ import annotations

import hmac
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeAlias

import attrs

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = [
    "Accepted",
    "Cause",
    "Credential",
    "Event",
    "Failure",
    "Flow",
    "NewCredential",
    "NotActed",
    "Outcome",
    "Rejected",
    "Secret",
    "State",
    "Step",
    "Transition",
    "Unknown",
    "Unpicklable",
    "one_line",
    "printable",
]

REASON_LENGTH = 200
REASONS = 10


class State(StrEnum):
    """Where a flow durably stands."""

    REQUESTED = "requested"
    QUESTION_ANSWERED = "question_answered"
    CODE_VERIFIED = "code_verified"
    TOKEN_ISSUED = "token_issued"  # noqa: S105 - a state, no token
    PASSWORD_SET = "password_set"  # noqa: S105 - a state, no password
    FAILED = "failed"

    __hash__ = str.__hash__  # an enum's own is a Python function, and tables are asked all the time

    @property
    def ended(self) -> bool:
        """Whether no command can move a flow out of this state."""
        return self in ENDED


ENDED = frozenset({State.PASSWORD_SET, State.FAILED})


class Step(StrEnum):
    """What a person is asked for."""

    ANSWER = "answer"
    CODE = "code"
    PASSWORD = "password"  # noqa: S105 - the name of a step
    PIN = "pin"


class Credential(StrEnum):
    """What is being reset. `PIN` is provisional: the broker's documents are unsure of it."""

    PASSWORD = "password"  # noqa: S105 - the name of a credential
    PIN = "pin"

    __hash__ = str.__hash__

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


class Unpicklable:
    """
    A frozen value with something in it that must not be written down: a copy of it is itself, and a pickle is refused.

    Attributes:
        refusal: Says what to do instead.
    """

    __slots__ = ()
    refusal: ClassVar[str]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(self.refusal)


class Shown:
    """
    A structure that shows all of itself but what is hidden.

    Structures (of msgspec) are what is made anew with each command: they take a third of the time of attrs classes, or
    less. With `gc=False`, which is for what never changes and so never holds itself, no garbage collector walks them.

    Attributes:
        hidden: The names of fields that no `repr` shows.
    """

    __slots__ = ()
    hidden: ClassVar[frozenset[str]] = frozenset()
    __struct_fields__: ClassVar[tuple[str, ...]]

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self.hidden]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def plain(text: Any) -> Any:
    """The characters of a text of whatever subclass, which encoders do not take; anything else as it is."""
    return str.__str__(text) if isinstance(text, str) else text


class Secret(Unpicklable):
    """
    A text that shows itself only to whoever calls `reveal`; of a subclass of `str`, the plain text.

    `repr`, `str`, formatting, JSON, copies and pickles show or give nothing. Compares in constant time.
    """

    __slots__ = ("_text",)
    refusal = "a secret can't be pickled"

    def __init__(self, text: str | Secret) -> None:
        self._text: str = text.reveal() if isinstance(text, Secret) else plain(text)

    def reveal(self) -> str:
        """The text itself. Keep it in no variable that outlives the expression."""
        return self._text

    @property
    def encodable(self) -> bool:
        """Whether it is a text that UTF-8 can carry."""
        try:
            return bool(self._text.encode() or True)
        except (AttributeError, UnicodeEncodeError):
            return False

    def __repr__(self) -> str:
        return "<secret>"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, other_text = (text.encode("utf-8", "surrogatepass") for text in (self._text, other._text))
        return hmac.compare_digest(mine, other_text)

    __hash__ = None  # type: ignore[assignment] # a hash would be a fingerprint


@attrs.frozen(kw_only=True)
class Transition:
    """
    One step that a flow durably took.

    Attributes:
        trigger: Name in the machine's table.

        at: When it was decided, UTC.

        worker: Which process took it.
    """

    trigger: str
    source: State
    target: State
    at: datetime
    worker: str = ""


@attrs.frozen(kw_only=True)
class Flow(Unpicklable):
    """
    One reset, as it stood when it was looked at. A value: later commands return new ones. It can't be pickled, as it
    has a login.

    Attributes:
        id: Names the flow; authorizes nobody.

        expects: What the person is asked for next; `None` once the flow has ended.

        allowed: The commands that may come now, by name, sorted.

        question: The secret question, where one is known.

        attempts_left: How often the step that is expected may still be tried; `None` where nothing is.

        in_doubt: The step of which nobody knows whether the broker acted on it.

        expires_at: When the flow ends by itself, UTC; for an ended flow, when it would have.

        resend_at: From when on another code may be asked for; `None` where that can't be done (any more).

        history: What happened so far, oldest first.

        version: Goes up by one with each durable change.
    """

    refusal: ClassVar[str] = "a flow can't be pickled, as it has a login: keep its id, or what flow.public() gives"

    id: str
    user: str = attrs.field(repr=False)
    credential: Credential
    state: State
    expects: Step | None
    allowed: tuple[str, ...]
    question: str | None = attrs.field(repr=False)
    attempts_left: int | None
    in_doubt: Step | None
    failure: Failure | None
    created_at: datetime
    expires_at: datetime
    resend_at: datetime | None
    history: tuple[Transition, ...] = attrs.field(repr=False)
    version: int

    @property
    def ended(self) -> bool:
        """Whether the flow is over, one way or the other."""
        return self.state.ended

    def public(self) -> dict[str, Any]:
        """A dict ready for JSON, without the user and the history. Times are ISO 8601."""
        return {
            "id": self.id,
            "credential": self.credential.value,
            "state": self.state.value,
            "expects": self.expects and self.expects.value,
            "allowed": list(self.allowed),
            "question": self.question,
            "attempts_left": self.attempts_left,
            "in_doubt": self.in_doubt and self.in_doubt.value,
            "failure": self.failure and self.failure.value,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "resend_at": self.resend_at and self.resend_at.isoformat(),
            "version": self.version,
        }


@attrs.frozen(kw_only=True)
class Event:
    """
    What a listener is told. It can't be pickled, as its flow can't.

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
    What the person wants from now on.

    Attributes:
        secret: The new password or PIN.

        image_name: Of the security images that the broker offers; a PIN's alone, as are the next two.

        authorization: A bearer token from a log-in.
    """

    secret: Secret
    image_name: str | None = None
    personal_phrase: Secret | None = None
    authorization: Secret | None = None


def one_line(text: str) -> str:
    """The whole text, with one space for whatever is space, control or no character."""
    if not text.isprintable():  # which it is if it has nothing of that but plain spaces
        text = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join(text.split())


def printable(text: object) -> str:
    """The text of somebody else, fit for people and logs: one line, no control characters, at most 200 characters."""
    if not isinstance(text, str):
        text = type(text).__name__
    return one_line(text[: 2 * REASON_LENGTH])[:REASON_LENGTH]


def _reasons(texts: object) -> tuple[str, ...]:
    return tuple(printable(text) for text in texts)[:REASONS] if isinstance(texts, (list, tuple)) else ()


class Cause(StrEnum):
    """Why a call surely did nothing."""

    UNAVAILABLE = "unavailable"
    PROTOCOL = "protocol"
    APP_KEY = "app_key"


@attrs.frozen(kw_only=True)
class Accepted(Unpicklable):
    """
    The broker did what it was asked for. It can't be pickled.

    Attributes:
        value: The question (`""`: none is needed, `None`: the broker does not say), or the token
            (`None`: accepted without one that can be used).

        continuation: Bytes that the transport wants back with the next call of this flow; `None` keeps the last ones.
    """

    refusal: ClassVar[str] = "an outcome can't be pickled, as it may have a secret"

    value: Secret | None = None
    continuation: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Rejected:
    """The broker said no, in these words (bounded, free of control characters)."""

    reasons: tuple[str, ...] = attrs.field(default=(), converter=_reasons)


@attrs.frozen(kw_only=True)
class NotActed:
    """
    Surely nothing happened.

    Attributes:
        retry_after: When the broker asks to be asked again; bounded by the transport.
    """

    cause: Cause = Cause.UNAVAILABLE
    detail: str = attrs.field(default="", converter=printable)
    retry_after: timedelta | None = None


@attrs.frozen(kw_only=True)
class Unknown:
    """The broker may have acted, or not."""

    detail: str = attrs.field(default="", converter=printable)


Outcome: TypeAlias = Accepted | Rejected | NotActed | Unknown

"""The results that a call of the broker can have."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs

from reset_flow.domain.errors import Reason
from reset_flow.domain.flow import Step
from reset_flow.domain.secret import Secret, Unpicklable
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from datetime import timedelta

REASONS = 10


def _reasons(given: object) -> tuple[Reason | str, ...]:
    if isinstance(given, (str, Reason)):
        return (_reason(given),)
    return tuple(map(_reason, islice(given, REASONS))) if isinstance(given, Iterable) else ()


def _reason(given: object) -> Reason | str:
    if not isinstance(given, Reason):
        return printable(given)
    return Reason(None if given.code is None else printable(given.code), printable(given.text))


class Cause(StrEnum):
    """
    Why a call certainly did nothing. `THROTTLED`: the provider asks to be called less often. `FORBIDDEN`: our own
    credentials or our configuration are wrong, which the operator must see.
    """

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    PROTOCOL = "protocol"
    FORBIDDEN = "forbidden"


def _cause(given: Cause) -> Cause:
    return Cause(given) if given in tuple(Cause) else given


def _step(given: Step | None) -> Step | None:
    return Step(given) if given in tuple(Step) else given


@attrs.frozen(kw_only=True)
class Accepted(Unpicklable):
    """
    The broker did what it was asked for. It can't be pickled.

    Attributes:
        value: The question (`""`: none is needed, `None`: the broker does not say), or the token
            (`None`: accepted without one that can be used).

        sent_to: Where the code went, masked by the provider.

        continuation: Bytes that the transport wants back with the next call of this flow, at most 64 KiB; `None` keeps
            the last ones. Any outcome may bring some.
    """

    refusal: ClassVar[str] = "an outcome can't be pickled, as it may have a secret"

    value: Secret | None = None
    sent_to: str | None = attrs.field(default=None, repr=False)
    continuation: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Rejected:
    """
    The broker said no.

    Attributes:
        reasons: Its words, bounded and free of control characters, or reasons with a code: `another_code` says that no
            code is taken any more but a new one.

        about: `Step.CODE` where an update was refused for its code, token or user, and not for the new password.
    """

    reasons: tuple[Reason | str, ...] = attrs.field(default=(), converter=_reasons)
    about: Step | None = attrs.field(default=None, converter=_step)
    continuation: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class NotActed:
    """
    Surely nothing happened.

    Attributes:
        retry_after: When the broker asks to be asked again; a day at most counts.
    """

    cause: Cause = attrs.field(default=Cause.UNAVAILABLE, converter=_cause)
    detail: str = attrs.field(default="", converter=printable)
    retry_after: timedelta | None = None
    continuation: bytes | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Unknown:
    """The broker may have acted, or not."""

    detail: str = attrs.field(default="", converter=printable)
    continuation: bytes | None = attrs.field(default=None, repr=False)


Outcome: TypeAlias = Accepted | Rejected | NotActed | Unknown

"""The results that a call of the broker can have."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs

from reset_flow.domain.secret import Secret, Unpicklable
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from datetime import timedelta

REASONS = 10


def _reasons(texts: object) -> tuple[str, ...]:
    return tuple(printable(text) for text in texts)[:REASONS] if isinstance(texts, (list, tuple)) else ()


class Cause(StrEnum):
    """Why a call certainly did nothing. `THROTTLED`: the provider asks to be called less often."""

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
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

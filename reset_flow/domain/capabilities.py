"""What a provider can do, as its transport declares it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Any, Self

import attrs

from reset_flow.domain import settings
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.flow import Credential

LONGEST_CODE = 64


class CodeKind(StrEnum):
    """What a code consists of."""

    DIGITS = "digits"
    LETTERS = "letters"
    TOKEN = "token"  # noqa: S105 - the name of a kind


_length = settings.must_be(
    f"a whole number from 0 to {LONGEST_CODE}", lambda value: type(value) is int and 0 <= value <= LONGEST_CODE
)
_format = settings.must_be("like CodeFormat.digits(6)", lambda value: isinstance(value, CodeFormat))
_lifetime = settings.must_be(
    "a timedelta longer than zero, or None",
    lambda value: value is None or (type(value) is timedelta and value > timedelta(0)),
)


def _kind(given: Any) -> CodeKind:
    if given not in tuple(CodeKind):
        raise ConfigurationError(f"kind must be one of {', '.join(CodeKind)}")
    return CodeKind(given)


def _credentials(given: Any) -> frozenset[Credential]:
    known = frozenset(given) if isinstance(given, Iterable) and not isinstance(given, str) else frozenset()
    if not known or not known <= frozenset(Credential):
        raise ConfigurationError(f"credentials must be some of {', '.join(Credential)}")
    return frozenset(map(Credential, known))


@attrs.frozen
class CodeFormat:
    """
    What the codes of a provider look like, so that what a person pastes can be made one, or be refused unsent.

    Attributes:
        length: Characters, without separators; 0 where it varies.
    """

    kind: CodeKind = attrs.field(converter=_kind)
    length: int = attrs.field(validator=_length)

    @classmethod
    def digits(cls, length: int = 6) -> Self:
        """Return the format of decimal digits, kept as text: the first may be 0."""
        return cls(CodeKind.DIGITS, length)

    @classmethod
    def letters(cls, length: int = 8) -> Self:
        """Return the format of letters and digits, in either case."""
        return cls(CodeKind.LETTERS, length)

    @classmethod
    def token(cls) -> Self:
        """Return the format of an opaque text from a link: sent exactly as given, without outer spaces."""
        return cls(CodeKind.TOKEN, 0)


SIX_DIGITS = CodeFormat.digits(6)


@attrs.frozen(kw_only=True)
class Capabilities:
    """
    What a provider can do.

    Attributes:
        verifies_code: Whether it judges a code before it gets the password. Where it does not, the code is held until
            `update`, which takes it in the place of the token.

        credentials: What can be reset.

        code_lifetime, token_lifetime: How long the provider takes them; `None` where it does not say.

        answers_alike: Whether it answers the same for logins that it does not know.

        probes: Whether it has a harmless request for `Transport.probe`.
    """

    code: CodeFormat = attrs.field(default=SIX_DIGITS, validator=_format)
    verifies_code: bool = attrs.field(default=True, validator=settings.switch)
    credentials: frozenset[Credential] = attrs.field(default=(Credential.PASSWORD,), converter=_credentials)
    code_lifetime: timedelta | None = attrs.field(default=None, validator=_lifetime)
    token_lifetime: timedelta | None = attrs.field(default=None, validator=_lifetime)
    answers_alike: bool = attrs.field(default=False, validator=settings.switch)
    probes: bool = attrs.field(default=True, validator=settings.switch)

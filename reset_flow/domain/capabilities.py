"""What a provider can do, as its transport declares it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.flow import Credential

if TYPE_CHECKING:
    from datetime import timedelta

LONGEST_CODE = 64


class CodeKind(StrEnum):
    """What a code consists of."""

    DIGITS = "digits"
    LETTERS = "letters"
    TOKEN = "token"  # noqa: S105 - the name of a kind


def _length(_: Any, field: attrs.Attribute[int], value: int) -> None:
    if type(value) is not int or not 0 <= value <= LONGEST_CODE:
        raise ConfigurationError(f"{field.name} must be a whole number from 0 to {LONGEST_CODE}")


@attrs.frozen
class CodeFormat:
    """
    What the codes of a provider look like, so that what a person pastes can be made one, or be refused unsent.

    Attributes:
        length: Characters, without separators; 0 where it varies.
    """

    kind: CodeKind = attrs.field(converter=CodeKind)
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
    """

    code: CodeFormat = SIX_DIGITS
    verifies_code: bool = True
    credentials: frozenset[Credential] = frozenset({Credential.PASSWORD})
    code_lifetime: timedelta | None = None
    token_lifetime: timedelta | None = None
    answers_alike: bool = False

"""Values that must not be written down or shown."""

from __future__ import annotations

import hmac
import re
from typing import Any, ClassVar, NoReturn, Self

from reset_flow.domain.text import MIN_REPEATED, plain

HIDDEN = "***"
WORD_BOUNDARY = re.compile(r"(\W+)")


class Unpicklable:
    """
    A frozen value that holds something secret: a copy of it is itself, and pickling it is refused.

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
    A msgspec structure whose `repr` leaves out the hidden fields.

    Structures are for values that every command makes anew: they cost a third of attrs classes, or less. `gc=False` is
    for values that never change, and so never refer to themselves: the garbage collector passes them over.

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


class Secret(Unpicklable):
    """
    A text that only `reveal` shows. Of a subclass of `str` it keeps the plain text.

    `repr`, `str`, formatting, JSON, copies and pickles show or give nothing. Compares in constant time.
    """

    __slots__ = ("_text",)
    refusal = "a secret can't be pickled"

    def __init__(self, text: str | Secret) -> None:
        self._text: str = text.reveal() if isinstance(text, Secret) else plain(text)

    def reveal(self) -> str:
        """Return the text itself. Keep it in no variable that outlives the expression."""
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


def redact(secret: Secret, text: str) -> str:
    """Return the text with `***` for the secret; one of fewer than four characters is hidden as a whole word only."""
    # Not with a pattern made of the secret: `re` caches patterns.
    if len(secret.reveal()) >= MIN_REPEATED:
        return text.replace(secret.reveal(), HIDDEN)
    parts = WORD_BOUNDARY.split(text)
    return "".join([HIDDEN if part.lower() == secret.reveal().lower() else part for part in parts])

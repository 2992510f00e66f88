"""Values that must not be written down or shown."""

from __future__ import annotations

import hmac
from typing import Any, ClassVar, NoReturn, Self

from reset_flow.domain.text import plain

__all__ = ["Secret", "Shown", "Unpicklable"]


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

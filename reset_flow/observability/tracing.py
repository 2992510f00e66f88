"""What the library tells a tracer. Without one it costs nothing."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType

    from reset_flow.ports import Tracer

__all__ = ["CarefulTracer", "Given", "NullTracer", "SafeTracer", "Swallowed"]

Given: TypeAlias = str | int | bool
T = TypeVar("T")

logger = logging.getLogger("reset_flow")

NOTHING = nullcontext()


class SafeTracer(Protocol):
    """What the library itself tells: it never raises."""

    def during(self, work: Coroutine[Any, Any, T], name: str, **attributes: Given) -> Coroutine[Any, Any, T]:
        """The work, with a span around it."""

    def count(self, name: str, amount: int = 1, **attributes: Given) -> None:
        """As `Tracer` has it."""


class NullTracer:
    """Says nothing to nobody. What a service has unless it is given another."""

    def during(self, work: Coroutine[Any, Any, T], name: str, **attributes: Given) -> Coroutine[Any, Any, T]:
        """The work alone."""
        del name, attributes
        return work

    def count(self, name: str, amount: int = 1, **attributes: Given) -> None:
        """Nothing."""


class Swallowed:
    """Lets no error of a tracer's out. The name of its class is logged, once for each."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if kind is None or not isinstance(error, Exception):
            return False
        if kind.__name__ not in self._seen:
            self._seen.add(kind.__name__)
            logger.warning("a tracer failed, and is not heard: %s", kind.__name__)
        return True


class CarefulTracer:
    """
    The same tracer, except that whatever it raises is logged by the name of its class and disturbs nobody; nor can its
    spans swallow what passes through them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._swallowed = Swallowed()

    async def during(self, work: Coroutine[Any, Any, T], name: str, **attributes: Given) -> T:
        """The work, in a span of the tracer's if it gives one."""
        with self.span(name, **attributes):
            return await work

    def span(self, name: str, **attributes: Given) -> AbstractContextManager[None]:
        """As the tracer has it, or nothing if it fails."""
        with self._swallowed:
            return _CarefulSpan(self._tracer.span(name, **attributes), self._swallowed)
        return NOTHING

    def count(self, name: str, amount: int = 1, **attributes: Given) -> None:
        """As the tracer does, if it does."""
        with self._swallowed:
            self._tracer.count(name, amount, **attributes)


class _CarefulSpan:
    def __init__(self, span: AbstractContextManager[None], swallowed: Swallowed) -> None:
        self._span: AbstractContextManager[None] | None = span
        self._swallowed = swallowed

    def __enter__(self) -> None:
        span, self._span = self._span, None
        with self._swallowed:
            if span is not None:
                span.__enter__()
                self._span = span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        with self._swallowed:
            try:
                span.__exit__(kind, error, traceback)
            except BaseException as raised:
                if raised is not error:  # the way of `contextlib.contextmanager` is to raise it again
                    raise

"""Report spans and counts to a tracer. Without a tracer it costs nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType

    from reset_flow.ports import Tracer

Attribute: TypeAlias = str | int | bool
"""Value of an attribute of a span or a count."""

T = TypeVar("T")

logger = logging.getLogger("reset_flow")


class NullTracer:
    """A tracer that reports nothing: the default of a service."""

    def during(self, work: Coroutine[Any, Any, T], name: str, **attributes: Attribute) -> Coroutine[Any, Any, T]:
        """Return the work itself."""
        del name, attributes
        return work

    def count(self, name: str, amount: int = 1, **attributes: Attribute) -> None:
        """Do nothing."""


class ErrorGuard:
    """A context that suppresses the errors of a tracer, whatever they derive from, and logs each class once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if kind is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            return False
        if kind.__name__ not in self._logged:
            self._logged.add(kind.__name__)
            logger.warning("a tracer failed, and is not heard: %s", kind.__name__)
        return True


class CarefulTracer:
    """Wrap a tracer of the embedder's: its errors are logged and not raised, and its spans suppress no error."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._guard = ErrorGuard()

    async def during(self, work: Coroutine[Any, Any, T], name: str, **attributes: Attribute) -> T:
        """Do the work inside a span of the tracer, or without a span if the tracer fails."""
        with self.span(name, **attributes):
            return await work

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        """Return a span of the tracer, which does nothing if the tracer fails."""
        return _CarefulSpan(self._guard, lambda: self._tracer.span(name, **attributes))

    def count(self, name: str, amount: int = 1, **attributes: Attribute) -> None:
        """Count with the tracer."""
        with self._guard:
            self._tracer.count(name, amount, **attributes)


class _CarefulSpan:
    def __init__(self, guard: ErrorGuard, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._guard = guard
        self._make = make
        self._span: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        with self._guard:
            span = self._make()
            span.__enter__()
            self._span = span  # a span that failed to start is not ended

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._guard:
            try:
                if self._span is not None:
                    self._span.__exit__(kind, error, traceback)
            except BaseException as raised:
                if raised is not error:  # `contextlib.contextmanager` raises the same error again
                    raise


SafeTracer: TypeAlias = NullTracer | CarefulTracer
"""The tracers that the library itself uses. They never raise."""

"""
Report to OpenTelemetry what the library does: spans, durations, counters. Without a tracer it costs nothing.

The names of spans, histograms, counters and attributes are in docs/observability.md. A counter is named after its
events: `count("transition")` adds to `reset_flow.transitions`. A count inside a span is also an event of that span, and
an outcome is set on the span, too.

Only the attributes in `WORDS`, `NUMBERS` and `IDS` are exported, under `reset_flow.*`. A word is an identifier: no
sentence, no address, no URL. A login may be exported as `user_hash`, in hexadecimal digits. Of an error, its class and
its `code` are exported, never its message, arguments or traceback.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, ResetFlowError
from reset_flow.observability.tracing import ErrorGuard

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from reset_flow.observability.tracing import Attribute

PREFIX = "reset_flow"

WORDS = frozenset({"command", "error", "outcome", "route", "state", "trigger"})
"""Attributes with few values: of spans and of metrics."""

NUMBERS = frozenset({"uses"})
IDS = {"flow": re.compile(r"[0-9a-v]{26}"), "user_hash": re.compile(r"[0-9a-f]{16,128}")}
"""Attributes with many values: of spans only, because a metric would get a series for each value."""

EXPORTED = WORDS | NUMBERS | IDS.keys()
OUTCOME = frozenset({"outcome"})
"""The attribute of a count that is set on the span, too."""

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

SWEPT = frozenset({"delivered", "expired", "purged", "settled", "unreadable"})
"""Counters whose names are participles, and no plurals."""

BOUNDARIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a save in memory to two calls that time out. OpenTelemetry's default boundaries are milliseconds."""


class OpenTelemetryTracer:
    """
    Report spans and metrics with opentelemetry-api. `span` and `count` never raise an error of a provider.

    Args:
        tracer_provider: Receives the spans. Default: the provider of the process, also if it is set later.

        meter_provider: Receives the metrics. Default: as above.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import context, metrics, trace  # noqa: PLC0415 - an optional dependency
        except ImportError:
            raise ConfigurationError("tracing needs OpenTelemetry: pip install 'reset-flow[otel]'") from None
        self._context = context
        self._trace = trace
        self._current_span = context.create_key(PREFIX)
        self._tracer = trace.get_tracer(PREFIX, tracer_provider=tracer_provider)
        meter = metrics.get_meter(PREFIX, meter_provider=meter_provider)
        self._counter = cache(
            lambda name: meter.create_counter(f"{PREFIX}.{name if name in SWEPT else f'{name}s'}", "1")
        )
        durations = partial(meter.create_histogram, unit="s", explicit_bucket_boundaries_advisory=BOUNDARIES)
        self._histogram = cache(lambda name: durations(f"{PREFIX}.{name}.duration"))
        self._guard = ErrorGuard()

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        """Return a span, which is the current one while it lasts. Start and end it in the same coroutine, once."""
        return _Span(self, name, attributes)

    def count(self, name: str, amount: int = 1, **attributes: Attribute) -> None:
        """Add to a counter, and add an event to the library's current span, if there is one."""
        with self._guard:
            self._counter(name).add(amount, _export(attributes, WORDS))
            span: Any = self._context.get_value(self._current_span)
            if span is not None and span.is_recording():
                exported = _export(attributes)
                span.add_event(f"{PREFIX}.{name}", exported if amount == 1 else exported | {f"{PREFIX}.amount": amount})
                span.set_attributes(_export(attributes, OUTCOME))

    def _start(self, name: str, attributes: Mapping[str, Attribute]) -> tuple[Span, object]:
        span = self._tracer.start_span(f"{PREFIX}.{name}", attributes=_export(attributes))
        inside = self._context.set_value(self._current_span, span, self._trace.set_span_in_context(span))
        return span, self._context.attach(inside)

    def _end(self, span: Span, token: Any, error: BaseException | None) -> None:
        with ExitStack() as whatever_fails:
            whatever_fails.callback(span.end)
            whatever_fails.callback(self._context.detach, token)
            if error is not None:
                span.set_attributes(_error_attributes(error))
                span.set_status(self._trace.StatusCode.ERROR)


class _Span:
    """A context manager as a class: unlike a generator, it keeps no frame and cannot suppress an error."""

    __slots__ = ("_attributes", "_name", "_open", "_started", "_tracer")

    def __init__(self, tracer: OpenTelemetryTracer, name: str, attributes: Mapping[str, Attribute]) -> None:
        self._tracer = tracer
        self._name = name
        self._attributes = attributes
        self._open: tuple[Span, object] | None = None
        self._started = 0.0

    def __enter__(self) -> None:
        with self._tracer._guard:  # noqa: SLF001 - a span is a part of its tracer
            self._open = self._tracer._start(self._name, self._attributes)  # noqa: SLF001
        self._started = time.perf_counter()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        tracer, seconds = self._tracer, time.perf_counter() - self._started
        with tracer._guard:  # noqa: SLF001
            if self._open is not None:
                tracer._end(*self._open, error)  # noqa: SLF001
        with tracer._guard:  # noqa: SLF001
            attributes = _export(self._attributes, WORDS) | _error_attributes(error)
            tracer._histogram(self._name).record(seconds, attributes)  # noqa: SLF001


def _export(attributes: Mapping[str, Attribute], names: Collection[str] = EXPORTED) -> dict[str, Attribute]:
    """Return the attributes of these names that may be exported, prefixed. Some exporters take exact types only."""
    return {
        f"{PREFIX}.{name}": str(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if name in names and _is_exportable(name, value)
    }


def _is_exportable(name: str, value: Any) -> bool:
    if name in NUMBERS:
        return isinstance(value, int)
    return isinstance(value, str) and IDS.get(name, WORD).fullmatch(value) is not None


def _error_attributes(error: BaseException | None) -> dict[str, Attribute]:
    if error is None:
        return {}
    attributes: dict[str, Attribute] = {"error.type": type(error).__name__}
    return attributes | {f"{PREFIX}.error": error.code} if isinstance(error, ResetFlowError) else attributes

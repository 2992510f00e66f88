"""
Tells OpenTelemetry what the library does: spans, durations, counters. Without a tracer it costs nothing.

====================  ==============================  ============================================================
`span`                span, histogram                 around
====================  ==============================  ============================================================
`command`             `reset_flow.command`, with      one command of a caller's
                      `reset_flow.command.duration`
`call`                `reset_flow.call`               one call of the broker
`save`                `reset_flow.save`               one save of a record
`sweep`               `reset_flow.sweep`              one sweep
====================  ==============================  ============================================================

A counter is named after what it counts: `count("transition")` adds to `reset_flow.transitions`, `doubt` to
`reset_flow.doubts`, `outcome` to `reset_flow.outcomes`, `alarm` to `reset_flow.alarms`; what a sweep did
is in `reset_flow.settled`, `.expired`, `.delivered`, `.purged`, `.unreadable`. What is counted inside a span is noted
on it as well: as an event, and what only shows at its end (`NOTED`) as attributes of its own.

Only the attributes in `WORDS` and `NUMBERS` get out, under `reset_flow.*`, and of words only such as a program makes:
no sentence, no address, no URL. A login may come as `user_hash`, in hexadecimal digits. Of an error, its class and its
`code` get out, never its message, arguments or traceback.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError, ResetFlowError
from reset_flow.observability.tracing import Given, Swallowed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetryTracer"]

PREFIX = "reset_flow"

WORDS = frozenset(
    {
        "cause",
        "code",
        "command",
        "credential",
        "error",
        "expects",
        "failure",
        "in_doubt",
        "outcome",
        "route",
        "source",
        "state",
        "store",
        "target",
        "trigger",
    }
)
"""Attributes of few values, which metrics are told apart by, too."""

NUMBERS = frozenset(
    {"attempt", "attempts", "charges", "delivered", "expired", "masked", "purged", "sending", "settled", "unreadable"}
)
NAMES = {"flow": re.compile(r"[0-9a-v]{26}"), "user_hash": re.compile(r"[0-9a-f]{16,128}")}
"""Attributes of many values: for spans only."""

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
NOTED = frozenset({"attempts", "delivered", "expired", "failure", "outcome", "purged", "settled", "state"})

BOUNDARIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. From a save in memory to a call that ran into its deadline, twice; OpenTelemetry's own are milliseconds."""


class OpenTelemetryTracer:
    """
    Spans and metrics by opentelemetry-api: to the providers that it is given, else to those of the process, whatever
    they are set to later on.

    Nothing that goes wrong in a provider gets out of `span` and `count`.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import context, metrics, trace  # noqa: PLC0415 - only who traces needs it
        except ImportError:
            raise ConfigurationError("tracing needs OpenTelemetry: pip install 'reset-flow[otel]'") from None
        self._context = context
        self._trace = trace
        self._ours = context.create_key(PREFIX)
        self._tracer = trace.get_tracer(PREFIX, tracer_provider=tracer_provider)
        self._meter = metrics.get_meter(PREFIX, meter_provider=meter_provider)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._swallowed = Swallowed()

    def span(self, name: str, **attributes: Given) -> AbstractContextManager[None]:
        """A span that is the current one while it lasts. Begin and end it in the same coroutine; enter it once."""
        return _Span(self, name, attributes)

    def count(self, name: str, amount: int = 1, **attributes: Given) -> None:
        """Count it, and note it on the span of ours that is open, if one is."""
        with self._swallowed:
            told = _told(attributes)
            counter = self._counters.get(name)
            if counter is None:
                counter = self._counters[name] = self._meter.create_counter(f"{PREFIX}.{_counted(name)}", "1")
            counter.add(amount, _few(told))
            span: Any = self._context.get_value(self._ours)
            if span is not None and span.is_recording():
                span.add_event(f"{PREFIX}.{name}", told if amount == 1 else told | {f"{PREFIX}.amount": amount})
                span.set_attributes({key: told[key] for key in told if key.removeprefix(f"{PREFIX}.") in NOTED})

    def _begin(self, name: str, attributes: Mapping[str, Given]) -> tuple[Span, object]:
        span = self._tracer.start_span(f"{PREFIX}.{name}", attributes=_told(attributes))
        inside = self._context.set_value(self._ours, span, self._trace.set_span_in_context(span))
        return span, self._context.attach(inside)

    def _end(self, span: Span, token: Any, error: BaseException | None) -> None:
        try:
            if error is not None:
                span.set_attributes(_failed(error))
                span.set_status(self._trace.StatusCode.ERROR)
        finally:
            try:
                self._context.detach(token)
            finally:
                span.end()

    def _took(self, name: str, seconds: float, attributes: Mapping[str, Given], error: BaseException | None) -> None:
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = self._meter.create_histogram(
                f"{PREFIX}.{name}.duration", "s", explicit_bucket_boundaries_advisory=BOUNDARIES
            )
        histogram.record(seconds, _few(_told(attributes)) | ({} if error is None else _failed(error)))


class _Span:
    """A class, no generator: it is cheaper, keeps no frame, and can't stop what passes through."""

    __slots__ = ("_attributes", "_began", "_name", "_open", "_owner")

    def __init__(self, owner: OpenTelemetryTracer, name: str, attributes: Mapping[str, Given]) -> None:
        self._owner = owner
        self._name = name
        self._attributes = attributes
        self._open: tuple[Span, object] | None = None
        self._began = 0.0

    def __enter__(self) -> None:
        with self._owner._swallowed:  # noqa: SLF001 - one thing in two classes
            self._open = self._owner._begin(self._name, self._attributes)  # noqa: SLF001
        self._began = time.perf_counter()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        owner, seconds = self._owner, time.perf_counter() - self._began
        opened, self._open = self._open, None
        with owner._swallowed:  # noqa: SLF001
            if opened is not None:
                owner._end(*opened, error)  # noqa: SLF001
        with owner._swallowed:  # noqa: SLF001
            owner._took(self._name, seconds, self._attributes, error)  # noqa: SLF001


def _counted(name: str) -> str:
    """A noun in the plural; what was done to flows as it is."""
    return name if name in NUMBERS else f"{name}s"


def _told(attributes: Mapping[str, Given]) -> dict[str, Given]:
    """What of it may get out, under the names that it gets out by."""
    return {f"{PREFIX}.{name}": _plain(value) for name, value in attributes.items() if _harmless(name, value)}


def _harmless(name: str, value: Any) -> bool:
    if name in WORDS:
        return isinstance(value, str) and WORD.fullmatch(value) is not None
    if name in NUMBERS:
        return isinstance(value, int)
    return name in NAMES and isinstance(value, str) and NAMES[name].fullmatch(value) is not None


def _plain(value: Given) -> Given:
    """Without an enum around it: some exporters know exact types only."""
    return str(value) if isinstance(value, str) else value


def _few(told: Mapping[str, Given]) -> dict[str, Given]:
    """What a metric may be told apart by without ever having too many series."""
    return {name: value for name, value in told.items() if name.removeprefix(f"{PREFIX}.") in WORDS}


def _failed(error: BaseException) -> dict[str, Given]:
    failed: dict[str, Given] = {"error.type": type(error).__name__}
    return failed | {f"{PREFIX}.error": error.code} if isinstance(error, ResetFlowError) else failed

"""Spans and metrics that OpenTelemetry receives, and secrets that it never receives."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import logging
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import attrs
import pytest
from opentelemetry import context as opentelemetry_context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from reset_flow.domain.errors import AnswerRejected, ConfigurationError
from reset_flow.domain.flow import State
from reset_flow.observability.opentelemetry import OpenTelemetryTracer
from reset_flow.observability.tracing import CarefulTracer, NullTracer
from reset_flow.persistence.repository import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.metrics.export import DataT, HistogramDataPoint, NumberDataPoint
    from opentelemetry.sdk.trace import ReadableSpan

    from reset_flow.observability.tracing import Attribute
    from reset_flow.ports import Tracer

FLOW = new_id()
SECRETS = ("robert.zak", "Peterson", "004158", "violet tractor", "hello@autoshares.com")


@attrs.frozen
class Event:
    name: str
    attributes: dict[str, object]


@attrs.frozen
class SeenSpan:
    """A span that was exported."""

    name: str
    id: int
    parent: int | None
    attributes: dict[str, object]
    events: list[Event]
    status: StatusCode
    description: str | None

    @classmethod
    def of(cls, span: ReadableSpan) -> SeenSpan:
        context = span.get_span_context()
        assert context is not None
        return cls(
            name=span.name,
            id=context.span_id,
            parent=span.parent.span_id if span.parent else None,
            attributes=dict(span.attributes or {}),
            events=[Event(event.name, dict(event.attributes or {})) for event in span.events],
            status=span.status.status_code,
            description=span.status.description,
        )


class Otel:
    """A tracer with providers of its own, and everything that they exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.spans_to = TracerProvider(shutdown_on_exit=False)
        self.spans_to.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.metrics_to = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = OpenTelemetryTracer(self.spans_to, self.metrics_to)

    @property
    def spans(self) -> list[SeenSpan]:
        return [SeenSpan.of(span) for span in self._exporter.get_finished_spans()]

    @property
    def span(self) -> SeenSpan:
        (span,) = self.spans
        return span

    @property
    def sums(self) -> dict[str, list[NumberDataPoint]]:
        """The points of each counter."""
        return {name: list(data.data_points) for name, data in self._metrics() if isinstance(data, Sum)}

    @property
    def histograms(self) -> dict[str, list[HistogramDataPoint]]:
        return {name: list(data.data_points) for name, data in self._metrics() if isinstance(data, Histogram)}

    def _metrics(self) -> Iterator[tuple[str, DataT]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    yield metric.name, metric.data

    @property
    def text(self) -> str:
        spans = " ".join(span.to_json() for span in self._exporter.get_finished_spans())
        return f"{spans} {self.sums} {self.histograms}"


@pytest.fixture
def otel() -> Otel:
    return Otel()


class Failing:
    """A tracer, a span or a meter that fails with every method."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: object, **__: object) -> NoReturn:
            raise RuntimeError("robert.zak")

        return fail

    def __enter__(self) -> None:
        raise RuntimeError("robert.zak")

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("robert.zak")


class FailingTracerProvider(trace.TracerProvider):
    def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
        return cast("trace.Tracer", Failing())


class FailingMeterProvider(metrics.MeterProvider):
    def get_meter(self, *_: object, **__: object) -> metrics.Meter:
        return cast("metrics.Meter", Failing())


class FailsAtTheEnd(Failing):
    def __enter__(self) -> None:
        pass


class Swallows(FailsAtTheEnd):
    def __exit__(self, *_: object) -> bool:  # type: ignore[override]
        return True


class Spans:
    """A tracer that gives always the same span, and cannot count."""

    def __init__(self, span: AbstractContextManager[None]) -> None:
        self._span = span

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        return self._span

    def count(self, name: str, amount: int = 1, **attributes: Attribute) -> None:
        raise RuntimeError("robert.zak")


def failing_tracer() -> Tracer:
    return cast("Tracer", Failing())


def used(tracer: Tracer) -> int:
    with tracer.span("command", command="answer"):
        tracer.count("transition", trigger="answer_accepted")
        return 42


def test_a_span_has_its_name_and_its_attributes(otel: Otel) -> None:
    with otel.tracer.span("command", command="answer", flow=FLOW, user_hash="0f" * 16, state=State.REQUESTED):
        pass
    assert otel.span.name == "reset_flow.command"
    assert otel.span.attributes == {
        "reset_flow.command": "answer",
        "reset_flow.flow": FLOW,
        "reset_flow.user_hash": "0f" * 16,
        "reset_flow.state": "requested",
    }
    assert type(otel.span.attributes["reset_flow.state"]) is str
    assert otel.span.status is StatusCode.UNSET
    assert otel.span.events == []


@pytest.mark.parametrize("name", ["command", "call", "save", "sweep"])
def test_each_span_has_a_histogram_of_seconds(otel: Otel, name: str) -> None:
    with otel.tracer.span(name, route="request", flow=FLOW, uses=3):
        pass
    (point,) = otel.histograms[f"reset_flow.{name}.duration"]
    assert point.attributes == {"reset_flow.route": "request"}, "a flow's id would make a series for each flow"
    assert point.count == 1
    assert 0 <= point.sum < 1
    assert point.explicit_bounds[-1] == 30


def test_what_is_counted_adds_up_by_its_words(otel: Otel) -> None:
    for _ in range(2):
        otel.tracer.count("transition", trigger="answer_accepted", flow=FLOW)
    otel.tracer.count("transition", 3, trigger="code_refused")
    otel.tracer.count("doubt")
    points = [(dict(point.attributes or {}), point.value) for point in otel.sums["reset_flow.transitions"]]
    assert points == [({"reset_flow.trigger": "answer_accepted"}, 2), ({"reset_flow.trigger": "code_refused"}, 3)]
    assert [point.value for point in otel.sums["reset_flow.doubts"]] == [1]
    assert otel.spans == []


def test_what_is_counted_in_a_span_is_noted_on_it(otel: Otel) -> None:
    with otel.tracer.span("command", command="verify", state="question_answered"):
        with otel.tracer.span("call", route="exchange"):
            otel.tracer.count("outcome", route="exchange", outcome="rejected")
        otel.tracer.count("transition", trigger="code_refused", state="question_answered")
    call, command = otel.spans
    assert call.attributes == {"reset_flow.route": "exchange", "reset_flow.outcome": "rejected"}
    assert "reset_flow.outcome" not in command.attributes
    (event,) = command.events
    assert event.name == "reset_flow.transition"
    assert event.attributes["reset_flow.trigger"] == "code_refused"


def test_what_a_sweep_did_keeps_its_name(otel: Otel) -> None:
    with otel.tracer.span("sweep"):
        otel.tracer.count("settled", 3)
    assert [point.value for point in otel.sums["reset_flow.settled"]] == [3]
    assert otel.span.events == [Event("reset_flow.settled", {"reset_flow.amount": 3})]


async def test_spans_lie_in_each_other_across_tasks(otel: Otel) -> None:
    async def call() -> None:
        with otel.tracer.span("call", route="request"):
            await asyncio.sleep(0)

    with trace.use_span(otel.spans_to.get_tracer("web").start_span("request"), end_on_exit=True) as outside:
        with otel.tracer.span("command", command="answer"):
            await asyncio.gather(asyncio.create_task(call()), asyncio.create_task(call()))
        otel.tracer.count("doubt")
    first, second, command, web = otel.spans
    assert first.parent == second.parent == command.id
    assert command.parent == outside.get_span_context().span_id
    assert web.events == [], "a span of the application is left alone"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_what_comes_after_the_end_is_only_counted(otel: Otel) -> None:
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        otel.tracer.count("doubt")

    with otel.tracer.span("command", command="answer"):
        task = asyncio.create_task(later())
    go.set()
    await task
    assert otel.span.events == []
    assert [point.value for point in otel.sums["reset_flow.doubts"]] == [1]


def test_a_failure_shows_its_class_and_its_code_alone(otel: Otel) -> None:
    error = AnswerRejected(*SECRETS)
    with pytest.raises(AnswerRejected) as caught, otel.tracer.span("command", command="answer"):
        raise error
    assert caught.value is error
    assert otel.span.status is StatusCode.ERROR
    assert otel.span.description is None
    assert otel.span.events == []
    assert otel.span.attributes["error.type"] == "AnswerRejected"
    assert otel.span.attributes["reset_flow.error"] == "answer_rejected"
    (point,) = otel.histograms["reset_flow.command.duration"]
    assert point.attributes is not None
    assert point.attributes["reset_flow.error"] == "answer_rejected"
    assert not any(secret in otel.text for secret in SECRETS)


@pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError, KeyboardInterrupt])
def test_any_failure_passes_through(otel: Otel, kind: type[BaseException]) -> None:
    with pytest.raises(kind), otel.tracer.span("sweep"):
        raise kind("robert.zak")
    assert otel.span.attributes == {"error.type": kind.__name__}
    assert "robert.zak" not in otel.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "robert.zak"),
        ("login", "robert"),
        ("password", "violet"),
        ("url", "https://broker.test/?username=robert.zak"),
        ("command", "robert.zak"),
        ("state", "hello@autoshares.com"),
        ("outcome", "Answer is incorrect, Peterson."),
        ("code", "004158"),
        ("flow", "robert.zak"),
        ("user_hash", "robert.zak"),
        ("uses", "004158"),
        ("route", None),
        ("trigger", ["Peterson"]),
        ("error", AnswerRejected("Peterson")),
        ("outcome", "violet tractor"),
        ("state", "a" * 65),
    ],
)
def test_what_is_no_word_of_a_program_does_not_get_out(otel: Otel, name: str, value: Any) -> None:
    with otel.tracer.span("call", **{name: value}):
        otel.tracer.count("outcome", **{name: value})
    assert otel.span.attributes == {}
    assert [event.attributes for event in otel.span.events] == [{}]
    points: list[NumberDataPoint | HistogramDataPoint] = [
        *itertools.chain(*otel.sums.values()),
        *itertools.chain(*otel.histograms.values()),
    ]
    assert [point.attributes for point in points] == [{}, {}]


def test_without_a_provider_of_its_own_it_uses_that_of_the_process() -> None:
    assert used(OpenTelemetryTracer()) == 42  # no provider is set in this process, so OpenTelemetry does nothing


@pytest.mark.parametrize("span", [Failing(), FailsAtTheEnd()], ids=["at the beginning", "at the end"])
def test_a_tracer_that_fails_breaks_nothing(
    span: AbstractContextManager[None], caplog: pytest.LogCaptureFixture
) -> None:
    for tracer in (CarefulTracer(Spans(span)), CarefulTracer(failing_tracer())):
        assert used(tracer) == 42
        with pytest.raises(KeyError), tracer.span("call"):
            raise KeyError
    assert [record.getMessage() for record in caplog.records] == [
        "a tracer failed, and is not heard: RuntimeError"
    ] * 2, "once for each tracer"
    assert "robert.zak" not in caplog.text


def test_a_tracer_that_raises_what_no_exception_is_breaks_nothing() -> None:
    class Grave(BaseException):
        pass

    def fail(*_: object, **__: object) -> NoReturn:
        raise Grave

    tracer = CarefulTracer(cast("Tracer", SimpleNamespace(span=fail, count=fail)))
    assert used(tracer) == 42
    with pytest.raises(KeyboardInterrupt), tracer.span("call"):
        raise KeyboardInterrupt


def test_a_span_can_not_swallow_what_passes_through() -> None:
    with pytest.raises(KeyError), CarefulTracer(Spans(Swallows())).span("call"):
        raise KeyError


def test_a_tracer_made_of_generators_is_as_good(caplog: pytest.LogCaptureFixture) -> None:
    class Generators:
        @contextmanager
        def span(self, name: str, **attributes: Attribute) -> Iterator[None]:
            yield

        def count(self, name: str, amount: int = 1, **attributes: Attribute) -> None:
            pass

    tracer = CarefulTracer(Generators())
    assert used(tracer) == 42
    for error in (KeyError("k"), asyncio.CancelledError("c")):
        with pytest.raises(type(error)) as caught, tracer.span("call"):
            raise error
        assert caught.value is error
    assert caplog.records == []


def test_a_provider_that_fails_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tracer = OpenTelemetryTracer(FailingTracerProvider(), FailingMeterProvider())
    assert used(tracer) == 42
    with pytest.raises(AnswerRejected), tracer.span("call"):
        raise AnswerRejected("Peterson")
    assert caplog.messages == ["a tracer failed, and is not heard: RuntimeError"]
    assert not any(secret in caplog.text for secret in SECRETS)


def test_a_span_that_fails_does_not_stay_the_current_one(otel: Otel, caplog: pytest.LogCaptureFixture) -> None:
    before = opentelemetry_context.get_current()
    with otel.tracer.span("call", route="request"):
        current: Any = trace.get_current_span()
        current.set_attributes = current.end = Failing().fail
        otel.tracer.count("outcome", outcome="accepted")
    assert opentelemetry_context.get_current() == before
    assert caplog.messages == ["a tracer failed, and is not heard: RuntimeError"]


async def answered() -> int:
    return 42


async def failed() -> int:
    raise KeyError


async def test_no_tracer_says_nothing_and_costs_nothing() -> None:
    tracer, work = NullTracer(), answered()
    tracer.count("outcome", 2, route="request")
    assert tracer.during(work, "call", route="request") is work
    assert await work == 42


async def test_work_is_done_within_a_span(otel: Otel) -> None:
    tracer = CarefulTracer(otel.tracer)
    assert await tracer.during(answered(), "call", route="request") == 42
    with pytest.raises(KeyError):
        await tracer.during(failed(), "save")
    assert [span.name for span in otel.spans] == ["reset_flow.call", "reset_flow.save"]


@pytest.mark.parametrize("span", [Failing(), FailsAtTheEnd()], ids=["at the beginning", "at the end"])
async def test_work_is_done_whatever_fails_around_it(span: AbstractContextManager[None]) -> None:
    for tracer in (CarefulTracer(Spans(span)), CarefulTracer(failing_tracer())):
        assert await tracer.during(answered(), "call") == 42
        with pytest.raises(KeyError):
            await tracer.during(failed(), "call")


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuses(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuses)
    with pytest.raises(ConfigurationError, match=r"pip install 'reset-flow\[otel\]'") as caught:
        OpenTelemetryTracer()
    assert caught.value.__cause__ is None


def test_the_module_loads_no_opentelemetry() -> None:
    code = (
        "import sys; from reset_flow.observability import log_redaction, opentelemetry; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_each_is_a_tracer(otel: Otel) -> None:
    tracers: list[Tracer] = [otel.tracer, CarefulTracer(otel.tracer)]
    assert [used(tracer) for tracer in tracers] == [42] * 2
    assert len(otel.spans) == 2


@pytest.fixture(autouse=True)
def _logging_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "reset_flow")

"""What OpenTelemetry is told, and what it never is."""

from __future__ import annotations

import asyncio
import builtins
import logging
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context as otel_context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from reset_flow.domain.errors import AnswerRejected, ConfigurationError
from reset_flow.domain.flow import State
from reset_flow.observability.opentelemetry import OpenTelemetryTracer
from reset_flow.observability.tracing import CarefulTracer, NullTracer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow.ports import Tracer

FLOW = "0123456789abcdefghijklmnop"
SECRETS = ("robert.zak", "Peterson", "004158", "violet tractor", "hello@autoshares.com")


class Told:
    """Providers of their own, and what arrived there."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.spans_to = TracerProvider(shutdown_on_exit=False)
        self.spans_to.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.metrics_to = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = OpenTelemetryTracer(self.spans_to, self.metrics_to)

    @property
    def spans(self) -> tuple[Any, ...]:
        return self._exporter.get_finished_spans()

    @property
    def span(self) -> Any:
        (span,) = self.spans
        return span

    @property
    def points(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def text(self) -> str:
        return " ".join(span.to_json() for span in self.spans) + repr(self.points)


@pytest.fixture
def told() -> Told:
    return Told()


class Failing:
    """A tracer, a span, a provider, a meter: whatever it is asked for, it fails."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("robert.zak")

        return fail

    def __enter__(self) -> None:
        raise RuntimeError("robert.zak")

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("robert.zak")


class FailsAtTheEnd(Failing):
    def __enter__(self) -> None:
        pass


class Swallows(FailsAtTheEnd):
    def __exit__(self, *_: object) -> bool:  # type: ignore[override]
        return True


class Spans:
    """A tracer whose spans are these."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def span(self, name: str, **attributes: Any) -> Any:
        return self._span

    def count(self, name: str, amount: int = 1, **attributes: Any) -> None:
        raise RuntimeError("robert.zak")


def used(tracer: Tracer) -> int:
    with tracer.span("command", command="answer"):
        tracer.count("transition", trigger="answer_accepted")
        return 42


def test_a_span_has_its_name_and_its_attributes(told: Told) -> None:
    with told.tracer.span("command", command="answer", flow=FLOW, user_hash="0f" * 16, state=State.REQUESTED):
        pass
    assert told.span.name == "reset_flow.command"
    assert told.span.attributes == {
        "reset_flow.command": "answer",
        "reset_flow.flow": FLOW,
        "reset_flow.user_hash": "0f" * 16,
        "reset_flow.state": "requested",
    }
    assert type(told.span.attributes["reset_flow.state"]) is str
    assert told.span.status.status_code is StatusCode.UNSET
    assert told.span.events == ()


@pytest.mark.parametrize("name", ["command", "call", "save", "sweep"])
def test_each_span_has_a_histogram_of_seconds(told: Told, name: str) -> None:
    with told.tracer.span(name, route="request", flow=FLOW, attempts=3):
        pass
    (point,) = told.points[f"reset_flow.{name}.duration"]
    assert point.attributes == {"reset_flow.route": "request"}, "a flow's id would make a series for each flow"
    assert point.count == 1
    assert 0 <= point.sum < 1
    assert point.explicit_bounds[-1] == 30


def test_what_is_counted_adds_up_by_its_words(told: Told) -> None:
    for _ in range(2):
        told.tracer.count("transition", trigger="answer_accepted", flow=FLOW)
    told.tracer.count("transition", 3, trigger="code_refused")
    told.tracer.count("doubt")
    points = {point.attributes["reset_flow.trigger"]: point.value for point in told.points["reset_flow.transitions"]}
    assert points == {"answer_accepted": 2, "code_refused": 3}
    assert [point.value for point in told.points["reset_flow.doubts"]] == [1]
    assert told.spans == ()


def test_what_is_counted_in_a_span_is_noted_on_it(told: Told) -> None:
    with told.tracer.span("command", command="verify", state="question_answered"):
        with told.tracer.span("call", route="exchange"):
            told.tracer.count("outcome", route="exchange", outcome="rejected")
        told.tracer.count("transition", trigger="code_refused", state="question_answered", attempts=4)
    call, command = told.spans
    assert call.attributes == {"reset_flow.route": "exchange", "reset_flow.outcome": "rejected"}
    assert command.attributes["reset_flow.attempts"] == 4
    assert "reset_flow.outcome" not in command.attributes
    (event,) = command.events
    assert event.name == "reset_flow.transition"
    assert event.attributes["reset_flow.trigger"] == "code_refused"


def test_what_a_sweep_did_keeps_its_name(told: Told) -> None:
    with told.tracer.span("sweep"):
        told.tracer.count("settled", 3)
    assert [point.value for point in told.points["reset_flow.settled"]] == [3]
    assert [(event.name, dict(event.attributes)) for event in told.span.events] == [
        ("reset_flow.settled", {"reset_flow.amount": 3})
    ]


async def test_spans_lie_in_each_other_across_tasks(told: Told) -> None:
    async def call() -> None:
        with told.tracer.span("call", route="request"):
            await asyncio.sleep(0)

    with trace.use_span(told.spans_to.get_tracer("web").start_span("request"), end_on_exit=True) as outside:
        with told.tracer.span("command", command="answer"):
            await asyncio.gather(asyncio.create_task(call()), asyncio.create_task(call()))
        told.tracer.count("doubt")
    first, second, command, web = told.spans
    assert first.parent.span_id == second.parent.span_id == command.context.span_id
    assert command.parent.span_id == outside.get_span_context().span_id
    assert web.events == (), "a span of somebody else's is left alone"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_what_comes_after_the_end_is_only_counted(told: Told) -> None:
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        told.tracer.count("doubt")

    with told.tracer.span("command", command="answer"):
        task = asyncio.create_task(later())
    go.set()
    await task
    assert told.span.events == ()
    assert [point.value for point in told.points["reset_flow.doubts"]] == [1]


def test_a_failure_shows_its_class_and_its_code_alone(told: Told) -> None:
    error = AnswerRejected(*SECRETS)
    with pytest.raises(AnswerRejected) as caught, told.tracer.span("command", command="answer"):
        raise error
    assert caught.value is error
    assert told.span.status.status_code is StatusCode.ERROR
    assert told.span.status.description is None
    assert told.span.events == ()
    assert told.span.attributes["error.type"] == "AnswerRejected"
    assert told.span.attributes["reset_flow.error"] == "answer_rejected"
    (point,) = told.points["reset_flow.command.duration"]
    assert point.attributes["reset_flow.error"] == "answer_rejected"
    assert not any(secret in told.text for secret in SECRETS)


@pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError, KeyboardInterrupt])
def test_any_failure_passes_through(told: Told, kind: type[BaseException]) -> None:
    with pytest.raises(kind), told.tracer.span("sweep"):
        raise kind("robert.zak")
    assert told.span.attributes == {"error.type": kind.__name__}
    assert "robert.zak" not in told.text


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
        ("attempts", "004158"),
        ("route", None),
        ("trigger", ["Peterson"]),
        ("error", AnswerRejected("Peterson")),
        ("outcome", "violet tractor"),
        ("state", "a" * 65),
    ],
)
def test_what_is_no_word_of_a_program_does_not_get_out(told: Told, name: str, value: Any) -> None:
    with told.tracer.span("call", **{name: value}):
        told.tracer.count("outcome", **{name: value})
    assert told.span.attributes == {}
    assert [event.attributes for event in told.span.events] == [{}]
    assert {point.attributes == {} for points in told.points.values() for point in points} == {True}


def test_without_a_provider_of_its_own_it_tells_that_of_the_process() -> None:
    assert used(OpenTelemetryTracer()) == 42  # nobody has set one: OpenTelemetry does nothing, and so does this


@pytest.mark.parametrize("span", [Failing(), FailsAtTheEnd()], ids=["at the beginning", "at the end"])
def test_a_tracer_that_fails_breaks_nothing(span: Any, caplog: pytest.LogCaptureFixture) -> None:
    for tracer in (CarefulTracer(Spans(span)), CarefulTracer(Failing())):
        assert used(tracer) == 42
        with pytest.raises(KeyError), tracer.span("call"):
            raise KeyError
    assert [record.getMessage() for record in caplog.records] == [
        "a tracer failed, and is not heard: RuntimeError"
    ] * 2, "once for each tracer"
    assert "robert.zak" not in caplog.text


def test_a_span_can_not_swallow_what_passes_through() -> None:
    with pytest.raises(KeyError), CarefulTracer(Spans(Swallows())).span("call"):
        raise KeyError


def test_a_tracer_made_of_generators_is_as_good(caplog: pytest.LogCaptureFixture) -> None:
    class Generators:
        @contextmanager
        def span(self, name: str, **attributes: Any) -> Iterator[None]:
            yield

        def count(self, name: str, amount: int = 1, **attributes: Any) -> None:
            pass

    tracer = CarefulTracer(Generators())
    assert used(tracer) == 42
    for error in (KeyError("k"), asyncio.CancelledError("c")):
        with pytest.raises(type(error)) as caught, tracer.span("call"):
            raise error
        assert caught.value is error
    assert caplog.records == []


def test_a_provider_that_fails_breaks_nothing(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    tracer = OpenTelemetryTracer(told.spans_to, told.metrics_to)
    tracer._tracer = tracer._meter = Failing()  # type: ignore[assignment]
    assert used(tracer) == 42
    with pytest.raises(AnswerRejected), tracer.span("call"):
        raise AnswerRejected("Peterson")
    assert caplog.messages == ["a tracer failed, and is not heard: RuntimeError"]
    assert not any(secret in caplog.text for secret in SECRETS)


def test_a_span_that_fails_does_not_stay_the_current_one(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    before = otel_context.get_current()
    with told.tracer.span("call", route="request"):
        current: Any = trace.get_current_span()
        current.set_attributes = current.end = Failing().fail
        told.tracer.count("outcome", outcome="accepted")
    assert otel_context.get_current() == before
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


async def test_work_is_done_within_a_span(told: Told) -> None:
    tracer = CarefulTracer(told.tracer)
    assert await tracer.during(answered(), "call", route="request") == 42
    with pytest.raises(KeyError):
        await tracer.during(failed(), "save")
    assert [span.name for span in told.spans] == ["reset_flow.call", "reset_flow.save"]


@pytest.mark.parametrize("span", [Failing(), FailsAtTheEnd()], ids=["at the beginning", "at the end"])
async def test_work_is_done_whatever_fails_around_it(span: Any) -> None:
    for tracer in (CarefulTracer(Spans(span)), CarefulTracer(Failing())):
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


def test_each_is_a_tracer(told: Told) -> None:
    tracers: list[Tracer] = [told.tracer, CarefulTracer(told.tracer)]
    assert [used(tracer) for tracer in tracers] == [42] * 2
    assert len(told.spans) == 2


@pytest.fixture(autouse=True)
def _logging_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "reset_flow")

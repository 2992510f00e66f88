"""The example for Temporal: its activities run as in a worker, its workflow as in a replay of its history."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
from temporalio import workflow
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DefaultFailureConverter, DefaultPayloadConverter
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Replayer

from examples.engines import resets, temporal_onboarding as example
from tests.other_engines.conftest import LOGIN

if TYPE_CHECKING:
    from reset_flow.integrations.status import ResetStatus
    from reset_flow.sandbox import Sandbox
    from tests.other_engines.conftest import Page

REF = "onboarding-17"


async def run(activity: Any, *arguments: str) -> ResetStatus:
    status: ResetStatus = await ActivityEnvironment().run(activity, *arguments)
    return status


async def refused(activity: Any, *arguments: str) -> tuple[ApplicationError, bytes]:
    """Return the error of an activity, and what Temporal keeps of it."""
    with pytest.raises(ApplicationError) as failed:
        await run(activity, *arguments)
    kept = Failure()
    DefaultFailureConverter().to_failure(failed.value, DefaultPayloadConverter(), kept)
    return failed.value, kept.SerializeToString()


async def test_the_activities_carry_one_reset_to_its_end(page: Page, sandbox: Sandbox) -> None:
    started = await run(example.start_reset, "employee-17", REF)
    assert await run(example.start_reset, "employee-17", REF) == started
    await page.reset(REF)
    ended = await run(example.reset_status, REF)
    assert (ended["flow_id"], ended["state"]) == (started["flow_id"], "password_set")
    assert sandbox.user(LOGIN).mails_sent == 1


async def test_what_fails_is_tried_again_if_it_may_succeed_and_is_kept_without_words(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(example.start_reset, "employee-17", REF)
    error, _ = await refused(example.start_reset, "employee-18", REF)
    assert (error.type, error.non_retryable) == ("key_reused", True)
    sandbox.fault("challenge", "status", status=503, headers={"Retry-After": "7"})
    error, _ = await refused(example.start_reset, "employee-17", "onboarding-18")
    assert (error.type, error.non_retryable) == ("broker_unavailable", False)
    assert error.next_retry_delay is not None
    assert timedelta(0) < error.next_retry_delay <= timedelta(seconds=7)

    async def broken(_: str) -> str:
        raise LookupError(LOGIN)

    monkeypatch.setattr(resets, "login_of", broken)
    error, kept = await refused(example.start_reset, "employee-17", "onboarding-19")
    assert (error.type, error.non_retryable) == ("failed", False)
    assert LOGIN.encode() not in kept


@attrs.define
class Workflows:
    """Those that run, in the place of a client."""

    running: set[str]
    signals: list[tuple[str, str]] = attrs.field(factory=list)
    status: RPCStatusCode = RPCStatusCode.NOT_FOUND

    def get_workflow_handle(self, workflow_id: str) -> Any:
        @attrs.define
        class Handle:
            async def signal(_, which: Any) -> None:  # noqa: N805 - `self` is that of the client
                if workflow_id not in self.running:
                    raise RPCError("no such workflow", self.status, b"")
                self.signals.append((workflow_id, which.__name__))

        return Handle()


async def test_the_workflow_of_a_reset_that_ended_gets_a_signal(page: Page) -> None:
    workflows = Workflows({REF})
    listener = example.TellTemporal(cast("Client", workflows))
    await resets.start_reset("employee-17", REF)
    for event in page.events:
        await listener(event)
    assert workflows.signals == []
    await page.reset(REF)
    event = await page.ended(REF)
    await listener(event)
    assert workflows.signals == [(REF, "reset_ended")]
    workflows.running.clear()
    await listener(event)
    workflows.status = RPCStatusCode.UNAVAILABLE
    with pytest.raises(RPCError):
        await listener(event)


# --- the workflow


def payloads(*values: Any) -> dict[str, Any]:
    encoding = {"encoding": b64encode(b"json/plain").decode()}
    return {
        "payloads": [{"metadata": encoding, "data": b64encode(json.dumps(each).encode()).decode()} for each in values]
    }


def status(*, ended: bool) -> dict[str, Any]:
    return {
        "flow_id": "a" * 26, "state": "password_set" if ended else "requested", "expects": None if ended else "answer",
        "in_doubt": None, "failure": None, "ended": ended, "expires_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip


class History:
    """Events of a workflow, as a server writes them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.add(
            "WorkflowExecutionStarted",
            workflowType={"name": "Onboarding"}, taskQueue={"name": "q"}, input=payloads("employee-17"), attempt=1,
            workflowTaskTimeout="10s", originalExecutionRunId="run", firstExecutionRunId="run", workflowId=REF,
        )  # fmt: skip
        self.task()

    def add(self, kind: str, **attributes: Any) -> str:
        number = str(len(self.events) + 1)
        name = "EVENT_TYPE" + "".join(f"_{c}" if c.isupper() else c for c in kind).upper()
        at = f"2026-01-01T00:{int(number):02}:00Z"
        self.events.append(
            {
                "eventId": number,
                "eventTime": at,
                "eventType": name,
                f"{kind[0].lower()}{kind[1:]}EventAttributes": attributes,
            }
        )
        return number

    def task(self) -> None:
        """A turn of the workflow."""
        scheduled = self.add("WorkflowTaskScheduled", taskQueue={"name": "q"})
        started = self.add("WorkflowTaskStarted", scheduledEventId=scheduled)
        self.add("WorkflowTaskCompleted", scheduledEventId=scheduled, startedEventId=started)

    def activity(self, number: int, name: str, *arguments: str, gives: dict[str, Any]) -> None:
        scheduled = self.add(
            "ActivityTaskScheduled", activityId=str(number), activityType={"name": name}, input=payloads(*arguments)
        )
        started = self.add("ActivityTaskStarted", scheduledEventId=scheduled)
        self.add("ActivityTaskCompleted", scheduledEventId=scheduled, startedEventId=started, result=payloads(gives))
        self.task()

    async def replay(self) -> None:
        history = WorkflowHistory.from_json(REF, {"events": self.events})
        await Replayer(workflows=[example.Onboarding]).replay_workflow(history)


@pytest.mark.parametrize("told", [True, False], ids=["by a signal", "by asking"])
async def test_a_workflow_waits_until_it_learns_of_the_end(*, told: bool) -> None:
    history = History()
    history.activity(1, "start_reset", "employee-17", REF, gives=status(ended=False))
    timer = history.add("TimerStarted", timerId="1", startToFireTimeout="300s")
    if told:
        history.add("WorkflowExecutionSignaled", signalName="reset_ended", input={})
    else:
        history.add("TimerFired", timerId="1", startedEventId=timer)
    history.task()
    if told:
        history.add("TimerCanceled", timerId="1", startedEventId=timer)
    history.activity(2, "reset_status", REF, gives=status(ended=True))
    history.add("WorkflowExecutionCompleted", result=payloads("password_set"))
    await history.replay()


async def test_a_workflow_does_not_end_before_its_reset() -> None:
    history = History()
    history.activity(1, "start_reset", "employee-17", REF, gives=status(ended=False))
    history.add("WorkflowExecutionCompleted", result=payloads("password_set"))
    with pytest.raises(workflow.NondeterminismError):
        await history.replay()


async def test_a_workflow_whose_reset_had_ended_does_not_wait() -> None:
    history = History()
    history.activity(1, "start_reset", "employee-17", REF, gives=status(ended=True))
    history.add("WorkflowExecutionCompleted", result=payloads("password_set"))
    await history.replay()

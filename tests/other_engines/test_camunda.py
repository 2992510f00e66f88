"""The example for Camunda: pyzeebe runs its jobs, before a gateway that notes what comes."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
from aiohttp import web
from pyzeebe import Job, JobController, ZeebeClient
from pyzeebe.errors import MessageAlreadyExistsError

from examples.engines import camunda_onboarding as example, resets
from reset_flow.integrations.webhooks import WebhookListener, WebhookNotDelivered
from tests.other_engines.conftest import LOGIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow.sandbox import Sandbox
    from tests.other_engines.conftest import Page

SECRET = f"whsec_{b64encode(b'a' * 24).decode()}"
OTHER_SECRET = f"whsec_{b64encode(b'b' * 24).decode()}"


@attrs.define
class Gateway:
    """Notes what a job, or a client, tells Camunda."""

    told: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)

    async def complete_job(self, **told: Any) -> None:
        self.told.append(("completed", told))

    async def fail_job(self, **told: Any) -> None:
        self.told.append(("failed", told))

    async def throw_error(self, **told: Any) -> None:
        self.told.append(("error", told))

    async def publish_message(self, name: str, correlation_key: str, *, message_id: str, **_: Any) -> None:
        if any(known["id"] == message_id for _, known in self.told):
            raise MessageAlreadyExistsError
        self.told.append((name, {"key": correlation_key, "id": message_id}))


async def do(kind: str, **variables: str) -> tuple[str, dict[str, Any]]:
    """Do one job, and return what Camunda was told."""
    gateway = Gateway()
    job = Job(
        key=1, type=kind, process_instance_key=1, bpmn_process_id="onboarding", process_definition_version=1,
        process_definition_key=1, element_id=kind, element_instance_key=1, custom_headers={}, worker="test", retries=3,
        deadline=0, variables=variables,
    )  # fmt: skip
    (task,) = (task for task in example.router.tasks if task.type == kind)
    await task.job_handler(job, JobController(job, cast("Any", gateway)))
    (told,) = gateway.told
    return told


async def test_a_process_is_carried_from_start_to_end(page: Page) -> None:
    kind, started = await do("start-reset", user_ref="employee-17", ref="order-1")
    assert (kind, started["variables"]["reset"]["ended"]) == ("completed", False)
    assert await do("start-reset", user_ref="employee-17", ref="order-1") == (kind, started)
    await page.reset("order-1")
    kind, ended = await do("reset-status", ref="order-1")
    assert (kind, ended["variables"]["reset"]["state"]) == ("completed", "password_set")
    assert ended["variables"]["reset"]["flow_id"] == started["variables"]["reset"]["flow_id"]


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def receiver(gateway: Gateway) -> AsyncIterator[str]:
    """The address of the receiver."""
    runner = web.AppRunner(example.make_receiver(cast("ZeebeClient", gateway), SECRET))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/resets"
    await runner.cleanup()


async def test_the_message_is_correlated_by_the_ref_and_counts_once(
    page: Page, gateway: Gateway, receiver: str
) -> None:
    async with WebhookListener(receiver, SECRET, allow_private=["127.0.0.1"]) as listener:
        await resets.start_reset("employee-17", "order-1")
        await page.reset("order-1")
        event = await page.ended("order-1")
        for _ in range(2):
            await listener(event)
    assert gateway.told == [("reset-ended", {"key": "order-1", "id": event.id})]


async def test_a_message_of_somebody_else_is_refused(page: Page, gateway: Gateway, receiver: str) -> None:
    await resets.start_reset("employee-17", "order-1")
    await page.reset("order-1")
    event = await page.ended("order-1")
    async with WebhookListener(receiver, OTHER_SECRET, allow_private=["127.0.0.1"]) as forger:
        with pytest.raises(WebhookNotDelivered):
            await forger(event)
    assert gateway.told == []


async def test_what_may_succeed_is_tried_again_and_what_can_not_is_an_error_of_the_process(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, told = await do("reset-status", ref="no-such")
    assert (kind, told["error_code"]) == ("error", "flow_not_found")
    sandbox.fault("challenge", "status", status=503, headers={"Retry-After": "7"})
    kind, told = await do("start-reset", user_ref="employee-17", ref="order-1")
    assert (kind, told["message"]) == ("failed", "broker_unavailable")
    assert told["retry_back_off_ms"] > 0

    async def broken(_: str) -> str:
        raise LookupError(LOGIN)

    monkeypatch.setattr(resets, "login_of", broken)
    kind, told = await do("start-reset", user_ref="employee-17", ref="order-1")
    assert (kind, told["message"]) == ("failed", "failed")
    assert LOGIN not in str(told)

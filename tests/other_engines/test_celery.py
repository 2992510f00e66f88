"""The example for Celery: a worker of its own, over a queue in memory."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from celery.contrib.testing.worker import start_worker

from examples.engines import celery_onboarding as example, resets
from tests.other_engines.conftest import LOGIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from reset_flow.sandbox import Sandbox
    from tests.other_engines.conftest import Page


@pytest.fixture(autouse=True)
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setattr(example, "ASK_EVERY", timedelta(seconds=0.1))
    example.app.conf.update(broker_url="memory://", result_backend="cache+memory://", result_extended=True)
    with start_worker(example.app, perform_ping_check=False, loglevel="ERROR"):
        yield example.app


async def test_the_task_ends_with_the_reset(page: Page, app: Celery, sandbox: Sandbox) -> None:
    results = [example.onboard.delay("employee-17", "order-1") for _ in range(2)]
    await page.started("order-1")
    await page.reset("order-1")
    assert [await asyncio.to_thread(result.get, 20) for result in results] == ["password_set"] * 2
    assert sandbox.user(LOGIN).mails_sent == 1
    kept = json.dumps(app.backend.get_task_meta(results[0].id), default=str)
    assert "order-1" in kept
    assert LOGIN not in kept


async def test_what_can_not_succeed_ends_the_task_and_what_may_does_not(page: Page, sandbox: Sandbox) -> None:
    sandbox.fault("challenge", "status", status=503, headers={"Retry-After": "0"})
    result = example.onboard.delay("employee-17", "order-1")
    await page.started("order-1")
    other = example.onboard.delay("employee-18", "order-1")
    with pytest.raises(resets.ResetFailed, match="key_reused"):
        await asyncio.to_thread(other.get, 20)
    await page.reset("order-1")
    assert await asyncio.to_thread(result.get, 20) == "password_set"

"""The example for Airflow: its operator defers, its trigger waits, as in a worker and a triggerer."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from examples.engines import airflow_onboarding as example, resets

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.other_engines.conftest import Page


def operator(user_ref: str = "employee-17") -> example.ResetPassword:
    return example.ResetPassword(task_id="reset", user_ref=user_ref, ref="onboarding run-1")


async def test_the_wait_is_in_the_triggerer(page: Page) -> None:
    task = operator()
    with pytest.raises(TaskDeferred) as deferred:
        await asyncio.to_thread(task.execute, {})
    path, given = deferred.value.trigger.serialize()
    assert given == {"ref": "onboarding run-1"}
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**given)
    waiting = asyncio.create_task(anext(trigger.run()))
    await page.reset("onboarding run-1")
    event: Any = await waiting
    assert getattr(task, deferred.value.method_name)({}, event.payload) == "password_set"


async def test_what_can_not_succeed_is_not_tried_again(sandbox: Sandbox) -> None:
    with pytest.raises(TaskDeferred):
        await asyncio.to_thread(operator().execute, {})
    with pytest.raises(AirflowFailException, match="key_reused"):
        await asyncio.to_thread(operator("employee-18").execute, {})
    sandbox.fault("challenge", "status", status=503, headers={"Retry-After": "7"})
    other = example.ResetPassword(task_id="reset", user_ref="employee-17", ref="onboarding run-2")
    with pytest.raises(resets.ResetFailed, match="broker_unavailable"):
        await asyncio.to_thread(other.execute, {})


def test_the_dag_gives_the_operator_ids_alone() -> None:
    (task,) = example.dag.tasks
    assert isinstance(task, example.ResetPassword)
    context: Any = {"dag": example.dag, "run_id": "run-1", "params": {"user_ref": "employee-17"}}
    task.render_template_fields(context)
    assert (task.user_ref, task.ref) == ("employee-17", "onboarding run-1")

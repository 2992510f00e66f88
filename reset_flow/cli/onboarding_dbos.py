"""Onboardings that DBOS runs in this process, and their wait for a reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from reset_flow.cli.onboarding import open_worker, welcome
from reset_flow.integrations.dbos import DBOSListener, Resets

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from reset_flow.cli.onboarding import Commands, Job

__all__ = ["listener", "serve"]


async def serve(job: Job, stack: AsyncExitStack) -> Commands:
    """Run DBOS. Return what it can be asked."""
    resets = Resets(*await open_worker(job, stack))

    @DBOS.workflow(name="onboarding")
    async def onboarding(user_ref: str, ref: str) -> str:
        status = await resets.reset_password(user_ref, ref)
        await DBOS.run_step_async({"name": "welcome"}, welcome, user_ref, job["welcomed"])
        return status["state"]

    async def onboard(user_ref: str, ref: str) -> dict[str, Any]:
        with SetWorkflowID(ref):
            await DBOS.start_workflow_async(onboarding, user_ref, ref)
        return {}

    async def look(ref: str) -> dict[str, Any]:
        workflow = await DBOS.get_workflow_status_async(ref)
        assert workflow is not None
        steps = [each["function_name"] for each in await DBOS.list_workflow_steps_async(ref)]
        waits = workflow.status == "PENDING" and "DBOS.sleep" in steps
        return {"status": workflow.status, "waits": waits, "result": workflow.output}

    DBOS(
        config={
            "name": "demo",
            "system_database_url": job["address"],
            "log_level": "ERROR",
            "notification_listener_polling_interval_sec": 0.05,
        }
    )
    DBOS.launch()
    stack.callback(DBOS.destroy)
    return {"onboard": onboard, "look": look}


def listener(job: Job, stack: AsyncExitStack) -> DBOSListener:
    """Return the one that tells DBOS of ends."""
    listener = DBOSListener(job["address"])
    stack.callback(listener.close)
    return listener

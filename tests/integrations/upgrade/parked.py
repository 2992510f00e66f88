"""An onboarding of an embedder, written by hand for a library that knew no DBOS: it looks at the flow once a second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dbos import DBOS, DBOSConfig, SetWorkflowID

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from reset_flow import ResetService

REF = "onboarding of carl"
WORKFLOW = "carl"
BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""By the clock of the service."""


async def launch(service: ResetService, database: Path, *, begin: bool) -> None:
    """Start DBOS with the onboarding, and begin one or go on with those that there are."""

    async def start() -> str:
        return (await service.start("login of carl", ref=REF)).id

    async def state() -> str | None:
        (flow,) = await service.find(ref=REF)
        return str(flow.state) if flow.ended else None

    @DBOS.workflow(name="onboard")
    async def onboard() -> str:
        flow_id = await DBOS.run_step_async({"name": "start"}, start)
        while True:
            if ended := await DBOS.run_step_async({"name": "state"}, state):
                return f"{flow_id} {ended}"
            await DBOS.sleep_async(1)

    await _open(onboard, database, begin=begin)


async def launch_waiting(service: ResetService, database: Path, *, begin: bool) -> None:
    """Do the same with an onboarding that waits in `reset_password`."""
    from reset_flow.integrations.dbos import Resets  # noqa: PLC0415 - the code that the other one was written for has none

    async def login_of(user_ref: str) -> str:
        return f"login of {user_ref}"

    resets = Resets(service, login_of, ask_every=timedelta(days=1))

    @DBOS.workflow(name="onboard")
    async def onboard() -> str:
        end = await resets.reset_password("carl", REF)
        return f"{end['flow_id']} {end['state']}"

    await _open(onboard, database, begin=begin)


async def _open(onboard: Callable[[], Coroutine[None, None, str]], database: Path, *, begin: bool) -> None:
    config: DBOSConfig = {
        "name": "onboarding",
        "system_database_url": f"sqlite:///{database}",
        "application_version": "1",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    if begin:
        with SetWorkflowID(WORKFLOW):
            await DBOS.start_workflow_async(onboard)

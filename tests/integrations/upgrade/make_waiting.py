"""
Makes `waiting/` beside it: an onboarding in DBOS 3.4 that waits in `reset_password`, left as by a SIGKILL.

Later releases must go on with it, so it stays as the first release that has `reset_password` made it. The keys are
nobody's.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from dbos import DBOS

sys.path.append(str(Path(__file__).parents[3]))

from reset_flow import Keyring, ResetService, SQLiteStore
from reset_flow.testing import FrozenClock
from reset_flow.testing.transport import ScriptedTransport
from tests.integrations.upgrade import parked
from tests.integrations.upgrade.make import keep

STEPS = 5
"""Of the workflow, once it waits."""


async def make(folder: Path) -> None:
    service = ResetService(
        ScriptedTransport("broker"),
        SQLiteStore(folder / "flows.db"),
        Keyring.load_or_create(folder / "keys"),
        listeners={"dbos": None},
        clock=FrozenClock(parked.BEGAN),
        sweep=False,
    )
    async with service:
        await parked.launch_waiting(service, folder / "dbos.db", begin=True)
        while len(await DBOS.list_workflow_steps_async(parked.WORKFLOW)) < STEPS:
            pass
        (flow,) = await service.find(ref=parked.REF)
    keep(folder, {"requested": flow.id}, Path(__file__).parent / "waiting")
    os._exit(0)  # DBOS, too, is left as by a SIGKILL


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder)))

"""
Makes the files beside it: what the library left behind at commit 1058235, before it knew any engine.

Run it with that commit's code in PYTHONPATH, and dbos 3.4 installed. The keys, codes and tokens are nobody's.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from dbos import DBOS

from reset_flow import Accepted, Event, Flow, Keyring, Listener, ResetService, Secret, SQLiteStore
from reset_flow.testing import FrozenClock
from reset_flow.testing.transport import ScriptedTransport

sys.path.append(str(Path(__file__).parents[3]))  # behind the code of that commit

from tests.integrations.upgrade import parked

HERE = Path(__file__).parent
STEPS = 3
"""Of the workflow, once it sleeps."""
TOKEN = "nobodys-token-4711"
CODE, PASSWORD = "004158", "violet tractor 5"


async def deaf(event: Event) -> None:
    raise ConnectionError(event.id)


def open_service(folder: Path, transport: ScriptedTransport, **listeners: Listener) -> ResetService:
    return ResetService(
        transport,
        SQLiteStore(folder / "flows.db"),
        Keyring.load_or_create(folder / "keys"),
        listeners=listeners,
        clock=FrozenClock(parked.BEGAN),
        sweep=False,
    )


async def begin(service: ResetService, transport: ScriptedTransport, name: str) -> Flow:
    """Begin a reset of somebody who is asked no question."""
    transport.script(challenge=[Accepted(value=Secret(""))], exchange=[Accepted(value=Secret(TOKEN))])
    return await service.start(f"login of {name}", ref=f"onboarding of {name}")


async def make(folder: Path) -> None:
    transport = ScriptedTransport("broker")
    async with open_service(folder, transport, crm=deaf) as service:
        ended = await begin(service, transport, "ended")
        await service.verify(ended.id, CODE)
        ended = await service.set_password(ended.id, PASSWORD)
    async with open_service(folder, transport) as service:
        answered = await begin(service, transport, "question_answered")
        issued = await begin(service, transport, "token_issued")
        issued = await service.verify(issued.id, CODE)
        requested = await service.start("login of requested", ref="onboarding of requested")
        transport.script(challenge=[Accepted(value=Secret(""))])
        await parked.launch(service, folder / "dbos.db", begin=True)
        while len(await DBOS.list_workflow_steps_async(parked.WORKFLOW)) < STEPS:
            pass
    made = {str(flow.state): flow.id for flow in (requested, answered, issued, ended)}
    assert list(made) == ["requested", "question_answered", "token_issued", "password_set"]
    keep(folder, made, HERE)
    os._exit(0)  # DBOS, too, is left as by a SIGKILL


def keep(folder: Path, ids: dict[str, str], where: Path) -> None:
    where.mkdir(exist_ok=True)
    for name in ("flows.db", "dbos.db"):
        with (
            closing(sqlite3.connect(folder / name)) as source,
            closing(sqlite3.connect(folder / f"small-{name}")) as copy,
        ):
            source.backup(copy)
            copy.execute("VACUUM")
        (where / f"{name}.gz").write_bytes(gzip.compress((folder / f"small-{name}").read_bytes(), mtime=0))
    (where / "keys").write_bytes((folder / "keys").read_bytes())
    (where / "flows.json").write_text(json.dumps(ids, indent=2) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder)))

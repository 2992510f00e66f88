"""What earlier code left behind goes on: flows with refs and a workflow without any integration, and one that waits."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dbos import DBOS

from reset_flow import Keyring, ResetService, SQLiteStore, State
from reset_flow.integrations.dbos import DBOSListener, Resets
from reset_flow.testing import FrozenClock
from reset_flow.testing.transport import ScriptedTransport
from tests.integrations.orchestrator import PASSWORD, Onboarding, open_dbos, parked as is_parked, require_sqlite
from tests.integrations.upgrade import parked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbos import WorkflowHandleAsync

    from reset_flow import Event, Listener

LEFT = Path(__file__).parent / "upgrade"
CODE = "004158"
IDS: dict[str, str] = json.loads((LEFT / "flows.json").read_text())


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    left = LEFT / getattr(request, "param", ".")
    for name in ("flows.db", "dbos.db"):
        (tmp_path / name).write_bytes(gzip.decompress((left / f"{name}.gz").read_bytes()))
    shutil.copy(left / "keys", tmp_path)
    (tmp_path / "keys").chmod(0o600)
    yield tmp_path
    DBOS.destroy(destroy_registry=True)


def service_of_today(folder: Path, transport: ScriptedTransport, **listeners: Listener) -> ResetService:
    return ResetService(
        transport,
        SQLiteStore(folder / "flows.db"),
        Keyring.from_file(folder / "keys"),
        listeners=listeners,
        clock=FrozenClock(parked.BEGAN),
        sweep=False,
    )


async def finish(service: ResetService, flow_id: str) -> None:
    flow = await service.get(flow_id)
    if flow.expects == "answer":
        flow = await service.answer(flow.id, "Peterson")
    if flow.expects == "code":
        flow = await service.verify(flow.id, CODE)
    await service.set_password(flow.id, PASSWORD)


@pytest.mark.parametrize("name", ["requested", "question_answered", "token_issued"])
async def test_a_flow_that_waited_is_joined_by_its_ref_and_ends_with_the_new_password(folder: Path, name: str) -> None:
    require_sqlite()
    transport = ScriptedTransport("broker")

    async def login_of(user_ref: str) -> str:
        return f"login of {user_ref}"

    async with service_of_today(folder, transport) as service:
        assert (await service.get(IDS[name])).state == name
        onboarding = Onboarding(Resets(service, login_of, ask_every=timedelta(seconds=0.05)))
        open_dbos(f"sqlite:///{folder}/dbos.db", version="2")
        waiting = await onboarding.start(name, f"onboarding of {name}")
        await is_parked(waiting)
        assert transport.calls == []
        await finish(service, IDS[name])
        end = await waiting.get_result()
    assert (end["flow_id"], end["state"]) == (IDS[name], State.PASSWORD_SET)
    (update,) = transport.calls_of("update")
    assert update.token
    assert update.token.reveal() == ("nobodys-token-4711" if name == "token_issued" else "b5f1c2d0-scripted")


async def test_an_end_that_a_listener_was_owed_is_told(folder: Path) -> None:
    told = []

    async def listen(event: Event) -> None:
        told.append(event.flow.ref)

    async with service_of_today(folder, ScriptedTransport("broker"), crm=listen) as service:
        assert (await service.sweep()).delivered == 1
    assert told == ["onboarding of ended"]


async def test_a_workflow_written_by_hand_goes_on(folder: Path) -> None:
    require_sqlite()
    transport = ScriptedTransport("broker")
    async with service_of_today(folder, transport) as service:
        await parked.launch(service, folder / "dbos.db", begin=False)
        (flow,) = await service.find(ref=parked.REF)
        assert transport.calls == []
        await finish(service, flow.id)
        handle: WorkflowHandleAsync[str] = await DBOS.retrieve_workflow_async(parked.WORKFLOW)
        assert await handle.get_result() == f"{flow.id} password_set"


@pytest.mark.parametrize("folder", ["waiting"], indirect=True)
async def test_a_workflow_that_waited_in_an_earlier_release_goes_on(folder: Path) -> None:
    require_sqlite()
    transport = ScriptedTransport("broker")
    listener = DBOSListener(f"sqlite:///{folder}/dbos.db")
    async with listener, service_of_today(folder, transport, dbos=listener) as service:
        await parked.launch_waiting(service, folder / "dbos.db", begin=False)
        (flow,) = await service.find(ref=parked.REF)
        assert flow.state is State.REQUESTED
        await finish(service, flow.id)
        handle: WorkflowHandleAsync[str] = await DBOS.retrieve_workflow_async(parked.WORKFLOW)
        assert await handle.get_result() == f"{flow.id} password_set"
    assert len(transport.calls_of("request")) == 1

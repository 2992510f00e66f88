"""Flows that the library left behind before it knew any engine are joined in Restate, and end."""

from __future__ import annotations

import gzip
import json
import secrets
import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reset_flow import Keyring, ResetService, SQLiteStore
from reset_flow.integrations.restate import RestateListener, reset_object
from reset_flow.sandbox import Sandbox
from reset_flow.testing import FrozenClock
from reset_flow.testing.transport import ScriptedTransport
from tests.integrations.restate_house import House, serving
from tests.integrations.upgrade import parked

if TYPE_CHECKING:
    from benchmarks.servers import RestateServer

LEFT = Path(__file__).parent / "upgrade"
IDS: dict[str, str] = json.loads((LEFT / "flows.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.db").write_bytes(gzip.decompress((LEFT / "flows.db.gz").read_bytes()))
    shutil.copy(LEFT / "keys", tmp_path)
    (tmp_path / "keys").chmod(0o600)
    return tmp_path


async def login_of(user_ref: str) -> str:
    return f"login of {user_ref}"


@pytest.mark.parametrize("name", ["requested", "question_answered", "token_issued"])
async def test_a_flow_that_waited_is_joined_by_its_ref_and_ends_with_the_new_password(
    restate_server: RestateServer, folder: Path, name: str
) -> None:
    transport, resets_name = ScriptedTransport("broker"), f"Reset_{secrets.token_hex(6)}"
    service = ResetService(
        transport,
        SQLiteStore(folder / "flows.db"),
        Keyring.from_file(folder / "keys"),
        listeners={"restate": RestateListener(restate_server.url, name=resets_name)},
        clock=FrozenClock(parked.BEGAN),
    )
    async with service:
        resets = reset_object(service, login_of, name=resets_name, ask_every=timedelta(seconds=1))
        async with serving(restate_server, resets):
            house = House(restate_server, Sandbox(), service, resets)
            ref = f"onboarding of {name}"
            assert (await house.call("start", ref, name))["flow_id"] == IDS[name]
            assert transport.calls == []
            (wait,) = await house.wait(ref)
            flow = await service.get(IDS[name])
            while flow.expects:
                typed = {"answer": "Peterson", "code": "004158", "password": "violet tractor sings"}[flow.expects]
                flow = await service.submit(flow.id, typed)
            assert (await wait)["state"] == "password_set"

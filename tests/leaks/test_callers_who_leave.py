"""A caller who goes away, or has no more patience, is shown nothing by what they get instead of a flow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reset_flow import State
from reset_flow.testing import traceback_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.leaks.conftest import Raised, Scene

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

TESTS = Path(__file__).parents[1]
COMMANDS: list[tuple[str, State | None, Callable[[Scene, str], Awaitable[object]]]] = [
    ("challenge", None, lambda scene, _: scene.service.start(scene.secret("login"), ref=scene.secret("ref"))),
    ("request", State.REQUESTED, lambda scene, flow_id: scene.service.answer(flow_id, scene.secret("answer"))),
    ("request", State.QUESTION_ANSWERED, lambda scene, flow_id: scene.service.resend(flow_id, key=scene.secret("key"))),
    ("exchange", State.QUESTION_ANSWERED, lambda scene, flow_id: scene.service.verify(flow_id, scene.code())),
    (
        "update",
        State.TOKEN_ISSUED,
        lambda scene, flow_id: scene.service.set_password(flow_id, scene.secret("password")),
    ),
]


@pytest.mark.parametrize("impatient", [False, True])
@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda number: f"{COMMANDS[number][0]}-{number}")
async def test_who_leaves_in_the_middle_of_a_call(
    scene: Scene, raised: Raised, number: int, *, impatient: bool
) -> None:
    route, state, command = COMMANDS[number]
    flow_id = "" if state is None else (await scene.at(state)).id
    calls = len(scene.sandbox.calls_of(route))
    scene.sandbox.fault(route, "latency", seconds=3600)
    task = asyncio.ensure_future(command(scene, flow_id))
    await scene.sandbox.wait_for_calls(route, calls + 1)
    if impatient:
        error = await raised(asyncio.wait_for(task, 0.01))
    else:
        task.cancel()
        error = await raised(task)
    assert isinstance(error, TimeoutError if impatient else asyncio.CancelledError)
    scene.sandbox.release()
    assert "reset_flow/" in traceback_of(error, callers=[TESTS]), "no frame of the library was looked at"
    await scene.looked_at(error)

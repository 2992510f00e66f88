"""A process is killed at every point at which it waits for something; a living one goes on."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import attrs
import pytest

from reset_flow import Credential, Failure, State

if TYPE_CHECKING:
    from reset_flow import Flow
    from tests.crash.conftest import Crash, Person


@attrs.frozen(kw_only=True)
class Scene:
    """What is done by the process that dies, and what the broker does meanwhile."""

    command: str
    at: State | None
    route: str = "*"
    fault: str = ""
    question: bool = True
    steady: bool = True
    failures: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        parts = (self.command, "" if self.question else "unasked", self.fault, "" if self.steady else "another")
        return "-".join(part for part in parts if part)


UNKNOWN = (Failure.OUTCOME_UNKNOWN,)
SCENES = [
    Scene(command="start", at=None),
    *(Scene(command="start", at=None, question=False, route="request", fault=fault) for fault in ("", "drop_after")),
    *(Scene(command="answer", at=State.REQUESTED, route="request", fault=f) for f in ("", "drop_after", "drop_before")),
    *(Scene(command="resend", at=State.QUESTION_ANSWERED, route="request", fault=f) for f in ("", "drop_after")),
    *(
        Scene(command="verify", at=State.QUESTION_ANSWERED, route="exchange", fault=fault)
        for fault in ("", "drop_after", "drop_before")
    ),
    *(
        Scene(command="set_password", at=State.TOKEN_ISSUED, route="update", fault=fault)
        for fault in ("", "drop_after", "drop_before")
    ),
    Scene(command="set_password", at=State.TOKEN_ISSUED, steady=False, failures=UNKNOWN),
    *(
        Scene(command="set_pin", at=State.TOKEN_ISSUED, route="change_pin", fault=fault, failures=UNKNOWN)
        for fault in ("", "drop_after", "drop_before")
    ),
    Scene(command="adopt", at=None),
    Scene(command="cancel", at=State.QUESTION_ANSWERED, failures=(Failure.CANCELLED,)),
]


async def play_and_kill(crash: Crash, scene: Scene, point: str) -> tuple[Person, Flow]:
    """Play with a death at this point; again, with longer times, where the machine stalled on the way to it."""
    for pace in (1, 4, 16):
        if played := await play(crash, scene, point, deadline=1.5 * pace, lease=2.5 * pace):  # a lease is waited for
            return played[1:]
    raise AssertionError(f"{scene.command} did not come by {point!r}")


async def play(crash: Crash, scene: Scene, point: str | None, **times: float) -> tuple[list[str], Person, Flow] | None:
    """Play one flow with a death at this point to its end; return None if the process did not come by the point."""
    person = crash.person(question=scene.question)
    if scene.command == "adopt":
        await crash.expire_password(person)
    if scene.command == "set_pin":
        person.credential = Credential.PIN
        await crash.log_in(person)
    if scene.at:
        await person.reach(scene.at)
    if scene.fault:
        crash.sandbox.fault(scene.route, scene.fault, user=person.user)
    person.steady = scene.steady
    end = await crash.try_to_doom(person, scene.command, point, **times)
    if end["status"] == 0 and point:
        return None
    assert end["status"] == (-signal.SIGKILL if point else 0), end
    await crash.check_nothing_shows(person)
    if scene.command == "adopt" and not person.flow_id:
        flow = await person.do("adopt")
        while flow is None:
            await asyncio.sleep(0.1)
            flow = await person.do("adopt")
        person.flow_id = flow.id
    flow = await person.finish()
    await crash.check_nothing_shows(person)
    return end["passed"], person, flow


@pytest.mark.parametrize("point", ["before save 1", "after save 1", "before save 2"])
async def test_the_first_flow_of_a_store_goes_on_if_its_process_is_killed_over_the_ids_of_its_keys(
    crash: Crash, point: str
) -> None:
    scene = next(each for each in SCENES if each.command == "start")
    crash.check(*await play_and_kill(crash, scene, point), scene.failures)


@pytest.mark.parametrize("scene", SCENES, ids=str)
async def test_a_flow_goes_on_wherever_its_process_is_killed(crash: Crash, scene: Scene) -> None:
    await crash.person(question=True).finish()  # the first save in a store brings the ids of the keys with it
    played = await play(crash, scene, None, deadline=15, lease=40)
    assert played
    points, person, flow = played
    crash.check(person, flow, scene.failures)
    assert points
    assert len(set(points)) == len(points)
    for each, end in await asyncio.gather(*(play_and_kill(crash, scene, point) for point in points)):
        crash.check(each, end, scene.failures)
    crash.check_the_living_shows_nothing()

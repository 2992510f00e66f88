"""A process is killed over a code that is judged only together with the password; a living one goes on."""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from reset_flow import (
    CodeRejected,
    Failure,
    Flow,
    FlowBusy,
    Keyring,
    PasswordRejected,
    Policy,
    ResetFlowError,
    ResetService,
    StaleRecord,
    State,
    Step,
    open_store,
)
from reset_flow.domain.state_machine import EDGES
from tests.crash.conftest import Zygote
from tests.crash.late_provider import LateProvider, LateTransport, User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TRANSITIONS = {(edge.trigger, source): edge.target for edge in EDGES for source in edge.sources}
PATIENCE = 60.0
WRONG = "wrong"


@attrs.frozen(kw_only=True)
class Scene:
    """
    What is done by the process that dies.

    Attributes:
        typed: The code that is held: `right`, `wrong`, or none.

        proves: Whether a log-in may tell if a password is set.

        steady: Whether the same password is typed again when it is asked for again.
    """

    command: str
    typed: str = "right"
    fault: str = ""
    proves: bool = True
    steady: bool = True

    def __str__(self) -> str:
        parts = (
            self.command,
            self.typed,
            self.fault,
            "" if self.proves else "unproved",
            "" if self.steady else "another",
        )
        return "-".join(filter(None, parts))


SCENES = [
    Scene(command="verify", typed=""),
    Scene(command="verify"),
    Scene(command="resend"),
    Scene(command="cancel"),
    Scene(command="set_password", typed=WRONG),
    *(
        Scene(command="set_password", fault=fault, proves=proves)
        for fault in ("", "before", "after")
        for proves in (True, False)
    ),
    Scene(command="set_password", proves=False, steady=False),
]


@attrs.define
class Late:
    """The provider, a store, and a service in this process that goes on where another one died."""

    provider: LateProvider
    zygote: Zygote
    store: str
    keys: Path
    service: ResetService
    at_once: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(4))


@attrs.define
class Person:
    """Somebody who goes on until the password works, and holds each word of the library to what the provider did."""

    late: Late
    login: str
    scene: Scene
    passwords: int = 0
    flow_id: str = ""
    code_refused: bool = False
    asked: Counter[str] = attrs.field(factory=Counter)
    told: list[tuple[str, str]] = attrs.field(factory=list)

    @property
    def user(self) -> User:
        return self.late.provider.users[self.login]

    def given(self, command: str, code: str = "") -> list[str]:
        """Return the arguments of a command, and count it."""
        args = [self.flow_id]
        if command == "verify":
            args.append(code or self.user.code or "000000")
        if command == "set_password":
            self.passwords += not (self.scene.steady and self.passwords)
            args.append(f"violet tractor {self.passwords}")
        self.asked[command] += 1
        self.asked[args[-1]] += len(args) - 1
        return args

    async def does(self, command: str, code: str = "") -> None:
        before = (self.user.resets, self.user.mails)
        args = self.given(command, code)
        try:
            await getattr(self.late.service, command)(*args)
        except (FlowBusy, StaleRecord):
            self.asked[command] -= 1
            self.asked[args[-1]] -= len(args) - 1
            await asyncio.sleep(0.1)
        except ResetFlowError as error:
            self.told.append((command, error.code))
            if isinstance(error, CodeRejected | PasswordRejected):
                assert (self.user.resets, self.user.mails) == before, "told no, and yet it was done"
            self.code_refused = isinstance(error, CodeRejected)
        else:
            self.told.append((command, "done"))
            self.code_refused = False

    async def finish(self) -> Flow:
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            flow = await self.late.service.get(self.flow_id)
            if not flow.ended and not flow.busy_until and self.user.resets:
                assert flow.in_doubt is Step.PASSWORD, "sent back as if nothing had happened"
            if flow.ended:
                return flow
            lost = self.code_refused or not self.user.code
            await self.does("set_password" if flow.expects is Step.PASSWORD else "resend" if lost else "verify")
        pytest.fail(f"stuck: {flow!r}, told {self.told[-20:]}")

    def check(self, flow: Flow) -> None:
        """Hold what the provider saw to what the person asked for."""
        user = self.user
        if flow.state is State.PASSWORD_SET:
            assert user.password == f"violet tractor {self.passwords}"
        else:
            assert flow.failure is Failure.CANCELLED
            assert user.resets == 0
        assert user.mails <= 1 + self.asked["resend"]
        assert user.log_ins <= self.asked["set_password"] * self.scene.proves
        for what, times in user.sent.items():
            assert times <= 2 * self.asked["set_password" if what.isdigit() else what], (what, user.sent, self.asked)
        at = State.REQUESTED
        for transition in flow.history:
            assert transition.source is at
            at = TRANSITIONS[transition.trigger, at]
        assert at is flow.state


async def play(late: Late, scene: Scene, point: str | None, pace: int) -> list[str] | None:
    """Play one flow to its end, with a death at this point; return None if the process did not come by it."""
    person = Person(late, f"user {len(late.provider.users)}", scene)
    late.provider.users[person.login] = User()
    person.flow_id = (await late.service.start(person.login)).id
    if scene.typed:
        await person.does("verify", "999999" if scene.typed == WRONG else "")
    if scene.fault:
        late.provider.faults[person.login] = scene.fault
    job: dict[str, Any] = {
        "late": True, "proves": scene.proves, "broker": late.provider.url, "app_key": "", "store": late.store,
        "keys": str(late.keys), "deadline": 1.5 * pace, "lease": 2.5 * pace, "command": scene.command,
        "args": person.given(scene.command), "options": {}, "point": point,
        "witness": str(late.keys.with_name(f"witness-{person.login}")),
    }  # fmt: skip
    async with late.at_once:
        end = await late.zygote.run(job)
    if point and end["status"] == 0:
        return None
    assert end["status"] == (-signal.SIGKILL if point else 0), end
    person.code_refused = end["told"] == "code_rejected"
    flow = await person.finish()
    person.check(flow)
    return list(end["passed"])


async def play_and_kill(late: Late, scene: Scene, point: str) -> None:
    for pace in (1, 4, 16):  # longer times, where the machine stalled on the way to the point
        if await play(late, scene, point, pace) is not None:
            return
    raise AssertionError(f"{scene} did not come by {point!r}")


@pytest.fixture
async def late(store_url: str, tmp_path: Path, scene: Scene) -> AsyncIterator[Late]:
    keys = tmp_path / "keys"
    async with LateProvider() as provider:
        with warnings.catch_warnings(action="error"):
            service = ResetService(
                LateTransport(provider.url, deadline=timedelta(seconds=15)),
                open_store(store_url),
                Keyring.load_or_create(keys),
                policy=Policy(
                    lease=timedelta(seconds=40), resend_cooldown=timedelta(0), resends=20, probe_by_login=scene.proves
                ),
                sweep=False,
            )
        async with service, Zygote() as zygote:
            yield Late(provider, zygote, store_url, keys, service)


@pytest.mark.parametrize("scene", SCENES, ids=str)
async def test_a_flow_goes_on_wherever_its_process_is_killed(late: Late, scene: Scene) -> None:
    points = await play(late, scene, None, 10)
    assert points
    assert len(set(points)) == len(points)
    await asyncio.gather(*(play_and_kill(late, scene, point) for point in points))

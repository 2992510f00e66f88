"""A worker is killed in each call of software that nobody here wrote, whose own counters then say what was done."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import pytest_asyncio

from reset_flow import CodeRejected, Flow, Keyring, Policy, ResetService, SQLiteStore, State, Step, open_transport
from reset_flow.testing import Counts, Fault, FaultProxy, Provider
from tests.crash.conftest import Zygote
from tests.transports.allauth.site import MODES, Site, running_site
from tests.transports.cognito.clients import CLIENT_SECRET, WITH_SECRET
from tests.transports.cognito.pool import UserPool, user_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them fork from one process

PASSWORD = "Violet tractor sings at 5!"
DEADLINE, LEASE = timedelta(seconds=15), timedelta(seconds=40)
EARLIER = {"start": [], "resend": ["start"], "verify": ["start"], "set_password": ["start", "verify"]}


@attrs.frozen
class Kill:
    """
    A worker dies in a call of its command.

    Attributes:
        call: With its number. Of two, the reply to the first is lost.

        state, in_doubt: Where the flow stands once that is settled, whether the provider has acted or not.

        point: `before` it is sent, while its reply is `held`, or `after` the reply, before anything of it is saved.
    """

    provider: str
    command: str
    call: str
    state: State
    in_doubt: Step | None
    point: str

    def __str__(self) -> str:
        return f"{self.provider}: {self.command} {self.point} {self.call}"

    @property
    def faults(self) -> list[Fault]:
        lost = [Fault.DROP_AFTER] if self.call.endswith("2") else []
        return [*lost, Fault.HANG_AFTER] if self.point == "held" else lost

    @property
    def done(self) -> Counts:
        """What the provider has done for the command when its worker is dead."""
        arrived = int(self.call[-1]) - (self.point == "before")
        match self.call.split()[0]:
            case "request":
                return Counts(mails=arrived, attempts=0, resets=0)
            case "exchange":
                return Counts(mails=0, attempts=arrived, resets=0)
        resets = min(1, arrived)  # which ends the session of a code in letters: no other one is judged there
        return Counts(mails=0, attempts=resets if self.provider == "letters" else arrived, resets=resets)

    @property
    def road(self) -> list[str]:
        """The commands that a person gives then, until the flow has ended."""
        if self.state is State.TOKEN_ISSUED:
            return ["set_password"]
        road = ["verify", "set_password"]
        if self.command == "start" and self.point == "before":
            return ["resend", *road]
        if self.command == "start" and self.provider == "letters":
            return ["verify", "resend", *road]  # the first code is of no use: its session is lost
        return road


CALLS: list[tuple[str, str, State, Step | None]] = [
    ("start", "request 1", State.QUESTION_ANSWERED, Step.ANSWER),
    ("resend", "request 1", State.QUESTION_ANSWERED, Step.ANSWER),
    ("verify", "exchange 1", State.TOKEN_ISSUED, None),
    ("verify", "exchange 2", State.QUESTION_ANSWERED, Step.CODE),
    ("set_password", "update 1", State.TOKEN_ISSUED, Step.PASSWORD),
    ("set_password", "update 2", State.TOKEN_ISSUED, Step.PASSWORD),
]
KILLS = [
    Kill(provider, *call, point)
    for provider in ("letters", "link", "cognito")
    for call in CALLS
    for point in ("before", "held", "after")
    if (provider, call[0]) != ("cognito", "verify")  # which makes no call
]


@attrs.define
class Person:
    """
    Somebody who resets a password.

    Attributes:
        address, secret: Of the provider, by way of the proxy, for `open_transport`.

        service: For which the leases of all other workers have run out.

        refused: The code that was refused last.
    """

    user: str
    provider: Provider
    proxy: FaultProxy
    address: str
    secret: str
    service: ResetService
    zygote: Zygote
    folder: Path
    refused: str = ""

    async def flow(self) -> Flow:
        (flow,) = await self.service.find(ref=self.user)
        return flow

    async def counts(self) -> Counts:
        return await self.provider.counts(self.user)

    async def job(self, command: str) -> tuple[list[str], dict[str, str]]:
        """Return the arguments of a command."""
        if command == "start":
            return [self.user], {"ref": self.user}
        args = [(await self.flow()).id]
        if command == "verify":
            args.append(await self.provider.newest_code(self.user))
        if command == "set_password":
            args.append(PASSWORD)
        return args, {}

    async def does(self, command: str) -> None:
        args, options = await self.job(command)
        try:
            await getattr(self.service, command)(*args, **options)
        except CodeRejected:
            self.refused = args[1]

    async def dies(self, kill: Kill) -> None:
        """Give the command to a worker that is killed."""
        for fault in kill.faults:
            self.proxy.fault(fault)
        arrivals = self.proxy.arrivals + len(kill.faults)
        args, options = await self.job(kill.command)
        job: dict[str, Any] = {
            "broker": self.address, "app_key": self.secret,
            "store": f"sqlite:///{self.folder}/flows.db", "keys": f"{self.folder}/keys",
            "witness": f"{self.folder}/witness", "deadline": DEADLINE.total_seconds(), "lease": LEASE.total_seconds(),
            "command": kill.command, "args": args, "options": options, "point": f"{kill.point} {kill.call}",
        }  # fmt: skip

        async def reply_is_held() -> None:
            await self.proxy.wait_for_arrivals(arrivals)
            await self.proxy.settled()

        end = await self.zygote.run(job, reply_is_held() if kill.point == "held" else None)
        assert end["status"] == -signal.SIGKILL, end

    async def finish(self) -> list[str]:
        """Go on by what the flow expects and the e-mails say. Return the commands that it took."""
        road: list[str] = []
        while (step := (await self.flow()).expects) is not None:
            if step is Step.PASSWORD:
                road.append("set_password")
            elif (await self.counts()).mails and await self.provider.newest_code(self.user) != self.refused:
                road.append("verify")
            else:
                road.append("resend")
            await self.does(road[-1])
        return road


@pytest.fixture(scope="module")
def site_address() -> Iterator[str]:
    with running_site() as address:
        yield address


@pytest.fixture(scope="module")
def pool() -> Iterator[UserPool]:
    with user_pool() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with Zygote() as zygote:
        yield zygote


@pytest_asyncio.fixture(loop_scope="module")
async def person(request: pytest.FixtureRequest, kill: Kill, zygote: Zygote, tmp_path: Path) -> AsyncIterator[Person]:
    address, secret = f"allauth+{{}}?code={kill.provider}", ""
    if kill.provider == "cognito":
        address, secret = f"cognito+{{}}?client_id={WITH_SECRET}", CLIENT_SECRET
        provider: Provider = request.getfixturevalue("pool")
    else:
        provider = site = Site(request.getfixturevalue("site_address"), MODES[kill.provider])
        await site.change()
    async with FaultProxy(provider.url) as proxy:
        address = address.format(proxy.url)
        service = ResetService(
            open_transport(address, secret, name="broker", deadline=DEADLINE),
            SQLiteStore(tmp_path / "flows.db", clock=lambda: datetime.now(UTC) + 2 * LEASE),
            Keyring.load_or_create(tmp_path / "keys"),
            policy=Policy(lease=LEASE, resend_cooldown=timedelta(0)),
            sweep=False,
        )
        async with service:
            yield Person(await provider.add_user(), provider, proxy, address, secret, service, zygote, tmp_path)


def moved(before: Counts, after: Counts) -> Counts:
    names = attrs.fields_dict(Counts)
    return Counts(**{name: getattr(after, name) - getattr(before, name) for name in names})


@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_a_reset_goes_on_whatever_call_its_worker_is_killed_in(person: Person, kill: Kill) -> None:
    for command in EARLIER[kill.command]:
        await person.does(command)
    began = await person.counts()
    await person.dies(kill)
    killed = await person.counts()
    assert moved(began, killed) == kill.done
    assert (await person.service.sweep()).settled == 1
    flow, settled = await person.flow(), await person.counts()
    assert (flow.state, flow.in_doubt) == (kill.state, kill.in_doubt)
    assert moved(killed, settled) == Counts(mails=0, attempts=kill.call == "exchange 1", resets=0)
    road = await person.finish()
    assert road == kill.road
    flow, ended = await person.flow(), await person.counts()
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert await person.provider.accepts(person.user, PASSWORD)
    assert (ended.mails - settled.mails, ended.resets) == (road.count("resend"), 1)
    assert ended.attempts - settled.attempts <= road.count("verify") + road.count("set_password")

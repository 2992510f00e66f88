"""Workers, stores that fail, a sandbox, a person who counts what they asked for, and the check of what came of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from reset_flow.domain.errors import StoreUnavailable
from reset_flow.domain.flow import Failure, State
from reset_flow.domain.outcomes import Accepted
from reset_flow.domain.policy import Policy
from reset_flow.domain.state_machine import EDGES
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import FlowRepository
from reset_flow.sandbox import Sandbox
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.postgres.store import PostgresStore
from reset_flow.stores.redis.store import RedisStore
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import FrozenClock, LeakScanner
from reset_flow.testing.transport import Held, ScriptedTransport
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from reset_flow.domain.flow import Flow
    from reset_flow.ports import Query, Record, Store, Transport, Use, UseName

LEASE = timedelta(seconds=30)
KINDS: dict[str, Any] = {"postgres": PostgresStore, "redis": RedisStore}
"""Of stores that have a server."""
SCANNER = LeakScanner({each: each for each in ("Peterson", "violet tractor", "004158", "robert.zak")})
STEPS = {(edge.trigger, source, edge.target) for edge in EDGES for source in edge.sources}


class Door:
    """
    A store as one worker reaches it.

    Attributes:
        plan: What becomes of the next saves: `ok`, `before` (fails, nothing written), `after` (written, and the
            acknowledgement lost), either with `and away` (and nothing gets through any more), or a `Held`, which is
            waited for before it is written.

        down: Whether nothing gets through.

        used: For each save that was written, the letters of the budgets that it added to (+) and dropped from (-).
    """

    def __init__(self, store: Store, *, closes: bool) -> None:
        self.store = store
        self.durable = store.durable
        self.plan: deque[str | Held] = deque()
        self.down = False
        self.saves: list[Record] = []
        self.used: list[tuple[str, ...]] = []
        self.tries = 0
        self._closes = closes

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        self.tries += 1
        self._check()
        what = self.plan.popleft() if self.plan else "ok"
        if isinstance(what, Held):
            what.arrived.set()
            await what.released.wait()
            self._check()
        if isinstance(what, str) and what.endswith("and away"):
            self.down = True
        if isinstance(what, str) and what.startswith("before"):
            raise StoreUnavailable("nothing was written")
        await self.store.save(record, add=add, drop=drop)
        self.saves.append(record)
        self.used.append((*(f"-{chr(use.key[-1])}" for use in drop), *(f"+{chr(use.key[-1])}" for use in add)))
        if isinstance(what, str) and what.startswith("after"):
            raise StoreUnavailable("the acknowledgement was lost")

    async def load(self, flow_id: str) -> Record:
        self._check()
        return await self.store.load(flow_id)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        self._check()
        async for record in self.store.scan(query, limit=limit):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        self._check()
        await self.store.changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: Any, limit: int) -> int:
        self._check()
        return await self.store.purge(realm, before, limit)

    async def aclose(self) -> None:
        if self._closes:
            await self.store.aclose()

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the store is away")


@attrs.define(eq=False)
class Worker:
    """One process, as far as a test goes: a service, its door to the store, its transport."""

    service: ResetService
    door: Door
    transport: Any

    async def dies(self) -> None:
        """End at once: nothing is saved any more, nothing is said to anybody."""
        self.door.down = True
        await self.service.aclose(timedelta(0))

    async def tells(self) -> None:
        """Tell the others what codes it saw, and learn what they did: now, and not within seconds."""
        await self.service._alarm.sync()

    async def idle(self) -> None:
        """Wait until it has nothing under way: embedders need no such thing, who can wait for what they look at."""
        await self.service._tasks.wait_idle()


class House:
    """Makes workers over one store, and closes them."""

    lease = LEASE

    def __init__(self, path: Path, kind: str, clock: FrozenClock, url: str) -> None:
        self.clock = clock
        self.keyring = Keyring.load_or_create(path / "keys")
        self.path = path / "flows.db"
        self.kind = kind
        self.url = url
        self._memory = MemoryStore(clock=clock)
        self._workers: list[Worker] = []

    def door(self, clock: Callable[[], Any] | None = None) -> Door:
        """A way of its own into the store that all share."""
        if self.kind == "memory":
            return Door(self._memory, closes=False)
        if self.kind in KINDS:
            return Door(KINDS[self.kind](self.url, clock=clock or self.clock), closes=True)
        return Door(SQLiteStore(self.path, clock=clock or self.clock), closes=True)

    def worker(self, transport: Transport | None = None, **options: Any) -> Worker:
        """A service with a scripted transport, unless it is given another."""
        transport = transport or ScriptedTransport()
        door = self.door()
        given: dict[str, Any] = {"clock": self.clock, "sweep": False, "policy": Policy(lease=LEASE)}
        service = ResetService(transport, door, options.pop("keyring", self.keyring), **(given | options))
        self._workers.append(Worker(service, door, transport))
        return self._workers[-1]

    def repository(self) -> FlowRepository:
        """The flow data of all workers."""
        return FlowRepository(self.worker().door, self.keyring, "default", LEASE)

    def lease_runs_out(self) -> None:
        """Let so much time pass that whoever was busy counts as gone."""
        self.clock.advance(LEASE + timedelta(seconds=1))

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.service.aclose(timedelta(seconds=1))


class Person:
    """Gives commands over whichever service, and counts them. Knows the code that came, the password that is wanted."""

    answer = "Peterson"
    password = "violet tractor 5"

    def __init__(self, sandbox: Sandbox, login: str = "robert.zak") -> None:
        self.sandbox = sandbox
        self.login = login
        self.asked: Counter[tuple[str, str]] = Counter()

    @property
    def code(self) -> str:
        return self.sandbox.newest_code(self.login)

    async def start(self, service: ResetService, **options: Any) -> Flow:
        self.asked["start", ""] += 1
        return await service.start(self.login, **options)

    async def does(self, service: ResetService, flow: Flow, command: str, given: str = "", **options: Any) -> Flow:
        """The command with what is given, or with what is right."""
        right = {"answer": self.answer, "verify": "", "set_password": self.password}
        given = given or right.get(command, "") or (self.code if command == "verify" else "")
        self.asked[command, given] += 1
        done: Flow = await getattr(service, command)(flow.id, *([given] if command in right else []), **options)
        return done

    async def reaches(self, service: ResetService, state: State) -> Flow:
        """A new flow, brought to this state."""
        flow = await self.start(service)
        for command in ("answer", "verify", "set_password"):
            if flow.state is state:
                break
            if flow.expects == {"answer": "answer", "verify": "code", "set_password": "password"}[command]:
                flow = await self.does(service, flow, command)
        assert flow.state is state
        return flow

    def check(self, flow: Flow) -> None:
        """
        Nothing was doubled and nothing guessed, by the sandbox's own log: the number of e-mails, of sendings of each
        code and each password, and of log-ins is covered by commands, the history by the machine's table, and the end
        is legal.
        """
        times = Counter[str]()
        for (command, _), count in self.asked.items():
            times[command] += count
        sandbox = self.sandbox
        mails = [mail for mail in sandbox.mails if mail.user == self.login]
        assert len(sandbox.calls_of("request")) <= times["start"] + times["answer"] + times["resend"]
        assert len(mails) <= times["start"] + times["answer"] + times["resend"]
        for route, key, command in (("exchange", "Code", "verify"), ("update", "Password", "set_password")):
            sent = Counter(json.loads(call.body)[key] for call in sandbox.calls_of(route))
            for given, count in sent.items():
                assert count <= 2 * self.asked[command, given], f"{route} was sent {count} times"
        passwords = [value for (command, value), _ in self.asked.items() if command == "set_password"]
        assert len(sandbox.calls_of("log_in")) <= times["set_password"]
        self.check_history(flow)
        assert sandbox.user(self.login).password_changes <= 1
        if flow.state is State.PASSWORD_SET:
            assert sandbox.password_of(self.login) in passwords
        elif sandbox.user(self.login).password_changes:
            assert "password" in (flow.in_doubt, flow.failure) or flow.failure is Failure.OUTCOME_UNKNOWN

    @staticmethod
    def check_history(flow: Flow) -> None:
        """It is a road through the machine's table that ends where the flow stands."""
        stands, at = State.REQUESTED, flow.created_at
        for step in flow.history:
            assert (step.trigger, step.source, step.target) in STEPS
            assert step.source is stands
            assert step.at >= at
            stands, at = step.target, step.at
        assert flow.state is stands
        assert (flow.failure is None) == (flow.state is not State.FAILED)
        assert (flow.expects is None) == flow.ended
        assert bool(flow.allowed) != flow.ended


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def kind() -> str:
    """Of the store; a test of both parametrizes it."""
    return "memory"


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    """Of the server, where the store has one."""
    return str(request.getfixturevalue(f"{kind}_url")) if kind in KINDS else ""


@pytest.fixture
async def house(tmp_path: Path, kind: str, clock: FrozenClock, url: str) -> AsyncIterator[House]:
    house = House(tmp_path, kind, clock, url)
    yield house
    await house.aclose()


@pytest.fixture
async def sandbox(clock: FrozenClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, now=clock) as sandbox:
        yield sandbox


@pytest.fixture
def etna(sandbox: Sandbox) -> Callable[..., EtnaTransport]:
    """A transport to the sandbox."""

    def made(**options: Any) -> EtnaTransport:
        given: dict[str, Any] = {"deadline": timedelta(seconds=5), "app_key": "sandbox", "base_url": sandbox.api_url}
        return EtnaTransport(**(given | options))

    return made


@pytest.fixture
def person(sandbox: Sandbox) -> Person:
    return Person(sandbox)


@pytest.fixture
def maria(sandbox: Sandbox) -> Person:
    """Whom the broker asks no question."""
    return Person(sandbox, "maria.noquestion")


@pytest.fixture
def at(house: House) -> Callable[..., Any]:
    """A flow of a scripted worker that stands in this state; what its transport was asked for that is forgotten."""
    del house  # it closes the workers

    async def at(worker: Worker, state: State, **options: Any) -> Flow:
        service, transport = worker.service, worker.transport
        flow = await service.start(options.pop("user", "robert.zak"), **options)
        if state is not State.REQUESTED:
            flow = await service.answer(flow.id, "Peterson")
        if state is State.CODE_VERIFIED:
            transport.script(exchange=[Accepted()])
            with suppress(Exception):
                await service.verify(flow.id, "004158")
            flow = await service.get(flow.id)
        if state in (State.TOKEN_ISSUED, State.PASSWORD_SET):
            flow = await service.verify(flow.id, "004158")
        if state is State.PASSWORD_SET:
            flow = await service.set_password(flow.id, "violet tractor 5")
        if state is State.FAILED:
            flow = await service.cancel(flow.id)
        await worker.idle()
        transport.calls.clear()
        worker.door.saves.clear()
        worker.door.used.clear()
        worker.door.tries = 0
        assert flow.state is state
        return await service.get(flow.id)

    return at


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits until something is so, not longer than five seconds."""

    async def until(so: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not so():  # noqa: ASYNC110 - of what is waited for, nobody tells
                await asyncio.sleep(0.001)

    return until


@pytest.fixture(autouse=True)
def _workers_tell_what_codes_they_saw_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reset_flow.engine.guess_alarm.INTERVAL", timedelta(hours=1))


@pytest.fixture(autouse=True)
async def _nothing_is_left_to_the_loop() -> AsyncIterator[None]:
    """Errors that nobody fetched are logged by the loop: there must be none."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    yield
    assert left == []


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("DEBUG")
    yield
    assert SCANNER.find(caplog.text) == []

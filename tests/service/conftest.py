"""Workers, stores that fail, a sandbox, a person who counts what they asked for, and the check of what came of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack, overload

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
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from reset_flow.domain.flow import Credential, Flow
    from reset_flow.engine.guess_alarm import GuessMonitor
    from reset_flow.ports import Clock, Guard, Listener, Query, Record, Store, Tracer, Transport, Use, UseName
    from reset_flow.transports.etna import Revision

LEASE = timedelta(seconds=30)
KINDS: dict[str, type[PostgresStore | RedisStore]] = {"postgres": PostgresStore, "redis": RedisStore}
"""The stores that have a server."""
SCANNER = LeakScanner({each: each for each in ("Peterson", "violet tractor", "004158", "robert.zak")})
STEPS = {(edge.trigger, source, edge.target) for edge in EDGES for source in edge.sources}


class ServiceOptions(TypedDict, total=False):
    """The keyword arguments of `ResetService`."""

    policy: Policy
    realm: str
    listeners: Mapping[str, Listener | None]
    guards: Sequence[Guard]
    clock: Clock
    sweep: bool
    worker: str
    tracer: Tracer


class StartOptions(TypedDict, total=False):
    """The keyword arguments of `ResetService.start`."""

    credential: Credential
    ref: str
    tags: Sequence[str]
    origin: str


class EtnaOptions(TypedDict, total=False):
    """The arguments of `EtnaTransport` that tests change."""

    base_url: str
    app_key: str
    deadline: timedelta
    name: str
    aliases: Sequence[str]
    revision: Revision


class MakeEtna(Protocol):
    """Make a transport to the sandbox."""

    def __call__(self, **options: Unpack[EtnaOptions]) -> EtnaTransport: ...


class At(Protocol):
    """Bring a new flow of a worker to a state, and forget the calls and saves which that took."""

    async def __call__(
        self, worker: ScriptedWorker, state: State, *, user: str = "robert.zak", **options: Unpack[StartOptions]
    ) -> Flow: ...


class Until(Protocol):
    """Wait until the condition holds."""

    async def __call__(self, condition: Callable[[], object]) -> None: ...


class FaultyStore:
    """
    A store as one worker reaches it.

    Attributes:
        plan: What becomes of the next saves: `ok`, `before` (fails, nothing written), `late` (fails, and is written by
            `arrive`), `after` (written, and the acknowledgement lost), `before` and `after` with `and away` too (and
            nothing gets through any more), or a `Held`, which is waited for before it is written.

        down: Whether nothing gets through.

        turned_away: How many calls did not get through.

        awaited: The versions of which somebody waited for a newer one.

        used: For each save that was written, the letters of the budgets that it added to (+) and dropped from (-).
    """

    def __init__(self, store: Store, *, closes: bool) -> None:
        self._store = store
        self.durable = store.durable
        self.plan: deque[str | Held] = deque()
        self.down = False
        self.turned_away = 0
        self.awaited: list[int] = []
        self.saves: list[Record] = []
        self.used: list[tuple[str, ...]] = []
        self.tries = 0
        self._late: list[tuple[Record, Sequence[Use], Sequence[UseName]]] = []
        self._closes = closes

    async def arrive(self) -> None:
        """Write what was late."""
        for record, add, drop in self._late:
            await self._store.save(record, add=add, drop=drop)

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        if record.realm.endswith("\x1fkeys"):  # of the ids of keys, which the first save of a worker brings with it
            self._check()
            await self._store.save(record)
            return
        self.tries += 1
        self._check()
        planned = self.plan.popleft() if self.plan else "ok"
        if isinstance(planned, Held):
            planned.arrived.set()
            await planned.released.wait()
            self._check()
        if isinstance(planned, str) and planned.endswith("and away"):
            self.down = True
        if isinstance(planned, str) and planned.startswith("before"):
            raise StoreUnavailable("nothing was written")
        if planned == "late":
            self._late.append((record, add, drop))
            raise StoreUnavailable("nothing is known of it")
        await self._store.save(record, add=add, drop=drop)
        self.saves.append(record)
        self.used.append((*(f"-{chr(use.key[-1])}" for use in drop), *(f"+{chr(use.key[-1])}" for use in add)))
        if isinstance(planned, str) and planned.startswith("after"):
            raise StoreUnavailable("the acknowledgement was lost")

    async def load(self, flow_id: str) -> Record:
        self._check()
        return await self._store.load(flow_id)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        self._check()
        async for record in self._store.scan(query, limit=limit):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        self._check()
        self.awaited.append(version)
        await self._store.changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        self._check()
        return await self._store.purge(realm, before, limit)

    async def aclose(self) -> None:
        if self._closes:
            await self._store.aclose()

    def _check(self) -> None:
        if self.down:
            self.turned_away += 1
            raise StoreUnavailable("the store is away")


@attrs.define(eq=False)
class Worker:
    """One process, as far as a test goes: a service and its way to the store."""

    service: ResetService
    store: FaultyStore

    @property
    def monitor(self) -> GuessMonitor:
        """Return what counts its codes: the worker alone has it, and shares its counts by a timer."""
        return self.service._alarm

    async def dies(self) -> None:
        """End at once: save nothing more, and tell nobody anything."""
        self.store.down = True
        await self.service.aclose(timedelta(0))

    async def tells(self) -> None:
        """Exchange guess counts with the other workers now, instead of within seconds."""
        await self.monitor.sync()

    async def idle(self) -> None:
        """Wait until it has nothing under way."""
        # Embedders have no need of it: only a test asserts that nothing more will happen.
        await self.service._tasks.wait_idle()


@attrs.define(eq=False)
class ScriptedWorker(Worker):
    """A worker whose broker does as it is told."""

    transport: ScriptedTransport


class House:
    """Workers over one store, which it makes and closes."""

    lease = LEASE

    def __init__(self, path: Path, kind: str, clock: FrozenClock, url: str) -> None:
        self.clock = clock
        self.keyring = Keyring.load_or_create(path / "keys")
        self.path = path / "flows.db"
        self.kind = kind
        self.url = url
        self._memory = MemoryStore(clock=clock)
        self._workers: list[Worker] = []

    def store(self, clock: Clock | None = None) -> FaultyStore:
        """Return a way of its own into the store that all workers share."""
        if self.kind == "memory":
            return FaultyStore(self._memory, closes=False)
        if self.kind in KINDS:
            return FaultyStore(KINDS[self.kind](self.url, clock=clock or self.clock), closes=True)
        return FaultyStore(SQLiteStore(self.path, clock=clock or self.clock), closes=True)

    @overload
    def worker(
        self,
        transport: ScriptedTransport | None = None,
        *,
        keyring: Keyring | None = None,
        **options: Unpack[ServiceOptions],
    ) -> ScriptedWorker: ...

    @overload
    def worker(
        self, transport: Transport, *, keyring: Keyring | None = None, **options: Unpack[ServiceOptions]
    ) -> Worker: ...

    def worker(
        self, transport: Transport | None = None, *, keyring: Keyring | None = None, **options: Unpack[ServiceOptions]
    ) -> Worker:
        """Make a worker, with a scripted transport unless it is given another."""
        transport = transport or ScriptedTransport()
        store = self.store()
        settings: ServiceOptions = {"clock": self.clock, "sweep": False, "policy": Policy(lease=LEASE)}
        settings.update(options)
        service = ResetService(transport, store, keyring or self.keyring, **settings)
        if isinstance(transport, ScriptedTransport):
            worker: Worker = ScriptedWorker(service, store, transport)
        else:
            worker = Worker(service, store)
        self._workers.append(worker)
        return worker

    def repository(self) -> FlowRepository:
        """Return the repository that all workers share."""
        return FlowRepository(self.worker().store, self.keyring, "default", LEASE)

    def lease_runs_out(self) -> None:
        """Let so much time pass that the leases of all calls under way run out."""
        self.clock.advance(LEASE + timedelta(seconds=1))

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.service.aclose(timedelta(seconds=1))


class Person:
    """A person who gives commands through any service, and counts them; knows the right answer, code and password."""

    answer = "Peterson"
    password = "violet tractor 5"

    def __init__(self, sandbox: Sandbox, login: str = "robert.zak") -> None:
        self.sandbox = sandbox
        self.login = login
        self.asked: Counter[tuple[str, str]] = Counter()

    @property
    def code(self) -> str:
        return self.sandbox.newest_code(self.login)

    async def start(self, service: ResetService, **options: Unpack[StartOptions]) -> Flow:
        self.asked["start", ""] += 1
        return await service.start(self.login, **options)

    async def does(self, service: ResetService, flow: Flow, command: str, given: str = "") -> Flow:
        """Give the command, with this input or with the right one."""
        right = {"answer": self.answer, "verify": "", "set_password": self.password}
        given = given or right.get(command, "") or (self.code if command == "verify" else "")
        self.asked[command, given] += 1
        done: Flow = await getattr(service, command)(flow.id, *([given] if command in right else []))
        return done

    async def reaches(self, service: ResetService, state: State) -> Flow:
        """Start a new flow, and bring it to this state."""
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
        code and each password, and of log-ins is covered by commands, the history by the transition table, and the end
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
        """Check that it follows the transition table, and ends where the flow stands."""
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
    """Return the kind of store; tests of several parametrize it."""
    return "memory"


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    """Return the URL of the server, if the store has one."""
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
def etna(sandbox: Sandbox) -> MakeEtna:
    def etna(**options: Unpack[EtnaOptions]) -> EtnaTransport:
        settings: EtnaOptions = {"deadline": timedelta(seconds=20), "app_key": "sandbox", "base_url": sandbox.api_url}
        settings.update(options)
        return EtnaTransport(**settings)

    return etna


@pytest.fixture
def person(sandbox: Sandbox) -> Person:
    return Person(sandbox)


@pytest.fixture
def maria(sandbox: Sandbox) -> Person:
    """Return a person whom the broker asks no question."""
    return Person(sandbox, "maria.noquestion")


@pytest.fixture
def at(house: House) -> At:
    del house  # it closes the workers

    async def at(
        worker: ScriptedWorker, state: State, *, user: str = "robert.zak", **options: Unpack[StartOptions]
    ) -> Flow:
        service, transport = worker.service, worker.transport
        flow = await service.start(user, **options)
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
        worker.store.saves.clear()
        worker.store.used.clear()
        worker.store.tries = 0
        assert flow.state is state
        return await service.get(flow.id)

    return at


@pytest.fixture
def until() -> Until:
    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)

    return until


@pytest.fixture(autouse=True)
def _workers_tell_what_codes_they_saw_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reset_flow.engine.guess_alarm.INTERVAL", timedelta(hours=1))


@pytest.fixture(autouse=True)
async def _nothing_is_left_to_the_loop() -> AsyncIterator[None]:
    """Fail if the loop logs an error that nobody fetched."""
    left: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    yield
    assert left == []


@pytest.fixture(autouse=True)
def _no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("DEBUG")
    yield
    assert SCANNER.find(caplog.text) == []

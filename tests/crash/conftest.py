"""A person who goes on after a crash, and what must be true of all that the broker saw."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import attrs
import pytest

from reset_flow import (
    AnswerRejected,
    CodeRejected,
    Credential,
    EtnaTransport,
    Failure,
    Flow,
    FlowBusy,
    FlowNotFound,
    Keyring,
    PasswordRejected,
    Policy,
    ResetFlowError,
    ResetService,
    StaleRecord,
    State,
    Step,
    StoreUnavailable,
    open_store,
)
from reset_flow.domain.state_machine import EDGES
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner, Witness, dump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

DEADLINE, LEASE = 15.0, 40.0
"""Seconds: so long that no call is taken for lost because the machine stalls."""
PATIENCE = 120.0
NUMBERS = count()
DOOMED = Path(__file__).with_name("doomed.py")
ANSWER = 'Königsallee "7 ½" \\ Häuser'
APP_KEY = 'app+key/with=="all"'
PASSWORD = "violet träctor & {}"
PIN = "47110815{}"
PHRASE = "phräse + \\ of mine"
TESTS = Path(__file__).parents[1]
GIVEN = ("Code", "Token", "Password", "Pin", "PersonalPhrase")
TRANSITIONS = {(edge.trigger, source): edge.target for edge in EDGES for source in edge.sources}
REFUSALS = {
    "answer": AnswerRejected,
    "resend": AnswerRejected,
    "verify": CodeRejected,
    "set_password": PasswordRejected,
    "set_pin": PasswordRejected,
}


@attrs.define
class Person:
    """Somebody with a forgotten password, who goes on until it works, and writes down what was done and told."""

    crash: Crash
    user: str
    question: bool
    credential: Credential = Credential.PASSWORD
    steady: bool = True
    """Whether the same password is typed again when it is asked for again."""
    passwords: int = 0
    flow_id: str = ""
    witnesses: list[Path] = attrs.field(factory=list)
    """What the processes have shown that died with a command of this person's."""
    asked: Counter[str] = attrs.field(factory=Counter)
    """How often each command was given; with a code or password, by that too."""
    told: list[tuple[str, type[ResetFlowError] | None]] = attrs.field(factory=list)

    @property
    def service(self) -> ResetService:
        return self.crash.service

    @property
    def last(self) -> str:
        """Return the command that ends the flow well."""
        return f"set_{self.credential}"

    @property
    def wanted(self) -> str:
        """Return the password or PIN that was typed last."""
        return {Credential.PASSWORD: PASSWORD, Credential.PIN: PIN}[self.credential].format(self.passwords)

    def job(self, command: str) -> tuple[list[str], dict[str, Any]]:
        """Count the command, and return its arguments."""
        self.asked[command] += 1
        match command:
            case "start":
                return [self.user], {"ref": self.user, "credential": self.credential}
            case "answer":
                return [self.flow_id, ANSWER], {}
            case "verify":
                code = self.crash.sandbox.newest_code(self.user)
                self.asked[f"verify {code}"] += 1
                return [self.flow_id, code], {}
            case "set_password" | "set_pin":
                if not (self.steady and self.passwords):
                    self.passwords += 1
                self.asked[f"{command} {self.wanted}"] += 1
                return [self.flow_id, self.wanted], self.crash.beside(self)
            case "adopt":
                return [self.user, self.crash.token_of(self.user)], {"ref": self.user}
            case _:
                return [self.flow_id], {}

    async def do(self, command: str) -> Flow | None:
        """Give a command to the living service; a refusal is noted and gives the flow as it then stands."""
        args, options = self.job(command)
        before = self.crash.sandbox.state_of(self.user)
        try:
            flow: Flow | None = await getattr(self.service, command)(*args, **options)
        except (FlowBusy, StaleRecord, StoreUnavailable) as error:
            # None of these may have sent anything.
            if (command, type(error)) not in self.told:  # which there may be ten a second of
                self.crash.witness.see_error(error)
            self.told.append((command, type(error)))
            self.asked[command] -= 1
            if command in ("verify", self.last):
                self.asked[f"{command} {args[1]}"] -= 1
            return None
        except ResetFlowError as error:
            self.told.append((command, type(error)))
            self.crash.witness.see_error(error)
            flow = error.flow
            if type(error) is REFUSALS.get(command):
                assert self.crash.sandbox.state_of(self.user) == before, f"{command}: told no, and yet it was done"
        else:
            self.told.append((command, None))
            if flow and flow.state is State.PASSWORD_SET:
                assert self.crash.kept(self) == self.wanted
        return flow

    async def reach(self, state: State) -> None:
        """Bring the flow to a state, without a crash; on a machine that stalls, a call may have to be given again."""
        flow = await self._go_on(lambda flow: flow.state is state and (flow.in_doubt, flow.busy_until) == (None, None))
        assert not flow.ended or flow.state is state, f"ended on the way to {state}: {flow!r}"

    async def finish(self) -> Flow:
        """Go on as somebody would whose page was lost, until the password works."""
        return await self._go_on(lambda flow: flow.ended)

    async def _go_on(self, arrived: Callable[[Flow], bool]) -> Flow:
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            try:
                flow = await self.look()
            except StoreUnavailable:
                await asyncio.sleep(0.1)
                continue
            if flow and (flow.ended or arrived(flow)):
                return flow
            done = await self.do(self._next(flow))
            if done:
                self.flow_id = done.id
            else:
                await asyncio.sleep(0.1)  # busy: somebody else, perhaps dead, is at it
        pytest.fail(f"stuck: {await self.look()!r}, told {Counter(self.told[-50:])}")

    def _next(self, flow: Flow | None) -> str:
        """Return the command that a person gives who sees this flow."""
        if flow is None or (flow.in_doubt and not self.flow_id):
            return "start"
        if flow.expects is Step.ANSWER:
            return "answer" if flow.question else "start"
        if flow.expects is Step.CODE:
            lost = flow.state is State.CODE_VERIFIED or flow.in_doubt is not None
            return "resend" if lost or self.told[-1:] == [("verify", CodeRejected)] else "verify"
        return self.last

    async def look(self) -> Flow | None:
        if not self.flow_id:
            return None
        try:
            return await self.service.get(self.flow_id)
        except FlowNotFound:
            return None


@attrs.define(slots=False)
class Crash:
    """A broker, a store, and a service in this process that goes on where another one died."""

    sandbox: Sandbox
    store: str
    keys: Path
    service: ResetService
    zygote: Zygote
    witness: Witness
    people: list[Person] = attrs.field(factory=list)
    tokens: dict[str, str] = attrs.field(factory=dict)
    at_once: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(4))

    def person(self, *, question: bool = True) -> Person:
        user = f"Pérson+{len(self.people):03}/ü"
        self.sandbox.add_user(user, question="Where?" if question else None, answer=ANSWER if question else None)
        self.people.append(person := Person(self, user, question))
        return person

    def token_of(self, user: str) -> str:
        return self.tokens[user]

    async def check_nothing_shows(self, person: Person) -> None:
        """Search the store, and what the person's processes showed that died, for the person's secrets and the keys."""
        scanner = self._scanner(person)
        assert scanner.find(await dump(self.store)) == [], "readable in the store"
        for path in person.witnesses:
            shown = path.read_bytes()
            assert b"reset_flow" in shown, "nothing was heard of that process"
            assert scanner.find(shown) == [], "shown by the process that died"

    def check_the_living_shows_nothing(self) -> None:
        """Search what this process showed, of its own commands and of what it settled for others, for all secrets."""
        shown = bytes(self.witness.heard)
        assert b"reset_flow" in shown, "nothing was heard of this process"
        assert self._scanner(*self.people).find(shown) == [], "shown by the process that lives"

    def _scanner(self, *people: Person) -> LeakScanner:
        scanner = self._scanner_of_all.without()
        for each in {person.user for person in people} | {text for person in people for text in self.given(person)}:
            scanner.add(f"text {len(scanner.names)}", each)
        return scanner

    @cached_property
    def _scanner_of_all(self) -> LeakScanner:
        ring = Keyring.from_file(self.keys)
        keys = {f"key {key.id}": key.secret for key in (*ring.keys, *ring.lookup_keys)}
        return LeakScanner({"answer": ANSWER, "app key": APP_KEY, **keys})

    def given(self, person: Person) -> set[str]:
        """Return the codes, tokens and passwords of the person."""
        mine = [call for call in self.sandbox.calls if call.user == person.user and call.body]
        bodies = [json.loads(call.body) for call in mine]
        tokens = {call.reply["Model"] for call in mine if call.route == "exchange" and call.reply}
        return {
            text
            for text in (*(body.get(key) for body in bodies for key in GIVEN), *tokens, self.tokens.get(person.user))
            if isinstance(text, str)
        }

    def kept(self, person: Person) -> str:
        """Return the password or PIN that works."""
        user = self.sandbox.user(person.user)
        return user.pin if person.credential is Credential.PIN else user.password

    def beside(self, person: Person) -> dict[str, Any]:
        """Return what goes with a new password or PIN."""
        if person.credential is Credential.PASSWORD:
            return {}
        return {"image_name": "cactus", "personal_phrase": PHRASE, "authorization": self.tokens[person.user]}

    async def expire_password(self, person: Person) -> None:
        """Let the person's log-in give a token instead of a session."""
        self.sandbox.user(person.user).password_expired = True
        await self.log_in(person)

    async def log_in(self, person: Person) -> None:
        """Get the person a token, of whatever kind."""
        headers = {"Et-App-Key": APP_KEY, "Username": person.user, "Password": "old-Passw0rd"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.sandbox.api_url}/token", headers=headers) as reply,
        ):
            self.tokens[person.user] = (await reply.json())["Token"]

    async def doom(
        self, person: Person, command: str, point: str | None, *, deadline: float = DEADLINE, lease: float = LEASE
    ) -> dict[str, Any]:
        """Carry out a command in a process of its own that dies at this point; without one, what came of it."""
        end = await self.try_to_doom(person, command, point, deadline=deadline, lease=lease)
        assert end["status"] == (-signal.SIGKILL if point else 0), f"{command} did not come by {point!r}: {end}"
        return end

    async def try_to_doom(
        self, person: Person, command: str, point: str | None, *, deadline: float, lease: float
    ) -> dict[str, Any]:
        """Do as `doom` does, but the process may not come by the point."""
        args, options = person.job(command)
        job = self._job(person, command, point, args=args, options=options, deadline=deadline, lease=lease)
        async with self.at_once:
            return await self.zygote.run(job)

    def serve(self, person: Person, point: str | None, *, deadline: float, lease: float) -> Running:
        """Serve the page in a process of its own that dies at this point of what this person asks it for."""
        return self.zygote.start(self._job(person, "serve", point, deadline=deadline, lease=lease))

    def _job(self, person: Person, command: str, point: str | None, **given: Any) -> dict[str, Any]:
        witness = self.keys.with_name(f"witness-{next(NUMBERS)}")
        person.witnesses.append(witness)
        return {
            "broker": self.sandbox.api_url, "store": self.store, "keys": str(self.keys), "command": command,
            "point": point, "app_key": APP_KEY, "witness": str(witness), **given,
        }  # fmt: skip

    def check(self, person: Person, flow: Flow, failures: tuple[Failure, ...] = ()) -> None:
        """Hold what the broker saw, and what the person was told, to the promises; these ends are allowed besides."""
        self._check_calls(person)
        if flow.state is State.PASSWORD_SET:
            assert self.kept(person) == person.wanted
        else:
            assert flow.failure in failures, (flow, person.told)
        at = State.REQUESTED
        for transition in flow.history:
            assert transition.source is at
            at = TRANSITIONS[transition.trigger, at]
            assert transition.target is at
        assert at is flow.state

    def _check_calls(self, person: Person) -> None:
        sent: Counter[str] = Counter()
        for call in self.sandbox.calls:
            if call.user != person.user:
                continue
            body = json.loads(call.body) if call.body else {}
            match call.route:
                case "request":
                    sent["request"] += 1
                case "exchange":
                    sent[f"verify {body['Code']}"] += 1
                case "update":
                    sent[f"set_password {body['Password']}"] += 1
                case "change_pin":
                    sent[f"set_pin {body['Pin']}"] += 1
                case "log_in":
                    sent["log_in"] += 1
        asked = person.asked
        requests = asked["answer"] + asked["resend"] + (0 if person.question else asked["start"])
        assert sent.pop("request", 0) <= requests, (sent, asked)
        assert sent.pop("log_in", 0) <= asked["set_password"] + (person.credential is Credential.PIN), (sent, asked)
        for what, times in sent.items():
            assert times <= 2 * asked[what], f"{what} was sent {times} times for {asked[what]} commands"


@attrs.frozen
class Running:
    """A process that carries out a job; `address`: of the page that it serves, if that is its job."""

    pid: asyncio.Future[int]
    address: asyncio.Future[str]
    end: asyncio.Future[dict[str, Any]]


@cache
def _doomed() -> str:
    """Start the process that those of all tests here are forked from, and return the path of its socket."""
    folder = tempfile.mkdtemp(prefix="reset-flow-doomed-")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path := f"{folder}/socket")
        listening.listen()
        process = subprocess.Popen([sys.executable, str(DOOMED)], stdin=listening.fileno())
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.wait)
    atexit.register(process.kill)
    return path


class Zygote:
    """A process from which the doomed ones of a test are forked."""

    def __init__(self) -> None:
        self._running: list[Running] = []

    def start(self, job: dict[str, Any]) -> Running:
        """Start the job in a process of its own."""
        loop = asyncio.get_running_loop()
        running = Running(loop.create_future(), loop.create_future(), loop.create_future())
        self._writer.write(json.dumps({"number": len(self._running), **job}).encode() + b"\n")
        self._running.append(running)
        return running

    async def run(self, job: dict[str, Any], kill_after: Coroutine[Any, Any, object] | None = None) -> dict[str, Any]:
        """Run the job in a process of its own, kill it after something has happened, and return how it ended."""
        running = self.start(job)
        if kill_after:
            happening = asyncio.create_task(kill_after)
            either: list[asyncio.Future[Any]] = [happening, running.end]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not happening.cancel():
                happening.result()
                os.kill(await running.pid, signal.SIGKILL)
        return await running.end

    async def __aenter__(self) -> Self:
        reader, self._writer = await asyncio.open_unix_connection(_doomed())
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.write_eof()
        await self._reading
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            news = json.loads(line)
            running = self._running[news["number"]]
            if "pid" in news:
                running.pid.set_result(news["pid"])
            elif "address" in news:
                running.address.set_result(news["address"])
            else:
                running.end.set_result(news)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flows.db"
    url: str = request.getfixturevalue({"postgres": "postgres_url", "redis": "redis_url"}[request.param])
    return url


@contextmanager
def heard_by(witness: Witness) -> Iterator[None]:
    """Have all that is logged in this process written down."""
    root = logging.getLogger()
    level = root.level
    root.addHandler(witness)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(witness)


@pytest.fixture
def times() -> tuple[float, float]:
    """Seconds: the deadline and the lease of the service that lives."""
    return DEADLINE, LEASE


@pytest.fixture
async def crash(store_url: str, tmp_path: Path, times: tuple[float, float]) -> AsyncIterator[Crash]:
    keys = tmp_path / "keys"
    witness = Witness(callers=[TESTS])
    async with Sandbox(port=0, app_key=APP_KEY) as sandbox:
        with warnings.catch_warnings(action="error"):
            service = ResetService(
                EtnaTransport(sandbox.api_url, APP_KEY, name="broker", deadline=timedelta(seconds=times[0])),
                open_store(store_url),
                Keyring.load_or_create(keys),
                # Without an alarm, whose record it would share with the dying, who would then look at it again or not.
                policy=Policy(
                    lease=timedelta(seconds=times[1]), resend_cooldown=timedelta(0), resends=20, guess_alarm=None
                ),
                sweep=False,
                listeners={"witness": witness.listen},
                tracer=witness.tracer(),
            )
        async with service, Zygote() as zygote:
            with heard_by(witness):
                yield Crash(sandbox, store_url, keys, service, zygote, witness)

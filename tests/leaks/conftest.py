"""A person whose secrets look different in every spelling, a service, and a watch over all that is written down."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reset_flow import EtnaTransport, Keyring, Policy, ResetFlowError, ResetService, State, open_store
from reset_flow.observability.opentelemetry import OpenTelemetryTracer
from reset_flow.persistence.keyring import flow_key
from reset_flow.persistence.repository import FlowRepository
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner, dump, shown_by, shown_by_error, traceback_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

    from reset_flow import Event, Flow, Guard, Store

TESTS = Path(__file__).parents[1]
"""The frames of callers, who have their own secrets in them."""

CANARIES = {
    "login": "Robért+Zak/ü@exämple.com",
    "question": 'Wie hieß die "Straße" & das Haus?',
    "answer": 'Königsallee "7 ½" \\ Häuser & Höfe',
    "password": 'violet träctor "sings" & 5\\ mal',
    "weak password": "träctör",
    "pin": "7391846250",
    "phrase": "Kaktus <blüht> im Träum",
    "app key": 'app+key/with=="all" it\\takes',
    "tag": "tag+of/nobody: Zoë",
    "ref": "ref+of/nobody: Zoë",
    "key": "key+of/nobody: Zoë",
    "origin": "origin+of/nobody: Zoë",
    "wrong answer": "Höhle & Wöhnung",
    "odd code": "no cöde at all",
}


class Raised(Protocol):
    """Return the error, of whatever kind, that comes of a call."""

    async def __call__(self, call: Awaitable[object]) -> BaseException: ...


class Files(Protocol):
    """Return what the server of the store has on its disk: tables, and what was logged since the test began."""

    async def __call__(self) -> bytes: ...


class Lines(logging.Handler):
    """Every record of every logger, as text: with all that came as `extra`, and what a crash reporter makes of it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.text: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name)
        self.text += [self.format(record), repr({**vars(record), "created": 0, "msecs": 0, "relativeCreated": 0})]
        # In debug mode, the frame in which asyncio's own write failed has the request: docs/observability.md says so.
        in_a_write = record.name == "asyncio" and "Fatal write error" in record.getMessage()
        if record.exc_info and record.exc_info[1] and not in_a_write:
            self.text.append(traceback_of(record.exc_info[1], callers=[TESTS]))


class Watch:
    """
    Looks for the canaries wherever something is written down.

    Attributes:
        tracer: For the service that is watched.
    """

    def __init__(self, lines: Lines, url: str = "") -> None:
        self.scanner = LeakScanner(CANARIES)
        self.lines = lines
        self.url = url
        self.seen: dict[str, list[bytes]] = {"values": [], "errors": [], "events": [], "public": []}
        self.events: list[Event] = []
        self._read: Counter[str] = Counter()
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = OpenTelemetryTracer(self.provider, MeterProvider([self._metrics], shutdown_on_exit=False))

    def see(self, *values: object) -> None:
        """Search these values."""
        self.seen["values"].append(shown_by(*values))

    def see_error(self, error: BaseException) -> None:
        """Search this error, as it is printed with all variables but those of tests."""
        self.seen["errors"].append(shown_by_error(error, callers=[TESTS]))

    async def listen(self, event: Event) -> None:
        """Search an event, as a listener."""
        self.events.append(event)
        self.seen["events"].append(shown_by(event, event.flow, event.transition, attrs.fields_dict(type(event))))
        self.seen["public"].append(json.dumps(event.flow.public()).encode())

    async def places(self, *, again: bool = False) -> dict[str, bytes]:
        """Return all that has been written down, by the kind of place; of logs only what is new, unless `again`."""
        metrics = self._metrics.get_metrics_data()
        written = {
            **self.seen,
            "log": [text.encode("utf-8", "surrogatepass") for text in self.lines.text],
            "spans": [span.to_json().encode() for span in self._spans.get_finished_spans()],
            "metrics": [metrics.to_json().encode()] if metrics else [],
        }
        new = {place: b"\n".join(parts[0 if again else self._read[place] :]) for place, parts in written.items()}
        self._read.update({place: len(parts) for place, parts in written.items() if place != "metrics"})
        return {"store": await dump(self.url) if self.url else b"", **new}

    async def leaks(self, *, again: bool = False) -> list[tuple[str, str, str]]:
        """Return where each canary was found, which one it is, and in which spelling."""
        asked = self.scanner.without("question")  # which is there for the person to be asked
        return [
            (place, leak.name, f"{leak.spelling}, behind {leak.before!r}")
            for place, text in (await self.places(again=again)).items()
            for leak in (asked if place == "public" else self.scanner).find(text)
        ]

    async def check(self, *, again: bool = False) -> None:
        """Fail if a canary is found in what is new; with `again`, in anything."""
        assert await self.leaks(again=again) == []


@attrs.define
class Scene:
    """One service and one broker, and the watch over them."""

    watch: Watch
    sandbox: Sandbox
    service: ResetService
    store: Store
    transport: EtnaTransport
    keyring: Keyring
    path: Path
    codes: int = 0

    @property
    def repository(self) -> FlowRepository:
        """Return the repository of the flows."""
        return FlowRepository(self.store, self.keyring, "default", timedelta(seconds=30))

    async def does(self, command: str, *args: str, **options: object) -> Flow:
        """Give a command, and search its result and all that has been written down."""
        try:
            flow: Flow = await getattr(self.service, command)(*args, **options)
        except ResetFlowError as error:
            await self.looked_at(error)
            raise
        self.watch.see(flow)
        self._know(flow.id)
        await self.watch.check()
        return flow

    async def looked_at(self, error: BaseException) -> None:
        """Search the error, and all that has been written down."""
        self.watch.see_error(error)
        self._know("")
        await self.watch.check()

    @asynccontextmanager
    async def another(
        self,
        *,
        name: str = "the broker",
        transport: EtnaTransport | None = None,
        policy: Policy | None = None,
        guards: Sequence[Guard] = (),
    ) -> AsyncIterator[ResetService]:
        """Open a second service on the same store."""
        transport = transport or EtnaTransport(
            self.sandbox.api_url, CANARIES["app key"], deadline=timedelta(seconds=20), name=name
        )
        store = open_store(self.watch.url)
        async with ResetService(
            transport, store, self.keyring, policy=policy, guards=guards, tracer=self.watch.tracer, sweep=False
        ) as service:
            yield service

    def secret(self, name: str) -> str:
        """Return one of the canaries."""
        return CANARIES[name]

    async def at(self, state: State) -> Flow:
        """Start a flow of the person, and bring it to this state."""
        flow: Flow = await self.service.start(CANARIES["login"])
        if state in (State.QUESTION_ANSWERED, State.TOKEN_ISSUED):
            flow = await self.service.answer(flow.id, CANARIES["answer"])
        if state is State.TOKEN_ISSUED:
            flow = await self.service.verify(flow.id, self.code())
        self._know(flow.id)
        assert flow.state is state
        return flow

    def code(self) -> str:
        """Return the newest code that was sent."""
        return self.sandbox.newest_code(CANARIES["login"])

    def _know(self, flow_id: str) -> None:
        """Search for what has come up by now, too: codes, tokens, and the keys of flows."""
        known = self.watch.scanner.names
        found: dict[str, str | bytes] = {f"code {mail.code}": mail.code for mail in self.sandbox.mails}
        for call in self.sandbox.calls:
            body = json.loads(call.body) if call.body.startswith(b"{") else {}
            reply = call.reply if isinstance(call.reply, dict) else {}
            given = (body.get("Token"), body.get("Code"), reply.get("Token"))
            granted = reply.get("Model") if call.route == "exchange" else None
            found |= {f"sent {text}": text for text in (*given, granted) if isinstance(text, str) and len(text) > 5}
        keys = [*self.keyring.keys, *self.keyring.lookup_keys]
        found |= {f"key {key.id}": key.secret for key in keys}
        if flow_id:
            found |= {f"key {key.id} of {flow_id}": flow_key(key, "default", flow_id) for key in self.keyring.keys}
        for name, canary in found.items():
            if name not in known:
                self.watch.scanner.add(name, canary)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Return the handler that hears all that is logged from now on, at any level."""
    lines, root = Lines(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp", "asyncpg", "redis", "transitions")}
    level = root.level
    root.addHandler(lines)
    root.setLevel(1)
    for name in levels:
        logging.getLogger(name).setLevel(1)
    yield lines
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    root.setLevel(level)
    root.removeHandler(lines)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store that is on disk."""
    if request.param == "sqlite":
        path = tmp_path / "flows.db"
        path.touch()
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def watch(lines: Lines, store_url: str) -> Watch:
    return Watch(lines, store_url)


@pytest.fixture
def policy() -> Policy:
    return Policy(resend_cooldown=timedelta(0))


@pytest.fixture
async def scene(watch: Watch, tmp_path: Path, policy: Policy) -> AsyncIterator[Scene]:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # every callback is logged, with what `repr` shows of it
    async with Sandbox(port=0, app_key=CANARIES["app key"]) as sandbox:
        sandbox.add_user(CANARIES["login"], email="no@body", question=CANARIES["question"], answer=CANARIES["answer"])
        keyring = Keyring.load_or_create(tmp_path / "keys")
        transport = EtnaTransport(
            sandbox.api_url, CANARIES["app key"], deadline=timedelta(seconds=20), name="the broker"
        )
        store = open_store(watch.url)
        service = ResetService(
            transport,
            store,
            keyring,
            policy=policy,
            tracer=watch.tracer,
            listeners={"watch": watch.listen},
            sweep=False,
        )
        async with service:
            scene = Scene(watch, sandbox, service, store, transport, keyring, tmp_path)
            watch.see(service, transport, keyring, keyring.keys, store, policy)
            yield scene
    loop.set_debug(False)
    loop.slow_callback_duration = 0.1
    await watch.check(again=True)


@pytest.fixture
def raised() -> Raised:
    async def raised(call: Awaitable[object]) -> BaseException:
        try:
            await call
        except BaseException as error:  # noqa: BLE001 - cancellations, too
            return error
        raise AssertionError("nothing was raised")

    return raised


@pytest.fixture
async def session(scene: Scene) -> str:
    """Log in, and return the token that a new PIN needs."""
    headers = {"Et-App-Key": CANARIES["app key"], "Username": CANARIES["login"], "Password": "old-Passw0rd"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{scene.sandbox.api_url}/token", headers=headers) as reply,
    ):
        token: str = (await reply.json())["Token"]
    scene.watch.scanner.add("session", token)
    return token


@pytest.fixture
async def files(request: pytest.FixtureRequest, store_url: str) -> Files:
    kind = urlsplit(store_url).scheme
    began = (await asked(store_url, "SELECT pg_current_wal_lsn()::text")) if kind == "postgresql" else ""

    async def files() -> bytes:
        if kind == "sqlite":
            return await dump(store_url)
        server = request.getfixturevalue("postgres_server" if kind == "postgresql" else "redis_server")
        if not hasattr(server, "folder"):
            pytest.skip("the disk of somebody else's server is not looked at")
        if kind == "redis":
            return read_all(server.folder / "appendonlydir")
        data = server.folder / "data"
        await asked(store_url, "CHECKPOINT")
        oid = await asked(store_url, "SELECT oid FROM pg_database WHERE datname = current_database()")
        first, skipped = await asked(store_url, f"SELECT pg_walfile_name_offset('{began}')")
        last = await asked(store_url, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        log = [path for path in sorted((data / "pg_wal").iterdir()) if first <= path.name <= last]
        assert log
        return read_all(data / "base" / str(oid)) + b"".join(path.read_bytes() for path in log)[skipped:].rstrip(b"\0")

    return files


async def asked(url: str, question: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def read_all(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())

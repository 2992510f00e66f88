"""Whole services against brokers that misbehave: nothing but errors of ours, in time, in bounds, in legal states."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
import tracemalloc
import zlib
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import pytest

from reset_flow.domain.errors import ResetFlowError
from reset_flow.domain.flow import State
from reset_flow.domain.policy import Policy
from reset_flow.domain.state_machine import EDGES, allowed
from reset_flow.persistence.keyring import Keyring
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.flow import Flow

pytestmark = pytest.mark.usefixtures("nothing_left")

DEADLINE = timedelta(seconds=0.25)
TRIES = 10
MIB = 2**20
STEPS = {(edge.trigger, source, edge.target) for edge in EDGES for source in edge.sources}
YES = b'{"Model": "a-question-or-a-token", "Errors": [], "IsSucceed": true}'
ROUTES = {
    "challenge": rb"GET /api/v1.0/users/password/secret-question",
    "request": rb"POST /api/v1.0/users/password/reset ",
    "exchange": rb"POST /api/v1.0/users/identifiers/reset/code",
    "update": rb"PUT /api/v1.0/users/passwords/reset/",
}
COMMANDS: dict[str, Callable[[ResetService, str], Awaitable[Flow]]] = {
    "request": lambda service, flow_id: service.answer(flow_id, "Peterson"),
    "exchange": lambda service, flow_id: service.verify(flow_id, "004158"),
    "update": lambda service, flow_id: service.set_password(flow_id, "v1olet tractor sings 5"),
}


def check(flow: Flow) -> None:
    """Check that the history follows the transition table, and that the view fits where it ends."""
    stands = State.REQUESTED
    for step in flow.history:
        assert (step.trigger, step.source, step.target) in STEPS
        assert step.source is stands
        stands = step.target
    assert flow.state is stands
    assert flow.allowed == allowed(flow.state, flow.credential)
    assert (flow.expects is None) == flow.ended
    assert (flow.failure is None) == (flow.state is not State.FAILED)


POLICY = Policy(resend_cooldown=timedelta(0), lease=timedelta(seconds=60))


def service_of(url: str, store: MemoryStore, keyring: Keyring, deadline: timedelta) -> ResetService:
    transport = EtnaTransport(url, "sandbox", deadline=deadline, name="broker")
    return ResetService(transport, store, keyring, policy=POLICY, sweep=False)


# Servers that misbehave, byte for byte, at one step.


class Endless:
    """A head, and then the same piece until nobody reads any more; with a pause before each but the first."""

    def __init__(self, head: str, piece: bytes, pause: float = 0) -> None:
        self.head = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode()
        self.piece = piece
        self.pause = pause

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.head)
        while True:
            writer.write(self.piece)
            await writer.drain()
            await asyncio.sleep(self.pause)


def reply(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
BOMB = b"x" * 64 * MIB
RAW_DEFLATE = zlib.compressobj(wbits=-15)
BROKEN: dict[str, bytes | Endless] = {
    "a head that is cut off": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a body that is cut off": reply("200 OK", YES[:30], length=len(YES)),
    "a chunk that is cut off": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + YES[:30],
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an endless body": Endless(f"Content-Length: {10**12}", b"x" * 0x10000),
    "endless chunks": Endless("Transfer-Encoding: chunked", CHUNK),
    "a body until the end, which does not come": Endless("Connection: close", b" " * 0x10000),
    "a body of no known length": Endless("X: y", b""),
    "a head that never ends": Endless("A: b\r\nX: ", b"h" * 0x10000),
    "a byte a second": Endless(f"Content-Length: {len(YES)}", b"{", pause=1),
    "a byte now and then": Endless(f"Content-Length: {10**6}", b"{", pause=0.01),
    "a gzip bomb": reply("200 OK", gzip.compress(BOMB), "Content-Encoding: gzip"),
    "a deflate bomb": reply("200 OK", zlib.compress(BOMB), "Content-Encoding: deflate"),
    "a raw deflate bomb": reply(
        "200 OK", RAW_DEFLATE.compress(BOMB) + RAW_DEFLATE.flush(), "Content-Encoding: deflate"
    ),
    "a gzip bomb in gzip": reply("200 OK", gzip.compress(gzip.compress(BOMB)), "Content-Encoding: gzip, gzip"),
    "gzip that is none": reply("200 OK", YES, "Content-Encoding: gzip"),
    "megabytes": reply("200 OK", b'{"IsSucceed": true, "Errors": [], "Model": "' + b"t" * 2 * MIB + b'"}'),
    "a hundred continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + reply("200 OK", b"[]"),
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.6\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n[]    ",
    "an injected header": b"HTTP/1.1 200 OK\r\nA\x00b: c\r\nContent-Length: 2\r\n\r\n[]",
    "nothing": b"",
}
WAITS = (
    "7",
    "0",
    "-1",
    "1000000000",
    "9" * 400,
    "soon",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Wed, 21 Oct 2015 07:28:00 GMT",
)
BROKEN |= {
    f"{status} with Retry-After: {wait[:30]}": reply(f"{status} Wait", b"{}", f"Retry-After: {wait}")
    for status in (429, 503, 500)
    for wait in WAITS
}
FOLLOWED = [(status, kind) for status in (300, 301, 302, 303, 307, 308) for kind in ("same", "other", "refresh")]


class Broker:
    """Says yes, except at one route."""

    def __init__(self) -> None:
        self.route = ""
        self.answer: bytes | Endless = b""
        self.heads: list[bytes] = []
        self._tasks: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if length := re.search(rb"(?i)content-length: *(\d+)", head):
                await reader.readexactly(int(length[1]))
            if not self.route or not head.startswith(ROUTES[self.route]):
                writer.write(reply("200 OK", YES))
            elif isinstance(self.answer, Endless):
                await self.answer(writer)
            else:
                writer.write(self.answer)
                await writer.drain()
                return

    def asked(self, route: str) -> int:
        return sum(head.startswith(ROUTES[route]) for head in self.heads)


async def attempt(work: Awaitable[Flow]) -> tuple[Flow | None, ResetFlowError | None]:
    try:
        return await work, None
    except ResetFlowError as error:
        raised = error
    assert raised.__cause__ is None
    assert raised.__context__ is None or isinstance(raised.__context__, ResetFlowError)
    return raised.flow, raised


async def suffer(broker: Broker, route: str) -> tuple[Flow | None, ResetFlowError | None]:
    """Lead a flow to that step in good order, and return what comes of it there."""
    answer, broker.answer = broker.answer, b""
    store, keyring, url = MemoryStore(), Keyring.generate(), f"{broker.url}/api"
    async with (
        service_of(url, store, keyring, timedelta(seconds=30)) as patient,
        service_of(url, store, keyring, DEADLINE) as service,
    ):
        if route == "challenge":
            broker.route, broker.answer = route, answer
            return await attempt(service.start("robert.zak"))
        flow = await patient.start("robert.zak")
        for step, command in COMMANDS.items():
            if step == route:
                broker.route, broker.answer = route, answer
                flow_or_none, error = await attempt(command(service, flow.id))
                broker.route = ""
                assert flow_or_none is not None
                assert flow_or_none == await service.get(flow.id)
                return flow_or_none, error
            flow = await command(patient, flow.id)
    raise AssertionError


@pytest.mark.parametrize("route", ROUTES)
async def test_whatever_a_server_does_is_bounded_in_time_and_memory(
    route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A code or a password is sent twice, and a password tried by a log-in; a question is asked for three times.
    monkeypatch.setattr("reset_flow.engine.broker_client.CHALLENGE_PAUSE", 0.01)
    patience = 3 * DEADLINE.total_seconds() + 30  # the machine may stall; what is not bounded does not end
    async with Broker() as broker:
        for name, answer in BROKEN.items():
            before, tries = broker.asked(route), 0
            while broker.asked(route) == before:  # within the deadline, a machine that stalls connects to nobody
                tries += 1
                assert tries <= TRIES, f"{name}: it was not asked"
                broker.answer = answer
                tracemalloc.start()
                began = time.monotonic()
                try:
                    flow, error = await suffer(broker, route)
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert time.monotonic() - began < patience, name
            assert peak < 4 * MIB, name
            assert flow is None or flow.state is not State.PASSWORD_SET or route != "update", name
            if flow:
                check(flow)
            wait = getattr(error, "retry_after", None)
            assert wait is None or timedelta(0) <= wait <= timedelta(hours=1), name
            assert "x" * 300 not in str(error), name
            assert broker.asked(route) - before <= (3 if route == "challenge" else 2), name


@pytest.mark.parametrize("route", ROUTES)
async def test_no_redirect_is_followed_anywhere(route: str) -> None:
    async with Broker() as broker, Broker() as other:
        for status, kind in FOLLOWED:
            place = f"{other.url}/api" if kind == "other" else "/api/v1.0/elsewhere"
            headers = (
                [f"Location: {place}"] if kind != "refresh" else [f"Refresh: 0; url={other.url}", f"URI: {other.url}"]
            )
            broker.answer = reply(f"{status} Elsewhere", YES if kind == "refresh" else b"", *headers)
            flow, error = await suffer(broker, route)
            if flow:
                check(flow)
                assert flow.state is not State.PASSWORD_SET
            else:
                assert error is not None
        assert other.heads == []
        assert not any(b"elsewhere" in head for head in broker.heads)

"""A connection that fails in the middle of a request's body leaves nothing of the body behind."""

from __future__ import annotations

import asyncio
import socket
import struct
from datetime import timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from reset_flow import (
    BrokerError,
    Case,
    EtnaTransport,
    NewCredential,
    OutcomeInDoubt,
    PasswordRules,
    Policy,
    Secret,
    State,
    StoreUnavailable,
    Unknown,
)
from reset_flow.testing import refused
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.leaks.conftest import Raised, Scene

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

DEADLINE = timedelta(seconds=20)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST
LONG = "\N{CLOSED LOCK WITH KEY}" * 9_000
"""What a password is stretched with: far more than fits between the two sockets below."""
ENDS = ("reset", "close", "silence", "refusal", "nonsense")


class Broken:
    """A server with little room, that reads so many bytes of a request and then does as it is told."""

    def __init__(self) -> None:
        self.how = "reset"
        self.read = 0
        self.ends: list[str] = []
        self.bytes = 0
        self.reached = asyncio.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.setblocking(False)  # noqa: FBT003 - it takes no name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/api"

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self.socket)
            with connection:
                connection.setblocking(False)  # noqa: FBT003 - it takes no name
                self.ends.append(self.how)
                await self._serve(connection)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        read = b""
        while len(read) < self.bytes and (piece := await loop.sock_recv(connection, min(512, self.bytes - len(read)))):
            read += piece
        self.read = max(self.read, len(read))
        self.reached.set()
        match self.how:
            case "silence":
                let_time_pass(DEADLINE)
                await asyncio.sleep(0.1)
            case "patience":
                await asyncio.sleep(2)
            case "refusal":
                await loop.sock_sendall(connection, b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
            case "nonsense":
                await loop.sock_sendall(connection, b"SSH-2.0-nothing\r\n" + read[-300:])
            case "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


@pytest.fixture
async def broken() -> AsyncIterator[Broken]:
    server = Broken()
    serving = asyncio.create_task(server.serve())
    yield server
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    server.socket.close()


def with_little_room(address: aiohttp.AddrInfoType) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    return made


@pytest.fixture
async def transport(broken: Broken, scene: Scene) -> AsyncIterator[EtnaTransport]:
    """To the broken server, with little room on this side, too."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=with_little_room)) as session:
        yield EtnaTransport(broken.url, scene.secret("app key"), deadline=DEADLINE, session=session, name="the broker")


@pytest.fixture
def policy() -> Policy:
    return Policy(password=PasswordRules(max_length=10_000), resend_cooldown=timedelta(0))


@pytest.mark.parametrize("read", [0, 100, 5_000])
@pytest.mark.parametrize("how", ENDS)
async def test_a_password_that_is_half_sent(
    scene: Scene, broken: Broken, transport: EtnaTransport, policy: Policy, *, how: str, read: int
) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    broken.how, broken.bytes = how, read
    password = scene.secret("password") + LONG
    async with scene.another(transport=transport, policy=policy) as service:
        error = await refused(service.set_password(flow.id, password), BrokerError)
        # Where the body was not begun before the connection was gone, nothing can have happened.
        assert isinstance(error, OutcomeInDoubt) or how == "refusal" or read == 0
        assert broken.ends[:1] == [how]
        assert broken.read == read < len(password.encode())
        await scene.looked_at(error)


async def test_a_caller_who_goes_away_while_a_password_is_half_sent(
    scene: Scene, broken: Broken, transport: EtnaTransport, policy: Policy, raised: Raised
) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    broken.how, broken.bytes = "patience", 5_000
    async with scene.another(transport=transport, policy=policy) as service:
        task = asyncio.create_task(service.set_password(flow.id, scene.secret("password") + LONG))
        await broken.reached.wait()
        task.cancel()
        error = await raised(task)
        assert isinstance(error, asyncio.CancelledError)
        await scene.looked_at(error)


async def test_a_service_that_is_closed_while_a_password_is_half_sent(
    scene: Scene, broken: Broken, transport: EtnaTransport, policy: Policy
) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    broken.how, broken.bytes = "patience", 5_000
    async with scene.another(transport=transport, policy=policy) as service:
        task = asyncio.create_task(service.set_password(flow.id, scene.secret("password") + LONG))
        await broken.reached.wait()
        await service.aclose(timedelta(0))
        await scene.looked_at(await refused(task, OutcomeInDoubt))
        await scene.looked_at(await refused(service.set_password(flow.id, scene.secret("password")), StoreUnavailable))


@pytest.mark.parametrize("how", ENDS)
async def test_a_body_that_no_socket_can_hold(scene: Scene, broken: Broken, transport: EtnaTransport, how: str) -> None:
    broken.how, broken.bytes = how, 50_000
    new = NewCredential(secret=Secret(scene.secret("password") + "x" * 500_000))
    outcome = await transport.update(Case(user=scene.secret("login")), Secret(scene.secret("pin") * 5), new)
    assert isinstance(outcome, Unknown) or how == "refusal"
    assert broken.read == 50_000
    inside = [vars(part) for part in vars(transport).values() if hasattr(part, "__dict__")]
    assert inside
    scene.watch.see(outcome, transport, vars(transport), *inside)
    await scene.watch.check()

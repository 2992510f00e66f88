"""A service whose resets wait in a real Restate, in this process, and what happens around it."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
import hypercorn.asyncio
import hypercorn.config
import restate
from aiohttp import ClientSession
from yarl import URL

from reset_flow import EtnaTransport, Keyring, MemoryStore, Policy, ResetService
from reset_flow.integrations.restate import RestateListener, reset_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from benchmarks.servers import RestateServer
    from reset_flow import Flow, Store
    from reset_flow.integrations.restate import ResetObject
    from reset_flow.sandbox import Sandbox

LOGIN = "Pérson+zak/ü"
PASSWORD = "violet träctor & {}"
PEOPLE = {"user 1": LOGIN, "user 2": "somebody.else"}
PAUSE = 0.05


async def login_of(user_ref: str) -> str:
    return PEOPLE[user_ref]


@attrs.frozen
class RefusedError(Exception):
    """A call that Restate refused."""

    status: int
    answer: Any


@attrs.define
class House:
    server: RestateServer
    sandbox: Sandbox
    service: ResetService
    resets: ResetObject

    async def call(self, handler: str, ref: str, argument: str | None = None) -> Any:
        """Call a handler of the object through the ingress."""
        url = URL(f"{self.server.url}/{self.resets.name}/{quote(ref, safe='')}/{handler}", encoded=True)
        # A handler that takes nothing refuses even a content type.
        client = ClientSession(skip_auto_headers=[] if argument else ["Content-Type"])
        async with client, client.post(url, json=argument) as reply:
            answer = await reply.json()
            if reply.status != 200:
                raise RefusedError(reply.status, answer)
            return answer

    async def wait(self, ref: str, number: int = 1) -> list[asyncio.Task[Any]]:
        """Begin to wait for the end this often, and return once the object knows who waits."""
        before = len(await self.waiters(ref))
        waits = [asyncio.create_task(self.call("ended", ref)) for _ in range(number)]
        await self.until(lambda: self.has(self.waiters(ref), before + number))
        return waits

    async def waiters(self, ref: str) -> list[Any]:
        rows = await self.rows("SELECT value_utf8 FROM state WHERE service_key = '%s' AND key = 'waiters'", ref)
        return json.loads(rows[0]["value_utf8"]) if rows else []

    async def rows(self, sql: str, *values: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.server.query, sql % tuple(value.replace("'", "''") for value in values))

    async def has(self, found: Awaitable[Sequence[Any]], number: int) -> bool:
        return len(await found) == number

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(120):
            while not await condition():  # noqa: ASYNC110 - another process changes
                await asyncio.sleep(PAUSE)

    async def flow(self, ref: str) -> Flow:
        (flow,) = await self.service.find(ref=ref)
        return flow

    async def set_password(self, ref: str) -> Flow:
        """Do what the person does who got the code."""
        flow = await self.flow(ref)
        await self.service.verify(flow.id, self.sandbox.newest_code(flow.user))
        return await self.service.set_password(flow.id, PASSWORD.format(ref))


@asynccontextmanager
async def open_house(
    server: RestateServer,
    sandbox: Sandbox,
    *,
    store: Store | None = None,
    listens: bool = True,
    login_of: Callable[[str], Awaitable[str]] = login_of,
    ask_every: timedelta = timedelta(minutes=5),
    policy: Policy | None = None,
    services: Sequence[restate.Service] = (),
) -> AsyncIterator[House]:
    """Serve an object of a name that no other test has."""
    name = f"Reset_{secrets.token_hex(6)}"
    service = ResetService(
        EtnaTransport(sandbox.api_url, "sandbox"),
        store or MemoryStore(),
        Keyring.generate(),
        policy=policy,
        listeners={"restate": RestateListener(server.url, name=name)} if listens else {},
    )
    async with service:
        resets = reset_object(service, login_of, name=name, ask_every=ask_every)
        async with serving(server, resets, *services):
            yield House(server, sandbox, service, resets)


@asynccontextmanager
async def serving(server: RestateServer, *services: restate.Service | restate.VirtualObject) -> AsyncIterator[None]:
    """Serve handlers in this event loop, and have Restate call them."""
    config, stop = hypercorn.config.Config(), asyncio.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    config.bind, config.loglevel = [f"fd://{listening.detach()}"], "ERROR"
    config.h2_max_concurrent_streams, config.keep_alive_max_requests = 1000, sys.maxsize
    app: Any = restate.app(services)
    served = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    try:
        await asyncio.to_thread(server.register, f"http://127.0.0.1:{port}")
        yield
    finally:
        stop.set()
        try:
            await served
        except* KeyError:
            pass  # Hypercorn 0.18 may end with that of a connection that was just closing: what it served was served

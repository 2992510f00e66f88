"""A server of tools is killed by SIGKILL wherever it waits for something; the client makes the same call again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from reset_flow.sandbox import Sandbox
from tests.chat.kills import APP_KEY, PATIENCE, Zygote, leaks_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reset_flow.sandbox.broker import Mail

TOKEN, REVISION = "a token of the client", "2026-07-28"
STEPS = ("start_reset", "resend_code", "enter_code")


@attrs.define(eq=False)
class Person:
    """Somebody for whom a model resets a password; `calls`: what it called."""

    sandbox: Sandbox
    number: int
    flow: str = ""
    calls: list[str] = attrs.field(factory=list)

    @property
    def login(self) -> str:
        return f"robert.zak{self.number}"

    @property
    def mails(self) -> list[Mail]:
        return [mail for mail in self.sandbox.mails if mail.user == self.login]

    def given(self, tool: str) -> dict[str, str]:
        """Return the arguments of a tool."""
        if tool == "start_reset":
            return {"user": self.login}
        return {"flow": self.flow} | ({"code": self.mails[-1].code} if tool == "enter_code" else {})

    async def call(self, client: Client, tool: str) -> dict[str, Any]:
        self.calls.append(tool)
        result = await client.call_tool(tool, self.given(tool))
        told: dict[str, Any] = result.structured_content
        self.flow = told["flow"] or self.flow
        return told

    async def goes_on(self, client: Client, told: dict[str, Any]) -> None:
        """Do what the tools say until a password is wanted."""
        while told["expects"] != "password":
            assert len(self.calls) < 10, told
            wants_another = "code" not in told["next"].split("call ")[-1] or not self.mails or told["error"]
            told = await self.call(client, "resend_code" if wants_another else "enter_code")

    def check(self) -> None:
        """Hold what the broker got to what was called: one sending for each, and one more of a code in doubt."""
        asked = self.calls.count("start_reset") + self.calls.count("resend_code")
        assert 0 < len(self.mails) <= asked
        exchanged = [call for call in self.sandbox.calls_of("exchange") if call.user == self.login]
        assert 0 < len(exchanged) <= self.calls.count("enter_code") + 1


class World:
    """A broker, and servers of tools."""

    def __init__(self, sandbox: Sandbox, servers: Zygote, folder: Path) -> None:
        self._sandbox, self.servers, self.folder = sandbox, servers, folder
        self._numbers = count()

    def person(self) -> Person:
        person = Person(self._sandbox, next(self._numbers))
        self._sandbox.add_user(person.login, question=None)
        return person

    @asynccontextmanager
    async def client(self, point: str | None = None) -> AsyncIterator[Client]:
        """Start a server, and yield a client of it."""
        await self.servers.start(point)
        url = (await self.servers.line()).decode().split()[1]
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE) as http,
            Client(streamable_http_client(url, http_client=http), mode=REVISION) as client,
        ):
            yield client

    async def points(self) -> list[tuple[str, str]]:
        """Return the tools, and of each the points before which something is done, and the last one."""
        async with self.client() as client:
            await self.person().call(client, STEPS[0])  # the first save in a store brings the ids of the keys with it
        await self.servers.stop()
        person, found = self.person(), list[tuple[str, str]]()
        for tool in STEPS:
            async with self.client() as client:
                await person.call(client, tool)
                passed = self.servers.passed()
            found += [(tool, point) for point in passed if point.startswith("before")] + [(tool, passed[-1])]
            await self.servers.stop()
        return found

    async def kill(self, person: Person, tool: str, point: str) -> None:
        """Have a server die at this point of a call."""
        with suppress(MCPError, httpx2.HTTPError, ExceptionGroup):
            async with self.client(point) as client:
                await person.call(client, tool)
        await self.servers.dead()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"client {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    async with (
        Sandbox(app_key=APP_KEY) as sandbox,
        Zygote(sandbox, tmp_path, kind="tools", tokens=str(tokens)) as servers,
    ):
        yield World(sandbox, servers, tmp_path)


async def test_wherever_a_server_is_killed_the_same_call_again_goes_on_and_nothing_is_doubled(world: World) -> None:
    killed = [(world.person(), tool, point) for tool, point in await world.points()]
    async with world.client() as client:
        for person, tool, _ in killed:
            for earlier in STEPS[: STEPS.index(tool)]:
                await person.call(client, earlier)
    await world.servers.stop()
    for person, tool, point in killed:
        await world.kill(person, tool, point)
    world.servers.later()
    async with world.client() as client:
        for person, tool, _ in killed:
            await person.goes_on(client, await person.call(client, tool))
            person.check()
    await world.servers.stop()
    codes = {f"code {mail.code}": mail.code for person, _, _ in killed for mail in person.mails}
    logins = {person.login: person.login for person, _, _ in killed}
    assert leaks_in(world.folder, token=TOKEN, **codes, **logins) == []


@asynccontextmanager
async def over_stdio(sandbox: Sandbox, folder: Path) -> AsyncIterator[Client]:
    """Run `reset-flow mcp`, whose process id is in a file."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RESET_FLOW_")},
        "RESET_FLOW_BROKER_URL": sandbox.api_url,
        "RESET_FLOW_BROKER_SECRET": APP_KEY,
        "RESET_FLOW_STORE": f"sqlite:///{folder / 'flows.db'}",
        "RESET_FLOW_KEYS": str(folder / "keys"),
        "RESET_FLOW_PUBLIC_URL": "https://example.com/reset/",
    }
    script = f'echo $$ >"{folder / "pid"}"; exec "{sys.executable}" -m reset_flow.cli mcp'
    with (folder / "logged").open("a") as logged:
        where = stdio_client(StdioServerParameters(command="sh", args=["-c", script], env=env), errlog=logged)
        async with Client(where, mode=REVISION) as client:
            yield client


async def test_a_server_on_stdio_that_is_killed_in_a_call_takes_its_flows_along_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    async with Sandbox(app_key=APP_KEY) as sandbox:
        person = Person(sandbox, 0)
        sandbox.add_user(person.login, question=None)
        with suppress(MCPError, ExceptionGroup):
            async with over_stdio(sandbox, tmp_path) as client:
                await person.call(client, "start_reset")
                sandbox.fault("exchange", "hang_after")
                call = asyncio.create_task(person.call(client, "enter_code"))
                await sandbox.wait_for_calls("exchange", acted=True)
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
                await call
        async with over_stdio(sandbox, tmp_path) as client:
            told = await person.call(client, "enter_code")
            assert told["error"]["code"] == "flow_not_found"
            assert (len(person.mails), len(sandbox.calls_of("exchange"))) == (1, 1)
            await person.goes_on(client, await person.call(client, "start_reset"))
            person.check()
        codes = {mail.code: mail.code for mail in person.mails}
        assert leaks_in(tmp_path, login=person.login, key=APP_KEY, **codes) == []

"""The process of `reset-flow serve`: how it ends, whom it waits for, and what it logs."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest

from benchmarks.servers import free_port
from reset_flow.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE = 120
ANSWER, PASSWORD, SECRET = "Peterson", "violet tractor sings at 5 am", "hunter2-violet"

SERVE = """
import sys
from datetime import timedelta
from functools import partial
from reset_flow.cli import main, serving
from reset_flow.web import server
idle, slowness, draining = map(float, sys.argv[1:4])
server.IDLE, server.DRAINING = idle, draining
serving.Limits = partial(serving.Limits, slowness=timedelta(seconds=slowness))
sys.exit(main(["serve", "--port", "0", "--trusted-proxy", "127.0.0.1", *sys.argv[4:]]))
"""
"""The command, with other times."""


@attrs.define
class Serving:
    """The process, and what it has logged once it has ended."""

    process: asyncio.subprocess.Process
    address: str
    logged: str = ""
    asked: bool = False

    def is_to_end(self) -> None:
        """Ask it to."""
        self.asked = True
        self.process.send_signal(signal.SIGTERM)

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    async def ends(self) -> None:
        out, logged = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        self.logged = logged.decode()
        assert (self.process.returncode, out) == (0, b""), self.logged
        assert f"listening on 127.0.0.1:{self.port}\n" in self.logged
        for trouble in ("Traceback", " ERROR ", "Exception", "transitions.core"):
            assert trouble not in self.logged, self.logged


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@asynccontextmanager
async def serving(
    folder: Path, sandbox: Sandbox, *options: str, idle: float = 30, slowness: float = 10, draining: float = 1,
    before: Callable[[], None] | None = None,
) -> AsyncIterator[Serving]:  # fmt: skip
    """Run the process, and have it end well."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RESET_FLOW_")},
        "RESET_FLOW_BROKER_URL": sandbox.api_url, "RESET_FLOW_BROKER_NAME": "sandbox",
        "RESET_FLOW_BROKER_SECRET": "sandbox", "RESET_FLOW_STORE": f"sqlite:///{folder}/flows.db",
        "RESET_FLOW_KEYS": f"{folder}/keys",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SERVE, *map(str, (idle, slowness, draining)), *options, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=before,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        assert line.startswith(b"serving "), line
        found = Serving(process, line.decode().removeprefix("serving ").strip())
        yield found
        if not found.asked:  # a second time could kill what is all but over: its handlers go with its loop
            found.is_to_end()
        await found.ends()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def called(
    session: aiohttp.ClientSession, method: str, address: str, *, client: int = 0, secret: str = "", **content: Any
) -> tuple[int, Any]:
    headers = {"X-Forwarded-For": f"203.0.113.{client}"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    async with session.request(method, address, headers=headers, json=content or None) as reply:
        return reply.status, await reply.json()


async def reset(session: aiohttp.ClientSession, address: str, sandbox: Sandbox, login: str) -> str:
    """Carry out a whole reset, and return its state."""
    _, flow = await called(session, "POST", f"{address}api/flows", user=login)
    own, secret = f"{address}api/flows/{flow['id']}", flow["secret"]
    await called(session, "POST", f"{own}/answer", secret=secret, answer=ANSWER)
    await called(session, "POST", f"{own}/code", secret=secret, code=sandbox.newest_code(login))
    _, flow = await called(session, "POST", f"{own}/password", secret=secret, password=PASSWORD)
    return str(flow["state"])


async def test_what_is_under_way_is_finished_and_the_next_process_goes_on(tmp_path: Path, sandbox: Sandbox) -> None:
    people = 20
    for number in range(people):
        sandbox.add_user(f"person{number}", question="Street?", answer=ANSWER)
    sandbox.fault("challenge", "latency", times=people, seconds=3600)
    async with aiohttp.ClientSession() as session:
        async with serving(tmp_path, sandbox) as server:
            starts = [
                asyncio.create_task(
                    called(session, "POST", f"{server.address}api/flows", client=number, user=f"person{number}")
                )
                for number in range(people)
            ]
            await sandbox.wait_for_calls("challenge", people)  # the broker has them, and has not replied
            server.is_to_end()
            await refuses(server.port)  # it has seen the signal
            sandbox.release()
            replies = await asyncio.gather(*starts)
        assert [status for status, _ in replies] == [201] * people
        async with serving(tmp_path, sandbox) as server:
            for _, flow in replies:
                own = f"{server.address}api/flows/{flow['id']}/answer"
                status, answered = await called(session, "POST", own, secret=flow["secret"], answer=ANSWER)
                assert (status, answered["expects"]) == (200, "code")
    assert len(sandbox.mails) == people


async def refuses(port: int) -> None:
    """Wait until nobody listens any more."""
    with suppress(ConnectionError):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()


async def test_what_comes_over_an_open_connection_is_answered_and_the_connection_closed(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    async with serving(tmp_path, sandbox, draining=5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        asked = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        writer.write(asked)
        assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200 ")
        server.is_to_end()
        await refuses(server.port)  # it has seen the signal
        writer.write(asked)
        reply = await asyncio.wait_for(reader.read(), PATIENCE)
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in reply
        writer.close()


AT_THE_LAST_MOMENT = """
import asyncio, os, signal, socket
from urllib.parse import urlsplit
from reset_flow import Keyring, MemoryStore, ResetService
from reset_flow.testing import ScriptedTransport
from reset_flow.web.server import serve
async def ask(address):
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)  # the loop has the signal, and not yet what waits for it
    sock = socket.create_connection((urlsplit(address).hostname, urlsplit(address).port))
    sock.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
    reader, writer = await asyncio.open_connection(sock=sock)
    print((await reader.read()).decode())
    writer.close()
async def main():
    service = ResetService(ScriptedTransport(), MemoryStore(), Keyring.generate())
    asking = []
    await serve(service, port=0, told=lambda address: asking.append(asyncio.create_task(ask(address))))
    await asking[0]
asyncio.run(main())
"""


async def test_who_connects_at_the_last_moment_is_answered() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", AT_THE_LAST_MOMENT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, logged = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert logged == b""
    assert out.startswith(b"HTTP/1.1 200 "), out
    assert b"Connection: close" in out


async def test_slow_clients_stop_nobody_and_are_dropped(tmp_path: Path, sandbox: Sandbox) -> None:
    sent = {
        "nothing": b"",
        "half a head": b"POST /api/flows HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-",
        "half a body": b"POST /api/flows HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b'Content-Length: 30\r\n\r\n{"user":',
    }
    async with serving(tmp_path, sandbox, idle=2, slowness=2) as server:
        slow = []
        for sends in [*sent.values()] * 70:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sends)
            slow.append((sends, reader, writer))
        # Of its own, no connection is idle either.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            assert await reset(session, server.address, sandbox, "robert.zak") == "password_set"
        for sends, reader, writer in slow:
            reply = await asyncio.wait_for(reader.read(), PATIENCE)  # until the server closes it
            assert reply.startswith(b"HTTP/1.1 408 ") if sends == sent["half a body"] else reply == b""
            writer.close()
    assert sandbox.password_of("robert.zak") == PASSWORD


async def test_as_many_connections_as_the_system_allows_and_a_word_where_they_are_few(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for allowed, is_warned in ((300, True), (hard, False)):

        def limit(allowed: int = allowed) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, allowed), allowed))

        async with serving(tmp_path, sandbox, before=limit) as server:
            soft, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft == min(allowed, 65_536)
        assert ("WARNING reset_flow.web.http 300 files may be open" in server.logged) is is_warned


async def test_a_request_that_can_not_be_read_is_not_logged(tmp_path: Path, sandbox: Sandbox) -> None:
    async with serving(tmp_path, sandbox) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /{SECRET} HTTP/1.1\r\nAuthorization: Bearer {SECRET}\x00\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert SECRET not in server.logged
    assert "400" in server.logged


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (400, f"GET /reset/ HTTP/1.1\r\nCookie: reset={SECRET}; a={'x' * 9000}"),
        (400, f"GET /reset/ HTTP/1.1\r\nCookie: reset={SECRET}; a=\x01"),
        (400, f"GET /reset/link/{SECRET}{'x' * 9000} HTTP/1.1"),
        (404, f"CONNECT {SECRET}:443 HTTP/1.1"),
        (404, f"GET /other/{SECRET} HTTP/1.1"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else str(each),
)
async def test_what_never_gets_to_the_page_is_not_repeated_and_has_the_headers(
    tmp_path: Path, sandbox: Sandbox, status: int, head: str
) -> None:
    port = str(free_port())
    address = f"http://127.0.0.1:{port}/reset/"
    async with serving(tmp_path, sandbox, "--port", port, "--public-url", address):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
    assert answer.split()[1] == str(status)
    assert SECRET not in answer
    for header in ("Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Server: reset-flow"):
        assert header in answer

"""The processes of the demo: a sandbox that is asked over HTTP, and workers that are asked over pipes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from reset_flow.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "CHAT",
    "ENGINE_WORKER",
    "SANDBOX",
    "WORKER",
    "Child",
    "DemoFailed",
    "Sandbox",
    "Typist",
    "Worker",
]

WORKER = (sys.executable, "-m", "reset_flow.cli.demo_worker")
ENGINE_WORKER = (sys.executable, "-m", "reset_flow.cli.engine_worker")
CHAT = (sys.executable, "-m", "reset_flow.cli", "chat", "--conversation", "demo", "--lang", "en")
SANDBOX = (sys.executable, "-m", "reset_flow.sandbox", "--port", "0", "--quiet")
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
KILL_AT_END = 'trap "" HUP INT TERM; read -r line || kill -KILL "$1"'
"""Kills a process once standard input ends, as it does with the demo in any case. A line ends the watch alone."""
PATIENCE = 60.0
"""Seconds that a process of the demo may take for anything; on an idle machine it takes half a one."""


class DemoFailed(Exception):
    """Something that the demo shows did not happen."""


class Child:
    """
    One process, in a session of its own: Ctrl-C at the terminal reaches the demo alone, which ends its children. If the
    demo is killed, they end as well.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        command = ["/bin/sh", "-c", KILL_AT_END, "watch", str(process.pid)]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own

    @classmethod
    async def spawn(cls, name: str, command: Sequence[str], log: Path, *, talks: bool = True) -> Self:
        """Start a process that writes its stderr into the log, and its output, too, unless it is to be read."""
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if talks else errors,
                stderr=errors,
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def read_line(self) -> str:
        """
        Read the next line that it writes.

        Raises:
            DemoFailed: It writes none.
        """
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                if line := await self._process.stdout.readline():
                    return line.decode()
                raise DemoFailed(f"{self.name} ended by itself: {self._last_words() or 'it did not say why'}")
        raise DemoFailed(f"{self.name} did not answer within {PATIENCE:.0f} s")

    def _last_words(self) -> str:
        return one_line(self._log.read_text(errors="replace").strip().rpartition("\n")[2])

    def write_line(self, document: Any) -> None:
        """Send it one line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(document).encode() + b"\n")

    async def ended(self, patience: float = PATIENCE) -> int | None:
        """Wait for its end. Return its return code, below zero for a signal; `None` if it does not end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                code = await self._process.wait()
                if self._watch.returncode is None:
                    self._watch.communicate(b"\n")  # the id may soon be another process's
                return code
        return None

    async def aclose(self) -> None:
        """End it, one way or another."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(number)
            await self.ended(2.0)


class Worker(Child):
    """A process with a service in it."""

    async def ask(self, command: str, *arguments: str) -> dict[str, Any]:
        """
        Run a command and return the reply.

        Raises:
            DemoFailed: The service raised, or the process is gone.
        """
        self.write_line({"command": command, "arguments": arguments})
        reply: dict[str, Any] = json.loads(await self.read_line())
        if "error" in reply:
            raise DemoFailed(f"{self.name} could not {command}: {reply['message']}")
        return reply

    async def do(self, command: str, *arguments: str) -> dict[str, Any]:
        """Run a command and return the flow after it. Raises what `ask` does."""
        flow: dict[str, Any] = (await self.ask(command, *arguments))["flow"]
        return flow


class Typist(Child):
    """A process at a terminal of its own, at which lines are typed."""

    _screen: asyncio.StreamReader
    _keys: int
    _reading: asyncio.ReadTransport

    @classmethod
    async def open(
        cls, name: str, command: Sequence[str], log: Path, *, width: int, settings: Mapping[str, str]
    ) -> Self:
        """Start it, with these settings in its environment."""
        keys, inside = os.openpty()
        termios.tcsetwinsize(inside, (50, width))
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=inside, stdout=inside, stderr=errors, start_new_session=True, env=settings
            )
        os.close(inside)
        typist = cls(name, process, log)
        typist._keys, typist._screen = keys, asyncio.StreamReader()
        reading = asyncio.StreamReaderProtocol(typist._screen)
        loop = asyncio.get_running_loop()
        typist._reading, _ = await loop.connect_read_pipe(lambda: reading, os.fdopen(keys, "rb", 0))
        return typist

    async def read_until(self, end: str) -> str:
        """
        Return what it shows, once that ends so.

        Raises:
            DemoFailed: It does not come.
        """
        seen = b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(PATIENCE):
                while not ESCAPES.sub(b"", seen).endswith(end.encode()):
                    piece = await self._screen.read(4096)
                    if not piece:
                        break
                    seen += piece
                else:
                    return seen.decode().replace("\r\n", "\n")
        raise DemoFailed(f"{self.name} stopped in the middle: {self._last_words() or 'it did not say why'}")

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._keys, f"{line}\n".encode())

    async def aclose(self) -> None:
        """End it, and take its terminal away."""
        await super().aclose()
        self._reading.close()


class Sandbox(Child):
    """The broker, and its reports about itself."""

    api_url = ""
    session: aiohttp.ClientSession

    async def listening(self) -> None:
        """
        Return once it listens.

        Raises:
            DemoFailed: It does not.
        """
        said = re.search(r"(http://[\d.:]+)/api", await self.read_line())
        if said is None:
            raise DemoFailed("the sandbox did not say where it listens")
        self.api_url = said[0]
        self.session = aiohttp.ClientSession(said[1], timeout=aiohttp.ClientTimeout(total=PATIENCE))

    async def ask(self, name: str, **query: str) -> Any:
        """Return the report of this name, `/sandbox/...`."""
        async with self.session.get(f"/sandbox/{name}", params=query) as reply:
            return await reply.json()

    async def log_in(self, app_key: str, user: str, password: str) -> Mapping[str, Any]:
        """Return the broker's reply to a log-in."""
        headers = {"Et-App-Key": app_key, "Username": user, "Password": password}
        async with self.session.post("/api/token", headers=headers) as reply:
            document: Mapping[str, Any] = await reply.json()
            return document

    async def aclose(self) -> None:
        """Close the session, and end the process."""
        if self.api_url:
            await self.session.close()
        await super().aclose()

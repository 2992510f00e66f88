"""Processes of their own that die at a named point, as tests start and kill them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from reset_flow import Keyring
from reset_flow.testing import LeakScanner

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing.leaks import Leak

APP_KEY = "an-app-key"
DIALOGUE_PATIENCE, LATER = 3_600, 7_200
"""Seconds. No process but those that start later finds that another one has died, however slow the machine is."""

DOOMED = Path(__file__).with_name("doomed.py")
PATIENCE = 120
"""Seconds, after which a test gives up."""


class Zygote:
    """
    The process from which the others are forked, one at a time.

    Args:
        given: What all of them are told.
    """

    def __init__(self, sandbox: Sandbox, folder: Path, **given: Any) -> None:
        self._folder = folder
        self._given = {
            "broker": sandbox.api_url,
            "app_key": APP_KEY,
            "store": str(folder / "flows.db"),
            "keys": str(folder / "keys"),
            "logged": str(folder / "logged"),
            "passed": str(folder / "passed"),
            "patience": DIALOGUE_PATIENCE,
            **given,
        }
        self._pid = 0
        self._ahead = 0

    async def __aenter__(self) -> Self:
        Keyring.load_or_create(self._folder / "keys")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(DOOMED),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(DOOMED.parents[2])},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        self._process.kill()
        await self._process.wait()

    async def start(self, point: str | None = None) -> None:
        """Start a process that dies at this point."""
        assert self._process.stdin
        (self._folder / "passed").write_text("")
        job = {**self._given, "point": point, "ahead": self._ahead}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._pid = json.loads(await self.line())["pid"]

    async def line(self) -> bytes:
        """Return what the process, or the one that it was forked from, says next."""
        assert self._process.stdout
        return await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)

    async def dead(self) -> None:
        """Wait for the process to die by SIGKILL."""
        status = json.loads(await self.line())["status"]
        assert status == -signal.SIGKILL, (self._folder / "logged").read_text()[-4000:]
        self._pid = 0

    def kill(self) -> None:
        """Kill the process, wherever it is."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Ask the process to end, and wait for that."""
        os.kill(self._pid, signal.SIGTERM)
        assert json.loads(await self.line())["status"] == 0, (self._folder / "logged").read_text()[-4000:]
        self._pid = 0

    def passed(self) -> list[str]:
        """Return the points that the last process came by."""
        return (self._folder / "passed").read_text().splitlines()

    def later(self) -> None:
        """Have the next processes start so much later that all that a dead one left is over."""
        self._ahead += LATER


def leaks_in(folder: Path, **secrets: str) -> list[Leak]:
    """Return which of them are in a file of the processes."""
    files = [path.read_bytes() for path in folder.iterdir() if path.name not in ("keys", "pid")]
    assert sum(map(len, files))
    return LeakScanner(secrets).find(*files)

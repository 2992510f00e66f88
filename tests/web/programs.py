"""Programs on loopback, and a browser without a script that goes through the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import html5lib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from xml.etree.ElementTree import Element

    from aiohttp import ClientSession

    from reset_flow.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
PASSWORD = "violet tractor sings at 5 am"


class Program:
    """A process that runs, and what it prints."""

    def __init__(self, process: subprocess.Popen[str], ready: str) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._ready = re.compile(ready)
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if not self.url and (found := self._ready.search(line)):
                self.url = found[1]
                self._known.set()
        self._known.set()

    @property
    def printed(self) -> str:
        return "".join(self.lines)

    def wait_until_ready(self) -> None:
        self._known.wait(PATIENCE)
        assert self.url, self.printed

    def end(self) -> int:
        """Ask it to end, and return its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            assert self.process.stdout
            self.process.stdout.close()


@contextmanager
def running(command: Sequence[str], settings: Mapping[str, str], ready: str) -> Iterator[Program]:
    """Run a Python program until the test is over. `ready` finds its address in what it prints."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    program = Program(process, ready)
    try:
        program.wait_until_ready()
        yield program
    finally:
        program.end()


def settings_for(sandbox: Sandbox, folder: Path) -> dict[str, str]:
    """Return the environment of a service with this broker, its store and keys in a folder."""
    return {
        "RESET_FLOW_BROKER_URL": sandbox.api_url,
        "RESET_FLOW_BROKER_SECRET": "sandbox",
        "RESET_FLOW_STORE": f"sqlite:///{folder}/flows.db",
        "RESET_FLOW_KEYS": f"{folder}/flows.keys",
    }


class Browser:
    """Shows pages, and sends their forms."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client
        self._headers: dict[str, str] = {}
        self.status = 0
        self.html = ""
        self._root: Element

    async def open(self, address: str, **headers: str) -> None:
        """Look at a page. The headers come with all that follows, as an extension may add them."""
        self._headers = headers
        async with self._client.get(address, headers=headers) as reply:
            await self._show(reply)

    async def send(self, action: str, **fields: str) -> None:
        """Fill in the form whose action ends so, and send it."""
        form = next(each for each in self._root.iter("form") if each.attrib["action"].endswith(action))
        hidden = {
            each.attrib["name"]: each.attrib.get("value", "")
            for each in form.iter("input")
            if each.attrib.get("type") == "hidden"
        }
        async with self._client.post(form.attrib["action"], data=hidden | fields, headers=self._headers) as reply:
            await self._show(reply)

    async def _show(self, reply: Any) -> None:
        self.status, self.html = reply.status, await reply.text()
        self._root = html5lib.parse(self.html, namespaceHTMLElements=False)

    @property
    def words(self) -> str:
        """What the page says."""
        return " ".join("".join(self._root.itertext()).split())

    async def reset(self, sandbox: Sandbox) -> None:
        """Go from the secret question of robert.zak to the end."""
        await self.send("answer", answer="Peterson")
        await self.send("code", code=sandbox.newest_code("robert.zak"))
        await self.send("password", password=PASSWORD)

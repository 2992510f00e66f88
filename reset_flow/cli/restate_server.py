"""The restate-server of the demo: on loopback, with a folder of its own, and gone with the demo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from reset_flow.cli.processes import PATIENCE, Child, DemoFailed

__all__ = ["RestateServer", "find_restate", "write_settings"]

INSTALLED = Path(__file__).parents[2] / ".engines"
"""Where `make engines` puts it."""
BINARY = "node_modules/@restatedev/restate-server-*/bin/restate-server"
SETTINGS = """\
base-dir = {data}
node-name = "demo"
listen-mode = "tcp"
bind-ip = "127.0.0.1"
bind-port = {node}
disable-telemetry = true
default-num-partitions = 1
rocksdb-total-memory-size = "128 MiB"
log-filter = "warn,octocrab=off"
log-disable-ansi-codes = true

[ingress]
bind-ip = "127.0.0.1"
bind-port = {ingress}

[admin]
bind-ip = "127.0.0.1"
bind-port = {admin}
disable-web-ui = true

[worker.invoker]
tmp-dir = {temporary}
"""
PLAIN = """
[{section}]
rocksdb-disable-wal-compression = true
rocksdb-disable-l0-l1-compression = true
"""
"""Keeps what is stored as it came: the demo searches it."""
SECTIONS = ("worker.storage", "bifrost.local", "log-server", "metadata-server")

PAUSE = 0.05


def find_restate() -> Path:
    """
    Return the restate-server that `make engines` installed, or one of the system.

    Raises:
        DemoFailed: There is none.
    """
    found = next(INSTALLED.glob(BINARY), None) or shutil.which("restate-server")
    if found is None:
        raise DemoFailed("no restate-server is on the PATH: npm install --global @restatedev/restate-server")
    return Path(found)


def write_settings(folder: Path, *, ingress: int, admin: int, node: int) -> Path:
    """Make the folder of a server. Return the file with its settings."""
    folder.mkdir()
    data, temporary = (json.dumps(str(folder.resolve() / name)) for name in ("data", "tmp"))
    settings = folder / "settings.toml"
    plain = "".join(PLAIN.format(section=section) for section in SECTIONS)
    settings.write_text(
        SETTINGS.format(data=data, temporary=temporary, node=node, ingress=ingress, admin=admin) + plain
    )
    return settings


class RestateServer(Child):
    """One process of it."""

    _ingress: aiohttp.ClientSession
    _admin: aiohttp.ClientSession
    _sessions: tuple[aiohttp.ClientSession, ...] = ()

    async def listening(self, *, ingress: int, admin: int) -> None:
        """
        Return once it takes calls.

        Raises:
            DemoFailed: It takes none.
        """
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        self._ingress = aiohttp.ClientSession(f"http://127.0.0.1:{ingress}", timeout=timeout)
        self._admin = aiohttp.ClientSession(f"http://127.0.0.1:{admin}", timeout=timeout)
        self._sessions = (self._ingress, self._admin)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with self._ingress.get("/restate/health", raise_for_status=True):
                            await self.query("SELECT count(*) FROM sys_invocation")
                            return
                    await asyncio.sleep(PAUSE)
        raise DemoFailed(f"{self.name} did not start: {self._last_words() or 'it did not say why'}")

    async def query(self, sql: str) -> list[dict[str, Any]]:
        """
        Return the rows of a query of its admin SQL, once it has a leader for its partition.

        Raises:
            DemoFailed: It answers none.
        """
        headers = {"Accept": "application/json"}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with self._admin.post("/query", json={"query": sql}, headers=headers) as reply:
                        if reply.ok:
                            rows: list[dict[str, Any]] = (await reply.json())["rows"]
                            return rows
                    await asyncio.sleep(PAUSE)
        raise DemoFailed(f"{self.name} answers no query")

    async def register(self, port: int) -> None:
        """Have it call the handlers that are served there."""
        address = {"uri": f"http://127.0.0.1:{port}", "force": True}
        async with self._admin.post("/deployments", json=address, raise_for_status=True):
            pass

    async def send(self, handler: str, argument: str) -> None:
        """Have it begin a call."""
        async with self._ingress.post(f"/{handler}/send", json=argument, raise_for_status=True):
            pass

    async def result(self, workflow: str) -> Any:
        """Return the result of a workflow, `None` if it has none yet."""
        async with self._ingress.get(f"/restate/workflow/{workflow}/output") as reply:
            return await reply.json() if reply.ok else None

    async def aclose(self) -> None:
        """End it, one way or another."""
        for session in self._sessions:
            await session.close()
        await super().aclose()

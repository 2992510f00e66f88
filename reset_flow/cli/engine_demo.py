"""
An onboarding that waits for a reset, while its engine and its worker are killed: `reset-flow demo --engine`.

The engine runs the onboarding; a page, which is a process of its own, carries the reset. The engine is killed with
SIGKILL before the code is typed, and the worker before the password is set. With DBOS, the engine is in the worker.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from reset_flow import Keyring
from reset_flow.cli import disk_inspection
from reset_flow.cli.demo import ANSWER, APP_KEY, DATABASE, FORMS, KEYS, USER, Demo
from reset_flow.cli.processes import PATIENCE, DemoFailed, Worker
from reset_flow.cli.restate_server import RestateServer, find_restate, write_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from reset_flow.cli.processes import Sandbox

__all__ = ["DBOSDemo", "EngineDemo", "RestateDemo"]

T = TypeVar("T")

USER_REF, REF = "employee-17", "onboarding-17"
WELCOMED = "welcomed.txt"
PAUSE = 0.05
OLDEST_SQLITE = (3, 42) if sys.version_info >= (3, 12) else (3, 35)
"""That DBOS 3.4 makes its tables in."""


@attrs.frozen
class Onboarding:
    """
    One onboarding, as its engine has it.

    Attributes:
        status: In the engine's words.
    """

    status: str
    waits: bool
    result: str | None


class EngineDemo(Demo):
    """The demo with an engine."""

    engine: str
    title: str
    kept: str
    """The files of the engine, in the folder of the demo."""

    _sandbox: Sandbox
    _page: Worker
    _worker: Worker
    _workers = 0

    async def play(self) -> None:
        """Play from a new employee to one who is welcome."""
        line = self._timeline
        self._check_installed()
        title = "An onboarding waits for a reset. Engine and worker are killed."
        line.title(f"reset-flow demo --engine {self.engine}", title)
        Keyring.generate().to_file(self._folder / KEYS)
        async with self._processes:
            self._sandbox = await self._open_sandbox()
            old_password = (await self._sandbox.ask("state", user=USER))["password"]
            await self._open_engine()
            self._page = await self._open_process("page", "page")
            await self._next_worker("runs onboardings, with")
            await self._page.read_line()
            line.aside("page", f"where people reset their passwords (process {self._page.pid})")
            line.gap("")
            flow = await self._until_it_waits()
            flow = await self._until_code(flow)
            await self._kill_engine()
            flow = await self._until_password(flow)
            await self._revive_engine()
            await self._show_engine()
            await self._kill(self._worker, "")
            line.gap()
            await self._until_set(flow)
            await self._log_in(self._sandbox, old_password)
            line.gap()
            await self._next_worker("goes on, with")
            await self._until_welcome()
            line.gap("")
            await self._check_broker(self._sandbox)
            self._check_counts()
            self._tell_of_searches()
        line.gap("")
        line.title("Done", f"in {line.seconds:.1f} s: nothing lost, nothing doubled, nothing leaked.")

    # --- the engine

    def _check_installed(self) -> None:
        """Raise ConfigurationError or DemoFailed if something is missing."""
        import_module(f"reset_flow.integrations.{self.engine}")

    async def _open_engine(self) -> None:
        raise NotImplementedError

    async def _kill_engine(self) -> None:
        raise NotImplementedError

    async def _revive_engine(self) -> None:
        raise NotImplementedError

    async def _begin(self) -> None:
        """Begin the onboarding."""
        raise NotImplementedError

    async def _look(self) -> Onboarding:
        raise NotImplementedError

    async def _show_engine(self) -> None:
        async def waits() -> Onboarding | None:
            found = await self._look()
            return found if found.waits and found.result is None else None

        found = await self._until(f"{self.title} does not wait with {REF}", waits)
        self._search()
        self._timeline.detail("engine", f"{REF} of {USER_REF} waits in {self.title} ({found.status.lower()})")
        self._timeline.gap()

    # --- the processes

    async def _next_worker(self, does: str) -> None:
        self._workers += 1
        self._worker = await self._open_process(f"worker {self._workers}", "worker")
        await self._worker.read_line()
        self._timeline.aside(self._worker.name, f"{does} {self.title} (process {self._worker.pid})")

    async def _open_process(self, name: str, role: str) -> Worker:
        """Start a process, which writes a line once it is ready."""
        command = [*self._staging.engine_worker, role]
        process = await Worker.spawn(name, command, self._folder / f"{name.replace(' ', '-')}.log")
        self._processes.push_async_callback(process.aclose)
        process.write_line(
            {
                "service": {
                    "BROKER_URL": self._sandbox.api_url,
                    "BROKER_SECRET": APP_KEY,
                    "STORE": f"sqlite:///{self._database.resolve()}",
                    "KEYS": str((self._folder / KEYS).resolve()),
                },
                "engine": self.engine,
                "people": {USER_REF: USER},
                "welcomed": str((self._folder / WELCOMED).resolve()),
                **self._job(),
            }
        )
        return process

    def _job(self) -> dict[str, Any]:
        raise NotImplementedError

    # --- the steps

    async def _until_it_waits(self) -> dict[str, Any]:
        async def find() -> dict[str, Any] | None:
            return await self._page.do("find", REF)

        await self._begin()
        flow = await self._until("the onboarding started no reset", find)
        self._expect(flow, "requested", "answer")
        self._timeline.step("onboard", f"{USER_REF} is new, and needs a password", flow["state"])
        await self._show_engine()
        return flow

    async def _until_code(self, flow: dict[str, Any]) -> dict[str, Any]:
        line = self._timeline
        self._words["answer"] = ANSWER
        flow = await self._page.do("answer", flow["id"], ANSWER)
        self._expect(flow, "question_answered", "code")
        self._search()
        line.step("answer", "given on the page: a code is sent", flow["state"])
        line.gap()
        return flow

    async def _until_password(self, flow: dict[str, Any]) -> dict[str, Any]:
        line = self._timeline
        self._words["code"] = (await self._sandbox.ask("inbox", user=USER))[-1]["code"]
        flow = await self._page.do("verify", flow["id"], self._words["code"])
        self._expect(flow, "token_issued", "password")
        self._words["token"] = await self._token(self._sandbox)
        self._search()
        line.step("code", f"typed on the page while {self.title} is dead", flow["state"])
        line.gap()
        return flow

    async def _until_set(self, flow: dict[str, Any]) -> None:
        self._words["password"] = f"violet tractor {secrets.token_hex(4)}"
        flow = await self._page.do("set_password", flow["id"], self._words["password"])
        self._expect(flow, "password_set", None)
        self._search()
        self._timeline.step("password", "set on the page while no worker runs", flow["state"])

    async def _until_welcome(self) -> None:
        async def ended() -> Onboarding | None:
            found = await self._look()
            return found if found.result is not None else None

        found = await self._until("the onboarding did not go on", ended)
        if found.result != "password_set":
            raise DemoFailed(f"the onboarding ended with {found.result}, not with password_set")
        self._search()
        self._timeline.gap()
        self._timeline.success("onboard", f"went on by itself: {found.result}, and {USER_REF} is welcome")

    async def _until(self, failure: str, look: Callable[[], Awaitable[T | None]]) -> T:
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            if found := await look():
                return found
            await asyncio.sleep(PAUSE)
        raise DemoFailed(f"{failure} within {PATIENCE:.0f} s")

    # --- the checks

    def _check_counts(self) -> None:
        resets = disk_inspection.count_flows(self._database)
        welcomed = (self._folder / WELCOMED).read_text().splitlines()
        if (resets, welcomed) != (1, [USER_REF]):
            raise DemoFailed(f"there are {resets} resets and {len(welcomed)} welcomes, not 1 and 1")
        self._timeline.check(f"{DATABASE} has 1 reset, and {USER_REF} was welcomed once")

    def _search(self) -> None:
        """Fail if any file of the demo gives the reset away, or the search does not read what the engine keeps."""
        self._searches += 1
        if found := disk_inspection.find_words(self._folder, self._words):
            raise DemoFailed(f"the files can be read: they hold the {', the '.join(found)}")
        ids = {"ref": REF, "user_ref": USER_REF}
        if disk_inspection.find_words(self._folder / self.kept, ids) != list(ids):
            raise DemoFailed(f"the search does not find the ids that {self.title} keeps: it proves nothing")

    def _tell_of_searches(self) -> None:
        files = disk_inspection.database_files(self._folder)
        size = sum(path.stat().st_size for path in files)
        line = self._timeline
        line.check(f"all files were searched {self._searches} times for {', '.join(self._words)}")
        line.check(f"as {FORMS}: nothing in {size:,} bytes of {len(files)} files")
        line.check(f"{REF} and {USER_REF}, which {self.title} keeps, were found by the same search")


class DBOSDemo(EngineDemo):
    """With DBOS, in the worker."""

    engine, title, kept = "dbos", "DBOS", "engine.db"

    def _check_installed(self) -> None:
        super()._check_installed()
        if disk_inspection.SQLITE_VERSION < OLDEST_SQLITE:
            there, needed = (".".join(map(str, version)) for version in (disk_inspection.SQLITE_VERSION, OLDEST_SQLITE))
            raise DemoFailed(f"DBOS needs SQLite {needed} on this Python, which has {there}: try --engine restate")

    async def _open_engine(self) -> None:
        pass

    async def _kill_engine(self) -> None:
        await self._kill(self._worker, ", and DBOS in it")
        self._timeline.gap()

    async def _revive_engine(self) -> None:
        await self._next_worker("goes on, with")

    async def _begin(self) -> None:
        await self._worker.ask("onboard", USER_REF, REF)

    async def _look(self) -> Onboarding:
        return Onboarding(**await self._worker.ask("look", REF))

    def _job(self) -> dict[str, Any]:
        return {"address": f"sqlite:///{(self._folder / self.kept).resolve()}", "port": 0}


class RestateDemo(EngineDemo):
    """With a restate-server beside the worker."""

    engine, title, kept = "restate", "Restate", "restate"

    _binary: Path
    _settings: Path
    _ports: dict[str, int]
    _port: int
    _server: RestateServer
    _servers = 0

    def _check_installed(self) -> None:
        super()._check_installed()
        self._binary = find_restate()

    async def _open_engine(self) -> None:
        self._port = free_port()
        self._ports = {name: free_port() for name in ("ingress", "admin", "node")}
        self._settings = write_settings(self._folder / self.kept, **self._ports)
        await self._next_server("starts, with an empty folder")

    async def _next_server(self, does: str) -> None:
        self._servers += 1
        command = [str(self._binary), "--no-logo", "--config-file", str(self._settings)]
        log = self._folder / f"restate-{self._servers}.log"
        self._server = await RestateServer.spawn(f"restate {self._servers}", command, log, talks=False)
        self._processes.push_async_callback(self._server.aclose)
        await self._server.listening(ingress=self._ports["ingress"], admin=self._ports["admin"])
        self._timeline.aside(self._server.name, f"{does} (process {self._server.pid})")

    async def _kill_engine(self) -> None:
        await self._kill(self._server, "")
        self._timeline.gap()

    async def _revive_engine(self) -> None:
        await self._next_server("starts, with the same folder")

    async def _next_worker(self, does: str) -> None:
        await super()._next_worker(does)
        await self._server.register(self._port)

    async def _begin(self) -> None:
        await self._server.send(f"Onboarding/{REF}/run", USER_REF)

    async def _look(self) -> Onboarding:
        sql = "SELECT status FROM sys_invocation WHERE target_service_name = 'Onboarding'"
        (invocation,) = await self._server.query(sql)
        waiters = await self._server.query("SELECT key FROM state WHERE key = 'waiters'")
        return Onboarding(invocation["status"], bool(waiters), await self._server.result(f"Onboarding/{REF}"))

    def _job(self) -> dict[str, Any]:
        return {"address": f"http://127.0.0.1:{self._ports['ingress']}", "port": self._port}


def free_port() -> int:
    """Return a port that is free at the moment, and that no system gives to outgoing connections by itself."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

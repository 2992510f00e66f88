"""
One reset, killed half-way: the first thing that a newcomer sees. Every line that it prints was checked before.

A sandbox and a worker run as processes of their own. The worker is killed with SIGKILL once it holds the token, another
one goes on from the file, and the broker is asked whether each thing happened exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sqlite3
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs

from reset_flow import Keyring
from reset_flow.cli import disk_inspection
from reset_flow.cli.processes import CHAT, ENGINE_WORKER, SANDBOX, WORKER, Child, DemoFailed, Sandbox, Worker
from reset_flow.cli.screen import console
from reset_flow.cli.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["DemoFailed", "Staging", "play"]

USER, ANSWER = "robert.zak", "Peterson"
APP_KEY = "sandbox"
DATABASE, KEYS = "flows.db", "flows.keys"
ONCE = {"mails_sent": "e-mail", "codes_spent": "code spent", "password_changes": "password change"}
FORMS = "text, UTF-16, hexadecimal, base64"


@attrs.frozen(kw_only=True)
class Staging:
    """
    The parts of the demo; tests replace them to see it fail.

    Attributes:
        kill: Ends the first worker.

        patience: Seconds that a killed worker may take to be gone.
    """

    worker: Sequence[str] = WORKER
    sandbox: Sequence[str] = SANDBOX
    chat: Sequence[str] = CHAT
    engine_worker: Sequence[str] = ENGINE_WORKER
    kill: Callable[[int], None] = attrs.field(default=lambda pid: os.kill(pid, signal.SIGKILL))
    search_works: Callable[[Path, Path], bool] = disk_inspection.search_works
    patience: float = 60.0


def play(keep: Path | None = None, staging: Staging | None = None, show: type[Demo] | None = None) -> None:
    """
    Play the demo, and leave nothing behind but the folder that is to be kept.

    Args:
        show: Another one than the usual.

    Raises:
        DemoFailed: Something that it shows did not happen.
    """
    with _folder(keep) as folder:
        asyncio.run(_interruptible((show or Demo)(folder, staging or Staging())))
    if keep is not None:
        console().print(f"\nThe files are in {keep}.")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="reset-flow-demo-") as name:
            yield Path(name)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if (keep / DATABASE).exists() or (keep / KEYS).exists():
        raise DemoFailed(f"{keep} has files of an earlier demo: choose another folder")
    yield keep


async def _interruptible(demo: Demo) -> None:
    """Play the demo; on a signal that asks the process to end, clean up first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        await demo.play()
    except asyncio.CancelledError:
        if came:
            raise DemoFailed(f"it was ended by {came[0].name}") from None
        raise
    except (aiohttp.ClientError, sqlite3.Error) as error:
        raise DemoFailed(f"the sandbox or the file can't be read: {type(error).__name__}") from None


class Demo:
    """One run of the demo."""

    def __init__(self, folder: Path, staging: Staging) -> None:
        self._folder = folder
        self._staging = staging
        self._database = folder / DATABASE
        self._timeline = Timeline(console())
        self._words = {"login": USER}
        self._searches = 0
        self._processes = AsyncExitStack()

    async def play(self) -> None:
        """Play from a forgotten password to one that works."""
        line = self._timeline
        line.title("reset-flow demo", "One password reset, whose process is killed half-way.")
        async with self._processes:
            sandbox = await self._open_sandbox()
            old_password = (await sandbox.ask("state", user=USER))["password"]
            worker = await self._open_worker(sandbox, 1)
            line.gap("")
            flow = await self._until_token(worker, sandbox)
            await self._kill(worker)
            await self._survived(flow)
            worker = await self._open_worker(sandbox, 2)
            await self._to_the_end(worker, sandbox, flow)
            await self._log_in(sandbox, old_password)
            line.gap("")
            await self._check_broker(sandbox)
            self._check_search()
        line.gap("")
        line.title("Done", f"in {line.seconds:.1f} s: nothing lost, nothing doubled, nothing leaked.")

    # --- the processes

    async def _open_sandbox(self) -> Sandbox:
        sandbox = await Sandbox.spawn("the sandbox", self._staging.sandbox, self._folder / "sandbox.log")
        self._processes.push_async_callback(sandbox.aclose)
        await sandbox.listening()
        self._timeline.aside("broker", f"a sandbox listens on {sandbox.api_url} (process {sandbox.pid})")
        return sandbox

    async def _open_worker(self, sandbox: Sandbox, number: int) -> Worker:
        if number == 1:
            Keyring.generate().to_file(self._folder / KEYS)
        worker = await Worker.spawn(f"worker {number}", self._staging.worker, self._folder / f"worker-{number}.log")
        self._processes.push_async_callback(worker.aclose)
        worker.write_line(
            {
                "BROKER_URL": sandbox.api_url,
                "BROKER_SECRET": APP_KEY,
                "STORE": f"sqlite:///{self._database.resolve()}",
                "KEYS": str((self._folder / KEYS).resolve()),
            }
        )
        where = "a new store" if number == 1 else "the same store"
        self._timeline.aside(worker.name, f"starts on {where}, {DATABASE} (process {worker.pid})")
        return worker

    async def _kill(self, worker: Child, lost: str = "; the token was in its memory") -> None:
        self._staging.kill(worker.pid)
        code = await worker.ended(self._staging.patience)
        if code is None:
            raise DemoFailed(f"{worker.name} was to be killed, and lives")
        if code != -signal.SIGKILL:
            raise DemoFailed(f"{worker.name} ended with {code}, not by signal {signal.SIGKILL:d}")
        self._timeline.crash("kill -9", f"{worker.name} is dead (return code {code}){lost}")

    # --- the steps

    async def _until_token(self, worker: Worker, sandbox: Sandbox) -> dict[str, Any]:
        line = self._timeline
        flow = await worker.do("start", USER)
        self._expect(flow, "requested", "answer")
        line.step("start", f"{USER} forgot the password", flow["state"])
        line.detail("asked", flow["question"] or "")
        self._show_disk(flow)

        self._words["answer"] = ANSWER
        flow = await worker.do("answer", flow["id"], ANSWER)
        self._expect(flow, "question_answered", "code")
        mails = await sandbox.ask("inbox", user=USER)
        if len(mails) != 1:
            raise DemoFailed(f"the inbox has {len(mails)} e-mails, not 1")
        line.step("answer", "given, and taken: a code is sent", flow["state"])
        line.detail("inbox", f"1 e-mail, to {mails[0]['email']}")
        self._show_disk(flow)

        self._words["code"] = mails[0]["code"]
        flow = await worker.do("verify", flow["id"], mails[0]["code"])
        self._expect(flow, "token_issued", "password")
        self._words["token"] = await self._token(sandbox)
        line.step("code", "read in the inbox, exchanged for a token", flow["state"])
        self._show_disk(flow)
        return flow

    async def _token(self, sandbox: Sandbox) -> str:
        calls = [call for call in await sandbox.ask("log", route="exchange") if call["acted"]]
        if len(calls) != 1:
            raise DemoFailed(f"the broker exchanged {len(calls)} codes, not 1")
        token: str = calls[0]["reply"]["Model"]
        return token

    async def _survived(self, flow: dict[str, Any]) -> None:
        row = disk_inspection.read_row(self._database, flow["id"])
        if row is None or (row.clear["state"], row.clear["version"]) != (flow["state"], flow["version"]):
            raise DemoFailed("the store lost the flow with its worker")
        self._show_disk(flow)

    async def _to_the_end(self, worker: Worker, sandbox: Sandbox, before: dict[str, Any]) -> None:
        line = self._timeline
        flow = await worker.do("get", before["id"])
        if flow != before:
            raise DemoFailed("worker 2 found the flow other than worker 1 left it")
        line.gap()
        line.step("found", "exactly as the dead worker left it", flow["state"])
        line.gap()
        self._words["password"] = f"violet tractor {secrets.token_hex(4)}"
        flow = await worker.do("set_password", flow["id"], self._words["password"])
        self._expect(flow, "password_set", None)
        if (await sandbox.ask("state", user=USER))["password"] != self._words["password"]:
            raise DemoFailed("the broker has another password than the one that was set")
        line.step("password", "chosen, set with the token from the file", flow["state"])
        self._show_disk(flow)

    async def _log_in(self, sandbox: Sandbox, old_password: str) -> None:
        new, old = [
            (await sandbox.log_in(APP_KEY, USER, password))["State"]
            for password in (self._words["password"], old_password)
        ]
        if (new, old) != ("Succeeded", "Failed"):
            raise DemoFailed(f"the log-in with the new password {new.lower()}, with the old one {old.lower()}")
        self._timeline.success("log in", "the new password works, the old one does not")

    # --- the checks

    @staticmethod
    def _expect(flow: dict[str, Any], state: str, expects: str | None) -> None:
        if (flow["state"], flow["expects"]) != (state, expects):
            raise DemoFailed(f"the flow is {flow['state']} and expects {flow['expects']}, not {state} and {expects}")

    def _show_disk(self, flow: dict[str, Any]) -> None:
        """Show the row in the file, and fail if anything in the file gives the flow away."""
        row = disk_inspection.read_row(self._database, flow["id"])
        if row is None or row.clear["state"] != flow["state"]:
            raise DemoFailed(f"{DATABASE} does not show the flow as {flow['state']}")
        self._searches += 1
        if found := disk_inspection.find_words(self._database, self._words):
            raise DemoFailed(f"{DATABASE} can be read: it holds the {', the '.join(found)}")
        clear = f"state {row.clear['state']}, version {row.clear['version']}"
        self._timeline.detail("on disk", f"{clear}, and {row.sealed} bytes, unreadable")
        self._timeline.gap()

    async def _check_broker(self, sandbox: Sandbox) -> None:
        state = await sandbox.ask("state", user=USER)
        for key, noun in ONCE.items():
            if state[key] != 1:
                raise DemoFailed(f"the broker counts {state[key]} times {noun!r}, not 1")
        calls = Counter(call["route"] for call in await sandbox.ask("log"))
        sent = {route: calls[route] for route in ("request", "exchange", "update")}
        if set(sent.values()) != {1}:
            raise DemoFailed(f"the broker was called {sent}, not once each")
        self._timeline.check(f"the broker counts 1 {', 1 '.join(ONCE.values())}")

    def _check_search(self) -> None:
        files = disk_inspection.database_files(self._database)
        size = sum(path.stat().st_size for path in files)
        if not self._staging.search_works(self._database, self._folder / "planted.db"):
            raise DemoFailed("the search does not find a word that is there: it proves nothing")
        words, noun = ", ".join(self._words), "file" if len(files) == 1 else "files"
        self._timeline.check(f"{DATABASE} was searched {self._searches} times for {words}")
        self._timeline.check(f"as {FORMS}: nothing in {size:,} bytes of {len(files)} {noun}")
        self._timeline.check("a word planted in a copy was found by the same search")

"""A sandbox in a thread, a folder with settings, and the command line in this process."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from reset_flow.cli import main
from reset_flow.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUESTION, ANSWER = "Wie hieß die Straße?", "Königsallee 7 ½"


@attrs.frozen
class Ran:
    """What came of a command line."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    def refused(self, status: int, *words: str) -> None:
        """It was one line that names these words, with that status, and no output."""
        assert (self.status, self.out) == (status, ""), self.err
        assert self.err.startswith("reset-flow: ")
        assert self.err.count("\n") == 1
        for word in words:
            assert word in self.err


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    sandbox = Sandbox()

    async def serve() -> None:
        async with sandbox:
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield sandbox
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def user(sandbox: Sandbox) -> str:
    login = f"jörg.{uuid.uuid4().hex[:12]}"
    return sandbox.add_user(login, question=QUESTION, answer=ANSWER).login


@pytest.fixture
def home(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose settings lead to the sandbox."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESET_FLOW_BROKER_URL", sandbox.api_url)
    monkeypatch.setenv("RESET_FLOW_APP_KEY", "sandbox")
    for name in ("REVISION", "STORE", "KEYS", "REALM"):
        monkeypatch.delenv(f"RESET_FLOW_{name}", raising=False)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, home: Path) -> Callable[..., Ran]:
    """The command line, with this on standard input."""
    assert home.is_dir()

    def run(*arguments: str, given: bytes | str = b"") -> Ran:
        raw = given.encode() if isinstance(given, str) else given
        streams = [io.TextIOWrapper(io.BytesIO(data), encoding="utf-8") for data in (raw, b"", b"")]
        with monkeypatch.context() as patch:
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            status = main(arguments)
        for stream in streams[1:]:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode() for stream in streams[1:])
        return Ran(status, out, err)

    return run


@pytest.fixture
def shell(home: Path) -> Callable[..., Ran]:
    """The command line as a process."""
    assert home.is_dir()

    def shell(*arguments: str, **options: Any) -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "reset_flow.cli", *arguments],
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 30, **options},
        )
        return Ran(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())

    return shell


@pytest.fixture
def at(run: Callable[..., Ran], sandbox: Sandbox, user: str) -> Callable[[str], str]:
    """The id of a new flow of the user's that stands in this state."""

    def at(state: str) -> str:
        flow_id: str = run("start", user, "--json").json["id"]
        if state != "requested":
            run("answer", flow_id, "--json", given=ANSWER)
        if state in ("token_issued", "password_set"):
            run("code", flow_id, "--json", given=sandbox.newest_code(user))
        if state == "password_set":
            run("password", flow_id, "--json", given="violet tractor 5")
        assert run("show", flow_id, "--json").json["state"] == state
        return flow_id

    return at

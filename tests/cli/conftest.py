"""A sandbox in a thread, a folder with settings, and the command line in this process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import select
import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

import attrs
import pytest

from reset_flow.cli import main
from reset_flow.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

QUESTION, ANSWER = "Wie hieß die Straße?", "Königsallee 7 ½"
AT_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as at a terminal; who runs in the background is told to ignore it
os.login_tty(0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
PATIENCE = 120.0


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


class Run(Protocol):
    """The command line in this process, with this on standard input."""

    def __call__(self, *arguments: str, given: bytes | str = b"") -> Ran: ...


class Shell(Protocol):
    """The command line as a process."""

    def __call__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
    ) -> Ran: ...


class At(Protocol):
    """Brings a new flow to a state."""

    def __call__(self, state: str) -> str: ...


class Terminal:
    """What a person sees, and the keys under their fingers."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self.seen = ""

    def wait_for(self, text: str) -> None:
        start = len(self.seen)
        while text not in self.seen[start:]:
            piece = self._read()
            assert piece, self.seen
            self.seen += piece

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def status(self) -> int:
        while piece := self._read():
            self.seen += piece
        return self._process.wait(PATIENCE)

    def _read(self) -> str:
        readable, _, _ = select.select([self._master], [], [], PATIENCE)
        assert readable, f"nothing more comes after {self.seen!r}"
        try:
            return os.read(self._master, 4096).decode()
        except OSError:  # Linux says so when nobody has the other end any more
            return ""


class OpensTerminal(Protocol):
    """The command line as a process at a terminal of its own."""

    def __call__(self, *arguments: str, module: str = "reset_flow.cli") -> AbstractContextManager[Terminal]: ...


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
    for name in ("BROKER_NAME", "BROKER_ALIASES", "PROXY", "REVISION", "STORE", "KEYS", "REALM", "WEBHOOK_URL"):
        monkeypatch.delenv(f"RESET_FLOW_{name}", raising=False)
    return tmp_path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo's folders are made; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, home: Path) -> Run:
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
def shell(home: Path) -> Shell:
    assert home.is_dir()

    def shell(
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
    ) -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "reset_flow.cli", *arguments],
            check=False,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=preexec_fn,
            timeout=120,
        )
        return Ran(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())

    return shell


@pytest.fixture
def terminal(home: Path) -> OpensTerminal:
    assert home.is_dir()

    @contextmanager
    def terminal(*arguments: str, module: str = "reset_flow.cli") -> Iterator[Terminal]:
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, "-m", module, *arguments],
            stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "NO_COLOR": "1", "TERM": "xterm"},
        ) as process:  # fmt: skip
            os.close(slave)
            try:
                yield Terminal(master, process)
            finally:
                process.kill()
                os.close(master)

    return terminal


@pytest.fixture
def at(run: Run, sandbox: Sandbox, user: str) -> At:
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

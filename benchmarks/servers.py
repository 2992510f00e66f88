"""
Throw-away servers on loopback, for tests and measurements: each is gone with the process that started it, however that
ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.binaries import find_postgres, find_redis, provided, unprivileged

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PostgresServer", "RedisServer", "children", "postgres", "redis"]

PATIENCE = 30.0
PAUSE = 0.02

# Waits until whoever started it is gone in whatever way, since that closes its standard input, and then clears up.
WATCH = """
trap '' HUP INT TERM
cat >/dev/null
if pid=$(cat "$1/pid" 2>/dev/null); then
    kill "-$2" "$pid" 2>/dev/null
    n=0
    while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 100 ]; do n=$((n + 1)); sleep 0.05; done
fi
rm -rf "$1"
"""


class Server:
    """
    A server of one's own. What it was told is kept from one start to the next.

    The methods block until the server is up or down: under load, call them in a thread.

    Args:
        user: Whom to run it as, where that may be chosen.

        settings: What goes before the settings that it has here.
    """

    name: str
    gentle: signal.Signals
    """Ends it in good order, whoever is connected."""
    rough: signal.Signals
    """Ends it fast, without leaving anything in the system."""

    def __init__(self, binary: Path, user: str | None, settings: Mapping[str, Any] | None = None) -> None:
        self.binary = binary
        self.settings = dict(settings or {})
        self.password = secrets.token_hex(8)
        self.port = free_port()
        self._as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"reset-flow-{self.name}-", dir=enterable_folder()))
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "watch", str(self.folder), self.rough.name.removeprefix("SIG")],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if user:
            shutil.chown(self.folder, user, user)

    @property
    def url(self) -> str:
        """Where the library finds it."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        assert self._process is None, "it runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started it
                **self._as_user,
            )
        (self.folder / "pid").write_text(str(process.pid))
        for _ in range(int(PATIENCE / PAUSE)):
            with suppress(subprocess.TimeoutExpired):
                process.wait(PAUSE)
                self._process = None
                raise RuntimeError(f"{self.name} did not start:\n{self.log}")
            if self.is_ready():
                return
        self._end(signal.SIGKILL)
        raise RuntimeError(f"{self.name} did not start in {PATIENCE:.0f} s:\n{self.log}")

    def ensure(self) -> None:
        """Start it where it was left down."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is None:
            self.start()

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(self.gentle)

    def kill(self) -> None:
        """SIGKILL: it has no time for anything."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in good order, and start it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it, and leave nothing behind."""
        if self._process is not None:
            self._end(self.rough)
        self._watch.communicate()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        family = children(process.pid) if how is signal.SIGKILL else []
        process.send_signal(how)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE)
        (self.folder / "pid").unlink(missing_ok=True)


class PostgresServer(Server):
    """PostgreSQL, its cluster made anew."""

    name = "postgres"
    gentle = signal.SIGINT
    rough = signal.SIGQUIT

    def __init__(self, binary: Path, user: str | None, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(binary, user, settings)
        self._data = self.folder / "data"
        password = self.folder / "password"
        password.write_text(self.password)
        # The server flushes what it commits, as anywhere; only the making of the empty cluster need not.
        make = [str(binary.parent / "initdb"), "--no-sync", "--username=postgres", f"--pwfile={password}"]
        make += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", f"--pgdata={self._data}"]
        done = subprocess.run(make, cwd=self.folder, capture_output=True, check=False, text=True, **self._as_user)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "log_min_messages": "fatal",
            **self.settings,
        }
        return [str(self.binary), "-D", str(self._data), *(f"--{name}={value}" for name, value in settings.items())]

    def start(self) -> None:
        # Left behind by a SIGKILL, it would say "ready" for the one before.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def is_ready(self) -> bool:
        with suppress(FileNotFoundError):
            return "\nready" in (self._data / "postmaster.pid").read_text()
        return False


class RedisServer(Server):
    """Redis, with an append-only file that is flushed at each write."""

    name = "redis"
    gentle = signal.SIGTERM
    rough = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "dir": self.folder,
            **self.settings,
        }
        return [str(self.binary), *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\r\n") < 2 and (piece := connection.recv(256)):
                    reply += piece
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def enterable_folder() -> str:
    """Where temporary folders are made that another user can enter."""
    for folder in (tempfile.gettempdir(), "/var/tmp", "/tmp"):  # noqa: S108 - `mkdtemp` makes names inside
        path = Path(folder).resolve()
        if path.is_dir() and all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents)):
            return str(path)
    return tempfile.gettempdir()


def children(pid: int) -> list[int]:
    """Its child processes, where the system tells."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def postgres(settings: Mapping[str, Any] | None = None) -> PostgresServer:
    """
    One that is yet to be started, installed if need be.

    Raises:
        NoServerError: There is none.
    """
    return PostgresServer(provided("postgresql", find_postgres), unprivileged(), settings)


def redis(settings: Mapping[str, Any] | None = None) -> RedisServer:
    """
    One that is yet to be started, installed if need be.

    Raises:
        NoServerError: There is none.
    """
    return RedisServer(provided("redis-server", find_redis), None, settings)

"""
Temporary servers on loopback, for tests and measurements. Each ends with the process that started it, even if that
process is killed.
"""

from __future__ import annotations

import json
import os
import random
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
from urllib.request import Request, urlopen

from benchmarks.binaries import (
    NoServerError,
    find_pgbouncer,
    find_postgres,
    find_redis,
    find_restate,
    provided,
    unprivileged,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PgBouncer",
    "PostgresServer",
    "PostgresStandby",
    "RedisSentinel",
    "RedisServer",
    "RestateServer",
    "children",
    "pgbouncer",
    "postgres",
    "redis",
    "restate",
]

PATIENCE = 120.0
PAUSE = 0.02

# Waits for the end of its parent, which closes its standard input in any case, and then cleans up.
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
    A server for one test run. Its data outlive a restart.

    Methods block until the server is up or down: in an event loop, call them in a thread.

    Args:
        user: The user to run it as, if this process is root.

        settings: Take precedence over the default settings.
    """

    name: str
    gentle: signal.Signals
    """Shuts it down cleanly, even with open connections."""
    rough: signal.Signals
    """Ends it fast, and leaves nothing behind in the system."""

    def __init__(self, binary: Path, user: str | None, settings: Mapping[str, Any] | None = None) -> None:
        self.binary = binary
        self.user = user
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
        """The URL of the store."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Id of its main process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """Its output."""
        return (self.folder / "log").read_text(errors="replace")

    def command(self) -> list[str]:
        """Return the command that starts it."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Return True if it accepts connections."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        assert self._process is None, "it runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach it
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
        """Start it if it is down."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is None:
            self.start()

    def stop(self) -> None:
        """Shut it down cleanly."""
        self._end(self.gentle)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Shut it down cleanly, and start it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it, and remove its data."""
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
    """PostgreSQL with a new cluster."""

    name = "postgres"
    gentle = signal.SIGINT
    rough = signal.SIGQUIT

    def __init__(self, binary: Path, user: str | None, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(binary, user, settings)
        self._create()

    def _create(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        # Only the creation of the empty cluster skips flushes; the server itself flushes its commits.
        make = ["initdb", "--no-sync", "--username=postgres", f"--pwfile={password}"]
        self._run(*make, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", f"--pgdata={self.data}")

    def _run(self, program: str, *arguments: str, **environment: str) -> None:
        """Run a program of PostgreSQL's, which must succeed."""
        done = subprocess.run(
            [str(self.binary.parent / program), *arguments],
            cwd=self.folder, capture_output=True, check=False, text=True, env=os.environ | environment,
            **self._as_user,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    @property
    def data(self) -> Path:
        """All that it stores."""
        return self.folder / "data"

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
        return [str(self.binary), "-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]

    def start(self) -> None:
        # After a SIGKILL, the old file would still say "ready".
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def is_ready(self) -> bool:
        with suppress(FileNotFoundError):
            return "\nready" in (self.data / "postmaster.pid").read_text()
        return False


class PostgresStandby(PostgresServer):
    """A standby of a primary that runs. Once it is promoted, it waits for no standby of its own."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__(primary.binary, primary.user, {**primary.settings, "synchronous_standby_names": ""})
        self.password = primary.password

    def _create(self) -> None:
        source = f"host=127.0.0.1 port={self._primary.port} user=postgres application_name=standby"
        make = ["pg_basebackup", "--no-sync", "--checkpoint=fast", "--write-recovery-conf", f"--dbname={source}"]
        self._run(*make, f"--pgdata={self.data}", PGPASSWORD=self._primary.password)

    @property
    def is_standby(self) -> bool:
        """Return True if it was not promoted."""
        return (self.data / "standby.signal").exists()

    def promote(self) -> None:
        """Make it a primary, and wait until it is one."""
        self._run("pg_ctl", "promote", f"--pgdata={self.data}")


class PgBouncer(Server):
    """A pooler in front of a PostgreSQL."""

    name = "pgbouncer"
    gentle = rough = signal.SIGTERM

    def __init__(self, binary: Path, target: PostgresServer, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(binary, target.user, settings)
        self.password = target.password
        users = self.folder / "users"
        users.write_text(f'"postgres" "{target.password}"\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": "transaction",
            **self.settings,
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={target.port}", "[pgbouncer]"]
        (self.folder / "config").write_text("\n".join([*lines, *(f"{each} = {options[each]}" for each in options), ""]))

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        return [str(self.binary), str(self.folder / "config")]

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class RedisServer(Server):
    """Redis with an append-only file that is flushed at each write."""

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


class RedisSentinel(Server):
    """Watches a Redis, and promotes its replica half a second after it has gone."""

    name = "sentinel"
    gentle = signal.SIGTERM
    rough = signal.SIGKILL

    def __init__(self, watched: RedisServer) -> None:
        super().__init__(watched.binary, None)
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}",
            f"sentinel monitor watched 127.0.0.1 {watched.port} 1", f"sentinel auth-pass watched {watched.password}",
            "sentinel down-after-milliseconds watched 500", "sentinel failover-timeout watched 3000",
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join([*lines, ""]))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(self.binary), str(self.folder / "config"), "--sentinel"]

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class RestateServer(Server):
    """Restate on one node. Settings are lines of its configuration, such as `{"worker.invoker": "…"}`."""

    name = "restate"
    gentle = signal.SIGTERM
    rough = signal.SIGKILL

    def __init__(self, binary: Path, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(binary, None, settings)
        self._admin, self._node = free_port(), free_port()
        (self.folder / "config.toml").write_text(self._configuration())

    def _configuration(self) -> str:
        sections: dict[str, dict[str, Any]] = {
            "": {
                "base-dir": str(self.data),
                "node-name": "node",
                "listen-mode": "tcp",
                "bind-ip": "127.0.0.1",
                "bind-port": self._node,
                "disable-telemetry": True,
                "default-num-partitions": 4,
                "rocksdb-total-memory-size": "128 MiB",
                "log-filter": "warn,restate=info,octocrab=off",  # which looks on GitHub for a newer release
                "log-disable-ansi-codes": True,
            },
            "ingress": {"bind-ip": "127.0.0.1", "bind-port": self.port},
            "admin": {"bind-ip": "127.0.0.1", "bind-port": self._admin, "disable-web-ui": True},
        }
        for name, value in self.settings.items():
            section, _, key = name.rpartition(".")
            sections.setdefault(section, {})[key] = value
        return "\n".join(
            line
            for section, values in sections.items()
            for line in (f"[{section}]" * bool(section), *(f"{key} = {json.dumps(values[key])}" for key in values))
        )

    @property
    def data(self) -> Path:
        """All that it stores."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """Of its ingress, where handlers are called."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Of its admin API."""
        return f"http://127.0.0.1:{self._admin}"

    def command(self) -> list[str]:
        return [str(self.binary), "--no-logo", "--config-file", str(self.folder / "config.toml")]

    def is_ready(self) -> bool:
        with suppress(OSError):  # of which an HTTP status is one, too
            urlopen(f"{self.url}/restate/health", timeout=5).close()  # noqa: S310 - on loopback
            self.query("SELECT count(*) FROM sys_invocation")  # fails until each partition has a leader
            return True
        return False

    def register(self, url: str) -> None:
        """Have it call the handlers that are served there. A newer deployment takes the place of an older one."""
        self._ask("deployments", {"uri": url, "force": True})

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query of its admin SQL."""
        rows: list[dict[str, Any]] = self._ask("query", {"query": sql})["rows"]
        return rows

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = Request(  # noqa: S310 - on loopback
            f"{self.admin_url}/{path}",
            data=json.dumps(body).encode(),
            headers={"accept": "application/json", "content-type": "application/json"},
        )
        with urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - on loopback
            return json.load(reply)


def free_port() -> int:
    """Return a port that is free at the moment, and that no system gives to outgoing connections by itself."""
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - no secret
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def enterable_folder() -> str:
    """Return a folder for temporary folders that another user can enter."""
    for folder in (tempfile.gettempdir(), "/var/tmp", "/tmp"):  # noqa: S108 - `mkdtemp` makes names inside
        path = Path(folder).resolve()
        if path.is_dir() and all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents)):
            return str(path)
    return tempfile.gettempdir()


def children(pid: int) -> list[int]:
    """Return the ids of the child processes, if the system reports them."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def postgres(settings: Mapping[str, Any] | None = None) -> PostgresServer:
    """
    Return a PostgreSQL that is not started yet. Install it if it is missing.

    Raises:
        NoServerError: It cannot be installed.
    """
    return PostgresServer(provided("postgresql", find_postgres), unprivileged(), settings)


def pgbouncer(target: PostgresServer, settings: Mapping[str, Any] | None = None) -> PgBouncer:
    """
    Return a PgBouncer that is not started yet, in front of a server. Install it if it is missing.

    Raises:
        NoServerError: It cannot be installed.
    """
    return PgBouncer(provided("pgbouncer", find_pgbouncer), target, settings)


def redis(settings: Mapping[str, Any] | None = None) -> RedisServer:
    """
    Return a Redis that is not started yet. Install it if it is missing.

    Raises:
        NoServerError: It cannot be installed.
    """
    return RedisServer(provided("redis-server", find_redis), None, settings)


def restate(settings: Mapping[str, Any] | None = None) -> RestateServer:
    """
    Return a Restate that is not started yet.

    Raises:
        NoServerError: It is not installed.
    """
    binary = find_restate()
    if binary is None:
        raise NoServerError("no restate-server on this machine: `make engines` installs it")
    return RestateServer(binary, settings)

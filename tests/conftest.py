"""
Real servers on loopback, each started for one test run and gone with it, however the run ends.

- `RESET_FLOW_TEST_POSTGRES`, `RESET_FLOW_TEST_REDIS`: the URL of a server of one's own, taken instead. PostgreSQL: of a
  user that may create databases. Redis: of an empty database, which is emptied after each test.
- `RESET_FLOW_TEST_INSTALL=0`: install no missing server (with `apt-get`, as root).
- `RESET_FLOW_TEST_REQUIRE_SERVERS=1`: fail where a test would be skipped for want of a server.
"""

from __future__ import annotations

import fcntl
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
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
PATIENCE = 30.0
PAUSE = 0.02

# Waits until the test run is gone in whatever way, since that closes its standard input, then clears up behind it.
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

POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether they may start their service; 101 means that they may not."""


def without(what: str) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if os.environ.get("RESET_FLOW_TEST_REQUIRE_SERVERS", "0") not in ("", "0"):
        pytest.fail(f"{what} (RESET_FLOW_TEST_REQUIRE_SERVERS is set)", pytrace=False)
    pytest.skip(what)


class OwnServer:
    """A server that somebody else runs: it is used, not touched."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self._name = name

    def _refuse(self) -> NoReturn:
        without(f"a server that is run by somebody else ({self._name}) is not stopped for a test")

    start = stop = kill = restart = _refuse

    def ensure(self) -> None:
        """It runs, or the test will say so."""


class Server:
    """
    A server that the test run started. What it was told is kept from one start to the next.

    The methods block until the server is up or down: under load, call them in a thread.
    """

    name: str
    gentle: signal.Signals
    """Ends it in good order, whoever is connected."""
    rough: signal.Signals
    """Ends it fast, without leaving anything in the system."""

    def __init__(self, binary: Path, user: str | None) -> None:
        self.binary = binary
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
        raise NotImplementedError

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
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
                start_new_session=True,  # Ctrl-C is for the test run
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
        """Start it where an earlier test left it down."""
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
        self.stop()
        self.start()

    def close(self) -> None:
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
    name = "postgres"
    gentle = signal.SIGINT
    rough = signal.SIGQUIT

    def __init__(self, binary: Path, user: str | None) -> None:
        super().__init__(binary, user)
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
            "shared_buffers": "32MB",
            "timezone": "Pacific/Chatham",  # whoever takes local time for UTC is found out, by 45 minutes at least
            "autovacuum": "off",  # it wakes up in the middle of what is measured
            "log_min_messages": "fatal",
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


def find_postgres() -> Path | None:
    """The newest one; most systems keep it out of the search path."""
    found = [path for folder in POSTGRES_FOLDERS for path in Path("/").glob(f"{folder[1:]}/postgres")]
    newest = max(found, key=lambda path: [int(part) for part in path.parts[-3].split("-")[-1].split(".")], default=None)
    on_path = shutil.which("postgres")
    if newest is None and on_path and Path(on_path).resolve().with_name("initdb").exists():
        return Path(on_path).resolve()
    return newest


def find_redis() -> Path | None:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def install(package: str) -> str:
    """Have the system install a package, its service left alone. -> why it did not, if so"""
    if os.environ.get("RESET_FLOW_TEST_INSTALL", "1") == "0":
        return "RESET_FLOW_TEST_INSTALL is 0"
    if os.geteuid() or shutil.which("apt-get") is None:
        return "it could be installed only as root, with apt-get"
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            done = subprocess.run([*apt, *command], env=environment, capture_output=True, check=False, text=True)
        return "" if done.returncode == 0 else f"apt-get install {package} failed: {done.stderr.strip()[-500:]}"
    finally:
        if ours:
            POLICY.unlink()


def provided(package: str, find: Any) -> Path:
    """The server's binary, installed if need be. Of several test processes, one does it."""
    why = ""
    with (Path(tempfile.gettempdir()) / f"reset-flow-install-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        binary: Path | None = find()
        if binary is None:
            why = install(package)
            binary = find()
    if binary is None:
        without(f"no {package} on this machine: {why or 'it was installed, but where?'}")
    return binary


def unprivileged() -> str | None:
    """Whom to run a server as that refuses to be run by root."""
    if os.geteuid():
        return None
    import pwd  # noqa: PLC0415 - only some systems have it

    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer | OwnServer]:
    """One PostgreSQL for the run. A test that stops it need not start it again."""
    if url := os.environ.get("RESET_FLOW_TEST_POSTGRES"):
        yield OwnServer(url, "RESET_FLOW_TEST_POSTGRES")
        return
    server = PostgresServer(provided("postgresql", find_postgres), unprivileged())
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer | OwnServer) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped after the test, whoever is still connected."""
    try:
        import asyncpg  # noqa: PLC0415 - not installed with every set of extras
    except ImportError:
        without("asyncpg is not installed: pip install 'reset-flow[postgres]'")
    postgres_server.ensure()
    name = f"reset_flow_test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    finally:
        await connection.close()
    yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
    postgres_server.ensure()
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer | OwnServer]:
    """One Redis for the run. A test that stops it need not start it again."""
    if url := os.environ.get("RESET_FLOW_TEST_REDIS"):
        yield OwnServer(url, "RESET_FLOW_TEST_REDIS")
        return
    server = RedisServer(provided("redis-server", find_redis), None)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer | OwnServer) -> Iterator[str]:
    """The URL of an empty Redis database, emptied again after the test; scripts are forgotten as well."""
    try:
        import redis  # noqa: PLC0415 - not installed with every set of extras
    except ImportError:
        without("redis is not installed: pip install 'reset-flow[redis]'")
    redis_server.ensure()
    with redis.Redis.from_url(redis_server.url) as client:
        if client.dbsize():
            pytest.fail("the Redis database is not empty: give the tests one that is", pytrace=False)
    yield redis_server.url
    redis_server.ensure()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        client.script_flush()

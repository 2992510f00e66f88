"""Find the binaries of servers, and install a missing one."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NoServerError",
    "find_pgbouncer",
    "find_postgres",
    "find_program",
    "find_redis",
    "find_restate",
    "provided",
    "unprivileged",
]

POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")

ENGINES = Path(__file__).parents[1] / ".engines"
"""What `make engines` installs."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""Asked by Debian's packages before they start their service; 101 forbids it."""


class NoServerError(Exception):
    """The server is not on this machine, and cannot be installed."""


def find_postgres() -> Path | None:
    """Return the newest PostgreSQL. Most systems keep it out of the search path."""
    found = [path for folder in POSTGRES_FOLDERS for path in Path("/").glob(f"{folder[1:]}/postgres")]
    newest = max(found, key=lambda path: [int(part) for part in path.parts[-3].split("-")[-1].split(".")], default=None)
    on_path = shutil.which("postgres")
    if newest is None and on_path and Path(on_path).resolve().with_name("initdb").exists():
        return Path(on_path).resolve()
    return newest


def find_redis() -> Path | None:
    """Return Redis or Valkey."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


def find_program(name: str) -> Path | None:
    """Return a program. Debian keeps some where only root looks."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return Path(found) if found else None


def find_pgbouncer() -> Path | None:
    """Return PgBouncer."""
    return find_program("pgbouncer")


def find_restate() -> Path | None:
    """Return the Restate server that `make engines` installed, or one of the system."""
    found = next(ENGINES.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"), None)
    return found or find_program("restate-server")


def install(package: str) -> str:
    """Install a package of the system without starting its service. Return the reason if that fails, else `""`."""
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


def provided(package: str, find: Callable[[], Path | None]) -> Path:
    """
    Return the server's binary, and install it if it is missing. Of several processes, one does so.

    Raises:
        NoServerError: It cannot be installed.
    """
    why = ""
    with (Path(tempfile.gettempdir()) / f"reset-flow-install-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        binary = find()
        if binary is None:
            why = install(package)
            binary = find()
    if binary is None:
        raise NoServerError(f"no {package} on this machine: {why or 'it was installed, but where?'}")
    return binary


def unprivileged() -> str | None:
    """Return a user for a server that refuses to run as root, or `None` if this process is not root."""
    if os.geteuid():
        return None
    import pwd  # noqa: PLC0415 - only some systems have it

    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"

"""The binaries of servers: where systems keep them, and how to have a missing one installed."""

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

__all__ = ["NoServerError", "find_postgres", "find_redis", "provided", "unprivileged"]

POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")

POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether they may start their service; 101 means that they may not."""


class NoServerError(Exception):
    """There is no such server on this machine, nor can it be had."""


def find_postgres() -> Path | None:
    """The newest one; most systems keep it out of the search path."""
    found = [path for folder in POSTGRES_FOLDERS for path in Path("/").glob(f"{folder[1:]}/postgres")]
    newest = max(found, key=lambda path: [int(part) for part in path.parts[-3].split("-")[-1].split(".")], default=None)
    on_path = shutil.which("postgres")
    if newest is None and on_path and Path(on_path).resolve().with_name("initdb").exists():
        return Path(on_path).resolve()
    return newest


def find_redis() -> Path | None:
    """Redis or Valkey."""
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


def provided(package: str, find: Callable[[], Path | None]) -> Path:
    """
    The server's binary, installed if need be. Of several processes, one does it.

    Raises:
        NoServerError: It can't be had.
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
    """Whom to run a server as that refuses to be run by root."""
    if os.geteuid():
        return None
    import pwd  # noqa: PLC0415 - only some systems have it

    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"

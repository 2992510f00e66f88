"""The context of the figures: date, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.binaries import find_postgres, find_redis
from benchmarks.places import DURABILITY

__all__ = ["facts", "keep", "sentence"]

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("aiohttp", "asyncpg", "attrs", "cryptography", "msgspec", "redis", "transitions", "yarl")


def facts() -> dict[str, Any]:
    """Return all facts."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu(),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "servers": {
            "sqlite": sqlite3.sqlite_version,
            "postgres": _server_version(find_postgres()),
            "redis": _server_version(find_redis()),
        },
        "durability": DURABILITY,
        "load_before": round(os.getloadavg()[0], 2),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
    }


def sentence(known: dict[str, Any]) -> str:
    """Return the most important facts as a sentence."""
    return (
        f"{known['date']}: {known['cpu']}, {known['cores']} cores, {known['kernel']}, Python {known['python']}, "
        f"aiohttp {known['libraries'].get('aiohttp')}"
    )


def keep(name: str, figures: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write the figures to a file named after their date, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{figures['facts']['date']}{name}.json"
    path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return path


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _server_version(binary: Path | None) -> str | None:
    """Return the first number with a dot in the output of `--version`."""
    if binary is None:
        return None
    done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return found[0] if found else None

"""Count the flushes to disk of a store with `strace`, in a run of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.places import Place

__all__ = ["HOW", "flushes"]

HOW = {
    "memory": "none",
    "sqlite": "strace of the process, in a shorter run of its own; includes opening and closing",
    "postgres": "pg_stat_wal or pg_stat_io of the server",
    "redis": "strace of the server, in a shorter run of its own",
}
TRACED = ["-f", "-c", "-e", "trace=fsync,fdatasync"]
SETTLING = 0.3


def flushes(place: Place, options: dict[str, Any]) -> float | None:
    """Return the flushes per flow, or `None` if they cannot be counted here. PostgreSQL counts its own."""
    tracer = shutil.which("strace")
    if tracer is None or place.store not in ("sqlite", "redis"):
        return 0.0 if place.store == "memory" else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "calls"
        if place.store == "sqlite":
            figures = fresh("driver", options, before=(tracer, "--seccomp-bpf", *TRACED, "-o", str(out)))
        else:
            with _attached(tracer, place.pids[0], out):
                figures = fresh("driver", options)
        return _counted(out) / float(figures["total"])


@contextmanager
def _attached(tracer: str, pid: int, out: Path) -> Iterator[None]:
    process = subprocess.Popen([tracer, *TRACED, "-o", str(out), "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(SETTLING)
        yield
    finally:
        process.terminate()
        process.wait()


def _counted(out: Path) -> int:
    rows = re.findall(
        r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(?:fsync|fdatasync)$", out.read_text(), re.MULTILINE
    )
    return sum(map(int, rows))

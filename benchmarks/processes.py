"""New processes, each on a core of its own if there are two, and the resources that processes have used."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["family_cpu", "fresh", "pin_driver", "pin_servers", "resident", "together", "wait_for_the_others", "written"]

ROOT = Path(__file__).parents[1]
PATIENCE = 3600.0

# Else glibc adapts the threshold at run time, and may or may not map and unmap a receive buffer for each read.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072"}

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _pin(core: int) -> None:
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[core]})


def pin_servers() -> None:
    """Pin this process, and all that it starts, to the first core."""
    _pin(0)


def pin_driver() -> None:
    """Pin this process to the last core, or to the cores that its parent names."""
    if cores := os.environ.get("BENCHMARKS_CORES"):
        os.sched_setaffinity(0, set(map(int, cores.split(","))))
    else:
        _pin(-1)


def fresh(module: str, options: dict[str, Any], before: tuple[str, ...] = ()) -> dict[str, Any]:
    """
    Run one of our modules in a process of its own, and return the JSON of its last line.

    Args:
        before: A command to run it under, such as a tracer.
    """
    return _result_of(_start(module, options, before))


def together(module: str, each: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run several processes, one for each of the options, on any core. None begins before all are ready."""
    started = [_start(module, options, anywhere=True) for options in each]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [_result_of(process) for process in started]


def wait_for_the_others() -> None:
    """Wait until all processes that were started together are ready."""
    print("ready", flush=True)
    sys.stdin.readline()


def _start(
    module: str, options: dict[str, Any], before: tuple[str, ...] = (), *, anywhere: bool = False
) -> subprocess.Popen[str]:
    environment = {**os.environ, **ALLOCATOR}
    if len(CORES) > 1:
        environment["BENCHMARKS_CORES"] = ",".join(map(str, CORES if anywhere else CORES[-1:]))
    command = [*before, sys.executable, "-m", f"benchmarks.{module}", json.dumps(options)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError("a process of the measurement failed: its output stands above")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def family_cpu(pids: list[int]) -> float:
    """Return the seconds of CPU of these processes and all their descendants; 0 if the system does not report it."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            pid = int(path.parent.name)
            children.setdefault(int(fields[1]), []).append(pid)
            used[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    seen: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            waiting += children.get(pid, [])
    return sum(used.get(pid, 0.0) for pid in seen)


def resident(*, trimmed: bool = False) -> int:
    """
    Return the resident memory of this process, in bytes.

    Args:
        trimmed: Whether what is free goes back to the system before, as far as glibc can.
    """
    if trimmed:
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def written(pid: int | str = "self") -> int:
    """Return the bytes that a process has written to disks; 0 if the system does not report it."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("write_bytes")))
    return 0

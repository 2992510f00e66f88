"""The processes of a demo, and a demo that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from benchmarks.servers import children


def processes_of(text: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+)", text)]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def kill_demo(*options: str, at: str) -> list[int]:
    """Kill the demo once it has shown these words. Return its processes, and what else it started, once none lives."""
    command = [sys.executable, "-m", "reset_flow.cli", "demo", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        seen = ""
        while at not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        started = [*processes_of(seen), *children(process.pid)]
        assert not any(map(gone, started))
        process.kill()
    give_up_at = time.monotonic() + 120
    while not all(map(gone, started)):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    return started

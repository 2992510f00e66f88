"""The floor of `benchmarks.web`: the calls to the broker alone, in a process and on the core that the worker has."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.driver import drive, percentile
from benchmarks.processes import pin_driver
from benchmarks.subjects import COMMANDS, Floor

__all__: list[str] = []


async def _measure(root: str, concurrency: int, seconds: float) -> dict[str, Any]:
    latencies: dict[str, list[float]] = {command: [] for command in COMMANDS}
    async with Floor(root) as floor:
        await drive(floor, "cold", concurrency, seconds / 10)
        used = time.process_time()
        flows, took = await drive(floor, "floor", concurrency, seconds, latencies)
        used = time.process_time() - used
    every = [each for values in latencies.values() for each in values]
    return {
        "floor": flows / took,
        "floor_cpu_ms": used / flows * 1e3,
        "floor_p50_ms": percentile(every, 0.5) * 1e3,
        "floor_p99_ms": percentile(every, 0.99) * 1e3,
    }


if __name__ == "__main__":
    pin_driver()
    print(json.dumps(asyncio.run(_measure(**json.loads(sys.argv[1])))))

"""
Measure what it costs that processes of Restate wait for resets: the memory of their worker, beside that of the same
processes parked on a bare promise of Restate's, and the time from the end of a reset to the end of the wait, over each
store.

`python -m benchmarks.waiting [--parked 10000] [--ends 200] [--stores memory,sqlite,postgres,redis]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks import broker, servers
from benchmarks.driver import percentiles
from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.places import STORES, Places
from benchmarks.processes import ALLOCATOR, ROOT, fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.servers import RestateServer

__all__: list[str] = []

KINDS = ("promise", "reset")
AT_ONCE = 64
PAUSE = 0.5
SETTLED = 5
PATIENCE = 1800
SETTINGS = {"worker.invoker.inactivity-timeout": "1s", "worker.invoker.concurrent-invocations-limit": 128}
"""What waits leaves the worker's memory as soon on a promise as on a reset."""
ENOUGH = 0.99
"""Of the waits that are parked at once: who waits for a reset asks by itself, every five minutes and for a second."""
MIB = 2**20
MOST = 20 * MIB
"""What 10,000 waits for resets may take beside as many on a bare promise."""


@contextmanager
def _restate() -> Iterator[RestateServer]:
    server = servers.restate(SETTINGS)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def _begin(server: RestateServer, number: int) -> None:
    """Begin processes."""
    at_once = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession() as http:

        async def begin(each: int) -> None:
            async with at_once, http.post(f"{server.url}/Parked/park/send", json=each) as reply:
                reply.raise_for_status()

        await asyncio.gather(*map(begin, range(number)))


def _wait_until_parked(server: RestateServer, kind: str, number: int) -> None:
    parked = "SELECT count(*) AS n FROM sys_invocation WHERE status = 'suspended' AND target_handler_name = '{}'"
    handler = {"promise": "park", "reset": "ended"}[kind]
    give_up_at = time.monotonic() + PATIENCE
    while (found := server.query(parked.format(handler))[0]["n"]) < ENOUGH * number:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"only {found} are parked")
        time.sleep(PAUSE)
    time.sleep(SETTLED)


def memory_of(kind: str, number: int) -> dict[str, Any]:
    """Return the resident memory of a worker, in bytes, before and after so many processes were parked."""
    with broker.running() as own, Places() as places, places.empty("sqlite") as place, _restate() as server:
        options = {"kind": kind, "root": own.root, "store": place.url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.waiting_worker", json.dumps(options)],
            cwd=ROOT, env=os.environ | ALLOCATOR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None

        def resident() -> int:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            return int(worker.stdout.readline())

        try:
            server.register(worker.stdout.readline().strip())
            before, began_at = resident(), time.monotonic()
            asyncio.run(_begin(server, number))
            _wait_until_parked(server, kind, number)
            return {"before": before, "parked": resident(), "seconds": time.monotonic() - began_at}
        finally:
            worker.communicate()


def times_of(store: str, places: Places, ends: int) -> dict[str, Any]:
    """Return the milliseconds from the end of a reset to the end of the wait."""
    with broker.running() as own, places.empty(store) as place, _restate() as server:
        options = {
            "kind": "", "root": own.root, "store": place.url, "ingress": server.url, "admin": server.admin_url,
            "ends": ends,
        }  # fmt: skip
        return percentiles(fresh("waiting_worker", options)["took"])


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description="Waits in Restate.")
    parser.add_argument("--parked", type=int, default=10_000, help="processes on one worker; 0: not measured")
    parser.add_argument("--ends", type=int, default=200, help="resets whose ends are waited for, over each store")
    parser.add_argument("--stores", default=",".join(STORES), help="over which ends are measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    options = parser.parse_args()
    known = facts()
    print(f"{sentence(known)}\n")
    figures: dict[str, Any] = {"memory": {}, "times": {}}
    if options.parked:
        print("| parked on | processes | before, MiB | parked, MiB | after s |\n| --- | ---: | ---: | ---: | ---: |")
        for kind in KINDS:
            figures["memory"][kind] = each = memory_of(kind, options.parked)
            sizes = f"{each['before'] / MIB:.1f} | {each['parked'] / MIB:.1f} | {each['seconds']:.0f}"
            print(f"| a {kind} | {options.parked} | {sizes} |", flush=True)
        print()
    print("| store | end to end of the wait, p50 ms | p99 ms |\n| --- | ---: | ---: |")
    with Places() as places:
        for store in options.stores.split(","):
            figures["times"][store] = each = times_of(store, places, options.ends)
            print(f"| {store} | {each['p50_ms']:.1f} | {each['p99_ms']:.1f} |", flush=True)
    print(f"\n{keep('-waiting', {'facts': known, 'parked': options.parked, 'figures': figures}, options.results)}")
    if options.parked:
        promise, reset = (figures["memory"][kind]["parked"] for kind in KINDS)
        if reset - promise > MOST * max(1.0, options.parked / 10_000):
            sys.exit(f"a wait takes too much memory: {(reset - promise) / MIB:.1f} MiB more than a bare promise")


if __name__ == "__main__":
    main()

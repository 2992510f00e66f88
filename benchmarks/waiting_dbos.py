"""
Measure what a wait in DBOS costs: the memory of parked workflows, and the time from the end of a flow to the end of the
wait.

`python -m benchmarks.waiting_dbos [--parked 10000] [--ends 200]`. Each measurement is a worker of its own. The memory
is that of workflows of DBOS on PostgreSQL which wait for resets, beside as many that wait in a bare `recv`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from dbos import DBOS, SetWorkflowID

from benchmarks.driver import percentiles
from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.places import Places
from benchmarks.processes import resident
from reset_flow import Accepted, Keyring, ResetService, Secret, open_store
from reset_flow.integrations.dbos import DBOSListener, Resets
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow import Outcome
    from reset_flow.ports import Case

AT_ONCE = 100
"""Workflows that are on their way to where they wait: their threads and garbage leave the memory in pieces."""
WARM_UP = 100
LONG = 86_400.0
MIB = 2**20
MOST = 20.0
"""MiB that 10,000 waits for resets may take beside 10,000 bare ones."""
THREADS = 16
WAITING = "SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'DBOS.sleep'"
STEPS = 5
"""Of a workflow, once it waits for a reset."""
ENGINES = {"sqlite": ("sqlite",), "postgres": ("sqlite", "postgres", "redis")}
"""The stores that are measured, by what DBOS is on."""


class Broker(ScriptedTransport):
    """One that asks no question and remembers nothing."""

    async def challenge(self, _: Case) -> Outcome:
        self.calls.clear()
        return Accepted(value=Secret(""))


class Worker:
    """The process that is measured."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self.ended: dict[str, asyncio.Future[float]] = {}

        @DBOS.workflow(name="bare")
        async def bare(_: str) -> None:
            await DBOS.recv_async("end", timeout_seconds=LONG)

        @DBOS.workflow(name="reset")
        async def reset(ref: str) -> None:
            await self.resets.reset_password(f"user of {ref}", ref)
            if ref in self.ended:
                self.ended[ref].set_result(time.perf_counter())

        self._workflow = {"bare": bare, "reset": reset}[job["workflow"]]

    async def open(self, closing: AsyncExitStack) -> None:
        """Start the service and DBOS."""
        listener = await closing.enter_async_context(DBOSListener(self._job["engine"]))
        self.service = await closing.enter_async_context(
            ResetService(
                Broker(),
                open_store(self._job["store"]),
                Keyring.load_or_create(self._job["keys"]),
                listeners={"dbos": listener},
            )
        )
        self.resets = Resets(self.service, login_of)
        DBOS(
            config={
                "name": "waiting",
                "system_database_url": self._job["engine"],
                "application_version": "1",
                "log_level": "CRITICAL",
                "max_executor_threads": THREADS,
            }
        )
        DBOS.launch()

    async def park(self, refs: list[str]) -> None:
        """Start a workflow for each."""
        for ref in refs:
            with SetWorkflowID(ref):
                await DBOS.start_workflow_async(self._workflow, ref)

    async def memory(self, count: int) -> dict[str, float]:
        """Return the memory that parked workflows take, in MiB."""
        await self.park([f"warm-up {number}" for number in range(WARM_UP)])
        await self._parked(WARM_UP)
        before = resident(trimmed=True)
        for first in range(0, count, AT_ONCE):
            await self.park([f"parked {number}" for number in range(first, min(count, first + AT_ONCE))])
            await self._parked(WARM_UP + min(count, first + AT_ONCE))
        return {"mib": (resident(trimmed=True) - before) / MIB}

    async def _parked(self, count: int) -> None:
        connection = await asyncpg.connect(self._job["engine"])
        while await connection.fetchval(WAITING) < count:  # noqa: ASYNC110 - another process's, nothing to wait for
            await asyncio.sleep(0.1)
        await connection.close()

    async def ends(self, count: int) -> dict[str, float]:
        """Return how long after the end of a flow the wait for it ends, in ms."""
        refs = [f"ended {number}" for number in range(count)]
        await self.park(refs)
        took = []
        for ref in refs:
            while len(await DBOS.list_workflow_steps_async(ref)) < STEPS:
                pass
            (flow,) = await self.service.find(ref=ref)
            self.ended[ref] = asyncio.get_running_loop().create_future()
            await self.service.cancel(flow.id)
            over = time.perf_counter()
            took.append(max(0.0, await self.ended[ref] - over))
        return percentiles(took)


async def login_of(user_ref: str) -> str:
    """Return the login."""
    return user_ref


async def work(job: dict[str, Any]) -> None:
    """Measure in this process, and print the figures."""
    async with AsyncExitStack() as closing:
        worker = Worker(job)
        await worker.open(closing)
        measure: Callable[[int], Awaitable[dict[str, float]]] = getattr(worker, job["measure"])
        print(json.dumps(await measure(job["count"])), flush=True)
        os._exit(0)  # what is parked has no end


def run(**job: Any) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.waiting_dbos", "--job"]
    with tempfile.TemporaryDirectory(prefix="reset-flow-benchmarks-") as folder:
        if job["engine"] == "sqlite":
            job["engine"] = f"sqlite:///{folder}/dbos.db"
        job["keys"] = f"{folder}/keys"
        done = subprocess.run([*command, json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measured(parked: int, ends: int) -> dict[str, Any]:
    """Return all figures."""
    figures: dict[str, Any] = {"parked": {}, "ends": {}}
    with Places() as places:
        for workflow in ("bare", "reset"):
            with places.empty("postgres") as engine, places.empty("sqlite") as store:
                figures["parked"][workflow] = run(
                    engine=engine.url, store=store.url, workflow=workflow, measure="memory", count=parked
                )
        for on, stores in ENGINES.items():
            for each in stores:
                with places.empty("postgres") as engine, places.empty(each) as store:
                    figures["ends"][f"{each}, DBOS on {on}"] = run(
                        engine=engine.url if on == "postgres" else on,
                        store=store.url, workflow="reset", measure="ends", count=ends,
                    )  # fmt: skip
    return figures


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting_dbos", description="Waits in DBOS.")
    parser.add_argument("--parked", type=int, default=10_000, help="workflows whose memory is measured")
    parser.add_argument("--ends", type=int, default=200, help="flows that are ended one after another")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        asyncio.run(work(json.loads(options.job)))
    known, figures = facts(), measured(options.parked, options.ends)
    bare, reset = (figures["parked"][each]["mib"] for each in ("bare", "reset"))
    print(
        f"{sentence(known)}\n\n{options.parked} parked workflows: {bare:.1f} MiB in a bare recv, {reset:.1f} MiB here\n"
    )
    print("| store | from the end to the end of the wait, p50 ms | p99 ms |\n| --- | ---: | ---: |")
    for store, each in figures["ends"].items():
        print(f"| {store} | {each['p50_ms']:.0f} | {each['p99_ms']:.0f} |")
    print(f"\n{keep('-waiting-dbos', {'facts': known, 'figures': figures}, options.results)}")
    if reset - bare > MOST * max(1.0, options.parked / 10_000):
        sys.exit(f"a wait takes too much memory: {reset - bare:.1f} MiB more than a bare one")


if __name__ == "__main__":
    main()

"""
One of several worker processes on one store. Either each carries out flows of its own, as many as it can; or all carry
out the same flows, and the broker must get the same calls as from one process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.driver import carry, drive, percentile
from benchmarks.processes import pin_driver, wait_for_the_others
from benchmarks.subjects import ANSWER, CODE, COMMANDS, PASSWORD, Library, service
from reset_flow import ResetFlowError, State, Step

if TYPE_CHECKING:
    from reset_flow import Flow, ResetService

__all__: list[str] = []

PAUSE = 0.005


async def own(opened: ResetService, label: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """Carry out flows of its own."""
    subject = Library(opened)
    latencies: dict[str, list[float]] = {command: [] for command in COMMANDS}
    await carry(subject, f"{label}.warm")
    wait_for_the_others()
    flows, took = await drive(subject, label, concurrency, seconds, latencies)
    every = [each for values in latencies.values() for each in values]
    return {"flows": flows, "total": flows + 1, "seconds": took, "p50_ms": percentile(every, 0.5) * 1e3}


async def raced(opened: ResetService, label: str, concurrency: int, flows: int) -> dict[str, Any]:
    """Carry out the same flows as the other processes."""
    refused = 0

    async def one(name: str) -> None:
        nonlocal refused
        flow: Flow | None = None
        while flow is None or not flow.ended:
            try:
                flow = await (_next(opened, flow) if flow else opened.start(f"{name}@example.com", ref=name))
            except ResetFlowError as error:  # another process works on it, or was faster
                refused += 1
                await asyncio.sleep(PAUSE * random.random())  # noqa: S311 - jitter
                flow = error.flow or flow
        if flow.state is not State.PASSWORD_SET:
            raise AssertionError(f"a flow ended as {flow.state}")

    async def worker(number: int) -> None:
        for nth in range(number, flows, concurrency):
            await one(f"{label} {nth}")

    wait_for_the_others()
    began = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(concurrency)))
    return {"flows": flows, "seconds": time.perf_counter() - began, "refused": refused}


async def _next(opened: ResetService, flow: Flow) -> Flow:
    match flow.expects:
        case Step.ANSWER:
            return await opened.answer(flow.id, ANSWER)
        case Step.CODE:
            return await opened.verify(flow.id, CODE)
        case _:
            return await opened.set_password(flow.id, PASSWORD)


async def _work(mode: str, url: str, root: str, keys: str, **options: Any) -> dict[str, Any]:
    async with service(root, url, keys=keys) as opened:
        return await (own(opened, **options) if mode == "own" else raced(opened, **options))


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)  # the report names the durability of Redis
    print(json.dumps(asyncio.run(_work(**json.loads(sys.argv[1])))))

"""Time commands, searches, sweeps and purges over a store with many flows, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.driver import carry, percentile, percentiles
from benchmarks.filling import REALM, Filler, identity, running_among, tag_of
from benchmarks.processes import pin_driver
from benchmarks.subjects import COMMANDS, Floor, Library, service
from reset_flow import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from reset_flow import ResetService, Store

__all__: list[str] = []

PAGE = 50
PURGED = 1000
SWEEPS = 5
A_MONTH = timedelta(days=30)


@attrs.frozen
class Options:
    """
    The measurement to take.

    Attributes:
        size: Number of stored flows.

        runs: Number of runs of each command.

        part, parts: The share of the stored flows to continue. The others are left for further measurements.
    """

    url: str
    root: str
    keys: str
    size: int
    runs: int
    part: int
    parts: int


class Watch:
    """
    Times in seconds, by name.

    Attributes:
        taken: Times of the library.

        bare: Times of bare calls.
    """

    def __init__(self) -> None:
        self.taken: defaultdict[str, list[float]] = defaultdict(list)
        self.bare: defaultdict[str, list[float]] = defaultdict(list)

    async def time(self, name: str, work: Awaitable[Any]) -> Any:
        """Time the work, and return its result."""
        began = time.perf_counter()
        outcome = await work
        self.taken[name].append(time.perf_counter() - began)
        return outcome

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """Return the medians and the 99th percentiles."""
        return {name: percentiles(values) for name, values in self.taken.items()}


async def _commands(options: Options, opened: ResetService, watch: Watch) -> None:
    """Time whole new flows, in turn with bare calls; then continue stored flows to their ends, and search for some."""
    subject = Library(opened)
    async with Floor(options.root) as floor:
        for number in range(options.runs + 1):
            taken, bare = (watch.taken, watch.bare) if number else (defaultdict(list), defaultdict(list))  # warm first
            await carry(subject, f"{options.part}.{number}", taken)
            await carry(floor, f"floor{number}", bare)
    first, last = (options.size * part // options.parts for part in (options.part, options.part + 1))
    some = running_among(first, last)
    for number in random.sample(some, min(options.runs, len(some))):
        flow = identity("stored", number)
        await watch.time("get of any", opened.get(flow))
        for command in COMMANDS[1:]:
            await watch.time("command of any", getattr(subject, command)(flow))
    for _ in range(options.runs):
        number = random.randrange(options.size)  # noqa: S311 - any of them
        found = await watch.time("find", opened.find(tag_of(number)))
        if identity("stored", number) not in {flow.id for flow in found}:
            raise AssertionError(f"{len(found)} flows were found, and the one looked for is not among them")


async def _upkeep(options: Options, opened: ResetService, store: Store, watch: Watch) -> None:
    """Time sweeps and a purge."""
    filler = await Filler.over(store, options.root, options.keys)
    for _ in range(SWEEPS):
        await watch.time("sweep, nothing due", opened.sweep())
    for nth in range(SWEEPS):
        first = (options.part * SWEEPS + nth) * PAGE
        await filler.fill("due", first, first + PAGE)
        report = await watch.time(f"sweep, {PAGE} due", opened.sweep())
        if report.expired != PAGE:
            raise AssertionError(f"of {PAGE} due flows {report.expired} were ended")
    await filler.fill("old", 0, PURGED)
    purged = await watch.time(f"purge of {PURGED}", store.purge(REALM, datetime.now(UTC) - A_MONTH, PURGED))
    if purged != PURGED:
        raise AssertionError(f"of {PURGED} old flows {purged} were deleted")


async def measure(options: Options) -> dict[str, Any]:
    """
    Return the figures.

    Raises:
        AssertionError: A flow was not found, or a sweep or purge was incomplete.
    """
    store, watch = open_store(options.url), Watch()
    async with service(options.root, store, keys=options.keys, sweep=False) as opened:
        await _commands(options, opened, watch)
        await _upkeep(options, opened, store, watch)
    every = [each for command in COMMANDS for each in watch.taken[command]]
    watch.taken["floor"] = [each for values in watch.bare.values() for each in values]
    return {
        "size": options.size,
        "command_p50_ms": percentile(every, 0.5) * 1e3,
        "command_p99_ms": percentile(every, 0.99) * 1e3,
        **watch.milliseconds(),
    }


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)  # the report names the durability of Redis
    print(json.dumps(asyncio.run(measure(Options(**json.loads(sys.argv[1]))))))

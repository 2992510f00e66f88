"""Take one measurement in a process of its own: the floor, then the library, at one concurrency over one store."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import resource
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from benchmarks.broker import Broker
from benchmarks.layers import sampled
from benchmarks.places import Place, weigh
from benchmarks.processes import family_cpu, pin_driver, written
from benchmarks.subjects import COMMANDS, Floor, Library, service

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.subjects import Subject

__all__ = ["carry", "percentile", "percentiles"]

Latencies: TypeAlias = dict[str, list[float]]

WARM_UP = 0.2
"""Seconds, before the floor is measured."""


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    return {"p50_ms": percentile(seconds, 0.5) * 1e3, "p99_ms": percentile(seconds, 0.99) * 1e3}


async def carry(subject: Subject, user: str, latencies: Latencies | None = None) -> None:
    """Carry out one flow from start to end."""
    flow: Any = None
    for command in COMMANDS:
        began = time.perf_counter()
        if command == "start":
            flow = await subject.start(user)
        else:
            await getattr(subject, command)(flow)
        if latencies is not None:
            latencies[command].append(time.perf_counter() - began)


async def drive(
    subject: Subject, label: str, concurrency: int, seconds: float, latencies: Latencies | None = None
) -> tuple[int, float]:
    """Carry out so many flows at a time until the time is up, and finish those in flight. Return flows and seconds."""
    began = time.perf_counter()

    async def worker(number: int) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            done += 1
            await carry(subject, f"{label}.{number}.{done}", latencies)
        return done

    done = await asyncio.gather(*(worker(number) for number in range(concurrency)))
    return sum(done), time.perf_counter() - began


async def _floor(root: str, concurrency: int, seconds: float) -> float:
    async with Floor(root) as floor:
        await drive(floor, "cold", concurrency, min(WARM_UP, seconds))
        flows, took = await drive(floor, "floor", concurrency, seconds)
    return flows / took


def _check(before: dict[str, int], after: dict[str, int], flows: int) -> None:
    came = {call: after[call] - before[call] for call in after}
    if set(came.values()) != {flows}:
        raise AssertionError(f"{flows} flows, and these calls: {came}")


@attrs.frozen
class Options:
    """
    The measurement to take.

    Attributes:
        label: Part of the logins, so that no user starts twice in a store.

        profile: Whether to measure CPU by layer, which takes some CPU itself.
    """

    place: Place
    root: str
    concurrency: int
    seconds: float
    profile: bool = False
    label: str = "user"


def _layers(*, sampling: bool) -> AbstractContextManager[dict[str, float]]:
    return sampled() if sampling else nullcontext({})


async def measure(options: Options) -> dict[str, Any]:
    """
    Return the figures.

    Raises:
        AssertionError: The broker was not called four times for each flow.
    """
    place, concurrency, seconds = options.place, options.concurrency, options.seconds
    broker = Broker(options.root)
    floor = await _floor(options.root, concurrency, seconds / 3)
    latencies: Latencies = {command: [] for command in COMMANDS}
    async with service(options.root, place.url) as opened:
        await carry(Library(opened), f"{options.label}.first")  # makes tables, loads scripts
    calls, weight, disk = broker.counts, await weigh(place), written()
    async with service(options.root, place.url) as opened:
        subject = Library(opened)
        warm, _ = await drive(subject, f"{options.label}.warm", concurrency, seconds / 10)
        gc.collect()
        served, used = family_cpu(place.pids), time.process_time()
        with _layers(sampling=options.profile) as layers:
            flows, took = await drive(subject, options.label, concurrency, seconds, latencies)
        used, served = time.process_time() - used, family_cpu(place.pids) - served
    _check(calls, broker.counts, flows + warm)
    heavier, total = await weigh(place), flows + warm
    every = [each for values in latencies.values() for each in values]
    flushes = None if heavier.flushes is None else (heavier.flushes - (weight.flushes or 0)) / total
    return {
        "flows": flows,
        "total": total,
        "calls": 4 * total,
        "flows_per_second": flows / took,
        "floor": floor,
        "ratio": flows / took / floor,
        **percentiles(every),
        "command_p50_ms": {command: percentile(values, 0.5) * 1e3 for command, values in latencies.items()},
        "cpu_ms": used / flows * 1e3,
        "server_cpu_ms": served / flows * 1e3,
        "kept_bytes": (heavier.kept - weight.kept) / total,
        "written_bytes": (heavier.logged - weight.logged + written() - disk) / total,
        "fsyncs": flushes,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "layers_us": {layer: spent / flows * 1e6 for layer, spent in layers.items()},
    }


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)  # the report names the durability of Redis
    given = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(measure(Options(**{**given, "place": Place(**given["place"])})))))

"""
Compare the times of known and unknown users, at a broker that takes equally long for both: they must not differ, or an
attacker could find out who has an account.

`python -m benchmarks.masking [--runs 300] [--latency 0.02]`
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.processes import pin_driver
from reset_flow import (
    Budget,
    CodeRejected,
    EtnaTransport,
    Keyring,
    MemoryStore,
    Policy,
    ResetService,
    SQLiteStore,
    Store,
)
from reset_flow.sandbox import Sandbox

__all__ = ["measured"]

RUNS = 300
APART = 0.05
"""Largest difference of the medians of that many runs. A larger one fails the command."""

WARM_UP = 20
"""Runs that do not count: the library learns the time of a pretended call from real calls."""

ENDLESS = Budget(10**6, timedelta(hours=1))
COMMANDS = ("start", "verify")


async def _one(service: ResetService, user: str) -> tuple[float, ...]:
    """Measure a start and a wrong code, in seconds."""
    times = [time.perf_counter()]
    flow = await service.start(user)
    times.append(time.perf_counter())
    with suppress(CodeRejected):
        await service.verify(flow.id, "000000")
    times.append(time.perf_counter())
    return tuple(after - before for before, after in pairwise(times))


async def _over(store: Store, runs: int, latency: float, keyring: Keyring) -> dict[str, Any]:
    """Measure in pairs, in alternating order."""
    policy = Policy(codes_per_user=ENDLESS, starts_per_user=ENDLESS, guess_alarm=None)
    took: dict[str, list[tuple[float, ...]]] = {"known": [], "unknown": []}
    async with Sandbox() as sandbox:
        for number in range(runs + WARM_UP):
            sandbox.add_user(f"known{number}", question=None)
        for route in ("challenge", "request", "exchange"):
            sandbox.fault(route, "latency", times=None, seconds=latency)
        transport = EtnaTransport(sandbox.api_url, "sandbox")
        async with ResetService(transport, store, keyring, policy=policy, sweep=False) as service:
            for number in range(runs + WARM_UP):
                for who in ("known", "unknown") if number % 2 else ("unknown", "known"):
                    times = await _one(service, f"{who}{number}")
                    if number >= WARM_UP:
                        took[who].append(times)
    figures: dict[str, Any] = {}
    for place, command in enumerate(COMMANDS):
        known, unknown = (statistics.median(times[place] for times in took[who]) * 1e3 for who in took)
        figures[command] = {"known_ms": known, "unknown_ms": unknown, "ratio": unknown / known}
    return figures


def measured(runs: int, latency: float) -> dict[str, Any]:
    """Return the medians of both kinds of users, over two stores."""
    with tempfile.TemporaryDirectory(prefix="reset-flow-benchmarks-") as folder:
        keyring = Keyring.load_or_create(Path(folder) / "keys")
        return {
            "memory": asyncio.run(_over(MemoryStore(), runs, latency, keyring)),
            "sqlite": asyncio.run(_over(SQLiteStore(Path(folder) / "flows.db"), runs, latency, keyring)),
        }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masking", description="Known and unknown users.")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind of user")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the broker takes for a call")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    options = parser.parse_args()
    pin_driver()
    known, figures = facts(), measured(options.runs, options.latency)
    print(f"{sentence(known)}; {options.runs} runs of each, medians\n")
    print("| store | command | known ms | unknown ms | ratio |\n| --- | --- | ---: | ---: | ---: |")
    for store, commands in figures.items():
        for command, each in commands.items():
            row = f"{each['known_ms']:.2f} | {each['unknown_ms']:.2f} | {each['ratio']:.3f}"
            print(f"| {store} | {command} | {row} |")
    print(f"\n{keep('-masking', {'facts': known, 'runs': options.runs, 'figures': figures}, options.results)}")
    ratios = [each["ratio"] for commands in figures.values() for each in commands.values()]
    if options.runs >= RUNS and max(abs(ratio - 1) for ratio in ratios) > APART:  # medians of few runs prove nothing
        sys.exit(f"known and unknown users can be told apart by time: ratios {ratios}")


if __name__ == "__main__":
    main()

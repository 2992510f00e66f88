"""
Measure the time of `import reset_flow` beyond `import aiohttp`: medians of new interpreters.

`python -m benchmarks.imports [--repeats 15] [--detail]`
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.processes import ROOT

__all__: list[str] = []

TIMED = """
import sys, time
began = time.perf_counter()
import aiohttp
between = time.perf_counter()
modules = len(sys.modules)
import reset_flow
print(between - began, time.perf_counter() - between, modules, len(sys.modules) - modules)
"""
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def _timed() -> tuple[float, ...]:
    done = subprocess.run([sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def _slowest(modules: int) -> list[tuple[str, int]]:
    """Return the modules with the longest own time that aiohttp does not load, in µs."""
    taken: dict[str, dict[str, int]] = {}
    for name in ("aiohttp", "reset_flow"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", f"import {name}"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        taken[name] = {module: int(us) for us, module in LINE.findall(done.stderr)}
    beyond = {module: us for module, us in taken["reset_flow"].items() if module not in taken["aiohttp"]}
    return sorted(beyond.items(), key=lambda each: -each[1])[:modules]


def measured(repeats: int) -> dict[str, Any]:
    """Return medians in microseconds. The first run may write bytecode and does not count."""
    runs = [_timed() for _ in range(repeats + 1)][1:]
    aiohttp, ours, their_modules, our_modules = zip(*runs, strict=True)
    return {
        "aiohttp_us": statistics.median(aiohttp) * 1e6,
        "reset_flow_us": statistics.median(ours) * 1e6,
        "fastest_us": min(ours) * 1e6,
        "aiohttp_modules": int(their_modules[0]),
        "reset_flow_modules": int(our_modules[0]),
        "runs": repeats,
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description="What an import takes.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--detail", action="store_true", help="the modules that take longest")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    options = parser.parse_args()
    known, figures = facts(), measured(options.repeats)
    print(f"{sentence(known)}\n")
    print("| import | µs | the fastest | modules |\n| --- | ---: | ---: | ---: |")
    print(f"| aiohttp | {figures['aiohttp_us']:.0f} | - | {figures['aiohttp_modules']} |")
    ours = f"{figures['reset_flow_us']:.0f} | {figures['fastest_us']:.0f} | {figures['reset_flow_modules']}"
    print(f"| reset_flow, after it | {ours} |")
    if options.detail:
        figures["slowest_us"] = dict(_slowest(20))
        print("\n| module | µs itself |\n| --- | ---: |")
        print("\n".join(f"| {module} | {us} |" for module, us in figures["slowest_us"].items()))
    print(f"\n{keep('-imports', json.loads(json.dumps({'facts': known, 'figures': figures})), options.results)}")


if __name__ == "__main__":
    main()

"""Measure whole resets over every store, at several concurrencies, each beside the floor of the same process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks.binaries import NoServerError
from benchmarks.broker import running
from benchmarks.flushes import flushes
from benchmarks.medians import medians
from benchmarks.places import Places
from benchmarks.processes import fresh, pin_servers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["layer_table", "measured", "table"]

BRIEF = 0.4
"""Seconds of a run that only counts flushes."""

HEAD = (
    "store", "c", "flows/s", "floor", "of the floor", "p50 ms", "p99 ms", "CPU ms/flow", "server's", "kept B/flow",
    "written B/flow", "fsyncs/flow",
)  # fmt: skip


def measured(
    stores: Sequence[str], concurrencies: Sequence[int], *, repeats: int, seconds: float, profile: bool
) -> list[dict[str, Any]]:
    """Return the medians of each store at each concurrency. Repeat in rounds, so that load affects all alike."""
    pin_servers()
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with running() as broker, Places() as places:
        available = [store for store in stores if _is_available(places, store)]
        for round_ in range(repeats):
            for store in available:
                for concurrency in concurrencies:
                    options = {"root": broker.root, "concurrency": concurrency, "profile": profile}
                    with places.empty(store) as place:
                        options |= {"place": attrs.asdict(place), "seconds": seconds}
                        run = fresh("driver", options)
                    if round_ == 0 and run["fsyncs"] is None and not profile:
                        with places.empty(store) as place:
                            options |= {"place": attrs.asdict(place), "seconds": min(BRIEF, seconds)}
                            run["fsyncs"] = flushes(place, options)
                    runs.setdefault((store, concurrency), []).append(run)
                    result = f"{store} at {concurrency}: {run['flows_per_second']:.0f} flows/s"
                    print(f"[{round_ + 1}/{repeats}] {result}", file=sys.stderr, flush=True)
    return [
        {"store": store, "concurrency": concurrency, "runs": len(each), **medians(each)}
        for (store, concurrency), each in runs.items()
    ]


def _is_available(places: Places, store: str) -> bool:
    if store in ("memory", "sqlite"):
        return True
    try:
        places.server(store)
    except NoServerError as error:
        print(f"{store} is left out: {error}", file=sys.stderr)
        return False
    return True


def table(figures: Sequence[dict[str, Any]]) -> str:
    """Format the figures in Markdown."""
    rows = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    for each in figures:
        fsyncs = "-" if each["fsyncs"] is None else f"{each['fsyncs']:.2f}"
        cells = (
            each["store"], each["concurrency"], f"{each['flows_per_second']:.0f}", f"{each['floor']:.0f}",
            f"{each['ratio']:.2f}", f"{each['p50_ms']:.2f}", f"{each['p99_ms']:.1f}", f"{each['cpu_ms']:.2f}",
            f"{each['server_cpu_ms']:.2f}", f"{each['kept_bytes']:.0f}", f"{each['written_bytes']:.0f}", fsyncs,
        )  # fmt: skip
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def layer_table(figures: Sequence[dict[str, Any]]) -> str:
    """Format the CPU by layer in Markdown: µs a flow, and per cent."""
    columns = [f"{each['store']}, c = {each['concurrency']}" for each in figures]
    layers = sorted(
        {layer for each in figures for layer in each["layers_us"]},
        key=lambda layer: -sum(each["layers_us"].get(layer, 0) for each in figures),
    )
    rows = [f"| CPU µs/flow (share) | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    sums = [sum(each["layers_us"].values()) or 1 for each in figures]
    for layer in layers:
        spent = [each["layers_us"].get(layer, 0) for each in figures]
        cells = [f"{us:.0f} ({us / whole:.0%})" for us, whole in zip(spent, sums, strict=True)]
        rows.append(f"| {layer} | {' | '.join(cells)} |")
    rows.append(f"| sum | {' | '.join(f'{whole:.0f}' for whole in sums)} |")
    return "\n".join(rows)

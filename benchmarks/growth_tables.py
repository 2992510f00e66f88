"""Format the figures of `benchmarks.scale` in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["TABLES"]

Figures: TypeAlias = "Sequence[Mapping[str, Any]]"

TIMED = ("floor", "start", "answer", "verify", "set_password", "get of any", "command of any", "find")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _in_calls(each: Mapping[str, Any]) -> float:
    """Return the time of a command in bare calls of the same minute: this evens out other load on the machine."""
    return float(each["command_p50_ms"] / each["floor"]["p50_ms"])


def stored(figures: Figures) -> str:
    """Format times in ms, median and 99th percentile. Ratios compare the median command with the smallest size."""
    parts = []
    for store in dict.fromkeys(each["store"] for each in figures):
        sizes = [each for each in figures if each["store"] == store]
        others = [name for name in sizes[0] if name.startswith(("sweep", "purge"))]
        first = sizes[0]["command_p50_ms"]
        rows: list[list[object]] = [
            [
                "any of the four commands",
                *(f"{each['command_p50_ms']:.2f} / {each['command_p99_ms']:.1f}" for each in sizes),
            ],
            ["median, as a ratio", *(f"{each['command_p50_ms'] / first:.2f}" for each in sizes)],
            ["the same in bare calls", *(f"{_in_calls(each) / _in_calls(sizes[0]):.2f}" for each in sizes)],
        ]
        for name in TIMED:
            cells = [each.get(name) for each in sizes]
            label = "a bare call" if name == "floor" else name
            rows.append([label, *(f"{cell['p50_ms']:.2f} / {cell['p99_ms']:.1f}" if cell else "-" for cell in cells)])
        rows += [[name, *(f"{each[name]['p50_ms']:.1f}" for each in sizes)] for name in others]
        rows.append(["filled, flows/s", *(f"{each['filled_by_second']:.0f}" for each in sizes)])
        parts.append(_table([f"{store}, ms", *(f"{each['size']:,} stored" for each in sizes)], rows))
    return "\n\n".join(parts)


def sweep(figures: Figures) -> str:
    """Format the sweep of each store."""
    head = ("store", "due flows", "s", "flows/s", "memory grew by, MiB", "saves at once")
    return _table(
        head,
        [
            (
                each["store"], f"{each['due']:,}", f"{each['seconds']:.1f}", f"{each['flows_per_second']:.0f}",
                f"{each['grown_mib']:.1f}", each["saves_at_once"],
            )
            for each in figures
        ],
    )  # fmt: skip


def parked(figures: Figures) -> str:
    """Format the parked flows of each store."""
    head = ("store", "parked flows", "starts/s", "memory grew by, MiB", "at most, MiB", "bytes a flow")
    return _table(
        head,
        [
            (
                each["store"], f"{each['flows']:,}", f"{each['starts_per_second']:.0f}", f"{each['grown_mib']:.1f}",
                f"{each['grown_at_most_mib']:.1f}", f"{each['bytes_by_flow']:.0f}",
            )
            for each in figures
        ],
    )  # fmt: skip


def workers(figures: Figures) -> str:
    """Format the figures of each store and number of processes."""
    head = (
        "store",
        "processes",
        "flows/s",
        "p50 ms",
        "flows, each done once",
        "raced flows, each done once",
        "refused",
    )
    return _table(
        head,
        [
            (
                each["store"], each["workers"], f"{each['flows_per_second']:.0f}", f"{each['p50_ms']:.1f}",
                each["flows"], each["raced"], each["refused"],
            )
            for each in figures
        ],
    )  # fmt: skip


TABLES: dict[str, Callable[[Figures], str]] = {"stored": stored, "sweep": sweep, "parked": parked, "workers": workers}

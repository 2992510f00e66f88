"""
Measure growth with the number of stored flows, and with the number of worker processes.

`python -m benchmarks.scale [--sizes 1000,100000,1000000] [--parts stored,sweep,parked,workers]`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from benchmarks import growth_tables as tables
from benchmarks.broker import CALLS, QUESTION, Broker, running
from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.medians import medians
from benchmarks.places import STORES, Places
from benchmarks.processes import fresh, pin_servers, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.places import Place

__all__ = ["Scale"]

CONCURRENCY = 16
DURABLE = [store for store in STORES if store != "memory"]


@attrs.frozen
class Scale:
    """
    The measurements, by part.

    Attributes:
        keys: Path of a key file.
    """

    broker: Broker
    places: Places
    keys: str

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Scale]:
        """Start a broker, and servers when they are needed; stop them at the end of the block."""
        pin_servers()
        with running() as broker, Places() as places, tempfile.TemporaryDirectory() as folder:
            yield cls(broker, places, str(Path(folder) / "keys"))

    def stored(self, store: str, sizes: Sequence[int], runs: int, repeats: int) -> list[dict[str, Any]]:
        """Time commands, searches, sweeps and purges at each size. Repeat in rounds, so that load affects all alike."""
        figures: dict[int, list[dict[str, Any]]] = {}
        with ExitStack() as exits:
            places = {size: exits.enter_context(self.places.empty(store)) for size in sorted(sizes)}
            for size, place in places.items():
                filled = fresh("filling", {**self._given(place), "kind": "stored", "first": 0, "last": size})
                self.places.settle(place)
                figures[size] = [{"filled_by_second": filled["flows"] / filled["seconds"]}]
                _report(f"{store}: {size} stored in {filled['seconds']:.0f} s")
            for part in range(repeats):
                for size, place in places.items():
                    given = {**self._given(place), "size": size, "runs": runs, "part": part, "parts": repeats}
                    figures[size].append(fresh("stored", given))
        return [{**medians(each), "store": store, "size": size} for size, each in figures.items()]

    def _given(self, place: Place) -> dict[str, Any]:
        return {"url": place.url, "root": self.broker.root, "keys": self.keys}

    def sweep(self, store: str, due: int) -> dict[str, Any]:
        """Measure one sweep over so many due flows."""
        with self.places.empty(store) as place:
            given = self._given(place)
            fresh("filling", {**given, "kind": "due", "first": 0, "last": due})
            self.places.settle(place)
            _report(f"{store}: {due} due")
            return {"store": store, **fresh("growth", {**given, "due": due})}

    def parked(self, store: str, flows: int) -> dict[str, Any]:
        """Measure so many flows that are started and not continued."""
        with self.places.empty(store) as place:
            given = self._given(place)
            _report(f"{store}: {flows} parked")
            return {"store": store, **fresh("growth", {**given, "flows": flows})}

    def workers(self, store: str, workers: int, seconds: float, flows: int) -> dict[str, Any]:
        """
        Measure several processes, first each on flows of its own, then all on the same flows.

        Raises:
            AssertionError: The broker was not called exactly once for each step of a flow.
        """
        with self.places.empty(store) as place:
            given = {**self._given(place), "concurrency": CONCURRENCY}
            calls = self.broker.counts
            each = [{**given, "mode": "own", "label": f"own {nth}", "seconds": seconds} for nth in range(workers)]
            own = together("workers", each)
            calls = self._checked(calls, sum(one["total"] for one in own))
            each = [{**given, "mode": "raced", "label": "raced", "flows": flows} for _ in range(workers)]
            raced = together("workers", each)
            self._checked(calls, flows, asked_at_most=flows * workers)
        _report(f"{store}: {workers} workers")
        done = sum(one["flows"] for one in own)
        return {
            "store": store,
            "workers": workers,
            "flows": done,
            "flows_per_second": done / max(one["seconds"] for one in own),
            "p50_ms": max(one["p50_ms"] for one in own),
            "raced": flows,
            "refused": sum(one["refused"] for one in raced),
        }

    def _checked(self, before: dict[str, int], flows: int, asked_at_most: int | None = None) -> dict[str, int]:
        """Check the number of calls. Several racing processes may ask for a question: that changes nothing."""
        after = self.broker.counts
        came = {call: after[call] - before[call] for call in CALLS}
        asked = came.pop(QUESTION)
        if set(came.values()) != {flows} or not flows <= asked <= (asked_at_most or flows):
            raise AssertionError(f"{flows} flows, {asked} questions, and these calls: {came}")
        return after


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _among(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: it must be of {', '.join(known)}")
        return text.split(",")

    return names


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="What grows with what is stored.")
    parser.add_argument("--parts", type=_among(list(tables.TABLES)), default=list(tables.TABLES))
    parser.add_argument("--stores", type=_among(DURABLE), default=["sqlite", "postgres"])
    parser.add_argument("--sizes", type=_numbers, default=[1_000, 100_000, 1_000_000], help="flows that are stored")
    parser.add_argument("--runs", type=int, default=400, help="of each command")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the medians are kept")
    parser.add_argument("--due", type=int, default=100_000, help="flows that one sweep ends")
    parser.add_argument("--parked", type=int, default=100_000, help="flows that are started and left alone")
    parser.add_argument("--workers", type=_numbers, default=[1, 2, 4], help="processes")
    parser.add_argument("--worker-stores", type=_among(DURABLE), default=["postgres", "redis"])
    parser.add_argument("--seconds", type=float, default=5.0, help="that workers have")
    parser.add_argument("--raced", type=int, default=500, help="flows that all workers carry out at once")
    whole = RESULTS if len(sys.argv) == 1 else Path(tempfile.gettempdir())  # a trial must not replace the kept results
    parser.add_argument("--results", type=Path, default=whole, help="the folder of the figures")
    return parser


def _figures(scale: Scale, part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    match part:
        case "stored":
            return [
                each
                for store in options.stores
                for each in scale.stored(store, options.sizes, options.runs, options.repeats)
            ]
        case "sweep":
            return [scale.sweep(store, options.due) for store in options.stores]
        case "parked":
            return [scale.parked(store, options.parked) for store in options.stores]
        case _:
            return [
                scale.workers(store, workers, options.seconds, options.raced)
                for store in options.worker_stores
                for workers in options.workers
            ]


def main() -> None:
    """Measure part by part, print and keep."""
    options = _parser().parse_args()
    known = facts()
    kept: dict[str, Any] = {"facts": known}
    print(sentence(known))
    with Scale.opened() as scale:
        for part in options.parts:
            try:
                kept[part] = _figures(scale, part, options)
            except (AssertionError, OSError, RuntimeError) as error:
                kept.setdefault("failed", {})[part] = str(error)
                _report(f"{part} failed: {error}")  # the other parts are still useful
                continue
            print(f"\n{tables.TABLES[part](kept[part])}", flush=True)
            path = keep("-scale", kept, options.results)  # after each part: the next one may take long
            print(f"\n{path}", flush=True)
    if "failed" in kept:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Measure whole resets: `python -m benchmarks`, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.flushes import HOW
from benchmarks.picture import svg
from benchmarks.places import STORES
from benchmarks.resets import layer_table, measured, table


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(STORES):
        raise argparse.ArgumentTypeError(f"there is no store {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Whole resets beside the bare calls.")
    parser.add_argument("--stores", type=_names, default=list(STORES), help="with commas between them")
    parser.add_argument("--concurrency", type=_numbers, default=[1, 16, 64], help="with commas between them")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs, of which the medians are kept")
    parser.add_argument("--seconds", type=float, default=1.8, help="of each run")
    parser.add_argument("--profile", action="store_true", help="CPU by layer; no picture")
    parser.add_argument("--out", type=Path, help="the picture")
    parser.add_argument("--results", type=Path, help="the folder of the figures")
    return parser


def main() -> None:
    """Measure, print, keep and draw."""
    options = _parser().parse_args()
    whole = len(sys.argv) == 1  # a trial must not replace the kept results
    results = options.results or (RESULTS if whole else Path(tempfile.gettempdir()))
    out = options.out or (Path("docs") if whole else results) / "benchmarks.svg"
    known = facts()
    figures = measured(
        options.stores,
        options.concurrency,
        repeats=options.repeats,
        seconds=options.seconds,
        profile=options.profile,
    )
    print(f"{sentence(known)}\n")
    print(layer_table(figures) if options.profile else table(figures))
    kept = {"facts": known, "fsyncs_counted_by": HOW, "figures": figures}
    print(f"\n{keep('-profile' if options.profile else '', kept, results)}")
    if not options.profile:
        out.write_text(svg(known, figures))
        print(out)


if __name__ == "__main__":
    main()

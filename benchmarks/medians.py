"""Medians of several runs."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["medians"]


def medians(runs: Sequence[Any]) -> Any:
    """Return the median of each figure, over the runs that have it."""
    if isinstance(runs[0], dict):
        names = dict.fromkeys(name for run in runs for name in run)
        return {name: medians([run[name] for run in runs if name in run]) for name in names}
    known = [run for run in runs if run is not None]
    return statistics.median(known) if known else None

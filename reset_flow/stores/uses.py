"""The rule of budgets, for stores that judge it in Python."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from reset_flow.domain.errors import LimitReached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from reset_flow.ports import Use, UseName


def check_limits(
    stored: Callable[[bytes], Iterable[tuple[bytes, int]]], add: Sequence[Use], drop: Sequence[UseName], now: int
) -> None:
    """Check that uses may be added after others were dropped. `stored` gives those of a key, with their ends."""
    refused: dict[bytes, int | None] = {}
    for key in dict.fromkeys(use.key for use in add):
        added = {use.id: use.limit for use in add if use.key == key}
        dropped = {name.id for name in drop if name.key == key}
        ends = {use_id: end for use_id, end in stored(key) if end > now and use_id not in dropped}
        others = sorted(end for use_id, end in ends.items() if use_id not in added)
        excess = len(others) + len(added) - min(added.values())
        if excess > 0 and not added.keys() <= ends.keys():
            refused[key] = others[excess - 1] - now if excess <= len(others) else None
    if refused:
        raise limit_reached(refused)


def limit_reached(refused: Mapping[bytes, int | None]) -> LimitReached:
    """Return the error for keys that were refused, each with the microseconds until it has room (`None`: never)."""
    waits = [wait for wait in refused.values() if wait is not None]
    longest = timedelta(microseconds=max(waits)) if len(waits) == len(refused) else None
    return LimitReached("uses", longest, keys=tuple(refused))

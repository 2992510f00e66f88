"""Where a scan begins, and what of a page belongs to it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reset_flow.stores.redis.records import name, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reset_flow.ports import Query, Record

__all__ = ["begin", "go_on", "wanted"]

NUMBER_BYTES = 8
"""The number of its flow stands in front of the id in every index but that of all."""


def begin(query: Query) -> tuple[str, bytes, list[Any]]:
    """The kind of the index, its name, and the place in front of its first page."""
    realm = name(query.realm)
    if query.due:
        return "due", b"due:" + realm, [b"-inf", 0]
    if query.lookup is not None:
        return "lookup", b"lookup:" + query.lookup + realm, [b"+"]
    return "all", b"all:" + realm, [b"(" + name(query.after)]


def go_on(kind: str, members: Sequence[bytes], scores: Sequence[bytes]) -> list[Any]:
    """The place behind a page."""
    if kind == "due":
        return [scores[-1], int.from_bytes(members[-1][:NUMBER_BYTES], "big")]
    return [b"(" + members[-1]]


def wanted(
    query: Query, kind: str, members: Sequence[bytes], values: Sequence[bytes | None], now: int
) -> Iterator[Record]:
    """The records of a page that can be read and that are asked for."""
    for member, value in zip(members, values, strict=True):
        if value is None:
            continue
        with suppress(ValueError):
            record = unpack((member if kind == "all" else member[NUMBER_BYTES:]).decode(), value, now)
            if (
                record.realm == query.realm
                and record.id > query.after
                and (query.lookup is None or query.lookup in record.lookups)
            ):
                yield record

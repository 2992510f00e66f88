"""All records of a realm, read, changed and deleted in batches."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from reset_flow.domain.errors import FlowNotFound, StaleRecord
from reset_flow.ports import Query
from reset_flow.tracebacks import forget_causes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime

    from reset_flow.ports import Record, Store

    Progress: TypeAlias = Callable[[int], None]
    """Called after each batch with its number of records."""

BATCH = 256
PURGE_BATCH = 500
AT_ONCE = 32
RACES = 5
"""How often what lost a race for a save is tried again with the winner's version."""


def ignore(_: int) -> None:
    """Report progress to nobody."""


async def record_batches(store: Store, *realms: str, progress: Progress = ignore) -> AsyncIterator[list[Record]]:
    """Read all records of the realms in the order of their ids. No scan of the store is open while a batch is used."""
    for realm in realms:
        after = ""
        with forget_causes:
            while batch := [record async for record in store.scan(Query(realm=realm, after=after), limit=BATCH)]:
                yield batch
                progress(len(batch))
                after = batch[-1].id


async def change_all(
    store: Store, *realms: str, change: Callable[[Record], Awaitable[str]], progress: Progress
) -> Counter[str]:
    """
    Change the records of the realms, several at once, and count what `change` returned.

    A record that somebody else has saved meanwhile is loaded and changed again: `gone` if it was purged, `waiting` if
    it is saved all the time.
    """
    results = Counter[str]()
    async for batch in record_batches(store, *realms, progress=progress):
        for start in range(0, len(batch), AT_ONCE):
            work = [_change(store, record, change) for record in batch[start : start + AT_ONCE]]
            # Wait for all: none may go on in the background after the store has failed for another.
            for result in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(result, BaseException):
                    with forget_causes:
                        raise result
                results[result] += 1
    return results


async def _change(store: Store, record: Record, change: Callable[[Record], Awaitable[str]]) -> str:
    for _ in range(RACES):
        try:
            return await change(record)
        except StaleRecord:
            try:
                record = await store.load(record.id)
            except FlowNotFound:
                return "gone"
    return "waiting"


async def purge(
    store: Store, realm: str, before: datetime, *, limit: float = math.inf, progress: Progress = ignore
) -> int:
    """Delete the records of a realm that ended before then, at most about `limit` of them. Return how many."""
    purged = 0
    while purged < limit:
        with forget_causes:
            purged += (batch := await store.purge(realm, before, PURGE_BATCH))
        progress(batch)
        if batch < PURGE_BATCH:
            break
    return purged

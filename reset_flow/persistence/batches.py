"""All records of a realm, read and deleted in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from reset_flow.ports import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from reset_flow.ports import Record, Store

    Progress: TypeAlias = Callable[[int], None]
    """Called after each batch with its number of records."""

__all__ = ["ignore", "purge", "record_batches"]

BATCH = 256
PURGE_BATCH = 500


def ignore(_: int) -> None:
    """Report progress to nobody."""


async def record_batches(store: Store, realm: str, progress: Progress = ignore) -> AsyncIterator[list[Record]]:
    """Read all records of a realm in the order of their ids. No scan of the store is open while a batch is used."""
    after = ""
    while batch := [record async for record in store.scan(Query(realm=realm, after=after), limit=BATCH)]:
        yield batch
        progress(len(batch))
        after = batch[-1].id


async def purge(
    store: Store, realm: str, before: datetime, *, limit: int | None = None, progress: Progress = ignore
) -> int:
    """Delete the records of a realm that ended before then, at most about `limit` of them. Return how many."""
    purged = 0
    while limit is None or purged < limit:
        batch = await store.purge(realm, before, PURGE_BATCH)
        purged += batch
        progress(batch)
        if batch < PURGE_BATCH:
            break
    return purged

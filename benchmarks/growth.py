"""Measure the memory of a process during a sweep of many due flows, and with many flows that were only started."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.processes import pin_driver, resident
from benchmarks.subjects import service
from reset_flow import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime, timedelta

    from reset_flow import Query, Record, Store, Use, UseName

__all__: list[str] = []

LOOK_EVERY = 0.02
CONCURRENCY = 16
WARM_UP = 1000


class Watched:
    """A store that records how many saves were in flight at once: an upper bound for the size of a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.durable = store.durable
        self.saves = self.most = 0

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        self.saves += 1
        self.most = max(self.most, self.saves)
        try:
            await self._store.save(record, add=add, drop=drop)
        finally:
            self.saves -= 1

    async def load(self, flow_id: str) -> Record:
        return await self._store.load(flow_id)

    def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        return self._store.scan(query, limit=limit)

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._store.changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        return await self._store.purge(realm, before, limit)

    async def aclose(self) -> None:
        await self._store.aclose()


class _Scales:
    """Sample the memory of the process."""

    def __init__(self) -> None:
        gc.collect()
        self.first = self.most = resident()
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            self.most = max(self.most, resident())
            await asyncio.sleep(LOOK_EVERY)

    async def stop(self) -> int:
        """Stop, and return the largest growth in bytes."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        return max(self.most, resident()) - self.first


async def sweep(url: str, root: str, keys: str, due: int) -> dict[str, Any]:
    """Measure one sweep of so many due flows, which are stored already."""
    store = Watched(open_store(url))
    async with service(root, store, keys=keys, sweep=False) as opened:
        with suppress(LookupError):
            await opened.find("nothing")  # opens the store
        scales, began = _Scales(), time.perf_counter()
        report = await opened.sweep()
        seconds = time.perf_counter() - began
        grown = await scales.stop()
    if report.expired != due:
        raise AssertionError(f"of {due} due flows {report.expired} were ended")
    return {
        "due": due,
        "seconds": seconds,
        "flows_per_second": due / seconds,
        "grown_mib": grown / 2**20,
        "saves_at_once": store.most,
    }


async def park(url: str, root: str, keys: str, flows: int) -> dict[str, Any]:
    """Measure the start of so many flows, which are not continued."""
    async with service(root, url, keys=keys) as opened:

        async def worker(number: int, first: int, last: int) -> None:
            for nth in range(first + number, last, CONCURRENCY):
                await opened.start(f"parked{nth}@example.com", tags=[f"parked {nth}"])

        async def start(first: int, last: int) -> None:
            await asyncio.gather(*(worker(number, first, last) for number in range(CONCURRENCY)))

        await start(0, WARM_UP)
        scales, began = _Scales(), time.perf_counter()
        await start(WARM_UP, WARM_UP + flows)
        seconds = time.perf_counter() - began
        most = await scales.stop()
        gc.collect()
        kept = resident() - scales.first
    return {
        "flows": flows,
        "starts_per_second": flows / seconds,
        "grown_mib": kept / 2**20,
        "grown_at_most_mib": most / 2**20,
        "bytes_by_flow": kept / flows,
    }


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)  # the report names the durability of Redis
    given = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(sweep(**given) if "due" in given else park(**given))))

"""
Flows in Redis: for many workers on many machines.

Every change is made by a Lua script, which the server runs whole or not at all. One connection carries all calls of a
store: whatever waits is sent in one go, its saves as one call of one script and its loads as another. A caller that is
cancelled leaves nothing half-read behind. A second connection hears of what other workers save, while somebody waits
for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import (
    ConfigurationError,
    FlowNotFound,
    LimitReached,
    RecordUnreadable,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.domain.secret import Secret
from reset_flow.stores.redis.connection import Call
from reset_flow.stores.redis.pipeline import Pipeline
from reset_flow.stores.redis.records import decode_record, encode_save, to_bytes
from reset_flow.stores.redis.server import Server
from reset_flow.stores.rows import micros

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from reset_flow.ports import Query, Record, Use, UseName
    from reset_flow.stores.redis.durability import Durability

__all__ = ["RedisStore"]

PAGE = 50
PIECE = 100
POLL = 1.0
"""Seconds between two looks at a flow that is waited for."""

FLOWS, COUNT = b"flow:", b"flows"
ALL, DUE, ENDED, LOOKUPS = b"all:", b"due:", b"ended:", b"lookup:"
USES, CHANNELS = b"uses:", b"saved:"

SAVED, STALE, UNREADABLE = 0, -1, -2
"""Outcomes of a save, as `save.lua` gives them; a list where budgets are full."""
NEVER = -1


class RedisStore:
    """
    Keeps records in Redis 6 or newer, Valkey too, for any number of workers.

    All keys of a store have the same hash tag, `{prefix}`, so they share one slot: on a cluster, which is recognized by
    itself, give each realm a store with a prefix of its own. The server must not evict keys; one that may is refused
    with a `ConfigurationError`, as is data of a newer release. Both are checked when the store opens itself, in a
    cluster at the node that the url names. Scans skip records that are damaged beyond reading, `load` raises
    `RecordUnreadable` for them.

    A save that returned is as safe as `durability` says, on that server alone: Redis copies to its replicas later, and
    a failover may lose what they had not got yet. Nothing is sent twice by itself, except on a cluster that moves. A
    store is used by one event loop at a time.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py takes it; percent-encode the password.

        prefix: What every key begins with; several stores may live side by side.

        clock: What leases and budgets are judged by instead of the server's clock; gives an aware time.

        connect_timeout: How long to wait for a connection, before `StoreUnavailable`.

        reply_timeout: How long to wait for a reply, before `StoreUnavailable`.
    """

    durable = True

    def __init__(
        self,
        url: str | Secret,
        *,
        prefix: str = "reset_flow",
        clock: Callable[[], datetime] | None = None,
        connect_timeout: timedelta = timedelta(seconds=5),
        reply_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        url = Secret(url)
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError("the prefix of a Redis store must be a text without braces")
        self._tag = b"{%b}:" % to_bytes(prefix)
        self._server = Server(url, self._tag, connect_timeout, reply_timeout)
        self._clock = clock
        self._pipeline: Pipeline | None = None
        self._closed = False

    @property
    def durability(self) -> Durability | None:
        """Return what a save is worth, as the server reported when the store opened itself; `None` before."""
        return self._server.durability

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """
        Save as the port says. A save that is cancelled may have been written, or not.

        Raises:
            RecordUnreadable: The stored version is damaged.
        """
        pipeline = self._open()
        outcome = await pipeline.run(self._save_all, encode_save(record, add, drop))
        if outcome == SAVED:
            pipeline.listener.wake(self._channel(record.id))
        elif outcome == STALE:
            raise StaleRecord(record.id, record.version)
        elif outcome == UNREADABLE:
            raise RecordUnreadable(record.id, "what is stored is no record of this release")
        else:
            wait, *keys = outcome
            raise LimitReached("uses", None if wait == NEVER else timedelta(microseconds=wait), keys=tuple(keys))

    async def load(self, flow_id: str) -> Record:
        """
        Load as the port says.

        Raises:
            RecordUnreadable: The record is damaged.
        """
        now, value = await self._open().run(self._load_all, self._tag + FLOWS + to_bytes(flow_id))
        if value is None:
            raise FlowNotFound(flow_id)
        try:
            return decode_record(flow_id, value, now)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """Scan as the port says, a page at a time. What is saved meanwhile may be seen or not."""
        realm = to_bytes(query.realm)
        kind, index, cursor = "all", ALL + realm, [b"(" + to_bytes(query.after)]
        if query.due:
            kind, index, cursor = "due", DUE + realm, [b"-inf", b"0"]
        elif query.lookup is not None:
            kind, index, cursor = "lookup", LOOKUPS + query.lookup + realm, [b"+"]
        left = limit
        while cursor and left > 0:
            now, cursor, flows = await self._run("scan", [index, FLOWS], [kind, PAGE, *cursor])
            for record in islice(_wanted(query, flows, now), left):
                yield record
                left -= 1

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        Wait as the port says: woken at once, or within a second where the server's messages don't come through.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        if (await self.load(flow_id)).version > version:
            return
        with self._open().listener.watching(self._channel(flow_id)) as event:
            while (left := end - now()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(POLL, left)):
                        await event.wait()
                event.clear()
                if (await self.load(flow_id)).version > version:
                    return

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """Purge as the port says. Saves of others come between its pieces."""
        of_realm = to_bytes(realm)
        names = [ALL + of_realm, DUE + of_realm, ENDED + of_realm, FLOWS, LOOKUPS, CHANNELS]
        purged = passed = 0
        while True:
            size = max(0, min(limit - purged, PIECE))
            deleted, damaged, seen = await self._run("purge", names, [of_realm, micros(before), size, passed])
            purged += deleted
            passed += damaged
            if seen < size or purged >= limit:
                return int(purged)

    async def aclose(self) -> None:
        """Close as the port says. What was waiting to be saved is saved."""
        self._closed = True
        if self._pipeline is not None:
            await self._pipeline.aclose()

    def _save_all(self, saves: Sequence[bytes]) -> Call:
        names = FLOWS, COUNT, ALL, DUE, ENDED, LOOKUPS, USES, CHANNELS
        return Call("save", [self._tag + name for name in names], [self._now(), *saves])

    def _load_all(self, keys: Sequence[bytes]) -> Call:
        return Call("load", keys, [self._now()])

    async def _run(self, script: str, names: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        call = Call(script, [self._tag + name for name in names], [self._now(), *arguments])
        return await self._open().run(lambda _: call)

    def _now(self) -> int | bytes:
        """Return the time as scripts take it; empty for the server's own."""
        return b"" if self._clock is None else micros(self._clock())

    def _channel(self, flow_id: str) -> bytes:
        return self._tag + CHANNELS + to_bytes(flow_id)

    def _open(self) -> Pipeline:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")
        if self._pipeline is None or self._pipeline.ended:
            self._pipeline = Pipeline(self._server.connect)
        elif self._pipeline.loop is not asyncio.get_running_loop():
            raise StoreUnavailable("the store is in use by another event loop, or was before a fork: make one for each")
        return self._pipeline


def _wanted(query: Query, flows: Iterable[tuple[bytes, bytes]], now: int) -> Iterator[Record]:
    """Yield the records of a page that belong to a query. Whoever writes to Redis may have damaged some."""
    for flow_id, value in flows:
        with suppress(ValueError):
            record = decode_record(flow_id.decode(), value, now)
            if (
                record.realm == query.realm
                and record.id > query.after
                and (query.lookup is None or query.lookup in record.lookups)
            ):
                yield record

"""
Flows in Redis: for many workers on many machines.

Every change is made by a Lua script, which the server runs whole or not at all. One connection carries all calls of a
store: whatever waits is sent in one go, its saves as one call of one script and its loads as another, because it is
calls and round trips that cost; and a caller who goes away leaves nothing half-read behind. A second connection hears
of what other workers save, as soon as somebody waits for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
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
from reset_flow.stores.redis.durability import Durability
from reset_flow.stores.redis.pipeline import Call, Joint, Lane
from reset_flow.stores.redis.records import HEAD, LOOKUP_BYTES, micros, name, pack, unpack, version_of
from reset_flow.stores.redis.scans import begin, go_on, wanted
from reset_flow.stores.redis.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.ports import Charge, Query, Record

__all__ = ["Durability", "RedisStore"]

PAGE = 50
PIECE = 100
POLL = 1.0

KEYS = b"flow:", b"flows", b"all:", b"due:", b"ended:", b"lookup:", b"uses:", b"saved:"
"""Of `save.lua`, behind the tag."""

SAVED, STALE, NEVER, UNREADABLE = 0, -1, -2, -3
"""What it says of a record; above zero it is how long to wait."""


class RedisStore:
    """
    Keeps records in Redis 6 or newer, Valkey too, for any number of workers.

    All keys of a store have the same hash tag, `{prefix}`, so they share one slot: on a cluster, which is recognized by
    itself, give each realm a store with a prefix of its own. The server must not evict keys; one that may is refused
    with a `ConfigurationError`, as is data of a newer release. Both are looked at when the store opens itself, in a
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
        self._tag = b"{%b}:" % name(prefix)
        self._server = Server(url, self._tag, connect_timeout, reply_timeout)
        self._clock = clock
        self._saving = Joint("save", [self._tag + each for each in KEYS], self._now)
        self._loading = Joint("load", None, self._now)
        self._lane: Lane | None = None
        self._closed = False

    @property
    def durability(self) -> Durability | None:
        """What a save is worth, by what the server said when the store opened itself; `None` before."""
        return self._server.durability

    async def save(self, record: Record, *, charges: Sequence[Charge] = ()) -> None:
        """
        As the port says. One that is cancelled may have been written, or not.

        Raises:
            RecordUnreadable: The stored version is damaged.
        """
        outcome = await self._open_lane().run(self._saving, pack(record, charges))
        if outcome == SAVED:
            if self._lane is not None:
                self._lane.wake(_channel(self._tag, record.id))
        elif outcome == STALE:
            raise StaleRecord(record.id, record.version)
        elif outcome == UNREADABLE:
            raise RecordUnreadable(record.id, "what is stored is no record of this release")
        else:
            raise LimitReached("uses of this budget", None if outcome == NEVER else timedelta(microseconds=outcome))

    async def load(self, flow_id: str) -> Record:
        """
        As the port says.

        Raises:
            RecordUnreadable: The record is damaged.
        """
        now, value = await self._open_lane().run(self._loading, self._tag + KEYS[0] + name(flow_id))
        if value is None:
            raise FlowNotFound(flow_id)
        try:
            return unpack(flow_id, value, now)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says. A page at a time is read; what is saved meanwhile may be seen or not."""
        kind, index, place = begin(query)
        left = limit
        while left > 0:
            now, members, scores, values = await self._run("scan", [index, b"flow:"], [kind, PAGE, *place])
            for record in wanted(query, kind, members, values, now):
                yield record
                left -= 1
                if left == 0:
                    return
            if len(members) < PAGE:
                return
            place = go_on(kind, members, scores)

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        As the port says: at once, or within a second where the server's messages don't come through.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        now = asyncio.get_running_loop().time
        end = now() + timeout.total_seconds()
        channel = _channel(self._tag, flow_id)
        event = asyncio.Event()
        lane: Lane | None = None
        try:
            while await self._version(flow_id) <= version and (left := end - now()) > 0:
                if lane is None:
                    lane = self._open_lane()
                    lane.watch(channel, event)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(POLL, left)):
                        await event.wait()
                event.clear()
        finally:
            if lane is not None:
                lane.unwatch(channel, event)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says. Saves of others come between its pieces."""
        of_realm = name(realm)
        names = [
            b"all:" + of_realm,
            b"due:" + of_realm,
            b"ended:" + of_realm,
            b"flow:",
            b"lookup:",
            b"saved:",
        ]
        purged = passed = 0
        while True:
            size = max(0, min(limit - purged, PIECE))
            values = [of_realm, micros(before), size, passed, LOOKUP_BYTES]
            deleted, damaged, seen = await self._run("purge", names, values)
            purged += deleted
            passed += damaged
            if seen < size or purged >= limit:
                return int(purged)

    async def aclose(self) -> None:
        """As the port says. What was waiting to be saved is saved."""
        self._closed = True
        if self._lane is not None:
            await self._lane.stop()

    async def _run(self, script: str, names: list[bytes], values: list[Any]) -> Any:
        call = Call.of(script, [self._tag + each for each in names], [self._now(), *values])
        return await self._open_lane().run(call)

    def _now(self) -> int | bytes:
        """As scripts take it."""
        return b"" if self._clock is None else micros(self._clock())

    async def _version(self, flow_id: str) -> int:
        key = self._tag + KEYS[0] + name(flow_id)
        head = await self._open_lane().run(Call(("GETRANGE", key, 0, HEAD.size - 1)))
        if not head:
            raise FlowNotFound(flow_id)
        try:
            return version_of(head)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    def _open_lane(self) -> Lane:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")
        if self._lane is None or self._lane.over:
            self._lane = Lane(self._server.open)
        elif self._lane.loop is not asyncio.get_running_loop():
            raise StoreUnavailable("the store is in use by another event loop, or was before a fork: make one for each")
        return self._lane


def _channel(tag: bytes, flow_id: str) -> bytes:
    return tag + b"saved:" + name(flow_id)

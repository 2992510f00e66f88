"""
Flows in Redis: for many workers on many machines.

Every change is one Lua script, which the server runs whole or not at all. One connection carries all calls of a store:
whatever waits is sent in one go, because it is the round trips that cost, and a caller who goes away leaves nothing
half-read behind. A second connection hears of what other workers save, as soon as somebody waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from reset_flow.errors import (
    ConfigurationError,
    FlowNotFound,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.models import State, printable
from reset_flow.ports import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import PubSub

    from reset_flow.ports import Charge, Query

__all__ = ["Durability", "RedisStore"]

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of all that is kept under a prefix; each record has a format of its own besides."""

BATCH = 256
CLUSTER_BATCH = 32
CLUSTER_RETRIES = 3
PAGE = 50
PIECE = 100
POLL = 1.0
RESUBSCRIBE = 0.2
PULSE = 15.0

LOOKUP_BYTES = 16
FORMAT = 1
HEAD = struct.Struct(">BQQq")
TIMES = struct.Struct(">qqq")
NOTHING = -(2**63)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FOREVER = 2**52
"""142 years: a double still counts microseconds when a time is added."""


class Durability(StrEnum):
    """What the server does for a save before it says that it is done."""

    ALWAYS = "always"
    EVERYSEC = "everysec"
    SYSTEM = "no"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """The same for people."""
        return {
            Durability.ALWAYS: "a save that returned has reached the server's disk",
            Durability.EVERYSEC: "what was saved in the last second or two is lost if the server's machine fails",
            Durability.SYSTEM: "what was saved in the last half minute or so is lost if the server's machine fails",
            Durability.NONE: "what was saved since the last snapshot, if any, is lost when the server stops",
            Durability.UNKNOWN: "the server does not tell whether it writes what was saved to its disk",
        }[self]


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
        url: str,
        *,
        prefix: str = "reset_flow",
        clock: Callable[[], datetime] | None = None,
        connect_timeout: timedelta = timedelta(seconds=5),
        reply_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError("the prefix of a Redis store must be a text without braces")
        self._server = _Server(url, b"{%s}:" % prefix.encode(), connect_timeout, reply_timeout)
        self._clock = clock
        self._lane: _Lane | None = None
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
        flow_id, realm = _text(record.id), _text(record.realm)
        if any(len(lookup) != LOOKUP_BYTES for lookup in record.lookups):
            raise InvalidInput("a lookup must be 16 bytes long")
        names = [b"flow:" + flow_id, b"flows", b"purged", b"all:" + realm, b"due:" + realm, b"ended:" + realm]
        names += [b"lookup:" + lookup + realm for lookup in record.lookups]
        names += [b"uses:" + charge.key for charge in charges]
        lease = None if record.lease is None else _span(record.lease)
        times = [None if time is None else _micros(time) for time in (record.due_at, record.ended_at)]
        values: list[Any] = [flow_id, realm, record.version, record.stamp, *(_or_empty(each) for each in (lease, *times))]
        values += [_pack(record, realm, lease, *times), self._key(b"saved:" + flow_id), len(record.lookups)]
        for charge in charges:
            values += [charge.amount, charge.limit, _span(charge.window)]
        match await self._run("save", names, values):
            case [b"saved"]:
                if self._lane is not None:
                    self._lane.wake(flow_id)
            case [b"stale"]:
                raise StaleRecord(record.id, record.version)
            case [b"limit", wait]:
                raise LimitReached("uses of this budget", None if wait < 0 else timedelta(microseconds=wait))
            case _:
                raise RecordUnreadable(record.id, "what is stored is no record")

    async def load(self, flow_id: str) -> Record:
        """
        As the port says.

        Raises:
            RecordUnreadable: The record is damaged.
        """
        now, value = await self._run("load", [_flow(flow_id)], [])
        if value is None:
            raise FlowNotFound(flow_id)
        try:
            return _unpack(flow_id, value, now)
        except ValueError as error:
            raise RecordUnreadable(flow_id, str(error)) from None

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says. A page at a time is read; what is saved meanwhile may be seen or not."""
        realm = query.realm.encode(errors="replace")
        if query.due:
            kind, index, place = "due", b"due:" + realm, [b"-inf", 0]
        elif query.lookup is not None:
            kind, index, place = "lookup", b"lookup:" + query.lookup + realm, [b"+"]
        else:
            kind, index, place = "all", b"all:" + realm, [b"(" + query.after.encode(errors="replace")]
        left = limit
        while left > 0:
            now, members, scores, values = await self._run("scan", [index, b"flow:"], [kind, PAGE, *place])
            for record in _readable(kind, members, values, now):
                if _wanted(record, query):
                    yield record
                    left -= 1
                    if left == 0:
                        return
            if len(members) < PAGE:
                return
            last = members[-1]
            place = [scores[-1], int.from_bytes(last[:8])] if query.due else [b"(" + last]

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        As the port says: at once, or within a second where the server's messages don't come through.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        clock = asyncio.get_running_loop().time
        end = clock() + timeout.total_seconds()
        name = _flow(flow_id)[len(b"flow:") :]
        event = asyncio.Event()
        lane: _Lane | None = None
        try:
            while await self._version(flow_id) <= version and (left := end - clock()) > 0:
                if lane is not self._lane and self._lane is not None:
                    lane = self._lane
                    lane.watch(name, event)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(POLL, left)):
                        await event.wait()
                event.clear()
        finally:
            if lane is not None:
                lane.unwatch(name, event)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says. Saves of others come between its pieces."""
        name = realm.encode(errors="replace")
        names = [b"purged", b"all:" + name, b"due:" + name, b"ended:" + name, b"flow:", b"lookup:", b"saved:"]
        purged = passed = 0
        while True:
            size = max(0, min(limit - purged, PIECE))
            values = [name, _micros(before), size, passed, LOOKUP_BYTES]
            deleted, damaged, seen = await self._run("purge", names, values)
            purged, passed = purged + deleted, passed + damaged
            if seen < size or purged >= limit:
                return purged

    async def aclose(self) -> None:
        """As the port says. What was waiting to be saved is saved."""
        self._closed = True
        if self._lane is not None:
            await self._lane.stop()

    def _key(self, name: bytes) -> bytes:
        return self._server.tag + name

    async def _run(self, script: str, names: list[bytes], values: list[Any]) -> Any:
        time = b"" if self._clock is None else _micros(self._clock())
        return await self._call(_Script.named(script).call([self._key(name) for name in names], [time, *values]))

    async def _version(self, flow_id: str) -> int:
        head = await self._call(_Call(("GETRANGE", self._key(_flow(flow_id)), 0, HEAD.size - 1)))
        if not head:
            raise FlowNotFound(flow_id)
        if len(head) < HEAD.size or head[0] != FORMAT:
            raise RecordUnreadable(flow_id, "what is stored is no record")
        return int(HEAD.unpack(head)[1])

    async def _call(self, call: _Call) -> Any:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")
        loop = asyncio.get_running_loop()
        if self._lane is None or self._lane.over:
            self._lane = _Lane(self._server, loop)
        elif self._lane.loop is not loop:
            raise StoreUnavailable("the store is in use by another event loop, or was before a fork: make one for each")
        return await self._lane.run(call)

"""
Flows in Redis: for many workers on many machines.

Every change is made by a Lua script, which the server runs whole or not at all. One connection carries all calls of a
store: whatever waits is sent in one go, its saves as one call of one script and its loads as another. A caller that is
cancelled leaves nothing half-read behind.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from reset_flow.domain import validation
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, RecordUnreadable, StaleRecord
from reset_flow.ports import Store
from reset_flow.stores.redis.records import decode_record, encode_save, to_bytes
from reset_flow.stores.redis.server import Server
from reset_flow.stores.redis.session import Session
from reset_flow.stores.rows import PAGE, matching, micros
from reset_flow.stores.session import SessionHolder
from reset_flow.stores.uses import limit_reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.domain.secret import Secret
    from reset_flow.ports import Query, Record, Use, UseName
    from reset_flow.stores.redis.server import Durability
    from reset_flow.stores.redis.session import Call

PIECE = 100
"""How many records a purge deletes in one call."""

FLOWS, COUNT = b"flow:", b"flows"
ALL, DUE, ENDED, LOOKUPS = b"all:", b"due:", b"ended:", b"lookup:"
USES, CHANGED, SCHEMA = b"uses:", b"changed", b"schema"

SAVED, STALE, UNREADABLE = 0, -1, -2
"""Outcomes of a save, as `save.lua` gives them; a list where budgets are full."""
NEVER = -1


class RedisStore(Store):
    """
    Keeps records in Redis 6 or newer, Valkey too, for any number of workers.

    All keys of a store have the same hash tag, `{prefix}`, so they share one slot: on a cluster, which is recognized by
    itself, give each realm a store with a prefix of its own. The server must not evict keys; one that may is refused
    with a `ConfigurationError`, as is data of a newer release. Both are checked when the store opens itself, in a
    cluster at the node that the url names. Scans skip records that are damaged beyond reading, `load` and `save`
    raise `RecordUnreadable` for them.

    A save that returned is as safe as `durability` says, on that server alone: Redis copies to its replicas later, and
    a failover may lose what they had not got yet. Nothing is sent twice by itself, except on a cluster that moves. A
    store is used by one event loop at a time.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with options of redis-py (docs/stores.md).

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
        url = validation.address(url, "the url of a Redis store")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ConfigurationError("the prefix of a Redis store must be a text without braces")
        self._tag = b"{%b}:" % to_bytes(prefix)
        self._server = Server(url, self._tag, connect_timeout, reply_timeout)
        self._clock = clock
        self._sessions = SessionHolder(partial(Session, self._server, self._tag + CHANGED), Session.close)

    @property
    def durability(self) -> Durability | None:
        """Return what a save is worth, as the server reported when the store opened itself; `None` before."""
        return self._server.durability

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        session = self._sessions.get()
        outcome = await session.run(self._save_all, encode_save(record, add, drop))
        if outcome == SAVED:
            session.listener.wake(to_bytes(record.id))
        elif outcome == STALE:
            raise StaleRecord(record.id, record.version)
        elif outcome == UNREADABLE:
            raise RecordUnreadable(record.id, "what is stored is no record of this release")
        else:
            raise limit_reached({key: None if wait == NEVER else wait for key, wait in outcome})

    async def load(self, flow_id: str) -> Record:
        now, value = await self._sessions.get().run(self._load_all, self._tag + FLOWS + to_bytes(flow_id))
        if value is None:
            raise FlowNotFound(flow_id)
        return decode_record((flow_id, value), now)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        realm = to_bytes(query.realm)
        kind, index, cursor = "all", ALL + realm, [b"(" + to_bytes(query.after)]
        if query.due:
            kind, index, cursor = "due", DUE + realm, [b"-inf", b"0"]
        elif query.lookup is not None:
            kind, index, cursor = "lookup", LOOKUPS + query.lookup + realm, [b"+"]
        left = limit
        while cursor and left > 0:
            now, cursor, flows = await self._run("scan", [index, FLOWS], [kind, PAGE, *cursor])
            for record in islice(matching(query, flows, partial(decode_record, now=now)), left):
                yield record
                left -= 1

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._sessions.get().listener.wait(to_bytes(flow_id), version, timeout, partial(self.load, flow_id))

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        of_realm = to_bytes(realm)
        names = [ALL + of_realm, DUE + of_realm, ENDED + of_realm, FLOWS, LOOKUPS, CHANGED]
        purged = passed = 0
        while True:
            size = max(0, min(limit - purged, PIECE))
            deleted, damaged, seen = await self._run("purge", names, [of_realm, micros(before), size, passed])
            purged += deleted
            passed += damaged
            if seen < size or purged >= limit:
                return int(purged)

    async def aclose(self) -> None:
        await self._sessions.aclose()

    def _save_all(self, saves: Sequence[bytes]) -> Call:
        names = FLOWS, COUNT, ALL, DUE, ENDED, LOOKUPS, USES, CHANGED, SCHEMA
        return "save", [self._tag + name for name in names], [self._now(), *saves]

    def _load_all(self, keys: Sequence[bytes]) -> Call:
        return "load", keys, [self._now()]

    async def _run(self, script: str, names: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        call = (script, [self._tag + name for name in names], [self._now(), *arguments])
        return await self._sessions.get().run(lambda _: call)

    def _now(self) -> int | bytes:
        """Return the time as scripts take it; empty for the server's own."""
        return b"" if self._clock is None else micros(self._clock())

"""
Flows in Redis: for many workers on many machines.

Every change is one Lua script, which the server runs whole or not at all. One connection carries all calls of a store:
whatever waits is sent in one go, because it is the round trips that cost, and a caller who goes away leaves nothing
half-read behind. A second connection hears of what other workers save, as soon as somebody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.errors import (
    ConfigurationError,
    FlowNotFound,
    LimitReached,
    RecordUnreadable,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.stores.lua.durability import Durability
from reset_flow.stores.lua.lane import Call, Lane
from reset_flow.stores.lua.records import HEAD, LOOKUP_BYTES, micros, name, pack, span, unpack, version_of
from reset_flow.stores.lua.scans import begin, go_on, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from redis.asyncio import Redis, RedisCluster

    from reset_flow.ports import Charge, Query, Record
    from reset_flow.stores.lua.lane import Subscription

__all__ = ["Durability", "RedisStore"]

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of all that is kept under a prefix; a record's own format is a part of it."""

CONNECTIONS = 4
BATCH = 256
CLUSTER_BATCH = 32
CLUSTER_RETRIES = 3
PAGE = 50
PIECE = 100
POLL = 1.0


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
        self._tag = b"{%b}:" % name(prefix)
        self._server = _Server(_checked(url), self._tag, connect_timeout, reply_timeout)
        self._clock = clock
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
        packed = pack(record)
        flow_id, realm, saved = name(record.id), name(record.realm), _channel(self._tag, record.id)
        names = [b"flow:" + flow_id, b"flows", b"purged", b"all:" + realm, b"due:" + realm, b"ended:" + realm]
        names += [b"lookup:" + lookup + realm for lookup in record.lookups]
        names += [b"uses:" + charge.key for charge in charges]
        values: list[Any] = [flow_id, realm, record.version, record.stamp]
        values.append(b"" if record.lease is None else span(record.lease))
        values += [b"" if time is None else micros(time) for time in (record.due_at, record.ended_at)]
        values += [packed, saved, len(record.lookups)]
        for charge in charges:
            values += [charge.amount, charge.limit, span(charge.window)]
        match await self._run("save", names, values):
            case [b"saved"]:
                if self._lane is not None:
                    self._lane.wake(saved)
            case [b"stale"]:
                raise StaleRecord(record.id, record.version)
            case [b"limit", wait]:
                raise LimitReached("uses of this budget", None if wait < 0 else timedelta(microseconds=wait))
            case _:
                raise RecordUnreadable(record.id, "what is stored is no record of this release")

    async def load(self, flow_id: str) -> Record:
        """
        As the port says.

        Raises:
            RecordUnreadable: The record is damaged.
        """
        now, value = await self._run("load", [b"flow:" + name(flow_id)], [])
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
            b"purged",
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
        time = b"" if self._clock is None else micros(self._clock())
        return await self._open_lane().run(Call.of(script, [self._tag + each for each in names], [time, *values]))

    async def _version(self, flow_id: str) -> int:
        key = self._tag + b"flow:" + name(flow_id)
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


class _Server:
    """What it takes to open a server, and what it said about itself."""

    def __init__(self, url: str, tag: bytes, connect_timeout: timedelta, reply_timeout: timedelta) -> None:
        self.durability: Durability | None = None
        self._url = url
        self._tag = tag
        self._timeouts = {
            "socket_connect_timeout": connect_timeout.total_seconds(),
            "socket_timeout": reply_timeout.total_seconds(),
        }

    async def open(self) -> _Connection:
        """Connect, and see whether records can be entrusted to it."""
        try:
            import redis.asyncio  # noqa: PLC0415 - only who uses this store needs the driver
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError("redis-py is missing: pip install 'reset-flow[redis]'") from None
        # The third version of the protocol would switch off the check for connections that the server has closed.
        options: dict[str, Any] = {"protocol": 2, "max_connections": CONNECTIONS, **self._timeouts}
        pool = None
        with suppress(ValueError):  # what it says may show a part of a password
            pool = redis.asyncio.ConnectionPool.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)
        if pool is None:
            raise ConfigurationError("the url of the Redis store can't be read: redis://user:password@host:6379/0")
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("records are bytes: take decode_responses out of the url of the Redis store")
        client = redis.asyncio.Redis.from_pool(pool)
        connection = _Connection(client, None)
        try:
            info = await _asked(client.info()) or {}
            await self._inspect(client, info)
            if info.get("cluster_enabled"):
                options |= {"max_connections": 2 * CLUSTER_BATCH, "retry": Retry(NoBackoff(), CLUSTER_RETRIES)}
                cluster = redis.asyncio.RedisCluster.from_url(self._url, **options)
                connection = _Connection(client, cluster)
                await cluster.initialize()
            await self._check_schema(connection)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _inspect(self, client: Redis, info: dict[str, Any]) -> None:
        config: dict[str, str] = {}
        for pattern in ("append*", "no-appendfsync-on-rewrite", "maxmemory*"):
            config |= await _asked(client.config_get(pattern)) or {}
        policy = config.get("maxmemory-policy", info.get("maxmemory_policy"))
        if int(config.get("maxmemory", info.get("maxmemory", 0))) and policy not in (None, "noeviction"):
            raise ConfigurationError(
                f"this Redis may throw flows away (maxmemory-policy is {policy}): CONFIG SET maxmemory-policy "
                "noeviction, or take a server of their own"
            )
        if policy is None:
            logger.warning("redis does not tell its maxmemory-policy: make sure that it is noeviction")
        durability = Durability.of(config, info)
        if durability is not self.durability:
            level = logging.INFO if durability is Durability.ALWAYS else logging.WARNING
            logger.log(level, "redis, appendfsync %s: %s", durability, durability.sentence)
        self.durability = durability

    async def _check_schema(self, connection: _Connection) -> None:
        key = self._tag + b"schema"
        schema = await _one(connection, "GET", key)
        if schema is None:
            await _one(connection, "SET", key, SCHEMA, "NX")
            schema = await _one(connection, "GET", key)
        if not schema.isdigit():
            raise ConfigurationError("something else is kept under the prefix of the Redis store: choose another one")
        if int(schema) > SCHEMA:
            raise ConfigurationError(
                f"what is in Redis has schema {int(schema)}, and this release knows {SCHEMA}: it was written by a "
                "newer one, run that"
            )


@attrs.frozen(eq=False)
class _Connection:
    """
    An open server.

    Attributes:
        cluster: What finds the node that has the slot, where there are several; messages come through any node.
    """

    client: Redis
    cluster: RedisCluster | None

    @property
    def batch(self) -> int:
        return BATCH if self.cluster is None else CLUSTER_BATCH

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """As `Connection` says."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - loaded when the server was opened

        replies = await self._deliver([call.command for call in calls])
        forgotten = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        again = await self._deliver([calls[at].in_full for at in forgotten])
        for at, reply in zip(forgotten, again, strict=True):
            replies[at] = reply
        return replies

    async def _deliver(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.cluster is not None:
            sent = [self.cluster.execute_command(*command) for command in commands]
            return list(await asyncio.gather(*sent, return_exceptions=True))
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def subscription(self) -> Subscription:
        """As `Connection` says."""
        return self.client.pubsub()

    async def aclose(self) -> None:
        """As `Connection` says."""
        try:
            if self.cluster is not None:
                await self.cluster.aclose()
        finally:
            await self.client.aclose()


async def _one(connection: _Connection, *command: Any) -> Any:
    """The reply to one command, raised if it is a refusal."""
    (reply,) = await connection.send([Call(command)])
    if isinstance(reply, Exception):
        raise reply
    return reply


async def _asked(question: Any) -> Any:
    """The answer; `None` where the server does not let us ask."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - loaded when the server was opened

    try:
        return await question
    except ResponseError:
        return None


def _checked(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError("the url of a Redis store begins with redis://, rediss:// or unix://")
    if any("@" in each for char in "/?#" for each in rest.split(char)[1:] if scheme != "unix"):
        raise ConfigurationError("a password in the url of a Redis store must be percent-encoded")
    return url


def _channel(tag: bytes, flow_id: str) -> bytes:
    return tag + b"saved:" + name(flow_id)

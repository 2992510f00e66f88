"""Open a Redis server, and check that records can be entrusted to it."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import timedelta

    from redis.asyncio import Redis, RedisCluster

    from reset_flow.domain.secret import Secret

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of everything that is kept under a prefix; the format of a record is a part of it."""

CONNECTIONS = 4
CLUSTER_RETRIES = 3

UNQUOTED = re.compile(r"rediss?://[^/?#]*[/?#].*@", re.DOTALL)
"""A password that would be taken for a path."""


class Durability(StrEnum):
    """
    What the server does for a save before it acknowledges it.

    With `ALWAYS`, Redis flushes its log before it sends the replies to what it logged, and ends itself where it can't
    (`flushAppendOnlyFile` in its aof.c).
    """

    ALWAYS = "always"
    EVERYSEC = "everysec"
    SYSTEM = "no"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """Say it to people."""
        return {
            Durability.ALWAYS: "a save that returned has reached the server's disk",
            Durability.EVERYSEC: "what was saved in the last second or two is lost if the server's machine fails",
            Durability.SYSTEM: "what was saved in the last half minute or so is lost if the server's machine fails",
            Durability.NONE: "what was saved since the last snapshot, if any, is lost when the server stops",
            Durability.UNKNOWN: "the server does not tell whether it writes what was saved to its disk",
        }[self]


@attrs.define
class Clients:
    """The driver's clients: of the node that the url names, and on a cluster one that finds the node of a slot."""

    node: Redis
    cluster: RedisCluster | None = None

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the replies; a refusal is an exception in the list. Raise when the connection is lost."""
        if self.cluster is not None:
            return [await _reply(self.cluster.execute_command(*command)) for command in commands]
        # The driver's pipeline takes half as much CPU again.
        pool = self.node.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection.read_response()) for _ in commands]
        finally:
            await pool.release(connection)

    async def aclose(self) -> None:
        """Close everything."""
        try:
            if self.cluster is not None:
                await self.cluster.aclose()
        finally:
            await self.node.aclose()


class Server:
    """A server that may be opened any number of times."""

    def __init__(self, url: Secret, tag: bytes, connect_timeout: timedelta, reply_timeout: timedelta) -> None:
        if not url.reveal().startswith(("redis://", "rediss://", "unix://")):
            raise ConfigurationError("the url of a Redis store begins with redis://, rediss:// or unix://")
        if UNQUOTED.match(url.reveal()):
            raise ConfigurationError("a password in the url of a Redis store must be percent-encoded")
        self.durability: Durability | None = None
        self._url = url
        self._tag = tag
        # The third version of the protocol would switch off the check for connections that the server has closed.
        self._options: dict[str, Any] = {
            "protocol": 2,
            "max_connections": CONNECTIONS,
            "socket_connect_timeout": connect_timeout.total_seconds(),
            "socket_timeout": reply_timeout.total_seconds(),
        }

    async def connect(self) -> Clients:
        """Open the server, or raise `ConfigurationError` where records must not be kept."""
        try:
            from redis.asyncio import ConnectionPool, Redis, RedisCluster  # noqa: PLC0415 - needed only with this store
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError("redis-py is missing: pip install 'reset-flow[redis]'") from None
        pool = None
        with suppress(ValueError):  # its message may show a part of a password
            pool = ConnectionPool.from_url(self._url.reveal(), retry=Retry(NoBackoff(), 0), **self._options)
        if pool is None:
            raise ConfigurationError("the url of the Redis store can't be read: redis://user:password@host:6379/0")
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("records are bytes: take decode_responses out of the url of the Redis store")
        clients = Clients(Redis.from_pool(pool))
        try:
            info = await _answer(clients.node.info())
            await self._check_settings(clients.node, info)
            if info.get("cluster_enabled"):
                retry = Retry(NoBackoff(), CLUSTER_RETRIES)
                clients.cluster = RedisCluster.from_url(self._url.reveal(), retry=retry, **self._options)
                await clients.cluster.initialize()
            await self._check_schema(clients.cluster or clients.node)
        except BaseException:
            await clients.aclose()
            raise
        return clients

    async def _check_settings(self, node: Redis, info: dict[str, Any]) -> None:
        config: dict[str, str] = {}
        for pattern in ("append*", "no-appendfsync-on-rewrite", "maxmemory*"):
            config |= await _answer(node.config_get(pattern))
        policy = config.get("maxmemory-policy", info.get("maxmemory_policy"))
        if int(config.get("maxmemory", info.get("maxmemory", 0))) and policy not in (None, "noeviction"):
            raise ConfigurationError(
                f"this Redis may throw flows away (maxmemory-policy is {policy}): CONFIG SET maxmemory-policy "
                "noeviction, or take a server of their own"
            )
        if policy is None:
            logger.warning("redis does not tell its maxmemory-policy: make sure that it is noeviction")
        fsync = config.get("appendfsync")
        durability = Durability(fsync) if fsync in tuple(Durability) else Durability.UNKNOWN
        if config.get("appendonly", "yes" if info.get("aof_enabled", 1) else "no") == "no":
            durability = Durability.NONE
        elif config.get("no-appendfsync-on-rewrite") == "yes":
            durability = Durability.SYSTEM
        if durability is not self.durability:
            level = logging.INFO if durability is Durability.ALWAYS else logging.WARNING
            logger.log(level, "redis, appendfsync %s: %s", durability, durability.sentence)
        self.durability = durability

    async def _check_schema(self, client: Redis | RedisCluster) -> None:
        key = self._tag + b"schema"
        schema: Any = await client.get(key)
        if schema is None:
            await client.set(key, SCHEMA, nx=True)
            schema = await client.get(key)
        if not schema.isdigit():
            raise ConfigurationError("something else is kept under the prefix of the Redis store: choose another one")
        if int(schema) > SCHEMA:
            raise ConfigurationError(
                f"what is in Redis has schema {int(schema)}, and this release knows {SCHEMA}: it was written by a "
                "newer one, run that"
            )


async def _reply(command: Awaitable[Any]) -> Any:
    """Return the reply, or the refusal of the server."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - loaded when the server was opened

    try:
        return await command
    except ResponseError as error:
        return error


async def _answer(question: Awaitable[Any]) -> dict[str, Any]:
    """Return what the server lets us know."""
    reply = await _reply(question)
    return reply if isinstance(reply, dict) else {}

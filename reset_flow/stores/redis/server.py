"""The server that a Redis store talks to, and what it says about itself. The only file that imports redis-py."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.stores.redis.durability import Durability
from reset_flow.stores.redis.pipeline import Call

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from redis.asyncio import Redis, RedisCluster

    from reset_flow.domain.secret import Secret
    from reset_flow.stores.redis.pipeline import Subscription

__all__ = ["OpenServer", "Server"]

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of all that is kept under a prefix; a record's own format is a part of it."""

CONNECTIONS = 4
BATCH = 256
CLUSTER_BATCH = 32
CLUSTER_RETRIES = 3

UNQUOTED = re.compile(r"rediss?://[^/?#]*[/?#].*@", re.DOTALL)
"""A password that would be taken for a path."""


class Server:
    """What it takes to open a server, and what it said about itself."""

    def __init__(self, url: Secret, tag: bytes, connect_timeout: timedelta, reply_timeout: timedelta) -> None:
        self.durability: Durability | None = None
        self._url = _checked(url)
        self._tag = tag
        self._timeouts = {
            "socket_connect_timeout": connect_timeout.total_seconds(),
            "socket_timeout": reply_timeout.total_seconds(),
        }

    async def open(self) -> OpenServer:
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
            pool = redis.asyncio.ConnectionPool.from_url(self._url.reveal(), retry=Retry(NoBackoff(), 0), **options)
        if pool is None:
            raise ConfigurationError("the url of the Redis store can't be read: redis://user:password@host:6379/0")
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("records are bytes: take decode_responses out of the url of the Redis store")
        client = redis.asyncio.Redis.from_pool(pool)
        connection = OpenServer(client, None)
        try:
            info = await _asked(client.info()) or {}
            await self._inspect(client, info)
            if info.get("cluster_enabled"):
                options |= {"max_connections": 2 * CLUSTER_BATCH, "retry": Retry(NoBackoff(), CLUSTER_RETRIES)}
                cluster = redis.asyncio.RedisCluster.from_url(self._url.reveal(), **options)
                connection = OpenServer(client, cluster)
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

    async def _check_schema(self, connection: OpenServer) -> None:
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
class OpenServer:
    """
    An open server.

    Attributes:
        cluster: What finds the node that has the slot, where there are several; messages come through any node.
    """

    client: Redis
    cluster: RedisCluster | None

    @property
    def batch(self) -> int:
        """As `Connection` says."""
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


async def _one(connection: OpenServer, *command: Any) -> Any:
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


def _checked(url: Secret) -> Secret:
    if not url.reveal().startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError("the url of a Redis store begins with redis://, rediss:// or unix://")
    if UNQUOTED.match(url.reveal()):
        raise ConfigurationError("a password in the url of a Redis store must be percent-encoded")
    return url

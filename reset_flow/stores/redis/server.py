"""Open a Redis server, and check that records can be entrusted to it."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError
from reset_flow.stores.redis.connection import CLUSTER_BATCH, Connection
from reset_flow.stores.redis.durability import Durability

if TYPE_CHECKING:
    from datetime import timedelta

    from redis.asyncio import Redis, RedisCluster

    from reset_flow.domain.secret import Secret

__all__ = ["Server"]

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of everything that is kept under a prefix; the format of a record is a part of it."""

CONNECTIONS = 4
CLUSTER_RETRIES = 3

UNQUOTED = re.compile(r"rediss?://[^/?#]*[/?#].*@", re.DOTALL)
"""A password that would be taken for a path."""


class Server:
    """
    A server that may be opened any number of times.

    Attributes:
        durability: As it was when the server was last opened; `None` before.
    """

    def __init__(self, url: Secret, tag: bytes, connect_timeout: timedelta, reply_timeout: timedelta) -> None:
        if not url.reveal().startswith(("redis://", "rediss://", "unix://")):
            raise ConfigurationError("the url of a Redis store begins with redis://, rediss:// or unix://")
        if UNQUOTED.match(url.reveal()):
            raise ConfigurationError("a password in the url of a Redis store must be percent-encoded")
        self.durability: Durability | None = None
        self._url = url
        self._tag = tag
        self._timeouts = {
            "socket_connect_timeout": connect_timeout.total_seconds(),
            "socket_timeout": reply_timeout.total_seconds(),
        }

    async def connect(self) -> Connection:
        """
        Open the server.

        Raises:
            ConfigurationError: Records must not be kept there.
        """
        try:
            import redis.asyncio  # noqa: PLC0415 - only who uses this store needs the driver
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError("redis-py is missing: pip install 'reset-flow[redis]'") from None
        # The third version of the protocol would switch off the check for connections that the server has closed.
        options: dict[str, Any] = {"protocol": 2, "max_connections": CONNECTIONS, **self._timeouts}
        pool = None
        with suppress(ValueError):  # its message may show a part of a password
            pool = redis.asyncio.ConnectionPool.from_url(self._url.reveal(), retry=Retry(NoBackoff(), 0), **options)
        if pool is None:
            raise ConfigurationError("the url of the Redis store can't be read: redis://user:password@host:6379/0")
        if pool.connection_kwargs.get("decode_responses"):
            raise ConfigurationError("records are bytes: take decode_responses out of the url of the Redis store")
        client = redis.asyncio.Redis.from_pool(pool)
        connection = Connection(client)
        try:
            info = await _ask(client.info()) or {}
            await self._check_settings(client, info)
            if info.get("cluster_enabled"):
                options |= {"max_connections": 2 * CLUSTER_BATCH, "retry": Retry(NoBackoff(), CLUSTER_RETRIES)}
                cluster = redis.asyncio.RedisCluster.from_url(self._url.reveal(), **options)
                connection = Connection(client, cluster)
                await cluster.initialize()
            await self._check_schema(connection.cluster or client)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _check_settings(self, client: Redis, info: dict[str, Any]) -> None:
        config: dict[str, str] = {}
        for pattern in ("append*", "no-appendfsync-on-rewrite", "maxmemory*"):
            config |= await _ask(client.config_get(pattern)) or {}
        policy = config.get("maxmemory-policy", info.get("maxmemory_policy"))
        if int(config.get("maxmemory", info.get("maxmemory", 0))) and policy not in (None, "noeviction"):
            raise ConfigurationError(
                f"this Redis may throw flows away (maxmemory-policy is {policy}): CONFIG SET maxmemory-policy "
                "noeviction, or take a server of their own"
            )
        if policy is None:
            logger.warning("redis does not tell its maxmemory-policy: make sure that it is noeviction")
        durability = Durability.reported(config, info)
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


async def _ask(question: Any) -> Any:
    """Return the answer; `None` where the server does not let us ask."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - loaded when the server was opened

    try:
        return await question
    except ResponseError:
        return None

"""Open a Redis server, and check that records can be entrusted to it."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.stores.addresses import FLAG, SECONDS, TEXT, WHOLE, read_options, with_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import timedelta

    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.connection import AbstractConnection

    from reset_flow.domain.secret import Secret

logger = logging.getLogger("reset_flow")

SCHEMA = 1
"""Of everything that is kept under a prefix; the format of a record is a part of it."""

CONNECTIONS = 4
CLUSTER_RETRIES = 3

IDLE = 0.02
"""
Seconds without a call after which the connection is checked before the next: calls of a busy store follow each other
faster, and the check costs more than a call. A connection that is closed within them fails one batch.
"""

WHAT = "the url of a Redis store"

HONOURED = {
    **dict.fromkeys(("username", "password", "client_name"), TEXT),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SECONDS),
    **dict.fromkeys(("db", "health_check_interval"), WHOLE),
    "socket_keepalive": FLAG,
    "socket_read_size": "[1-9][0-9]{0,8}",
}

HONOURED_WITH_TLS = {
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_ciphers"), TEXT),
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": FLAG,
    "ssl_min_version": "771|772",
}

# The store has its own way, which does what they ask for or makes no difference to it.
IGNORED = {
    "protocol": "2|3",
    "retry_on_timeout": FLAG,
    "max_connections": "[2-9]|[1-9][0-9]{1,8}",
    "decode_responses": "(?i:false|no|0|f|n)",
    "encoding": "(?i:utf-?8)",
    "encoding_errors": TEXT,
}

PATH = re.compile(r"[^/]*//[^/]*(/[0-9]{0,9})?/?")


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
    """
    The driver's clients.

    Attributes:
        node: Of the node that the url names.

        cluster: On a cluster, one that finds the node of a slot.

        is_replica: Whether the node copies another one: what it has may be old.
    """

    node: Redis
    cluster: RedisCluster | None = None
    is_replica: bool = False
    # The connection that carries all calls, until it has been idle: the driver's pool checks each that it lends.
    _connection: AbstractConnection | None = attrs.field(default=None, init=False)
    _idle_at: float = attrs.field(default=0.0, init=False)

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the replies; a refusal is an exception in the list. Raise when the connection is lost."""
        if self.cluster is not None:
            return [await _reply(self.cluster.execute_command(*command)) for command in commands]
        # The driver's pipeline takes half as much CPU again.
        now = asyncio.get_running_loop().time
        if self._connection is None or now() > self._idle_at:
            await self._return()
            self._connection = await self.node.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        connection = self._connection
        assert connection is not None
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies = [await _reply(connection.read_response()) for _ in commands]
        except BaseException:
            await self._return()
            raise
        self._idle_at = now() + IDLE
        return replies

    async def _return(self) -> None:
        """Give the connection back to the pool, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self.node.connection_pool.release(connection)

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
        options = read_options(url, WHAT, HONOURED | self._with_tls(url) | IGNORED)
        if not url.reveal().startswith("unix://") and not PATH.fullmatch(url.reveal().partition("?")[0]):
            raise ConfigurationError(f"the path of {WHAT} is the number of a database: redis://host:6379/0")
        self.durability: Durability | None = None
        self._url = with_options(url, {name: value for name, value in options.items() if name not in IGNORED})
        self._has_warned = False
        self._tag = tag
        # The third version of the protocol would switch off the check for connections that the server has closed.
        self._options: dict[str, Any] = {
            "protocol": 2,
            "max_connections": CONNECTIONS,
            "socket_connect_timeout": connect_timeout.total_seconds(),
            "socket_timeout": reply_timeout.total_seconds(),
        }

    @staticmethod
    def _with_tls(url: Secret) -> dict[str, str]:
        return HONOURED_WITH_TLS if url.reveal().startswith("rediss://") else {}

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
        clients = Clients(Redis.from_pool(pool))
        try:
            info = await _answer(clients.node.info())
            await self._check_settings(clients.node, info)
            if info.get("cluster_enabled"):
                retry = Retry(NoBackoff(), CLUSTER_RETRIES)
                clients.cluster = RedisCluster.from_url(self._url.reveal(), retry=retry, **self._options)
                await clients.cluster.initialize()
            else:
                clients.is_replica = info.get("role") == "slave"
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
        if policy is None and not self._has_warned:
            self._has_warned = True
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
        schema: Any = await client.get(self._tag + b"schema")
        if schema is None:  # the first save writes it
            return
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

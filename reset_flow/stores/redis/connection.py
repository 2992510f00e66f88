"""An open connection to Redis, and the calls of scripts that it sends."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import PubSub

__all__ = ["CLUSTER_BATCH", "Call", "Connection"]

BATCH = 256
CLUSTER_BATCH = 32


@cache
def _script(name: str) -> tuple[str, str]:
    """Return the text of a script and its hash, by which the server knows it."""
    folder = files("reset_flow.stores.redis")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("record", name))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@attrs.frozen(eq=False)
class Call:
    """
    One call of a script.

    Attributes:
        script: Name of its file.
    """

    script: str
    keys: Sequence[bytes]
    arguments: Sequence[Any]

    def by_hash(self) -> tuple[Any, ...]:
        """Return the command for a server that knows the script."""
        return ("EVALSHA", _script(self.script)[1], len(self.keys), *self.keys, *self.arguments)

    def in_full(self) -> tuple[Any, ...]:
        """Return the command for a server that has forgotten the script, or never had it."""
        return ("EVAL", _script(self.script)[0], len(self.keys), *self.keys, *self.arguments)


@attrs.frozen(eq=False)
class Connection:
    """
    An open server.

    Attributes:
        client: A client of the node that the url names; messages come through any node.

        cluster: On a cluster, finds the node that has the slot.
    """

    client: Redis
    cluster: RedisCluster | None = None

    @property
    def batch(self) -> int:
        """How many items to send at once."""
        return BATCH if self.cluster is None else CLUSTER_BATCH

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies; a refusal is an exception in the list. Raise when the connection is lost."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - loaded when the server was opened

        replies = await self._deliver([call.by_hash() for call in calls])
        forgotten = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        again = await self._deliver([calls[at].in_full() for at in forgotten])
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

    def subscription(self) -> PubSub:
        """Return a subscriber with a connection of its own, not connected yet."""
        return self.client.pubsub()

    async def aclose(self) -> None:
        """Close everything."""
        try:
            if self.cluster is not None:
                await self.cluster.aclose()
        finally:
            await self.client.aclose()

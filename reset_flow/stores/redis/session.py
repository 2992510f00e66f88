"""What a store holds in one event loop."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.stores.batcher import Batcher
from reset_flow.stores.statements import script
from reset_flow.stores.waiters import PING_INTERVAL, Listener
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio.client import PubSub

    from reset_flow.stores.redis.server import Clients, Server

BATCH = 256

# Seconds.
POLL = 1.0
LIFETIME = 15.0
"""After which everything is opened anew: the address may lead to another server by then, with other settings."""


Call: TypeAlias = "tuple[str, Sequence[bytes], Sequence[Any]]"
"""The name of a script, its keys and its arguments."""

MakeCall: TypeAlias = "Callable[[Sequence[bytes]], Call]"
"""Makes one call for many items. The reply is a list with one outcome for each item, in the same order."""


class Session:
    """
    A connection, which carries all calls, and another one for messages.

    It connects for the first call, and after a failure or a refusal anew for the next one: the server may be one that
    was demoted, while the address leads to another one.
    """

    def __init__(self, server: Server, channel: bytes) -> None:
        self.listener = _Messages(self._subscription, channel)
        self._server = server
        self._clients: Clients | None = None
        self._renew_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._batcher: Batcher[tuple[MakeCall, bytes]] = Batcher(self._run_all, BATCH)

    async def run(self, make_call: MakeCall, item: bytes = b"") -> Any:
        """Return the outcome of an item. All that wait with the same `make_call` go in one call."""
        return await self._batcher.run((make_call, item))

    async def close(self) -> None:
        """Finish what waits, and close the connections."""
        self.listener.stop()
        await self._batcher.finish()
        await self.listener.close()
        self._disconnect()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _connect(self) -> Clients:
        now = asyncio.get_running_loop().time
        if now() > self._renew_at:
            self._leave()
        if self._clients is None:
            self._clients = await self._server.connect()
            self._renew_at = now() + LIFETIME
        return self._clients

    def _leave(self) -> None:
        """Have the next call connect anew. The driver's client of a cluster finds its nodes by itself."""
        if self._clients is not None and self._clients.cluster is None:
            self._disconnect()

    def _disconnect(self) -> None:
        """Close everything, messages too, in the background: a connection that is half open takes its time."""
        if self._clients is not None:
            task = asyncio.create_task(_close(self._clients))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._clients = None

    def _subscription(self) -> PubSub:
        if self._clients is None:
            raise StoreUnavailable("redis is not connected")
        return self._clients.node.pubsub()

    async def _run_all(self, jobs: Sequence[tuple[MakeCall, bytes]]) -> list[Any]:
        groups: dict[MakeCall, list[int]] = {}
        for place, (make_call, _) in enumerate(jobs):
            groups.setdefault(make_call, []).append(place)
        calls = [make_call([jobs[place][1] for place in places]) for make_call, places in groups.items()]
        try:
            clients = await self._connect()
            replies = await _send(clients, calls)
        except ResetFlowError:
            raise
        except Exception as error:
            self._leave()
            raise _unavailable(error) from error
        outcomes: list[Any] = [None for _ in jobs]
        for places, reply in zip(groups.values(), replies, strict=True):
            for place, outcome in zip(places, repeat(reply) if isinstance(reply, Exception) else reply, strict=False):
                outcomes[place] = _unavailable(outcome) if isinstance(outcome, Exception) else outcome
        if clients.is_replica or any(isinstance(outcome, StoreUnavailable) for outcome in outcomes):
            self._leave()
        return outcomes


class _Messages(Listener[bytes]):
    """Wakes tasks, by the ids of their flows, which the scripts tell on a channel."""

    def __init__(self, subscription: Callable[[], PubSub], channel: bytes) -> None:
        super().__init__(POLL)
        self._subscription = subscription
        self._channel = channel

    async def receive(self) -> None:
        """Wake tasks until the connection is lost, or a ping is not answered."""
        subscription = self._subscription()
        pinged = False
        try:
            await subscription.subscribe(self._channel)
            while True:
                message = await subscription.get_message(timeout=PING_INTERVAL)
                if message is None:
                    if pinged:
                        return
                    await subscription.ping()
                elif message["type"] == "message":
                    for flow_id in message["data"].split():
                        self.wake(flow_id)
                elif message["type"] == "subscribe":
                    self.connected()
                pinged = message is None
        finally:
            with suppress(Exception):
                await subscription.aclose()  # type: ignore[no-untyped-call]


async def _close(clients: Clients) -> None:
    with suppress(Exception):
        await clients.aclose()


async def _send(clients: Clients, calls: Sequence[Call]) -> list[Any]:
    """Return the replies; a refusal is an exception in the list. Raise when the connection is lost."""
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - loaded when the server was opened

    replies = await clients.send([_command("EVALSHA", *call) for call in calls])
    for place, reply in enumerate(replies):
        if isinstance(reply, NoScriptError):
            (replies[place],) = await clients.send([_command("EVAL", *calls[place])])
    return replies


def _command(name: str, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return (name, _script(script)[name], len(keys), *keys, *arguments)


@cache
def _script(name: str) -> dict[str, str]:
    """Return a script as each command takes it: its text, or the hash by which the server knows it."""
    text = "\n".join(script("redis", f"{part}.lua") for part in ("record", name))
    return {"EVAL": text, "EVALSHA": hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()}


def _unavailable(error: Exception) -> StoreUnavailable:
    forget_frames(error)
    unavailable = StoreUnavailable(f"redis can't be used: {printable(str(error)) or type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

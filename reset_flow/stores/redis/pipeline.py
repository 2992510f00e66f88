"""One connection for all calls, since it is the round trips that cost; another that hears of what others save."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from contextlib import suppress
from functools import cache
from importlib.resources import files
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

__all__ = ["Call", "Connection", "Joint", "Lane", "Subscription", "failure"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
PULSE = 15.0


@cache
def _script(name: str) -> tuple[str, str]:
    """-> text, hash"""
    folder = files("reset_flow.stores.redis")
    text = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("record", name))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@attrs.frozen(eq=False)
class Call:
    """
    A command, or one of our scripts.

    Attributes:
        command: What is sent.

        in_full: What is sent where the server has forgotten the script.
    """

    command: tuple[Any, ...]
    in_full: tuple[Any, ...] = ()

    @classmethod
    def of(cls, script: str, keys: Sequence[bytes], values: Sequence[Any]) -> Call:
        """A call of the script that has this name."""
        text, digest = _script(script)
        arguments = (len(keys), *keys, *values)
        return cls(("EVALSHA", digest, *arguments), ("EVAL", text, *arguments))


@attrs.frozen(eq=False)
class Joint:
    """
    A script that does what waits together in one call: it takes a text for each, and gives an outcome for each.

    Attributes:
        keys: `None`: the texts are the keys.

        first: Gives the value in front of the texts.
    """

    script: str
    keys: Sequence[bytes] | None
    first: Callable[[], Any]

    def call(self, texts: Sequence[bytes]) -> Call:
        """Of all that waits."""
        if self.keys is None:
            return Call.of(self.script, texts, (self.first(),))
        return Call.of(self.script, self.keys, (self.first(), *texts))


_Job: TypeAlias = tuple[Call | Joint, bytes, "asyncio.Future[Any]"]
"""What waits, for an outcome."""


class Subscription(Protocol):
    """As much of the driver's `PubSub` as is used here."""

    async def connect(self) -> None: ...  # noqa: D102
    async def subscribe(self, *channels: bytes) -> None: ...  # noqa: D102
    def unsubscribe(self, *channels: bytes) -> Awaitable[None]: ...  # noqa: D102
    def ping(self) -> Awaitable[Any]: ...  # noqa: D102
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...  # noqa: D102
    async def aclose(self) -> None: ...  # noqa: D102


class Connection(Protocol):
    """An open server."""

    @property
    def batch(self) -> int:
        """How many calls it takes at once."""

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """The replies; a refusal is an exception in the list. Raises when the connection is lost."""

    def subscription(self) -> Subscription:
        """What hears of messages, not connected yet."""

    async def aclose(self) -> None:
        """Let go of everything."""


class Lane:
    """
    All that a store has in one event loop: a task that sends whatever waits, and one that listens while somebody waits.

    It opens the server at the first call, and after a failure at the next. When the loop ends, the tasks are cancelled
    with it and close what they hold.

    Args:
        open_server: Connects, or raises.
    """

    def __init__(self, open_server: Callable[[], Awaitable[Connection]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._open_server = open_server
        self._server: Connection | None = None
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._stopped = False
        self._watched: dict[bytes, set[asyncio.Event]] = {}
        self._watches_changed = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE
        self._task = self.loop.create_task(self._serve(), name="reset-flow-redis")

    @property
    def over(self) -> bool:
        """Whether it can't be used any more, by anybody."""
        return self._task.done() or self.loop.is_closed()

    async def run(self, what: Call | Joint, text: bytes = b"") -> Any:
        """The reply to a call; the outcome for a text, done together with all that wait for the same script."""
        future = self.loop.create_future()
        self._waiting.append((what, text, future))
        self._arrived.set()
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def stop(self) -> None:
        """Carry out what waits, then close everything."""
        self._stopped = True
        for channel in self._watched:
            self.wake(channel)
        if self.over:
            return
        if self.loop is not asyncio.get_running_loop():
            with suppress(RuntimeError):  # it was closed a moment ago
                self.loop.call_soon_threadsafe(self._arrived.set)
            return
        self._arrived.set()
        await asyncio.wait({self._task})

    async def _serve(self) -> None:
        try:
            while True:
                while self._waiting:
                    await self._send()
                if self._stopped:
                    return
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            self._stopped = True
            if self._listener is not None:
                self._listener.cancel()
                await asyncio.wait({self._listener})
            if self._server is not None:
                with suppress(Exception):
                    await self._server.aclose()
            _tell(self._waiting, repeat(StoreUnavailable("the event loop has ended")))

    async def _send(self) -> None:
        """Carry out everything that waits, at least as much of it as the server takes at once."""
        batch: list[_Job] = []
        lost: Exception = StoreUnavailable("the event loop has ended")
        try:
            if self._server is None:
                self._server = await self._open_server()
            while self._waiting and len(batch) < self._server.batch:
                job = self._waiting.popleft()
                if not job[-1].done():
                    batch.append(job)
            if batch:
                await self._carry_out(batch, self._server)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            lost = error
            if self._server is None:
                batch.extend(self._waiting)
                self._waiting.clear()
        finally:
            _tell(batch, repeat(lost))

    @staticmethod
    async def _carry_out(batch: Iterable[_Job], server: Connection) -> None:
        groups: dict[Call | Joint, list[_Job]] = {}
        for job in batch:
            groups.setdefault(job[0], []).append(job)
        calls = [
            what if isinstance(what, Call) else what.call([text for _, text, _ in jobs])
            for what, jobs in groups.items()
        ]
        for (what, jobs), reply in zip(groups.items(), await server.send(calls), strict=True):
            joint = isinstance(what, Joint) and isinstance(reply, list)
            _tell(jobs, reply if joint else repeat(reply))

    # Waiting for others

    def watch(self, channel: bytes, event: asyncio.Event) -> None:
        """Have the event set when there is a message, or when one may have been missed."""
        self._watched.setdefault(channel, set()).add(event)
        self._watches_changed.set()
        if self._listener is None and self._server is not None:
            self._listener = self.loop.create_task(self._listen(self._server), name="reset-flow-redis-listener")

    def unwatch(self, channel: bytes, event: asyncio.Event) -> None:
        """The event is needed no more."""
        self._watched[channel].discard(event)
        if not self._watched[channel]:
            del self._watched[channel]
        self._watches_changed.set()

    def wake(self, channel: bytes) -> None:
        """Set the events of a channel."""
        for event in self._watched.get(channel, ()):
            event.set()

    async def _listen(self, server: Connection) -> None:
        while True:
            subscription = server.subscription()
            try:
                await subscription.connect()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._subscribe(subscription))
                    both.create_task(self._hear(subscription))
            except Exception:  # noqa: BLE001, S110 - who waits looks from time to time as well, and says what is wrong
                pass
            finally:
                with suppress(Exception):
                    await subscription.aclose()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _subscribe(self, subscription: Subscription) -> None:
        """Subscribe to what is watched."""
        subscribed: set[bytes] = set()
        while True:
            self._watches_changed.clear()
            watched = set(self._watched)
            if missing := watched - subscribed:
                await subscription.subscribe(*missing)
            if superfluous := subscribed - watched:
                await subscription.unsubscribe(*superfluous)
            subscribed = watched
            await self._watches_changed.wait()

    async def _hear(self, subscription: Subscription) -> None:
        """Wake by messages, and by the news that they come from now on."""
        silent = False
        while True:
            message = await subscription.get_message(timeout=PULSE)
            if message is not None:
                silent, self._pause = False, FIRST_PAUSE
                if message["type"] in ("message", "subscribe"):
                    self.wake(message["channel"])
            elif silent:
                raise TimeoutError("not even a ping is answered")
            else:
                silent = True
                await subscription.ping()


def _tell(jobs: Iterable[_Job], outcomes: Iterable[Any]) -> None:
    """An error comes as a result, so that nobody complains when the one who waited has gone."""
    for (_, _, future), outcome in zip(jobs, outcomes, strict=False):
        if not future.done():
            future.set_result(failure(outcome) if isinstance(outcome, Exception) else outcome)


def failure(error: Exception) -> ResetFlowError:
    """An error of its own for one of those who wait."""
    if isinstance(error, ResetFlowError):
        copy = type(error)(str(error))
        copy.__cause__ = error.__cause__
        return copy
    forget_frames(error)
    unavailable = StoreUnavailable(f"redis can't be used: {printable(str(error)) or type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

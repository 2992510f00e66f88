"""Send everything that waits in one go: it is calls and round trips that cost."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.domain.text import printable
from reset_flow.stores.redis.listener import Listener
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from redis.asyncio.client import PubSub

    from reset_flow.stores.redis.connection import Call, Connection

__all__ = ["MakeCall", "Pipeline"]

MakeCall: TypeAlias = "Callable[[Sequence[bytes]], Call]"
"""Makes one call for many items. The reply is a list with one outcome for each item, in the same order."""

LOOP_ENDED = "the event loop has ended"


@attrs.define(eq=False)
class _Job:
    make_call: MakeCall
    item: bytes
    outcome: asyncio.Future[Any]


class Pipeline:
    """
    Sends what waits from a task of its own; what arrives meanwhile goes together in the next round.

    It connects for the first job, and after a failure for the next one. When the event loop ends, the task is cancelled
    with it and closes the connection.

    Args:
        connect: Opens the server, or raises.

    Attributes:
        listener: Hears of what others save, by way of the same server.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.listener = Listener(self._subscription)
        self._connect = connect
        self._connection: Connection | None = None
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._task = self.loop.create_task(self._serve(), name="reset-flow-redis")

    @property
    def ended(self) -> bool:
        """Return whether nobody can use it any more."""
        return self._task.done() or self.loop.is_closed()

    async def run(self, make_call: MakeCall, item: bytes = b"") -> Any:
        """Return the outcome of an item. All that wait with the same `make_call` go in one call."""
        job = _Job(make_call, item, self.loop.create_future())
        self._waiting.append(job)
        self._arrived.set()
        outcome = await job.outcome
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Carry out what waits, then close everything. From another event loop: have that done, without waiting."""
        self._closing = True
        self.listener.wake_all()
        if self.ended:
            return
        if self.loop is asyncio.get_running_loop():
            self._arrived.set()
            await asyncio.wait({self._task})
        else:
            with suppress(RuntimeError):  # it was closed a moment ago
                self.loop.call_soon_threadsafe(self._arrived.set)

    def _subscription(self) -> PubSub:
        if self._connection is None:
            raise StoreUnavailable("redis is not connected")
        return self._connection.subscription()

    async def _serve(self) -> None:
        try:
            while True:
                while self._waiting:
                    await self._send_batch()
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            await self.listener.aclose()
            if self._connection is not None:
                with suppress(Exception):
                    await self._connection.aclose()
            _resolve(self._waiting, repeat(StoreUnavailable(LOOP_ENDED)))

    async def _send_batch(self) -> None:
        """Carry out everything that waits, or as much of it as the server takes at once."""
        batch: list[_Job] = []
        failure: Exception = StoreUnavailable(LOOP_ENDED)
        try:
            if self._connection is None:
                self._connection = await self._connect()
            while self._waiting and len(batch) < self._connection.batch:
                job = self._waiting.popleft()
                if not job.outcome.done():  # its caller may have gone
                    batch.append(job)
            if batch:
                await self._carry_out(batch, self._connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            failure = error
            if self._connection is None:
                batch.extend(self._waiting)
                self._waiting.clear()
        finally:
            _resolve(batch, repeat(failure))

    @staticmethod
    async def _carry_out(batch: Sequence[_Job], connection: Connection) -> None:
        groups: dict[MakeCall, list[_Job]] = {}
        for job in batch:
            groups.setdefault(job.make_call, []).append(job)
        calls = [make_call([job.item for job in jobs]) for make_call, jobs in groups.items()]
        for jobs, reply in zip(groups.values(), await connection.send(calls), strict=True):
            _resolve(jobs, repeat(reply) if isinstance(reply, Exception) else reply)


def _resolve(jobs: Iterable[_Job], outcomes: Iterable[Any]) -> None:
    """Hand out outcomes. Errors go as results: asyncio would complain of an exception whose caller has gone."""
    for job, outcome in zip(jobs, outcomes, strict=False):
        if not job.outcome.done():
            job.outcome.set_result(_own_error(outcome) if isinstance(outcome, Exception) else outcome)


def _own_error(error: Exception) -> ResetFlowError:
    """Return a new error of ours: callers must not share one, each adds its traceback."""
    if isinstance(error, ResetFlowError):
        copy = type(error)(str(error))
        copy.__cause__ = error.__cause__
        return copy
    forget_frames(error)
    unavailable = StoreUnavailable(f"redis can't be used: {printable(str(error)) or type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

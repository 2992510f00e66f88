"""Tasks that belong to the service, so that a caller who goes away does not end them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from reset_flow.domain.errors import OutcomeInDoubt, ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from datetime import timedelta

__all__ = ["OwnTasks", "Pauses", "apart"]

T = TypeVar("T")
_Tasks: TypeAlias = "dict[Coroutine[Any, Any, Any], tuple[asyncio.Task[Any], asyncio.Future[Any] | None]]"
"""What is under way, each with its task, and where somebody may wait for the outcome."""

CLOSED = "the service was closed before this was done: look at the flow again"

logger = logging.getLogger("reset_flow")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries."""
LAST_PATIENCE = 1.0
"""Seconds for tasks that were cancelled; one that does not take it is left behind."""


class OwnTasks:
    """
    What is under way, until it is closed.

    Attributes:
        closed: Whether nothing may be begun any more, not even by what is under way.
    """

    def __init__(self) -> None:
        self._tasks: _Tasks = {}
        self._closing = False
        self.closed = False

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter([task for task, _ in self._tasks.values()])

    def __len__(self) -> int:
        return len(self._tasks)

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """What comes of the work, which goes on if the caller is cancelled."""
        if self._closing:
            work.close()
            raise StoreUnavailable("the service was closed: make another one")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._begin(loop, outcome, work)
        return outcome

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin work that nobody waits for."""
        self._begin(asyncio.get_running_loop(), None, work)

    def _begin(
        self, loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T] | None, work: Coroutine[Any, Any, T]
    ) -> None:
        task = loop.create_task(_into(outcome, work, self._tasks))
        if not task.done():  # as it is at once where tasks are eager
            self._tasks[work] = task, outcome

    async def aclose(self, patience: timedelta) -> None:
        """Begin no more, wait for what is under way, and cancel what is not done by then."""
        give_up_at = time.monotonic() + patience.total_seconds()
        self._closing = True
        try:
            while self._tasks and (left := give_up_at - time.monotonic()) > 0:
                await self._wait(left)
        finally:  # also for whom this takes too long: a task that is left would never end
            self.closed = True
            for work, (task, outcome) in self._tasks.items():
                task.cancel()
                if getcoroutinestate(work) == CORO_CREATED:  # nobody will ever begin it
                    work.close()
                    if outcome is not None and not outcome.done():
                        outcome.set_exception(OutcomeInDoubt(CLOSED))
        if self._tasks:  # not `gather`: a listener that closes the service would wait for itself, by way of it
            await self._wait(LAST_PATIENCE)

    async def _wait(self, seconds: float) -> None:
        await asyncio.wait(self, timeout=seconds)
        for work in [work for work, (task, _) in self._tasks.items() if task.done()]:
            del self._tasks[work]  # one that was cancelled before it began could not do so itself


class Pauses:
    """Those between the tries of one thing: each twice as long as the one before, and jittered."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    async def next(self) -> None:
        """Let the next one pass."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """
    What comes of the work, done in a task of its own: a caller who is cancelled is not shown its frames, which hold a
    URL with the login.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    task = loop.create_task(_into(outcome, work, {}))
    try:
        return await outcome
    except asyncio.CancelledError:
        task.cancel()
        raise


async def _into(outcome: asyncio.Future[T] | None, work: Coroutine[Any, Any, T], among: _Tasks) -> None:
    """
    Do the work for somebody who waits for the outcome, or has gone, or never was; then leave those under way.

    Neither `asyncio.shield` nor a callback of the task: by them, a caller is woken one turn of the loop later.
    """
    try:
        result = await work
    except asyncio.CancelledError:
        if outcome is not None and not outcome.done():
            outcome.set_exception(OutcomeInDoubt(CLOSED))
        raise
    except BaseException as error:
        if outcome is not None and not outcome.done():
            outcome.set_exception(error)
        elif not isinstance(error, ResetFlowError):
            logger.error("a command broke off: %s", type(error).__name__)  # noqa: TRY400 - its frames hold secrets
        if not isinstance(error, Exception):
            raise
    else:
        if outcome is not None and not outcome.done():
            outcome.set_result(result)
    finally:
        among.pop(work, None)
        del outcome  # or an error in it, by its traceback, would hold itself and all frames on the way

"""Tasks that belong to the service, so that a caller who goes away does not end them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from reset_flow.errors import OutcomeInDoubt, ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from datetime import timedelta

__all__ = ["OwnTasks", "Pauses", "apart"]

T = TypeVar("T")

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
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.closed = False

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of the work, which goes on if the caller is cancelled."""
        if self._closing:
            work.close()
            raise StoreUnavailable("the service was closed: make another one")
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.spawn(_into(outcome, work))
        return await outcome

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin work that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def aclose(self, patience: timedelta) -> None:
        """Begin no more, wait for what is under way, and cancel what is not done by then."""
        give_up_at = time.monotonic() + patience.total_seconds()
        self._closing = True
        try:
            while self._tasks and (left := give_up_at - time.monotonic()) > 0:
                await asyncio.wait(self._tasks, timeout=left)
        finally:  # also for whom this takes too long: a task that is left would never end
            self.closed = True
            for task in self._tasks:
                task.cancel()
        if self._tasks:  # not `gather`: a listener that closes the service would wait for itself, by way of it
            await asyncio.wait(self._tasks, timeout=LAST_PATIENCE)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ResetFlowError):
            logger.error("a command broke off: %s", type(error).__name__)


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
    outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_into(outcome, work))
    try:
        return await outcome
    except asyncio.CancelledError:
        task.cancel()
        raise


async def _into(outcome: asyncio.Future[T], work: Coroutine[Any, Any, T]) -> None:
    """
    Do the work for somebody who waits for the outcome, or has gone.

    Not `asyncio.shield`: by that, a caller is woken one turn of the loop later.
    """
    try:
        result = await work
    except asyncio.CancelledError:  # by `aclose`
        if not outcome.done():
            closed = "the service was closed before this was done: look at the flow again"
            outcome.set_exception(OutcomeInDoubt(closed))
        raise
    except BaseException as error:
        if outcome.done() or not isinstance(error, Exception):
            raise
        outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)
    finally:
        del outcome  # or an error in it, by its traceback, would hold itself and all frames on the way

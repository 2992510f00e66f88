"""Tasks that belong to the service: a caller who is cancelled does not end them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from reset_flow.domain.errors import OutcomeInDoubt, ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta

__all__ = ["BackgroundTasks", "Backoff"]

T = TypeVar("T")

logger = logging.getLogger("reset_flow")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries."""
LAST_PATIENCE = 1.0
"""Seconds for tasks that were cancelled; one that does not end is left behind."""


class BackgroundTasks:
    """
    The tasks that are under way, until they are closed.

    Attributes:
        closed: Whether nothing may be begun any more, not even by a task that is under way.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.closed = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """
        Return the result of the work, which goes on if the caller is cancelled.

        Raises:
            StoreUnavailable: The service is closed; nothing was begun.
            OutcomeInDoubt: The service was closed before the work was done.
        """
        if self._closing:
            work.close()
            raise StoreUnavailable("the service was closed: make another one")
        task = self.spawn(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise OutcomeInDoubt("the service was closed before this was done: look at the flow again") from None
            raise

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that nobody need wait for."""
        task = asyncio.get_running_loop().create_task(work)
        if not task.done():  # as it may be where tasks are eager
            self._tasks.add(task)
            task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ResetFlowError):
            logger.error("a command broke off: %s", type(error).__name__)  # not its frames, which hold secrets

    async def wait_idle(self) -> None:
        """Return once nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self, patience: timedelta) -> None:
        """Begin no more, wait for what is under way, and cancel what is not done by then."""
        self._closing = True
        give_up_at = time.monotonic() + patience.total_seconds()
        try:
            while self._tasks and (left := give_up_at - time.monotonic()) > 0:
                await asyncio.wait(self._tasks, timeout=left)
        finally:  # also for a caller who loses patience: a task that is left would never end
            self.closed = True
            for task in self._tasks:
                task.cancel()
        if self._tasks:  # not `gather`: a listener that closes the service would wait for itself
            await asyncio.wait(self._tasks, timeout=LAST_PATIENCE)


class Backoff:
    """Pauses between the tries of one thing: each twice as long as the one before, with jitter."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    async def pause(self) -> None:
        """Let the next pause pass."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

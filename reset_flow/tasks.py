"""Tasks that belong to the service, so that a caller who goes away does not end them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from reset_flow.errors import OutcomeInDoubt, ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from datetime import timedelta

__all__ = ["OwnTasks"]

T = TypeVar("T")

logger = logging.getLogger("reset_flow")

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
        task = self.spawn(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):  # by `aclose`, not by the caller
                raise OutcomeInDoubt("the service was closed before this was done: look at the flow again") from None
            raise

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

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

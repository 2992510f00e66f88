"""Run what waits in batches: a round trip and a commit cost more than the work in them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.stores.postgres.connections import is_per_row_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Batcher", "copy_error"]

Job = TypeVar("Job")


class Batcher(Generic[Job]):
    """
    Runs one batch of jobs at a time, and gathers the next one meanwhile.

    Args:
        work: Returns an outcome for each job.

        size: How many jobs a batch has at most.
    """

    def __init__(self, work: Callable[[list[Job]], Awaitable[list[Any]]], size: int) -> None:
        self._work = work
        self._size = size
        self._waiting: deque[tuple[Job, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, job: Job) -> Any:
        """Return the outcome of a job. Cancelling one caller disturbs no other."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((job, future))
        if self._task is None:
            self._task = loop.create_task(self._run_batches())
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def finish(self) -> None:
        """Return once no job waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run_batches(self) -> None:
        batch: list[tuple[Job, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                batch = [(job, future) for job, future in taken if not future.done()]
                if batch:
                    _resolve(batch, await self._outcomes([job for job, _ in batch]))
        finally:
            self._task = None
            if rest := [*batch, *self._waiting]:  # none, unless the loop is being shut down
                self._waiting.clear()
                _resolve(rest, [StoreUnavailable("the event loop is ending") for _ in rest])

    async def _outcomes(self, jobs: list[Job]) -> list[Any]:
        try:
            return await self._work(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller waits for an outcome
            if len(jobs) > 1 and is_per_row_error(error.__cause__ or error):
                return [outcome for job in jobs for outcome in await self._outcomes([job])]
            return [copy_error(error) for _ in jobs]


def _resolve(batch: list[tuple[Any, asyncio.Future[Any]]], outcomes: list[Any]) -> None:
    """Set the futures. An error is set as a result: asyncio logs exceptions that a cancelled caller never fetches."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if not future.done():
            future.set_result(outcome)


def copy_error(error: Exception) -> ResetFlowError:
    """Return an error for one of several callers, who must not share an instance and its traceback."""
    if isinstance(error, ResetFlowError):
        another = type(error)(str(error))
        another.__cause__ = error.__cause__
        return another
    unavailable = StoreUnavailable(f"the database can't be used: {type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

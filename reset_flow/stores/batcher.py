"""Run waiting jobs in batches: a commit and a round trip cost more than the work in them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Job = TypeVar("Job")


class Batcher(Generic[Job]):
    """
    Runs one batch of jobs at a time, and gathers the next one meanwhile. Event loops may use it one after another.

    Args:
        work: Returns an outcome for each job. An error that it raises is the outcome of all of them.

        size: How many jobs a batch has at most.

        turns: How many more turns of the event loop to gather jobs for, while each turn brings more. None for a job
            that is alone, as the last one was.

        is_per_job_error: Tells an error that one job of many may have caused: each is then run alone.
    """

    def __init__(
        self,
        work: Callable[[list[Job]], Awaitable[list[Any]]],
        size: int,
        *,
        turns: int = 0,
        is_per_job_error: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        self._work = work
        self._size = size
        self._turns = turns
        self._is_per_job_error = is_per_job_error
        self._waiting: deque[tuple[Job, asyncio.Future[Any]]] = deque()
        self._batch: list[tuple[Job, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, job: Job) -> Any:
        """Return the outcome of a job, or raise it. Cancelling one caller disturbs no other."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((job, future))
        self._start(loop)
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def finish(self) -> None:
        """Return once no job waits. What every caller has given up is broken off."""
        task = self._start(asyncio.get_running_loop())
        if all(future.done() for _, future in (*self._batch, *self._waiting)):
            task.cancel()
        await asyncio.wait([task])

    def _start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        # A loop that was stopped may never go on.
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run_batches())
        return self._task

    async def _run_batches(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if self._is_taken_over():
                    return
                taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                self._batch = [(job, future) for job, future in taken if not future.done()]
                if self._batch:
                    _resolve(self._batch, await self._outcomes([job for job, _ in self._batch]))
        except asyncio.CancelledError:  # the event loop is ending
            batch = [*self._batch, *self._waiting]
            self._waiting.clear()
            _resolve(batch, [StoreUnavailable("the event loop is ending") for _ in batch])
            raise

    def _is_taken_over(self) -> bool:
        """Return True if another loop runs the batches, as this one rested: two threads must not do it at once."""
        task = self._task
        return task is not None and task is not asyncio.current_task() and task.get_loop().is_running()

    async def _gather(self) -> None:
        if len(self._waiting) == 1 and len(self._batch) == 1:
            return
        for _ in range(self._turns):
            before = len(self._waiting)
            await asyncio.sleep(0)
            if len(self._waiting) <= before:
                break

    async def _outcomes(self, jobs: list[Job]) -> list[Any]:
        try:
            return await self._work(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller waits for an outcome
            if len(jobs) > 1 and self._is_per_job_error(error):
                return [outcome for job in jobs for outcome in await self._outcomes([job])]
            return [copy_error(error) for _ in jobs]


def _resolve(batch: list[tuple[Any, asyncio.Future[Any]]], outcomes: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.get_loop() is loop:
            _set(future, outcome)
        else:
            with suppress(RuntimeError):  # its loop is closed, and nobody waits in it any more
                future.get_loop().call_soon_threadsafe(_set, future, outcome)


def _set(future: asyncio.Future[Any], outcome: Any) -> None:
    """Set an error as a result, too: asyncio logs exceptions that a cancelled caller never fetches."""
    if not future.done():
        future.set_result(outcome)


def copy_error(error: Exception) -> ResetFlowError:
    """Return an error for one of several callers, who must not share an instance and its traceback."""
    if isinstance(error, ResetFlowError):
        another = type(error)(str(error))
        another.__cause__ = error.__cause__
        return another
    unavailable = StoreUnavailable(f"the store can't be used: {type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

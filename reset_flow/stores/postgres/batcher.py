"""Do what waits together: a round trip and a commit cost more than what is done in them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.stores.postgres.connections import of_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Lane", "copy"]

Job = TypeVar("Job")


class Lane(Generic[Job]):
    """
    Does what waits together. What comes meanwhile waits in its turn.

    Args:
        work: Gives an outcome for each job.

        most: How many jobs it gets at once.
    """

    def __init__(self, work: Callable[[list[Job]], Awaitable[list[Any]]], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[Job, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, job: Job) -> Any:
        """The outcome of a job. Who is cancelled while waiting disturbs nobody."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((job, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def finish(self) -> None:
        """Return once nothing waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        batch: list[tuple[Job, asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                batch = [(job, future) for job, future in taken if not future.done()]
                if batch:
                    _tell(batch, await self._outcomes([job for job, _ in batch]))
        finally:
            self._task = None
            if rest := [*batch, *self._waiting]:  # none, unless the loop is being shut down
                self._waiting.clear()
                _tell(rest, [StoreUnavailable("the event loop is ending") for _ in rest])

    async def _outcomes(self, jobs: list[Job]) -> list[Any]:
        try:
            return await self._work(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            if len(jobs) > 1 and of_one(error.__cause__ or error):
                return [outcome for job in jobs for outcome in await self._outcomes([job])]
            return [copy(error) for _ in jobs]


def _tell(batch: list[tuple[Any, asyncio.Future[Any]]], outcomes: list[Any]) -> None:
    """An error comes as a result, so that nobody complains when the one who waited has gone."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if not future.done():
            future.set_result(outcome)


def copy(error: Exception) -> ResetFlowError:
    """An error of its own for one of those who wait."""
    if isinstance(error, ResetFlowError):
        another = type(error)(str(error))
        another.__cause__ = error.__cause__
        return another
    unavailable = StoreUnavailable(f"the database can't be used: {type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable

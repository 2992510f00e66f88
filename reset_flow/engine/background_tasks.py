"""Tasks that belong to the service: a caller who is cancelled does not end them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from reset_flow.domain.errors import OutcomeInDoubt, ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractContextManager
    from datetime import timedelta

T = TypeVar("T")

CLOSED = "the service was closed before this was done: look at the flow again"

logger = logging.getLogger("reset_flow")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries."""
LAST_PATIENCE = 1.0
"""Seconds for tasks that were cancelled; one that does not end is left behind."""


class BackgroundTasks:
    """The tasks that are under way, until they are closed. Those of an event loop end with it, if not before."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # the last that began one
        self._closing = False
        self.closed = False  # nothing may be begun any more, not even by a task that is under way

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of the work, which goes on if the caller is cancelled."""
        if self._closing:
            work.close()
            raise StoreUnavailable("the service was closed: make another one")
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.spawn(work, outcome)
        return await outcome

    def spawn(self, work: Coroutine[Any, Any, T], outcome: asyncio.Future[T] | None = None) -> asyncio.Task[None]:
        """Begin work. The outcome is set to its result; without one, nobody waits for it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._tasks = {task for task in self._tasks if not task.get_loop().is_closed()}
        task = loop.create_task(_into(outcome, work))
        self._tasks.add(task)
        task.add_done_callback(partial(self._finish, outcome, work))
        return task

    def _finish(
        self, outcome: asyncio.Future[T] | None, work: Coroutine[Any, Any, T], task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception():
            work.close()  # it may not have begun
            if outcome and not outcome.done():
                outcome.set_exception(OutcomeInDoubt(CLOSED))

    def _here(self) -> set[asyncio.Task[Any]]:
        """Return the tasks of this event loop, the only one that they can be waited for in."""
        loop = asyncio.get_running_loop()
        return {task for task in self._tasks if task.get_loop() is loop}

    async def wait_idle(self) -> None:
        """Return once nothing is under way."""
        while tasks := self._here():
            await asyncio.wait(tasks)

    async def aclose(self, patience: timedelta) -> None:
        """Begin no more, wait for what is under way, and cancel what is not done by then."""
        self._closing = True
        give_up_at = time.monotonic() + patience.total_seconds()
        try:
            while (tasks := self._here()) and (left := give_up_at - time.monotonic()) > 0:
                await asyncio.wait(tasks, timeout=left)
        finally:  # also for a caller who loses patience: a task that is left would never end
            self.closed = True
            for task in self._here():
                task.cancel()
        if tasks := self._here():  # not `gather`: a listener that closes the service would wait for itself
            await asyncio.wait(tasks, timeout=LAST_PATIENCE)


async def _into(outcome: asyncio.Future[T] | None, work: Coroutine[Any, Any, T]) -> None:
    """Do the work. By a callback of the task, the caller would be woken one turn of the event loop later."""
    try:
        result = await work
    except (asyncio.CancelledError, GeneratorExit):  # the second where its event loop was left for good
        raise
    except BaseException as error:
        if outcome and not outcome.done():
            outcome.set_exception(error)
        elif not isinstance(error, ResetFlowError):  # nobody waits, or the caller has gone
            logger.error("a command broke off: %s", type(error).__name__)  # noqa: TRY400 - its frames hold secrets
        if not isinstance(error, Exception):
            raise
    else:
        if outcome and not outcome.done():
            outcome.set_result(result)


async def attempt(call: Callable[[], Awaitable[T]], deadline: AbstractContextManager[None]) -> tuple[T | None, str]:
    """
    Call what is the embedder's. Return its result, and the class of its error; `""` if there is none. It is cancelled
    at the deadline, of `Deadlines`, or with the caller; if it ignores that, it is left behind.
    """
    loop = asyncio.get_running_loop()
    settled: asyncio.Future[tuple[T | None, str]] = loop.create_future()

    async def called() -> None:
        """Settle by itself: a callback of the task would take one more turn of the event loop."""
        try:
            settle(await call(), "")
        except (KeyboardInterrupt, SystemExit) as error:
            settle(None, type(error).__name__)
            raise
        except BaseException as error:  # noqa: BLE001 - it may raise anything; a message in the loop's log may be secret
            settle(None, type(error).__name__)

    def settle(result: T | None, failure: str) -> None:
        with suppress(RuntimeError):  # the loop was left for good
            if not settled.done():
                settled.set_result((result, failure))

    task = loop.create_task(called())
    try:
        with deadline:
            return await settled  # not the task itself, which may go on after the deadline
    except TimeoutError:
        # Where the process stalled until the time was up, the result has come all the same.
        return (None, "TimeoutError") if settled.cancelled() else settled.result()
    finally:
        with suppress(RuntimeError):
            task.cancel()


class Backoff:
    """Pauses between the tries of one thing: each twice as long as the one before, with jitter."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    async def pause(self) -> None:
        """Let the next pause pass."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

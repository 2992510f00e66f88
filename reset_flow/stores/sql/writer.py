"""A thread that commits whatever waits in one transaction: it is the commits that cost."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from reset_flow.errors import ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Connection", "Database", "Writer", "failure"]

BATCH = 512


class Connection(Protocol):
    """As much of a driver's connection as is used here."""

    @property
    def in_transaction(self) -> bool:
        """Whether a BEGIN has been neither committed nor rolled back."""

    def execute(self, statement: str, values: Any = ..., /) -> Any:
        """One statement."""

    def executemany(self, statement: str, values: Any, /) -> Any:
        """One statement for each of the values."""


class Database(Protocol):
    """
    An open database.

    Attributes:
        writer: For the thread.

        reader: For the loop.
    """

    @property
    def writer(self) -> Connection: ...  # noqa: D102

    @property
    def reader(self) -> Connection: ...  # noqa: D102

    def close(self) -> None:
        """Close both."""


@attrs.frozen(eq=False)
class _Job:
    """
    Something for the writer's thread to do.

    Attributes:
        work: Done inside a transaction that others share: what it refuses, it refuses before it writes. `None`: only to
            have the database opened.

        saves: The id of the flow that it saves.
    """

    work: Callable[[Connection], Any] | None
    saves: str | None
    future: asyncio.Future[Any]


class Writer:
    """
    The one thread of a store that writes. It opens the database at the first call, and after a failure again.

    Args:
        saved: Told in the loop the id of each flow that was saved.
    """

    def __init__(self, open_database: Callable[[], Database], saved: Callable[[str], None]) -> None:
        self._open_database = open_database
        self._saved = saved
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._database: Database | None = None
        self._stopped = False
        self._last = False

    async def reader(self) -> Connection:
        """The connection for reads in the loop."""
        self._check()
        if self._database is None:
            await self.run(None)
            self._check()
        assert self._database is not None
        return self._database.reader

    async def run(self, work: Callable[[Connection], Any] | None, saves: str | None = None) -> Any:
        """What the work returned, once it is committed; raises what it raised."""
        self._check()
        if self._thread is None:
            self._pid = os.getpid()
            # A daemon: a program that forgets `aclose` still ends. What it cuts off was acknowledged to nobody.
            self._thread = threading.Thread(target=self._serve, name="reset-flow-sqlite", daemon=True)
            self._thread.start()
        future = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, saves, future))
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    def stop(self) -> None:
        """Take no more jobs."""
        if not self._stopped and self._thread is not None:
            self._jobs.put(None)
        self._stopped = True

    async def stopped(self) -> None:
        """Wait until those that were taken are done and the database is closed."""
        if self._thread is not None and self._pid == os.getpid():
            await asyncio.to_thread(self._thread.join)

    def _check(self) -> None:
        if self._stopped:
            raise StoreUnavailable("the store was closed: make another one")
        if self._thread is not None and self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")

    def _serve(self) -> None:
        while not self._last and (job := self._jobs.get()) is not None:
            self._batch(job)
            del job
        if self._database is not None:
            with suppress(Exception):
                self._database.close()

    def _batch(self, first: _Job) -> None:
        """Do everything that waits in one transaction."""
        waiting = self._waiting(first)
        jobs: list[_Job] = []
        outcomes: list[Any] = []
        try:
            if self._database is None:
                self._database = self._open_database()
            db = self._database.writer
            for job in waiting:
                jobs.append(job)
                outcomes.append(_attempt(db, job))
            if db.in_transaction:
                db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            if self._database is not None and self._database.writer.in_transaction:
                with suppress(Exception):
                    self._database.writer.execute("ROLLBACK")
            # Those that came meanwhile have waited as well, and each gets an error of its own.
            jobs.extend(waiting)
            outcomes = [failure(error) for _ in jobs]
        loops = {job.future.get_loop() for job in jobs}
        for loop in loops:
            done = [each for each in zip(jobs, outcomes, strict=True) if each[0].future.get_loop() is loop]
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(self._tell, done)

    def _waiting(self, first: _Job) -> Iterator[_Job]:
        yield first
        for _ in range(BATCH - 1):
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._last = True
                return
            yield job

    def _tell(self, done: list[tuple[_Job, Any]]) -> None:
        """In the loop. An error comes as a result, so that nobody complains when the one who waited has gone."""
        for job, outcome in done:
            if not job.future.done():
                job.future.set_result(outcome)
            if job.saves is not None and outcome is None:
                self._saved(job.saves)


def _attempt(db: Connection, job: _Job) -> Any:
    if job.work is None:
        return None
    if not db.in_transaction:
        db.execute("BEGIN IMMEDIATE")
    try:
        return job.work(db)
    except ResetFlowError as error:
        return error.with_traceback(None)


def failure(error: Exception) -> ResetFlowError:
    """An error of its own for one of those who wait."""
    if isinstance(error, ResetFlowError):
        copy = type(error)(str(error))
        copy.__cause__ = error.__cause__
        return copy
    unavailable = StoreUnavailable(f"the database can't be used: {error}")
    unavailable.__cause__ = error
    return unavailable

"""
Group commit: one transaction for all jobs that wait, as the commit is what costs.

All writing runs in a thread of its own, which waits for the disk and for other processes. Jobs that come meanwhile
share the next transaction.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Cursor

    from reset_flow.stores.sqlite.database import Database

__all__ = ["Writer", "unavailable"]

BATCH = 256
TURNS = 4
"""How many more turns of the event loop a batch waits for, at most, while each turn brings more jobs."""


class Job(Struct, eq=False):
    """
    Work to be done inside a transaction.

    Attributes:
        work: Called with a cursor and the values. Others share the transaction, so it raises a `ResetFlowError` only
            before it writes. `None`: only have the database opened.

        future: Gets the result, or the error as a value: an exception that nobody waits for any more would be logged.
    """

    work: Callable[..., Any] | None
    values: tuple[Any, ...]
    future: asyncio.Future[Any]


class Writer:
    """
    Runs jobs in a thread, many to a transaction. Event loops may use it one after another.

    Args:
        open_database: Called in the thread for the first job, and again after it failed.
    """

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open_database = open_database
        self._database: Database | None = None
        self._gathered: list[Job] = []
        self._gathering: asyncio.AbstractEventLoop | None = None
        self._crowded = False  # whether the last batch had more than one job
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # `None`: no more will come
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closed = False

    async def database(self) -> Database:
        """Return the database, opened by the thread."""
        self._check_usable()
        if self._database is None:
            await self.run(None)
            assert self._database is not None
        return self._database

    async def run(self, work: Callable[..., Any] | None, *values: Any) -> Any:
        """
        Return the result of the work once it is committed.

        Raises:
            ResetFlowError: The work refused, or nothing could be committed.
        """
        self._check_usable()
        if self._thread is None:
            self._start_thread()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._gathered.append(Job(work, values, future))
        if not self._crowded:
            self._hand_over()
        elif self._gathering is not loop:  # a loop that was stopped meanwhile may never go on
            self._gathering = loop
            loop.call_soon(self._gather, loop, 0, TURNS)
        outcome = await future
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Take no more jobs. Return once those that were taken are done and the database is closed."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._jobs.put(None)
        if self._thread is not None and self._pid == os.getpid():
            await asyncio.to_thread(self._thread.join)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")
        if self._thread is not None and self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")

    def _start_thread(self) -> None:
        # A daemon: a program that forgets `aclose` still ends. What it cuts off was acknowledged to nobody.
        thread = threading.Thread(target=self._serve, name="reset-flow-sqlite", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise StoreUnavailable("no thread can be had for the database: raise the limit of this process") from error
        self._thread, self._pid = thread, os.getpid()

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int, turns: int) -> None:
        """Hand the jobs over once a turn of the loop has brought no more."""
        if turns and len(self._gathered) > before:
            loop.call_soon(self._gather, loop, len(self._gathered), turns - 1)
        else:
            self._gathering = None
            self._hand_over()

    def _hand_over(self) -> None:
        for job in self._gathered:
            self._jobs.put(job)
        self._gathered.clear()

    # In the thread

    def _serve(self) -> None:
        while batch := self._next_batch():
            self._crowded = len(batch) > 1
            _deliver(batch, self._outcomes(batch))
            del batch  # it is not to be kept while the thread waits
        if self._database is not None:
            with suppress(Exception):
                self._database.close()

    def _next_batch(self) -> list[Job]:
        """Wait for a job, and return all that wait, up to `BATCH`. Return none once the writer is closed."""
        batch: list[Job] = []
        while len(batch) < BATCH and not (batch and self._jobs.empty()):
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # for the next call
                break
            batch.append(job)
        return batch

    def _outcomes(self, batch: Sequence[Job]) -> list[Any]:
        try:
            if self._database is None:
                self._database = self._open_database()
            return _transact(self._database, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            return [unavailable(error) for _ in batch]


def _transact(database: Database, batch: Sequence[Job]) -> list[Any]:
    cursor = database.writer
    if all(job.work is None for job in batch):
        return [None] * len(batch)
    try:
        cursor.execute("BEGIN IMMEDIATE")
        outcomes = [_outcome(job, cursor) for job in batch]
        cursor.execute("COMMIT")
    except BaseException:
        if cursor.connection.in_transaction:
            with suppress(Exception):
                cursor.execute("ROLLBACK")
        raise
    return outcomes


def _outcome(job: Job, cursor: Cursor) -> Any:
    try:
        return None if job.work is None else job.work(cursor, *job.values)
    except ResetFlowError as error:
        return error.with_traceback(None)


def _deliver(batch: Sequence[Job], outcomes: Sequence[Any]) -> None:
    """Have each event loop give its jobs their outcomes."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(job.future.get_loop(), []).append((job.future, outcome))
    for loop, results in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, and nobody waits in it any more
            loop.call_soon_threadsafe(_set_results, results)


def _set_results(results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in results:
        if not future.done():
            future.set_result(outcome)


def unavailable(error: Exception) -> ResetFlowError:
    """Convert an error to one of this library. Callers that share a batch get an error each."""
    if isinstance(error, ResetFlowError):
        copy = type(error)(str(error))
        copy.__cause__ = error.__cause__
        return copy
    converted = StoreUnavailable(f"the database can't be used: {error}")
    converted.__cause__ = error
    return converted

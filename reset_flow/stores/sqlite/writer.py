"""
Commits whatever waits in one transaction: it is the commits that cost.

The statements run in the event loop, where they take some microseconds each. The commit, which waits for the disk, runs
in a thread, and what comes meanwhile waits for the next one; but while one flow saves alone and the disk is quick, to
ask a thread costs the loop as much as to wait, and it commits itself. What would have the loop wait for longer runs in
the thread as a whole: to open the database, to wait for another process that writes, to clear up.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable

__all__ = ["Connection", "Cursor", "Database", "Writer", "failure"]

BATCH = 256
TURNS = 4
"""How many more turns of the loop a transaction waits for, at most, while each brings more to share it."""

QUICK = 0.001
"""Seconds that commits have lately taken on average, at most, where the loop may wait for one."""
WEIGHT = 1 / 8
"""Of the last commit, in that average: one that hangs for a second keeps the loop from doing the next forty."""
MOST_UNTIDY = 64
"""Commits that leave a long log as it is, at most, once the loop has done one; then the next is the thread's."""


class Connection(Protocol):
    """As much of a driver's connection as is used here."""

    @property
    def in_transaction(self) -> bool:
        """Whether a BEGIN has been neither committed nor rolled back."""


class Cursor(Protocol):
    """
    As much of a driver's cursor as is used here. A connection has one, which runs all its statements: to make one for
    each takes its time as well.
    """

    @property
    def lastrowid(self) -> int | None:
        """Of the last row that was inserted."""

    def execute(self, statement: str, values: Any = ..., /) -> Any:
        """One statement."""

    def executemany(self, statement: str, values: Any, /) -> Any:
        """One statement for each of the values."""


class Database(Protocol):
    """
    An open database.

    Attributes:
        writer: Waits for nobody; used by the loop or by the thread, never by both at once.

        writing: Its cursor.

        reading: Of another connection, for the loop, while the writer is in use.
    """

    @property
    def writer(self) -> Connection: ...  # noqa: D102

    @property
    def writing(self) -> Cursor: ...  # noqa: D102

    @property
    def reading(self) -> Cursor: ...  # noqa: D102

    def begin(self) -> None:
        """Have the writer begin to write, and wait for others who do."""

    def commit(self, *, tidy: bool) -> None:
        """Have the writer commit, and write back a log that has grown long, if it may be tidy, which takes its time."""

    def close(self) -> None:
        """Close both."""


class _Job(Struct, eq=False):
    """
    Something to be done inside a transaction.

    Attributes:
        saves: The id of the flow that it saves; `None`: it may take long, and is for the thread.

        work: What it refuses, it refuses before it writes, as others share the transaction. `None`: only to have the
            database opened.

        values: For the work, behind the cursor.
    """

    saves: str | None
    work: Callable[..., Any] | None
    values: tuple[Any, ...]
    future: asyncio.Future[Any]


class _Batch(Struct, eq=False):
    """
    What shares a transaction.

    Attributes:
        outcomes: Of the jobs, as far as the loop has done them; `None`: all is left to the thread.
    """

    jobs: Sequence[_Job]
    loop: asyncio.AbstractEventLoop
    outcomes: Sequence[Any] | None = None


class Writer:
    """
    All writing of a store. It opens the database at the first call, and after a failure again.

    Args:
        saved: Told in the loop the ids of the flows that were saved.
    """

    def __init__(self, open_database: Callable[[], Database], saved: Callable[[Sequence[str]], None]) -> None:
        self._open_database = open_database
        self._saved = saved
        self._waiting: list[_Job] = []
        self._current: _Batch | None = None
        self._done: _Batch | None = None  # the last that the thread is through with
        self._crowded = False  # whether the last batch had more than one job
        self._last: str | None = None  # the flow that was saved last, if no other was together with it
        self._pace = 0.0  # seconds that a commit takes, by the last few
        self._untidy = 0  # commits since one that would have written a long log back
        self._gathering: asyncio.AbstractEventLoop | None = None
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._database: Database | None = None
        self._stopped = False

    def reader(self) -> Cursor | None:
        """For reads in the loop; `None`: the database is not open, until something was run."""
        self._check()
        if self._database is None:
            return None
        # The writer knows the newest pages; the reader must get them from the log.
        return self._database.writing if self._free() else self._database.reading

    async def run(self, work: Callable[..., Any] | None, *values: Any) -> Any:
        """What the work returned, once it is committed; raises what it raised."""
        outcome = await self.put(None, work, *values)
        if isinstance(outcome, ResetFlowError):
            raise outcome
        return outcome

    def alone(self, saves: str) -> bool:
        """Whether a save of this flow may be done at once: nobody else is there, and the disk is quick."""
        return (
            saves == self._last
            and self._current is None
            and not self._waiting
            and self._pace < QUICK
            and self._untidy < MOST_UNTIDY
        )

    def at_once(self, saves: str, work: Callable[..., Any], *values: Any) -> list[Any] | None:
        """
        Do what the loop may do alone. -> what will have come of it for whoever `put` it, as the one element of a list;
        `None`: it can't be done here, and was not.
        """
        self._check()
        database = self._database
        if database is None:
            return None
        try:
            database.writing.execute("BEGIN IMMEDIATE")
            outcome = _outcome(database.writing, work, values)
            self._commit(database, written=outcome is None, tidy=False)
        except BaseException as error:
            self._roll_back()  # reads go by the same connection now
            if not isinstance(error, Exception):
                raise
            return None
        if outcome is None:
            self._saved((saves,))
        return [outcome]

    def put(self, saves: str | None, work: Callable[..., Any] | None, *values: Any) -> asyncio.Future[Any]:
        """What the work will have returned, once it is committed, or the error that it raised."""
        self._check()
        if self._thread is None:
            self._begin_thread()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(_Job(saves, work, values, future))
        if self._free():
            self._begin_soon(loop)
        return future

    def stop(self) -> None:
        """Take no more jobs."""
        if not self._stopped:
            self._stopped = True
            loop = asyncio.get_running_loop()
            self._waiting = [job for job in self._waiting if job.future.get_loop() is loop]
            if self._free() and not self._waiting:
                self._batches.put(None)

    async def stopped(self) -> None:
        """Wait until those that were taken are done and the database is closed."""
        if self._thread is not None and self._pid == os.getpid():
            await asyncio.to_thread(self._thread.join)

    def _check(self) -> None:
        if self._stopped:
            raise StoreUnavailable("the store was closed: make another one")
        if self._thread is not None and self._pid != os.getpid():
            raise StoreUnavailable("the store was opened before this process was forked: make one after the fork")

    def _begin_thread(self) -> None:
        # A daemon: a program that forgets `aclose` still ends. What it cuts off was acknowledged to nobody.
        thread = threading.Thread(target=self._serve, name="reset-flow-sqlite", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise StoreUnavailable("no thread can be had for the database: raise the limit of this process") from error
        self._thread, self._pid = thread, os.getpid()

    # --- in the loop

    def _free(self) -> bool:
        """Whether no batch is under way. One that is done, and whose loop ended or rests before it heard so, is not."""
        current = self._current
        if current is not None and current is self._done and current.loop is not asyncio.get_running_loop():
            self._current = None
        return self._current is None

    def _begin_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._crowded:
            self._begin()
        elif self._gathering is not loop:  # one that ended meanwhile will not go on
            self._gathering = loop
            loop.call_soon(self._gather, loop, 0, TURNS)

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int, turns: int) -> None:
        """Begin once a turn of the loop has brought no more: where many come, they come within a few."""
        if turns and len(self._waiting) > before:
            loop.call_soon(self._gather, loop, len(self._waiting), turns - 1)
        else:
            self._gathering = None
            self._begin()

    def _begin(self) -> None:
        """Begin a transaction for what waits, if there is none; more than one may ask for it."""
        if not self._waiting or not self._free():
            return
        loop = asyncio.get_running_loop()
        # Of another loop that rests, too: it may go on. Of one that is closed, nobody waits for them.
        waiting = [job for job in self._waiting if not job.future.get_loop().is_closed()]
        jobs, self._waiting = waiting[:BATCH], waiting[BATCH:]
        if jobs:
            self._crowded = len(jobs) > 1
            self._last = None if self._crowded else jobs[0].saves
            batch = self._current = _Batch(jobs, loop)
            try:
                batch.outcomes = self._here(jobs)
            finally:
                self._batches.put(batch)

    def _here(self, jobs: Sequence[_Job]) -> Sequence[Any] | None:
        """The outcomes of the jobs, if they can be had without waiting."""
        if self._database is None or None in [job.saves for job in jobs]:
            return None
        try:
            self._database.writing.execute("BEGIN IMMEDIATE")
            return _attempt(self._database.writing, jobs)
        except Exception:  # noqa: BLE001 - another process writes, or something is wrong: the thread finds out
            return None

    def _tell(self, batch: _Batch, outcomes: Sequence[Any]) -> None:
        """An error comes as a result, so that nobody complains when the one who waited has gone."""
        for job, outcome in zip(batch.jobs, outcomes, strict=True):
            if not job.future.done():
                try:
                    job.future.set_result(outcome)
                except RuntimeError:  # of another loop, which was closed meanwhile
                    continue
        self._saved([job.saves for job, outcome in zip(batch.jobs, outcomes, strict=True) if job.saves and not outcome])
        self._go_on(batch)

    def _tell_all(self, batch: _Batch, error: Exception) -> None:
        """That nothing was done. Those that came meanwhile have waited as well; each gets an error of its own."""
        also, self._waiting = self._waiting, []
        for job in (*batch.jobs, *also):
            if not job.future.done():
                with suppress(RuntimeError):  # of another loop, which has ended
                    job.future.set_result(failure(error))
        self._go_on(batch)

    def _go_on(self, batch: _Batch) -> None:
        if self._current is not batch:
            return  # another loop has gone on already
        self._current = None
        if self._waiting:
            self._begin_soon(asyncio.get_running_loop())
        elif self._stopped:
            self._batches.put(None)

    # --- in the thread

    def _serve(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._finish(batch)
            del batch
        if self._database is not None:
            with suppress(Exception):
                self._database.close()

    def _finish(self, batch: _Batch) -> None:
        tell: Callable[[], None]
        try:
            outcomes = self._there(batch.jobs) if batch.outcomes is None else batch.outcomes
            if self._database is not None and self._database.writer.in_transaction:
                # To change between the two takes a statement each time.
                tidy = not 0 < self._untidy < MOST_UNTIDY
                self._commit(self._database, written=None in outcomes, tidy=tidy)
            tell = partial(self._tell, batch, outcomes)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the outcome
            self._roll_back()
            tell = partial(self._tell_all, batch, error)
        self._done = batch
        with suppress(RuntimeError):  # the loop is closed, and nobody waits in it any more
            batch.loop.call_soon_threadsafe(tell)
        # Nor may it ever run again: who waits in another loop goes on there.
        waiting = self._waiting
        if waiting and (loop := waiting[-1].future.get_loop()) is not batch.loop:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._begin)
        elif self._stopped and not waiting:
            self._batches.put(None)

    def _there(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        self._roll_back()  # what the loop began and could not end
        if self._database is None:
            self._database = self._open_database()
        if any(job.work is not None for job in jobs):
            self._database.begin()
        return _attempt(self._database.writing, jobs)

    # --- in either

    def _commit(self, database: Database, *, written: bool, tidy: bool) -> None:
        self._untidy = 0 if tidy else self._untidy + 1
        began = time.perf_counter()
        database.commit(tidy=tidy)
        if written:  # which is what takes time
            self._pace += (time.perf_counter() - began - self._pace) * WEIGHT

    def _roll_back(self) -> None:
        if self._database is not None and self._database.writer.in_transaction:
            with suppress(Exception):
                self._database.writing.execute("ROLLBACK")


def _attempt(db: Cursor, jobs: Sequence[_Job]) -> list[Any]:
    return [None if job.work is None else _outcome(db, job.work, job.values) for job in jobs]


def _outcome(db: Cursor, work: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    try:
        return work(db, *values)
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

"""
Group commit: one transaction for all jobs that wait, as the commit is what costs.

All writing runs in a thread of its own, which waits for the disk and for other processes. Jobs that come meanwhile
share the next transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.stores.batcher import Batcher
from reset_flow.stores.session import Ownership
from reset_flow.stores.sqlite.database import is_busy, primary_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from sqlite3 import Cursor

    from reset_flow.stores.sqlite.database import Database
    from reset_flow.stores.sqlite.open_file import OpenFile

BATCH = 256
TURNS = 4

WRITABLE = "see that the file and its folder can be written to: their rights, and their mount"
ADVICE = {
    sqlite3.SQLITE_BUSY: "another process holds it for long: end that one",
    sqlite3.SQLITE_CANTOPEN: WRITABLE,
    sqlite3.SQLITE_CORRUPT: "restore a backup",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "check its disk, and make room on it",
    sqlite3.SQLITE_READONLY: WRITABLE,
}
"""What to do, by the kind of error."""

Job: TypeAlias = "Callable[[Cursor], Any] | None"
"""
Work in a transaction, or `None`: only open the database. Returns the result, or a `ResetFlowError` before it wrote
anything: others share the transaction.
"""


class Writer:
    """
    Runs jobs in a thread, many to a transaction. Event loops may use it one after another.

    Args:
        open_database: Called in the thread for the first job, and again after it failed or the file was replaced; then
            with what was open before.
    """

    def __init__(self, open_database: Callable[[OpenFile | None], Database]) -> None:
        self._open_database = open_database
        self._database: Database | None = None
        self._batcher: Batcher[Job] = Batcher(self._run_in_thread, BATCH, turns=TURNS)
        self._executor = ThreadPoolExecutor(1, "reset-flow-sqlite")
        self._ownership = Ownership(lambda loop: not loop.is_running())

    async def database(self) -> Database:
        """Return the database, opened by the thread, and looked at a moment ago: reads notice what saves would."""
        self._ownership.take()
        if self._database is None or self._database.closed or not self._database.file.seems_in_place:
            await self.look()
            assert self._database is not None
        return self._database

    async def look(self) -> None:
        """Return if the database is open, and where others look for it."""
        self._ownership.take()
        await self._batcher.run(None)

    async def run(self, work: Callable[..., Any], *values: Any) -> Any:
        """Return the result of the work once it is committed, or raise the `ResetFlowError` that it refused with."""
        self._ownership.take()
        return await self._batcher.run(partial(_outcome, work, values))

    async def aclose(self) -> None:
        """
        Take no more jobs. Return once those that were taken are done and the database is closed. While another event
        loop runs that uses it: have that one do so, without waiting.
        """
        loop = self._ownership.close()
        if loop is None:
            return
        if loop is asyncio.get_running_loop() or not loop.is_running():
            await self._finish()
        else:
            with suppress(RuntimeError):  # it was closed a moment ago
                loop.call_soon_threadsafe(self._close_soon)

    def _close_soon(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        await self._batcher.finish()
        with suppress(RuntimeError):  # it was closed already
            await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    async def _run_in_thread(self, jobs: Sequence[Job]) -> list[Any]:
        try:
            outcomes = asyncio.get_running_loop().run_in_executor(self._executor, self._transact, jobs)
        except RuntimeError as error:
            self._executor = ThreadPoolExecutor(1, "reset-flow-sqlite")  # the first would still run these jobs one day
            raise StoreUnavailable("no thread can be had for the database: raise the limit of this process") from error
        return await outcomes

    # In the thread

    def _transact(self, jobs: Sequence[Job]) -> list[Any]:
        try:
            if self._database is None or self._database.closed:
                self._database = self._open_database(self._database.file if self._database else None)
            outcomes = _run_jobs(self._database, jobs)
        except Exception as error:
            if self._database is not None and not self._database.closed and not is_busy(error):
                self._database.explain(error)
            if isinstance(error, ResetFlowError):
                raise
            raise unavailable(error) from error
        # After the commit and before anybody is told: what was committed to another file is not saved.
        self._database.check()
        return outcomes

    def _close(self) -> None:
        if self._database is not None:
            with suppress(Exception):
                self._database.close()


def _run_jobs(database: Database, jobs: Sequence[Job]) -> list[Any]:
    if not any(jobs):
        return [None for _ in jobs]
    with database.alone():
        return _transaction(database.writer, jobs)


def _transaction(cursor: Cursor, jobs: Sequence[Job]) -> list[Any]:
    try:
        cursor.execute("BEGIN IMMEDIATE")
        outcomes = [job and job(cursor) for job in jobs]
        cursor.execute("COMMIT")
    except BaseException:
        if cursor.connection.in_transaction:
            with suppress(Exception):
                cursor.execute("ROLLBACK")
        raise
    return outcomes


def _outcome(work: Callable[..., Any], values: tuple[Any, ...], cursor: Cursor) -> Any:
    try:
        return work(cursor, *values)
    except ResetFlowError as error:
        return error.with_traceback(None)


def unavailable(error: Exception) -> StoreUnavailable:
    """Convert an error of the driver."""
    advice = ADVICE.get(primary_code(error), "")
    return StoreUnavailable(f"the database can't be used: {error}{advice and '; '}{advice}")

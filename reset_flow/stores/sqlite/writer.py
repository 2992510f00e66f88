"""
Group commit: one transaction for all jobs that wait, as the commit is what costs.

All writing runs in a thread of its own, which waits for the disk and for other processes. Jobs that come meanwhile
share the next transaction.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.domain.errors import ResetFlowError, StoreUnavailable
from reset_flow.stores.batcher import Batcher
from reset_flow.stores.session import CLOSED, FORKED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from sqlite3 import Cursor

    from reset_flow.stores.sqlite.database import Database

BATCH = 256
TURNS = 4

Job: TypeAlias = "Callable[[Cursor], Any] | None"
"""
Work in a transaction, or `None`: only open the database. Returns the result, or a `ResetFlowError` before it wrote
anything: others share the transaction.
"""


class Writer:
    """
    Runs jobs in a thread, many to a transaction. Event loops may use it one after another.

    Args:
        open_database: Called in the thread for the first job, and again after it failed.
    """

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._open_database = open_database
        self._database: Database | None = None
        self._batcher: Batcher[Job] = Batcher(self._run_in_thread, BATCH, turns=TURNS)
        self._executor = ThreadPoolExecutor(1, "reset-flow-sqlite")
        self._pid = 0
        self._closed = False

    async def database(self) -> Database:
        """Return the database, opened by the thread."""
        self._check_usable()
        if self._database is None:
            await self._batcher.run(None)
            assert self._database is not None
        return self._database

    async def run(self, work: Callable[..., Any], *values: Any) -> Any:
        """Return the result of the work once it is committed, or raise the `ResetFlowError` that it refused with."""
        self._check_usable()
        return await self._batcher.run(partial(_outcome, work, values))

    async def aclose(self) -> None:
        """Take no more jobs. Return once those that were taken are done and the database is closed."""
        self._closed = True
        if self._pid == os.getpid():
            await self._batcher.finish()
            with suppress(RuntimeError):  # it was closed already
                await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
            self._executor.shutdown(wait=False)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreUnavailable(CLOSED)
        self._pid = self._pid or os.getpid()
        if self._pid != os.getpid():
            raise StoreUnavailable(FORKED)

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
            if self._database is None:
                self._database = self._open_database()
            return _commit(self._database.writer, jobs) if any(jobs) else [None for _ in jobs]
        except ResetFlowError:
            raise
        except Exception as error:
            raise unavailable(error) from error

    def _close(self) -> None:
        if self._database is not None:
            with suppress(Exception):
                self._database.close()
            self._database = None


def _commit(cursor: Cursor, jobs: Sequence[Job]) -> list[Any]:
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
    return StoreUnavailable(f"the database can't be used: {error}")

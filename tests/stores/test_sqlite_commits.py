"""Where a commit is done: in the event loop while one flow saves alone and the disk is quick, else in the thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow.domain.errors import LimitReached, StaleRecord, StoreUnavailable
from reset_flow.ports import Charge
from reset_flow.stores.sqlite import writer
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record, next_version, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reset_flow.ports import Record
    from reset_flow.stores.sqlite.writer import Database


ONCE = Charge(key=b"k" * 16, amount=1, limit=1, window=timedelta(hours=1))


class Commits:
    """Of one store, each with whether the loop did it; they can be had to fail."""

    def __init__(self, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        kind: Any = type(store._writer._database)
        self._commit = kind.commit
        self.here: list[bool] = []
        self.tidy: list[bool] = []
        self.errors: list[BaseException] = []
        monkeypatch.setattr(kind, "commit", lambda database, *, tidy: self.commit(database, tidy))

    def commit(self, database: Database, tidy: bool) -> None:  # noqa: FBT001
        here = threading.current_thread() is threading.main_thread()
        assert not (tidy and here)
        self.here.append(here)
        self.tidy.append(tidy)
        if self.errors:
            raise self.errors.pop(0)
        self._commit(database, tidy=tidy)

    def taken(self) -> list[bool]:
        """Those since it was asked before."""
        taken, self.here = self.here, []
        return taken


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLiteStore]:
    monkeypatch.setattr(writer, "QUICK", 60.0)  # whatever else this machine does
    store = SQLiteStore(tmp_path / "flows.db")
    await store.save(make_record())
    yield store
    await store.aclose()


@pytest.fixture
def commits(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(store, monkeypatch)


async def saved(store: SQLiteStore, record: Record, times: int) -> Record:
    for _ in range(times):
        record = next_version(record)
        await store.save(record)
    return record


async def test_a_flow_that_saves_alone_is_committed_in_the_loop(
    store: SQLiteStore, commits: Commits, tmp_path: Path
) -> None:
    record = make_record()
    await store.save(record)
    with closing(sqlite3.connect(tmp_path / "flows.db")) as other:
        for _ in range(3):
            record = await saved(store, record, 1)
            found = other.execute("SELECT version FROM flows WHERE id = ?", (record.id,)).fetchall()
            assert found == [(record.version,)]
    assert commits.taken() == [False, True, True, True]


async def test_what_is_refused_is_refused_in_the_loop_as_well(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    await refused(store.save(next_version(record, version=5)), StaleRecord)
    record = await saved(store, record, 1)
    assert await store.load(record.id) == record
    assert commits.taken() == [False, True, True]


async def test_flows_that_save_in_turn_are_committed_in_the_thread(store: SQLiteStore, commits: Commits) -> None:
    one, other = make_record(), make_record()
    await store.save(one)
    await store.save(other)
    for _ in range(3):
        one, other = await saved(store, one, 1), await saved(store, other, 1)
    assert commits.taken() == [False] * 8


async def test_flows_that_save_at_once_are_committed_in_the_thread(store: SQLiteStore, commits: Commits) -> None:
    records = [make_record() for _ in range(8)]
    await asyncio.gather(*(store.save(record) for record in records))
    await asyncio.gather(*(saved(store, record, 5) for record in records))
    assert set(commits.taken()) == {False}


async def test_the_thread_is_asked_from_time_to_time(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    await saved(store, record, 2 * writer.MOST_UNTIDY + 2)
    one_round = [*[True] * writer.MOST_UNTIDY, False]
    assert commits.taken() == [False, *one_round, *one_round]
    assert commits.tidy == [not here for here in [False, *one_round, *one_round]]


async def test_a_long_log_is_written_back_though_many_save_again(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    await saved(store, record, 1)
    for _ in range(writer.MOST_UNTIDY + 5):
        await store.save(make_record())
    assert commits.tidy == [True, *[False] * writer.MOST_UNTIDY, *[True] * 6]


async def test_after_a_commit_that_hung_the_thread_does_the_next_ones(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    record = await saved(store, record, 1)
    store._writer._pace = 10 * writer.QUICK  # as it is after one of them
    await saved(store, record, 30)
    # An eighth less each time: after 18 of them it is below, as those themselves take next to nothing.
    assert commits.taken() == [False, True, *[False] * 18, *[True] * 12]


async def test_on_a_disk_that_is_slow_all_commits_are_the_threads(
    store: SQLiteStore, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUICK", 0.0)
    record = make_record()
    await store.save(record)
    await saved(store, record, 5)
    assert commits.taken() == [False] * 6


async def test_what_is_refused_does_not_count_as_quick(store: SQLiteStore) -> None:
    record = make_record()
    await store.save(record)
    before = store._writer._pace
    for _ in range(10):
        await refused(store.save(next_version(record, version=5)), StaleRecord)
    assert store._writer._pace == before


async def test_what_the_loop_can_not_commit_is_left_to_the_thread(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    commits.errors = [sqlite3.OperationalError("disk I/O error")]
    record = next_version(record)
    await store.save(record, charges=[ONCE])
    assert await store.load(record.id) == record
    await refused(store.save(make_record(), charges=[ONCE]), LimitReached)
    assert commits.taken()[:3] == [False, True, False]


async def test_what_nobody_can_commit_is_told_and_rolled_back(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    commits.errors = [sqlite3.OperationalError("disk I/O error"), sqlite3.OperationalError("disk is full")]
    error = await refused(store.save(next_version(record)), StoreUnavailable)
    assert "disk is full" in str(error)
    assert await store.load(record.id) == record
    record = await saved(store, record, 2)
    assert await store.load(record.id) == record
    assert commits.taken() == [False, True, False, True, True]


async def test_a_save_waits_in_the_thread_for_another_process_that_writes(
    store: SQLiteStore, commits: Commits, tmp_path: Path
) -> None:
    record = make_record()
    await store.save(record)
    record = next_version(record)
    with closing(sqlite3.connect(tmp_path / "flows.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        saving = asyncio.create_task(store.save(record))
        await asyncio.sleep(0)
        assert store._writer._current is not None  # the thread waits with it
        other.execute("ROLLBACK")
        await saving
    assert commits.taken() == [False, False]


async def test_who_interrupts_the_loop_at_a_commit_leaves_no_trace_of_it(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    commits.errors = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        await store.save(next_version(record))
    assert await store.load(record.id) == record
    record = await saved(store, record, 1)
    assert await store.load(record.id) == record
    assert commits.taken() == [False, True, True]


async def test_a_store_that_is_closed_commits_nothing_in_the_loop(store: SQLiteStore, commits: Commits) -> None:
    record = make_record()
    await store.save(record)
    await store.aclose()
    await refused(store.save(next_version(record)), StoreUnavailable)
    assert commits.taken() == [False]

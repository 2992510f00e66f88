"""One store, one event loop after the other: whatever the one before left behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow.domain.errors import StoreUnavailable
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record, next_version, refused
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

BUSY = timedelta(milliseconds=300)


async def soon(work: Coroutine[Any, Any, None]) -> None:
    """Do it, or fail instead of waiting forever."""
    async with asyncio.timeout(PATIENCE):
        await work


def left_under_way(store: SQLiteStore, path: Path, loop: asyncio.AbstractEventLoop) -> sqlite3.Connection:
    """Have a save wait for another user of the file in this loop, which runs no more."""

    async def begin() -> sqlite3.Connection:
        await store.save(make_record())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        saving = asyncio.create_task(store.save(make_record()))
        await asyncio.sleep(0.05)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        return other

    return loop.run_until_complete(begin())


def test_a_store_closes_although_a_loop_ended_that_was_saving(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    store = SQLiteStore(path, busy_timeout=BUSY)
    loop = asyncio.new_event_loop()
    with closing(left_under_way(store, path, loop)):
        loop.close()
        asyncio.run(soon(store.aclose()))
    assert not path.with_name("flows.db-wal").exists(), "the last connection to the file removes it"
    asyncio.run(soon(refused_everything(store)))


async def refused_everything(store: SQLiteStore) -> None:
    await refused(store.save(make_record()), StoreUnavailable)
    await refused(store.load("any"), StoreUnavailable)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "resting"])
def test_who_saves_in_the_next_loop_waits_for_no_loop_before(tmp_path: Path, ended: bool) -> None:  # noqa: FBT001
    path = tmp_path / "flows.db"
    store = SQLiteStore(path, busy_timeout=BUSY)
    loop = asyncio.new_event_loop()
    with closing(left_under_way(store, path, loop)) as other:
        if ended:
            loop.close()
        other.execute("ROLLBACK")

    async def go_on() -> None:
        record = make_record()
        await store.save(record)
        assert await store.load(record.id) == record
        await store.aclose()

    asyncio.run(soon(go_on()))
    if not ended:  # it hears now what came of its own, and disturbs nothing
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_somebody_who_waited_in_a_loop_that_ended_disturbs_nobody(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "flows.db")
    record = make_record()
    loop = asyncio.new_event_loop()

    async def wait() -> asyncio.Task[None]:
        await store.save(record)
        waiting = asyncio.create_task(store.changed(record.id, 1, timedelta(hours=1)))
        await asyncio.sleep(0.02)
        return waiting

    left = loop.run_until_complete(wait())
    loop.close()

    async def go_on() -> None:
        await store.save(next_version(record))
        await store.save(make_record())
        await store.aclose()

    asyncio.run(soon(go_on()))
    left._log_destroy_pending = False  # type: ignore[attr-defined] # it was meant to be left behind


async def test_without_a_thread_to_be_had_it_says_so_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(tmp_path / "flows.db")

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        error = await refused(store.save(make_record()), StoreUnavailable)
        assert "no thread" in str(error)
    await soon(store.save(make_record()))
    await store.aclose()


def test_who_saves_in_a_loop_that_rests_is_not_forgotten(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "flows.db", busy_timeout=BUSY)
    first = asyncio.new_event_loop()
    waiting: list[asyncio.Task[None]] = []

    async def crowd() -> None:
        await asyncio.gather(*(store.save(make_record()) for _ in range(8)))

    async def begin() -> None:
        await crowd()
        waiting.extend(asyncio.ensure_future(store.save(make_record())) for _ in range(3))
        await asyncio.sleep(0)

    async def go_on() -> None:
        await asyncio.gather(*waiting)
        await crowd()
        await store.aclose()

    first.run_until_complete(begin())
    asyncio.run(soon(crowd()))
    first.run_until_complete(soon(go_on()))
    first.close()
    with closing(sqlite3.connect(tmp_path / "flows.db")) as other:
        assert other.execute("SELECT count(*) FROM flows").fetchall() == [(27,)]


def test_a_loop_that_is_closed_while_its_saves_are_carried_out_disturbs_nobody(tmp_path: Path) -> None:
    started, closed = threading.Event(), threading.Event()
    closed.set()

    def clock() -> datetime:  # asked by each save, in the midst of its transaction
        started.set()
        assert closed.wait(PATIENCE)
        return datetime.now(UTC)

    store = SQLiteStore(tmp_path / "flows.db", busy_timeout=BUSY, clock=clock)
    first = asyncio.new_event_loop()
    left: list[asyncio.Task[None]] = []

    async def begin() -> None:
        await asyncio.gather(*(store.save(make_record()) for _ in range(8)))
        left.extend(asyncio.ensure_future(store.save(make_record())) for _ in range(3))
        await asyncio.sleep(0)

    async def go_on() -> None:
        closed.clear()
        started.clear()
        saving = asyncio.ensure_future(store.save(make_record()))
        assert await asyncio.to_thread(started.wait, PATIENCE)
        first.close()
        closed.set()
        await saving
        await store.aclose()

    first.run_until_complete(begin())
    asyncio.run(soon(go_on()))
    with closing(sqlite3.connect(tmp_path / "flows.db")) as other:
        assert other.execute("SELECT count(*) FROM flows").fetchall() == [(12,)]


def test_what_a_loop_left_behind_is_saved_at_the_end(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "flows.db")
    first = asyncio.new_event_loop()

    async def begin() -> list[asyncio.Task[None]]:
        await asyncio.gather(*(store.save(make_record()) for _ in range(8)))
        saving = [asyncio.ensure_future(store.save(make_record())) for _ in range(3)]
        await asyncio.sleep(0)
        return saving

    async def end(saving: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*saving)

    saving = first.run_until_complete(begin())
    asyncio.run(soon(store.aclose()))
    first.run_until_complete(soon(end(saving)))
    first.close()
    with closing(sqlite3.connect(tmp_path / "flows.db")) as other:
        assert other.execute("SELECT count(*) FROM flows").fetchall() == [(11,)]

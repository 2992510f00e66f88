"""What only a file can do: be shared, locked, full, damaged, killed over, and opened again."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow.domain.errors import (
    ConfigurationError,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.ports import Query, Use, UseName
from reset_flow.stores.sqlite.changes import SQL
from reset_flow.stores.sqlite.database import APPLICATION_ID
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record, next_version, refused
from tests.patience import PATIENCE, takes_less_than

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from reset_flow.ports import Record

EVERYTHING = Query(realm="default")
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, busy_timeout=timedelta(milliseconds=100))
    yield store
    await store.aclose()


@pytest.fixture
def other(path: Path, store: SQLiteStore) -> Iterator[sqlite3.Connection]:  # noqa: ARG001 - closed before the store
    """Another user of the same file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield other


def connection(store: SQLiteStore) -> sqlite3.Connection:
    """The connection that writes: no other sees its settings, or has its limits. Nothing may be under way."""
    assert store._writer._database is not None
    return store._writer._database.writer.connection


def use(limit: int = 1, window: timedelta = timedelta(hours=1)) -> Use:
    """Of one and the same budget."""
    return Use(key=b"k" * 16, id=os.urandom(9), limit=limit, window=window)


def contents(path: Path) -> dict[str, bytes]:
    """Of every file of a folder, by name."""
    return {each.name: each.read_bytes() for each in path.iterdir()}


async def ids(store: SQLiteStore) -> list[str]:
    return [record.id async for record in store.scan(EVERYTHING, limit=10_000)]


# What a save is worth


async def test_a_save_that_returned_is_on_disk(store: SQLiteStore) -> None:
    await store.save(make_record())
    assert connection(store).execute("PRAGMA journal_mode").fetchall() == [(b"wal",)]
    assert connection(store).execute("PRAGMA synchronous").fetchall() == [(2,)]  # FULL
    assert not connection(store).in_transaction


async def test_a_store_that_is_opened_again_has_everything(store: SQLiteStore, path: Path) -> None:
    record = make_record(due_at=datetime(2030, 1, 1, tzinfo=UTC), lease=timedelta(hours=1), lookups=(b"a" * 16,))
    await store.save(record, add=[use()])
    await store.aclose()
    assert not path.with_name("flows.db-wal").exists()
    again = SQLiteStore(path)
    assert await again.load(record.id) == record
    left = (await again.load(record.id)).lease_left
    assert left is not None
    assert timedelta(minutes=55) < left <= timedelta(hours=1)
    await refused(again.save(make_record(), add=[use()]), LimitReached)
    assert [each async for each in again.scan(Query(realm="default", lookup=b"a" * 16), limit=1)] == [record]
    await again.aclose()


async def test_saves_that_wait_together_are_committed_together(store: SQLiteStore, path: Path) -> None:
    log = path.with_name("flows.db-wal")
    await store.save(make_record())
    one = log.stat().st_size
    await asyncio.gather(*(store.save(make_record()) for _ in range(100)))
    assert log.stat().st_size < 4 * one  # each commit writes the pages anew that it changed
    assert len(await ids(store)) == 101


async def test_what_waits_for_more_than_one_transaction_is_saved(store: SQLiteStore) -> None:
    await asyncio.gather(*(store.save(make_record()) for _ in range(1000)))
    assert len(await ids(store)) == 1000


async def test_a_refusal_does_not_disturb_its_neighbours(store: SQLiteStore) -> None:
    taken = make_record()
    await store.save(taken)
    records = [make_record() for _ in range(30)]
    results = await asyncio.gather(
        *(store.save(record, add=[use(limit=5)] if n % 2 else []) for n, record in enumerate(records)),
        *(store.save(next_version(taken, version=version)) for version in (0, 1, 3)),
        store.save(next_version(taken)),
        return_exceptions=True,
    )
    kinds = [type(result) for result in results]
    assert (kinds.count(LimitReached), kinds.count(StaleRecord), results.count(None)) == (10, 3, 21)
    written = [record.id for record, result in zip(records, results, strict=False) if result is None]
    assert await ids(store) == sorted([*written, taken.id])


async def test_several_versions_of_a_flow_may_wait_together(store: SQLiteStore) -> None:
    versions = [make_record()]
    for _ in range(9):
        versions.append(next_version(versions[-1]))
    rival = next_version(versions[4])
    saves = [store.save(record, add=[use(limit=10)] if n % 2 else []) for n, record in enumerate(versions)]
    *results, refusal = await asyncio.gather(*saves, store.save(rival), return_exceptions=True)
    assert results == [None] * 10
    assert isinstance(refusal, StaleRecord)
    assert await store.load(rival.id) == versions[-1]


async def test_what_waits_when_the_store_is_closed_is_saved(store: SQLiteStore, path: Path) -> None:
    records = [make_record() for _ in range(50)]
    saving = [asyncio.create_task(store.save(record)) for record in records]
    await asyncio.sleep(0)
    await store.aclose()
    await asyncio.gather(*saving)
    again = SQLiteStore(path)
    assert len(await ids(again)) == 50
    await again.aclose()


async def test_another_turn_is_told_before_a_limit(store: SQLiteStore) -> None:
    record = make_record()
    await store.save(record, add=[use()])
    await refused(store.save(make_record(id=record.id), add=[use()]), StaleRecord)
    await refused(store.save(next_version(record, version=3), add=[use()]), StaleRecord)
    await refused(store.save(next_version(record), add=[use()]), LimitReached)
    assert await store.load(record.id) == record


async def test_every_column_may_change(store: SQLiteStore) -> None:
    time = datetime(2030, 1, 1, tzinfo=UTC)
    record = make_record(realm="north", ended_at=time, lookups=(b"a" * 16,))
    await store.save(record)
    for change in ({"realm": "south"}, {"lookups": (b"b" * 16,)}, {"ended_at": None}, {"ended_at": time}):
        record = next_version(record, **change)
        await store.save(record)
        assert await store.load(record.id) == record


async def test_the_log_is_used_again(store: SQLiteStore, path: Path) -> None:
    record = make_record()
    await store.save(record)
    for _ in range(100):
        record = next_version(record, body=bytes(30 * PAGE))
        await store.save(record)
        assert (await store.load(record.id)).version == record.version
        assert await ids(store) == [record.id]
    assert path.with_name("flows.db-wal").stat().st_size < 1500 * PAGE  # SQLite writes it back from 1000 pages on


async def test_a_change_by_another_store_is_noticed(store: SQLiteStore, path: Path) -> None:
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(store.changed(record.id, 1, timedelta(hours=1)))
    await asyncio.sleep(0.01)
    rival = SQLiteStore(path)
    await rival.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert (await store.load(record.id)).version == 2
    await refused(store.save(next_version(record)), StaleRecord)
    await rival.aclose()


def test_one_store_serves_one_loop_after_the_other(path: Path) -> None:
    store = SQLiteStore(path)
    record = make_record()
    asyncio.run(store.save(record))
    assert asyncio.run(store.load(record.id)) == record
    asyncio.run(store.aclose())
    asyncio.run(store.aclose())


# What goes wrong outside


async def test_a_locked_database_is_waited_for_no_longer_than_told(
    store: SQLiteStore, other: sqlite3.Connection
) -> None:
    record = make_record()
    await store.save(record)
    other.execute("BEGIN IMMEDIATE")

    async def saves() -> None:
        results = await asyncio.gather(*(store.save(make_record()) for _ in range(10)), return_exceptions=True)
        assert len({id(result) for result in results}) == 10
        for result in results:
            assert isinstance(result, StoreUnavailable)
            assert isinstance(result.__cause__, sqlite3.OperationalError)
            assert "locked" in str(result)

    await takes_less_than(2, saves)
    assert await store.load(record.id) == record
    other.execute("ROLLBACK")
    await store.save(next_version(record))
    assert await ids(store) == [record.id]


async def test_a_lock_that_is_let_go_in_time_is_waited_out(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout=timedelta(minutes=5))
    await store.save(make_record())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        saving = asyncio.create_task(store.save(make_record()))
        await asyncio.sleep(0.05)
        assert not saving.done()
        other.execute("ROLLBACK")
        await saving
    await store.aclose()


async def test_a_file_that_is_locked_at_the_opening_is_tried_again(
    store: SQLiteStore, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN EXCLUSIVE")
    results = await asyncio.gather(*(store.load("nobody") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 5
    other.execute("ROLLBACK")
    await store.save(make_record())
    assert len(await ids(store)) == 1


async def test_a_full_disk_loses_nothing_that_was_saved(store: SQLiteStore) -> None:
    records = [make_record() for _ in range(20)]
    await asyncio.gather(*(store.save(record) for record in records))
    connection(store).execute("PRAGMA max_page_count = 1")  # no more than there are
    large = [make_record(body=bytes(5000)) for _ in range(5)]
    results = await asyncio.gather(
        *(store.save(record) for record in large), store.save(make_record(), add=[use()]), return_exceptions=True
    )
    # All of a batch goes with the one that failed.
    assert all(isinstance(result, StoreUnavailable) and "full" in str(result) for result in results)
    assert await ids(store) == sorted(record.id for record in records)
    connection(store).execute("PRAGMA max_page_count = 100000")
    await asyncio.gather(*(store.save(record) for record in large))
    await store.save(make_record(), add=[use()])
    assert len(await ids(store)) == 26


async def test_what_can_not_be_committed_is_told_and_rolled_back(store: SQLiteStore) -> None:
    record = make_record()
    await store.save(record)

    def no_commit(action: int, argument: str | None, *_: str | None) -> int:
        refused = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    connection(store).set_authorizer(no_commit)
    error = await refused(store.save(next_version(record), add=[use()]), StoreUnavailable)
    assert "not authorized" in str(error)
    assert await store.load(record.id) == record
    connection(store).set_authorizer(None)
    record = next_version(record)
    await store.save(record, add=[use()])
    assert await store.load(record.id) == record


async def test_a_clock_that_fails_is_no_end_of_the_writer(path: Path) -> None:
    broken = True

    def clock() -> datetime:
        if broken:
            raise ValueError("no time")
        return datetime.now(UTC)

    store = SQLiteStore(path, clock=clock)
    record = make_record(lease=timedelta(seconds=1))
    error = await refused(store.save(record), StoreUnavailable)
    assert isinstance(error.__cause__, ValueError)
    broken = False
    await store.save(record)
    assert await store.load(record.id) == record
    await store.aclose()


# The file


async def test_the_file_is_its_owners_alone(store: SQLiteStore, path: Path) -> None:
    before = os.umask(0)
    try:
        await store.save(make_record())
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == {"flows.db": 0o600, "flows.db-wal": 0o600, "flows.db-shm": 0o600}


def test_a_process_whose_own_folder_is_gone_is_told_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path / "release")
    (tmp_path / "release").rmdir()
    with pytest.raises(ConfigurationError, match=r"give flows\.db by its whole path"):
        SQLiteStore("flows.db")
    SQLiteStore(tmp_path / "flows.db")


async def test_a_missing_folder_is_named_and_can_be_mended(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "folder" / "flows.db")
    error = await refused(store.save(make_record()), StoreUnavailable)
    assert "create it" in str(error)
    assert isinstance(error.__cause__, FileNotFoundError)
    (tmp_path / "folder").mkdir()
    await store.save(make_record())
    assert len(await ids(store)) == 1
    await store.aclose()


async def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for name in ("", ":memory:"):
        with pytest.raises(ConfigurationError):
            SQLiteStore(name)
    store = SQLiteStore(tmp_path)
    await refused(store.load("nobody"), StoreUnavailable)
    await store.aclose()


@pytest.mark.parametrize("content", [b"hello", b"no database at all" * 500], ids=["short", "long"])
async def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
    store = SQLiteStore(path)
    error = await refused(store.save(make_record()), ConfigurationError)
    assert "a file of its own" in str(error)
    await store.aclose()
    assert contents(path.parent) == {path.name: content}


@pytest.mark.parametrize(
    ("script", "advice"),
    [
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99", "newer"),
        ("CREATE TABLE flows (a); INSERT INTO flows VALUES (1)", "a file of its own"),
        ("PRAGMA user_version = 1", "a file of its own"),
    ],
    ids=["newer", "tables of others", "version of others"],
)
async def test_a_database_of_others_is_left_alone(path: Path, script: str, advice: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    before = contents(path.parent)
    store = SQLiteStore(path)
    results = await asyncio.gather(store.save(make_record()), store.load("nobody"), return_exceptions=True)
    assert all(isinstance(result, ConfigurationError) and advice in str(result) for result in results)
    await store.aclose()
    assert contents(path.parent) == before


async def test_concurrent_first_calls_open_it(store: SQLiteStore) -> None:
    records = [make_record() for _ in range(20)]
    await asyncio.gather(*(store.save(record) for record in records), ids(store), ids(store))
    assert len(await ids(store)) == 20


async def test_a_file_is_read_at_the_opening_while_another_process_writes(
    path: Path, store: SQLiteStore, other: sqlite3.Connection
) -> None:
    record = make_record()
    await store.save(record)
    other.execute("BEGIN IMMEDIATE")
    late = SQLiteStore(path, busy_timeout=timedelta(milliseconds=100))
    assert await late.load(record.id) == record
    await late.aclose()


async def test_an_older_sqlite_is_refused(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
        assert "too old" in str(await refused(store.load("nobody"), ConfigurationError))
    await store.save(make_record())


# Rows


@pytest.mark.parametrize(
    "damage",
    [
        "version = 0",
        "version = -7",
        "state = 'nonsense'",
        "state = CAST(x'ff' AS TEXT)",
        "due_at = 9000000000000000000",
        "ended_at = -9000000000000000000",
        "lease = -1",
        "lease = NULL",
        "leased_until = NULL",
        "lookups = x'00'",
        "realm = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_damaged_row_is_told_from_a_missing_one(
    store: SQLiteStore, other: sqlite3.Connection, damage: str
) -> None:
    now = datetime.now(UTC)
    names = [f"flow {n:03}" for n in range(100)]
    for name in names:
        await store.save(make_record(id=name, due_at=now, lease=-timedelta(hours=1), lookups=(b"a" * 16,)))
    other.execute("UPDATE flows SET lease = 1")
    assert await ids(store) == names
    # The last of the first page of a scan.
    other.execute(f"UPDATE flows SET {damage} WHERE id = 'flow 049'")  # noqa: S608 - written above
    error = await refused(store.load("flow 049"), RecordUnreadable)
    assert error.flow_id == "flow 049"
    names.remove("flow 049")
    assert await ids(store) == names
    due = [record.id async for record in store.scan(Query(realm="default", due=True), limit=1000)]
    assert due == names
    newest = [record.id async for record in store.scan(Query(realm="default", lookup=b"a" * 16), limit=1000)]
    assert newest == names[::-1]


async def test_a_name_that_is_no_text_names_no_row(store: SQLiteStore, other: sqlite3.Connection) -> None:
    await store.save(make_record(id="good"))
    await store.save(make_record(id="other"))
    other.execute("UPDATE flows SET id = CAST(x'ff' AS TEXT) WHERE id = 'other'")
    assert await ids(store) == ["good"]


async def test_what_no_column_can_hold_is_refused_at_once(store: SQLiteStore) -> None:
    odd: list[Record] = [make_record(lookups=(b"short",)), make_record(id="\ud800"), make_record(realm="\ud800")]
    for record in odd:
        await refused(store.save(record), InvalidInput)
    forever = make_record(lease=timedelta.max)
    await store.save(forever, add=[use(window=timedelta.max)])
    await refused(store.save(make_record(), add=[use()]), LimitReached)


async def test_a_purge_leaves_nothing_of_a_flow_behind(store: SQLiteStore, other: sqlite3.Connection) -> None:
    now = datetime.now(UTC)
    await store.save(make_record(id="running", lookups=(b"a" * 16,)))
    ended = [make_record(ended_at=now, lookups=(b"a" * 16, os.urandom(16))) for _ in range(600)]  # more than a piece
    await asyncio.gather(*(store.save(record) for record in ended))
    assert await store.purge("default", now + timedelta(seconds=1), 500) == 500
    assert await store.purge("default", now + timedelta(seconds=1), 500) == 100
    assert await ids(store) == ["running"]
    assert other.execute("SELECT lookup FROM lookups").fetchall() == [(b"a" * 16,)]


async def test_expired_uses_are_purged_however_many(path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    store = SQLiteStore(path, clock=lambda: now)
    windows = [timedelta(hours=1 if n % 10 else 9) for n in range(1000)]
    uses = [Use(key=n.to_bytes(16), id=bytes(9), limit=1, window=window) for n, window in enumerate(windows)]
    few_keys = [Use(key=bytes([255, n % 3] * 8), id=n.to_bytes(9), limit=999, window=windows[n]) for n in range(900)]
    await store.save(make_record(), add=uses + few_keys)
    now += timedelta(hours=1)
    assert await store.purge("default", now, 1) == 0
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM uses").fetchall() == [(190,)]
    await store.aclose()


async def test_adding_to_a_budget_clears_it_of_expired_uses(path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    store = SQLiteStore(path, clock=lambda: now)
    for _ in range(5):
        await store.save(make_record(), add=[use()])
        now += timedelta(hours=1)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM uses").fetchall() == [(1,)]
    await store.aclose()


async def test_a_use_that_was_dropped_is_gone(store: SQLiteStore, other: sqlite3.Connection) -> None:
    dropped, record = use(), make_record()
    await store.save(record, add=[dropped])
    await store.save(next_version(record), drop=[UseName(dropped.key, dropped.id)])
    assert other.execute("SELECT count(*) FROM uses").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("stored", "sqlite_autoindex_flows_1"),
        ("load", "sqlite_autoindex_flows_1"),
        ("update_next", "sqlite_autoindex_flows_1"),
        ("scan_ids", "sqlite_autoindex_flows_1"),
        ("scan_due", "flows_due"),
        ("scan_lookup", "PRIMARY KEY (lookup=? AND flow<?)"),
        ("ended", "flows_ended"),
        ("uses", "PRIMARY KEY (key=?)"),
        ("delete_use", "PRIMARY KEY (key=? AND id=?)"),
        ("delete_expired", "PRIMARY KEY (key=?)"),
        ("end_of_piece", "PRIMARY KEY (key>?)"),
        ("delete_expired_of_piece", "PRIMARY KEY (key>? AND key<?)"),
    ],
)
async def test_every_statement_goes_by_an_index_and_sorts_nothing(
    store: SQLiteStore, other: sqlite3.Connection, statement: str, index: str
) -> None:
    await store.save(make_record())
    names = "id realm version state due_at ended_at lease lookups write_id replaces body leased_until"
    others = "number due now size lookup before after last"
    values: Any = [None] * SQL[statement].count("?") or dict.fromkeys(f"{names} {others}".split())
    plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {SQL[statement]}", values)]
    assert any(index in step for step in plan)
    assert not any("SCAN" in step or "B-TREE" in step for step in plan)

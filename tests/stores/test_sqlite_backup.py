"""Copies of the file, there and back, while others write, and with every wrong file that people give."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import Keyring, MemoryStore, PostgresStore, RedisStore, ResetService
from reset_flow.admin import backup, restore
from reset_flow.domain.errors import ConfigurationError, LimitReached, ResetFlowError, StaleRecord, StoreUnavailable
from reset_flow.ports import Query, Use
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import ScriptedTransport, make_record, next_version, refused
from tests.patience import PATIENCE, takes_less_than

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVERYTHING = Query(realm="default")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "flows.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "monday.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, busy_timeout=timedelta(milliseconds=200))
    yield store
    await store.aclose()


async def ids(store: SQLiteStore) -> list[str]:
    return [record.id async for record in store.scan(EVERYTHING, limit=10_000)]


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def delete(path: Path) -> None:
    path.unlink()


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def spoil(copy: Path, kind: str, path: Path) -> None:
    """Put something at the place of a backup that is none."""
    if kind == "damaged":
        os.truncate(copy, copy.stat().st_size // 2)
        return
    if kind == "newer":
        with closing(sqlite3.connect(copy)) as db:
            db.execute("PRAGMA user_version = 99")
        return
    if kind in ("without a table", "with other pages"):
        with closing(sqlite3.connect(copy)) as db:
            db.executescript("DROP TABLE uses" if kind == "without a table" else "PRAGMA page_size = 8192; VACUUM")
        return
    copy.unlink()
    match kind:
        case "text":
            copy.write_text("no database at all" * 500)
        case "empty":
            copy.touch()
        case "of others":
            with closing(sqlite3.connect(copy)) as db:
                db.execute("CREATE TABLE t (a)")
        case "folder":
            copy.mkdir()
        case "itself":
            copy.symlink_to(path)


def use(name: bytes) -> Use:
    """Of one and the same budget."""
    return Use(key=b"k" * 16, id=name * 9, limit=1, window=timedelta(hours=1))


async def test_a_backup_is_one_file_of_its_owners_that_holds_everything(store: SQLiteStore, copy: Path) -> None:
    records = [make_record(realm=realm) for realm in ("default", "north")]
    await store.save(records[0], add=[use(b"a")])
    await store.save(records[1])
    await backup(store, copy)
    assert names(copy.parent) == [copy.name]
    assert mode(copy) == 0o600
    again = SQLiteStore(copy)
    for record in records:
        assert await again.load(record.id) == record
    await refused(again.save(make_record(), add=[use(b"b")]), LimitReached)
    await again.aclose()


async def test_a_backup_under_load_has_every_save_that_was_acknowledged_before_it(
    store: SQLiteStore, copy: Path
) -> None:
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def save() -> None:
        while True:
            record = make_record(body=bytes(3000))
            await store.save(record)
            acknowledged.append(record.id)
            if not len(acknowledged) % 100:
                enough.set()

    saving = [asyncio.create_task(save()) for _ in range(8)]
    for n in range(3):
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        enough.clear()
        before = set(acknowledged)
        await backup(store, copy.with_name(f"{n}.db"))
        again = SQLiteStore(copy.with_name(f"{n}.db"))
        assert before <= set(await ids(again))
        await again.aclose()
    for task in saving:
        task.cancel()
    ends = await asyncio.gather(*saving, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 8


async def test_a_restore_replaces_everything_for_every_process_at_once(
    store: SQLiteStore, path: Path, copy: Path
) -> None:
    record = make_record()
    await store.save(record)
    await backup(store, copy)
    await store.save(next_version(record))
    await store.save(make_record())
    other = SQLiteStore(path)
    assert len(await ids(other)) == 2
    await restore(store, copy)
    for each in (store, other):
        assert await ids(each) == [record.id]
        assert await each.load(record.id) == record
        await refused(each.save(next_version(record, version=3)), StaleRecord)
    await other.save(next_version(record))
    assert (await store.load(record.id)).version == 2
    await other.aclose()


async def test_a_restore_makes_a_database_that_is_lost(store: SQLiteStore, path: Path, copy: Path) -> None:
    record = make_record()
    await store.save(record)
    await backup(store, copy)
    await store.aclose()
    delete(path)
    again = SQLiteStore(path)
    await restore(again, copy)
    assert await again.load(record.id) == record
    assert mode(path) == 0o600
    await again.aclose()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "no backup of a store"),
        ("empty", "no backup of a store"),
        ("of others", "something else"),
        ("newer", "newer"),
        ("missing", "No such file"),
        ("folder", "can't be read"),
        ("damaged", "malformed"),
        ("itself", "the store itself"),
        ("without a table", "no backup of a store"),
        ("with other pages", "PRAGMA page_size = 4096"),
    ],
)
async def test_what_is_no_backup_is_refused_and_the_store_left_as_it_is(
    store: SQLiteStore, path: Path, copy: Path, kind: str, reason: str
) -> None:
    records = [make_record(body=bytes(3000)) for _ in range(50)]
    await asyncio.gather(*(store.save(record) for record in records))
    await backup(store, copy)
    spoil(copy, kind, path)
    error = await refused(restore(store, copy), ResetFlowError)
    assert isinstance(error, ConfigurationError | StoreUnavailable)
    assert str(copy) in str(error)
    assert reason in str(error)
    assert await ids(store) == sorted(record.id for record in records)


async def test_a_copy_that_breaks_off_names_both_files_and_changes_neither(
    store: SQLiteStore, path: Path, copy: Path
) -> None:
    records = [make_record(body=bytes(3000)) for _ in range(50)]
    await asyncio.gather(*(store.save(record) for record in records))
    await backup(store, copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(contents(copy)) // 2, hard))
    try:
        another = copy.with_name("another")
        error = await refused(backup(store, another), StoreUnavailable)
        assert f"{path} can't be copied to {another}" in str(error)
        error = await refused(restore(store, copy), StoreUnavailable)
        assert f"{copy} can't be copied to {path}" in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(copy.parent) == [copy.name]
    assert await ids(store) == sorted(record.id for record in records)
    await restore(store, copy)


async def test_a_backup_overwrites_nothing(store: SQLiteStore, path: Path, copy: Path) -> None:
    await store.save(make_record())
    await backup(store, copy)
    before = contents(copy)
    link(copy.with_name("link"), copy.with_name("nowhere"))
    for target in (copy, path, copy.parent, copy.with_name("link")):
        await refused(backup(store, target), ConfigurationError)
    assert contents(copy) == before
    error = await refused(backup(store, copy.with_name("no folder") / "x.db"), StoreUnavailable)
    assert "check the folder" in str(error)
    assert names(copy.parent) == ["link", copy.name]


def without_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")  # as of a memory stick


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
async def test_a_backup_replaces_nothing_that_was_made_while_it_was_copied(
    store: SQLiteStore, copy: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    record = make_record()
    await store.save(record)
    make_part = tempfile.mkstemp

    def make_both(*given: Any) -> tuple[int, str]:
        copy.write_text("another's")
        return make_part(*given)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tempfile, "mkstemp", make_both)
        error = await refused(backup(store, copy), ConfigurationError)
    assert "overwrites nothing" in str(error)
    assert contents(copy) == b"another's"
    assert names(copy.parent) == [copy.name]
    delete(copy)
    await backup(store, copy)
    assert (names(copy.parent), mode(copy)) == ([copy.name], 0o600)
    await restore(store, copy)
    assert await ids(store) == [record.id]


async def test_a_mistyped_store_is_not_made_for_its_backup(path: Path, copy: Path) -> None:
    store = SQLiteStore(path)
    await refused(backup(store, copy), ConfigurationError)
    await store.aclose()
    assert names(path.parent) == names(copy.parent) == []


async def test_a_restore_waits_no_longer_for_a_writer_than_told(store: SQLiteStore, path: Path, copy: Path) -> None:
    record = make_record()
    await store.save(record)
    await backup(store, copy)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await takes_less_than(4, lambda: refused(restore(store, copy), StoreUnavailable))  # by default, it waits five
        other.execute("ROLLBACK")
    await restore(store, copy)


@pytest.mark.parametrize("store", [MemoryStore(), PostgresStore("postgresql://h/d"), RedisStore("redis://h")])
async def test_what_servers_keep_is_backed_up_by_their_tools(store: MemoryStore, copy: Path) -> None:
    for work in (backup, restore):
        assert "docs/backup.md" in str(await refused(work(store, copy), ConfigurationError))
    assert names(copy.parent) == []


KILLED = """
import asyncio, os, signal, sys, threading
from reset_flow.admin import backup, restore
from reset_flow.stores.sqlite import backup as copies
from reset_flow.stores.sqlite.store import SQLiteStore
work, path, copy, moment = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(copies, moment, die) if moment.startswith("_") else None
if moment == "copying":
    import sqlite3
    class Dying(sqlite3.Connection):
        def backup(self, target, **rest):
            super().backup(target, pages=5, progress=die)
    connect = sqlite3.connect
    sqlite3.connect = lambda *given, **named: connect(*given, **named, factory=Dying)
asyncio.run({"backup": backup, "restore": restore}[work](SQLiteStore(path), copy))
"""


@pytest.mark.parametrize("moment", ["_copy", "copying", "_check_sound", "_sync"])
async def test_a_backup_that_was_killed_leaves_nothing_that_passes_for_one(
    store: SQLiteStore, path: Path, copy: Path, moment: str
) -> None:
    records = [make_record(body=bytes(3000)) for _ in range(50)]
    await asyncio.gather(*(store.save(record) for record in records))
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, "backup", str(path), str(copy), moment], check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert bool(contents(copy)) == (moment == "_sync")
    assert await ids(store) == sorted(record.id for record in records)
    if not contents(copy):
        await backup(store, copy)
    await restore(store, copy)
    assert await ids(store) == sorted(record.id for record in records)


@pytest.mark.parametrize("moment", ["_check_sound", "_copy", "copying"])
async def test_a_restore_that_was_killed_has_changed_nothing(
    store: SQLiteStore, path: Path, copy: Path, moment: str
) -> None:
    records = [make_record(body=bytes(3000)) for _ in range(50)]
    await asyncio.gather(*(store.save(record) for record in records[:25]))
    await backup(store, copy)
    await asyncio.gather(*(store.save(record) for record in records[25:]))
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, "restore", str(path), str(copy), moment], check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert await ids(store) == sorted(record.id for record in records)
    await store.save(make_record())


async def test_a_restored_flow_goes_on_from_where_it_stood(store: SQLiteStore, path: Path, copy: Path) -> None:
    keyring = Keyring.load_or_create(path.with_name("keys"))
    async with ResetService(ScriptedTransport(), store, keyring, sweep=False) as service:
        flow = await service.start("robert.zak")
        await backup(store, copy)
        later = await service.answer(flow.id, "Peterson")
        await restore(store, copy)
        again = await service.get(flow.id)
        assert (again.state, again.version) == (flow.state, flow.version)
        assert (
            await service.answer(flow.id, "Peterson")
        ).state == later.state  # and sends another e-mail: docs/backup.md


@pytest.mark.parametrize("given", [None, "a\0b"], ids=["no text", "a null character"])
async def test_a_path_that_can_be_none_is_refused(store: SQLiteStore, given: Any) -> None:
    record = make_record()
    await store.save(record)
    for copy in (store.backup, store.restore):
        with pytest.raises(ConfigurationError, match="a backup"):
            await copy(given)
    assert await store.load(record.id) == record

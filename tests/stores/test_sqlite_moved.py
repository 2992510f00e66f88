"""The file under a running store: deleted, moved, replaced, linked, cut off, copied. Nobody is told of a lost save."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import Keyring, ResetService
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, StoreUnavailable
from reset_flow.stores.sqlite import open_file
from reset_flow.stores.sqlite.open_file import LOOK
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import ScriptedTransport, make_record, next_version, refused
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

SUFFIXES = ("", "-wal", "-shm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "flows.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    await store.aclose()


def files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SUFFIXES]


def in_another_process(script: str, *arguments: object) -> str:
    """Run a script, which has `store` and a list of `arguments`, and return what it printed."""
    lines = "\n    ".join(script.strip().splitlines())
    whole = f"""
import asyncio, json, sys
from reset_flow.ports import Query
from reset_flow.domain.errors import ResetFlowError
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record
async def main(path, *arguments):
    store = SQLiteStore(path)
    {lines}
    await store.aclose()
asyncio.run(main(*sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", whole, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def found_by_another_process(path: Path) -> set[str]:
    script = "print(json.dumps([each.id async for each in store.scan(Query(realm='default'), limit=10**6)]))"
    return set(json.loads(in_another_process(script, path)))


def save_in_another_process(path: Path, flow_id: str) -> None:
    in_another_process("await store.save(make_record(id=arguments[0]))", path, flow_id)


def contents(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_unavailable(call: Callable[[], Coroutine[Any, Any, Any]]) -> StoreUnavailable:
    """Repeat a call until it is refused: what costs more than a look at two names is looked at once a second."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await call()
            except StoreUnavailable as error:
                return error
            await asyncio.sleep(0.02)


# What happens to the ground


def delete(path: Path) -> None:
    for each in files(path):
        each.unlink()


def delete_all_but_the_log(path: Path) -> None:
    path.unlink()


def rename_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))


def move_the_file(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def replace_by_a_copy(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        db.backup(copy)
    path.with_name("copy").rename(path)
    for log in files(path)[1:]:
        log.unlink()


def replace_by_a_copy_and_leave_the_log(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def overwrite_by_a_copy(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        db.backup(copy)
    shutil.copyfile(path.with_name("copy"), path)
    for log in files(path)[1:]:
        log.unlink()


def overwrite(path: Path, data: bytes) -> None:
    """As `dd conv=notrunc` and `rsync --inplace` do. Again, until the clock of the file system has gone on."""
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        with path.open("r+b") as file:
            file.write(data)


def overwrite_in_place(path: Path) -> None:
    overwrite(path, contents(path))


def replace_the_folder(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.with_name("new"))
    rename_the_folder(path)
    path.parent.with_name("new").rename(path.parent)


def move_elsewhere_behind_a_link(path: Path) -> None:
    elsewhere = path.parent.with_name("elsewhere")
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


def link_to_another_file(path: Path) -> None:
    save_in_another_process(path.with_name("other.db"), "another one")
    path.unlink()
    path.symlink_to(path.with_name("other.db"))


def delete_the_log(path: Path) -> None:
    files(path)[1].unlink()


def replace_the_log(path: Path) -> None:
    log = files(path)[1]
    shutil.copy(log, log.with_name("copy"))
    log.with_name("copy").rename(log)


def link_to_a_log_elsewhere(path: Path) -> None:
    log = files(path)[1]
    log.rename(log.with_name("moved"))
    log.symlink_to(log.with_name("moved"))


def delete_the_index_of_the_log(path: Path) -> None:
    files(path)[2].unlink()


def link_hard(path: Path) -> None:
    path.with_name("second name").hardlink_to(path)


def cut_off(path: Path) -> None:
    os.truncate(path, 0)


def cut_off_the_log(path: Path) -> None:
    os.truncate(files(path)[1], 0)


MOVES = [
    delete, delete_all_but_the_log, rename_the_folder, move_the_file, replace_by_a_copy, overwrite_by_a_copy,
    replace_by_a_copy_and_leave_the_log, replace_the_folder, move_elsewhere_behind_a_link, link_to_another_file,
    delete_the_log, replace_the_log, link_to_a_log_elsewhere, link_hard, cut_off, cut_off_the_log, overwrite_in_place,
]  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
async def test_the_first_save_after_the_ground_moved_is_refused(
    store: SQLiteStore, path: Path, move: Callable[[Path], None]
) -> None:
    await store.save(make_record())
    await store.aclose()  # all is in the file
    store = SQLiteStore(path)
    await store.save(make_record())
    move(path)
    results = await asyncio.gather(*(store.save(make_record()) for _ in range(20)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 20
    for result in results:
        assert str(path) in str(result)
        assert any(word in str(result) for word in ("put the database back", "next call", "remove", "restore", "leave"))
    await store.aclose()


@pytest.mark.parametrize("move", [*MOVES, delete_the_index_of_the_log])
async def test_reads_notice_within_seconds(store: SQLiteStore, path: Path, move: Callable[[Path], None]) -> None:
    record = make_record()
    await store.save(record)
    await store.aclose()
    store = SQLiteStore(path)
    await store.save(next_version(record))
    move(path)
    await until_unavailable(lambda: store.load(record.id))
    await store.aclose()


async def test_a_commit_costs_one_look_at_the_file_and_one_at_its_log(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(make_record())
    looks = Counter[str]()
    for name in ("stat", "lstat"):
        real = getattr(os, name)

        def look(target: Any, *rest: Any, real: Any = real, **named: Any) -> Any:
            looks[str(target)] += 1
            return real(target, *rest, **named)

        monkeypatch.setattr(os, name, look)
    began = time.monotonic()
    for _ in range(100):
        await asyncio.gather(*(store.save(make_record()) for _ in range(5)))
    thorough = (time.monotonic() - began) // LOOK + 1  # which follow the path once more
    for each in files(path)[:2]:
        assert 100 <= looks[str(each)] <= 100 + thorough
    assert looks[str(files(path)[2])] <= thorough


async def test_looking_at_the_file_lets_no_read_wait_for_a_writer(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout=timedelta(minutes=5))
    record = make_record()
    await store.save(record)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        saving = asyncio.create_task(store.save(make_record()))
        await asyncio.sleep(LOOK)  # it has waited since
        assert await store.load(record.id) == record
        assert not saving.done()
        other.execute("ROLLBACK")
        await saving
    await store.aclose()


async def test_a_deleted_index_of_the_log_is_noticed_by_saves_within_seconds(store: SQLiteStore, path: Path) -> None:
    await store.save(make_record())
    delete_the_index_of_the_log(path)
    error = await until_unavailable(lambda: store.save(make_record()))
    assert "-shm" in str(error)


@pytest.mark.parametrize(
    ("move", "mend"),
    [
        (rename_the_folder, lambda path: path.parent.with_name("old").rename(path.parent)),
        (move_the_file, lambda path: path.with_name("old.db").rename(path)),
        (link_hard, lambda path: path.with_name("second name").unlink()),
    ],
    ids=["folder", "file", "link"],
)
async def test_once_the_ground_is_mended_the_store_goes_on_with_all_that_it_had(
    store: SQLiteStore, path: Path, move: Callable[[Path], None], mend: Callable[[Path], None]
) -> None:
    records = [make_record() for _ in range(20)]
    await asyncio.gather(*(store.save(record) for record in records))
    move(path)
    for _ in range(3):
        await refused(store.save(next_version(records[0])), StoreUnavailable)
    mend(path)
    later = make_record()
    await store.save(later)
    assert found_by_another_process(path) == {record.id for record in (*records, later)}


@pytest.mark.parametrize("move", [delete, rename_the_folder, move_the_file, cut_off, delete_all_but_the_log])
async def test_a_store_that_lost_its_database_begins_no_empty_one(
    store: SQLiteStore, path: Path, move: Callable[[Path], None]
) -> None:
    record = make_record()
    await store.save(record)
    move(path)
    for _ in range(3):
        await refused(store.save(make_record()), StoreUnavailable)
        await refused(store.load(record.id), StoreUnavailable)
    assert contents(path) == b""


@pytest.mark.parametrize("move", [delete, rename_the_folder])
async def test_what_another_process_began_at_the_place_is_shared_with_it(
    store: SQLiteStore, path: Path, move: Callable[[Path], None]
) -> None:
    await store.save(make_record(id="lost"))
    move(path)
    path.parent.mkdir(exist_ok=True)
    save_in_another_process(path, "theirs")
    await refused(store.save(make_record()), StoreUnavailable)
    await store.save(make_record(id="ours"))
    await refused(store.load("lost"), FlowNotFound)
    assert found_by_another_process(path) == {"theirs", "ours"}


async def test_a_database_beside_the_log_of_another_one_is_not_touched(store: SQLiteStore, path: Path) -> None:
    await store.save(make_record())
    replace_by_a_copy_and_leave_the_log(path)
    before = contents(path)
    await refused(store.save(make_record()), StoreUnavailable)
    for _ in range(3):
        assert "delete the files -wal" in str(await refused(store.save(make_record()), StoreUnavailable))
    await store.aclose()
    assert contents(path) == before


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere nobody knows who came to the file meanwhile"
)
@pytest.mark.parametrize("deleted", [1, 2], ids=["log", "log and index"])
@pytest.mark.parametrize("stores", [1, 2])
async def test_a_log_that_was_deleted_alone_is_written_back(path: Path, deleted: int, stores: int) -> None:
    opened = [SQLiteStore(path) for _ in range(stores)]
    for n in range(20):
        await opened[n % stores].save(make_record(id=f"flow {n}"))
    for log in files(path)[1 : 1 + deleted]:
        log.unlink()
    await refused(opened[0].save(make_record(id="flow 20")), StoreUnavailable)
    await opened[0].save(make_record(id="flow 21"))
    assert {f"flow {n}" for n in range(20)} | {"flow 21"} <= found_by_another_process(path)
    for store in opened:
        await store.aclose()
    assert {f"flow {n}" for n in range(20)} | {"flow 21"} <= found_by_another_process(path)


async def test_a_backup_that_was_copied_over_the_file_is_not_spoilt_by_the_log_of_before(
    store: SQLiteStore, path: Path
) -> None:
    await store.save(make_record(id="in the backup"))
    save_in_another_process(path.with_name("backup"), "theirs")
    for n in range(20):
        await store.save(make_record(id=f"since {n}"))
    shutil.copyfile(path.with_name("backup"), path)
    for log in files(path)[1:]:
        log.unlink()
    await refused(store.save(make_record()), StoreUnavailable)
    await store.save(make_record(id="later"))
    await store.aclose()
    assert found_by_another_process(path) == {"theirs", "later"}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_backup_that_was_written_into_the_file_is_used_once_the_log_of_before_is_gone(
    store: SQLiteStore, path: Path
) -> None:
    copy = path.with_name("copy")
    await store.save(make_record(id="in the copy"))
    await store.backup(copy)
    for n in range(20):
        await store.save(make_record(id=f"since {n}", body=bytes(3000)))
    await store.aclose()  # all is in the file
    store = SQLiteStore(path)
    await store.save(make_record(id="lost"))
    backup = contents(copy) + bytes(len(contents(path)) - len(contents(copy)))
    overwrite(path, backup)
    for _ in range(3):
        error = await refused(store.save(make_record()), StoreUnavailable)
        assert "delete the files -wal" in str(error)
    assert contents(path) == backup
    for log in files(path)[1:]:
        log.unlink()
    await store.save(make_record(id="later"))
    await store.aclose()
    assert found_by_another_process(path) == {"in the copy", "later"}


async def test_a_backup_that_was_copied_beside_the_log_of_a_crash_is_not_spoilt_by_it(
    store: SQLiteStore, path: Path
) -> None:
    copy = path.with_name("copy")
    await store.save(make_record(id="in the backup"))
    await store.backup(copy)
    await store.aclose()
    saver = Saver(path)
    saver.save("since")
    saver.end(kill=True)
    shutil.copyfile(copy, path)
    again = SQLiteStore(path)
    for _ in range(2):
        error = await refused(again.save(make_record()), StoreUnavailable)
        assert "delete the files -wal" in str(error)
    assert contents(path) == contents(copy)
    for log in files(path)[1:]:
        log.unlink()
    await again.save(make_record(id="later"))
    await again.aclose()
    assert found_by_another_process(path) == {"in the backup", "later"}


async def test_a_file_that_is_overwritten_after_a_crash_is_noticed_as_well(path: Path) -> None:
    saver = Saver(path)
    saver.save("before")
    saver.end(kill=True)
    assert contents(files(path)[1])
    store = SQLiteStore(path)
    await store.save(make_record())
    overwrite_in_place(path)
    await refused(store.save(make_record()), StoreUnavailable)
    await store.aclose()


async def test_saves_go_on_while_others_write_the_log_back(store: SQLiteStore, path: Path) -> None:
    await store.save(make_record())
    with closing(sqlite3.connect(path)) as other:
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            for _ in range(3):
                await asyncio.gather(*(store.save(make_record()) for _ in range(5)))
                other.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
    await store.save(make_record())
    await store.aclose()
    assert len(found_by_another_process(path)) == 62


async def test_a_read_and_a_save_that_look_at_once_take_nothing_for_damage(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_file, "LOOK", 0)  # every read looks
    record = make_record()
    await store.save(record)
    stalled, released = threading.Event(), threading.Event()
    lstat = os.lstat

    def stalling(target: Any) -> os.stat_result:
        if threading.current_thread() is not threading.main_thread():
            stalled.set()
            assert released.wait(PATIENCE)
        return lstat(target)

    monkeypatch.setattr(os, "lstat", stalling)
    saving = asyncio.create_task(store.save(make_record()))
    assert await asyncio.to_thread(stalled.wait, PATIENCE)  # it has seen the file as it is before the checkpoint
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0][2]
    threading.Timer(0.3, released.set).start()
    assert await store.load(record.id) == record
    await saving
    await store.save(make_record())


@pytest.mark.timeout(300)
async def test_a_log_that_others_truncate_all_the_time_is_not_taken_for_one_that_was_cut_off(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the index of the log, and the look at its size."""
    await store.save(make_record())
    stat = os.stat

    def truncating(target: Any, **named: Any) -> os.stat_result:
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return stat(target, **named)

    monkeypatch.setattr(os, "stat", truncating)
    for _ in range(3):
        await store.save(make_record())
    assert not files(path)[1].stat().st_size


@pytest.mark.parametrize("linux", [True, False], ids=["as here", "as where nobody can look into a log that is in use"])
async def test_a_store_goes_on_without_a_log_that_was_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, linux: bool
) -> None:
    if not linux:
        monkeypatch.setattr(open_file, "SET_LOCK", None)
    store = SQLiteStore(path)
    record = make_record(id="in the file")
    await store.save(record)
    await store.aclose()
    store = SQLiteStore(path)
    await store.save(make_record(id="in the log"))
    cut_off_the_log(path)
    await until_unavailable(lambda: store.load("in the log"))
    await store.save(next_version(record))
    await store.save(make_record(id="later"))
    assert found_by_another_process(path) == {"in the file", "later"}
    await store.aclose()


async def test_a_log_that_is_not_at_its_place_is_not_written_back_over_the_work_of_others(
    store: SQLiteStore, path: Path
) -> None:
    await store.save(make_record(id="before"))
    await store.aclose()
    store = SQLiteStore(path)
    await store.save(make_record(id="lost"))
    for log in files(path)[1:]:
        log.unlink()
    for n in range(20):
        save_in_another_process(path, f"theirs {n}")
    await store.aclose()  # with nothing saved since
    theirs = {f"theirs {n}" for n in range(20)}
    assert found_by_another_process(path) == {"before"} | theirs
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_every_store_of_a_process_leaves_a_log_that_was_replaced(store: SQLiteStore, path: Path) -> None:
    second = SQLiteStore(path)
    await store.save(make_record(id="first"))
    await second.save(make_record(id="second"))
    for log in files(path)[1:]:
        log.unlink()
    save_in_another_process(path, "theirs")
    await refused(store.save(make_record()), StoreUnavailable)
    await store.save(make_record(id="later"))  # though the other store is idle
    await second.save(make_record(id="later still"))
    assert {"theirs", "later", "later still"} <= found_by_another_process(path)
    await second.aclose()


async def test_nothing_is_sent_for_a_flow_that_nobody_else_would_find(store: SQLiteStore, path: Path) -> None:
    transport = ScriptedTransport()
    async with ResetService(
        transport, store, Keyring.load_or_create(path.parent.with_name("keys")), sweep=False
    ) as service:
        flow = await service.start("robert.zak")
        sent = len(transport.calls)
        delete(path)
        for _ in range(3):
            await refused(service.answer(flow.id, "Peterson"), StoreUnavailable)
        assert len(transport.calls) == sent


# A second name


SAVER = """
import asyncio, json, sys
from reset_flow.domain.errors import StoreUnavailable
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record
async def save(store, name):
    try:
        await store.save(make_record(id=name))
    except StoreUnavailable:
        return None
    return name
async def main(path):
    store = SQLiteStore(path)
    for line in sys.stdin:
        names = await asyncio.gather(*(save(store, f"{line.strip()} {n}") for n in range(30)))
        print(json.dumps([name for name in names if name]), flush=True)
    await store.aclose()
asyncio.run(main(sys.argv[1]))
"""


class Saver:
    """A process that saves thirty flows each time that it is told to, and says which were acknowledged."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def save(self, name: str) -> set[str]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return set(json.loads(self._process.stdout.readline()))

    def end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("kill", [False, True], ids=["closed", "killed"])
def test_under_two_names_nothing_that_was_acknowledged_is_lost(path: Path, *, kill: bool) -> None:
    first = Saver(path)
    acknowledged = first.save("before")
    assert len(acknowledged) == 30
    link_hard(path)
    second = Saver(path.with_name("second name"))
    for n in range(5):
        acknowledged |= first.save(f"first {n}") | second.save(f"second {n}")
    assert len(acknowledged) == 30  # of nobody who sees two names
    first.end(kill=kill)
    second.end(kill=kill)
    path.with_name("second name").unlink()
    assert acknowledged <= found_by_another_process(path)


@pytest.mark.parametrize("kill", [False, True], ids=["closed", "killed"])
def test_what_is_acknowledged_after_a_move_is_found_at_the_path(path: Path, *, kill: bool) -> None:
    savers = [Saver(path), Saver(path)]
    before = savers[0].save("a") | savers[1].save("b")
    assert len(before) == 60
    rename_the_folder(path)
    path.parent.mkdir()
    save_in_another_process(path, "new")
    refused, acknowledged = set[str](), set[str]()
    for n, saver in enumerate(savers):
        refused |= saver.save(f"c {n}")
        acknowledged |= saver.save(f"d {n}")
    assert refused == set()
    assert len(acknowledged) == 60
    for saver in savers:
        saver.end(kill=kill)
    assert found_by_another_process(path) == acknowledged | {"new"}
    assert before <= found_by_another_process(path.parent.with_name("old") / path.name)


BEGIN = """
import asyncio, os, subprocess, sys
from reset_flow.domain.errors import ResetFlowError
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
async def said(call):
    try:
        await call
    except ResetFlowError as error:
        return f"{type(error).__name__} {error}"
    return "done"
async def main(path):
"""


def in_mounts_of_its_own(script: str, path: Path) -> list[str]:
    """Run the body of a coroutine as a process that may mount what it likes, and return the lines that it prints."""
    body = "\n    ".join(["", *script.strip().splitlines()])
    whole = f"{BEGIN}{body}\nasyncio.run(main(sys.argv[1]))\n"
    enter = ["/usr/bin/env", "unshare", "-rm"]
    if subprocess.run(
        [*enter, "mount", "-t", "tmpfs", "none", path.parent], capture_output=True, check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run([*enter, sys.executable, "-c", whole, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_file_that_is_mounted_alone_is_refused(path: Path) -> None:
    save_in_another_process(path, "here")
    script = """
mounted = path + " mounted"
open(mounted, "w").close()
mount("--bind", path, mounted)
store = SQLiteStore(mounted)
print(await said(store.save(make_record())))
await store.aclose()
print(os.path.exists(mounted + "-wal"))
"""
    refusal, log = in_mounts_of_its_own(script, path)
    assert refusal.startswith("StoreUnavailable")
    assert "mount its folder" in refusal
    assert log == "False"


def test_a_mount_that_turns_read_only_is_named_and_its_turning_back_noticed(path: Path) -> None:
    script = """
folder = os.path.dirname(path)
mount("-t", "tmpfs", "none", folder)
store, record = SQLiteStore(path), make_record()
await store.save(record)
await store.aclose()
mount("-o", "remount,ro", folder)
store = SQLiteStore(path)
print(await said(store.save(make_record())))
print(await said(SQLiteStore(folder + "/other.db").save(make_record())))
mount("-o", "remount,rw", folder)
print(await said(store.save(make_record())))
print(await said(store.load(record.id)))
await store.aclose()
"""
    first, second, *rest = in_mounts_of_its_own(script, path)
    for refusal in (first, second):
        assert refusal.startswith("StoreUnavailable")
        assert "can be written to" in refusal or "Read-only" in refusal
    assert rest == ["done", "done"]


def test_a_disk_that_is_full_is_named_and_its_room_used_later(path: Path) -> None:
    script = """
folder = os.path.dirname(path)
mount("-t", "tmpfs", "-o", "size=400k", "none", folder)
store, saved = SQLiteStore(path), []
while (answer := await said(store.save(record := make_record(body=os.urandom(9000))))) == "done":
    saved.append(record.id)
print(answer)
print(len(saved) > 5, [each for each in saved if await said(store.load(each)) != "done"])
mount("-o", "remount,size=4m", folder)
print(await said(store.save(record)))
await store.aclose()
again = SQLiteStore(path)
print([each for each in [*saved, record.id] if await said(again.load(each)) != "done"])
await again.aclose()
"""
    refusal, kept, *rest = in_mounts_of_its_own(script, path)
    assert refusal.startswith("StoreUnavailable")
    assert "make room" in refusal
    assert kept == "True []"
    assert rest == ["done", "[]"]


def test_a_folder_that_is_mounted_over_is_noticed(path: Path) -> None:
    script = """
store, record = SQLiteStore(path), make_record()
await store.save(record)
folder = os.path.dirname(path)
mount("-t", "tmpfs", "none", folder)
print(await said(store.save(make_record())))
subprocess.run(["umount", folder], check=True)
print(await said(store.load(record.id)))
await store.aclose()
"""
    refusal, later = in_mounts_of_its_own(script, path)
    assert "put the database back" in refusal
    assert later == "done"


# A path that leads through others


async def test_a_path_through_links_leads_to_one_database(store: SQLiteStore, path: Path) -> None:
    await store.save(make_record(id="plain"))
    file_link, folder_link = path.parent.with_name("link.db"), path.parent.with_name("folder")
    file_link.symlink_to(path)
    folder_link.symlink_to(path.parent)
    descriptor = os.open(path.parent, os.O_RDONLY)
    ways = [file_link, folder_link / path.name, Path(f"/proc/self/fd/{descriptor}") / path.name]
    for n, way in enumerate(ways):
        other = SQLiteStore(way)
        await other.save(make_record(id=f"by way {n}"))
        await store.save(make_record(id=f"beside way {n}"))
        await other.aclose()
    os.close(descriptor)
    assert len(found_by_another_process(path)) == 7
    assert not files(file_link)[1].exists()


async def test_a_link_that_is_led_to_another_database_is_noticed(path: Path) -> None:
    link = path.parent.with_name("link.db")
    save_in_another_process(path, "first")
    save_in_another_process(path.with_name("other.db"), "second")
    link.symlink_to(path)
    store = SQLiteStore(link)
    await store.load("first")
    link.unlink()
    link.symlink_to(path.with_name("other.db"))
    await refused(store.save(make_record()), StoreUnavailable)
    await store.load("second")
    await store.aclose()


async def test_a_descriptor_of_a_deleted_file_is_no_place_for_flows(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    delete_all_but_the_log(path)
    store = SQLiteStore(f"/proc/self/fd/{descriptor}")
    await refused(store.save(make_record()), StoreUnavailable)
    await store.aclose()
    os.close(descriptor)
    assert not any(path.parent.glob("*"))


async def test_a_relative_path_stays_where_it_was_when_the_store_was_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    store = SQLiteStore(path.name)
    monkeypatch.chdir(path.parent.parent)
    await store.save(make_record())
    monkeypatch.chdir("/")
    await store.save(make_record())
    await store.aclose()
    assert len(found_by_another_process(path)) == 2


@pytest.mark.parametrize("wrong", [None, 7, "a\0b", ["flows.db"]])
def test_what_is_no_path_is_refused_when_the_store_is_made(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="path"):
        SQLiteStore(wrong)


# Copies in the same process


@pytest.mark.parametrize("suffixes", [("",), SUFFIXES], ids=["database", "all files"])
async def test_a_copy_made_in_the_same_process_drops_no_lock(
    store: SQLiteStore, path: Path, suffixes: tuple[str, ...]
) -> None:
    log = files(path)[1]
    acknowledged = set()
    for n in range(5):
        await store.save(make_record(id=f"a {n}"))
        for suffix in suffixes:
            shutil.copy(f"{path}{suffix}", path.parent.with_name(f"copy{suffix}"))
        save_in_another_process(path, f"b {n}")  # which would delete the log, if nobody else seemed to be there
        assert log.exists()
        await store.save(make_record(id=f"c {n}"))
        acknowledged |= {f"{letter} {n}" for letter in "abc"}
    await store.aclose()
    assert not log.exists()
    assert found_by_another_process(path) == acknowledged


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere a dropped lock is noticed, and not prevented"
)
async def test_copies_of_all_files_under_load_let_no_two_write_at_once(path: Path) -> None:
    stores, acknowledged = [SQLiteStore(path) for _ in range(2)], set[str]()
    await stores[0].save(make_record(id="first"))
    savers = [Saver(path), Saver(path)]
    ended = asyncio.Event()

    def copy() -> int:
        copies = 0
        while not ended.is_set():
            for each in files(path):
                shutil.copy(each, path.parent.with_name("copy"))
                copies += 1
        return copies

    async def save(store: SQLiteStore, name: str) -> None:
        for n in range(40):
            names = [f"{name} {n} {each}" for each in range(8)]
            await asyncio.gather(*(store.save(make_record(id=each)) for each in names))
            acknowledged.update(names)

    def saved_by(saver: Saver, name: str) -> set[str]:
        return set[str]().union(*(saver.save(f"{name} {n}") for n in range(40)))

    copying = asyncio.create_task(asyncio.to_thread(copy))
    results = await asyncio.gather(
        *(asyncio.to_thread(saved_by, saver, name) for saver, name in zip(savers, "ab", strict=True)),
        *(save(store, name) for store, name in zip(stores, "cd", strict=True)),
    )
    ended.set()
    assert await copying
    for saver in savers:
        saver.end(kill=False)
    for store in stores:
        await store.aclose()
    acknowledged |= set[str]().union(*filter(None, results))
    assert len(acknowledged) == 2 * 40 * 30 + 2 * 40 * 8
    assert found_by_another_process(path) == acknowledged | {"first"}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is locked that a child inherits")
def test_a_child_holds_no_lock_of_a_parent_that_was_killed(path: Path) -> None:
    script = """
import asyncio, os, signal, sys, time
from datetime import UTC, datetime
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record
now = lambda: datetime.now(UTC)
store = SQLiteStore(sys.argv[1], clock=lambda: now())
asyncio.run(store.save(make_record(id="before")))
child = os.fork()
if not child:
    os.close(1)
    time.sleep(600)
print(child, flush=True)
now = lambda: os.kill(os.getpid(), signal.SIGKILL)  # asked in the midst of a transaction
asyncio.run(store.save(make_record()))
"""
    died = subprocess.run([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, check=False)
    try:
        assert died.returncode == -signal.SIGKILL
        save_in_another_process(path, "after")
        assert found_by_another_process(path) == {"before", "after"}
        assert not files(path)[1].exists()
    finally:
        if died.stdout:
            os.kill(int(died.stdout), signal.SIGKILL)


async def test_opening_and_closing_leaves_no_descriptor_behind(path: Path) -> None:
    before = descriptors()
    for _ in range(5):
        first, second = SQLiteStore(path), SQLiteStore(path)
        await first.save(make_record())
        await second.save(make_record())
        delete_the_log(path)
        await refused(first.save(make_record()), StoreUnavailable)
        await first.save(make_record())
        await first.aclose()
        await second.aclose()
    assert descriptors() == before


# Event loops in threads


def test_loops_of_several_threads_get_an_error_and_lose_nothing(path: Path) -> None:
    store = SQLiteStore(path)
    together = threading.Barrier(3)
    saved: list[str] = []
    refusals: list[Exception] = []

    async def work(name: str) -> None:
        for n in range(200):
            try:
                record = make_record(id=f"{name} {n}")
                await asyncio.gather(store.save(record), *(store.load(f"{name} 0") for _ in range(3 if n else 0)))
                saved.append(record.id)
            except (ConfigurationError, FlowNotFound) as error:
                refusals.append(error)

    def run(name: str) -> None:
        together.wait(PATIENCE)
        asyncio.run(work(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(store.aclose())
    assert len(saved) + len(refusals) == 600
    assert any(isinstance(error, ConfigurationError) and "event loop" in str(error) for error in refusals)
    assert set(saved) <= found_by_another_process(path)


def test_a_store_is_closed_by_the_loop_that_uses_it_when_another_one_says_so(path: Path) -> None:
    store = SQLiteStore(path)
    ready, closed = threading.Event(), threading.Event()

    async def work() -> None:
        await store.save(make_record())
        ready.set()
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        await refused(store.save(make_record()), StoreUnavailable)
        rest = asyncio.all_tasks() - {asyncio.current_task()}  # the closing, where it is not done yet
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert ready.wait(PATIENCE)
    asyncio.run(store.aclose())
    closed.set()
    thread.join()
    assert not files(path)[1].exists()

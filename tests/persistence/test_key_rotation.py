"""From an old key to a new one: the file, the flows, and the workers that go on meanwhile."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
import pytest

from reset_flow.config import open_store
from reset_flow.domain.errors import KeyringError, RecordUnreadable, StaleRecord, StoreUnavailable
from reset_flow.domain.flow import State
from reset_flow.domain.policy import Policy
from reset_flow.persistence import batches, key_rotation, keyring
from reset_flow.persistence.key_file import DELAY, Key
from reset_flow.persistence.key_rotation import ResealReport
from reset_flow.persistence.keyring import LOOK_INTERVAL, Keyring
from reset_flow.persistence.repository import FlowRepository
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from reset_flow.domain.flow import Flow
    from reset_flow.ports import Record, Store, Use, UseName

NOW = timedelta(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Keyring.generate().to_file(tmp_path / "keys")
    return tmp_path / "keys"


def ids(path: Path) -> list[str]:
    return [key.id for key in Keyring.from_file(path).keys]


# --- the file


def test_a_rotation_adds_a_key_that_writes_once_all_workers_have_read_it(path: Path) -> None:
    before = Keyring.from_file(path)
    began = datetime.now(UTC)
    key = key_rotation.rotate(path)
    after = Keyring.from_file(path)
    assert after.keys == (*before.keys, key)
    assert after.lookup_keys == before.lookup_keys
    assert after.writes == before.writes
    assert key.writes_from is not None
    assert DELAY <= key.writes_from - began < DELAY + timedelta(minutes=1)
    at_once = key_rotation.rotate(path, delay=NOW)
    assert Keyring.from_file(path).writes == at_once
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["keys"]


def test_of_many_rotations_at_once_no_key_is_lost(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from reset_flow.persistence.key_rotation import rotate; "
        "rotate(Path(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(3)]
    made: list[Key] = []
    threads = [threading.Thread(target=lambda: made.append(key_rotation.rotate(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(ids(path)) == 1 + 3 + 8
    assert {key.id for key in made} < set(ids(path))
    assert [each.name for each in path.parent.iterdir()] == ["keys"]


def test_a_symbolic_link_keeps_pointing_to_the_file(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    key_rotation.rotate(link)
    assert link.is_symlink()
    assert len(ids(path)) == len(ids(link)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
def test_the_file_keeps_its_owner(path: Path) -> None:
    os.chown(path, 4711, 4712)
    key_rotation.rotate(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


@pytest.mark.parametrize("harm", ["gone", "broken", "loose", "folder"])
def test_a_file_that_cannot_be_used_is_left_as_it_is(path: Path, harm: str) -> None:
    content = path.read_bytes()
    match harm:
        case "gone":
            path = path.with_name("none")
        case "broken":
            path.write_bytes(content[:-20])
        case "loose":
            path.chmod(0o644)
        case _:
            path = path.parent
    with pytest.raises(KeyringError):
        key_rotation.rotate(path)
    with pytest.raises(KeyringError):
        asyncio.run(key_rotation.remove(path, "00000000", MemoryStore(), ["default"]))
    if harm in ("broken", "loose"):
        assert path.read_bytes() == (content[:-20] if harm == "broken" else content)


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(KeyringError, match="No space left"):
        key_rotation.rotate(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["keys"]
    key_rotation.rotate(path)


# --- the flows


class Worker:
    """A service with its own ring, as another process would have it."""

    def __init__(self, store: Store, keys: Path, *, realm: str = "default") -> None:
        self.keyring = Keyring.from_file(keys)
        self.transport = ScriptedTransport()
        self.store = store
        self.realm = realm
        self.service = ResetService(self.transport, store, self.keyring, realm=realm, sweep=False)

    async def reseal(self, store: Store | None = None) -> ResealReport:
        return await key_rotation.reseal(store or self.store, self.keyring, self.realm)

    async def at(self, state: State, user: str = "robert.zak") -> Flow:
        flow = await self.service.start(user)
        for step in ("answer", "verify", "set_password"):
            if flow.state is state:
                break
            given = {"answer": "Peterson", "verify": "004158", "set_password": "violet tractor 5"}[step]
            flow = await getattr(self.service, step)(flow.id, given)
        if state is State.FAILED:
            flow = await self.service.cancel(flow.id)
        assert flow.state is state
        return flow


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def address(request: pytest.FixtureRequest, path: Path) -> str:
    if request.param in ("postgres", "redis"):
        return str(request.getfixturevalue(f"{request.param}_url"))
    return "memory:" if request.param == "memory" else f"sqlite:///{path.with_name('flows.db')}"


@pytest.fixture
async def worker(address: str, path: Path) -> AsyncIterator[Worker]:
    worker = Worker(open_store(address), path)
    yield worker
    await worker.service.aclose()


@pytest.fixture(autouse=True)
def _codes_are_counted_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reset_flow.engine.guess_alarm.INTERVAL", timedelta(hours=1))


STATES = (State.REQUESTED, State.QUESTION_ANSWERED, State.TOKEN_ISSUED, State.PASSWORD_SET)


async def test_every_flow_is_resealed_and_continues_from_its_state(worker: Worker, path: Path) -> None:
    flows = [await worker.at(state, f"user.{number}") for number, state in enumerate(STATES)]
    (old,) = ids(path)
    assert await key_rotation.sealed_with(worker.store, "default") == {old: 4}
    new = key_rotation.rotate(path, delay=NOW).id
    assert await worker.reseal() == ResealReport(resealed=4)
    assert await key_rotation.sealed_with(worker.store, "default") == {new: 4}
    for before in flows:
        after = await worker.service.get(before.id)
        assert after == attrs.evolve(before, version=before.version + 1)
    assert await worker.reseal() == ResealReport()
    await key_rotation.remove(path, old, worker.store, ["default"], settled=NOW)
    assert ids(path) == [new]
    assert worker.keyring.refresh()
    await worker.service.answer(flows[0].id, "Peterson")
    assert (await worker.service.set_password(flows[2].id, "violet tractor 5")).state is State.PASSWORD_SET


async def test_nothing_is_resealed_before_the_new_key_writes(worker: Worker, path: Path) -> None:
    await worker.at(State.REQUESTED)
    key_rotation.rotate(path)
    assert await worker.reseal() == ResealReport()
    assert len(worker.keyring.keys) == 2


async def test_a_realm_is_resealed_in_many_batches(worker: Worker, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    for number in range(10):
        await worker.at(State.REQUESTED, f"user.{number}")
    new = key_rotation.rotate(path, delay=NOW).id
    assert await worker.reseal() == ResealReport(resealed=10)
    assert await key_rotation.sealed_with(worker.store, "default") == {new: 10}


async def test_a_flow_with_a_call_under_way_is_left_to_the_next_pass(worker: Worker, path: Path) -> None:
    flow = await worker.at(State.REQUESTED)
    held = worker.transport.hold("request")
    answering = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    old = worker.keyring.writes.id
    key_rotation.rotate(path, delay=NOW)
    assert await worker.reseal() == ResealReport(waiting=1)
    with pytest.raises(KeyringError, match=f"key {old} seals 1 records of realm default: run `reset-flow keys reseal`"):
        await key_rotation.remove(path, old, worker.store, ["default"], settled=NOW)
    held.released.set()
    assert (await answering).state is State.QUESTION_ANSWERED
    assert await worker.reseal() == ResealReport()  # its own save has resealed it
    await key_rotation.remove(path, old, worker.store, ["default"], settled=NOW)


async def test_a_record_that_cannot_be_opened_is_counted_and_left(worker: Worker, path: Path) -> None:
    flow = await worker.at(State.REQUESTED)
    stranger = Key.generate()
    foreign = ResetService(
        ScriptedTransport(), worker.store, Keyring((stranger,), worker.keyring.lookup_keys, saved=True), sweep=False
    )
    lost = await foreign.start("maria")
    new = key_rotation.rotate(path, delay=NOW).id
    assert await worker.reseal() == ResealReport(resealed=1, unreadable=1)
    assert await key_rotation.sealed_with(worker.store, "default") == {new: 1, stranger.id: 1}
    assert (await foreign.get(lost.id)).version == lost.version
    assert (await worker.service.get(flow.id)).state is State.REQUESTED
    with pytest.raises(RecordUnreadable):
        await worker.service.get(lost.id)


async def test_another_realm_is_left_alone_and_protects_a_key_if_it_is_named(worker: Worker, path: Path) -> None:
    other = Worker(worker.store, path, realm="other")
    flow = await other.at(State.REQUESTED)
    old = worker.keyring.writes.id
    key_rotation.rotate(path, delay=NOW)
    assert await worker.reseal() == ResealReport()
    with pytest.raises(KeyringError, match="1 records of realm other"):
        await key_rotation.remove(path, old, worker.store, ["default", "other"], settled=NOW)
    assert await other.reseal() == ResealReport(resealed=1)
    await key_rotation.remove(path, old, worker.store, ["default", "other"], settled=NOW)
    other.keyring.refresh()
    assert (await other.service.get(flow.id)).state is State.REQUESTED


class Racing:
    """A store where another writer is faster a few times, or where saves fail."""

    durable = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before_save: list[Callable[[], Awaitable[None]]] = []
        self.load, self.scan, self.changed = store.load, store.scan, store.changed
        self.purge, self.aclose = store.purge, store.aclose

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        if self.before_save:
            await self.before_save.pop(0)()
        await self._store.save(record, add=add, drop=drop)


async def test_a_command_wins_the_race_against_resealing(
    worker: Worker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "LOOK_INTERVAL", 3600.0)  # a worker is behind for the whole test
    racing = Racing(worker.store)
    resealer = Worker(racing, path)
    behind = Worker(worker.store, path)
    flow = await behind.at(State.REQUESTED)
    new = key_rotation.rotate(path, delay=NOW).id

    async def save_with_the_old_key() -> None:
        repository = FlowRepository(behind.store, behind.keyring, behind.realm, Policy().lease)
        record = repository.record((await repository.load(flow.id)).flow)
        await behind.store.save(record)

    racing.before_save = [save_with_the_old_key, save_with_the_old_key]
    assert await resealer.reseal() == ResealReport(resealed=1)
    assert await key_rotation.sealed_with(worker.store, "default") == {new: 1}

    racing.before_save = []
    newer = key_rotation.rotate(path, delay=NOW).id

    async def answer() -> None:
        worker.keyring.refresh()
        await worker.service.answer(flow.id, "Peterson")

    racing.before_save = [answer]
    assert await resealer.reseal() == ResealReport()  # the command has resealed it
    assert await key_rotation.sealed_with(worker.store, "default") == {newer: 1}
    assert (await worker.service.get(flow.id)).state is State.QUESTION_ANSWERED


async def test_a_flow_that_is_saved_all_the_time_is_left_to_the_next_pass(worker: Worker, path: Path) -> None:
    racing = Racing(worker.store)
    resealer = Worker(racing, path)
    await worker.at(State.REQUESTED)
    key_rotation.rotate(path, delay=NOW)

    async def stale() -> None:
        raise StaleRecord("x", 1)

    racing.before_save = [stale] * 5
    assert await resealer.reseal() == ResealReport(waiting=1)
    assert await resealer.reseal() == ResealReport(resealed=1)


async def test_a_pass_that_breaks_off_is_continued_by_the_next(worker: Worker, path: Path) -> None:
    racing = Racing(worker.store)
    resealer = Worker(racing, path)
    for number in range(5):
        await worker.at(State.REQUESTED, f"user.{number}")
    key_rotation.rotate(path, delay=NOW)

    async def away() -> None:
        raise StoreUnavailable("it is away")

    racing.before_save = [away]
    with pytest.raises(StoreUnavailable):
        await resealer.reseal()
    done = (await resealer.reseal()).resealed
    assert 1 <= done <= 5
    assert (await resealer.reseal()) == ResealReport()


async def test_a_worker_that_does_not_sweep_never_seals_with_a_removed_key(path: Path) -> None:
    database = path.with_name("flows.db")
    worker, operator = Worker(SQLiteStore(database), path), Worker(SQLiteStore(database), path)
    before = await worker.at(State.TOKEN_ISSUED)
    (old,) = ids(path)
    new = key_rotation.rotate(path, delay=NOW).id
    assert await operator.reseal() == ResealReport(resealed=1)
    await key_rotation.remove(path, old, operator.store, ["default"], settled=NOW)
    await asyncio.sleep(LOOK_INTERVAL)
    after = await worker.at(State.TOKEN_ISSUED, "maria")
    assert await key_rotation.sealed_with(operator.store, "default") == {new: 2}
    reader = Worker(SQLiteStore(database), path)
    assert await reader.service.get(after.id) == after
    assert (await reader.service.get(before.id)).state is State.TOKEN_ISSUED
    for each in (worker, operator, reader):
        await each.service.aclose()


async def test_a_key_that_a_worker_may_still_write_with_is_not_removed(path: Path) -> None:
    (old,) = ids(path)
    store = MemoryStore()
    for key_id, words in ((old, "writes: rotate"), ("ffffffff", "is not in the ring")):
        with pytest.raises(KeyringError, match=words):
            await key_rotation.remove(path, key_id, store, ["default"], settled=NOW)
    pending = key_rotation.rotate(path)
    for key_id, words in ((old, "writes: rotate"), (pending.id, "is to write from")):
        with pytest.raises(KeyringError, match=words):
            await key_rotation.remove(path, key_id, store, ["default"], settled=NOW)
    new = key_rotation.rotate(path, delay=NOW)
    with pytest.raises(KeyringError, match=f"may still write with key {old} until"):
        await key_rotation.remove(path, old, store, ["default"])
    assert ids(path) == [old, pending.id, new.id]
    await key_rotation.remove(path, old, store, ["default"], settled=NOW)
    assert ids(path) == [pending.id, new.id]


# --- under load


@attrs.define
class Load:
    """People who go from one worker to the other in the middle of a reset."""

    workers: list[Worker]
    done: Counter[State] = attrs.field(factory=Counter)
    stopped: bool = False

    async def person(self, name: str) -> None:
        number = 0
        while not self.stopped:
            number += 1
            here, there = self.workers if number % 2 else reversed(self.workers)
            flow = await here.service.start(f"{name}.{number}")
            flow = await there.service.answer(flow.id, "Peterson")
            flow = await here.service.verify(flow.id, "004158")
            if number % 3:
                flow = await there.service.set_password(flow.id, "violet tractor 5")
            else:
                flow = await there.service.cancel(flow.id)
            self.done[flow.state] += 1

    async def sweeps(self, worker: Worker) -> None:
        while not self.stopped:
            await worker.service.sweep()
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self, people: int) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(people):
                tasks.create_task(self.person(f"user.{number}"))
            for worker in self.workers:
                tasks.create_task(self.sweeps(worker))
            yield
            self.stopped = True


def content_of(path: Path) -> str:
    return path.read_text()


async def rotate_and_remove(path: Path, worker: Worker) -> str:
    """Rotate as an operator does, with short delays. Return the id of the removed key."""
    moment = timedelta(seconds=0.3)
    old = worker.keyring.writes.id
    new = key_rotation.rotate(path, delay=moment)
    await asyncio.sleep(moment.total_seconds())
    while (await key_rotation.sealed_with(worker.store, "default"))[old]:
        await worker.reseal()
    assert worker.keyring.writes.id == new.id
    while True:
        try:
            await key_rotation.remove(path, old, worker.store, ["default"], settled=moment)
        except KeyringError as error:
            assert "may still write" in str(error) or "seals" in str(error)  # noqa: PT017 - not removable yet
            await worker.reseal()
            await asyncio.sleep(0.02)
        else:
            return old


async def test_rotation_under_load_fails_no_command_and_leaves_nothing_of_the_old_key(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.guess_alarm.INTERVAL", timedelta(milliseconds=50))
    monkeypatch.setattr(keyring, "LOOK_INTERVAL", 0.05)
    database = path.with_name("flows.db")
    load = Load([Worker(SQLiteStore(database), path) for _ in range(2)])
    operator = Worker(SQLiteStore(database), path)
    parked = [await operator.at(state, f"parked.{number}") for number, state in enumerate(STATES * 5)]
    async with load.running(people=6):
        gone = []
        for _ in range(3):
            done = load.done.total()
            gone.append(await rotate_and_remove(path, operator))
            while load.done.total() == done:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.02)
    assert load.done.keys() == {State.PASSWORD_SET, State.FAILED}
    (left,) = ids(path)
    assert left not in gone
    for before in parked:
        after = await operator.service.get(before.id)
        assert after == attrs.evolve(before, version=after.version)
        assert after.version > before.version
    for worker in [*load.workers, operator]:
        await worker.service.aclose()
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = [row for name in tables for row in connection.execute(f"SELECT * FROM {name}")]  # noqa: S608 - names from the database
        bodies = [body for (body,) in connection.execute("SELECT body FROM flows WHERE realm <> 'default\x1fkeys'")]
    assert len(bodies) == len(parked) + sum(load.done.values()) + 1  # and the record that counts codes
    assert {Keyring.key_of(body) for body in bodies} == {left}
    texts = [value for row in rows for value in row if isinstance(value, str)]
    for key_id in gone:
        assert not any(key_id in text for text in [*texts, content_of(path)])

"""A store knows the keys that its realms are used with: lost keys and keys of another ring are told before harm."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import reset_flow
from reset_flow import (
    Credential,
    FlowNotFound,
    InvalidInput,
    Keyring,
    KeyringError,
    MemoryStore,
    PostgresStore,
    Query,
    RedisStore,
    ResetService,
    SQLiteStore,
    StaleRecord,
    State,
    StoreUnavailable,
)
from reset_flow.admin import Admin, Key, rotate_keys
from reset_flow.persistence import key_record
from reset_flow.persistence.batches import RACES
from reset_flow.persistence.key_record import key_realm
from reset_flow.testing import ScriptedTransport, refused
from reset_flow.testing.records import next_version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from reset_flow import Flow, Record, Store, Use, UseName

MINUTE = timedelta(minutes=1)
SETTINGS = {"BROKER_URL": "http://127.0.0.1:9/api", "APP_KEY": "sandbox"}


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def unopened(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "sqlite":
            return SQLiteStore(tmp_path / "flows.db")
        case "postgres":
            return PostgresStore(request.getfixturevalue("postgres_url"))
        case "redis":
            return RedisStore(request.getfixturevalue("redis_url"))
        case _:
            return MemoryStore()


@pytest.fixture
async def store(unopened: Store) -> AsyncIterator[Store]:
    yield unopened
    await unopened.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Keyring.generate().to_file(tmp_path / "keys")
    return tmp_path / "keys"


def in_file(ring: Keyring) -> Keyring:
    """Let a ring pass for one that is in a file."""
    ring.saved = True
    return ring


def service_of(store: Store, keyring: Keyring, realm: str = "default") -> ResetService:
    return ResetService(ScriptedTransport(), store, keyring, realm=realm, sweep=False)


async def record_of(store: Store, realm: str = "default") -> Record:
    (record,) = [each async for each in store.scan(Query(realm=key_realm(realm)), limit=9)]
    return record


async def remembered(store: Store, realm: str = "default") -> dict[str, list[str]]:
    ids: dict[str, list[str]] = json.loads((await record_of(store, realm)).body)
    return ids


async def records(store: Store, *realms: str) -> list[Record]:
    found = [each for realm in realms async for each in store.scan(Query(realm=realm), limit=999)]
    return sorted(found, key=lambda record: record.id)


class Unsteady:
    """A store that is away, can't be written, or is written by others all the time."""

    durable = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scan, self.changed, self.purge = store.scan, store.changed, store.purge
        self.away = self.read_only = False
        self.races = 0

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        if self.away or self.read_only:
            raise StoreUnavailable("the store is away")
        if self.races:
            self.races -= 1
            raise StaleRecord(record.id, record.version)
        await self._store.save(record, add=add, drop=drop)

    async def load(self, flow_id: str) -> Record:
        if self.away:
            raise StoreUnavailable("the store is away")
        return await self._store.load(flow_id)

    async def aclose(self) -> None:
        pass


# --- a service with other keys


COMMANDS: dict[str, Callable[[ResetService, Flow], Awaitable[object]]] = {
    "start": lambda service, _: service.start("robert.zak", ref="ticket"),
    "adopt": lambda service, _: service.adopt("robert.zak", "token"),
    "answer": lambda service, flow: service.answer(flow.id, "Peterson"),
    "resend": lambda service, flow: service.resend(flow.id),
    "verify": lambda service, flow: service.verify(flow.id, "004158"),
    "set_password": lambda service, flow: service.set_password(flow.id, "violet tractor 5"),
    "set_pin": lambda service, flow: service.set_pin(flow.id, "2580"),
    "cancel": lambda service, flow: service.cancel(flow.id),
    "get": lambda service, flow: service.get(flow.id),
    "wait": lambda service, flow: service.wait(flow.id, 0),
    "find": lambda service, _: service.find("tag"),
    "sweep": lambda service, _: service.sweep(),
    "reseal": lambda service, _: service.reseal(),
    "side load": lambda service, _: service.side("links").load("a"),
    "side save": lambda service, _: service.side("links").save("a", b"1", revision=b"", lifetime=MINUTE),
}


@pytest.mark.filterwarnings("ignore:these keys are in no file")
async def test_keys_in_no_file_are_used_where_no_others_are_and_are_not_remembered(store: Store, path: Path) -> None:
    for _ in range(2):
        await service_of(store, Keyring.generate()).start("robert.zak")
    assert await records(store, key_realm("default")) == []
    await service_of(store, Keyring.from_file(path)).start("robert.zak")
    await refused(service_of(store, Keyring.generate()).start("robert.zak"), KeyringError)


async def test_a_service_that_shares_no_key_with_the_realm_does_nothing_there(store: Store, path: Path) -> None:
    ring = Keyring.from_file(path)
    flow = await service_of(store, ring).start("robert.zak", ref="ticket", tags=["tag"])
    before = await records(store, "default", key_realm("default"))
    for name, command in COMMANDS.items():
        transport = ScriptedTransport()
        foreign = ResetService(transport, store, in_file(Keyring.generate()), sweep=False)
        error = await refused(command(foreign, flow), KeyringError)
        for said in (ring.keys[0].id, ring.lookup_keys[0].id, "put their file back", "another realm", "empty store"):
            assert said in str(error), name
        assert [call for call in transport.calls if call.name != "challenge"] == [], name
    assert await records(store, "default", key_realm("default")) == before
    again = service_of(store, Keyring.from_file(path))
    assert (await again.start("robert.zak", ref="ticket")).id == flow.id


async def test_a_ring_that_shares_a_key_works(store: Store, path: Path) -> None:
    first = Keyring.from_file(path)
    flow = await service_of(store, first).start("robert.zak", ref="ticket", credential=Credential.PASSWORD)
    lookup, newer = first.lookup_keys[0], Key.generate()
    rings = [
        in_file(first.rotated(timedelta(0))),
        in_file(first.rotated(timedelta(0)).without(first.writes.id)),  # every sealing key is another
        in_file(Keyring(first.keys, (newer, lookup))),
        in_file(Keyring(first.keys, (lookup,))),
    ]
    for ring in rings:
        await service_of(store, ring).start("maria")
    assert (await service_of(store, rings[-1]).get(flow.id)).state is State.REQUESTED
    expected = {key.id for ring in (first, *rings) for key in ring.keys}
    ids = await remembered(store)
    assert ids == {"seal": sorted(expected), "lookup": sorted([newer.id, lookup.id])}


async def test_each_realm_has_keys_of_its_own(store: Store) -> None:
    one, two = in_file(Keyring.generate()), in_file(Keyring.generate())
    await service_of(store, one, "one").start("robert.zak", ref="ticket")
    await service_of(store, two, "two").start("robert.zak", ref="ticket")
    await refused(service_of(store, one, "two").start("robert.zak", ref="ticket"), KeyringError)
    assert (await remembered(store, "one"))["lookup"] == [one.lookup_keys[0].id]
    assert (await remembered(store, "two"))["lookup"] == [two.lookup_keys[0].id]


async def test_of_many_workers_at_once_those_with_the_keys_of_the_first_go_on(store: Store) -> None:
    rings = [in_file(Keyring.generate()) for _ in range(2)]
    services = [service_of(store, rings[number % 2]) for number in range(10)]
    tries = [service.start(f"user.{number}.{again}") for again in range(3) for number, service in enumerate(services)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    told = [isinstance(result, KeyringError) for result in results]
    assert all(isinstance(result, KeyringError | reset_flow.Flow) for result in results)
    (winner,) = {number % 2 for number, refused in enumerate(told) if not refused}
    assert told == [number % 2 != winner for number in range(len(tries))]
    assert (await remembered(store))["lookup"] == [rings[winner].lookup_keys[0].id]
    assert (await record_of(store)).version == 1
    assert len(await records(store, "default")) == 15


# --- what is remembered


async def test_rotations_and_removals_are_remembered(store: Store, path: Path) -> None:
    ring = Keyring.from_file(path)
    service, old = service_of(store, ring), ring.writes.id
    await service.start("robert.zak")
    lookup = [ring.lookup_keys[0].id]
    assert await remembered(store) == {"seal": [old], "lookup": lookup}
    new = rotate_keys(path, at_once=True).id
    assert ring.refresh()
    await service.start("maria")
    assert await remembered(store) == {"seal": sorted([old, new]), "lookup": lookup}
    admin = Admin(store, ring)
    await admin.reseal()
    await admin.remove_key(path, old, at_once=True)
    assert await remembered(store) == {"seal": [new], "lookup": lookup}
    assert ring.refresh()
    await service.start("joan")
    assert await remembered(store) == {"seal": [new], "lookup": lookup}


async def test_only_ids_of_keys_stand_in_the_store(store: Store, path: Path) -> None:
    ring = Keyring.from_file(path)
    await service_of(store, ring).start("robert.zak")
    record = await record_of(store)
    assert (record.due_at, record.ended_at, record.lease, record.lookups) == (None, None, None, ())
    assert not any(key.secret in record.body for key in (*ring.keys, *ring.lookup_keys))
    assert len(record.body) < 100


async def test_nothing_that_goes_through_a_realm_meets_the_record(store: Store, path: Path) -> None:
    ring = Keyring.from_file(path)
    service, admin = service_of(store, ring), Admin(store, ring)
    flow = await service.start("robert.zak")
    before = await record_of(store)
    await refused(service.get(before.id), FlowNotFound)
    await refused(admin.get(before.id), FlowNotFound)
    assert [each async for each in admin.flows()] == [flow]
    assert await admin.sealed_with() == {ring.writes.id: 1}
    rotate_keys(path, at_once=True)
    report = await admin.reseal()
    assert (report.resealed, report.waiting, report.unreadable) == (1, 0, 0)
    await service.cancel(flow.id)
    assert await admin.purge(timedelta(0)) == 1
    assert (await service.sweep()).unreadable == 0
    assert await records(store, "default") == []
    assert (await record_of(store)).id == before.id


async def test_a_record_that_somebody_changed_is_told_of_and_written_again(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = Keyring.from_file(path)
    flow = await service_of(store, ring).start("robert.zak")
    for body in (b"", b"\xff", b"[]", b'{"lookup": ["\xff"]}', b'{"seal": 3}', b'{"lookup": [7]}'):
        await store.save(next_version(await record_of(store), body=body))
        caplog.clear()
        again = service_of(store, Keyring.from_file(path))
        assert (await again.get(flow.id)).id == flow.id
        await again.start("maria")
        assert "does not know the keys of realm default any more" in caplog.text
        assert (await remembered(store))["lookup"] == [ring.lookup_keys[0].id]


# --- a store that is away


async def test_a_store_that_cannot_be_written_can_be_read(store: Store, path: Path) -> None:
    flow = await service_of(store, Keyring.from_file(path)).start("robert.zak")
    replica = Unsteady(store)
    replica.read_only = True
    rotate_keys(path, at_once=True)
    service = service_of(replica, Keyring.from_file(path))
    assert (await service.get(flow.id)).id == flow.id
    await refused(service.cancel(flow.id), StoreUnavailable)
    await refused(service_of(replica, Keyring.generate()).get(flow.id), KeyringError)


async def test_a_store_that_is_away_at_the_start_is_asked_once_it_is_back(store: Store, path: Path) -> None:
    await service_of(store, Keyring.from_file(path)).start("robert.zak", ref="ticket")
    unsteady = Unsteady(store)
    unsteady.away = True
    right, wrong = service_of(unsteady, Keyring.from_file(path)), service_of(unsteady, Keyring.generate())
    for service in (right, wrong):
        await refused(service.start("robert.zak", ref="ticket"), StoreUnavailable)
    unsteady.away = False
    await refused(wrong.start("robert.zak", ref="ticket"), KeyringError)
    assert (await right.start("robert.zak", ref="ticket")).state is State.REQUESTED
    assert len(await records(store, "default")) == 1


async def test_a_record_that_others_save_all_the_time_stops_nobody(path: Path) -> None:
    store = Unsteady(MemoryStore())
    service = service_of(store, Keyring.from_file(path))
    store.races = RACES
    flow = await service.start("robert.zak")
    await service.cancel(flow.id)
    assert len((await remembered(store))["seal"]) == 1


# --- before a key file is made


def taken_away(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def put_back(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/flows.db"
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_no_new_keys_are_made_for_a_store_whose_keys_are_lost(address: str, path: Path) -> None:
    settings = {**SETTINGS, "STORE": address, "KEYS": str(path)}
    store, ring = reset_flow.open_store(address), Keyring.from_file(path)
    flow = await service_of(store, ring).start("robert.zak", ref="ticket")
    content = taken_away(path)
    for _ in range(2):
        with pytest.raises(KeyringError, match=f"{path} does not exist, and realm default .*{ring.lookup_keys[0].id}"):
            reset_flow.from_env(settings, sweep=False)
    async with reset_flow.from_env({**settings, "REALM": "other"}, sweep=False) as other:
        assert await other.find("tag") == []
    assert taken_away(path) != content
    put_back(path, content)
    async with reset_flow.from_env(settings, sweep=False) as service:
        assert (await service.get(flow.id)).state is State.REQUESTED
    await store.aclose()


def test_keys_are_made_for_a_new_store_inside_an_event_loop_and_outside(tmp_path: Path) -> None:
    def make(name: str) -> ResetService:
        places = {"STORE": f"sqlite:///{tmp_path}/{name}.db", "KEYS": str(tmp_path / f"{name}.keys")}
        return reset_flow.from_env({**SETTINGS, **places}, sweep=False)

    async def use(service: ResetService) -> None:
        async with service:
            assert await service.find("tag") == []

    async def make_and_use() -> None:
        await use(make("inside"))

    asyncio.run(make_and_use())
    asyncio.run(use(make("outside")))
    assert sorted(each.name for each in tmp_path.glob("*.keys")) == ["inside.keys", "outside.keys"]


@pytest.mark.parametrize("address", ["postgresql://u:secret-word@127.0.0.1:9/x", "redis://:secret-word@127.0.0.1:9/0"])
def test_no_key_file_is_made_while_the_store_cannot_be_asked(tmp_path: Path, address: str) -> None:
    settings = {**SETTINGS, "STORE": address, "KEYS": str(tmp_path / "keys")}
    with pytest.raises(StoreUnavailable) as caught:
        reset_flow.from_env(settings)
    assert list(tmp_path.iterdir()) == []
    shown = reset_flow.testing.shown_by_error(caught.value, callers=[__file__])
    assert b"secret-word" not in shown
    Keyring.generate().to_file(tmp_path / "keys")
    reset_flow.from_env(settings)  # asks nobody


@pytest.mark.parametrize("realm", ["\udcff", "a\x1fkeys"], ids=["no UTF-8", "a control character"])
def test_nothing_is_made_for_a_realm_that_can_be_none(tmp_path: Path, realm: str) -> None:
    settings = {**SETTINGS, "STORE": f"sqlite:///{tmp_path}/flows.db", "KEYS": str(tmp_path / "keys"), "REALM": realm}
    with pytest.raises(InvalidInput, match="realm"):
        reset_flow.from_env(settings)
    assert list(tmp_path.iterdir()) == []


async def test_a_process_that_reads_and_saves_loads_the_record_of_keys_once(path: Path) -> None:
    class Counting(MemoryStore):
        loaded: list[str]

        async def load(self, flow_id: str) -> Record:
            self.loaded.append(flow_id)
            return await super().load(flow_id)

    store = Counting()
    store.loaded = []
    await service_of(store, Keyring.from_file(path)).start("robert.zak")
    known = (await record_of(store)).id
    for reads_first in (True, False):
        store.loaded = []
        service = service_of(store, Keyring.from_file(path))
        if reads_first:
            assert await service.find("tag") == []
        flow = await service.start("anna")
        assert (await service.get(flow.id)).state is State.REQUESTED
        assert store.loaded.count(known) == 1


def test_a_process_takes_the_keys_that_another_made_while_it_asked_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "STORE": f"sqlite:///{tmp_path}/flows.db", "KEYS": str(tmp_path / "keys")}
    ask = key_record.check_unused

    async def ask_late(store: Store, realm: str, path: Path) -> None:
        monkeypatch.undo()
        async with reset_flow.from_env(settings, sweep=False) as other:
            await other.side("links").save("a", b"theirs", revision=b"", lifetime=MINUTE)
        await ask(store, realm, path)

    async def look(service: ResetService) -> bytes | None:
        async with service:
            return (await service.side("links").load("a")).value

    monkeypatch.setattr(key_record, "check_unused", ask_late)
    assert asyncio.run(look(reset_flow.from_env(settings, sweep=False))) == b"theirs"


# --- for operators


async def test_an_admin_with_other_keys_can_purge_and_count_and_no_more(store: Store, path: Path) -> None:
    ring = Keyring.from_file(path)
    service = service_of(store, ring)
    flow = await service.cancel((await service.start("robert.zak", tags=["tag"])).id)
    stranger = Admin(store, Keyring.generate())
    for work in (stranger.get(flow.id), stranger.lift("robert.zak"), stranger.erase("robert.zak"), stranger.reseal()):
        await refused(work, KeyringError)
    for tag in (None, "tag"):
        with pytest.raises(KeyringError, match="put their file back"):
            [each async for each in stranger.flows(tag=tag)]
    assert await stranger.sealed_with() == {ring.writes.id: 1}
    assert await stranger.purge(timedelta(0)) == 1

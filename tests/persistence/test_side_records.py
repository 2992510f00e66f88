"""Sealed values beside the flows: a lifetime, compare-and-swap, and nothing that goes through flows meets them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from reset_flow import (
    FlowNotFound,
    InvalidInput,
    Keyring,
    MemoryStore,
    Query,
    RecordUnreadable,
    ResetService,
    SQLiteStore,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.persistence import key_rotation
from reset_flow.persistence.side_records import SideRecord, side_realm
from reset_flow.testing import FrozenClock, ScriptedTransport, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reset_flow import Store

MINUTE = timedelta(minutes=1)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FrozenClock) -> Store:
    return MemoryStore(clock=clock) if request.param == "memory" else SQLiteStore(tmp_path / "flows.db", clock=clock)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.load_or_create(tmp_path / "keys")


@pytest.fixture
async def service(store: Store, keyring: Keyring, clock: FrozenClock) -> AsyncIterator[ResetService]:
    service = ResetService(ScriptedTransport(), store, keyring, clock=clock, sweep=False)
    yield service
    await service.aclose()


async def test_a_value_is_loaded_as_it_was_saved(service: ResetService) -> None:
    side = service.side("links")
    assert await side.load("a") == SideRecord(None, 0)
    assert await side.save("a", b"value", version=0, lifetime=MINUTE) == SideRecord(b"value", 1)
    assert await side.load("a") == SideRecord(b"value", 1)
    assert await side.load("A") == SideRecord(None, 0), "names are exact"
    assert await service.side("chat").load("a") == SideRecord(None, 0), "kinds are apart"


async def test_of_two_writers_the_second_is_refused(service: ResetService) -> None:
    side = service.side("links")
    await side.save("a", b"first", version=0, lifetime=MINUTE)
    saves = [side.save("a", b"%d" % number, version=1, lifetime=MINUTE) for number in range(10)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(result) for result in results].count(StaleRecord) == 9
    assert (await side.load("a")).version == 2
    await refused(side.save("a", b"late", version=0, lifetime=MINUTE), StaleRecord)
    await refused(side.delete("a", version=1), StaleRecord)


async def test_a_value_is_gone_when_its_lifetime_is_over(service: ResetService, clock: FrozenClock) -> None:
    side = service.side("links")
    await side.save("a", b"value", version=0, lifetime=MINUTE)
    clock.advance(MINUTE)
    gone = await side.load("a")
    assert gone == SideRecord(None, 1)
    assert (await side.save("a", b"again", version=gone.version, lifetime=MINUTE)).version == 2
    await side.delete("a", version=2)
    clock.advance(-MINUTE)  # as the clock of another worker may be behind
    assert (await side.load("a")).value is None


async def test_a_purge_deletes_what_is_over_and_nothing_else(
    service: ResetService, store: Store, clock: FrozenClock
) -> None:
    side = service.side("links")
    await side.save("short", b"1", version=0, lifetime=MINUTE)
    await side.save("long", b"2", version=0, lifetime=60 * MINUTE)
    clock.advance(2 * MINUTE)
    await service.sweep()
    assert len([each async for each in store.scan(Query(realm=side_realm("default")), limit=9)]) == 1
    assert await side.load("short") == SideRecord(None, 0)
    assert await side.load("long") == SideRecord(b"2", 1)


async def test_nothing_that_goes_through_flows_meets_them(service: ResetService, store: Store) -> None:
    await service.side("links").save("a", b"a secret", version=0, lifetime=MINUTE)
    (record,) = [each async for each in store.scan(Query(realm=side_realm("default")), limit=9)]
    assert b"a secret" not in record.body
    assert [each async for each in store.scan(Query(realm="default"), limit=9)] == []
    assert isinstance(await refused(service.get(record.id), RecordUnreadable), RecordUnreadable)
    await refused(service.get("a"), FlowNotFound)
    with pytest.raises(InvalidInput):
        ResetService(ScriptedTransport(), MemoryStore(), Keyring.generate(), realm=side_realm("default"))


async def test_a_reseal_takes_the_old_key_from_them(
    service: ResetService, store: Store, keyring: Keyring, tmp_path: Path
) -> None:
    side, old = service.side("links"), keyring.writes.id
    await side.save("a", b"value", version=0, lifetime=MINUTE)
    new = key_rotation.rotate(tmp_path / "keys", delay=timedelta(0)).id
    assert await key_rotation.sealed_with(store, "default") == {old: 1}
    assert (await service.reseal()).resealed == 1
    assert await key_rotation.sealed_with(store, "default") == {new: 1}
    await key_rotation.remove(tmp_path / "keys", old, store, ["default"], settled=timedelta(0))
    assert (await side.load("a")).value == b"value"


async def test_a_value_that_cannot_be_read_is_none_and_may_be_replaced(service: ResetService, store: Store) -> None:
    await service.side("links").save("a", b"value", version=0, lifetime=MINUTE)
    (record,) = [each async for each in store.scan(Query(realm=side_realm("default")), limit=9)]
    other = type(record)(**{name: getattr(record, name) for name in record.__struct_fields__} | {
        "version": 2, "body": record.body[:-1] + b"?", "write_id": b"another."})  # fmt: skip
    await store.save(other)
    damaged = await service.side("links").load("a")
    assert damaged == SideRecord(None, 2)
    await service.side("links").save("a", b"new", version=damaged.version, lifetime=MINUTE)
    assert (await service.side("links").load("a")).value == b"new"


@pytest.mark.parametrize("lifetime", [timedelta(days=-1), timedelta.max])
async def test_what_can_be_no_value_is_refused(service: ResetService, lifetime: timedelta) -> None:
    side = service.side("links")
    await refused(side.save("a", b"v" * 70_000, version=0, lifetime=MINUTE), InvalidInput)
    await refused(side.save("a", b"v", version=0, lifetime=lifetime), InvalidInput)
    for odd in (None, "text", 7):
        await refused(side.save("a", cast("bytes", odd), version=0, lifetime=MINUTE), InvalidInput)
        await refused(side.save("a", b"v", version=0, lifetime=cast("timedelta", odd)), InvalidInput)
    for name in ("", "a\ud800", "n" * 1000):
        await refused(side.load(name), InvalidInput)
    with pytest.raises(InvalidInput):
        service.side("")


async def test_a_closed_store_says_so(service: ResetService) -> None:
    side = service.side("links")
    await service.aclose()
    await refused(side.load("a"), StoreUnavailable)
    await refused(side.save("a", b"v", version=0, lifetime=MINUTE), StoreUnavailable)

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
from reset_flow.testing.records import next_version

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
    assert await side.load("a") == SideRecord(None)
    saved = await side.save("a", b"value", revision=b"", lifetime=MINUTE)
    assert saved.value == b"value"
    assert await side.load("a") == saved
    assert await side.load("A") == SideRecord(None), "names are exact"
    assert await service.side("chat").load("a") == SideRecord(None), "kinds are apart"


async def test_of_two_writers_the_second_is_refused(service: ResetService) -> None:
    side = service.side("links")
    first = await side.save("a", b"first", revision=b"", lifetime=MINUTE)
    saves = [side.save("a", b"%d" % number, revision=first.revision, lifetime=MINUTE) for number in range(10)]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(result) for result in results].count(StaleRecord) == 9
    assert await side.load("a") in results
    await refused(side.save("a", b"late", revision=b"", lifetime=MINUTE), StaleRecord)
    await refused(side.delete("a", revision=first.revision), StaleRecord)


async def test_a_value_is_gone_when_its_lifetime_is_over(service: ResetService, clock: FrozenClock) -> None:
    side = service.side("links")
    saved = await side.save("a", b"value", revision=b"", lifetime=MINUTE)
    clock.advance(MINUTE)
    gone = await side.load("a")
    assert gone == SideRecord(None, saved.revision)
    again = await side.save("a", b"again", revision=gone.revision, lifetime=MINUTE)
    await side.delete("a", revision=again.revision)
    clock.advance(-MINUTE)  # as the clock of another worker may be behind
    assert (await side.load("a")).value is None


async def test_a_purge_deletes_what_is_over_and_nothing_else(
    service: ResetService, store: Store, clock: FrozenClock
) -> None:
    side = service.side("links")
    await side.save("short", b"1", revision=b"", lifetime=MINUTE)
    await side.save("long", b"2", revision=b"", lifetime=60 * MINUTE)
    clock.advance(2 * MINUTE)
    await service.sweep()
    assert len([each async for each in store.scan(Query(realm=side_realm("default")), limit=9)]) == 1
    assert await side.load("short") == SideRecord(None)
    assert (await side.load("long")).value == b"2"


async def test_what_was_loaded_before_a_purge_replaces_nothing_that_came_after(
    service: ResetService, clock: FrozenClock
) -> None:
    side = service.side("links")
    old = await side.save("a", b"old", revision=b"", lifetime=MINUTE)
    clock.advance(2 * MINUTE)
    await service.sweep()
    await side.save("a", b"new", revision=b"", lifetime=MINUTE)
    await refused(side.save("a", b"old again", revision=old.revision, lifetime=MINUTE), StaleRecord)
    assert (await side.load("a")).value == b"new"


async def test_nothing_that_goes_through_flows_meets_them(service: ResetService, store: Store) -> None:
    await service.side("links").save("a", b"a secret", revision=b"", lifetime=MINUTE)
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
    await side.save("a", b"value", revision=b"", lifetime=MINUTE)
    new = key_rotation.rotate(tmp_path / "keys", delay=timedelta(0)).id
    assert await key_rotation.sealed_with(store, "default") == {old: 1}
    assert (await service.reseal()).resealed == 1
    assert await key_rotation.sealed_with(store, "default") == {new: 1}
    await key_rotation.remove(tmp_path / "keys", old, store, ["default"], settled=timedelta(0))
    assert (await side.load("a")).value == b"value"


async def test_a_value_that_cannot_be_read_is_none_and_may_be_replaced(service: ResetService, store: Store) -> None:
    await service.side("links").save("a", b"value", revision=b"", lifetime=MINUTE)
    (record,) = [each async for each in store.scan(Query(realm=side_realm("default")), limit=9)]
    await store.save(next_version(record, body=record.body[:-1] + b"?"))
    damaged = await service.side("links").load("a")
    assert damaged.value is None
    await service.side("links").save("a", b"new", revision=damaged.revision, lifetime=MINUTE)
    assert (await service.side("links").load("a")).value == b"new"


@pytest.mark.parametrize("lifetime", [timedelta(days=-1), timedelta.max])
async def test_what_can_be_no_value_is_refused(service: ResetService, lifetime: timedelta) -> None:
    side = service.side("links")
    await refused(side.save("a", b"v" * 70_000, revision=b"", lifetime=MINUTE), InvalidInput)
    await refused(side.save("a", b"v", revision=b"", lifetime=lifetime), InvalidInput)
    for odd in (None, "text", 7):
        await refused(side.save("a", cast("bytes", odd), revision=b"", lifetime=MINUTE), InvalidInput)
        await refused(side.save("a", b"v", revision=b"", lifetime=cast("timedelta", odd)), InvalidInput)
    for revision in (None, 0, "text", b"\xff" * 16):
        await refused(side.save("a", b"v", revision=cast("bytes", revision), lifetime=MINUTE), InvalidInput)
    for name in ("", "a\ud800", "n" * 1000):
        await refused(side.load(name), InvalidInput)
    with pytest.raises(InvalidInput):
        service.side("")


async def test_a_closed_store_says_so(service: ResetService) -> None:
    side = service.side("links")
    await service.aclose()
    await refused(side.load("a"), StoreUnavailable)
    await refused(side.save("a", b"v", revision=b"", lifetime=MINUTE), StoreUnavailable)

"""The contract of a store: for authors of stores."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, StaleRecord, StoreUnavailable
from reset_flow.domain.flow import State
from reset_flow.ports import Query
from reset_flow.testing.records import make_record, next_version
from reset_flow.testing.refusal import refused
from reset_flow.testing.uses_contract import UsesContract, name_of

if TYPE_CHECKING:
    from reset_flow.ports import Store

__all__ = ["StoreContract"]

NOTHING = timedelta(0)
PATIENCE = 60.0
"""Seconds after which something that must happen is taken for hung."""


class StoreContract(UsesContract):
    """
    Tests for a store of your own: one for each promise of the `Store` port.

    Needs pytest, and pytest-asyncio with `asyncio_mode = "auto"`. Subclass it, and provide an empty store that takes
    its time from `self.clock`::

        import pytest

        from my_package import MyStore
        from reset_flow.testing import StoreContract


        class TestMyStore(StoreContract):
            @pytest.fixture
            async def store(self):
                store = MyStore(clock=self.clock)
                yield store
                await store.aclose()

    If the clock of your store can't be set, override `elapse` to sleep, `unit` to keep the sleeps short, and
    `tolerance` to allow for the time that the tests take::

        class TestMyStore(StoreContract):
            unit = timedelta(seconds=2)
            tolerance = timedelta(milliseconds=500)

            async def elapse(self, time: timedelta) -> None:
                await asyncio.sleep(time.total_seconds())
    """

    async def test_a_store_says_whether_it_is_durable(self, store: Store) -> None:
        assert isinstance(store.durable, bool)

    # Saving and loading

    async def test_a_record_is_loaded_as_it_was_saved(self, store: Store) -> None:
        time = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        record = make_record(
            state=State.CODE_VERIFIED,
            due_at=time,
            ended_at=time + timedelta(microseconds=1),
            lookups=(b"b" * 16, b"a" * 16),
            body=bytes(range(256)),
        )
        await store.save(record)
        assert await store.load(record.id) == record
        bare = make_record(realm="Zażółć \x1f", body=b"")
        await store.save(bare)
        assert await store.load(bare.id) == bare
        assert (await store.load(bare.id)).lease_left is None

    async def test_a_body_may_be_long(self, store: Store) -> None:
        record = make_record(body=bytes(range(256)) * 256)
        await store.save(record)
        assert await store.load(record.id) == record
        record = next_version(record, body=record.body[::-1])
        await store.save(record)
        assert await store.load(record.id) == record

    async def test_a_record_that_is_not_there_is_not_found(self, store: Store) -> None:
        await store.save(make_record())
        for name in ("nobody", "a" * 64):
            assert (await refused(store.load(name), FlowNotFound)).flow_id == name
        await refused(store.changed("nobody", 0, self.unit), FlowNotFound)

    async def test_each_version_replaces_the_one_before(self, store: Store) -> None:
        record = make_record(due_at=self.clock(), lookups=(b"a" * 16,))
        await store.save(record)
        for state in State:
            record = next_version(record, state=state, due_at=None, ended_at=self.clock())
            await store.save(record)
            assert await store.load(record.id) == record

    async def test_of_two_writers_the_second_is_refused(self, store: Store) -> None:
        record = make_record()
        await store.save(record)
        first, second = next_version(record, state=State.FAILED), next_version(record, state=State.PASSWORD_SET)
        await store.save(first)
        error = await refused(store.save(second), StaleRecord)
        assert (error.flow_id, error.version) == (record.id, 2)
        assert await store.load(record.id) == first

    async def test_of_many_writers_at_once_one_wins(self, store: Store) -> None:
        record = make_record()
        await store.save(record)
        rivals = [next_version(record) for _ in range(20)]
        results = await asyncio.gather(*(store.save(rival) for rival in rivals), return_exceptions=True)
        winners = [rival for rival, result in zip(rivals, results, strict=True) if result is None]
        assert [type(result) for result in results].count(StaleRecord) == 19
        assert winners == [await store.load(record.id)]

    async def test_many_flows_are_saved_at_once(self, store: Store) -> None:
        records = [make_record() for _ in range(50)]
        await asyncio.gather(*(store.save(record) for record in records))
        assert await asyncio.gather(*(store.load(record.id) for record in records)) == records

    async def test_only_the_next_version_can_be_saved(self, store: Store) -> None:
        record = make_record()
        for version in (0, 2, -1):
            await refused(store.save(replace(record, version=version)), StaleRecord)
        await refused(store.load(record.id), FlowNotFound)
        await store.save(record)
        for version in (0, 1, 3):
            await refused(store.save(next_version(record, version=version)), StaleRecord)
        assert await store.load(record.id) == record
        await store.save(next_version(record))

    async def test_only_the_version_that_is_stored_can_be_replaced(self, store: Store) -> None:
        record = make_record()
        await refused(store.save(replace(record, replaces=b"another.")), StaleRecord)
        await store.save(record)
        assert (await store.load(record.id)).replaces == b""
        for replaced in (b"", b"another.", record.write_id[:-1], record.write_id + b"\0"):
            for add in ([], [self.use()]):
                await refused(store.save(next_version(record, replaces=replaced), add=add), StaleRecord)
        assert await store.load(record.id) == record
        later = next_version(record)
        await store.save(later)
        await store.save(next_version(later))

    async def test_a_flow_that_was_purged_is_not_gone_on_with_in_another_of_its_id(self, store: Store) -> None:
        old = make_record(ended_at=self.clock())
        await store.save(old)
        assert await store.purge("default", self.clock() + self.unit, 10) == 1
        new = make_record(id=old.id)
        await store.save(new)
        for add in ([], [self.use()]):
            await refused(store.save(next_version(old), add=add), StaleRecord)
        assert await store.load(old.id) == new
        await store.save(next_version(new), add=[self.use()])

    async def test_a_save_that_is_repeated_is_a_success_and_counts_once(self, store: Store) -> None:
        record, use = make_record(), self.use(limit=2)
        for _ in range(3):
            await store.save(record, add=[use])
        await store.save(make_record(), add=[self.use(limit=2)])
        await self.full(store, use)
        # Repeated when its budget is full and its version is the stored one.
        await store.save(record, add=[use])
        await store.save(record, add=[self.use(limit=2)])
        later = next_version(record)
        await store.save(later)
        await store.save(later, add=[self.use(limit=2)], drop=[name_of(use)])
        await self.full(store, use)
        await refused(store.save(record), StaleRecord)
        assert await store.load(record.id) == later

    # Leases

    async def test_a_lease_is_judged_by_the_stores_clock(self, store: Store) -> None:
        record = make_record(lease=self.unit)
        await store.save(record)
        loaded = await store.load(record.id)
        assert loaded == record
        assert self.near(loaded.lease_left, self.unit)
        await self.elapse(self.unit / 2)
        assert self.near((await store.load(record.id)).lease_left, self.unit / 2)
        await self.elapse(self.unit)
        left = (await store.load(record.id)).lease_left
        assert left is not None
        assert left <= NOTHING
        record = next_version(record)
        await store.save(record)
        assert self.near((await store.load(record.id)).lease_left, self.unit)
        await store.save(next_version(record, lease=None))
        assert (await store.load(record.id)).lease_left is None

    # Scans

    async def ids(self, store: Store, query: Query, limit: int = 1000) -> list[str]:
        """Return the ids that a scan finds."""
        return [record.id async for record in store.scan(query, limit=limit)]

    async def test_due_records_are_found_the_longest_due_first(self, store: Store) -> None:
        now, unit = self.clock(), self.unit
        await store.save(make_record(id="later", due_at=now - unit))
        await store.save(make_record(id="first", due_at=now - 2 * unit))
        await store.save(make_record(id="never"))
        await store.save(make_record(id="future", due_at=now + 100 * unit))
        await store.save(make_record(id="leased", due_at=now - 3 * unit, lease=unit))
        await store.save(make_record(id="lease", lease=unit / 2))
        await store.save(make_record(id="elsewhere", realm="other", due_at=now - unit))
        due = Query(realm="default", due=True)
        assert await self.ids(store, due) == ["first", "later"]
        assert await self.ids(store, due, limit=1) == ["first"]
        assert await self.ids(store, Query(realm="other", due=True)) == ["elsewhere"]
        await self.elapse(unit + self.tolerance)
        assert await self.ids(store, due) == ["first", "later", "lease", "leased"]

    async def test_flows_are_found_by_their_lookups_the_newest_first(self, store: Store) -> None:
        records = [make_record(lookups=(b"a" * 16, bytes([n % 2]) * 16)) for n in range(5)]
        for record in records:
            await store.save(record)
        await store.save(next_version(records[0], lease=self.unit))
        await store.save(make_record(realm="other", lookups=(b"a" * 16,)))
        names = [record.id for record in reversed(records)]
        assert await self.ids(store, Query(realm="default", lookup=b"a" * 16)) == names
        assert await self.ids(store, Query(realm="default", lookup=b"a" * 16), limit=2) == names[:2]
        assert await self.ids(store, Query(realm="default", lookup=b"\1" * 16)) == names[1::2]
        assert await self.ids(store, Query(realm="default", lookup=b"b" * 16)) == []
        (oldest,) = [each async for each in store.scan(Query(realm="default", lookup=b"a" * 16), limit=9)][-1:]
        assert (oldest.version, self.near(oldest.lease_left, self.unit)) == (2, True)

    async def test_a_realm_is_scanned_in_the_order_of_ids(self, store: Store) -> None:
        records = [make_record(realm=("default", "other")[n % 2]) for n in range(250)]
        await asyncio.gather(*(store.save(record) for record in records))
        names = sorted(record.id for record in records if record.realm == "default")
        assert await self.ids(store, Query(realm="default")) == names
        assert await self.ids(store, Query(realm="default"), limit=60) == names[:60]
        assert await self.ids(store, Query(realm="default", after=names[59])) == names[60:]
        assert await self.ids(store, Query(realm="default"), limit=0) == []
        assert await self.ids(store, Query(realm="nobody's")) == []

    async def test_others_may_save_while_a_scan_runs(self, store: Store) -> None:
        records = {record.id: record for record in (make_record() for _ in range(120))}
        await asyncio.gather(*(store.save(record) for record in records.values()))
        seen = []
        async for record in store.scan(Query(realm="default"), limit=1000):
            seen.append(record.id)
            await store.save(next_version(records[record.id]))
        assert seen == sorted(records)
        assert [record.version async for record in store.scan(Query(realm="default"), limit=1000)] == [2] * 120

    # Waiting

    async def test_a_change_wakes_the_tasks_that_wait_for_it(self, store: Store) -> None:
        record = make_record()
        await store.save(record)
        waiting = [asyncio.create_task(store.changed(record.id, 1, timedelta(hours=1))) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        await store.save(next_version(record))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiting)
            await store.changed(record.id, 1, timedelta(hours=1))

    async def test_waiting_ends_in_time_without_a_change(self, store: Store) -> None:
        record = make_record()
        await store.save(record)
        async with asyncio.timeout(PATIENCE):
            await store.changed(record.id, 1, timedelta(milliseconds=20))
            await store.changed(record.id, 1, NOTHING)
        assert (await store.load(record.id)).version == 1

    # Purging and closing

    async def test_records_that_ended_long_ago_are_purged(self, store: Store) -> None:
        now = self.clock()
        ends = {name: now - n * self.unit for n, name in enumerate(("new", "middle", "old", "oldest"))}
        for name, ended_at in ends.items():
            await store.save(make_record(id=name, ended_at=ended_at, lookups=(b"a" * 16,)))
        await store.save(make_record(id="running", lookups=(b"a" * 16,)))
        await store.save(make_record(id="elsewhere", realm="other", ended_at=ends["oldest"]))
        assert await store.purge("default", ends["middle"], 0) == 0
        assert await store.purge("default", ends["middle"], 1) == 1
        assert await store.purge("default", ends["middle"], 100) == 1
        assert await store.purge("default", ends["middle"], 100) == 0
        for name in ("old", "oldest"):
            await refused(store.load(name), FlowNotFound)
        left = await self.ids(store, Query(realm="default", lookup=b"a" * 16))
        assert left == ["running", "middle", "new"]
        assert (await store.load("elsewhere")).version == 1
        await refused(store.save(next_version(make_record(id="old"))), StaleRecord)
        await store.save(make_record(id="old"))

    async def test_a_purge_keeps_unexpired_uses(self, store: Store) -> None:
        record = make_record(ended_at=self.clock())
        await store.save(record, add=[self.use()])
        assert await store.purge("default", self.clock() + self.unit, 10) == 1
        await self.full(store, self.use())
        await self.elapse(self.unit + self.tolerance)
        assert await store.purge("default", self.clock(), 10) == 0
        await store.save(make_record(), add=[self.use()])

    async def test_a_closed_store_is_unavailable(self, store: Store) -> None:
        record = make_record()
        await store.save(record)
        waiting = asyncio.create_task(store.changed(record.id, 1, timedelta(hours=1)))
        await asyncio.sleep(0)
        await asyncio.gather(store.aclose(), store.aclose())
        await store.aclose()
        async with asyncio.timeout(PATIENCE):
            await refused(waiting, StoreUnavailable)
        await refused(store.load(record.id), StoreUnavailable)
        await refused(store.save(next_version(record)), StoreUnavailable)
        await refused(store.changed(record.id, 1, NOTHING), StoreUnavailable)
        await refused(store.purge("default", self.clock(), 1), StoreUnavailable)
        await refused(self.ids(store, Query(realm="default")), StoreUnavailable)

    async def test_a_save_that_was_cancelled_leaves_a_store_that_works(self, store: Store) -> None:
        records = [make_record() for _ in range(20)]
        saving = [asyncio.create_task(store.save(record)) for record in records]
        await asyncio.sleep(0)
        for task in saving[::2]:
            task.cancel()
        await asyncio.gather(*saving, return_exceptions=True)
        for record in records:
            await store.save(record)  # written or not, the write_id makes it one
            assert await store.load(record.id) == record

"""The part of the contract of a store that is about uses of budgets."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, LimitReached, StaleRecord
from reset_flow.ports import Use, UseName
from reset_flow.testing.clock import FrozenClock
from reset_flow.testing.records import make_record, next_version
from reset_flow.testing.refusal import refused

if TYPE_CHECKING:
    from reset_flow.ports import Store

__all__ = ["UsesContract"]

KEY, OTHER_KEY = b"k" * 16, b"o" * 16


def name_of(use: Use) -> UseName:
    """Return the name under which a use is dropped."""
    return UseName(use.key, use.id)


class UsesContract:
    """
    Tests of uses, and the time that a store under test goes by.

    Attributes:
        unit: The length of the leases and windows in these tests.

        tolerance: How far a time that the store measures may be off.
    """

    unit = timedelta(seconds=10)
    tolerance = timedelta(0)

    @cached_property
    def clock(self) -> FrozenClock:
        """Return the clock for the store; each test has its own."""
        return FrozenClock()

    async def elapse(self, time: timedelta) -> None:
        """Let time pass for the store."""
        self.clock.advance(time)

    def near(self, length: timedelta | None, expected: timedelta) -> bool:
        """Return True if a length of time is as expected, within the tolerance."""
        return length is not None and abs(length - expected) <= self.tolerance

    def use(self, key: bytes = KEY, limit: int = 1, window: timedelta | None = None) -> Use:
        """Return a use with an id of its own."""
        return Use(key=key, id=os.urandom(9), limit=limit, window=window or self.unit)

    async def full(self, store: Store, use: Use) -> LimitReached:
        """Return the error of a save that adds such a use."""
        return await refused(store.save(make_record(), add=[replace(use, id=os.urandom(9))]), LimitReached)

    async def test_a_budget_holds_as_many_uses_as_its_limit(self, store: Store) -> None:
        for _ in range(3):
            await store.save(make_record(), add=[self.use(limit=3)])
            await self.elapse(self.unit / 10)
        one_too_many = make_record()
        error = await refused(store.save(one_too_many, add=[self.use(limit=3)]), LimitReached)
        assert error.keys == (KEY,)
        assert self.near(error.retry_after, self.unit * 7 / 10)
        await refused(store.load(one_too_many.id), FlowNotFound)
        await store.save(one_too_many, add=[self.use(OTHER_KEY, limit=3)])

    async def test_a_use_counts_until_its_window_is_over(self, store: Store) -> None:
        await store.save(make_record(), add=[self.use()])
        await self.elapse(self.unit / 2)
        error = await self.full(store, self.use())
        assert self.near(error.retry_after, self.unit / 2)
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance - timedelta(microseconds=1))
        if not self.tolerance:
            assert (await self.full(store, self.use())).retry_after == timedelta(microseconds=1)
        await self.elapse(timedelta(microseconds=1))
        await store.save(make_record(), add=[self.use()])
        await self.full(store, self.use())

    async def test_each_use_counts_for_the_window_it_was_added_with(self, store: Store) -> None:
        short, long = self.use(limit=2, window=self.unit / 4), self.use(limit=2)
        await store.save(make_record(), add=[short])
        await store.save(make_record(), add=[long])
        assert self.near((await self.full(store, long)).retry_after, self.unit / 4)
        assert self.near((await self.full(store, replace(long, limit=1))).retry_after, self.unit)
        await self.elapse(self.unit / 2)
        await store.save(make_record(), add=[self.use(limit=2)])
        assert self.near((await self.full(store, long)).retry_after, self.unit / 2)

    async def test_a_lowered_limit_waits_until_enough_have_expired(self, store: Store) -> None:
        for _ in range(4):
            await store.save(make_record(), add=[self.use(limit=4)])
            await self.elapse(self.unit / 10)
        error = await self.full(store, self.use(limit=2))
        assert self.near(error.retry_after, self.unit * 8 / 10)
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance)
        await store.save(make_record(), add=[self.use(limit=2)])

    async def test_a_use_that_is_dropped_makes_room(self, store: Store) -> None:
        mine, others = self.use(limit=2), self.use(limit=2)
        record = make_record()
        await store.save(record, add=[mine])
        await self.elapse(self.unit / 10)
        await store.save(make_record(), add=[others])
        await self.full(store, mine)
        await store.save(next_version(record), drop=[name_of(mine)])
        assert self.near((await self.full(store, replace(mine, limit=1))).retry_after, self.unit)
        await store.save(make_record(), add=[self.use(limit=2)])

    async def test_dropping_what_is_not_there_is_no_error(self, store: Store) -> None:
        kept = self.use()
        record = make_record()
        await store.save(record, add=[kept], drop=[name_of(self.use()), UseName(OTHER_KEY, kept.id)])
        await store.save(next_version(record), drop=[UseName(KEY, kept.id[:-1]), UseName(KEY, kept.id + b"a")])
        await self.full(store, kept)

    async def test_a_use_may_be_exchanged_in_a_full_budget(self, store: Store) -> None:
        mine, new = self.use(limit=2), self.use(limit=2)
        record = make_record()
        await store.save(record, add=[mine])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), add=[self.use(limit=2)])
        await self.elapse(self.unit / 4)
        await store.save(next_version(record), add=[new], drop=[name_of(mine)])
        assert self.near((await self.full(store, replace(new, limit=1))).retry_after, self.unit)
        assert self.near((await self.full(store, new)).retry_after, self.unit * 3 / 4)
        another = self.use(limit=2)
        await refused(store.save(make_record(), add=[another], drop=[name_of(mine)]), LimitReached)

    async def test_an_expired_use_makes_no_room_when_it_is_exchanged(self, store: Store) -> None:
        mine, new = self.use(), self.use()
        record = make_record()
        await store.save(record, add=[mine])
        await self.elapse(self.unit + self.tolerance)
        await store.save(make_record(), add=[self.use()])
        error = await refused(store.save(next_version(record), add=[new], drop=[name_of(mine)]), LimitReached)
        assert self.near(error.retry_after, self.unit)
        assert (await store.load(record.id)).version == 1
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance)
        await store.save(next_version(record), add=[new], drop=[name_of(mine)])
        await self.full(store, new)

    async def test_a_use_that_is_there_stays_as_it_is(self, store: Store) -> None:
        mine = self.use(limit=2)
        record = make_record()
        await store.save(record, add=[mine])
        await store.save(make_record(), add=[self.use(limit=2)])
        await self.elapse(self.unit / 2)
        record = next_version(record)
        await store.save(record, add=[replace(mine, limit=1)])  # it is there: nobody looks at its limit
        assert self.near((await self.full(store, mine)).retry_after, self.unit / 2)
        await self.elapse(self.unit / 2 + self.tolerance)
        await store.save(next_version(record), add=[mine])  # it has expired: it is added anew
        assert self.near((await self.full(store, replace(mine, limit=1))).retry_after, self.unit)

    async def test_uses_are_changed_all_or_none(self, store: Store) -> None:
        held, free = self.use(), self.use(OTHER_KEY)
        record = make_record()
        await store.save(record, add=[held])
        for add in ([free, self.use()], [self.use(), free]):
            error = await refused(store.save(make_record(), add=add), LimitReached)
            assert error.keys == (KEY,)
        two = [self.use(), self.use()]
        await refused(store.save(next_version(record), add=two, drop=[name_of(held)]), LimitReached)
        await self.full(store, held)
        await refused(store.save(next_version(record, version=3), add=[free], drop=[name_of(held)]), StaleRecord)
        await self.full(store, held)
        await store.save(make_record(), add=[free])

    async def test_one_key_may_be_added_to_twice_in_one_save(self, store: Store) -> None:
        four = [self.use(limit=2) for _ in range(4)]
        error = await refused(store.save(make_record(), add=four), LimitReached)
        assert error.retry_after is None  # no waiting makes room for four
        assert not error.retryable
        record = make_record()
        await store.save(record, add=four[:2])
        assert self.near((await self.full(store, four[0])).retry_after, self.unit)
        error = await refused(store.save(make_record(), add=four[2:]), LimitReached)
        assert self.near(error.retry_after, self.unit)
        record = next_version(record)
        await store.save(record, add=four[2:], drop=[name_of(use) for use in four[:2]])
        await store.save(next_version(record), drop=[name_of(use) for use in four[2:]])
        await store.save(make_record(), add=[self.use(limit=2), self.use(limit=2)])

    async def test_the_longest_wait_is_told_with_all_keys_that_were_refused(self, store: Store) -> None:
        await store.save(make_record(), add=[self.use(b"1" * 16)])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), add=[self.use(b"2" * 16)])
        add = [self.use(b"1" * 16), self.use(b"2" * 16), self.use(b"3" * 16)]
        error = await refused(store.save(make_record(), add=add), LimitReached)
        assert sorted(error.keys) == [b"1" * 16, b"2" * 16]
        assert self.near(error.retry_after, self.unit)

    async def test_one_save_may_change_many_uses(self, store: Store) -> None:
        sixteen = [self.use(bytes([n]) * 16) for n in range(16)]
        record = make_record()
        await store.save(record, add=sixteen)
        error = await refused(store.save(make_record(), add=[replace(use, id=b"new") for use in sixteen]), LimitReached)
        assert sorted(error.keys) == [use.key for use in sixteen]
        await store.save(next_version(record), drop=[name_of(use) for use in sixteen])
        await store.save(make_record(), add=[self.use(use.key) for use in sixteen])

    async def test_a_limit_and_a_window_may_be_of_any_size(self, store: Store) -> None:
        await store.save(make_record(), add=[self.use(limit=2**70, window=timedelta.max) for _ in range(2)])
        error = await self.full(store, self.use(limit=2))
        assert error.retry_after is not None
        assert error.retry_after > timedelta(days=365_000)
        await store.save(make_record(), add=[self.use(limit=3)])

    async def test_of_many_at_once_no_more_than_the_limit_are_added(self, store: Store) -> None:
        saves = [store.save(make_record(), add=[self.use(limit=3)]) for _ in range(20)]
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(result) for result in results].count(LimitReached) == 17
        assert results.count(None) == 3

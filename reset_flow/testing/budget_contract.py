"""What every store must do with charges; the part of its contract that is about budgets."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, LimitReached, StaleRecord
from reset_flow.ports import Charge
from reset_flow.testing.clock import FrozenClock
from reset_flow.testing.records import make_record, next_version
from reset_flow.testing.refusal import refused

if TYPE_CHECKING:
    from reset_flow.ports import Store

__all__ = ["BudgetContract"]


class BudgetContract:
    """
    What time is to a store under test, and what its budgets must do.

    Attributes:
        unit: The length of the leases and windows in these tests.

        tolerance: How far a length of time may be off that depends on the store's clock.
    """

    unit = timedelta(seconds=10)
    tolerance = timedelta(0)

    @cached_property
    def clock(self) -> FrozenClock:
        """What the store is to take for its clock; one for each test."""
        return FrozenClock()

    async def elapse(self, time: timedelta) -> None:
        """Let time pass for the store."""
        self.clock.advance(time)

    def near(self, length: timedelta | None, expected: timedelta) -> bool:
        """Whether a length of time is what it should be."""
        return length is not None and abs(length - expected) <= self.tolerance

    def use(self, key: bytes = b"k" * 16, limit: int = 1, amount: int = 1) -> Charge:
        """One use of a budget."""
        return Charge(key=key, amount=amount, limit=limit, window=self.unit)

    async def test_a_budget_lets_through_what_it_may_and_no_more(self, store: Store) -> None:
        for _ in range(3):
            await store.save(make_record(), charges=[self.use(limit=3)])
            await self.elapse(self.unit / 10)
        one_too_many = make_record()
        error = await refused(store.save(one_too_many, charges=[self.use(limit=3)]), LimitReached)
        assert self.near(error.retry_after, self.unit * 7 / 10)
        await refused(store.load(one_too_many.id), FlowNotFound)
        await store.save(one_too_many, charges=[self.use(b"o" * 16, limit=3)])

    async def test_a_use_counts_until_its_window_is_over(self, store: Store) -> None:
        await store.save(make_record(), charges=[self.use()])
        await self.elapse(self.unit / 2)
        error = await refused(store.save(make_record(), charges=[self.use()]), LimitReached)
        assert self.near(error.retry_after, self.unit / 2)
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance - timedelta(microseconds=1))
        if not self.tolerance:
            error = await refused(store.save(make_record(), charges=[self.use()]), LimitReached)
            assert error.retry_after == timedelta(microseconds=1)
        await self.elapse(timedelta(microseconds=1))
        await store.save(make_record(), charges=[self.use()])
        await refused(store.save(make_record(), charges=[self.use()]), LimitReached)

    async def test_a_use_counts_no_longer_than_the_window_it_was_counted_with(self, store: Store) -> None:
        short, long = (replace(self.use(limit=2), window=window) for window in (self.unit / 4, self.unit))
        mine = make_record()
        await store.save(mine, charges=[long])
        await store.save(next_version(mine), charges=[short])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), charges=[long])
        await refused(store.save(make_record(), charges=[long]), LimitReached)
        # What is taken back is the newest that still counts.
        await store.save(next_version(next_version(mine)), charges=[replace(long, amount=-1)])
        await store.save(make_record(), charges=[long])
        error = await refused(store.save(make_record(), charges=[long]), LimitReached)
        assert self.near(error.retry_after, self.unit)

    async def test_a_lowered_limit_waits_until_enough_has_expired(self, store: Store) -> None:
        for _ in range(4):
            await store.save(make_record(), charges=[self.use(limit=4)])
            await self.elapse(self.unit / 10)
        error = await refused(store.save(make_record(), charges=[self.use(limit=2)]), LimitReached)
        assert self.near(error.retry_after, self.unit * 8 / 10)
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance)
        await store.save(make_record(), charges=[self.use(limit=2)])

    async def test_a_use_is_given_back_to_the_flow_that_made_it(self, store: Store) -> None:
        mine, other = make_record(), make_record()
        await store.save(other, charges=[self.use(limit=2)])
        await self.elapse(self.unit / 10)
        await store.save(mine, charges=[self.use(limit=2)])
        mine = next_version(mine)
        await store.save(mine, charges=[self.use(limit=2, amount=-1)])
        error = await refused(store.save(make_record(), charges=[self.use(limit=1)]), LimitReached)
        assert self.near(error.retry_after, self.unit * 9 / 10)
        # There is none of its own left: the other's stays.
        await store.save(next_version(mine), charges=[self.use(amount=-1), self.use(b"o" * 16, amount=-1)])
        await refused(store.save(make_record(), charges=[self.use(limit=1)]), LimitReached)
        await store.save(make_record(), charges=[self.use(limit=2)])

    async def test_a_use_is_given_back_though_others_came_after_it(self, store: Store) -> None:
        mine, other = make_record(), make_record()
        await store.save(mine, charges=[self.use(limit=2)])
        await self.elapse(self.unit / 10)
        await store.save(other, charges=[self.use(limit=2)])
        await store.save(next_version(mine), charges=[self.use(amount=-1)])
        error = await refused(store.save(make_record(), charges=[self.use()]), LimitReached)
        assert self.near(error.retry_after, self.unit)
        await store.save(make_record(), charges=[self.use(limit=2)])

    async def test_the_newest_use_is_given_back(self, store: Store) -> None:
        record = make_record()
        await store.save(record, charges=[self.use(limit=2)])
        await self.elapse(self.unit / 2)
        record = next_version(record)
        await store.save(record, charges=[self.use(limit=2)])
        await store.save(next_version(record), charges=[self.use(limit=2, amount=-1)])
        error = await refused(store.save(make_record(), charges=[self.use(limit=1)]), LimitReached)
        assert self.near(error.retry_after, self.unit / 2)

    async def test_a_use_is_exchanged_for_one_that_counts_from_now_on(self, store: Store) -> None:
        exchange = [self.use(limit=2, amount=-1), self.use(limit=2)]
        mine = make_record()
        await store.save(mine, charges=[self.use(limit=2)])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), charges=[self.use(limit=2)])
        await self.elapse(self.unit / 4)
        mine = next_version(mine)
        await store.save(mine, charges=exchange)  # all are used, and its own place is free for it
        error = await refused(store.save(make_record(), charges=[self.use(limit=1)]), LimitReached)
        assert self.near(error.retry_after, self.unit)
        error = await refused(store.save(make_record(), charges=[self.use(limit=2)]), LimitReached)
        assert self.near(error.retry_after, self.unit * 3 / 4)
        await refused(store.save(make_record(), charges=exchange), LimitReached)  # who has none to give

    async def test_a_use_that_counts_no_more_makes_no_room_when_it_is_exchanged(self, store: Store) -> None:
        exchange = [self.use(amount=-1), self.use()]
        mine = make_record()
        await store.save(mine, charges=[self.use()])
        await self.elapse(self.unit + self.tolerance)
        await store.save(make_record(), charges=[self.use()])
        error = await refused(store.save(next_version(mine), charges=exchange), LimitReached)
        assert self.near(error.retry_after, self.unit)
        assert (await store.load(mine.id)).version == 1
        assert error.retry_after is not None
        await self.elapse(error.retry_after + self.tolerance)
        await store.save(next_version(mine), charges=exchange)
        await refused(store.save(make_record(), charges=[self.use()]), LimitReached)

    async def test_a_use_outlasts_a_charge_with_a_shorter_window(self, store: Store) -> None:
        short = replace(self.use(), window=self.unit / 4)
        await store.save(make_record(), charges=[self.use()])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), charges=[short])
        await refused(store.save(make_record(), charges=[short]), LimitReached)
        error = await refused(store.save(make_record(), charges=[self.use(limit=2)]), LimitReached)
        assert self.near(error.retry_after, self.unit / 2)

    async def test_charges_are_counted_all_or_none(self, store: Store) -> None:
        full, free = self.use(b"f" * 16), self.use(b"o" * 16)
        record = make_record()
        await store.save(record, charges=[full])
        for charges in ([free, full], [full, free]):
            await refused(store.save(make_record(), charges=charges), LimitReached)
        taken_back = self.use(b"f" * 16, amount=-1)
        await refused(store.save(next_version(record), charges=[taken_back, full, full]), LimitReached)
        await refused(store.save(make_record(), charges=[full]), LimitReached)
        await refused(store.save(next_version(record, version=3), charges=[free]), StaleRecord)
        await store.save(make_record(), charges=[free])

    async def test_one_key_may_be_charged_twice_in_one_save(self, store: Store) -> None:
        twice = [self.use(limit=2), self.use(limit=2)]
        error = await refused(store.save(make_record(), charges=[*twice, *twice]), LimitReached)
        assert error.retry_after is None  # no waiting makes room for four
        assert not error.retryable
        record = make_record()
        await store.save(record, charges=twice)
        error = await refused(store.save(make_record(), charges=[self.use(limit=2)]), LimitReached)
        assert self.near(error.retry_after, self.unit)
        record = next_version(record)
        await store.save(record, charges=[self.use(amount=-1), self.use(amount=-1), *twice])
        await store.save(next_version(record), charges=[self.use(amount=-1), self.use(amount=-1)])
        await store.save(make_record(), charges=twice)

    async def test_the_longest_wait_of_all_charges_is_told(self, store: Store) -> None:
        await store.save(make_record(), charges=[self.use(b"1" * 16)])
        await self.elapse(self.unit / 2)
        await store.save(make_record(), charges=[self.use(b"2" * 16)])
        charges = [self.use(b"1" * 16), self.use(b"2" * 16)]
        error = await refused(store.save(make_record(), charges=charges), LimitReached)
        assert self.near(error.retry_after, self.unit)

    async def test_of_many_at_once_no_more_than_the_limit_get_through(self, store: Store) -> None:
        saves = [store.save(make_record(), charges=[self.use(limit=3)]) for _ in range(20)]
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(result) for result in results].count(LimitReached) == 17
        assert results.count(None) == 3

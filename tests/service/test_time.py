"""Waiting, sweeping, purging, and clocks that differ or jump."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest

from reset_flow.domain.errors import BrokerUnavailable, ConfigurationError, FlowBusy, FlowEnded, FlowNotFound
from reset_flow.domain.flow import Failure, State
from reset_flow.domain.policy import Policy
from reset_flow.engine.recovery import RecoveryResult
from reset_flow.engine.sweeper import AT_ONCE, SweepReport
from reset_flow.persistence.key_file import Key
from reset_flow.persistence.keyring import Keyring
from reset_flow.testing import refused
from reset_flow.testing.transport import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reset_flow.domain.flow import Event, Flow
    from reset_flow.ports import Record, Use, UseName
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, ScriptedWorker, Until

BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])


# Waiting


@BOTH_STORES
async def test_who_waits_is_told_of_the_end(house: House, at: At, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    waiting = [asyncio.create_task(each.service.wait(flow.id)) for each in (worker, other)]
    await until(lambda: worker.store.awaited and other.store.awaited)
    assert not any(task.done() for task in waiting)
    flow = await worker.service.set_password(flow.id, "violet tractor 5")
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waiting) == [flow, flow]
        assert await other.service.wait(flow.id) == flow


@pytest.mark.parametrize("timeout", [0, 0.02, timedelta(milliseconds=20), -1, -1e15, float("-inf"), timedelta.min])
async def test_who_waits_in_vain_is_given_the_flow_as_it_stands(
    house: House, at: At, timeout: timedelta | float
) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    async with asyncio.timeout(30):
        assert await worker.service.wait(flow.id, timeout) == flow


async def test_a_step_does_not_end_the_waiting(house: House, at: At, until: Until) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    waiting = asyncio.create_task(worker.service.wait(flow.id))
    await worker.service.answer(flow.id, "Peterson")
    flow = await worker.service.verify(flow.id, "004158")
    await until(lambda: worker.store.awaited[-1:] == [flow.version])
    assert not waiting.done()
    await worker.service.cancel(flow.id)
    async with asyncio.timeout(30):
        assert (await waiting).failure is Failure.CANCELLED


async def test_who_waits_sees_the_time_run_out(house: House) -> None:
    worker = house.worker(policy=Policy(flow_lifetime=timedelta(seconds=0.1)), clock=lambda: datetime.now(UTC))
    flow = await worker.service.start("robert.zak")
    async with asyncio.timeout(30):
        assert (await worker.service.wait(flow.id)).failure is Failure.EXPIRED


@BOTH_STORES
async def test_who_waits_for_a_call_after_the_time_is_up_looks_again_when_the_call_must_have_ended(
    house: House, clock: FrozenClock, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker(policy=Policy(lease=house.lease, flow_lifetime=timedelta(seconds=20)))
    flow = await worker.service.start("robert.zak")
    held = worker.transport.hold("request")
    answering = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    clock.advance(timedelta(seconds=21))
    pauses, changed = [], worker.store.changed

    async def note_and_wait(flow_id: str, version: int, timeout: timedelta) -> None:
        pauses.append(timeout)
        await changed(flow_id, version, timeout)

    monkeypatch.setattr(worker.store, "changed", note_and_wait)
    waiting = asyncio.create_task(worker.service.wait(flow.id))
    await until(lambda: pauses)
    assert pauses == [house.lease - timedelta(seconds=21)]
    held.released.set()
    assert (await answering).state is State.QUESTION_ANSWERED
    async with asyncio.timeout(30):
        assert (await waiting).failure is Failure.EXPIRED


async def test_who_waits_may_leave(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await worker.service.wait(flow.id)
    await refused(worker.service.wait("nothing"), FlowNotFound)


# Sweeping


@BOTH_STORES
async def test_a_sweep_says_what_it_did(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker()
    assert await worker.service.sweep() == SweepReport()
    for number in range(40):
        await worker.service.start(f"person {number}")
    held = worker.transport.hold("request")
    left = await worker.service.start("robert.zak")
    task = asyncio.create_task(worker.service.answer(left.id, "Peterson"))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    other = house.worker()
    assert await other.service.sweep() == SweepReport()
    house.lease_runs_out()
    assert await other.service.sweep() == SweepReport(settled=1)
    clock.advance(timedelta(hours=1))
    fresh = house.worker()
    assert await fresh.service.sweep() == SweepReport(expired=41)
    assert await fresh.service.sweep() == SweepReport()
    assert (await fresh.service.get(left.id)).failure is Failure.EXPIRED
    await at(fresh, State.REQUESTED)  # flows can be started again


async def test_a_sweep_keeps_nothing_of_the_flows_it_is_done_with(
    house: House, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = house.worker()
    for number in range(64):
        await worker.service.start(f"person {number}")
    clock.advance(timedelta(hours=1))
    alive, save = [], worker.store.save

    async def look_and_save(record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        alive.append(sum(type(each) is RecoveryResult for each in gc.get_objects()))  # `isinstance` wakes lazy objects
        await save(record, add=add, drop=drop)

    monkeypatch.setattr(worker.store, "save", look_and_save)
    assert (await worker.service.sweep()).expired == 64
    assert len(alive) == 64
    assert max(alive) <= AT_ONCE


async def test_many_workers_sweep_at_once(house: House, clock: FrozenClock) -> None:
    workers = [house.worker() for _ in range(4)]
    flows = [await workers[0].service.start(f"person {number}") for number in range(30)]
    clock.advance(timedelta(hours=1))
    reports = await asyncio.gather(*(worker.service.sweep() for worker in workers))
    assert sum(report.expired for report in reports) >= 30
    for flow in flows:
        assert len((await workers[0].service.get(flow.id)).history) == 1


async def test_a_sweep_keeps_to_its_realm(house: House, clock: FrozenClock) -> None:
    one, two = house.worker(realm="one"), house.worker(realm="two")
    flow = await one.service.start("robert.zak")
    clock.advance(timedelta(hours=1))
    assert (await two.service.sweep()).expired == 0
    assert (await one.service.sweep()).expired == 1
    assert (await one.service.get(flow.id)).ended


async def test_what_can_not_be_read_is_counted_and_left(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak")
    clock.advance(timedelta(hours=1))
    other = house.worker(keyring=Keyring((Key.generate(),), house.keyring.lookup_keys, saved=True))
    report = await other.service.sweep()
    assert (report.unreadable, report.expired, other.store.saves) == (1, 0, [])
    assert (await worker.service.get(flow.id)).failure is Failure.EXPIRED


@BOTH_STORES
async def test_what_ended_is_purged_when_its_time_has_come(house: House, clock: FrozenClock) -> None:
    worker = house.worker(policy=Policy(retention=timedelta(days=30)))
    ended = await worker.service.start("robert.zak")
    await worker.service.cancel(ended.id)
    clock.advance(timedelta(days=30))
    assert (await house.worker().service.sweep()).purged == 0
    clock.advance(timedelta(seconds=1))
    running = await worker.service.start("robert.zak")
    report = await house.worker().service.sweep()
    assert (report.purged, report.held_back) == (1, False)
    await refused(worker.service.get(ended.id), FlowNotFound)
    assert (await worker.service.get(running.id)).state is State.REQUESTED
    assert (await worker.service.wait(running.id, 0)).state is State.REQUESTED


@BOTH_STORES
async def test_a_clock_that_jumps_ahead_purges_nothing(
    house: House, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    clock.advance(timedelta(days=365))
    report = await worker.service.sweep()
    assert (report.purged, report.held_back) == (0, True)
    assert "ahead" in caplog.text
    assert (await worker.service.get(flow.id)).ended


async def test_a_clock_that_goes_back_purges_nothing_and_breaks_nothing(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak")
    clock.advance(-timedelta(days=1))
    assert await worker.service.sweep() == SweepReport()
    flow = await worker.service.answer(flow.id, "Peterson")
    assert flow.state is State.QUESTION_ANSWERED
    assert flow.history[0].at < flow.created_at
    assert (await worker.service.get(flow.id)) == flow


async def test_the_background_sweeps_by_itself(
    house: House, clock: FrozenClock, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(seconds=0.01))
    worker, other = house.worker(sweep=True), house.worker()
    flow = await other.service.start("robert.zak")
    async with worker.service:
        worker.store.down = True
        await until(lambda: worker.store.turned_away >= 2)
        worker.store.down = False
        clock.advance(timedelta(hours=1))
        await until(lambda: worker.store.saves)
    assert (await other.store.load(flow.id)).state is State.FAILED


async def test_the_background_goes_on_after_a_listener_let_a_cancellation_escape(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def escapes(event: Event) -> None:
        told.append(event.id)
        raise asyncio.CancelledError

    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(seconds=0.01))
    worker = house.worker(sweep=True, listeners={"bad": escapes})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    house.lease_runs_out()
    before = len(told)

    def told_twice_more() -> bool:
        house.lease_runs_out()  # an end that is refused waits for a part of its age
        return len(told) >= before + 2

    async with worker.service:
        await until(told_twice_more)


# Clocks that differ


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), -timedelta(minutes=10)])
async def test_leases_go_by_the_stores_clock(house: House, at: At, clock: FrozenClock, ahead: timedelta) -> None:
    worker, other = house.worker(), house.worker(clock=lambda: clock() + ahead)
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    task = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    await refused(other.service.verify(flow.id, "004158"), FlowBusy)
    assert (await other.service.sweep()).settled == 0
    held.released.set()
    assert (await task).state is State.TOKEN_ISSUED
    assert other.transport.calls == []


@pytest.mark.parametrize("behind", [timedelta(minutes=10), timedelta(hours=3)])
async def test_a_slow_clock_does_not_revive_what_has_ended(
    house: House, at: At, clock: FrozenClock, behind: timedelta
) -> None:
    worker, slow = house.worker(), house.worker(clock=lambda: clock() - behind)
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(timedelta(hours=1))
    assert (await worker.service.sweep()).expired == 1
    ended = await worker.service.get(flow.id)
    await refused(slow.service.verify(flow.id, "004158"), FlowEnded)
    assert await slow.service.get(flow.id) == ended
    assert (await slow.service.sweep()).expired == 0
    assert slow.transport.calls == []


async def test_a_fast_clock_leaves_a_call_under_way_alone(house: House, at: At, clock: FrozenClock) -> None:
    worker, fast = house.worker(), house.worker(clock=lambda: clock() + timedelta(hours=3))
    flow = await at(worker, State.TOKEN_ISSUED)
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    assert not (await fast.service.get(flow.id)).ended
    assert (await fast.service.sweep()).expired == 0
    held.released.set()
    assert (await task).state is State.PASSWORD_SET


# A machine that sleeps


@pytest.fixture
def sleep_an_hour(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the machine have slept: only the clock that goes on meanwhile shows it. A real one can't be sent to sleep."""
    slept = 0.0
    clock_gettime = time.clock_gettime

    def fall_asleep() -> None:
        nonlocal slept
        slept += 3600

    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: clock_gettime(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0)
    )
    return fall_asleep


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock goes on while this machine sleeps")
@pytest.mark.parametrize("state", [State.REQUESTED, State.QUESTION_ANSWERED, State.TOKEN_ISSUED], ids=str)
async def test_no_call_is_made_for_an_intent_that_the_machine_slept_over(
    house: House, at: At, sleep_an_hour: Callable[[], None], state: State
) -> None:
    worker = house.worker()
    flow = await at(worker, state)
    saving = Held()
    worker.store.plan.append(saving)

    async def command() -> Flow:
        match state:
            case State.REQUESTED:
                return await worker.service.answer(flow.id, "Peterson")
            case State.QUESTION_ANSWERED:
                return await worker.service.verify(flow.id, "004158")
        return await worker.service.set_password(flow.id, "violet tractor 5")

    task = asyncio.create_task(command())
    await saving.arrived.wait()
    sleep_an_hour()
    saving.released.set()
    await refused(task, BrokerUnavailable)
    assert worker.transport.calls == []
    assert (await command()).state is not state  # and the next one goes through
    assert len(worker.transport.calls) == 1


async def test_times_are_utc_whatever_the_clock_says(house: House, clock: FrozenClock) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    worker = house.worker(clock=lambda: clock().astimezone(zone))
    flow = await worker.service.start("robert.zak")
    assert flow.created_at == clock()
    assert flow.created_at.tzinfo is UTC
    assert flow == await worker.service.get(flow.id)
    with pytest.raises(ConfigurationError):
        house.worker(clock=lambda: datetime(2030, 1, 1))  # noqa: DTZ001 - what it is about


@pytest.mark.parametrize("failure", [None, datetime(2030, 1, 1), RuntimeError])  # noqa: DTZ001 - what it is about
async def test_a_clock_that_fails_while_a_call_is_made_loses_no_outcome(
    house: House, clock: FrozenClock, failure: Any, at: At, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile() -> datetime:
        if not any(worker.transport.calls_of("exchange") for worker in workers):
            return clock()
        if failure is RuntimeError:
            raise RuntimeError
        return cast("datetime", failure)

    workers: list[ScriptedWorker] = []
    worker = house.worker(clock=fragile)
    workers.append(worker)
    flow = await at(worker, State.QUESTION_ANSWERED)
    flow = await worker.service.verify(flow.id, "004158")
    assert flow.state is State.TOKEN_ISSUED
    assert "the clock failed" in caplog.text


async def test_a_clock_may_give_times_of_a_class_of_its_own(house: House, clock: FrozenClock) -> None:
    class Stamp(datetime):
        pass

    worker = house.worker(clock=lambda: Stamp.combine(clock().date(), clock().time(), UTC))
    flow = await worker.service.start("robert.zak")
    assert type(flow.created_at) is datetime
    assert flow == await worker.service.get(flow.id)

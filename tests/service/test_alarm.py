"""The guess alarm: what all workers saw, over restarts, on every store; told once, and in nobody's way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from reset_flow import (
    CodeRejected,
    Event,
    GuessAlarm,
    InvalidInput,
    Keyring,
    LimitReached,
    Policy,
    RecordUnreadable,
    Rejected,
    State,
)
from reset_flow.domain import validation
from reset_flow.engine import guess_alarm
from reset_flow.persistence import key_rotation
from reset_flow.persistence.side_records import SideRecords, side_realm
from reset_flow.ports import Query
from reset_flow.testing import refused

if TYPE_CHECKING:
    from reset_flow.ports import Record
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, ScriptedWorker, Until

pytestmark = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])

TEN = Policy(guess_alarm=GuessAlarm(at_least=10))
TEN_STOPS = Policy(guess_alarm=GuessAlarm(at_least=10), stop_on_alarm=True)
WENT_ON = "guess alarm: "


class Guess(Protocol):
    """Have a worker take so many wrong codes, each for a user whom nobody has heard of."""

    async def __call__(self, worker: ScriptedWorker, times: int) -> None: ...


@pytest.fixture
def guess(at: At) -> Guess:
    invented = iter(range(1_000_000))

    async def guess(worker: ScriptedWorker, times: int) -> None:
        for _ in range(times):
            flow = await at(worker, State.QUESTION_ANSWERED, user=f"invented {next(invented)}")
            worker.transport.script(exchange=[Rejected()])
            await refused(worker.service.verify(flow.id, "000000"), CodeRejected)

    return guess


async def is_on(worker: ScriptedWorker, at: At) -> bool:
    """Return True if the worker refuses a code because of the alarm."""
    flow = await at(worker, State.QUESTION_ANSWERED, user="somebody")
    try:
        await worker.service.verify(flow.id, "004158")
    except LimitReached:
        return True
    return False


async def test_a_thousand_invented_users_set_off_the_alarm_and_stop_nobody(
    house: House, at: At, guess: Guess, caplog: pytest.LogCaptureFixture
) -> None:
    worker = house.worker(policy=Policy())
    before = await at(worker, State.QUESTION_ANSWERED)
    await asyncio.gather(*(guess(worker, 100) for _ in range(10)))
    assert caplog.text.count(WENT_ON) == 1
    assert (await worker.service.verify(before.id, "004158")).state is State.TOKEN_ISSUED
    assert not await is_on(worker, at)
    other = house.worker(policy=Policy())
    await worker.tells()
    assert not await is_on(other, at)
    await other.tells()
    assert caplog.text.count(WENT_ON) == 2


async def test_two_workers_who_saw_half_of_them_each_see_the_alarm(
    house: House, guess: Guess, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = house.worker(policy=TEN), house.worker(policy=TEN)
    await guess(one, 5)
    await guess(other, 5)
    for worker in (one, other, one):
        await worker.tells()
    assert WENT_ON not in caplog.text
    await guess(one, 1)
    assert caplog.text.count(WENT_ON) == 1
    await other.tells()
    assert caplog.text.count(WENT_ON) == 1  # the eleventh is not told yet
    await one.tells()
    await other.tells()
    assert caplog.text.count(WENT_ON) == 2
    assert caplog.text.count(WENT_ON + "11 wrong codes") == 2


async def test_what_was_counted_survives_a_restart(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 6)
    await worker.service.aclose()
    worker = house.worker(policy=TEN_STOPS)
    assert not await is_on(worker, at)
    await guess(worker, 5)
    await worker.service.aclose()
    assert await is_on(house.worker(policy=TEN_STOPS), at)


async def test_a_worker_that_dies_loses_no_more_than_it_had_not_told(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 8)
    await worker.tells()
    await guess(worker, 2)
    await worker.dies()
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 2)
    assert not await is_on(worker, at)
    await guess(worker, 1)
    assert await is_on(worker, at)


async def test_where_it_is_to_stop_codes_all_workers_do_until_it_is_over(
    house: House, at: At, guess: Guess, clock: FrozenClock
) -> None:
    one, other = house.worker(policy=TEN_STOPS), house.worker(policy=TEN_STOPS)
    assert not await is_on(other, at)  # its first look is behind it
    await guess(one, 11)
    assert await is_on(one, at)
    await one.tells()
    await other.tells()
    for worker in (one, other, house.worker(policy=TEN_STOPS)):
        assert await is_on(worker, at)
        assert worker.transport.calls_of("exchange") == []
    clock.advance(timedelta(minutes=58))
    assert await is_on(other, at)
    clock.advance(timedelta(minutes=3))
    for worker in (one, other, house.worker(policy=TEN_STOPS)):
        assert not await is_on(worker, at)


HOURS = [timedelta(hours=2), -timedelta(hours=2), timedelta(days=90), -timedelta(days=90)]


@pytest.mark.parametrize("off", HOURS, ids=str)
async def test_a_worker_whose_clock_is_wrong_mutes_nobody(
    house: House, at: At, guess: Guess, clock: FrozenClock, off: timedelta
) -> None:
    wrong = house.worker(policy=TEN_STOPS, clock=lambda: clock() + off)
    one, other = house.worker(policy=TEN_STOPS), house.worker(policy=TEN_STOPS)
    for worker in (one, other, wrong):
        assert not await is_on(worker, at)  # its first look is behind it
    for _ in range(4):
        for worker in (wrong, one, other):
            await guess(worker, 1)
            await worker.tells()
        await wrong.service.sweep()
        clock.advance(timedelta(seconds=5))
    for worker in (wrong, one, other):
        await worker.tells()
        assert await is_on(worker, at)
    if off > timedelta(0):  # what is counted by a slow clock looks old to a worker that begins
        assert await is_on(house.worker(policy=TEN_STOPS), at)


@pytest.mark.parametrize("off", HOURS, ids=str)
async def test_what_a_wrong_clock_has_counted_is_forgotten_in_its_time(
    house: House, at: At, guess: Guess, clock: FrozenClock, off: timedelta
) -> None:
    wrong = house.worker(policy=TEN_STOPS, clock=lambda: clock() + off)
    other = house.worker(policy=TEN_STOPS)
    assert not await is_on(other, at)
    await guess(wrong, 11)
    await wrong.tells()
    await other.tells()
    assert await is_on(other, at)
    clock.advance(timedelta(minutes=61))
    for worker in (wrong, other):
        assert not await is_on(worker, at)
    await guess(other, 1)
    await other.tells()
    clock.advance(timedelta(minutes=61) + max(off, timedelta(0)))  # a worker that begins can't know that it was ahead
    assert not await is_on(house.worker(policy=TEN_STOPS), at)


async def test_a_clock_that_is_put_right_leaves_no_alarm_behind(
    house: House, at: At, guess: Guess, clock: FrozenClock
) -> None:
    off = timedelta(hours=2)
    worker = house.worker(policy=TEN_STOPS, clock=lambda: clock() + off)
    await guess(worker, 11)
    assert await is_on(worker, at)
    off = timedelta(0)
    assert await is_on(worker, at)
    clock.advance(timedelta(minutes=61))
    assert not await is_on(worker, at)


async def test_the_record_grows_no_further_however_many_clocks_there_are(
    house: House, guess: Guess, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guess_alarm, "KEPT", 12)
    worker = house.worker(policy=TEN)
    for _ in range(20):
        await guess(worker, 1)
        await worker.tells()
        clock.advance(timedelta(minutes=1))
    counts, _ = await counts_of(house, house.keyring)
    assert len({number for number, _ in counts}) == 12
    assert max(number for number, _ in counts) == int(clock().timestamp()) // 60 - 1


async def test_right_codes_of_other_workers_speak_for_the_wrong_ones(house: House, at: At, guess: Guess) -> None:
    policy = Policy(guess_alarm=GuessAlarm(at_least=2, share=0.5), stop_on_alarm=True)
    one, other = house.worker(policy=policy), house.worker(policy=policy)
    for _ in range(8):
        assert not await is_on(one, at)
        await one.tells()
    await guess(other, 4)
    assert not await is_on(other, at)  # 4 wrong ones, 8 right ones; and now 9
    await guess(other, 1)
    assert await is_on(other, at)


async def test_listeners_hear_of_it_with_the_wrong_code_that_a_worker_first_sees_it_with(
    house: House, at: At, guess: Guess, clock: FrozenClock
) -> None:
    heard: dict[str, list[Event]] = {"one": [], "other": []}

    def worker(name: str) -> ScriptedWorker:
        async def listen(event: Event) -> None:
            heard[name].append(event)

        return house.worker(policy=TEN, listeners={"security": listen})

    def alarms(name: str) -> list[str]:
        return [event.transition.trigger for event in heard[name] if event.alarm]

    one, other = worker("one"), worker("other")
    await guess(one, 10)
    await one.idle()
    assert alarms("one") == []
    await guess(one, 5)
    await one.idle()
    assert alarms("one") == ["code_refused"]
    await one.tells()
    await other.tells()
    assert not await is_on(other, at)  # a right code goes through, and carries nothing
    await other.idle()
    assert alarms("other") == []
    await guess(other, 2)
    await other.idle()
    assert alarms("other") == ["code_refused"]
    clock.advance(timedelta(minutes=61))  # over, and on again
    await guess(one, 12)
    await one.idle()
    assert alarms("one") == ["code_refused"] * 2


async def test_the_event_of_the_code_is_told_and_not_that_of_the_end_which_it_brings(
    house: House, guess: Guess
) -> None:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    policy = Policy(guess_alarm=GuessAlarm(at_least=2), code_attempts=1)
    worker = house.worker(policy=policy, listeners={"security": listen})
    await guess(worker, 3)
    await worker.idle()
    assert [event.transition.trigger for event in heard if event.alarm] == ["code_refused"]
    assert heard[-1].transition.trigger == "abandon"


async def test_a_worker_that_begins_learns_with_its_first_code(
    house: House, at: At, guess: Guess, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    worker = house.worker(policy=TEN)
    await guess(worker, 11)
    await worker.tells()
    assert caplog.text.count(WENT_ON) == 1
    assert not await is_on(house.worker(policy=TEN), at)
    await until(lambda: caplog.text.count(WENT_ON) == 2)


async def test_codes_are_told_by_themselves_and_seldom(
    house: House, guess: Guess, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("reset_flow.engine.guess_alarm.INTERVAL", timedelta(milliseconds=20))
    one, other = house.worker(policy=TEN), house.worker(policy=TEN)
    await guess(one, 12)
    assert caplog.text.count(WENT_ON) == 1
    await guess(other, 1)
    await until(lambda: caplog.text.count(WENT_ON) == 2)


async def test_a_code_costs_no_save_of_its_own(house: House, at: At) -> None:
    worker = house.worker(policy=TEN)
    flow = await at(worker, State.QUESTION_ANSWERED)
    await worker.service.verify(flow.id, "004158")  # its first look, and from then on the next is an hour away
    for _ in range(4):
        flow = await at(worker, State.QUESTION_ANSWERED)
        await worker.service.verify(flow.id, "004158")
        assert worker.store.tries == 2  # the two saves of the command
    await worker.tells()
    assert worker.store.tries == 3


async def test_a_store_that_is_away_loses_no_count(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 11)
    worker.store.down = True
    await worker.tells()
    worker.store.down = False
    assert not await is_on(house.worker(policy=TEN_STOPS), at)
    await worker.tells()
    await worker.tells()
    assert await is_on(house.worker(policy=TEN_STOPS), at)


async def test_a_record_that_the_store_can_not_read_stops_no_code_and_loses_no_count(
    house: House, at: At, guess: Guess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = house.worker(policy=TEN_STOPS)
    await guess(other, 6)
    await other.tells()
    worker = house.worker(policy=TEN_STOPS)
    load = worker.store.load

    async def spoilt(flow_id: str) -> Record:
        record = await load(flow_id)
        if record.realm == side_realm("default"):
            raise RecordUnreadable(flow_id, "its value is none")
        return record

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(worker.store, "load", spoilt)
        flow = await at(worker, State.QUESTION_ANSWERED)
        assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED
        await guess(worker, 5)
        await worker.tells()
    assert "not counted with others'" in caplog.text
    await worker.tells()
    assert await is_on(worker, at)


async def test_workers_that_tell_at_once_lose_and_double_nothing(house: House, guess: Guess) -> None:
    workers = [house.worker(policy=TEN) for _ in range(4)]
    for round_ in range(1, 4):
        for worker in workers:
            await guess(worker, 2)
        await asyncio.gather(*(worker.tells() for worker in workers))
        for worker in workers:  # who lost every race tells later
            await worker.tells()
        counts, _ = await counts_of(house, house.keyring)
        assert counts.total() == 8 * round_


async def test_the_record_is_no_flow_and_shows_nothing(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=TEN)
    await guess(worker, 3)
    await worker.tells()
    store = house.worker(policy=TEN).store
    (record,) = [record async for record in store.scan(Query(realm=side_realm("default")), limit=9)]
    assert (record.due_at, record.lease, record.lookups) == (None, None, ())
    assert record.id not in [each.id async for each in store.scan(Query(realm="default"), limit=99)]
    await refused(worker.service.get(record.id), RecordUnreadable)
    with pytest.raises(InvalidInput):
        validation.name(side_realm("default"), "realm")
    other = house.worker(policy=TEN, realm="other")
    await guess(other, 1)
    await other.tells()
    assert len([record async for record in store.scan(Query(realm=side_realm("other")), limit=9)]) == 1
    assert (await store.load(record.id)).version == 1
    assert not await is_on(worker, at)


async def counts_of(house: House, keyring: Keyring) -> tuple[guess_alarm.Counts, bytes]:
    """Load the counts that all workers share, and their version."""
    side = SideRecords(house.worker(policy=TEN).store, keyring, "default", guess_alarm.KIND, house.clock)
    return await guess_alarm.load_counts(side, timedelta(minutes=1))


async def test_rotation_takes_the_old_key_from_it(house: House, at: At, guess: Guess) -> None:
    path = house.path.with_name("keys")
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 11)
    await worker.tells()
    old = house.keyring.writes.id
    new = key_rotation.rotate(path, delay=timedelta(0)).id
    assert (await key_rotation.sealed_with(house.worker(policy=TEN).store, "default"))[old] == 12
    assert (await worker.service.reseal()).resealed == 12
    assert await key_rotation.sealed_with(house.worker(policy=TEN).store, "default") == {new: 12}
    await key_rotation.remove(path, old, house.worker(policy=TEN).store, ["default"], settled=timedelta(0))
    stranger = house.worker(policy=TEN_STOPS, keyring=Keyring.from_file(path))
    assert await is_on(stranger, at)
    worker.monitor.count(right=False)  # without a flow, which would be sealed with the old key as well
    await worker.tells()
    assert list(await key_rotation.sealed_with(house.worker(policy=TEN).store, "default")) == [new]


async def test_a_record_that_nobody_can_read_is_written_over(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=TEN_STOPS)
    await guess(worker, 11)
    await worker.tells()
    keys = house.keyring.rotated(timedelta(0)).without(house.keyring.writes.id)
    keys.to_file(house.path.with_name("other keys"))
    stranger = house.worker(policy=TEN_STOPS, keyring=keys)
    assert not await is_on(stranger, at)
    await guess(stranger, 11)
    await stranger.tells()
    counts, revision = await counts_of(house, keys)
    assert (sum(count for (_, right), count in counts.items() if not right), revision[:8]) == (11, (2).to_bytes(8))


async def test_without_a_rule_nothing_is_counted(house: House, at: At, guess: Guess) -> None:
    worker = house.worker(policy=Policy(guess_alarm=None, stop_on_alarm=True))
    await guess(worker, 3)
    assert not await is_on(worker, at)
    await worker.service.aclose()
    assert [
        record async for record in house.worker(policy=TEN).store.scan(Query(realm=side_realm("default")), limit=9)
    ] == []

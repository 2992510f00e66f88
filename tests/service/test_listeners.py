"""Who is told what a flow did: after it is durable, of the end at least once, disturbing nobody."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.flow import State
from reset_flow.domain.outcomes import Rejected
from reset_flow.testing.transport import Held

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.flow import Event, Flow
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import House, ScriptedWorker, Until

BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])


class Listener:
    """A listener that notes each event, and then calls a function of the test."""

    def __init__(self, does: Callable[[Event], Awaitable[None]] | None = None) -> None:
        self.events: list[Event] = []
        self.does = does

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.does is not None:
            await self.does(event)

    @property
    def triggers(self) -> list[str]:
        return [event.transition.trigger for event in self.events]


async def raises(_: Event) -> None:
    raise RuntimeError("Peterson 004158")


async def hangs(_: Event) -> None:
    await asyncio.Event().wait()


async def whole(worker: ScriptedWorker) -> Flow:
    service = worker.service
    flow = await service.start("robert.zak")
    for command, given in (("answer", "Peterson"), ("verify", "004158"), ("set_password", "violet tractor 5")):
        flow = await getattr(service, command)(flow.id, given)
        await worker.idle()
    return flow


@BOTH_STORES
async def test_each_transition_is_told_after_it_is_durable(house: House) -> None:
    seen = []
    other = house.worker()

    async def look(event: Event) -> None:
        stored = await other.service.get(event.flow.id)
        seen.append(event.transition in stored.history and event.flow.history == stored.history)

    listener = Listener(look)
    worker = house.worker(listeners={"mail": listener})
    flow = await whole(worker)
    assert listener.triggers == ["answer_accepted", "code_accepted", "token_granted", "password_accepted"]
    assert seen == [True] * 4
    assert [event.id for event in listener.events] == [f"{flow.id}.{n}" for n in range(4)]
    assert [event.transition for event in listener.events] == list(flow.history)
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 0
    assert len(listener.events) == 4


async def test_refusals_and_expiry_are_told_too(house: House, clock: FrozenClock) -> None:
    listener = Listener()
    worker = house.worker(listeners={"mail": listener})
    flow = await worker.service.start("robert.zak")
    worker.transport.script(request=[Rejected()])
    await asyncio.gather(worker.service.answer(flow.id, "Pedersen"), return_exceptions=True)
    await worker.idle()
    clock.advance(timedelta(hours=1))
    await worker.service.sweep()
    await worker.idle()
    assert listener.triggers == ["answer_refused", "abandon"]
    assert listener.events[-1].flow.ended


async def test_nothing_is_told_of_what_was_not_saved(house: House) -> None:
    listener = Listener()
    worker = house.worker(listeners={"mail": listener})
    flow = await worker.service.start("robert.zak")
    gate = Held()
    worker.store.plan.extend(["ok", gate])
    task = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await gate.arrived.wait()
    await asyncio.sleep(0.01)
    assert listener.events == []
    gate.released.set()
    await task
    await worker.idle()
    assert listener.triggers == ["answer_accepted"]


@BOTH_STORES
async def test_an_end_that_a_dead_process_did_not_tell_is_told_by_another(house: House, until: Until) -> None:
    first, second = Listener(hangs), Listener()
    worker, other = house.worker(listeners={"mail": first}), house.worker(listeners={"mail": second})
    flow = await worker.service.start("robert.zak")
    flow = await worker.service.cancel(flow.id)
    await until(lambda: first.events)
    await worker.dies()
    assert (await other.service.sweep()).delivered == 0
    assert second.events == []
    house.lease_runs_out()
    assert (await other.service.sweep()).delivered == 1
    assert second.triggers == ["abandon"]
    assert second.events[0].id == first.events[0].id == f"{flow.id}.0"
    assert (await other.service.sweep()).delivered == 0
    assert len(second.events) == 1


async def test_an_end_is_told_again_when_nobody_noted_that_it_was_told(house: House) -> None:
    listener = Listener()
    worker = house.worker(listeners={"mail": listener})
    flow = await worker.service.start("robert.zak")
    worker.store.plan.extend(["ok", "before"])
    await worker.service.cancel(flow.id)
    await worker.idle()
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 1
    assert [event.id for event in listener.events] == [f"{flow.id}.0"] * 2
    assert (await worker.service.sweep()).delivered == 0


async def test_a_listener_that_raises_is_told_the_end_again(house: House) -> None:
    listener, other = Listener(raises), Listener()
    worker = house.worker(listeners={"bad": listener, "good": other})
    flow = await whole(worker)
    assert flow.state is State.PASSWORD_SET
    assert listener.triggers == other.triggers
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 0
    listener.does = None
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 1
    assert (await worker.service.sweep()).delivered == 0
    assert listener.triggers[-3:] == ["password_accepted"] * 3
    assert other.triggers[-1:] == ["password_accepted"]
    assert len(other.events) == 4


async def test_a_listener_that_hangs_is_left_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reset_flow.engine.notifications.PATIENCE", timedelta(milliseconds=10))
    hanging, other = Listener(hangs), Listener()
    worker = house.worker(listeners={"bad": hanging, "good": other})
    async with asyncio.timeout(30):
        flow = await whole(worker)
    assert (flow.state, len(other.events)) == (State.PASSWORD_SET, 4)
    house.lease_runs_out()
    hanging.does = None
    assert (await worker.service.sweep()).delivered == 1


async def test_a_listener_that_will_not_be_cancelled_does_not_hold_up_a_sweep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.notifications.PATIENCE", timedelta(milliseconds=10))
    over = asyncio.Event()

    async def stays(_: Event) -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    worker = house.worker(listeners={"bad": Listener(stays)})
    async with asyncio.timeout(30):
        await whole(worker)
        house.lease_runs_out()
        assert (await worker.service.sweep()).delivered == 0
        over.set()
        house.lease_runs_out()
        assert (await worker.service.sweep()).delivered == 1


class Grave(BaseException):
    pass


async def test_a_listener_that_raises_what_no_exception_is_disturbs_nobody(house: House) -> None:
    async def raises(_: Event) -> None:
        raise Grave

    bad, good = Listener(raises), Listener()
    worker = house.worker(listeners={"bad": bad, "good": good})
    async with asyncio.timeout(30):
        await whole(worker)
        house.lease_runs_out()
        assert (await worker.service.sweep()).delivered == 0
    assert len(good.events) == 4


async def test_a_command_does_not_wait_for_its_listeners(house: House) -> None:
    hanging = Listener(hangs)
    worker = house.worker(listeners={"bad": hanging})
    async with asyncio.timeout(30):
        flow = await worker.service.start("robert.zak")
        flow = await worker.service.answer(flow.id, "Peterson")
        flow = await worker.service.verify(flow.id, "004158")
    assert flow.state is State.TOKEN_ISSUED


async def test_a_listener_that_lets_a_cancellation_escape_disturbs_nobody(house: House) -> None:
    async def escapes(_: Event) -> None:
        raise asyncio.CancelledError

    bad, good = Listener(escapes), Listener()
    worker = house.worker(listeners={"bad": bad, "good": good})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 0
    assert len(good.events) == 1
    bad.does = None
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 1


@BOTH_STORES
async def test_a_worker_without_the_listener_tells_and_marks_nothing(house: House) -> None:
    listener, stranger = Listener(hangs), Listener()
    worker = house.worker(listeners={"mail": listener})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.dies()
    house.lease_runs_out()
    without, other = house.worker(), house.worker(listeners={"chat": stranger})
    for each in (without, other):
        assert (await each.service.sweep()).delivered == 0
        assert each.store.saves == []
    assert stranger.events == []
    late = Listener()
    assert (await house.worker(listeners={"mail": late, "chat": stranger}).service.sweep()).delivered == 1
    assert (late.triggers, stranger.events) == (["abandon"], [])


async def test_each_listener_hears_of_the_end_by_name(house: House) -> None:
    mail, chat = Listener(), Listener(raises)
    worker = house.worker(listeners={"mail": mail, "chat": chat})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    house.lease_runs_out()
    again, chat_again = Listener(), Listener()
    await house.worker(listeners={"mail": again}).service.sweep()
    assert again.events == []
    other = house.worker(listeners={"chat": chat_again, "mail": again})
    assert (await other.service.sweep()).delivered == 1
    assert (chat_again.triggers, again.events) == (["abandon"], [])


async def test_a_flow_knows_the_listeners_that_it_was_started_with(house: House) -> None:
    early, late = Listener(), Listener()
    flow = await house.worker(listeners={"early": early}).service.start("robert.zak")
    worker = house.worker(listeners={"early": early, "late": late})
    await worker.service.cancel(flow.id)
    await worker.idle()
    assert (early.triggers, late.events) == (["abandon"], [])


async def test_of_two_sweeps_at_once_both_may_tell_and_nothing_breaks(house: House) -> None:
    quiet, listener = Listener(hangs), Listener()
    worker = house.worker(listeners={"mail": quiet})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.dies()
    house.lease_runs_out()
    others = [house.worker(listeners={"mail": listener}) for _ in range(3)]
    await asyncio.gather(*(each.service.sweep() for each in others))
    assert {event.id for event in listener.events} == {f"{flow.id}.0"}
    assert 1 <= len(listener.events) <= 3
    assert [(await each.service.sweep()).delivered for each in others] == [0, 0, 0]


async def test_a_listener_may_give_commands(house: House) -> None:
    async def go_on(event: Event) -> None:
        if event.transition.trigger == "token_granted":
            await worker.service.set_password(event.flow.id, "violet tractor 5")

    worker = house.worker(listeners={"mail": Listener(go_on)})
    flow = await worker.service.start("robert.zak")
    await worker.service.answer(flow.id, "Peterson")
    await worker.service.verify(flow.id, "004158")
    await worker.idle()
    assert (await worker.service.get(flow.id)).state is State.PASSWORD_SET


# What is passed in may do anything


async def owed(house: House, ends: int, **listeners: Listener | None) -> None:
    """Let so many flows have ended whose listeners were told nothing, as the worker died."""
    worker = house.worker(listeners=listeners)
    for number in range(ends):
        flow = await worker.service.start(f"person {number}")
        worker.store.plan.extend(["ok", "before and away"])
        await worker.service.cancel(flow.id)
        await worker.idle()
        worker.store.down = False
        worker.store.plan.clear()
    await worker.dies()
    for listener in listeners.values():
        if listener is not None:
            listener.events.clear()


@BOTH_STORES
async def test_many_ends_that_are_owed_to_a_hanging_listener_hold_up_nothing_else(
    house: House, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.notifications.PATIENCE", timedelta(seconds=300))
    hanging, quick = Listener(), Listener()
    await owed(house, 64, bad=hanging, good=quick)
    hanging.does = hangs
    worker = house.worker(listeners={"bad": hanging, "good": quick})
    late = await worker.service.start("robert.zak")
    clock.advance(timedelta(hours=1))
    async with asyncio.timeout(60):  # with a listener's patience in between, it would be five minutes
        report = await worker.service.sweep()
    assert (report.delivered, report.expired) == (64, 1)
    assert (await worker.service.get(late.id)).ended
    assert len({event.id for event in quick.events}) >= 64
    assert len(hanging.events) <= 32  # it was not told the others, having been slow with the first


@BOTH_STORES
async def test_ends_that_are_refused_again_and_again_keep_no_other_from_being_told(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(hours=1))  # not by a sweep
    monkeypatch.setattr("reset_flow.engine.sweeper.LATE_INTERVAL", timedelta(milliseconds=10))
    monkeypatch.setattr("reset_flow.engine.sweeper.LATE_AT_MOST", 16)
    monkeypatch.setattr("reset_flow.engine.notifications.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("reset_flow.engine.notifications.LONGEST_PAUSE", 0.01)
    told = set[str]()

    async def refuses_those_of_before(event: Event) -> None:
        if event.flow.created_at == began:
            raise ValueError
        told.add(event.flow.id)

    listener, began = Listener(), house.clock()
    await owed(house, 40, crm=listener)
    house.clock.advance(timedelta(seconds=1))
    await owed(house, 3, crm=listener)
    house.lease_runs_out()
    listener.does = refuses_those_of_before
    async with house.worker(sweep=True, listeners={"crm": listener}).service:
        await until(lambda: len(told) == 3)


async def test_an_end_that_is_refused_is_told_again_later_and_later_and_not_given_up(
    house: House, clock: FrozenClock
) -> None:
    listener = Listener(raises)
    worker = house.worker(listeners={"crm": listener})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    for _ in range(24 * 60):
        clock.advance(timedelta(minutes=1))
        await worker.service.sweep()
    assert 24 <= len(listener.events) <= 70
    listener.does = None
    clock.advance(timedelta(hours=1))
    assert (await worker.service.sweep()).delivered == 1
    assert len({event.id for event in listener.events}) == 1


@BOTH_STORES
@pytest.mark.parametrize("others", [{}, {"another process's": None}], ids=["alone", "with others"])
async def test_a_clock_that_ran_ahead_for_a_while_puts_no_end_off_beyond_its_retention(
    house: House, clock: FrozenClock, others: dict[str, None]
) -> None:
    listener = Listener(raises)
    worker = house.worker(listeners={"crm": listener, **others})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    clock.advance(timedelta(days=365))
    assert (await worker.service.sweep()).held_back
    clock.advance(-timedelta(days=365) + timedelta(hours=1))
    assert len(listener.events) == 2
    listener.does = None
    assert (await worker.service.sweep()).delivered == 1


async def test_what_one_listener_refuses_is_put_off_for_no_other_process(house: House) -> None:
    bad, crm = Listener(raises), Listener()
    worker = house.worker(listeners={"bad": bad, "crm": None})
    flow = await worker.service.start("robert.zak")
    await worker.service.cancel(flow.id)
    await worker.idle()
    house.clock.advance(timedelta(hours=2))
    assert (await worker.service.sweep()).delivered == 0
    assert len(bad.events) == 2
    assert (await house.worker(listeners={"bad": None, "crm": crm}).service.sweep()).delivered == 1
    assert crm.triggers == ["abandon"]


@BOTH_STORES
async def test_refused_ends_that_another_process_has_not_told_yet_are_told_once_and_keep_no_other_from_being_told(
    house: House,
) -> None:
    told = set[str]()

    async def refuses_those_of_before(event: Event) -> None:
        if event.flow.created_at == began:
            raise ValueError
        told.add(event.flow.id)

    listener, crm, began = Listener(), Listener(), house.clock()
    await owed(house, 300, bad=listener, crm=None)
    house.clock.advance(timedelta(hours=1))
    await owed(house, 50, bad=listener, crm=None)
    house.lease_runs_out()
    listener.does = refuses_those_of_before
    worker = house.worker(listeners={"bad": listener, "crm": None})
    for _ in range(25):  # the first refusals of a sweep pause the listener for its rest
        await worker.service.sweep()
    assert len(told) == 50
    assert len(listener.events) == 350
    assert (await house.worker(listeners={"bad": None, "crm": crm}).service.sweep()).delivered == 350


async def test_a_listener_that_hangs_is_asked_less_and_less(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(milliseconds=10))
    monkeypatch.setattr("reset_flow.engine.notifications.SOON", timedelta(milliseconds=10))
    monkeypatch.setattr("reset_flow.engine.notifications.PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr("reset_flow.engine.notifications.FIRST_PAUSE", 3600.0)
    hanging, quick = Listener(), Listener()
    await owed(house, 40, bad=hanging, good=quick)
    house.lease_runs_out()
    hanging.does = hangs
    worker = house.worker(sweep=True, listeners={"bad": hanging, "good": quick})
    async with worker.service:
        await until(lambda: len({event.id for event in quick.events}) == 40)
        heard = len(hanging.events)
        assert 1 <= heard <= 16
        late = await worker.service.start("robert.zak")
        quick.events.clear()
        await worker.service.cancel(late.id)
        await until(lambda: quick.events)
    assert len(hanging.events) == heard + 1  # of what happens now, it is told all the same


async def test_of_a_slow_and_a_quick_listener_the_quick_one_is_noted_first(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.notifications.SOON", timedelta(milliseconds=10))
    slow, quick = Listener(hangs), Listener()
    worker = house.worker(listeners={"slow": slow, "quick": quick})
    flow = await worker.service.start("robert.zak")
    saves = len(worker.store.saves)
    await worker.service.cancel(flow.id)
    await until(lambda: len(worker.store.saves) == saves + 2)
    await worker.dies()
    house.lease_runs_out()
    slow.does = None
    assert (await house.worker(listeners={"slow": slow, "quick": quick}).service.sweep()).delivered == 1
    assert (len(slow.events), len(quick.events)) == (2, 1)


async def test_a_slow_listener_that_heard_the_end_is_not_told_again(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.notifications.SOON", timedelta(milliseconds=10))
    released = asyncio.Event()

    async def waits(_: Event) -> None:
        await released.wait()

    slow, quick = Listener(waits), Listener()
    worker = house.worker(listeners={"slow": slow, "quick": quick})
    flow = await worker.service.start("robert.zak")
    saves = len(worker.store.saves)
    await worker.service.cancel(flow.id)
    await until(lambda: len(worker.store.saves) == saves + 2)
    released.set()
    await worker.idle()
    house.lease_runs_out()
    assert (await worker.service.sweep()).delivered == 0
    assert (len(slow.events), len(quick.events)) == (1, 1)


async def test_a_listener_may_sweep(house: House) -> None:
    async def sweeps(_: Event) -> None:
        await worker.service.sweep()

    listener = Listener()
    await owed(house, 3, mail=listener)
    house.lease_runs_out()
    listener.does = sweeps
    worker = house.worker(listeners={"mail": listener})
    async with asyncio.timeout(30):
        assert (await worker.service.sweep()).delivered == 3
    assert len(listener.events) == 3


# Listeners of other processes


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])
async def test_a_listener_hears_at_once_of_an_end_that_another_process_brought_about(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(hours=1))  # not by a sweep
    crm, mail = Listener(), Listener()
    web = house.worker(listeners={"crm": None, "mail": mail})
    worker = house.worker(sweep=True, listeners={"crm": crm})
    async with worker.service:
        ended = [await whole(web), await whole(web)]
        await until(lambda: len(crm.events) == 2)
        assert {event.flow.id for event in crm.events} == {flow.id for flow in ended}
        assert crm.triggers == ["password_accepted"] * 2
        await asyncio.gather(worker.idle(), web.idle())
    assert len(mail.events) == 8
    assert (await house.worker(listeners={"crm": crm, "mail": mail}).service.sweep()).delivered == 0
    assert len(crm.events) == 2


@BOTH_STORES
async def test_two_processes_that_note_at_once_whom_they_told_tell_nobody_again(house: House) -> None:
    crm, mail, held = Listener(), Listener(), Held()
    web, worker = house.worker(listeners={"crm": None, "mail": mail}), house.worker(listeners={"crm": crm})
    flow = await web.service.start("robert.zak")
    web.store.plan.extend(["ok", held])
    await web.service.cancel(flow.id)
    await held.arrived.wait()
    assert (await worker.service.sweep()).delivered == 1
    held.released.set()
    await web.idle()
    house.lease_runs_out()
    assert (await house.worker(listeners={"crm": crm, "mail": mail}).service.sweep()).delivered == 0
    assert (len(crm.events), len(mail.events)) == (1, 1)


async def test_workers_that_come_upon_the_same_backlog_share_it(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(hours=1))
    monkeypatch.setattr("reset_flow.engine.sweeper.LATE_INTERVAL", timedelta(milliseconds=10))

    async def takes_a_while(_: Event) -> None:
        await asyncio.sleep(0.001)

    crm = Listener()
    await owed(house, 240, crm=crm)
    house.lease_runs_out()
    crm.does = takes_a_while
    async with AsyncExitStack() as workers:
        for _ in range(4):
            await workers.enter_async_context(house.worker(sweep=True, listeners={"crm": crm}).service)
        await until(lambda: len({event.id for event in crm.events}) == 240)
    assert len(crm.events) < 480  # if each told all of it, it would be 960


async def test_a_defect_in_the_look_for_such_ends_is_logged_and_the_next_look_goes_on(
    house: House, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("reset_flow.engine.sweeper.INTERVAL", timedelta(hours=1))  # not by a sweep
    monkeypatch.setattr("reset_flow.engine.sweeper.LATE_INTERVAL", timedelta(milliseconds=10))
    crm = Listener()
    await whole(house.worker(listeners={"crm": None}))
    worker = house.worker(sweep=True, listeners={"crm": crm})

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Peterson")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(worker.store, "scan", broken)
        async with worker.service:
            await until(lambda: "ZeroDivisionError" in caplog.text)
            assert crm.events == []
            meanwhile.undo()
            await until(lambda: crm.events)
    assert crm.triggers == ["password_accepted"]


async def test_a_name_without_a_listener_is_owed_the_end_and_told_nothing_here(house: House) -> None:
    web = house.worker(listeners={"crm": None})
    await whole(web)
    assert (await web.service.sweep()).delivered == 0
    crm = Listener()
    assert (await house.worker(listeners={"crm": crm}).service.sweep()).delivered == 1  # before any lease is over
    assert crm.triggers == ["password_accepted"]


async def test_a_listener_that_is_still_being_told_of_an_end_is_not_told_again_meanwhile(
    house: House, until: Until
) -> None:
    released = asyncio.Event()

    async def waits(_: Event) -> None:
        await released.wait()

    mail, crm = Listener(waits), Listener()
    web = house.worker(listeners={"crm": None, "mail": mail})  # the end is due at once, for somebody to tell `crm`
    flow = await web.service.start("robert.zak")
    await web.service.cancel(flow.id)
    await until(lambda: mail.events)
    assert (await web.service.sweep()).delivered == 0
    assert len(mail.events) == 1
    released.set()
    await web.idle()
    assert (await web.service.sweep()).delivered == 0
    assert (await house.worker(listeners={"crm": crm, "mail": mail}).service.sweep()).delivered == 1
    assert (mail.triggers, crm.triggers) == (["abandon"], ["abandon"])

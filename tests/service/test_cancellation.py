"""A caller who goes away, and a service that closes: the command goes on to its end all the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.errors import FlowBusy, OutcomeInDoubt, StoreUnavailable
from reset_flow.domain.flow import State, Step
from reset_flow.domain.outcomes import Accepted, Rejected
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.testing import refused
from reset_flow.testing.transport import Held
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from reset_flow.domain.flow import Event
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, MakeEtna, Person, Until

CASES: dict[str, tuple[State, str, tuple[str, ...], State]] = {
    "answer": (State.REQUESTED, "request", ("Peterson",), State.QUESTION_ANSWERED),
    "resend": (State.QUESTION_ANSWERED, "request", (), State.QUESTION_ANSWERED),
    "verify": (State.QUESTION_ANSWERED, "exchange", ("004158",), State.TOKEN_ISSUED),
    "set_password": (State.TOKEN_ISSUED, "update", ("violet tractor 5",), State.PASSWORD_SET),
    "cancel": (State.TOKEN_ISSUED, "", (), State.FAILED),
}
PLACES = [(command, place) for command in CASES for place in ("intent", "call", "outcome") if command != "cancel"]
WAYS = pytest.mark.parametrize("way", ["cancel", "timeout"])


async def leaves(work: Coroutine[object, object, object], held: Held, way: str) -> None:
    """Go away once the work is held."""
    limit = asyncio.timeout(None)

    async def timed() -> None:
        async with limit:
            await work

    task = asyncio.create_task(timed() if way == "timeout" else work)
    await held.arrived.wait()
    if way == "cancel":
        task.cancel()
    else:
        limit.reschedule(0)
    with pytest.raises(TimeoutError if way == "timeout" else asyncio.CancelledError):
        await task


@WAYS
@pytest.mark.parametrize(("command", "place"), [*PLACES, ("cancel", "intent")])
async def test_a_command_goes_on_without_its_caller(
    *, house: House, at: At, clock: FrozenClock, command: str, place: str, way: str
) -> None:
    worker = house.worker()
    before, route, given, after = CASES[command]
    flow = await at(worker, before)
    clock.advance(timedelta(minutes=1))
    held = worker.transport.hold(route) if place == "call" else Held()
    if place != "call":
        worker.store.plan.extend([held] if place == "intent" else ["ok", held])
    await leaves(getattr(worker.service, command)(flow.id, *given), held, way)
    if place == "call":
        await refused(getattr(worker.service, command)(flow.id, *given), FlowBusy)
    held.released.set()
    await worker.idle()
    flow = await worker.service.get(flow.id)
    assert (flow.state, flow.in_doubt) == (after, None)
    assert len(worker.transport.calls) == (command != "cancel")
    assert len(worker.store.saves) == 1 + (command != "cancel")


@WAYS
@pytest.mark.parametrize("question", ["", "?"])
async def test_a_start_goes_on_from_its_first_save_on(house: House, question: str, way: str) -> None:
    worker = house.worker()
    challenge = Accepted(value=Secret(question))
    held = worker.transport.hold("challenge", challenge)
    await leaves(worker.service.start("robert.zak", tags=["t"]), held, way)
    await worker.idle()
    assert await worker.service.find("t") == []
    assert worker.store.tries == 0
    for place in ("save",) if question else ("save", "call", "outcome"):
        worker.transport.script(challenge=[challenge])
        held = Held()
        if place == "call":
            held = worker.transport.hold("request")
        else:
            worker.store.plan.extend([held] if place == "save" else ["ok", held])
        await leaves(worker.service.start("robert.zak", tags=[place]), held, way)
        held.released.set()
        await worker.idle()
        (flow,) = await worker.service.find(place)
        assert flow.state is (State.REQUESTED if question else State.QUESTION_ANSWERED)


async def test_a_doubt_is_cleared_up_without_its_caller(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person
) -> None:
    deadline = timedelta(seconds=20)
    worker = house.worker(etna(deadline=deadline))
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    sandbox.fault("update", "hang_after")
    task = asyncio.create_task(person.does(worker.service, flow, "set_password"))
    await sandbox.wait_for_calls("update", acted=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    let_time_pass(deadline)
    await worker.idle()
    flow = await worker.service.get(flow.id)
    assert flow.state is State.PASSWORD_SET
    assert [call.route for call in sandbox.calls][-3:] == ["update", "update", "log_in"]
    person.check(flow)


@WAYS
async def test_a_caller_who_leaves_while_a_dead_call_is_settled(house: House, at: At, way: str) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    task = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    again = other.transport.hold("exchange")
    await leaves(other.service.verify(flow.id, "004158"), again, way)
    again.released.set()
    await other.idle()
    assert (await other.service.get(flow.id)).state is State.TOKEN_ISSUED
    assert len(other.transport.calls) == 1


async def test_a_caller_who_leaves_after_a_refusal_disturbs_nobody(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange", Rejected(reasons=["no"]))
    await leaves(worker.service.verify(flow.id, "004158"), held, "cancel")
    held.released.set()
    await worker.idle()
    assert (await worker.service.get(flow.id)).history[-1].trigger == "code_refused"


# Closing


async def test_closing_waits_for_what_is_under_way(house: House, at: At) -> None:
    heard: list[str] = []
    told, go_on = asyncio.Event(), asyncio.Event()

    async def listener(event: Event) -> None:
        if event.flow.ended:
            told.set()
            await go_on.wait()
            heard.append(event.transition.trigger)

    worker = house.worker(listeners={"mail": listener})
    flow = await at(worker, State.TOKEN_ISSUED)
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    closing = asyncio.create_task(worker.service.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    held.released.set()
    assert (await task).state is State.PASSWORD_SET
    await told.wait()
    assert not closing.done()
    go_on.set()
    await closing
    assert (heard, worker.transport.closed) == (["password_accepted"], True)
    assert (await house.worker().service.get(flow.id)).state is State.PASSWORD_SET
    await worker.service.aclose()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_closing_gives_up_in_time_and_leaves_an_intent(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    async with asyncio.timeout(30):
        await worker.service.aclose(timedelta(seconds=0.02))
    assert held.left.is_set()
    await refused(task, OutcomeInDoubt)
    await refused(other.service.cancel(flow.id), FlowBusy)
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 1
    flow = await other.service.get(flow.id)
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD)


async def test_closing_gives_up_an_outcome_that_no_store_takes(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.REQUESTED)
    held = worker.transport.hold("request")
    task = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    worker.store.down = True
    held.released.set()
    async with asyncio.timeout(30):
        await worker.service.aclose(timedelta(seconds=0.1))
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(result, OutcomeInDoubt | StoreUnavailable)
    house.lease_runs_out()
    await other.service.sweep()
    assert (await other.service.get(flow.id)).in_doubt is Step.ANSWER


async def test_the_context_manager_closes_what_it_was_given(house: House, clock: FrozenClock) -> None:
    store = MemoryStore(clock=clock)
    transport = house.worker().transport
    async with ResetService(transport, store, house.keyring, clock=clock) as service:
        flow = await service.start("robert.zak")
    assert transport.closed
    await refused(store.load(flow.id), StoreUnavailable)
    await refused(service.get(flow.id), StoreUnavailable)


async def test_what_comes_too_late_for_a_closed_service_leaves_nothing_running(
    house: House, clock: FrozenClock, until: Until
) -> None:
    transport = house.worker().transport
    service = ResetService(transport, MemoryStore(clock=clock), house.keyring, clock=clock, sweep=False)
    held = transport.hold("challenge", Accepted(value=Secret("")))
    late = asyncio.create_task(service.start("robert.zak"))
    await held.arrived.wait()
    await service.aclose()
    held.released.set()
    await refused(late, StoreUnavailable)
    here = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() == {here})


async def test_the_sweep_of_the_background_ends_with_the_service(house: House) -> None:
    before = len(asyncio.all_tasks())
    async with house.worker(policy=Policy(), sweep=True).service:
        assert len(asyncio.all_tasks()) == before + 1
    assert len(asyncio.all_tasks()) == before

"""A caller who goes away, and a service that closes: the command goes on to its end all the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from reset_flow import testing
from reset_flow.domain.errors import FlowBusy, OutcomeInDoubt, StoreUnavailable
from reset_flow.domain.flow import State, Step
from reset_flow.domain.outcomes import Accepted, Rejected
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.testing.transport import Held

refused: Any = testing.refused

ROADS: dict[str, tuple[State, str, tuple[str, ...], State]] = {
    "answer": (State.REQUESTED, "request", ("Peterson",), State.QUESTION_ANSWERED),
    "resend": (State.QUESTION_ANSWERED, "request", (), State.QUESTION_ANSWERED),
    "verify": (State.QUESTION_ANSWERED, "exchange", ("004158",), State.TOKEN_ISSUED),
    "set_password": (State.TOKEN_ISSUED, "update", ("violet tractor 5",), State.PASSWORD_SET),
    "cancel": (State.TOKEN_ISSUED, "", (), State.FAILED),
}
PLACES = [(command, place) for command in ROADS for place in ("intent", "call", "outcome") if command != "cancel"]
WAYS = pytest.mark.parametrize("way", ["cancel", "timeout"])


async def leaves(work: Any, held: Held, way: str) -> None:
    """Go away once the work is held."""

    async def timed() -> None:
        async with asyncio.timeout(0.02):
            await work

    task = asyncio.create_task(timed() if way == "timeout" else work)
    await held.arrived.wait()
    if way == "cancel":
        task.cancel()
    with pytest.raises(TimeoutError if way == "timeout" else asyncio.CancelledError):
        await task


@WAYS
@pytest.mark.parametrize(("command", "place"), [*PLACES, ("cancel", "intent")])
async def test_a_command_goes_on_without_its_caller(
    *, house: Any, at: Any, clock: Any, command: str, place: str, way: str
) -> None:
    worker = house.worker()
    before, route, given, after = ROADS[command]
    flow = await at(worker, before)
    clock.advance(timedelta(minutes=1))
    held = worker.transport.hold(route) if place == "call" else Held()
    if place != "call":
        worker.door.plan.extend([held] if place == "intent" else ["ok", held])
    await leaves(getattr(worker.service, command)(flow.id, *given), held, way)
    if place == "call":
        await refused(getattr(worker.service, command)(flow.id, *given), FlowBusy)
    held.released.set()
    await worker.idle()
    flow = await worker.service.get(flow.id)
    assert (flow.state, flow.in_doubt) == (after, None)
    assert len(worker.transport.calls) == (command != "cancel")
    assert len(worker.door.saves) == 1 + (command != "cancel")


@WAYS
@pytest.mark.parametrize("question", ["", "?"])
async def test_a_start_goes_on_from_its_first_save_on(house: Any, question: str, way: str) -> None:
    worker = house.worker()
    challenge = Accepted(value=Secret(question))
    held = worker.transport.hold("challenge", challenge)
    await leaves(worker.service.start("robert.zak", tags=["t"]), held, way)
    await worker.idle()
    assert await worker.service.find("t") == []
    assert worker.door.tries == 0
    for place in ("save",) if question else ("save", "call", "outcome"):
        worker.transport.script(challenge=[challenge])
        held = Held()
        if place == "call":
            held = worker.transport.hold("request")
        else:
            worker.door.plan.extend([held] if place == "save" else ["ok", held])
        await leaves(worker.service.start("robert.zak", tags=[place]), held, way)
        held.released.set()
        await worker.idle()
        (flow,) = await worker.service.find(place)
        assert flow.state is (State.REQUESTED if question else State.QUESTION_ANSWERED)


async def test_a_doubt_is_cleared_up_without_its_caller(house: Any, etna: Any, sandbox: Any, person: Any) -> None:
    worker = house.worker(etna(deadline=timedelta(seconds=0.2)))
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    sandbox.fault("update", "hang_after")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await person.does(worker.service, flow, "set_password")
    await worker.idle()
    flow = await worker.service.get(flow.id)
    assert flow.state is State.PASSWORD_SET
    assert [call.route for call in sandbox.calls][-3:] == ["update", "update", "log_in"]
    person.check(flow)


@WAYS
async def test_a_caller_who_leaves_while_a_dead_call_is_settled(house: Any, at: Any, way: str) -> None:
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


async def test_a_caller_who_leaves_after_a_refusal_disturbs_nobody(house: Any, at: Any) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange", Rejected(reasons=["no"]))
    await leaves(worker.service.verify(flow.id, "004158"), held, "cancel")
    held.released.set()
    await worker.idle()
    assert (await worker.service.get(flow.id)).history[-1].trigger == "code_refused"


# Closing


async def test_closing_waits_for_what_is_under_way(house: Any, at: Any) -> None:
    heard: list[str] = []

    async def listener(event: Any) -> None:
        await asyncio.sleep(0.01)
        heard.append(event.transition.trigger)

    worker = house.worker(listeners={"mail": listener})
    flow = await at(worker, State.TOKEN_ISSUED)
    heard.clear()
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    closing = asyncio.create_task(worker.service.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    held.released.set()
    assert (await task).state is State.PASSWORD_SET
    await closing
    assert (heard, worker.transport.closed) == (["password_accepted"], True)
    assert (await house.worker().service.get(flow.id)).state is State.PASSWORD_SET
    await worker.service.aclose()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_closing_gives_up_in_time_and_leaves_an_intent(house: Any, at: Any) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    async with asyncio.timeout(2):
        await worker.service.aclose(timedelta(seconds=0.02))
    assert held.left.is_set()
    await refused(task, OutcomeInDoubt)
    await refused(other.service.cancel(flow.id), FlowBusy)
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 1
    flow = await other.service.get(flow.id)
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD)


async def test_closing_gives_up_an_outcome_that_no_store_takes(house: Any, at: Any) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.REQUESTED)
    held = worker.transport.hold("request")
    task = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    worker.door.down = True
    held.released.set()
    async with asyncio.timeout(3):
        await worker.service.aclose(timedelta(seconds=0.1))
    result = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(result, OutcomeInDoubt | StoreUnavailable)
    house.lease_runs_out()
    await other.service.sweep()
    assert (await other.service.get(flow.id)).in_doubt is Step.ANSWER


async def test_the_context_manager_closes_what_it_was_given(house: Any, clock: Any) -> None:
    store = MemoryStore(clock=clock)
    transport = house.worker().transport
    async with ResetService(transport, store, house.keyring, clock=clock) as service:
        flow = await service.start("robert.zak")
    assert transport.closed
    await refused(store.load(flow.id), StoreUnavailable)
    await refused(service.get(flow.id), StoreUnavailable)


async def test_what_comes_too_late_for_a_closed_service_leaves_nothing_running(house: Any, clock: Any) -> None:
    transport = house.worker().transport
    service = ResetService(transport, MemoryStore(clock=clock), house.keyring, clock=clock, sweep=False)
    held = transport.hold("challenge", Accepted(value=Secret("")))
    late = asyncio.create_task(service.start("robert.zak"))
    await held.arrived.wait()
    await service.aclose()
    held.released.set()
    await refused(late, StoreUnavailable)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_sweep_of_the_background_ends_with_the_service(house: Any) -> None:
    before = len(asyncio.all_tasks())
    async with house.worker(policy=Policy(), sweep=True).service:
        assert len(asyncio.all_tasks()) == before + 1
    assert len(asyncio.all_tasks()) == before

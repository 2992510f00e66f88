"""A process dies in the middle, and another one goes on: what was sent, what is told, where the flow stands."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from reset_flow.domain.errors import (
    CodeRejected,
    FlowBusy,
    FlowEnded,
    IllegalCommand,
    LimitReached,
    OutcomeInDoubt,
    ResetFlowError,
    WrongBroker,
)
from reset_flow.domain.flow import Failure, State, Step
from reset_flow.domain.outcomes import NotActed, Rejected, Unknown
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.testing import refused
from reset_flow.testing.transport import Held, ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from reset_flow.domain.flow import Flow
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, MakeEtna, Person, ScriptedWorker, Until, Worker

BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])

ROUTES = {"answer": "request", "resend": "request", "verify": "exchange", "set_password": "update"}
STANDS = {
    "answer": State.REQUESTED,
    "resend": State.QUESTION_ANSWERED,
    "verify": State.QUESTION_ANSWERED,
    "set_password": State.TOKEN_ISSUED,
}
GIVEN = {"answer": ["Peterson"], "resend": [], "verify": ["004158"], "set_password": ["violet tractor 5"]}
IN_DOUBT = {"answer": Step.ANSWER, "resend": Step.ANSWER, "verify": Step.CODE, "set_password": Step.PASSWORD}
COMMANDS = pytest.mark.parametrize("command", list(ROUTES))


class Crash(Protocol):
    """Have a worker die in the middle of the call of a command; return its flow, and another worker."""

    async def __call__(self, command: str) -> tuple[Flow, ScriptedWorker]: ...


def give(worker: Worker, flow: Flow, command: str) -> Coroutine[object, object, Flow]:
    call: Coroutine[object, object, Flow] = getattr(worker.service, command)(flow.id, *GIVEN[command])
    return call


@pytest.fixture
def crash(house: House, at: At, clock: FrozenClock) -> Crash:
    async def crash(command: str) -> tuple[Flow, ScriptedWorker]:
        worker = house.worker()
        flow = await at(worker, STANDS[command])
        clock.advance(timedelta(minutes=1))
        held = worker.transport.hold(ROUTES[command])
        task = asyncio.create_task(give(worker, flow, command))
        await held.arrived.wait()
        await worker.dies()
        await asyncio.gather(task, return_exceptions=True)
        return flow, house.worker()

    return crash


@BOTH_STORES
@COMMANDS
async def test_while_the_lease_lasts_nobody_touches_the_flow(crash: Crash, clock: FrozenClock, command: str) -> None:
    flow, other = await crash(command)
    seen = await other.service.get(flow.id)
    assert (seen.state, seen.in_doubt, seen.version) == (flow.state, None, flow.version + 1)
    assert seen.busy_until == clock() + timedelta(seconds=30), "busy, which is no doubt"
    clock.advance(timedelta(seconds=29))
    for each in ("answer", "resend", "verify", "set_password"):
        error = await refused(give(other, flow, each), FlowBusy)
        assert error.retry_after == timedelta(seconds=1)
        assert "1 s at the most" in str(error)
        assert (error.flow, error.command, error.retryable) == (seen, command, True)
    error = await refused(other.service.cancel(flow.id), FlowBusy)
    assert (await other.service.sweep()).settled == 0
    assert (other.transport.calls, other.store.saves) == ([], [])
    clock.advance(timedelta(seconds=2))
    seen = await other.service.get(flow.id)
    assert (seen.in_doubt, seen.busy_until) == (IN_DOUBT[command], None)


@BOTH_STORES
@COMMANDS
async def test_the_sweep_settles_what_a_dead_process_left(house: House, crash: Crash, command: str) -> None:
    flow, other = await crash(command)
    house.lease_runs_out()
    other.transport.script(exchange=[Unknown()])
    assert (await other.service.sweep()).settled == 1
    flow = await other.service.get(flow.id)
    assert flow.in_doubt is IN_DOUBT[command]
    trigger = {
        "answer": "answer_in_doubt",
        "resend": "resend_in_doubt",
        "verify": "code_in_doubt",
        "set_password": "password_in_doubt",
    }[command]
    assert flow.history[-1].trigger == trigger
    assert [call.name for call in other.transport.calls] == (["exchange"] if command == "verify" else [])
    assert (await other.service.sweep()).settled == 0
    assert (await other.service.cancel(flow.id)).ended


async def test_a_start_that_a_dead_process_left_is_found_by_its_ref(
    house: House, sandbox: Sandbox, etna: MakeEtna
) -> None:
    worker, other = house.worker(etna()), house.worker(etna())
    sandbox.fault("request", "hang_after")
    task = asyncio.create_task(worker.service.start("maria.noquestion", ref="r", tags=["t"]))
    await sandbox.wait_for_calls("request", acted=True)
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    await refused(other.service.start("maria.noquestion", ref="r"), FlowBusy)
    house.lease_runs_out()
    flow = await other.service.start("maria.noquestion", ref="r")
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.ANSWER)
    assert await other.service.start("maria.noquestion", ref="r") == flow
    assert [each.id for each in await other.service.find("t")] == [flow.id]
    assert len(sandbox.calls_of("request")) == len(sandbox.mails) == 1
    flow = await other.service.verify(flow.id, sandbox.newest_code("maria.noquestion"))
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)


async def test_a_start_without_a_ref_is_found_by_its_tag(house: House, sandbox: Sandbox, etna: MakeEtna) -> None:
    worker, other = house.worker(etna()), house.worker(etna())
    sandbox.fault("request", "hang_after")
    task = asyncio.create_task(worker.service.start("maria.noquestion", tags=["t"]))
    await sandbox.wait_for_calls("request", acted=True)
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 1
    (flow,) = await other.service.find("t")
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.ANSWER)


@pytest.mark.parametrize("command", ["answer", "resend"])
async def test_an_email_is_never_asked_for_twice_by_the_librarys_doing(
    house: House, crash: Crash, clock: FrozenClock, command: str
) -> None:
    flow, other = await crash(command)
    house.lease_runs_out()
    flow = await give(other, flow, command)  # the same again: it gives what became of the first
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.ANSWER)
    assert other.transport.calls == []
    if command == "answer":
        await refused(give(other, flow, command), IllegalCommand)
    else:
        await refused(give(other, flow, command), LimitReached)
    clock.advance(timedelta(minutes=1))
    flow = await other.service.resend(flow.id)
    assert (flow.in_doubt, len(other.transport.calls)) == (None, 1)
    assert other.transport.calls[0].given == Secret("Peterson")


async def test_another_answer_after_a_crash_is_no_repetition(house: House, crash: Crash) -> None:
    flow, other = await crash("answer")
    house.lease_runs_out()
    error = await refused(other.service.answer(flow.id, "Pedersen"), IllegalCommand)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt, other.transport.calls) == (
        State.QUESTION_ANSWERED,
        Step.ANSWER,
        [],
    )


async def test_the_same_code_after_a_crash_is_sent_once_more_and_gives_what_came_of_it(
    house: House, crash: Crash
) -> None:
    flow, other = await crash("verify")
    house.lease_runs_out()
    flow = await other.service.verify(flow.id, " 004-158 ")
    assert (flow.state, flow.in_doubt, len(other.transport.calls)) == (State.TOKEN_ISSUED, None, 1)
    await refused(other.service.verify(flow.id, "004158"), IllegalCommand)


async def test_a_code_that_was_spent_by_a_dead_process_is_said_to_be(house: House, crash: Crash) -> None:
    flow, other = await crash("verify")
    house.lease_runs_out()
    other.transport.script(exchange=[Rejected(reasons=["spent"])])
    error = await refused(other.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.history[-1].trigger, error.flow.attempts_left) == ("code_spent", 5)
    assert len(other.transport.calls) == 1
    other.transport.script(exchange=[Rejected(reasons=["spent"])])
    rejected = await refused(other.service.verify(flow.id, "004158"), CodeRejected)
    assert rejected.flow
    assert rejected.flow.attempts_left == 4


async def test_another_code_after_a_crash_comes_after_the_first_is_settled(house: House, crash: Crash) -> None:
    flow, other = await crash("verify")
    house.lease_runs_out()
    other.transport.script(exchange=[Rejected()])
    flow = await other.service.verify(flow.id, "004159")
    assert flow.state is State.TOKEN_ISSUED
    assert [call.given for call in other.transport.calls] == [Secret("004158"), Secret("004159")]


async def test_no_code_is_sent_a_third_time_in_however_many_crashes(house: House, crash: Crash) -> None:
    flow, _ = await crash("verify")
    sent = 1
    for _ in range(4):
        house.lease_runs_out()
        worker = house.worker()
        held = worker.transport.hold("exchange")
        sweep = asyncio.create_task(worker.service.sweep())
        await asyncio.wait([sweep, asyncio.create_task(held.arrived.wait())], return_when=asyncio.FIRST_COMPLETED)
        sent += len(worker.transport.calls)
        await worker.dies()
        await asyncio.gather(sweep, return_exceptions=True)
        held.arrived.set()
    assert sent == 2
    last = house.worker()
    flow = await last.service.get(flow.id)
    assert (flow.history[-1].trigger, flow.in_doubt, flow.attempts_left) == ("code_in_doubt", Step.CODE, 4)
    assert last.transport.calls == []


@pytest.mark.parametrize("plan", ["before", "after"])
async def test_a_crash_between_the_intent_of_the_second_sending_and_the_sending(
    house: House, at: At, plan: str
) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Unknown()])
    gate = Held()
    worker.store.plan.extend(["ok", gate] if plan == "before" else ["ok", "after", gate])
    task = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await gate.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    other = house.worker()
    other.transport.script(exchange=[Unknown()])
    await refused(other.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert len(worker.transport.calls) == 1
    assert len(other.transport.calls) == (plan == "before")
    assert (await other.service.get(flow.id)).attempts_left == 4


async def test_of_two_who_find_a_dead_process_one_repeats_its_code(house: House, crash: Crash) -> None:
    flow, first = await crash("verify")
    second = house.worker()
    house.lease_runs_out()
    results = await asyncio.gather(
        *(worker.service.verify(flow.id, "004158") for worker in (first, second)), return_exceptions=True
    )
    assert len(first.transport.calls) + len(second.transport.calls) == 1
    assert any(not isinstance(result, BaseException) for result in results)
    assert (await second.service.get(flow.id)).state is State.TOKEN_ISSUED


async def test_a_worker_that_was_taken_for_dead_does_not_undo_what_others_settled(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.REQUESTED)
    held = worker.transport.hold("request", Rejected(reasons=["no"]))
    task = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 1
    settled = await other.service.get(flow.id)
    held.released.set()
    error = await refused(task, OutcomeInDoubt)
    assert error.flow == settled == await worker.service.get(flow.id)
    assert settled.in_doubt is Step.ANSWER


@BOTH_STORES
async def test_a_password_is_typed_again_after_a_crash(
    house: House, sandbox: Sandbox, etna: MakeEtna, person: Person
) -> None:
    for fault, acted in (("hang_after", True), ("hang_before", False)):
        worker, other = house.worker(etna()), house.worker(etna())
        sandbox.user("robert.zak").password_changes = 0
        person.asked.clear()
        seen = len(sandbox.calls)
        sent = len(sandbox.calls_of("update"))
        flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
        sandbox.fault("update", fault)
        task = asyncio.create_task(person.does(worker.service, flow, "set_password", f"a password {fault}"))
        await sandbox.wait_for_calls("update", sent + 1)
        await worker.dies()
        await asyncio.gather(task, return_exceptions=True)
        house.lease_runs_out()
        assert (await other.service.sweep()).settled == 1
        flow = await other.service.get(flow.id)
        assert (flow.state, flow.in_doubt, flow.attempts_left) == (State.TOKEN_ISSUED, Step.PASSWORD, 9)
        flow = await person.does(other.service, flow, "set_password", f"a password {fault}")
        assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
        routes = [call.route for call in sandbox.calls[seen:]][3:]
        assert routes == (["update", "update", "log_in"] if acted else ["update", "update"])
        assert sandbox.user("robert.zak").password_changes == 1


async def test_another_password_after_a_crash_may_be_refused_and_nobody_knows_why(
    house: House, sandbox: Sandbox, etna: MakeEtna, person: Person
) -> None:
    worker, other = house.worker(etna()), house.worker(etna())
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    sandbox.fault("update", "hang_after")
    task = asyncio.create_task(person.does(worker.service, flow, "set_password"))
    await sandbox.wait_for_calls("update", acted=True)
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    error = await refused(person.does(other.service, flow, "set_password", "another one 6"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD)
    flow = await person.does(other.service, flow, "set_password")
    assert flow.state is State.PASSWORD_SET
    person.check(flow)


# Every point of a whole reset, over the sandbox


CRASHES = [
    (command, place)
    for command in ("answer", "verify", "set_password")
    for place in ("before the intent", "after the intent", "before the act", "after the act", "before the outcome")
]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(("command", "place"), CRASHES)
async def test_a_reset_survives_a_crash_anywhere(
    *,
    house: House,
    sandbox: Sandbox,
    etna: MakeEtna,
    person: Person,
    clock: FrozenClock,
    command: str,
    place: str,
    until: Until,
) -> None:
    worker = house.worker(etna())
    flow = await person.reaches(worker.service, STANDS[command])
    route, before = ROUTES[command], len(sandbox.calls)
    gate = Held()
    match place:
        case "before the intent":
            worker.store.plan.append(gate)
        case "after the intent":
            worker.store.plan.extend(["after", gate])
        case "before the act":
            sandbox.fault(route, "hang_before")
        case "after the act":
            sandbox.fault(route, "hang_after")
        case _:
            worker.store.plan.extend(["ok", gate])
    task = asyncio.create_task(person.does(worker.service, flow, command))
    arrived = asyncio.create_task(gate.arrived.wait())
    await until(lambda: arrived.done() or ("act" in place and len(sandbox.calls) > before))
    await worker.dies()
    arrived.cancel()
    await asyncio.gather(task, arrived, return_exceptions=True)
    house.lease_runs_out()
    clock.advance(timedelta(minutes=1))

    service = house.worker(etna()).service
    for _ in range(8):
        await service.sweep()
        flow = await service.get(flow.id)
        if flow.ended:
            break
        has_code = any(mail.user == person.login for mail in sandbox.mails)
        lost = flow.in_doubt is Step.CODE or (flow.expects is Step.CODE and not has_code)
        match flow.expects:
            case Step.ANSWER:
                command = "answer"
            case Step.CODE:
                command = "resend" if lost else "verify"
            case _:
                command = "set_password"
        try:
            flow = await person.does(service, flow, command)
        except ResetFlowError as error:
            assert isinstance(error, OutcomeInDoubt | CodeRejected | LimitReached), error  # noqa: PT017
            clock.advance(timedelta(minutes=1))
    assert flow.state is State.PASSWORD_SET
    person.check(flow)
    assert sandbox.user("robert.zak").password_changes == 1


# Time


@COMMANDS
async def test_a_flow_whose_time_is_up_in_doubt_ends_and_sends_nothing(
    crash: Crash, clock: FrozenClock, command: str
) -> None:
    flow, other = await crash(command)
    clock.advance(timedelta(hours=2))
    report = await other.service.sweep()
    assert (report.settled, report.expired) == (1, 1)
    flow = await other.service.get(flow.id)
    failure = Failure.OUTCOME_UNKNOWN if command == "set_password" else Failure.EXPIRED
    assert (flow.state, flow.failure, flow.in_doubt) == (State.FAILED, failure, IN_DOUBT[command])
    await refused(give(other, flow, command), FlowEnded)
    assert other.transport.calls == []


@COMMANDS
async def test_a_flow_whose_time_is_up_in_doubt_ends_by_being_looked_at(
    crash: Crash, clock: FrozenClock, command: str
) -> None:
    flow, other = await crash(command)
    clock.advance(timedelta(hours=2))
    assert (await other.service.get(flow.id)).ended
    async with asyncio.timeout(30):
        assert (await other.service.wait(flow.id)).ended
    assert other.transport.calls == []


async def test_a_command_that_is_under_way_when_the_time_is_up_is_let_through(
    house: House, at: At, clock: FrozenClock
) -> None:
    worker, other = house.worker(policy=Policy(lease=timedelta(hours=3))), house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    held = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, "violet tractor 5"))
    await held.arrived.wait()
    clock.advance(timedelta(hours=2))
    assert not (await other.service.get(flow.id)).ended
    await refused(other.service.cancel(flow.id), FlowBusy)
    assert (await other.service.sweep()).expired == 0
    held.released.set()
    assert (await task).state is State.PASSWORD_SET


async def test_what_another_broker_left_is_left_to_its_own_workers(house: House, crash: Crash) -> None:
    flow, mine = await crash("verify")
    other = house.worker(ScriptedTransport("other"))
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 0
    await refused(other.service.verify(flow.id, "004158"), WrongBroker)
    assert other.transport.calls == []
    assert (await mine.service.sweep()).settled == 1


async def test_a_second_sending_that_can_not_be_made_leaves_the_doubt(house: House, crash: Crash) -> None:
    flow, other = await crash("verify")
    house.lease_runs_out()
    other.transport.script(exchange=[NotActed()])
    error = await refused(other.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.in_doubt, error.flow.attempts_left) == (Step.CODE, 4)
    assert (await other.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED

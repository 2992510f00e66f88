"""The same again: keys of commands, names of resets, tags."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerUnavailable,
    CodeRejected,
    FlowBusy,
    FlowEnded,
    IllegalCommand,
    KeyReused,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
)
from reset_flow.domain.flow import Credential, Failure, State, Step
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Rejected, Unknown
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.testing import refused

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.domain.flow import Flow
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, ScriptedWorker, Worker

BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])
COMMANDS: dict[str, tuple[State, str, tuple[str, ...]]] = {
    "answer": (State.REQUESTED, "request", ("Peterson",)),
    "resend": (State.QUESTION_ANSWERED, "request", ()),
    "verify": (State.QUESTION_ANSWERED, "exchange", ("004158",)),
    "set_password": (State.TOKEN_ISSUED, "update", ("violet tractor 5",)),
    "cancel": (State.TOKEN_ISSUED, "", ()),
}
CALLING = [command for command in COMMANDS if command != "cancel"]


async def stands(worker: ScriptedWorker, at: At, clock: FrozenClock, command: str) -> Flow:
    flow = await at(worker, COMMANDS[command][0])
    clock.advance(timedelta(minutes=1))
    return flow


def give(worker: Worker, flow: Flow, command: str, key: str = "key") -> Coroutine[object, object, Flow]:
    call: Coroutine[object, object, Flow] = getattr(worker.service, command)(flow.id, *COMMANDS[command][2], key=key)
    return call


# Keys


@BOTH_STORES
@pytest.mark.parametrize("command", list(COMMANDS))
async def test_a_command_with_a_key_is_carried_out_once(house: House, at: At, clock: FrozenClock, command: str) -> None:
    worker, other = house.worker(), house.worker()
    flow = await stands(worker, at, clock, command)
    first = await give(worker, flow, command)
    for each in (worker, other, worker):
        assert await give(each, flow, command) == first
    assert len(worker.transport.calls) == (command != "cancel")
    assert other.transport.calls == []


async def test_a_result_is_the_flow_as_it_now_stands(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    await give(worker, flow, "answer", "a")
    await give(worker, flow, "verify", "v")
    last = await give(worker, flow, "set_password", "p")
    for command, key in (("answer", "a"), ("verify", "v"), ("set_password", "p")):
        assert await give(worker, flow, command, key) == last
    assert len(worker.transport.calls) == 3


@pytest.mark.parametrize(
    ("command", "outcome", "kind"),
    [
        ("answer", Rejected(reasons=["no"]), AnswerRejected),
        ("resend", Rejected(reasons=["no"]), AnswerRejected),
        ("verify", Rejected(reasons=["no"]), CodeRejected),
        ("verify", Accepted(), OutcomeInDoubt),
        ("set_password", Rejected(reasons=["no"]), PasswordRejected),
    ],
)
async def test_a_refusal_with_a_key_is_told_again(
    *, house: House, at: At, clock: FrozenClock, command: str, outcome: Outcome, kind: type[ResetFlowError]
) -> None:
    worker, other = house.worker(), house.worker()
    flow = await stands(worker, at, clock, command)
    worker.transport.script(**{COMMANDS[command][1]: [outcome]})
    first = await refused(give(worker, flow, command), kind)
    for each in (worker, other):
        again = await refused(give(each, flow, command), kind)
        assert again.flow == first.flow
        assert again.code == first.code
    assert (len(worker.transport.calls), other.transport.calls) == (1, [])


@pytest.mark.parametrize("command", ["verify", "set_password"])
async def test_while_a_doubt_stands_its_key_runs_the_command_again(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    worker = house.worker()
    flow = await stands(worker, at, clock, command)
    worker.transport.script(**{COMMANDS[command][1]: [Unknown()] * 4, "log_in": [Unknown()] * 2})
    for attempt in (1, 2):
        error = await refused(give(worker, flow, command), OutcomeInDoubt)
        assert error.flow
        assert flow.attempts_left
        assert error.flow.attempts_left == flow.attempts_left - attempt, "each run is counted"
    done = await give(worker, flow, command)
    assert done.in_doubt is None
    calls = len(worker.transport.calls)
    assert await give(worker, flow, command) == done, "from now on it is recalled"
    assert len(worker.transport.calls) == calls


@pytest.mark.parametrize("command", ["verify", "set_password"])
async def test_a_doubt_that_another_command_cleared_is_only_recalled(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    worker = house.worker()
    flow = await stands(worker, at, clock, command)
    worker.transport.script(**{COMMANDS[command][1]: [Unknown()] * 2, "log_in": [Unknown()]})
    await refused(give(worker, flow, command), OutcomeInDoubt)
    done = await give(worker, flow, command, "another key")
    calls = len(worker.transport.calls)
    error = await refused(give(worker, flow, command), OutcomeInDoubt)
    assert (error.flow, len(worker.transport.calls)) == (done, calls)
    assert "its doubt no longer counts: the reset " in str(error)
    assert str(error).endswith("now expects the password" if command == "verify" else "is done")


async def test_a_code_that_is_spent_is_only_recalled(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Unknown(), Rejected()])
    first = await refused(give(worker, flow, "verify"), OutcomeInDoubt)
    assert first.flow
    assert first.flow.history[-1].trigger == "code_spent"
    again = await refused(give(worker, flow, "verify"), OutcomeInDoubt)
    assert (again.flow, len(worker.transport.calls)) == (first.flow, 2)
    assert "ask for another code" in str(again)


async def test_a_refusal_told_again_says_what_comes_now(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected()])
    await refused(give(worker, flow, "verify"), CodeRejected)
    for comes, then in (
        ("the reset now expects the code", give(worker, flow, "verify", "another key")),
        ("the reset now expects the password", worker.service.cancel(flow.id)),
        ("the reset has ended, start another one", worker.service.get(flow.id)),
    ):
        error = await refused(give(worker, flow, "verify"), CodeRejected)
        assert [reason.code for reason in error.reasons] == ["repeated"]
        assert str(error).endswith(comes)
        await then


async def test_a_password_that_may_be_set_is_told_as_long_as_nobody_knows(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    worker.transport.script(update=[Unknown(), Rejected(about=Step.CODE)], log_in=[Unknown()])
    await refused(give(worker, flow, "set_password"), OutcomeInDoubt)
    unknown = "nobody knows whether the new password is set: try to log in with it"
    error = await refused(give(worker, flow, "set_password"), OutcomeInDoubt)
    assert str(error) == f"{unknown}; the reset now expects the code"
    await worker.service.cancel(flow.id)
    error = await refused(give(worker, flow, "set_password"), OutcomeInDoubt)
    assert str(error) == f"{unknown}; the reset has ended, start another one"


@pytest.mark.parametrize("command", CALLING)
async def test_a_key_that_is_under_way_is_busy(house: House, at: At, clock: FrozenClock, command: str) -> None:
    worker, other = house.worker(), house.worker()
    flow = await stands(worker, at, clock, command)
    held = worker.transport.hold(COMMANDS[command][1])
    task = asyncio.create_task(give(worker, flow, command))
    await held.arrived.wait()
    for each in (worker, other):
        await refused(give(each, flow, command), FlowBusy)
    held.released.set()
    assert await task == await give(other, flow, command)


@pytest.mark.parametrize("command", CALLING)
async def test_what_did_not_happen_may_be_tried_again_with_its_key(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    worker = house.worker()
    flow = await stands(worker, at, clock, command)
    nothing = [NotActed(), NotActed(cause=Cause.FORBIDDEN)]
    worker.transport.script(**{COMMANDS[command][1]: nothing})
    await refused(give(worker, flow, command), BrokerUnavailable)
    await refused(give(worker, flow, command), AppKeyRejected)
    assert (await give(worker, flow, command)).version > flow.version
    assert len(worker.transport.calls) == 3


async def test_what_was_not_even_tried_leaves_no_result(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    await refused(worker.service.verify(flow.id, "41", key="key"), CodeRejected)
    await refused(worker.service.answer(flow.id, "Peterson", key="key"), IllegalCommand)
    await refused(worker.service.resend(flow.id, key="key"), LimitReached)
    assert (await worker.service.verify(flow.id, "004158", key="key")).state is State.TOKEN_ISSUED


async def test_the_key_of_another_command_is_refused(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    await give(worker, flow, "answer")
    for command in ("verify", "set_password", "resend", "cancel"):
        error = await refused(give(worker, flow, command), KeyReused)
        assert error.flow == await worker.service.get(flow.id)
    assert len(worker.transport.calls) == 1


async def test_a_key_counts_for_one_flow(house: House, at: At) -> None:
    worker = house.worker()
    flows = [await at(worker, State.REQUESTED) for _ in range(2)]
    for flow in flows:
        assert (await give(worker, flow, "answer")).state is State.QUESTION_ANSWERED
    assert len(worker.transport.calls) == 2


async def test_the_last_eight_keys_are_kept(house: House, at: At) -> None:
    worker = house.worker(policy=Policy(code_attempts=100))
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected()] * 10)
    for n in range(9):
        await refused(worker.service.verify(flow.id, "004158", key=f"key {n}"), CodeRejected)
    for n in range(1, 9):
        await refused(worker.service.verify(flow.id, "004158", key=f"key {n}"), CodeRejected)
    assert len(worker.transport.calls) == 9
    await refused(worker.service.verify(flow.id, "004158", key="key 0"), CodeRejected)
    assert len(worker.transport.calls) == 10


async def test_another_input_with_the_same_key_is_the_same_command(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected()])
    await refused(worker.service.verify(flow.id, "004158", key="key"), CodeRejected)
    await refused(worker.service.verify(flow.id, "004159", key="key"), CodeRejected)
    assert len(worker.transport.calls) == 1


@pytest.mark.parametrize("command", CALLING)
async def test_the_key_of_a_dead_process_gives_what_became_of_it(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    worker, other = house.worker(), house.worker()
    flow = await stands(worker, at, clock, command)
    held = worker.transport.hold(COMMANDS[command][1])
    task = asyncio.create_task(give(worker, flow, command))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    await refused(give(other, flow, command), FlowBusy)
    house.lease_runs_out()
    for _ in range(2):
        assert (await give(other, flow, command)).state is not flow.state or command == "resend"
    assert len(other.transport.calls) == (command in ("verify", "set_password"))


async def test_an_expired_flow_still_knows_its_keys(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    first = await give(worker, flow, "answer")
    clock.advance(timedelta(hours=2))
    assert (await give(worker, flow, "answer")).id == first.id
    await refused(give(worker, flow, "verify", "other"), FlowEnded)


# Names


@BOTH_STORES
async def test_a_ref_makes_one_flow(house: House) -> None:
    worker, other = house.worker(), house.worker()
    flow = await worker.service.start("robert.zak", ref="order 7")
    assert await other.service.start(" Robert.Zak ", ref="order 7") == flow
    assert other.transport.calls == []
    assert (await other.service.start("robert.zak", ref="order 8")).id != flow.id
    assert flow.id not in ("order 7", "robert.zak")


@BOTH_STORES
async def test_a_ref_still_gives_its_flow_after_the_end(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak", ref="r")
    flow = await worker.service.cancel(flow.id)
    assert await worker.service.start("robert.zak", ref="r") == flow
    other = await worker.service.start("robert.zak", ref="expires")
    clock.advance(timedelta(hours=1))
    again = await worker.service.start("robert.zak", ref="expires")
    assert (again.id, again.failure) == (other.id, Failure.EXPIRED)


@pytest.mark.parametrize("question", ["", "?"])
async def test_a_ref_of_another_user_or_credential_is_refused(house: House, question: str) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(question))])
    flow = await worker.service.start("robert.zak", ref="r")
    calls = len(worker.transport.calls)
    await refused(worker.service.start("maria.noquestion", ref="r"), KeyReused)
    await refused(worker.service.start("robert.zak", credential=Credential.PIN, ref="r"), KeyReused)
    await refused(worker.service.adopt("maria.noquestion", "token", ref="r"), KeyReused)
    assert len(worker.transport.calls) == calls
    assert await worker.service.get(flow.id) == flow


@BOTH_STORES
@pytest.mark.parametrize("question", ["", "?"])
async def test_of_two_workers_at_the_same_moment_one_makes_the_flow(house: House, question: str) -> None:
    workers = [house.worker() for _ in range(4)]
    for worker in workers:
        worker.transport.script(challenge=[Accepted(value=Secret(question))] * 2)
    results = await asyncio.gather(
        *(worker.service.start("robert.zak", ref="r") for worker in workers), return_exceptions=True
    )
    flows = [result for result in results if not isinstance(result, BaseException)]
    assert all(isinstance(result, FlowBusy) for result in results if result not in flows)
    assert len({flow.id for flow in flows}) == 1
    requests = [call for worker in workers for call in worker.transport.calls_of("request")]
    assert len(requests) == (not question)
    for worker in workers:
        assert (await worker.service.start("robert.zak", ref="r")).id == flows[0].id


async def test_of_two_workers_with_other_users_one_makes_the_flow(house: House) -> None:
    workers = [house.worker(), house.worker()]
    results = await asyncio.gather(
        *(worker.service.start(f"user {n}", ref="r") for n, worker in enumerate(workers)), return_exceptions=True
    )
    assert [type(result) for result in results].count(KeyReused) == 1


async def test_a_token_is_adopted_once_for_its_ref(house: House) -> None:
    worker = house.worker()
    flows = await asyncio.gather(*(worker.service.adopt("robert.zak", f"token {n}", ref="r") for n in range(3)))
    assert len({flow.id for flow in flows}) == 1
    flow = await worker.service.set_password(flows[0].id, "violet tractor 5")
    assert await worker.service.adopt("robert.zak", "token", ref="r") == flow
    await refused(worker.service.start("robert.zak", ref="r"), KeyReused)
    await worker.service.start("robert.zak", ref="started")
    await refused(worker.service.adopt("robert.zak", "token", ref="started"), KeyReused)


async def test_a_ref_is_one_realms(house: House) -> None:
    one, two = house.worker(realm="one"), house.worker(realm="two")
    flows = [await worker.service.start("robert.zak", ref="r") for worker in (one, two)]
    assert flows[0].id != flows[1].id


# Tags


@BOTH_STORES
async def test_tags_find_flows_the_newest_first(house: House, clock: FrozenClock) -> None:
    worker, other = house.worker(), house.worker(realm="other")
    flows = []
    for n in range(5):
        flows.append(await worker.service.start(f"user {n}", tags=["all", f"odd {n % 2}", "all"]))
        clock.advance(timedelta(seconds=1))
    await other.service.start("robert.zak", tags=["all"])
    ids = [flow.id for flow in flows]
    assert [flow.id for flow in await worker.service.find("all")] == ids[::-1]
    assert [flow.id for flow in await worker.service.find(" ALL ")] == ids[::-1]
    assert [flow.id for flow in await worker.service.find("odd 1")] == [ids[3], ids[1]]
    assert await worker.service.find("nobody") == []
    await worker.service.cancel(ids[0])
    assert [flow.id for flow in await worker.service.find("all")] == ids[::-1]


@BOTH_STORES
async def test_flows_of_the_same_moment_are_found_the_newest_first(house: House) -> None:
    worker = house.worker()
    ids = [(await worker.service.start(f"user {n}", tags=["t"])).id for n in range(5)]
    assert [flow.id for flow in await worker.service.find("t")] == ids[::-1]


async def test_at_most_a_hundred_are_found(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    ids = []
    for n in range(103):
        ids.append((await worker.service.start(f"user {n}", tags=["t"])).id)
        clock.advance(timedelta(seconds=1))
    assert [flow.id for flow in await worker.service.find("t")] == ids[:2:-1]


async def test_a_ref_and_a_tag_and_a_key_of_one_name_do_not_meet(house: House) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak", ref="name", tags=["name"])
    assert (await worker.service.answer(flow.id, "Peterson", key="name")).state is State.QUESTION_ANSWERED
    stored = repr(worker.store.saves)
    assert "'name'" not in stored

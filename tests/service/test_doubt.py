"""The table of doubts, row by row, with a process that lives: who is told what, and what the broker saw."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import pytest

from reset_flow.domain.errors import (
    BrokerError,
    BrokerUnavailable,
    CodeRejected,
    FlowEnded,
    OutcomeInDoubt,
    PasswordRejected,
)
from reset_flow.domain.flow import Failure, State, Step
from reset_flow.domain.outcomes import Accepted, NotActed, Rejected, Unknown
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow.sandbox import Sandbox
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Part, ScriptedCall
    from tests.service.conftest import At, House, MakeEtna, Person, Worker


class FaultOptions(TypedDict, total=False):
    """How a fault of the sandbox differs from the one that has the name of the row."""

    name: str
    act: bool
    status: int
    body: str
    content_type: str


class Breaks(Protocol):
    """Order a fault of the table for the next calls of a route."""

    def __call__(self, route: str, fault: str, times: int = 1) -> None: ...


DEADLINE = timedelta(seconds=20)
BROKEN: dict[str, FaultOptions] = {
    "drop_after": {},
    "drop_before": {},
    "cut_after": {},
    "hang_after": {},
    "hang_before": {},
    "reset acted": {"name": "reset", "act": True},
    "reset": {"name": "reset"},
    "500 acted": {"name": "status", "status": 500, "act": True},
    "500": {"name": "status", "status": 500},
    "503": {"name": "status", "status": 503},
    "504 acted": {"name": "raw", "status": 504, "body": "<html>timeout</html>", "act": True},
    "half JSON": {"name": "raw", "body": '{"Errors": [], "IsSu', "act": True},
    "HTML": {"name": "raw", "body": "<html>all is well</html>", "content_type": "text/html", "act": True},
    "yes and no": {"name": "raw", "body": '{"IsSucceed": true, "IsSucceed": false}', "act": True},
    "nothing": {"name": "raw", "body": "", "act": True},
    "a list": {"name": "raw", "body": "[]"},
}
ACTING = {name for name, order in BROKEN.items() if order.get("act") or name.endswith("_after")}


@pytest.fixture(params=list(BROKEN))
def fault(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def breaks(sandbox: Sandbox) -> AsyncIterator[Breaks]:
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []

        def breaks(route: str, fault: str, times: int = 1) -> None:
            order: dict[str, Any] = {"name": fault, "times": times, **BROKEN[fault]}
            sandbox.fault(route, **order)
            if fault.startswith("hang"):
                tasks.append(group.create_task(time_out(route, times, acted=fault == "hang_after")))

        async def time_out(route: str, times: int, *, acted: bool) -> None:
            """Let the deadline of the next calls pass once they are there."""
            before = len([call for call in sandbox.calls_of(route) if call.acted or not acted])
            for number in range(times):
                await sandbox.wait_for_calls(route, before + number + 1, acted=acted)
                let_time_pass(DEADLINE)

        yield breaks
        for task in tasks:
            task.cancel()


@pytest.fixture
def worker(house: House, etna: MakeEtna) -> Worker:
    return house.worker(etna(deadline=DEADLINE))


# Step 1


async def test_a_start_in_doubt_goes_on(
    worker: Worker, sandbox: Sandbox, maria: Person, breaks: Breaks, fault: str
) -> None:
    breaks("request", fault)
    flow = await maria.start(worker.service, ref="r")
    assert (flow.state, flow.expects, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.CODE, Step.ANSWER)
    assert [step.trigger for step in flow.history] == ["answer_in_doubt"]
    assert len(sandbox.calls_of("request")) == 1
    assert len(sandbox.mails) == (fault in ACTING)
    assert await maria.start(worker.service, ref="r") == flow
    assert len(sandbox.calls_of("request")) == 1
    if sandbox.mails:
        flow = await maria.does(worker.service, flow, "verify")
        assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
    maria.check(flow)


async def test_an_answer_in_doubt_goes_on(
    *, worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, clock: FrozenClock, fault: str
) -> None:
    flow = await person.start(worker.service)
    breaks("request", fault)
    flow = await person.does(worker.service, flow, "answer")
    assert (flow.state, flow.expects, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.CODE, Step.ANSWER)
    assert (flow.attempts_left, flow.resend_at) == (5, clock() + timedelta(seconds=60))
    assert len(sandbox.calls_of("request")) == 1
    assert len(sandbox.mails) == (fault in ACTING)
    if fault not in ACTING:  # the person asks for another one, and the sealed answer goes with it
        clock.advance(timedelta(minutes=1))
        flow = await person.does(worker.service, flow, "resend")
        assert flow.in_doubt is None
    flow = await person.does(worker.service, flow, "verify")
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
    assert len(sandbox.mails) == 1
    person.check(flow)


async def test_another_code_in_doubt_is_not_asked_for_again(
    *, worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, clock: FrozenClock, fault: str
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    clock.advance(timedelta(minutes=1))
    breaks("request", fault)
    flow = await person.does(worker.service, flow, "resend")
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.ANSWER)
    assert [step.trigger for step in flow.history] == ["answer_accepted", "resend_in_doubt"]
    assert len(sandbox.calls_of("request")) == 2
    assert len(sandbox.mails) == 1 + (fault in ACTING)
    flow = await person.does(worker.service, flow, "verify")
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
    person.check(flow)


# Step 3


async def test_a_code_in_doubt_is_sent_once_more(
    *, worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, clock: FrozenClock, fault: str
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    breaks("exchange", fault)
    if fault not in ACTING:
        flow = await person.does(worker.service, flow, "verify")
        assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
        assert [step.trigger for step in flow.history][1:] == ["code_accepted", "token_granted"]
    else:
        error = await refused(person.does(worker.service, flow, "verify"), OutcomeInDoubt)
        assert error.flow
        assert (error.flow.state, error.flow.in_doubt) == (State.QUESTION_ANSWERED, Step.CODE)
        assert (error.flow.attempts_left, error.flow.history[-1].trigger) == (5, "code_spent")
        clock.advance(timedelta(minutes=1))
        flow = await person.does(worker.service, flow, "resend")
        assert flow.in_doubt is None
        flow = await person.does(worker.service, flow, "verify")
    assert [call.body for call in sandbox.calls_of("exchange")[:2]] == [sandbox.calls_of("exchange")[0].body] * 2
    flow = await person.does(worker.service, flow, "set_password")
    assert flow.state is State.PASSWORD_SET
    person.check(flow)


async def test_an_attempt_is_given_back_for_doubt_once_only(
    worker: Worker, person: Person, breaks: Breaks, clock: FrozenClock
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    for left in (5, 4, 3):
        breaks("exchange", "drop_after")
        error = await refused(person.does(worker.service, flow, "verify"), OutcomeInDoubt)
        assert error.flow
        assert (error.flow.attempts_left, error.flow.history[-1].trigger) == (left, "code_spent")
        clock.advance(timedelta(minutes=1))
        await person.does(worker.service, flow, "resend")
    person.check(await person.does(worker.service, flow, "verify"))


@pytest.mark.parametrize("fault", ["drop_after", "drop_before", "500", "HTML", "half JSON", "reset"])
async def test_a_code_that_stays_in_doubt_is_not_sent_a_third_time(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, fault: str
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    breaks("exchange", fault, times=2)
    error = await refused(person.does(worker.service, flow, "verify"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.in_doubt, error.flow.history[-1].trigger) == (Step.CODE, "code_in_doubt")
    assert (error.flow.attempts_left, len(sandbox.calls_of("exchange"))) == (4, 2)
    if fault in ACTING:
        rejected = await refused(person.does(worker.service, flow, "verify"), CodeRejected)
        assert rejected.flow
        assert (rejected.flow.in_doubt, rejected.flow.attempts_left) == (Step.CODE, 3)
        person.check(rejected.flow)
    else:
        flow = await person.does(worker.service, flow, "verify")
        assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
        person.check(flow)


async def test_a_code_that_is_refused_at_once_leaves_no_doubt(worker: Worker, sandbox: Sandbox, person: Person) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    error = await refused(person.does(worker.service, flow, "verify", "999999"), CodeRejected)
    assert error.flow
    assert (error.flow.in_doubt, len(sandbox.calls_of("exchange"))) == (None, 1)


@pytest.mark.parametrize(
    "body", ['{"Model": null, "Errors": [], "IsSucceed": true}', '{"Model": " ", "IsSucceed": true}']
)
async def test_a_code_that_is_taken_without_a_token_asks_for_another_one(
    worker: Worker, sandbox: Sandbox, person: Person, clock: FrozenClock, body: str
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    sandbox.fault("exchange", "raw", body=body, act=True)
    error = await refused(person.does(worker.service, flow, "verify"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt) == (State.CODE_VERIFIED, Step.CODE)
    assert (error.flow.expects, error.flow.allowed, error.flow.attempts_left) == (Step.CODE, ("cancel", "resend"), 5)
    assert len(sandbox.calls_of("exchange")) == 1
    clock.advance(timedelta(minutes=1))
    flow = await person.does(worker.service, flow, "resend")
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, None)
    flow = await person.does(worker.service, flow, "verify")
    flow = await person.does(worker.service, flow, "set_password")
    person.check(flow)


async def test_doubt_uses_up_attempts_like_anything_else(
    worker: Worker, person: Person, breaks: Breaks, sandbox: Sandbox
) -> None:
    flow = await person.reaches(worker.service, State.QUESTION_ANSWERED)
    for _ in range(5):
        breaks("exchange", "drop_before", times=2)
        error = await refused(person.does(worker.service, flow, "verify"), OutcomeInDoubt)
    assert error.flow
    assert error.flow.failure is Failure.TOO_MANY_ATTEMPTS
    await refused(person.does(worker.service, flow, "verify"), FlowEnded)
    assert len(sandbox.calls_of("exchange")) == 10
    person.check(error.flow)


# Step 4


async def test_a_password_in_doubt_is_proved_by_a_second_sending_or_a_log_in(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, fault: str
) -> None:
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    breaks("update", fault)
    flow = await person.does(worker.service, flow, "set_password")
    assert (flow.state, flow.in_doubt, flow.failure) == (State.PASSWORD_SET, None, None)
    first, second = sandbox.calls_of("update")
    assert first.body == second.body
    assert len(sandbox.calls_of("log_in")) == (fault in ACTING)
    assert [step.trigger for step in flow.history][3:] == ["password_accepted"]
    person.check(flow)


async def test_a_second_factor_proves_a_password_too(worker: Worker, sandbox: Sandbox, breaks: Breaks) -> None:
    service = worker.service
    flow = await service.start("two.factor")
    await service.verify(flow.id, sandbox.newest_code("two.factor"))
    breaks("update", "drop_after")
    assert (await service.set_password(flow.id, "violet tractor 5")).state is State.PASSWORD_SET


@pytest.mark.parametrize("password", ["пароль 12345", " violet tractor", "violet tractor "])
async def test_a_password_that_no_header_carries_is_not_tried(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks, password: str
) -> None:
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    breaks("update", "drop_after")
    error = await refused(person.does(worker.service, flow, "set_password", password), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.in_doubt, sandbox.calls_of("log_in")) == (Step.PASSWORD, [])
    assert sandbox.password_of("robert.zak") == password
    person.check(error.flow)


async def test_without_a_log_in_the_doubt_stays(
    *, house: House, etna: MakeEtna, sandbox: Sandbox, person: Person, breaks: Breaks, clock: FrozenClock
) -> None:
    service = house.worker(etna(), policy=Policy(probe_by_login=False)).service
    flow = await person.reaches(service, State.TOKEN_ISSUED)
    breaks("update", "drop_after")
    error = await refused(person.does(service, flow, "set_password"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD)
    assert (error.flow.attempts_left, error.flow.allowed) == (9, ("cancel", "set_password"))
    # A refusal now says nothing: it may be the token, which is spent, or the password.
    error = await refused(person.does(service, flow, "set_password", "another one 6"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.in_doubt, error.flow.history[-1].trigger) == (Step.PASSWORD, "password_in_doubt")
    assert [call.route for call in sandbox.calls][-3:] == ["update"] * 3
    person.check(error.flow)
    clock.advance(timedelta(hours=1))
    flow = await service.get(flow.id)
    assert (flow.state, flow.failure) == (State.FAILED, Failure.OUTCOME_UNKNOWN)
    person.check(flow)


async def test_who_tries_again_in_doubt_may_be_proved_right(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks
) -> None:
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    breaks("update", "drop_after")
    sandbox.fault("log_in", "drop_before")
    error = await refused(person.does(worker.service, flow, "set_password"), OutcomeInDoubt)
    assert error.flow
    assert error.flow.in_doubt is Step.PASSWORD
    flow = await person.does(worker.service, flow, "set_password")
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert [call.route for call in sandbox.calls][-5:] == ["update", "update", "log_in", "update", "log_in"]
    person.check(flow)


async def test_a_password_that_was_not_set_can_be_set_after_the_doubt(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks
) -> None:
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    breaks("update", "drop_before", times=2)
    error = await refused(person.does(worker.service, flow, "set_password"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.in_doubt, len(sandbox.calls_of("log_in"))) == (Step.PASSWORD, 1)
    flow = await person.does(worker.service, flow, "set_password", "another one 6")
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert sandbox.password_of("robert.zak") == "another one 6"
    person.check(flow)


async def test_a_second_refusal_that_may_be_the_passwords_leaves_doubt(
    worker: Worker, sandbox: Sandbox, person: Person, breaks: Breaks
) -> None:
    sandbox.settings.minimum_password_length = 12
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    breaks("update", "drop_before")
    error = await refused(person.does(worker.service, flow, "set_password", "elevenchars"), OutcomeInDoubt)
    assert error.flow
    assert error.flow.in_doubt is Step.PASSWORD
    flow = await person.does(worker.service, flow, "set_password")
    assert flow.state is State.PASSWORD_SET
    person.check(flow)


@pytest.mark.parametrize("end", ["time", "attempts", "cancel"])
async def test_an_end_in_doubt_says_that_nobody_knows(
    *, house: House, etna: MakeEtna, person: Person, breaks: Breaks, clock: FrozenClock, end: str
) -> None:
    policy = Policy(probe_by_login=False, password_attempts=2)
    service = house.worker(etna(), policy=policy).service
    flow = await person.reaches(service, State.TOKEN_ISSUED)
    breaks("update", "drop_after")
    await refused(person.does(service, flow, "set_password"), OutcomeInDoubt)
    if end == "time":
        clock.advance(timedelta(hours=1))
    elif end == "cancel":
        await service.cancel(flow.id)
    else:
        error = await refused(person.does(service, flow, "set_password"), OutcomeInDoubt)
        assert error.flow
        assert error.flow.ended
    flow = await service.get(flow.id)
    assert (flow.state, flow.failure, flow.in_doubt) == (State.FAILED, Failure.OUTCOME_UNKNOWN, Step.PASSWORD)
    person.check(flow)


async def test_a_refusal_without_doubt_is_the_passwords(worker: Worker, sandbox: Sandbox, person: Person) -> None:
    sandbox.settings.minimum_password_length = 12
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    error = await refused(person.does(worker.service, flow, "set_password", "elevenchars"), PasswordRejected)
    assert error.flow
    assert (error.flow.in_doubt, len(sandbox.calls_of("update")), sandbox.calls_of("log_in")) == (None, 1, [])
    assert (await person.does(worker.service, flow, "set_password")).state is State.PASSWORD_SET


# A transport of somebody else's


class Strange(Exception):
    """What no transport may raise."""


@pytest.mark.parametrize("part", [Strange("Peterson 004158"), OSError("gone"), TimeoutError(), KeyError("x"), None])
@pytest.mark.parametrize("command", ["answer", "verify", "set_password"])
async def test_a_transport_against_its_contract_leaves_doubt_and_no_more(
    house: House, at: At, part: BaseException | None, command: str
) -> None:
    async def nothing(_: ScriptedCall) -> Any:
        return None

    worker = house.worker()
    route, state, given = {
        "answer": ("request", State.REQUESTED, "Peterson"),
        "verify": ("exchange", State.QUESTION_ANSWERED, "004158"),
        "set_password": ("update", State.TOKEN_ISSUED, "violet tractor 5"),
    }[command]
    flow = await at(worker, state)
    parts: list[Part] = [part or nothing]
    worker.transport.script(**{route: parts * 2, "log_in": parts})
    if command == "answer":
        after = await worker.service.answer(flow.id, given)
    else:
        error = await refused(getattr(worker.service, command)(flow.id, given), OutcomeInDoubt)
        assert error.__cause__ is error.__context__ is None
        assert error.flow
        after = error.flow
    assert after.in_doubt is flow.expects
    assert len(worker.transport.calls_of(route)) == 1 + (command != "answer")


@pytest.mark.parametrize("command", ["answer", "verify", "set_password"])
async def test_a_transport_that_lets_a_cancellation_of_its_own_escape_leaves_doubt_and_no_more(
    house: House, at: At, command: str
) -> None:
    worker = house.worker()
    route, state, given = {
        "answer": ("request", State.REQUESTED, "Peterson"),
        "verify": ("exchange", State.QUESTION_ANSWERED, "004158"),
        "set_password": ("update", State.TOKEN_ISSUED, "violet tractor 5"),
    }[command]
    flow = await at(worker, state)
    script: dict[str, list[Part]] = {route: [asyncio.CancelledError()] * 2, "log_in": [NotActed()]}
    worker.transport.script(**script)
    try:
        await getattr(worker.service, command)(flow.id, given)
    except OutcomeInDoubt:
        assert command != "answer"
    flow = await worker.service.get(flow.id)
    assert flow.in_doubt is not None
    assert (await worker.store.load(flow.id)).lease_left is None


@pytest.mark.parametrize("part", [Strange("robert.zak"), OSError("gone"), TimeoutError()])
async def test_a_question_that_can_not_be_asked_for_is_an_error_of_ours(house: House, part: BaseException) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[part] * 3)
    error = await refused(worker.service.start("robert.zak"), BrokerError)
    assert "robert" not in str(error)


async def test_a_transport_that_hangs_is_cut_off_before_the_lease_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.broker_client.GRACE", 10)
    lease = timedelta(minutes=50)
    worker = house.worker(ScriptedTransport(deadline=lease / 5), policy=Policy(lease=lease))
    flow = await worker.service.start("robert.zak")
    held = worker.transport.hold("request")
    command = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    let_time_pass(lease)
    await held.left.wait()
    assert (await command).in_doubt is Step.ANSWER


async def test_the_question_does_not_hang_for_ever(house: House) -> None:
    worker = house.worker(ScriptedTransport(deadline=timedelta(seconds=0.05)))
    for _ in range(3):
        worker.transport.hold("challenge")
    async with asyncio.timeout(30):
        await refused(worker.service.start("robert.zak"), BrokerUnavailable)


async def test_what_a_transport_wants_kept_comes_back_with_each_call(house: House) -> None:
    worker = house.worker()
    worker.transport.script(
        challenge=[Accepted(value=Secret("?"), continuation=b"1")],
        request=[Accepted(continuation=b"2")],
        exchange=[Unknown(), Rejected(), Accepted(value=Secret("token"), continuation=b"3")],
    )
    flow = await worker.service.start("robert.zak")
    await worker.service.answer(flow.id, "Peterson")
    await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    await worker.service.verify(flow.id, "004159")
    await worker.service.set_password(flow.id, "violet tractor 5")
    kept = [(call.name, call.case.continuation) for call in worker.transport.calls]
    assert kept[2:] == [("exchange", b"2"), ("exchange", b"2"), ("exchange", b"2"), ("update", b"3")]
    assert kept[:2] == [("challenge", None), ("request", b"1")]


async def test_a_token_is_sent_as_it_came(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Accepted(value=Secret("t" * 4096))])
    await worker.service.verify(flow.id, "004158")
    await worker.service.set_password(flow.id, "violet tractor 5")
    assert worker.transport.calls[-1].token == Secret("t" * 4096)
    assert worker.transport.calls[0].given == Secret("004158")

"""What is refused: with an error of its own that carries the flow, unchanged, and with nothing sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    CommandVetoed,
    ConfigurationError,
    FlowEnded,
    FlowNotFound,
    IllegalCommand,
    InvalidInput,
    LimitReached,
    PasswordRejected,
    Reason,
    UnknownUser,
    WrongBroker,
)
from reset_flow.domain.flow import Credential, Failure, State, Step
from reset_flow.domain.outcomes import Accepted, NotActed, Rejected, Unknown
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import allowed
from reset_flow.persistence.keyring import Keyring
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from reset_flow.domain.errors import InputRejected
    from reset_flow.domain.flow import Flow
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import CommandRequest
    from reset_flow.sandbox import Sandbox
    from reset_flow.service import ResetService
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, MakeEtna, Person

GIVEN: dict[str, tuple[str, ...]] = {
    "answer": ("Peterson",),
    "resend": (),
    "verify": ("004158",),
    "set_password": ("violet tractor 5",),
    "set_pin": ("8642",),
    "cancel": (),
}
BINARY = ("\x00", "a\x07b", "\ud800", "line\nbreak", "\x7f")


async def give(service: ResetService, flow_id: str, command: str, *given: object, **options: object) -> Flow:
    flow: Flow = await getattr(service, command)(flow_id, *(given or GIVEN[command]), **options)
    return flow


# Order


@pytest.mark.parametrize(("state", "command"), list(product(State, GIVEN)), ids=str)
async def test_each_command_comes_where_the_table_has_it_and_nowhere_else(
    house: House, at: At, clock: FrozenClock, state: State, command: str
) -> None:
    worker = house.worker()
    flow = await at(worker, state)
    clock.advance(timedelta(minutes=1))
    if command in allowed(state, Credential.PASSWORD):
        assert command in flow.allowed
        after = await give(worker.service, flow.id, command)
        assert after.version > flow.version
        return
    kind = FlowEnded if state.ended else IllegalCommand
    error = await refused(give(worker.service, flow.id, command), kind)
    assert error.flow == flow == await worker.service.get(flow.id)
    assert (worker.transport.calls, worker.store.saves) == ([], [])
    assert not error.retryable


@pytest.mark.parametrize("state", [state for state in State if state is not State.CODE_VERIFIED])
async def test_a_pin_and_a_password_are_no_substitutes(house: House, state: State) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak", credential=Credential.PIN)
    if state is State.TOKEN_ISSUED:
        await worker.service.answer(flow.id, "Peterson")
        flow = await worker.service.verify(flow.id, "004158")
        error = await refused(worker.service.set_password(flow.id, "violet tractor 5"), IllegalCommand)
        assert error.allowed == ("cancel", "set_pin")
        assert error.flow == flow
        assert (await worker.service.set_pin(flow.id, "8642")).state is State.PASSWORD_SET


# What people type


@pytest.mark.parametrize(
    ("command", "state", "kind", "given"),
    [
        *(("answer", State.REQUESTED, AnswerRejected, given) for given in ("", " ", "a" * 1001, b"Peterson", 7, None)),
        *(("answer", State.REQUESTED, AnswerRejected, f"Peter{binary}") for binary in BINARY),
        *(
            ("verify", State.QUESTION_ANSWERED, CodeRejected, given)
            for given in ("", " ", "41a588", "0041580", "4158", "1" * 100_000, b"004158", 4158, None)
        ),
        *(("verify", State.QUESTION_ANSWERED, CodeRejected, f"004158{binary}") for binary in BINARY),
        *(
            ("set_password", State.TOKEN_ISSUED, PasswordRejected, given)
            for given in ("", "short", "p" * 129, "p" * 100_000, b"violet tractor 5", 12345678, None)
        ),
        *(("set_password", State.TOKEN_ISSUED, PasswordRejected, f"violet tractor{binary}") for binary in BINARY),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_can_not_be_sent_is_refused_and_not_counted(
    *, house: House, at: At, command: str, state: State, kind: type[InputRejected], given: object
) -> None:
    worker = house.worker()
    flow = await at(worker, state)
    error = await refused(give(worker.service, flow.id, command, given), kind)
    assert not error.sent
    assert error.flow == flow == await worker.service.get(flow.id)
    assert (worker.transport.calls, worker.store.saves) == ([], [])
    assert (await give(worker.service, flow.id, command)).version > flow.version


@pytest.mark.parametrize("given", ["", " ", "1" * 65, b"8642", 8642, None, *BINARY])
async def test_a_pin_that_can_not_be_sent_is_refused(house: House, given: Any) -> None:
    worker = house.worker()
    flow = await worker.service.adopt("robert.zak", "token", credential=Credential.PIN)
    error = await refused(worker.service.set_pin(flow.id, given), PasswordRejected)
    assert (error.sent, error.flow, worker.transport.calls) == (False, flow, [])


@pytest.mark.parametrize("user", ["", " \t", "u" * 321, b"robert", 7, None, *BINARY])
async def test_what_can_not_be_a_user_starts_nothing(house: House, user: Any) -> None:
    worker = house.worker()
    await refused(worker.service.start(user), InvalidInput)
    await refused(worker.service.adopt(user, "token"), InvalidInput)
    assert (worker.transport.calls, worker.store.tries) == ([], 0)


@pytest.mark.parametrize("name", ["", " ", "n" * 321, 7, *BINARY])
async def test_what_can_not_be_a_name_is_refused_before_anything(house: House, at: At, name: Any) -> None:
    worker = house.worker()
    await refused(worker.service.start("robert.zak", ref=name), InvalidInput)
    await refused(worker.service.start("robert.zak", tags=[name]), InvalidInput)
    await refused(worker.service.find(name), InvalidInput)
    flow = await at(worker, State.REQUESTED)
    for command in GIVEN:
        await refused(give(worker.service, flow.id, command, key=name), InvalidInput)
    assert (worker.transport.calls, worker.store.saves) == ([], [])
    assert await worker.service.get(flow.id) == flow


async def test_tags_are_limited_and_one_text_is_one_tag(house: House) -> None:
    worker = house.worker()
    await refused(worker.service.start("robert.zak", tags=[f"tag {n}" for n in range(17)]), InvalidInput)
    assert worker.store.tries == 0
    flow = await worker.service.start("robert.zak", tags="conversation:42")
    assert [each.id for each in await worker.service.find("conversation:42")] == [flow.id]


@pytest.mark.parametrize("token", ["", " ", b"token", 7, None, "a\ud800b", "tok\x00en", "t" * 100_000])
async def test_what_can_not_be_a_token_is_not_adopted(house: House, token: Any) -> None:
    worker = house.worker()
    error = await refused(worker.service.adopt("robert.zak", token, tags=["t"]), InvalidInput)
    assert "tok" not in str(error).replace("token", "")
    assert (worker.store.tries, await worker.service.find("t")) == (0, [])


async def test_a_transport_that_can_not_reset_a_credential_is_not_asked(
    house: House, etna: MakeEtna, sandbox: Sandbox
) -> None:
    service = house.worker(etna(revision="password")).service
    await refused(service.start("robert.zak", credential=Credential.PIN), InvalidInput)
    unheard_of: Any = "fingerprint"
    await refused(service.start("robert.zak", credential=unheard_of), InvalidInput)
    assert sandbox.calls == []


# What the broker refuses


async def test_wrong_answers_are_counted_until_the_flow_ends(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person
) -> None:
    service = house.worker(etna(), policy=Policy(mask_unknown_users=False)).service
    flow = await person.start(service)
    for left in (2, 1, 0):
        error = await refused(person.does(service, flow, "answer", "Pedersen"), AnswerRejected)
        assert (error.sent, error.reasons) == (True, (Reason(None, "Answer is incorrect, try again."),))
        assert error.flow == await service.get(flow.id)
        assert (error.flow.attempts_left or 0, error.flow.in_doubt) == (left, None)
    assert error.flow
    assert (error.flow.state, error.flow.failure) == (State.FAILED, Failure.TOO_MANY_ATTEMPTS)
    assert [step.trigger for step in error.flow.history] == ["answer_refused"] * 3 + ["abandon"]
    ended = await refused(person.does(service, flow, "answer"), FlowEnded)
    assert ended.flow
    assert ended.flow.failure is Failure.TOO_MANY_ATTEMPTS
    assert (len(sandbox.calls_of("request")), sandbox.mails) == (3, [])
    person.check(ended.flow)


async def test_an_answer_that_is_accepted_is_given_back(house: House, etna: MakeEtna, person: Person) -> None:
    service = house.worker(etna()).service
    flow = await person.start(service)
    for _ in range(2):
        await refused(person.does(service, flow, "answer", "Pedersen"), AnswerRejected)
    flow = await person.does(service, flow, "answer")
    assert (flow.state, flow.attempts_left) == (State.QUESTION_ANSWERED, 5)


async def test_wrong_codes_are_counted_over_all_codes_until_the_flow_ends(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person, clock: FrozenClock
) -> None:
    service = house.worker(etna()).service
    sandbox.next_codes.extend(["004158", "004159"])
    flow = await person.reaches(service, State.QUESTION_ANSWERED)
    for left in (4, 3):
        error = await refused(person.does(service, flow, "verify", "999999"), CodeRejected)
        assert error.flow
        assert (error.sent, error.flow.attempts_left) == (True, left)
    clock.advance(timedelta(minutes=1))
    assert (await person.does(service, flow, "resend")).attempts_left == 3
    for left in (2, 1, 0):
        error = await refused(person.does(service, flow, "verify", "999999"), CodeRejected)
        assert error.flow
        assert (error.flow.attempts_left or 0) == left
    assert error.flow
    assert error.flow.failure is Failure.TOO_MANY_ATTEMPTS
    ended = await refused(person.does(service, flow, "verify", "004159"), FlowEnded)
    assert ended.flow
    assert len(sandbox.calls_of("exchange")) == 5
    person.check(ended.flow)


async def test_the_last_attempt_may_be_the_right_one(house: House, etna: MakeEtna, person: Person) -> None:
    service = house.worker(etna()).service
    flow = await person.reaches(service, State.QUESTION_ANSWERED)
    for _ in range(4):
        await refused(person.does(service, flow, "verify", "999999"), CodeRejected)
    assert (await person.does(service, flow, "verify")).state is State.TOKEN_ISSUED


async def test_a_code_that_was_spent_is_refused(house: House, etna: MakeEtna, sandbox: Sandbox, person: Person) -> None:
    service = house.worker(etna()).service
    flow = await person.reaches(service, State.TOKEN_ISSUED)
    other = await person.reaches(service, State.QUESTION_ANSWERED)
    spent = sandbox.mails[0].code
    error = await refused(person.does(service, other, "verify", spent), CodeRejected)
    assert error.flow
    assert error.flow.attempts_left == 4
    assert (await service.get(flow.id)).state is State.TOKEN_ISSUED


async def test_weak_passwords_are_counted_until_the_flow_ends(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person
) -> None:
    sandbox.settings.minimum_password_length = 12
    service = house.worker(etna(), policy=Policy(password_attempts=2)).service
    flow = await person.reaches(service, State.TOKEN_ISSUED)
    error = await refused(person.does(service, flow, "set_password", "elevenchars"), PasswordRejected)
    assert (error.sent, error.reasons) == (True, (Reason(None, "Password is too weak."),))
    assert error.flow
    assert (error.flow.state, error.flow.attempts_left, error.flow.in_doubt) == (State.TOKEN_ISSUED, 1, None)
    error = await refused(person.does(service, flow, "set_password", "elevenchars"), PasswordRejected)
    assert error.flow
    assert error.flow.failure is Failure.TOO_MANY_ATTEMPTS
    assert sandbox.calls_of("log_in") == []
    person.check(error.flow)


async def test_an_unknown_user_is_not_reset(house: House, etna: MakeEtna, sandbox: Sandbox) -> None:
    worker = house.worker(etna(), policy=Policy(mask_unknown_users=False))
    error = await refused(worker.service.start("nobody@autoshares.com"), UnknownUser)
    assert (error.code, error.flow, worker.store.saves, sandbox.mails) == ("unknown_user", None, [], [])
    assert "nobody" not in str(error)


async def test_where_nobody_knows_of_a_question_the_answer_may_be_left_out(house: House) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=None)], request=[Rejected(reasons=["who?"])])
    flow = await worker.service.start("robert.zak")  # whether there is a question is not known: an answer may help
    assert (flow.state, flow.expects) == (State.REQUESTED, Step.ANSWER)
    assert (await worker.service.answer(flow.id, "")).state is State.QUESTION_ANSWERED


async def test_the_broker_may_refuse_whom_it_asks_nothing(house: House) -> None:
    worker = house.worker(policy=Policy(mask_unknown_users=False))
    worker.transport.script(challenge=[Accepted(value=Secret(""))], request=[Rejected(reasons=["locked"])])
    error = await refused(worker.service.start("robert.zak"), UnknownUser)
    assert error.reasons == (Reason(None, "locked"),)
    assert error.flow
    assert (error.flow.state, error.flow.failure) == (State.FAILED, Failure.BROKER_REFUSED)
    assert error.flow == await worker.service.get(error.flow.id)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 500, 503])
async def test_a_wrong_app_key_has_an_error_of_its_own_whatever_the_status(
    *, house: House, etna: MakeEtna, sandbox: Sandbox, person: Person, clock: FrozenClock, status: int
) -> None:
    service = house.worker(etna()).service
    sandbox.settings.app_key_status = status
    sandbox.settings.app_key = "another"
    await refused(service.start("robert.zak"), AppKeyRejected)
    for state, command in (
        (State.REQUESTED, "answer"),
        (State.QUESTION_ANSWERED, "verify"),
        (State.QUESTION_ANSWERED, "resend"),
        (State.TOKEN_ISSUED, "set_password"),
    ):
        sandbox.settings.app_key = "sandbox"
        flow = await person.reaches(service, state)
        clock.advance(timedelta(minutes=1))
        sandbox.settings.app_key = "another"
        error = await refused(person.does(service, flow, command, "004158" * (command == "verify")), AppKeyRejected)
        same_as_before(error.flow, flow)
        assert not sandbox.calls[-1].acted


async def test_a_wrong_app_key_is_not_tried_again_and_again(house: House, etna: MakeEtna, sandbox: Sandbox) -> None:
    service = house.worker(etna(app_key="wrong")).service
    await refused(service.start("robert.zak"), AppKeyRejected)
    assert [call.route for call in sandbox.calls] == ["challenge"]


def same_as_before(now: Flow | None, before: Flow) -> None:
    """Nothing happened, but for the two saves of the call that did nothing."""
    assert now
    assert attrs.evolve(now, version=before.version) == before


# Whose flow it is


@pytest.mark.parametrize("flow_id", ["", "nothing-like-it", "x" * 100_000, *BINARY, "../../etc/passwd", "' OR 1=1 --"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_an_unknown_flow_is_not_found(house: House, flow_id: str) -> None:
    worker = house.worker()
    for command in GIVEN:
        error = await refused(give(worker.service, flow_id, command), FlowNotFound)
        assert (error.flow_id, error.flow) == (flow_id, None)
        assert len(str(error)) < 400
    await refused(worker.service.get(flow_id), FlowNotFound)
    await refused(worker.service.wait(flow_id), FlowNotFound)
    assert worker.transport.calls == []


@pytest.mark.parametrize("same_ring", [True, False])
async def test_another_realms_flow_is_not_found(house: House, at: At, same_ring: bool) -> None:  # noqa: FBT001
    mine = house.worker(realm="mine")
    ring = house.keyring if same_ring else Keyring.load_or_create(house.path.parent / "other keys")
    other = house.worker(realm="other", keyring=ring)
    flow = await at(mine, State.TOKEN_ISSUED, tags=["tag"], ref="ref")
    for command in GIVEN:
        await refused(give(other.service, flow.id, command), FlowNotFound)
    await refused(other.service.get(flow.id), FlowNotFound)
    assert (other.transport.calls, await other.service.find("tag")) == ([], [])
    assert (await other.service.start("robert.zak", ref="ref")).id != flow.id
    assert await mine.service.get(flow.id) == flow


async def test_a_flow_of_another_broker_is_not_touched(house: House, at: At) -> None:
    mine, other = house.worker(), house.worker(ScriptedTransport("other"))
    for state in State:
        flow = await at(mine, state)
        for command in GIVEN.keys() - {"cancel"}:
            error = await refused(give(other.service, flow.id, command), FlowEnded if flow.ended else WrongBroker)
            assert error.flow == flow
    assert (other.transport.calls, other.store.saves) == ([], [])
    assert await other.service.get(flow.id) == flow


async def test_a_flow_that_is_over_is_over(house: House, at: At) -> None:
    worker = house.worker()
    for state, how in ((State.PASSWORD_SET, "password_set"), (State.FAILED, "cancelled")):
        flow = await at(worker, state)
        error = await refused(worker.service.cancel(flow.id), FlowEnded)
        assert how in str(error)
        assert error.flow == flow
    assert worker.transport.calls == []


# Lifetimes


@pytest.mark.parametrize("state", [state for state in State if not state.ended])
async def test_a_flow_lives_as_long_as_the_policy_says(house: House, at: At, clock: FrozenClock, state: State) -> None:
    worker = house.worker()
    flow = await at(worker, state)
    clock.advance(flow.expires_at - clock() - timedelta(microseconds=1))
    assert (await worker.service.get(flow.id)).state is state
    clock.advance(timedelta(microseconds=1))
    command = flow.allowed[0] if state is not State.CODE_VERIFIED else "resend"
    error = await refused(give(worker.service, flow.id, command), FlowEnded)
    assert error.flow
    assert (error.flow.state, error.flow.failure) == (State.FAILED, Failure.EXPIRED)
    assert error.flow.expires_at == flow.expires_at
    assert error.flow == await worker.service.get(flow.id)
    assert worker.transport.calls == []


async def test_a_flow_that_is_looked_at_after_its_time_has_ended(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    clock.advance(timedelta(hours=1))
    assert (await worker.service.get(flow.id)).failure is Failure.EXPIRED
    assert (await worker.service.wait(flow.id)).failure is Failure.EXPIRED


async def test_a_code_can_be_too_old_to_be_sent(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker(policy=Policy(code_lifetime=timedelta(minutes=10)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(timedelta(minutes=10))
    error = await refused(worker.service.verify(flow.id, "004158"), CodeRejected)
    assert (error.sent, error.flow) == (False, flow)
    assert worker.transport.calls == []
    await worker.service.resend(flow.id)
    clock.advance(timedelta(minutes=10) - timedelta(microseconds=1))
    assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_token_can_be_too_old_to_be_used(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker(policy=Policy(token_lifetime=timedelta(minutes=10)))
    flow = await at(worker, State.TOKEN_ISSUED)
    assert flow.expires_at == clock() + timedelta(minutes=10)
    clock.advance(timedelta(minutes=10))
    error = await refused(worker.service.set_password(flow.id, "violet tractor 5"), FlowEnded)
    assert error.flow
    assert (error.flow.failure, worker.transport.calls) == (Failure.EXPIRED, [])


async def test_the_sweep_ends_a_flow_whose_token_is_too_old(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker(policy=Policy(token_lifetime=timedelta(minutes=10)))
    await at(worker, State.TOKEN_ISSUED)
    clock.advance(timedelta(minutes=10))
    assert (await worker.service.sweep()).expired == 1


# Cooldown


async def test_another_code_takes_its_time(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    assert flow.resend_at == clock() + timedelta(seconds=60)
    error = await refused(worker.service.resend(flow.id), LimitReached)
    assert (error.retry_after, error.retryable, error.flow) == (timedelta(seconds=60), True, flow)
    clock.advance(timedelta(seconds=59.5))
    error = await refused(worker.service.resend(flow.id), LimitReached)
    assert error.retry_after == timedelta(seconds=0.5)
    assert worker.transport.calls == []
    clock.advance(timedelta(seconds=0.5))
    flow = await worker.service.resend(flow.id)
    assert (flow.state, flow.resend_at) == (State.QUESTION_ANSWERED, clock() + timedelta(seconds=60))


async def test_codes_are_sent_so_often_and_no_more(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker(policy=Policy(resends=2))
    flow = await at(worker, State.QUESTION_ANSWERED)
    for _ in range(2):
        clock.advance(timedelta(minutes=1))
        flow = await worker.service.resend(flow.id)
    clock.advance(timedelta(minutes=1))
    assert flow.resend_at is None
    error = await refused(worker.service.resend(flow.id), LimitReached)
    assert (error.retry_after, error.retryable, error.flow) == (None, False, flow)
    assert len(worker.transport.calls) == 2


async def test_the_answer_can_be_wrong_by_the_time_of_another_code(house: House, at: At, clock: FrozenClock) -> None:
    for state in (State.QUESTION_ANSWERED, State.CODE_VERIFIED):
        worker = house.worker()
        flow = await at(worker, state)
        clock.advance(timedelta(minutes=1))
        worker.transport.script(request=[Rejected(reasons=["no"])])
        error = await refused(worker.service.resend(flow.id), AnswerRejected)
        assert error.flow
        assert (error.flow.state, error.flow.expects, error.flow.in_doubt) == (State.REQUESTED, Step.ANSWER, None)
        assert error.flow.allowed == ("answer", "cancel")
        assert (await worker.service.answer(flow.id, "Pedersen")).state is State.QUESTION_ANSWERED


# A broker that is not there


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [(429, {}, 5), (429, {"Retry-After": "7"}, 7), (503, {"Retry-After": "30"}, 30)],
)
async def test_a_broker_that_wants_to_be_left_alone_has_done_nothing(
    *,
    house: House,
    etna: MakeEtna,
    sandbox: Sandbox,
    person: Person,
    clock: FrozenClock,
    status: int,
    headers: dict[str, str],
    retry_after: int,
) -> None:
    service = house.worker(etna()).service
    for state, command, route in (
        (State.REQUESTED, "answer", "request"),
        (State.QUESTION_ANSWERED, "verify", "exchange"),
        (State.QUESTION_ANSWERED, "resend", "request"),
        (State.TOKEN_ISSUED, "set_password", "update"),
    ):
        flow = await person.reaches(service, state)
        clock.advance(timedelta(minutes=1))
        before = len(sandbox.calls)
        sandbox.fault(route, "status", status=status, headers=headers)
        error = await refused(person.does(service, flow, command), BrokerUnavailable)
        assert (error.retry_after, error.retryable) == (timedelta(seconds=retry_after), True)
        same_as_before(error.flow, flow)
        assert len(sandbox.calls) == before + 1
        moved = await person.does(service, flow, command)
        assert error.flow
        assert moved.version > error.flow.version


async def test_a_question_is_asked_for_a_few_times(house: House, etna: MakeEtna, sandbox: Sandbox) -> None:
    service = house.worker(etna()).service
    sandbox.fault("challenge", "drop_before", times=2)
    assert (await service.start("robert.zak")).state is State.REQUESTED
    sandbox.fault("challenge", "drop_before", times=3)
    await refused(service.start("robert.zak"), BrokerUnavailable)
    sandbox.fault("challenge", "status", status=429, headers={"Retry-After": "9"}, times=3)
    error = await refused(service.start("robert.zak"), BrokerUnavailable)
    assert error.retry_after == timedelta(seconds=9)
    assert len(sandbox.calls) == 3 + 3 + 1


async def test_a_broker_that_nobody_answers_at_has_done_nothing(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person, clock: FrozenClock
) -> None:
    service = house.worker(etna()).service
    flows = [await person.reaches(service, state) for state in (State.REQUESTED, State.TOKEN_ISSUED)]
    flows.append(await person.reaches(service, State.QUESTION_ANSWERED))
    clock.advance(timedelta(minutes=1))
    await sandbox.aclose()
    await refused(service.start("robert.zak"), BrokerUnavailable)
    for flow, command in zip(flows, ("answer", "set_password", "verify"), strict=True):
        error = await refused(person.does(service, flow, command), BrokerUnavailable)
        same_as_before(error.flow, flow)
    error = await refused(service.resend(flow.id), BrokerUnavailable)
    await sandbox.start()
    for flow, command in zip(flows, ("answer", "set_password"), strict=False):
        assert (await person.does(service, flow, command)).version > flow.version


async def test_a_first_step_that_was_not_sent_is_made_up_for(
    house: House, etna: MakeEtna, sandbox: Sandbox, maria: Person
) -> None:
    service = house.worker(etna()).service
    sandbox.fault("request", "status", status=429)
    error = await refused(maria.start(service, ref="r"), BrokerUnavailable)
    assert error.flow
    assert (error.flow.state, error.flow.expects, error.flow.history) == (State.REQUESTED, Step.ANSWER, ())
    flow = await maria.start(service, ref="r")
    assert (flow.id, flow.state, len(sandbox.mails)) == (error.flow.id, State.QUESTION_ANSWERED, 1)
    maria.check(flow)


async def test_a_first_step_that_is_made_up_for_may_be_refused(house: House) -> None:
    worker = house.worker(policy=Policy(mask_unknown_users=False))
    worker.transport.script(challenge=[Accepted(value=Secret(""))], request=[NotActed(), Rejected(reasons=["locked"])])
    await refused(worker.service.start("robert.zak", ref="r"), BrokerUnavailable)
    error = await refused(worker.service.start("robert.zak", ref="r"), UnknownUser)
    assert error.flow
    assert error.flow.failure is Failure.BROKER_REFUSED


@pytest.mark.parametrize(("status", "body"), [(404, ""), (301, ""), (403, "<html>no</html>"), (415, "{}")])
async def test_what_stands_in_front_of_the_broker_has_done_nothing(
    *, house: House, etna: MakeEtna, sandbox: Sandbox, person: Person, status: int, body: str
) -> None:
    service = house.worker(etna()).service
    flow = await person.reaches(service, State.QUESTION_ANSWERED)
    sandbox.fault("exchange", "raw", status=status, body=body)
    error = await refused(person.does(service, flow, "verify"), BrokerProtocolError)
    same_as_before(error.flow, flow)
    assert (await person.does(service, flow, "verify")).state is State.TOKEN_ISSUED


# Guards


async def test_a_guard_stops_a_command_before_anything(house: House, at: At) -> None:
    asked: list[tuple[State | None, str]] = []

    async def guard(request: CommandRequest) -> None:
        assert request.user == "robert.zak"
        asked.append((request.flow.state if request.flow else None, request.command))
        if request.command == "verify":
            raise CommandVetoed("not today")

    worker = house.worker(guards=[guard])
    flow = await at(worker, State.QUESTION_ANSWERED)
    error = await refused(worker.service.verify(flow.id, "004158"), CommandVetoed)
    assert error.flow == flow == await worker.service.get(flow.id)
    assert (worker.transport.calls, worker.store.saves) == ([], [])
    assert asked == [(None, "start"), (State.REQUESTED, "answer"), (State.QUESTION_ANSWERED, "verify")]
    assert (await worker.service.cancel(flow.id)).failure is Failure.CANCELLED


async def test_a_guard_stops_a_start_before_the_broker_is_asked(house: House) -> None:
    asked: list[CommandRequest] = []

    async def guard(request: CommandRequest) -> None:
        asked.append(request)
        raise CommandVetoed("solve the riddle first")

    worker = house.worker(guards=[guard])
    await refused(worker.service.start("robert.zak", origin="10.0.0.1"), CommandVetoed)
    await refused(worker.service.adopt("robert.zak", "a token"), CommandVetoed)
    assert [(each.command, each.user, each.origin, each.flow) for each in asked] == [
        ("start", "robert.zak", "10.0.0.1", None),
        ("adopt", "robert.zak", None, None),
    ]
    assert (worker.transport.calls, worker.store.saves) == ([], [])
    assert "robert" not in repr(asked)
    assert "10.0.0.1" not in repr(asked)


async def test_a_guard_is_asked_again_where_a_start_goes_on_whose_first_call_was_not_made(house: House) -> None:
    asked: list[tuple[str, bool]] = []

    async def guard(request: CommandRequest) -> None:
        asked.append((request.command, request.flow is not None))

    worker = house.worker(guards=[guard])
    for outcome in (NotActed(), Accepted()):
        worker.transport.script(challenge=[Accepted()], request=[outcome])
        with suppress(BrokerUnavailable):
            await worker.service.start("robert.zak", ref="ticket-4711")
    assert asked == [("start", False), ("start", True)]
    assert (await worker.service.start("robert.zak", ref="ticket-4711")).state is State.QUESTION_ANSWERED
    assert len(asked) == 2, "one that only gives the flow asks no guard"


# Construction


async def test_a_lease_must_be_longer_than_a_deadline(house: House) -> None:
    transport = ScriptedTransport(deadline=timedelta(seconds=30))
    with pytest.raises(ConfigurationError):
        house.worker(transport, policy=Policy(lease=timedelta(seconds=30)))
    house.worker(transport, policy=Policy(lease=timedelta(seconds=30, microseconds=1)))


async def test_words_that_repeat_a_secret_are_withheld_whoever_wrote_the_transport(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    said = ("it must not be Violet  Tractor 5 star", "it must not hold ROBERT.ZAK", "it must be longer")
    worker.transport.script(update=[Rejected(reasons=said)])
    error = await refused(worker.service.set_password(flow.id, "violet tractor 5 star"), PasswordRejected)
    assert error.reasons == (Reason(None, "it must be longer"),)
    worker.transport.script(update=[NotActed(detail="PUT violet tractor 5 star: refused")])
    down = await refused(worker.service.set_password(flow.id, "violet tractor 5 star"), BrokerUnavailable)
    assert "violet" not in str(down)


async def test_a_response_floor_must_be_shorter_than_a_lease(house: House) -> None:
    with pytest.raises(ConfigurationError, match="shorter than the lease"):
        house.worker(policy=Policy(response_floor=timedelta(seconds=30)))


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_keys_that_are_in_no_file_are_warned_of(house: House) -> None:
    with pytest.warns(UserWarning, match="no file"):
        house.worker(keyring=Keyring.generate())


async def test_of_two_commands_at_once_one_is_sent(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    commands = [asyncio.create_task(worker.service.verify(flow.id, "004158")) for _ in range(3)]
    await held.arrived.wait()
    done, _ = await asyncio.wait(commands, return_when=asyncio.FIRST_COMPLETED)
    assert {getattr(task.exception(), "code", None) for task in done} == {"flow_busy"}
    held.released.set()
    results = await asyncio.gather(*commands, return_exceptions=True)
    assert [isinstance(result, Exception) for result in results].count(False) == 1
    assert len(worker.transport.calls) == 1


def test_a_worker_whose_name_nothing_could_hold_is_refused_before_it_begins(house: House) -> None:
    for name in ("a\ud800", "a\x00", "x" * 400):
        with pytest.raises(InvalidInput, match="worker"):
            house.worker(worker=name)


NEWEST = Reason("newest_counts", "only the code of the newest e-mail counts")


async def test_after_another_e_mail_the_refusal_says_which_code_counts(
    house: House, etna: MakeEtna, person: Person, clock: FrozenClock
) -> None:
    service = house.worker(etna(), policy=Policy(mask_unknown_users=False)).service
    flow = await person.reaches(service, State.QUESTION_ANSWERED)
    older = person.code
    error = await refused(person.does(service, flow, "verify", "000000"), CodeRejected)
    assert NEWEST not in error.reasons
    clock.advance(timedelta(minutes=2))
    await person.does(service, flow, "resend")
    error = await refused(person.does(service, flow, "verify", older), CodeRejected)
    assert error.reasons[-1] == NEWEST
    assert len(error.reasons) > 1  # beside the broker's own words
    assert NEWEST.text in str(error)
    assert (await person.does(service, flow, "verify")).state is State.TOKEN_ISSUED


@pytest.mark.parametrize("outcome", [Accepted(), Unknown()])
async def test_an_e_mail_that_may_have_been_sent_counts(
    house: House, at: At, clock: FrozenClock, outcome: Outcome
) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(timedelta(minutes=2))
    worker.transport.script(request=[outcome], exchange=[Rejected()])
    await worker.service.resend(flow.id)
    assert (await refused(worker.service.verify(flow.id, "000000"), CodeRejected)).reasons == (NEWEST,)


async def test_an_e_mail_that_was_asked_for_by_another_answer_counts(house: House, at: At, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(timedelta(minutes=2))
    worker.transport.script(request=[Rejected()], exchange=[Rejected()])
    await refused(worker.service.resend(flow.id), AnswerRejected)
    await worker.service.answer(flow.id, "Peterson")
    assert (await refused(worker.service.verify(flow.id, "000000"), CodeRejected)).reasons == (NEWEST,)


async def test_a_masked_flow_says_the_same_of_the_newest_e_mail(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    said = []
    for challenge in (Accepted(value=Secret("")), Rejected()):
        worker.transport.script(challenge=[challenge])
        flow = await worker.service.start("robert.zak" if isinstance(challenge, Accepted) else "nobody")
        worker.transport.script(exchange=[Rejected(reasons=("Wrong.",))] * 2)
        before = await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
        clock.advance(timedelta(minutes=2))
        await worker.service.resend(flow.id)
        after = await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
        said.append([str(before).replace(flow.id, ""), str(after).replace(flow.id, "")])
    assert said[0] == said[1]
    assert NEWEST.text not in said[0][0]
    assert NEWEST.text in said[0][1]

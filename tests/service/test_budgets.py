"""What is counted across flows, restarts and workers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow import (
    Accepted,
    Budget,
    CodeRejected,
    GuessAlarm,
    LimitReached,
    NotActed,
    Policy,
    Rejected,
    ResetFlowError,
    Secret,
    State,
    Unknown,
)
from reset_flow.testing import refused

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Part
    from tests.service.conftest import At, House

HOUR = timedelta(hours=1)


async def test_ten_wrong_codes_a_day_for_one_user_whatever_the_flow_worker_and_spelling(
    house: House, at: At, clock: FrozenClock
) -> None:
    spellings = ["robert.zak", " Robert.Zak", "ROBERT.ZAK"]
    sent = 0
    for number in range(4):
        worker = house.worker()
        worker.transport.script(exchange=[Rejected()] * 5)
        flow = await at(worker, State.QUESTION_ANSWERED, user=spellings[number % 3])
        for _ in range(4):
            rejected = await refused(worker.service.verify(flow.id, "000000"), ResetFlowError)
            sent += isinstance(rejected, CodeRejected)
            assert isinstance(rejected, (CodeRejected, LimitReached))
            assert rejected.flow
            assert rejected.flow.attempts_left == 5 - len(worker.transport.calls_of("exchange"))
        clock.advance(timedelta(minutes=61))
        await worker.service.sweep()  # what expires gives back the guess that it had reserved
    assert sent == 10
    # The first use is 4 h 4 min old, and frees its place after 24 h, to the microsecond.
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    error = await refused(worker.service.verify(flow.id, "000000"), LimitReached)
    assert error.retry_after == timedelta(hours=24) - 4 * timedelta(minutes=61)
    assert worker.transport.calls == []
    clock.advance(error.retry_after)
    flow = await at(worker, State.QUESTION_ANSWERED)
    assert (await worker.service.verify(flow.id, "000000")).state is State.TOKEN_ISSUED


async def test_right_codes_and_codes_that_never_arrived_are_no_guesses(house: House, at: At) -> None:
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, HOUR)))
    for _ in range(3):
        flow = await at(worker, State.QUESTION_ANSWERED)
        worker.transport.script(exchange=[NotActed()])
        await refused(worker.service.verify(flow.id, "004158"), ResetFlowError)
        assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_code_that_is_lost_to_doubt_counts_and_is_not_given_back(house: House, at: At) -> None:
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, HOUR)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Unknown(), Rejected()])
    error = await refused(worker.service.verify(flow.id, "004158"), ResetFlowError)
    assert error.flow
    assert error.flow.attempts_left == 5  # of the flow, it is given back
    await refused(worker.service.verify(flow.id, "004158"), LimitReached)


async def test_starts_are_counted_by_user_and_by_origin(house: House, clock: FrozenClock) -> None:
    service = house.worker().service
    for _ in range(5):
        await service.start("robert.zak", origin="10.0.0.1")
    error = await refused(service.start("robert.zak", origin="10.0.0.1"), LimitReached)
    assert error.retry_after == HOUR
    await service.start("maria", origin="10.0.0.1")
    for number in range(15):
        await house.worker().service.start("robert.zak", origin=f"10.0.1.{number}")
    clock.advance(timedelta(minutes=59))
    error = await refused(service.start("Robert.Zak"), LimitReached)
    assert error.retry_after == timedelta(minutes=1)
    clock.advance(error.retry_after)
    await service.start("robert.zak", origin="10.0.0.1")


async def test_a_flow_that_runs_stays_usable_when_no_more_may_be_started(house: House) -> None:
    worker = house.worker(policy=Policy(starts_per_user=Budget(2, HOUR)))
    flow = await worker.service.start("robert.zak", ref="mine")
    await worker.service.start("robert.zak")
    await refused(worker.service.start("robert.zak"), LimitReached)
    assert (await worker.service.start("robert.zak", ref="mine")).id == flow.id
    flow = await worker.service.answer(flow.id, "Peterson")
    flow = await worker.service.verify(flow.id, "004158")
    assert (await worker.service.set_password(flow.id, "violet tractor 5")).state is State.PASSWORD_SET


async def test_many_guesses_set_off_the_alarm_and_stop_nobody(
    house: House, at: At, caplog: pytest.LogCaptureFixture
) -> None:
    worker = house.worker()
    right = await at(worker, State.QUESTION_ANSWERED)

    async def guess(number: int) -> None:
        flow = await at(worker, State.QUESTION_ANSWERED, user=f"invented {number}")
        worker.transport.script(exchange=[Rejected()])
        await refused(worker.service.verify(flow.id, "000000"), CodeRejected)

    for number in range(100):
        await guess(number)
    assert "guess alarm" not in caplog.text
    await guess(100)
    assert caplog.text.count("guess alarm") == 1
    assert (await worker.service.verify(right.id, "004158")).state is State.TOKEN_ISSUED


async def test_an_alarm_stops_guesses_where_that_is_wanted(house: House, at: At) -> None:
    policy = Policy(guess_alarm=GuessAlarm(at_least=1), stop_on_alarm=True)
    worker = house.worker(policy=policy)
    for number in range(2):
        flow = await at(worker, State.QUESTION_ANSWERED, user=f"invented {number}")
        worker.transport.script(exchange=[Rejected()])
        await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    flow = await at(worker, State.QUESTION_ANSWERED)
    await refused(worker.service.verify(flow.id, "004158"), LimitReached)


async def test_five_hundred_right_codes_at_once_are_all_let_through(house: House, at: At) -> None:
    worker = house.worker()
    flows = [await at(worker, State.QUESTION_ANSWERED, user=f"person {number}") for number in range(500)]
    done = await asyncio.gather(*(worker.service.verify(flow.id, "004158") for flow in flows))
    assert {flow.state for flow in done} == {State.TOKEN_ISSUED}


async def test_a_decoy_is_the_same_for_a_user_across_restarts(house: House) -> None:
    policy = Policy(decoy_questions=[f"question {number}?" for number in range(50)])
    asked = set()
    for _ in range(3):
        worker = house.worker(policy=policy)
        worker.transport.script(challenge=[Rejected(reasons=["unknown"])])
        flow = await worker.service.start("Nobody")
        asked.add(flow.question)
    assert len(asked) == 1
    others = set()
    for number in range(10):
        worker.transport.script(challenge=[Rejected()])
        others.add((await worker.service.start(f"nobody {number}")).question)
    assert len(others) > 3


def shown(flow: Flow | None) -> dict[str, object]:
    """Return what an outsider sees of a flow, without the values that differ for each."""
    assert flow
    hidden = ("id", "created_at", "expires_at", "resend_at", "question")
    return {name: (value is not None if name in hidden else value) for name, value in flow.public().items()}


@pytest.mark.parametrize("question", ["Where?", ""])
async def test_known_and_unknown_users_look_the_same(house: House, clock: FrozenClock, question: str) -> None:
    policy = Policy(decoy_questions=("What?",) if question else (), mask_unknown_users=True)
    seen: dict[str, list[object]] = {}
    for who in ("known", "unknown"):
        worker = house.worker(policy=policy)
        script: dict[str, list[Part]] = {"exchange": [Rejected(reasons=["wrong code"])] * 5}
        if who == "known":
            script["challenge"] = [Accepted(value=Secret(question))]
            script["request"] = [Rejected(reasons=["wrong answer"])] * 3 if question else [Accepted()] * 2
        else:
            script["challenge"] = [Rejected(reasons=["no such user"])]
        worker.transport.script(**script)
        flow = await worker.service.start(who)
        seen[who] = [shown(flow)]
        commands = (
            [("answer", "Berlin")] * 3 if question else [("verify", "000000")] * 4 + [("resend",), ("verify", "1")]
        )
        for command, *given in commands:
            if command == "resend":
                clock.advance(timedelta(seconds=60))
            try:
                flow = await getattr(worker.service, command)(flow.id, *given)
                seen[who].append(shown(flow))
            except ResetFlowError as error:
                told = str(error).replace(flow.id, "")
                seen[who].append((type(error), told, getattr(error, "reasons", None), shown(error.flow)))
        if who == "unknown":
            assert [call.name for call in worker.transport.calls] == ["challenge"]
    assert seen["known"] == seen["unknown"]

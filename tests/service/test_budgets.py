"""What is counted across flows, restarts and workers."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reset_flow import (
    Accepted,
    AnswerRejected,
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
from tests.shown import shown

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Part
    from tests.service.conftest import At, House, ScriptedWorker

DAY, HOUR, TICK = timedelta(hours=24), timedelta(hours=1), timedelta(microseconds=1)
COUNTS = HOUR + DAY
"""How long the guesses of a flow count from its start: for a day after it must have ended."""
CODES, OF_ORIGIN = Policy().codes_per_user.limit, Policy().codes_per_origin.limit
SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


async def test_wrong_codes_for_one_user_are_counted_for_a_day_after_their_flow_whatever_the_worker_and_spelling(
    house: House, at: At, clock: FrozenClock
) -> None:
    spellings = ["robert.zak", " Robert.Zak", "ROBERT.ZAK"]
    sent = 0
    flows = CODES // 4 + 2
    for number in range(flows):
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
    assert sent == CODES
    # The uses of the first flow free their places 24 h after its time was up, to the microsecond.
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    error = await refused(worker.service.verify(flow.id, "000000"), LimitReached)
    assert error.retry_after == COUNTS - flows * timedelta(minutes=61)
    assert worker.transport.calls == []
    clock.advance(error.retry_after - TICK)
    flow = await at(worker, State.QUESTION_ANSWERED)
    await refused(worker.service.verify(flow.id, "000000"), LimitReached)
    clock.advance(TICK)
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


# --- what it costs to keep somebody from resetting


class Stranger:
    """Somebody who knows a login; each start and each guess is a request."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self.worker = worker
        self.requests = 0

    async def guess(self, command: str, wrong: int, origin: str = "there", user: str = "robert.zak") -> None:
        """Start a flow that asks for an answer or a code, and make so many wrong guesses in it."""
        question, call = ("Where?", "request") if command == "answer" else ("", "exchange")
        self.worker.transport.script(challenge=[Accepted(value=Secret(question))])
        flow = await self.worker.service.start(user, origin=origin)
        self.requests += 1
        for _ in range(wrong):
            self.worker.transport.script(**{call: [Rejected()]})
            error = await refused(getattr(self.worker.service, command)(flow.id, "000000"), ResetFlowError)
            if not isinstance(error, (AnswerRejected, CodeRejected)):
                raise error
            self.requests += 1


class Person:
    """The person whose login it is: at home, and of good memory."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self.worker = worker

    async def start(self, origin: str = "home", *, question: str = "") -> Flow:
        self.worker.transport.script(challenge=[Accepted(value=Secret(question))])
        return await self.worker.service.start("robert.zak", origin=origin)

    async def finishes(self, flow: Flow) -> None:
        if flow.question:
            await self.worker.service.answer(flow.id, "Peterson")
        await self.worker.service.verify(flow.id, "004158")
        done = await self.worker.service.set_password(flow.id, "violet tractor 5")
        assert done.state is State.PASSWORD_SET

    async def is_stopped(self, flow: Flow, limit: str) -> None:
        command = "answer" if flow.question else "verify"
        error = await refused(getattr(self.worker.service, command)(flow.id, "004158"), LimitReached)
        assert error.limit == limit


@pytest.fixture
def stranger(house: House) -> Stranger:
    return Stranger(house.worker())


@pytest.fixture
def person(house: House) -> Person:
    return Person(house.worker())


def documented(limit: str) -> int:
    """Return the requests in the row of a limit in docs/security.md."""
    (requests,) = re.findall(rf"^\| {re.escape(limit)} \| (\d+)", SECURITY.read_text(), re.MULTILINE)
    return int(requests)


async def test_starts_for_a_user_can_be_used_up_for_an_hour(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for number in range(20):
        await stranger.guess("answer", 0, f"there {number // 5}")
    assert stranger.requests == documented("`starts_per_user`")
    assert (await refused(person.start(), LimitReached)).limit == "starts_per_user"
    clock.advance(HOUR)
    await person.finishes(await person.start())


async def test_starts_from_the_origin_of_a_user_can_be_used_up_for_an_hour(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for _ in range(5):
        await stranger.guess("answer", 0, "home")
    assert stranger.requests == documented("`starts_per_origin`")
    assert (await refused(person.start(), LimitReached)).limit == "starts_per_origin"
    await person.finishes(await person.start("elsewhere"))
    clock.advance(HOUR)
    await person.finishes(await person.start())


async def test_codes_from_the_origin_of_a_user_can_be_used_up_for_25_hours(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for wrong in (5, OF_ORIGIN - 5):
        await stranger.guess("verify", wrong, "home")
    assert stranger.requests == documented("`codes_per_origin`")
    await person.is_stopped(await person.start(), "codes_per_origin")
    await person.finishes(await person.start("elsewhere"))
    clock.advance(COUNTS - TICK)
    await person.is_stopped(await person.start(), "codes_per_origin")
    clock.advance(TICK)
    await person.finishes(await person.start())


async def test_one_origin_leaves_codes_to_the_user_who_is_elsewhere(stranger: Stranger, person: Person) -> None:
    for wrong in (5, OF_ORIGIN - 5):
        await stranger.guess("verify", wrong)
    with pytest.raises(LimitReached, match="from one origin"):
        await stranger.guess("verify", 1)
    flow = await person.start()
    for _ in range(CODES - OF_ORIGIN - 1):
        person.worker.transport.script(exchange=[Rejected()])
        await refused(person.worker.service.verify(flow.id, "000000"), CodeRejected)
    await person.finishes(flow)


async def test_codes_of_a_user_can_be_used_up_for_25_hours_from_two_origins(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for number in range(CODES // 5):
        await stranger.guess("verify", 5, f"there {number % 2}")
    assert stranger.requests == documented("`codes_per_user`")
    await person.is_stopped(await person.start("elsewhere"), "codes_per_user")
    clock.advance(COUNTS - TICK)
    await person.is_stopped(await person.start("elsewhere"), "codes_per_user")
    clock.advance(TICK)
    await person.finishes(await person.start())


async def test_codes_of_a_user_can_be_held_for_an_hour_from_two_origins(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for number in range(CODES // 5):
        await stranger.guess("verify", 4, f"there {number % 2}")
    assert stranger.requests == documented("`codes_per_user`, partly held")
    await person.is_stopped(await person.start(), "codes_per_user")
    clock.advance(HOUR)
    await stranger.worker.service.sweep()
    await person.finishes(await person.start())


async def test_who_uses_up_codes_does_not_stop_a_flow_that_runs(stranger: Stranger, person: Person) -> None:
    running = await person.start()
    for number in range(CODES // 5 - 1):
        await stranger.guess("verify", 5, f"there {number % 2}")
    with pytest.raises(LimitReached):
        await stranger.guess("verify", 5, "anywhere")
    assert stranger.requests == documented("`codes_per_user`") - 1
    await person.finishes(running)


async def test_answers_of_a_user_can_be_used_up_for_25_hours(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for number in range(6):
        await stranger.guess("answer", 3, f"there {number // 5}")
    await stranger.guess("answer", 2, "there 1")
    assert stranger.requests == documented("`answers_per_user`")
    await person.is_stopped(await person.start(question="Where?"), "answers_per_user")
    clock.advance(COUNTS - TICK)
    await person.is_stopped(await person.start(question="Where?"), "answers_per_user")
    clock.advance(TICK)
    await person.finishes(await person.start(question="Where?"))


async def test_answers_of_a_user_can_be_held_for_an_hour(
    stranger: Stranger, person: Person, clock: FrozenClock
) -> None:
    for number in range(6):
        await stranger.guess("answer", 2, f"there {number // 5}")
    await stranger.guess("answer", 1, "there 1")
    assert stranger.requests == documented("`answers_per_user`, partly held")
    await person.is_stopped(await person.start(question="Where?"), "answers_per_user")
    clock.advance(HOUR)
    await stranger.worker.service.sweep()
    await person.finishes(await person.start(question="Where?"))


async def test_an_alarm_that_stops_can_be_set_off_for_an_hour(house: House, clock: FrozenClock) -> None:
    policy = Policy(stop_on_alarm=True)
    stranger, person = Stranger(house.worker(policy=policy)), Person(house.worker(policy=policy))
    flow = await person.start()
    for number in range(20):
        await stranger.guess("verify", 5, user=f"invented {number}")
    await stranger.guess("verify", 1, user="invented 20")
    assert stranger.requests == documented("`guess_alarm` with `stop_on_alarm`")
    await stranger.worker.tells()
    await person.is_stopped(flow, "guess_alarm")
    clock.advance(HOUR)
    await stranger.worker.tells()
    await person.worker.tells()
    await person.finishes(await person.start())


# --- the alarm and masks


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
        seen[who] = [shown(flow, "question")]
        commands = (
            [("answer", "Berlin")] * 3 if question else [("verify", "000000")] * 4 + [("resend",), ("verify", "1")]
        )
        for command, *given in commands:
            if command == "resend":
                clock.advance(timedelta(seconds=60))
            try:
                flow = await getattr(worker.service, command)(flow.id, *given)
                seen[who].append(shown(flow, "question"))
            except ResetFlowError as error:
                told = str(error).replace(flow.id, "")
                seen[who].append((type(error), told, getattr(error, "reasons", None), shown(error.flow, "question")))
        if who == "unknown":
            assert {call.name for call in worker.transport.calls} == {"challenge", "probe"}
    assert seen["known"] == seen["unknown"]

"""Many workers on one flow at the same moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from reset_flow import CodeRejected, Failure, FlowBusy, FlowEnded, ResetFlowError, StaleRecord, State
from reset_flow.testing import refused

if TYPE_CHECKING:
    from tests.crash.conftest import Crash

WORKERS = 16
GUESSES = 50


async def test_of_many_processes_that_verify_one_flow_one_calls(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    crash.at_once = asyncio.Semaphore(WORKERS)
    crash.sandbox.fault("exchange", "latency", user=person.user, seconds=6.0)
    ends = await asyncio.gather(*(crash.doom(person, "verify", None) for _ in range(WORKERS)))
    told = Counter(end["told"] for end in ends)
    assert told.pop("") == 1
    assert set(told) <= {"flow_busy", "stale_record", "illegal_command"}
    assert len([call for call in crash.sandbox.calls_of("exchange") if call.user == person.user]) == 1
    assert (await person.service.get(person.flow_id)).state is State.TOKEN_ISSUED


async def test_of_many_guesses_at_once_no_more_than_allowed_reach_the_broker(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    right = crash.sandbox.newest_code(person.user)
    wrong = [f"{number:06d}" for number in range(GUESSES + 1) if f"{number:06d}" != right][:GUESSES]
    before = len(crash.sandbox.calls_of("exchange"))

    async def guess(code: str) -> type[ResetFlowError]:
        while True:
            try:
                await person.service.verify(person.flow_id, code)
            except (FlowBusy, StaleRecord):
                await asyncio.sleep(0.01)
            except ResetFlowError as error:
                return type(error)
            else:
                pytest.fail("a wrong code was taken")

    told = Counter(await asyncio.gather(*map(guess, wrong)))
    assert told == {CodeRejected: 5, FlowEnded: GUESSES - 5}
    assert len(crash.sandbox.calls_of("exchange")) == before + 5
    error = await refused(person.service.verify(person.flow_id, right), FlowEnded)
    assert error.flow
    assert error.flow.failure is Failure.TOO_MANY_ATTEMPTS
    assert len(crash.sandbox.calls_of("exchange")) == before + 5


async def test_workers_that_start_the_same_ref_at_once_make_one_flow(crash: Crash) -> None:
    person = crash.person()
    crash.at_once = asyncio.Semaphore(WORKERS)
    ends = await asyncio.gather(*(crash.doom(person, "start", None) for _ in range(WORKERS)))
    assert {end["told"] for end in ends} <= {"", "flow_busy"}
    flow = await person.service.start(person.user, ref=person.user)
    assert flow.version == 1
    await refused(person.service.start("somebody else", ref=person.user), ResetFlowError)

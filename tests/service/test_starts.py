"""Starts that certainly did nothing are given back; what they may send later is counted then."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow import (
    Accepted,
    BrokerUnavailable,
    Budget,
    Cause,
    FlowNotFound,
    LimitReached,
    NotActed,
    Policy,
    Rejected,
    ResetFlowError,
    Secret,
    State,
)
from reset_flow.testing import refused

if TYPE_CHECKING:
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import House, ScriptedWorker

pytestmark = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])

DOWN, UP = NotActed(detail="connection refused"), Accepted()
NO_QUESTION = Accepted(value=None)


async def start_while_down(worker: ScriptedWorker, ref: str | None = None, origin: str | None = None) -> str:
    """Start a flow whose first call certainly does nothing; return the id of the flow that it leaves."""
    worker.transport.script(challenge=[NO_QUESTION], request=[DOWN])
    error = await refused(worker.service.start("robert.zak", ref=ref, origin=origin), BrokerUnavailable)
    assert error.flow is not None
    assert error.flow.state is State.REQUESTED
    return error.flow.id


async def test_starts_while_the_broker_is_down_are_no_floods(house: House) -> None:
    worker = house.worker(policy=Policy(lease=house.lease, starts_per_user=Budget(2, timedelta(hours=1))))
    for _ in range(6):
        await start_while_down(worker, origin="10.0.0.1")
    worker.transport.script(challenge=[NO_QUESTION])
    assert (await worker.service.start("robert.zak", origin="10.0.0.1")).state is State.QUESTION_ANSWERED


async def test_a_hundred_of_them_send_no_more_mails_than_may_be_started_once_it_is_up(house: House) -> None:
    worker = house.worker()
    flows = [await start_while_down(worker, ref=f"ticket {number}") for number in range(100)]
    other = house.worker()
    sent = refusals = 0
    for number, flow_id in enumerate(flows):
        other.transport.script(challenge=[NO_QUESTION], request=[UP])
        if number % 2:  # by the flow's id
            going_on = other.service.answer(flow_id)
        else:  # by the embedder's own name of it
            going_on = other.service.start("robert.zak", ref=f"ticket {number}")
        if sent < 20:
            await going_on
            sent += 1
        else:
            error = await refused(going_on, LimitReached)
            assert (error.limit, error.retry_after) == ("starts_per_user", timedelta(hours=1))
            refusals += 1
        other.transport.unscript("challenge", "request")
    assert (sent, refusals) == (20, 80)
    assert len(other.transport.calls_of("request")) == 20


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=2)])
async def test_starts_that_are_saved_up_over_days_send_no_more_mails_in_an_hour(
    house: House, clock: FrozenClock, ahead: timedelta
) -> None:
    policy = Policy(lease=house.lease, flow_lifetime=timedelta(days=2))
    worker, starter = house.worker(policy=policy), house.worker(policy=policy, clock=lambda: clock() + ahead)
    flows = []
    for _ in range(5):
        starter.transport.script(challenge=[Accepted(value=Secret("Maiden name?"))] * 10)
        flows += [await starter.service.start("robert.zak", origin=str(number)) for number in range(10)]
        clock.advance(timedelta(hours=2))
    for flow in flows[:20]:
        await worker.service.answer(flow.id, "Peterson")
    for flow in flows[20:]:
        error = await refused(worker.service.answer(flow.id, "Peterson"), LimitReached)
        assert error.limit == "starts_per_user"
    assert len(worker.transport.calls_of("request")) == 20
    clock.advance(timedelta(hours=1))
    assert (await worker.service.answer(flows[20].id, "Peterson")).state is State.QUESTION_ANSWERED


async def test_what_was_refused_for_a_limit_goes_on_when_there_is_room(house: House, clock: FrozenClock) -> None:
    policy = Policy(lease=house.lease, starts_per_user=Budget(1, timedelta(minutes=10)))
    worker = house.worker(policy=policy)
    waiting = await start_while_down(worker)
    worker.transport.script(challenge=[NO_QUESTION])
    await worker.service.start("robert.zak")
    error = await refused(worker.service.answer(waiting), LimitReached)
    assert error.retry_after == timedelta(minutes=10)
    clock.advance(timedelta(minutes=10))
    assert (await worker.service.answer(waiting)).state is State.QUESTION_ANSWERED


async def test_a_throttled_start_stays_counted(house: House) -> None:
    policy = Policy(lease=house.lease, starts_per_user=Budget(2, timedelta(hours=1)))
    worker = house.worker(policy=policy)
    throttled = NotActed(cause=Cause.THROTTLED, retry_after=timedelta(seconds=30))
    for _ in range(2):
        worker.transport.script(challenge=[NO_QUESTION], request=[throttled])
        error = await refused(worker.service.start("robert.zak"), BrokerUnavailable)
        assert error.retry_after == timedelta(seconds=30)
    worker.transport.script(challenge=[NO_QUESTION])
    assert (await refused(worker.service.start("robert.zak"), LimitReached)).limit == "starts_per_user"
    assert error.flow is not None
    assert (await worker.service.answer(error.flow.id)).state is State.QUESTION_ANSWERED  # it is counted already


@pytest.mark.parametrize("text", ["", "Peterson"])
@pytest.mark.parametrize("outcome", [Accepted(), Rejected()])
async def test_a_start_given_back_goes_on_alike_for_known_and_unknown_users(
    house: House, text: str, outcome: Accepted | Rejected
) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(""))], request=[DOWN, outcome])
    error = await refused(worker.service.start("robert.zak"), BrokerUnavailable)
    assert error.flow is not None
    flow = await worker.service.answer(error.flow.id, text)
    assert (flow.state, flow.in_doubt, flow.attempts_left) == (State.QUESTION_ANSWERED, None, 5)


async def test_each_limit_has_its_name(house: House) -> None:
    policy = Policy(lease=house.lease, starts_per_origin=Budget(1, timedelta(hours=1)))
    worker = house.worker(policy=policy)
    await worker.service.start("robert.zak", origin="10.0.0.1")
    error = await refused(worker.service.start("robert.zak", origin="10.0.0.1"), LimitReached)
    assert (error.limit, error.retryable) == ("starts_per_origin", True)


async def test_a_start_that_is_refused_leaves_no_flow(house: House) -> None:
    policy = Policy(lease=house.lease, starts_per_user=Budget(1, timedelta(hours=1)))
    worker = house.worker(policy=policy)
    await worker.service.start("robert.zak")
    await refused(worker.service.start("robert.zak", ref="second", tags=["t"]), LimitReached)
    assert await worker.service.find("t") == []
    error = await refused(worker.service.get("0" * 26), ResetFlowError)
    assert isinstance(error, FlowNotFound)

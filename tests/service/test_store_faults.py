"""A store that fails before or after it wrote: no call without an intent, no outcome lost, nothing doubled or stuck."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.errors import (
    CodeRejected,
    FlowBusy,
    OutcomeInDoubt,
    RecordUnreadable,
    ResetFlowError,
    StoreUnavailable,
)
from reset_flow.domain.flow import State, Step
from reset_flow.domain.outcomes import Accepted, NotActed, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.persistence.key_file import Key
from reset_flow.persistence.keyring import Keyring
from reset_flow.testing import refused

if TYPE_CHECKING:
    from reset_flow.engine.background_tasks import Backoff
    from reset_flow.ports import Record
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, MakeEtna, Person, Until

COMMANDS: dict[str, tuple[State, tuple[str, ...], State]] = {
    "answer": (State.REQUESTED, ("Peterson",), State.QUESTION_ANSWERED),
    "resend": (State.QUESTION_ANSWERED, (), State.QUESTION_ANSWERED),
    "verify": (State.QUESTION_ANSWERED, ("004158",), State.TOKEN_ISSUED),
    "set_password": (State.TOKEN_ISSUED, ("violet tractor 5",), State.PASSWORD_SET),
}
EVERY_COMMAND = pytest.mark.parametrize("command", list(COMMANDS))
BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reset_flow.engine.background_tasks.FIRST_PAUSE", 0.002)
    monkeypatch.setattr("reset_flow.engine.background_tasks.LONGEST_PAUSE", 0.01)


@BOTH_STORES
@EVERY_COMMAND
@pytest.mark.parametrize("how", ["before", "after"])
async def test_an_intent_that_is_not_acknowledged_sends_nothing_and_counts_nothing(
    house: House, at: At, clock: FrozenClock, command: str, how: str
) -> None:
    worker = house.worker()
    stands, given, after = COMMANDS[command]
    flow = await at(worker, stands)
    clock.advance(timedelta(minutes=1))
    worker.store.plan.append(how)
    error = await refused(getattr(worker.service, command)(flow.id, *given), StoreUnavailable)
    assert error.retryable
    await worker.idle()
    seen = await worker.service.get(flow.id)
    assert worker.transport.calls == []
    assert (seen.state, seen.in_doubt, seen.history) == (flow.state, None, flow.history)
    assert (seen.attempts_left, seen.resend_at) == (flow.attempts_left, flow.resend_at)
    assert seen.version == flow.version + (2 if how == "after" else 0)
    moved = await getattr(worker.service, command)(flow.id, *given)
    assert (moved.state, len(worker.transport.calls)) == (after, 1)


@EVERY_COMMAND
async def test_an_intent_is_withdrawn_once_the_store_is_back(
    house: House, at: At, clock: FrozenClock, until: Until, command: str
) -> None:
    worker, other = house.worker(), house.worker()
    stands, given, _ = COMMANDS[command]
    flow = await at(worker, stands)
    clock.advance(timedelta(minutes=1))
    worker.store.plan.append("after and away")
    await refused(getattr(worker.service, command)(flow.id, *given), StoreUnavailable)
    await refused(other.service.cancel(flow.id), FlowBusy)
    await until(lambda: worker.store.turned_away >= 2)  # it has been tried to withdraw it, in vain
    worker.store.down = False
    await worker.idle()
    seen = await other.service.get(flow.id)
    assert (seen.in_doubt, seen.attempts_left) == (None, flow.attempts_left)
    assert (await other.service.cancel(flow.id)).ended


@EVERY_COMMAND
@pytest.mark.parametrize("late", [False, True], ids=["at once", "after the lease"])
async def test_an_intent_that_was_given_up_is_never_sent_by_its_own_worker(
    house: House, at: At, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, *, command: str, late: bool
) -> None:
    asleep = asyncio.Event()

    async def for_ever(_: Backoff) -> None:
        asleep.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("reset_flow.engine.background_tasks.Backoff.pause", for_ever)
    worker = house.worker()
    stands, given, after = COMMANDS[command]
    flow = await at(worker, stands)
    clock.advance(timedelta(minutes=1))
    worker.store.plan.append("after and away")
    await refused(getattr(worker.service, command)(flow.id, *given), StoreUnavailable)
    await asleep.wait()  # it has been tried to withdraw it, in vain
    worker.store.down = False
    if late:
        house.lease_runs_out()
        await worker.service.sweep()
        seen = await worker.service.get(flow.id)
        assert (seen.state, seen.in_doubt, seen.attempts_left) == (flow.state, None, flow.attempts_left)
        assert worker.transport.calls == []
    moved = await getattr(worker.service, command)(flow.id, *given)
    assert (moved.state, len(worker.transport.calls)) == (after, 1)


@BOTH_STORES
@EVERY_COMMAND
async def test_an_intent_that_the_store_takes_later_is_not_sent_either(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    worker = house.worker()
    stands, given, after = COMMANDS[command]
    flow = await at(worker, stands)
    clock.advance(timedelta(minutes=1))
    worker.store.plan.append("late")
    await refused(getattr(worker.service, command)(flow.id, *given), StoreUnavailable)
    await worker.idle()  # it has looked whether it must take something back
    await worker.store.arrive()
    house.lease_runs_out()
    await worker.service.sweep()
    seen = await worker.service.get(flow.id)
    assert (seen.state, seen.in_doubt, seen.attempts_left) == (flow.state, None, flow.attempts_left)
    assert worker.transport.calls == []
    moved = await getattr(worker.service, command)(flow.id, *given)
    assert (moved.state, len(worker.transport.calls)) == (after, 1)


async def test_an_intent_that_is_withdrawn_is_not_somebody_elses(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.store.plan.append("before and away")
    await refused(worker.service.verify(flow.id, "004158"), StoreUnavailable)
    # At the same time by the clock, the person comes to another worker with the same code.
    held = other.transport.hold("exchange")
    again = asyncio.create_task(other.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    worker.store.down = False
    await worker.idle()
    held.released.set()
    assert (await again).state is State.TOKEN_ISSUED


@BOTH_STORES
@EVERY_COMMAND
@pytest.mark.parametrize(
    "plan", [["before"], ["after"], ["before"] * 5, ["before", "after"], ["after"] * 3], ids="-".join
)
async def test_an_outcome_is_saved_again_and_again_until_it_takes(
    house: House, at: At, clock: FrozenClock, command: str, plan: list[str]
) -> None:
    worker = house.worker()
    stands, given, after = COMMANDS[command]
    flow = await at(worker, stands)
    clock.advance(timedelta(minutes=1))
    worker.store.plan.extend(["ok", *plan])
    moved = await getattr(worker.service, command)(flow.id, *given)
    await worker.idle()
    assert (moved.state, moved.in_doubt, moved.version) == (after, None, flow.version + 2)
    assert moved == await worker.service.get(flow.id)
    assert len(worker.transport.calls) == 1
    assert worker.store.tries == 2 + len(plan)


@BOTH_STORES
@pytest.mark.parametrize("meanwhile", ["set_password", "cancel"])
async def test_an_outcome_that_was_taken_without_a_word_is_no_doubt_when_others_went_on_from_it(
    house: House, at: At, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)

    async def others_go_on(_: Backoff) -> None:
        await getattr(other.service, meanwhile)(flow.id, *COMMANDS.get(meanwhile, ("", ()))[1])

    monkeypatch.setattr("reset_flow.engine.background_tasks.Backoff.pause", others_go_on)
    worker.store.plan.extend(["ok", "after"])
    moved = await worker.service.verify(flow.id, "004158")
    assert (moved.state, moved.in_doubt) == (State.TOKEN_ISSUED, None)
    assert (await worker.service.get(flow.id)).ended


async def test_a_stored_outcome_is_looked_up_until_the_store_says(
    house: House, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    pauses = 0

    async def others_go_on_and_the_store_fails_again(_: Backoff) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 1:
            await other.service.set_password(flow.id, "violet tractor 5")
            monkeypatch.setattr(worker.store, "load", away)
        elif pauses == 3:
            monkeypatch.setattr(worker.store, "load", load)

    async def away(_: str) -> Record:
        raise StoreUnavailable("the store is away")

    load = worker.store.load
    monkeypatch.setattr("reset_flow.engine.background_tasks.Backoff.pause", others_go_on_and_the_store_fails_again)
    worker.store.plan.extend(["ok", "after"])
    moved = await worker.service.verify(flow.id, "004158")
    assert (moved.state, moved.in_doubt, pauses) == (State.TOKEN_ISSUED, None, 3)
    assert (await worker.service.get(flow.id)).state is State.PASSWORD_SET


async def test_an_outcome_is_in_doubt_where_what_others_made_of_the_flow_can_not_be_read(
    house: House, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Keyring((*house.keyring.keys, Key.generate()), house.keyring.lookup_keys, saved=True)
    worker, other = house.worker(), house.worker(keyring=newer)
    flow = await at(worker, State.QUESTION_ANSWERED)

    async def others_go_on(_: Backoff) -> None:
        await other.service.set_password(flow.id, "violet tractor 5")

    monkeypatch.setattr("reset_flow.engine.background_tasks.Backoff.pause", others_go_on)
    worker.store.plan.extend(["ok", "after"])
    error = await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.id, error.flow.in_doubt) == (flow.id, Step.CODE)
    await refused(worker.service.get(flow.id), RecordUnreadable)
    assert (await other.service.get(flow.id)).state is State.PASSWORD_SET


async def test_while_an_outcome_is_not_taken_the_flow_is_busy_for_all(house: House, at: At, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    task = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    worker.store.down = True
    held.released.set()
    await until(lambda: worker.store.tries >= 3)
    assert not task.done()
    await refused(other.service.verify(flow.id, "004158"), FlowBusy)
    worker.store.down = False
    assert (await task).state is State.TOKEN_ISSUED
    assert len(worker.transport.calls) == 1


async def test_an_outcome_that_comes_after_the_lease_is_told_as_doubt(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    task = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    worker.store.down = True
    held.released.set()
    house.lease_runs_out()
    other.transport.script(exchange=[Rejected(reasons=["spent"])])
    error = await refused(other.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow
    assert error.flow.history[-1].trigger == "code_spent"
    worker.store.down = False
    error = await refused(task, OutcomeInDoubt)
    assert error.flow
    assert error.flow.history[-1].trigger == "code_spent"
    assert len(worker.transport.calls) + len(other.transport.calls) == 2


@pytest.mark.parametrize("how", ["before", "after", "down"])
async def test_the_intent_of_the_second_sending_is_saved_before_it_is_sent(house: House, at: At, how: str) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Unknown()])
    worker.store.plan.extend(["ok", *(["before"] * 4 if how == "down" else [how])])
    moved = await worker.service.verify(flow.id, "004158")
    assert (moved.state, moved.version, moved.attempts_left) == (State.TOKEN_ISSUED, flow.version + 3, 10)
    assert len(worker.transport.calls) == 2


async def test_a_refusal_is_saved_and_then_told(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected(reasons=["no"])])
    worker.store.plan.extend(["ok", "before", "after"])
    error = await refused(worker.service.verify(flow.id, "004158"), CodeRejected)
    assert error.flow
    assert error.flow.attempts_left == 4
    assert error.flow == await worker.service.get(flow.id)


async def test_what_did_not_happen_is_given_back_whatever_the_store_does(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[NotActed()])
    worker.store.plan.extend(["ok", "after"])
    await refused(worker.service.verify(flow.id, "004158"), ResetFlowError)
    assert (await worker.service.get(flow.id)).attempts_left == 5


@BOTH_STORES
@pytest.mark.parametrize("question", ["", "?"])
@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_start_that_was_not_saved_can_be_started_again(house: House, question: str, how: str) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(question))] * 2)
    worker.store.plan.append(how)
    await refused(worker.service.start("robert.zak", ref="r", tags=["t"]), StoreUnavailable)
    await worker.idle()
    assert worker.transport.calls_of("request") == []
    flow = await worker.service.start("robert.zak", ref="r", tags=["t"])
    assert flow.state is (State.REQUESTED if question else State.QUESTION_ANSWERED)
    assert [each.id for each in await worker.service.find("t")] == [flow.id]
    assert len(worker.transport.calls_of("request")) == (not question)


async def test_a_cancellation_whose_acknowledgement_was_lost_is_one(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    worker.store.plan.append("after")
    await refused(worker.service.cancel(flow.id, key="k"), StoreUnavailable)
    assert (await worker.service.get(flow.id)).ended
    assert (await worker.service.cancel(flow.id, key="k")).ended


@EVERY_COMMAND
async def test_a_store_that_is_away_is_said_to_be(house: House, at: At, command: str) -> None:
    worker = house.worker()
    stands, given, _ = COMMANDS[command]
    flow = await at(worker, stands)
    worker.store.down = True
    await refused(getattr(worker.service, command)(flow.id, *given), StoreUnavailable)
    await refused(worker.service.get(flow.id), StoreUnavailable)
    await refused(worker.service.sweep(), StoreUnavailable)
    await refused(worker.service.wait(flow.id), StoreUnavailable)
    await refused(worker.service.find("t"), StoreUnavailable)
    assert worker.transport.calls == []
    worker.store.down = False
    assert await worker.service.get(flow.id) == flow


async def test_a_password_in_doubt_with_a_store_that_fails_all_along(
    house: House, etna: MakeEtna, sandbox: Sandbox, person: Person
) -> None:
    worker = house.worker(etna())
    flow = await person.reaches(worker.service, State.TOKEN_ISSUED)
    sandbox.fault("update", "drop_after")
    worker.store.plan.extend(["ok", "before", "after", "before", "after"])
    flow = await person.does(worker.service, flow, "set_password")
    assert flow.state is State.PASSWORD_SET
    person.check(flow)


async def test_an_answer_whose_outcome_was_lost_with_the_process(house: House, at: At, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.REQUESTED)
    worker.store.plan.extend(["ok", *["before"] * 1000])
    task = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await until(lambda: worker.store.tries >= 3)
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    flow = await other.service.answer(flow.id, "Peterson")
    assert (flow.state, flow.in_doubt, other.transport.calls) == (State.QUESTION_ANSWERED, Step.ANSWER, [])

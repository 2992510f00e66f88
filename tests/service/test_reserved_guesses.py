"""A running flow holds its next guess: nobody can use it up, and all guesses together stay within the budget."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow import (
    Accepted,
    Budget,
    CodeRejected,
    CommandRequest,
    Failure,
    FlowEnded,
    LimitReached,
    NotActed,
    Policy,
    Rejected,
    ResetFlowError,
    Secret,
    State,
    StoreUnavailable,
    Unknown,
)
from reset_flow.testing import refused
from tests.service.guessing import ChanceHistory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Record, Use, UseName
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Callback, Part, ScriptedCall
    from tests.service.conftest import At, House, ScriptedWorker

pytestmark = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])

DAY, HOUR, TICK = timedelta(hours=24), timedelta(hours=1), timedelta(microseconds=1)
COUNTS = HOUR + DAY
"""How long the guesses of a flow count from its start: for a day after it must have ended."""
LIMIT = Policy().codes_per_user.limit
TWO = Policy(codes_per_user=Budget(2, DAY))
MANY_STARTS = Budget(10_000, HOUR)


async def use_up(worker: ScriptedWorker, at: At, user: str = "robert.zak") -> int:
    """Type wrong codes into new flows until no more are taken; return how many were."""
    taken = 0
    while True:
        flow = await at(worker, State.QUESTION_ANSWERED, user=user)
        for _ in range(5):
            worker.transport.script(exchange=[Rejected()])
            error = await refused(worker.service.verify(flow.id, "000000"), ResetFlowError)
            if isinstance(error, LimitReached):
                worker.transport.unscript("exchange")
                return taken
            taken += 1


async def test_who_uses_up_the_guesses_of_a_user_does_not_stop_a_flow_that_runs(
    house: House, at: At, clock: FrozenClock
) -> None:
    worker, stranger = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(timedelta(minutes=10))
    assert await use_up(stranger, at, " Robert.Zak") == LIMIT - 1
    clock.advance(timedelta(minutes=10))
    flow = await house.worker().service.verify(flow.id, "004158")
    assert flow.state is State.TOKEN_ISSUED
    # Its guess was right, so one more may be wrong; then the first of the stranger's has to grow old.
    assert await use_up(stranger, at) == 1
    later = await at(stranger, State.QUESTION_ANSWERED)
    error = await refused(stranger.service.verify(later.id, "004158"), LimitReached)
    assert error.retry_after == COUNTS - timedelta(minutes=10)
    clock.advance(error.retry_after - TICK)
    later = await at(stranger, State.QUESTION_ANSWERED)
    error = await refused(stranger.service.verify(later.id, "004158"), LimitReached)
    assert error.retry_after == TICK
    clock.advance(error.retry_after)
    assert (await stranger.service.verify(later.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_running_flow_that_guesses_wrong_has_no_claim_to_another_guess(house: House, at: At) -> None:
    worker, stranger = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    await use_up(stranger, at)
    worker.transport.script(exchange=[Rejected()])
    wrong = await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    assert wrong.flow
    assert wrong.flow.attempts_left == 4
    error = await refused(worker.service.verify(flow.id, "004158"), LimitReached)
    assert error.retry_after == COUNTS
    assert len(worker.transport.calls_of("exchange")) == 1


@pytest.mark.parametrize("end", ["cancel", "expire", "attempts", "verify"])
async def test_a_flow_that_ends_gives_its_guess_back(house: House, at: At, clock: FrozenClock, end: str) -> None:
    worker = house.worker(policy=Policy(starts_per_user=MANY_STARTS))
    flow = await at(worker, State.QUESTION_ANSWERED)
    wrong = 0
    match end:
        case "cancel":
            await worker.service.cancel(flow.id)
        case "expire":
            clock.advance(timedelta(minutes=61))
            assert (await worker.service.sweep()).expired == 1
        case "attempts":
            worker.transport.script(exchange=[Rejected()] * 5)
            for _ in range(5):
                await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
            wrong = 5
        case "verify":
            await worker.service.verify(flow.id, "004158")
    assert await use_up(house.worker(), at) == LIMIT - wrong


async def test_a_flow_whose_code_may_no_longer_come_gives_its_guess_back(
    house: House, at: At, clock: FrozenClock
) -> None:
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, DAY)))
    flow = await at(worker, State.REQUESTED)
    worker.transport.script(request=[Rejected(), NotActed()])
    for _ in range(2):  # a wrong answer, and one that never arrived: no code is on its way
        await refused(worker.service.answer(flow.id, "Peterson"), ResetFlowError)
        assert await self_verified(house, at)
    flow = await worker.service.answer(flow.id, "Peterson")
    clock.advance(timedelta(minutes=1))
    worker.transport.script(request=[Rejected()])
    await refused(worker.service.resend(flow.id), ResetFlowError)  # the answer is no longer taken
    assert await self_verified(house, at)


async def self_verified(house: House, at: At) -> bool:
    """Return True if another flow of the user still has a guess."""
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, DAY), starts_per_user=MANY_STARTS))
    flow = await at(worker, State.QUESTION_ANSWERED)
    return bool((await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED)


async def test_a_flow_without_a_guess_gets_one_with_the_next_code(house: House, at: At, clock: FrozenClock) -> None:
    policy = Policy(codes_per_user=Budget(1, DAY))
    first, second = house.worker(policy=policy), house.worker(policy=policy)
    holder = await at(first, State.QUESTION_ANSWERED)
    flow = await at(second, State.QUESTION_ANSWERED)
    error = await refused(second.service.verify(flow.id, "004158"), LimitReached)
    assert error.retry_after == COUNTS
    await first.service.cancel(holder.id)
    clock.advance(timedelta(minutes=1))
    await second.service.resend(flow.id)
    third = await at(first, State.QUESTION_ANSWERED)
    await refused(first.service.verify(third.id, "004158"), LimitReached)
    assert (await second.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED
    assert (await first.service.verify(third.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_reserve_grows_no_older_than_its_flow(house: House, at: At, clock: FrozenClock) -> None:
    window = timedelta(minutes=10)
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, window)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(HOUR - TICK)
    other = await at(worker, State.QUESTION_ANSWERED)
    error = await refused(worker.service.verify(other.id, "004158"), LimitReached)
    assert error.retry_after == window + TICK
    assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED
    assert (await worker.service.verify(other.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_wrong_code_in_the_last_moment_of_a_flow_counts_for_a_whole_window(
    house: House, at: At, clock: FrozenClock
) -> None:
    window = timedelta(minutes=10)
    worker = house.worker(policy=Policy(codes_per_user=Budget(1, window)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(HOUR - TICK)
    worker.transport.script(exchange=[Rejected()])
    await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    other = await at(worker, State.QUESTION_ANSWERED)
    clock.advance(window)
    error = await refused(worker.service.verify(other.id, "004158"), LimitReached)
    assert error.retry_after == TICK
    clock.advance(TICK)
    assert (await worker.service.verify(other.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_code_that_a_guard_holds_up_until_its_flow_must_have_ended_is_not_sent(
    house: House, at: At, clock: FrozenClock
) -> None:
    async def ponder(request: CommandRequest) -> None:
        if request.command == "verify":
            clock.advance(HOUR)

    worker = house.worker(guards=[ponder])
    flow = await at(worker, State.QUESTION_ANSWERED)
    error = await refused(worker.service.verify(flow.id, "000000"), FlowEnded)
    assert error.flow
    assert (error.flow.failure, worker.transport.calls) == (Failure.EXPIRED, [])
    assert await use_up(house.worker(), at) == LIMIT


@pytest.mark.parametrize("wrong", [timedelta(days=-1000), timedelta(minutes=50)])
async def test_a_worker_with_a_wrong_clock_lets_no_guess_count_for_longer(
    house: House, at: At, clock: FrozenClock, wrong: timedelta
) -> None:
    worker, other = house.worker(policy=TWO), house.worker(policy=TWO, clock=lambda: clock() + wrong)
    flow = await at(worker, State.QUESTION_ANSWERED)
    other.transport.script(exchange=[Rejected()] * 2)
    for _ in range(2):
        await refused(other.service.verify(flow.id, "000000"), CodeRejected)
    await refused(worker.service.verify(flow.id, "004158"), LimitReached)
    clock.advance(COUNTS)
    assert await use_up(worker, at) == 2


async def test_a_guess_that_a_dead_process_took_stays_taken(house: House, at: At) -> None:
    worker = house.worker(policy=TWO)
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange", Rejected())
    task = asyncio.create_task(worker.service.verify(flow.id, "000000"))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    other = house.worker(policy=TWO)
    other.transport.script(exchange=[Rejected()])
    assert (await other.service.sweep()).settled == 1
    # One is used, the other reserved by the flow that goes on: it can take it, and nobody else.
    later = await at(other, State.QUESTION_ANSWERED)
    await refused(other.service.verify(later.id, "004158"), LimitReached)
    other.transport.script(exchange=[Rejected()])
    await refused(other.service.verify(flow.id, "000001"), CodeRejected)
    await refused(other.service.verify(flow.id, "004158"), LimitReached)


@pytest.mark.parametrize("lost", [["ok", "before"], ["ok", "ok", "before"], ["ok", "ok", "after"], ["ok", "after"]])
async def test_an_outcome_gets_through_a_full_budget_and_a_store_that_fails(
    house: House, at: At, monkeypatch: pytest.MonkeyPatch, lost: list[str]
) -> None:
    monkeypatch.setattr("reset_flow.engine.background_tasks.FIRST_PAUSE", 0.002)
    worker, stranger = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    await use_up(stranger, at)
    worker.transport.script(exchange=[Rejected()])
    worker.store.plan.extend(lost)
    error = await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    assert error.flow
    assert error.flow.history[-1].trigger == "code_refused"
    assert (await stranger.service.get(flow.id)) == error.flow
    worker.store.plan.clear()
    # What it has no reservation for, it must not exchange: the wrong code would be forgotten.
    await refused(worker.service.verify(flow.id, "004158"), LimitReached)


async def test_an_outcome_that_was_written_after_all_is_no_other_workers(
    house: House, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.engine.background_tasks.FIRST_PAUSE", 0.002)
    worker, other = house.worker(policy=TWO), house.worker(policy=TWO)
    flow, holder = await at(worker, State.QUESTION_ANSWERED), await at(other, State.QUESTION_ANSWERED)
    save = worker.store.save
    tried: list[tuple[Record, Sequence[Use], Sequence[UseName]]] = []

    async def slow(record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        tried.append((record, add, drop))
        if len(tried) == 2:  # the outcome is on its way, and nobody hears of it
            raise StoreUnavailable("the connection was lost")
        if len(tried) == 4:  # it arrives when its place has become free, just before what is saved instead
            await other.service.cancel(holder.id)
            lost, added, dropped = tried[1]
            await save(lost, add=added, drop=dropped)
        await save(record, add=add, drop=drop)

    monkeypatch.setattr(worker.store, "save", slow)
    worker.transport.script(exchange=[Rejected()])
    await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    assert [len(add) + len(drop) for _, add, drop in tried] == [0, 1, 1, 0]
    assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED


@pytest.mark.parametrize("unknown", [False, True])
async def test_no_command_saves_more_often_than_it_must(house: House, clock: FrozenClock, *, unknown: bool) -> None:
    worker = house.worker(policy=Policy(decoy_questions=["Where?"]))
    worker.transport.script(challenge=[Rejected()] if unknown else [Accepted(value=Secret("Where?"))])
    flow = await worker.service.start("robert.zak", origin="here")
    wrong: list[Part] = [Rejected()] * 5
    if unknown:  # what is right for it nobody knows: it refuses each answer, as a broker would
        for _ in range(2):
            await refused(worker.service.answer(flow.id, "Peterson"), ResetFlowError)
        await worker.service.cancel(flow.id)
        assert worker.store.used == [("+s", "+o", "+a"), *[("+s", "+o"), ("+a",)] * 2, ("-a",)]
        return
    await worker.service.answer(flow.id, "Peterson")
    clock.advance(timedelta(minutes=1))
    await worker.service.resend(flow.id)
    worker.transport.script(exchange=wrong[:2])
    for _ in range(2):
        await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    worker.transport.script(exchange=[NotActed()])
    await refused(worker.service.verify(flow.id, "000000"), ResetFlowError)
    await worker.service.verify(flow.id, "004158")
    await worker.service.set_password(flow.id, "violet tractor 5")
    assert worker.store.used == [
        ("+s", "+o", "+a"),
        *[("+s", "+o"), ("-a", "+c", "+d")],  # answer: its intent, for which the start must still count; its outcome
        *[(), ()],  # resend
        *[(), ("+c", "+d")] * 2,
        *[(), ()],  # not acted
        *[(), ("-c", "-d")],
        *[(), ()],  # set_password
    ]
    assert worker.store.tries == len(worker.store.used)


async def test_known_and_unknown_users_cost_the_same(house: House, clock: FrozenClock) -> None:
    used = []
    for who in ("known", "unknown"):
        worker = house.worker()
        worker.transport.script(challenge=[Accepted(value=Secret(""))] if who == "known" else [Rejected()])
        worker.transport.script(exchange=[Rejected()] * 5)
        flow = await worker.service.start(who)
        clock.advance(timedelta(minutes=1))
        await worker.service.resend(flow.id)
        for _ in range(5):
            await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
        assert worker.store.tries == len(worker.store.used)
        used.append(worker.store.used)
    assert used[0] == [("+s",), ("+c",), (), (), *[(), ("+c",)] * 4, (), ()]
    assert used[1] == used[0]


async def use_up_answers(worker: ScriptedWorker, user: str = "robert.zak") -> int:
    """Give wrong answers in new flows until no more are taken; return how many were."""
    taken = 0
    while True:
        flow = await worker.service.start(user)
        for _ in range(3):
            worker.transport.script(request=[Rejected()])
            error = await refused(worker.service.answer(flow.id, "Berlin"), ResetFlowError)
            if isinstance(error, LimitReached):
                assert error.limit == "answers_per_user"
                worker.transport.unscript("request")
                return taken
            taken += 1


async def test_who_uses_up_the_answers_of_a_user_does_not_stop_a_flow_that_runs(
    house: House, clock: FrozenClock
) -> None:
    worker, stranger = house.worker(), house.worker()
    flow = await worker.service.start("robert.zak")
    clock.advance(timedelta(minutes=10))
    assert await use_up_answers(stranger, " Robert.Zak") == 19
    flow = await house.worker().service.answer(flow.id, "Peterson")
    assert flow.state is State.QUESTION_ANSWERED
    # It was right, so one more may be wrong; then the first of the stranger's has to grow old.
    assert await use_up_answers(stranger) == 1
    later = await stranger.service.start("robert.zak")
    error = await refused(stranger.service.answer(later.id, "Peterson"), LimitReached)
    assert (error.limit, error.retry_after) == ("answers_per_user", COUNTS)
    clock.advance(COUNTS)
    later = await stranger.service.start("robert.zak")
    assert (await stranger.service.answer(later.id, "Peterson")).state is State.QUESTION_ANSWERED


async def test_right_answers_and_answers_that_never_arrived_are_no_guesses_and_doubtful_ones_are(
    house: House, clock: FrozenClock
) -> None:
    worker = house.worker(policy=Policy(answers_per_user=Budget(1, DAY)))
    for _ in range(2):
        flow = await worker.service.start("robert.zak")
        worker.transport.script(request=[NotActed()])
        await refused(worker.service.answer(flow.id, "Peterson"), ResetFlowError)
        assert (await worker.service.answer(flow.id, "Peterson")).state is State.QUESTION_ANSWERED
    waiting = await worker.service.start("robert.zak")
    await worker.service.cancel(waiting.id)
    doubtful = await worker.service.start("robert.zak")
    worker.transport.script(request=[Unknown()])
    assert (await worker.service.answer(doubtful.id, "Peterson")).in_doubt == "answer"
    flow = await worker.service.start("robert.zak")
    error = await refused(worker.service.answer(flow.id, "Peterson"), LimitReached)
    assert error.retry_after == COUNTS
    assert error.flow
    assert error.flow.attempts_left == 3
    clock.advance(COUNTS)
    flow = await worker.service.start("robert.zak")
    assert (await worker.service.answer(flow.id, "Peterson")).state is State.QUESTION_ANSWERED


async def test_a_full_budget_of_answers_shows_nothing_of_who_is_known(house: House) -> None:
    seen = []
    for who in ("known", "unknown"):
        worker = house.worker(policy=Policy(decoy_questions=["Where?"], answers_per_user=Budget(4, DAY)))
        worker.transport.script(challenge=[Accepted(value=Secret("Where?")) if who == "known" else Rejected()] * 2)
        told: list[object] = []
        for _ in range(2):
            flow = await worker.service.start(who)
            for _ in range(3):
                worker.transport.script(request=[Rejected()])
                error = await refused(worker.service.answer(flow.id, "Berlin"), ResetFlowError)
                told.append((type(error), getattr(error, "limit", None), error.retry_after, error.retryable))
        assert told[-1] == (LimitReached, "answers_per_user", COUNTS, True)
        seen.append((told, worker.store.used, worker.store.tries))
        worker.transport.unscript("request")
    assert seen[0] == seen[1]


async def test_a_start_that_is_refused_says_so_and_not_that_the_answers_are_used_up(house: House) -> None:
    policy = Policy(starts_per_user=Budget(1, HOUR), answers_per_user=Budget(1, DAY))
    worker = house.worker(policy=policy)
    await worker.service.start("robert.zak")
    error = await refused(worker.service.start("robert.zak"), LimitReached)
    assert (error.limit, error.retry_after) == ("starts_per_user", HOUR)


class Guessing(ChanceHistory):
    """People and strangers at the flows of one user, over workers that come and go, against a broker that knows."""

    def __init__(self, house: House, clock: FrozenClock, seed: int) -> None:
        self.sent: dict[str, datetime] = {}
        super().__init__(
            house,
            clock,
            Policy(starts_per_user=MANY_STARTS, starts_per_origin=MANY_STARTS, resend_cooldown=timedelta(0)),
            seed,
        )

    def hires(self) -> None:
        self.worker = self.house.worker(policy=self.policy)

    async def verify(self, *outcomes: Outcome) -> None:
        """Verify a code that nobody has typed before; its sendings have these outcomes."""
        flow_id, code = self.types()

        def played(outcome: Outcome) -> Callback:
            async def play(call: ScriptedCall) -> Outcome:
                assert isinstance(call.given, Secret)
                sent = call.given.reveal()
                if not isinstance(outcome, NotActed):
                    self.sent.setdefault(sent, self.clock())
                if isinstance(outcome, Accepted):
                    self.right.add(sent)
                return outcome

            return play

        self.worker.transport.unscript("exchange")
        self.worker.transport.script(exchange=[played(outcome) for outcome in outcomes])
        await self.worker.service.verify(flow_id, code)

    async def crash(self) -> None:
        """Let the process die in the middle of a guess; the next one repeats it."""
        await self.verify_held()
        self.hires()
        self.house.lease_runs_out()
        self.worker.transport.script(exchange=[Rejected()] * 9)
        await self.worker.service.sweep()

    async def verify_held(self) -> None:
        flow_id, code = self.types()
        self.worker.transport.unscript("exchange")
        held = self.worker.transport.hold("exchange", Rejected())
        task = asyncio.create_task(self.worker.service.verify(flow_id, code))
        arrived = asyncio.create_task(held.arrived.wait())
        await asyncio.wait([task, arrived], return_when=asyncio.FIRST_COMPLETED)
        if held.arrived.is_set():
            self.sent.setdefault(code, self.clock())
        arrived.cancel()
        await self.worker.dies()
        await asyncio.gather(task, return_exceptions=True)

    async def start(self, *, wrong_answer: bool = False) -> None:
        flow = await self.worker.service.start(self.user())
        self.has_started(flow.id)
        self.worker.transport.script(request=[Rejected()] if wrong_answer else [])
        await self.worker.service.answer(flow.id, "Peterson")

    async def start_without_a_question(self) -> None:
        self.worker.transport.script(challenge=[Accepted(value=Secret(""))])
        self.has_started((await self.worker.service.start("robert.zak")).id)

    def acts(self) -> list[tuple[int, Callable[[], Awaitable[object]]]]:
        right = Accepted(value=Secret("a token"))
        return [
            (8, self.start),
            (1, lambda: self.start(wrong_answer=True)),
            (1, self.start_without_a_question),
            (12, lambda: self.verify(Rejected())),
            (1, lambda: self.verify(right)),
            (1, lambda: self.verify(NotActed())),
            (1, lambda: self.verify(Unknown(), Rejected())),
            (1, lambda: self.verify(Unknown(), right)),
        ]

    @property
    def wrong(self) -> list[datetime]:
        return sorted(at for code, at in self.sent.items() if code not in self.right)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_no_more_wrong_codes_than_the_limit_are_sent_in_any_day(
    house: House, at: At, clock: FrozenClock, seed: int
) -> None:
    guessing = Guessing(house, clock, seed)
    for _ in range(300):
        await guessing.step()
    wrong = guessing.wrong
    assert len(wrong) > LIMIT
    for first, one_too_many in zip(wrong, wrong[LIMIT:], strict=False):
        assert one_too_many - first >= DAY
    assert guessing.refused["limit_reached"] > 0
    # Once all flows have ended, what is left of the budget is exactly what was not typed wrong.
    clock.advance(timedelta(minutes=61))
    guessing.hires()
    await guessing.worker.service.sweep()
    counted = guessing.counted_until(guessing.sent)
    assert await use_up(guessing.worker, at) == LIMIT - len(counted)
    last = await at(guessing.worker, State.QUESTION_ANSWERED)
    error = await refused(guessing.worker.service.verify(last.id, "004158"), LimitReached)
    assert error.retry_after == (min(counted) - clock() if counted else COUNTS)
    # And each counts for a day after its flow must have ended, and no longer.
    for end, freed in sorted(Counter(counted).items()):
        clock.advance(end - TICK - clock())
        assert await use_up(guessing.worker, at) == 0
        clock.advance(TICK)
        assert await use_up(guessing.worker, at) == freed

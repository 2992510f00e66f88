"""Providers that judge a code only together with the new password: the code is held, and nothing promised is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs
import pytest

from reset_flow import (
    Accepted,
    BrokerUnavailable,
    Budget,
    Capabilities,
    CodeRejected,
    Failure,
    GuessAlarm,
    IllegalCommand,
    LimitReached,
    NotActed,
    OutcomeInDoubt,
    PasswordRejected,
    Policy,
    Rejected,
    ResetFlowError,
    Secret,
    State,
    Step,
    Unknown,
    UnknownUser,
)
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport
from tests.service.guessing import COUNTS, DAY, HOUR, TICK, ChanceHistory
from tests.shown import shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow import Flow, Outcome
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Part, ScriptedCall
    from tests.service.conftest import House, ScriptedWorker

JUDGES_LATE = Capabilities(verifies_code=False)
NO_CODE = Rejected(reasons=["no such code"], about=Step.CODE)
WEAK = Rejected(reasons=["too weak"])
PASSWORD = "violet tractor 5"
MANY = Budget(10_000, HOUR)
LIMIT = 10
EVERY_STORE = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])


def late(house: House, policy: Policy | None = None, *, known: bool = True) -> ScriptedWorker:
    """Return a worker whose broker asks no question and judges codes late; or one that knows nobody."""
    worker = house.worker(ScriptedTransport(capabilities=JUDGES_LATE), policy=policy or Policy())
    worker.transport.script(challenge=[Accepted(value=Secret("")) if known else Rejected()] * 1000)
    return worker


async def held(worker: ScriptedWorker, code: str = "004158", user: str = "robert.zak") -> Flow:
    """Start a flow and give it a code."""
    return await held_in(worker, await worker.service.start(user), code)


async def held_in(worker: ScriptedWorker, flow: Flow, code: str = "004158") -> Flow:
    """Give a code to a flow."""
    return await worker.service.verify(flow.id, code)


def triggers(flow: Flow | None) -> list[str]:
    assert flow
    return [step.trigger for step in flow.history]


@EVERY_STORE
async def test_a_whole_reset_sends_the_code_with_the_password_and_never_alone(house: House) -> None:
    worker = late(house)
    flow = await worker.service.start("robert.zak")
    assert (flow.state, flow.expects) == (State.QUESTION_ANSWERED, Step.CODE)
    flow = await worker.service.submit(flow.id, "004 158")
    assert (flow.state, flow.expects, flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD, None)
    assert flow.allowed == ("cancel", "resend", "set_password", "verify")
    assert [call.name for call in worker.transport.calls] == ["challenge", "request"]
    flow = await worker.service.submit(flow.id, PASSWORD)
    assert triggers(flow) == ["question_waived", "code_held", "password_accepted"]
    (update,) = worker.transport.calls_of("update")
    assert update.token == Secret("004158")
    assert worker.store.used == [("+s",), ("+c",), (), (), ("-c",)]
    assert worker.store.tries == len(worker.store.used)


# DESIGN §7, row by row: what the sendings come to -> error, state, doubt, triggers after the code was held


@attrs.frozen(kw_only=True)
class Row:
    """What the broker makes of a password that comes with a held code, and what the person is told."""

    update: list[Outcome]
    proof: Outcome = WEAK
    error: type[ResetFlowError] | None
    state: State
    in_doubt: Step | None = None
    fires: list[str]


ROWS = [
    Row(update=[Accepted()], error=None, state=State.PASSWORD_SET, fires=["password_accepted"]),
    Row(update=[NO_CODE], error=CodeRejected, state=State.QUESTION_ANSWERED, fires=["code_refused"]),
    Row(update=[WEAK], error=PasswordRejected, state=State.TOKEN_ISSUED, fires=["password_refused"]),
    Row(update=[NotActed()], error=BrokerUnavailable, state=State.TOKEN_ISSUED, fires=[]),
    Row(update=[Unknown(), Accepted()], error=None, state=State.PASSWORD_SET, fires=["password_accepted"]),
    Row(
        update=[Unknown(), NO_CODE], proof=Accepted(), error=None,
        state=State.PASSWORD_SET, fires=["password_accepted"],
    ),
    Row(
        update=[Unknown(), NO_CODE], error=OutcomeInDoubt, state=State.QUESTION_ANSWERED,
        in_doubt=Step.PASSWORD, fires=["password_in_doubt", "code_refused"],
    ),
    Row(
        update=[Unknown(), WEAK], error=OutcomeInDoubt, state=State.TOKEN_ISSUED,
        in_doubt=Step.PASSWORD, fires=["password_in_doubt"],
    ),
    Row(
        update=[Unknown(), Unknown()], error=OutcomeInDoubt, state=State.TOKEN_ISSUED,
        in_doubt=Step.PASSWORD, fires=["password_in_doubt"],
    ),
    Row(
        update=[Unknown(), NotActed()], error=OutcomeInDoubt, state=State.TOKEN_ISSUED,
        in_doubt=Step.PASSWORD, fires=["password_in_doubt"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(type(each).__name__ for each in row.update))
async def test_what_becomes_of_a_held_code_is_what_the_table_says(house: House, row: Row) -> None:
    worker = late(house)
    before = await held(worker)
    worker.transport.script(update=list(row.update), log_in=[row.proof])
    if row.error is None:
        flow = await worker.service.set_password(before.id, PASSWORD)
    else:
        error = await refused(worker.service.set_password(before.id, PASSWORD), row.error)
        assert type(error) is row.error
        assert error.flow == await worker.service.get(before.id)
        flow = error.flow
    assert (flow.state, flow.in_doubt) == (row.state, row.in_doubt)
    assert triggers(flow)[2:] == row.fires
    assert all(call.token == Secret("004158") for call in worker.transport.calls_of("update"))
    asked = worker.transport.calls_of("log_in")
    unsure = len(row.update) > 1 and not isinstance(row.update[-1], Accepted)
    assert len(asked) == (1 if unsure else 0)


async def test_a_wrong_code_leads_back_to_the_code_and_the_right_one_to_the_end(house: House) -> None:
    worker = late(house)
    flow = await held(worker, "000000")
    worker.transport.script(update=[NO_CODE])
    error = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    assert error.flow
    assert (error.flow.expects, error.flow.attempts_left, error.flow.in_doubt) == (Step.CODE, 4, None)
    flow = await worker.service.verify(flow.id, "004158")
    assert (await worker.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
    assert [call.token for call in worker.transport.calls_of("update")] == [Secret("000000"), Secret("004158")]


async def test_five_wrong_codes_end_the_flow(house: House) -> None:
    worker = late(house)
    flow = await worker.service.start("robert.zak")
    worker.transport.script(update=[NO_CODE] * 5)
    for left in (4, 3, 2, 1, 0):
        await worker.service.verify(flow.id, "000000")
        error = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
        assert error.flow
        assert (error.flow.attempts_left or 0) == left
    assert error.flow
    assert (error.flow.state, error.flow.failure) == (State.FAILED, Failure.TOO_MANY_ATTEMPTS)


async def test_a_weak_password_keeps_the_code(house: House) -> None:
    worker = late(house)
    flow = await held(worker)
    worker.transport.script(update=[WEAK, Accepted()])
    error = await refused(worker.service.set_password(flow.id, "feeble tractor"), PasswordRejected)
    assert error.flow
    assert (error.flow.expects, error.flow.attempts_left) == (Step.PASSWORD, 9)
    assert (await worker.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET


async def test_a_doubt_about_the_password_outlives_every_later_code(house: House, clock: FrozenClock) -> None:
    worker = late(house)
    flow = await held(worker)
    worker.transport.script(update=[Unknown(), NO_CODE], log_in=[Rejected()])
    error = await refused(worker.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    assert "ask for another code" in str(error)
    clock.advance(timedelta(minutes=2))
    flow = await worker.service.resend(flow.id)
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.PASSWORD)
    flow = await worker.service.verify(flow.id, "004159")
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, Step.PASSWORD)
    worker.transport.script(update=[NO_CODE], log_in=[Rejected()])
    error = await refused(worker.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    assert len(worker.transport.calls_of("log_in")) == 2, "whoever types it again may be proved right"
    other = await worker.service.get(flow.id)
    assert (other.state, other.in_doubt) == (State.QUESTION_ANSWERED, Step.PASSWORD)
    flow = await worker.service.verify(flow.id, "004160")
    assert (await worker.service.set_password(flow.id, PASSWORD)).in_doubt is None


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_an_end_with_a_doubt_about_the_password_says_that_nobody_knows(
    house: House, clock: FrozenClock, how: str
) -> None:
    worker = late(house)
    flow = await held(worker)
    worker.transport.script(update=[Unknown(), NO_CODE], log_in=[Rejected()])
    await refused(worker.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    if how == "cancel":
        await worker.service.cancel(flow.id)
    clock.advance(timedelta(hours=2))
    assert (await worker.service.get(flow.id)).failure is Failure.OUTCOME_UNKNOWN


async def test_an_adopted_flow_whose_token_is_refused_ends(house: House) -> None:
    for capabilities in (JUDGES_LATE, Capabilities()):
        worker = house.worker(ScriptedTransport(capabilities=capabilities))
        flow = await worker.service.adopt("robert.zak", "an old token")
        assert flow.allowed == ("cancel", "set_password")
        worker.transport.script(update=[NO_CODE])
        error = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
        assert error.flow
        assert (error.flow.state, error.flow.failure) == (State.FAILED, Failure.BROKER_REFUSED)


async def test_a_token_that_the_broker_takes_no_longer_leads_back_to_the_code(house: House) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(""))], update=[NO_CODE])
    flow = await held(worker)
    error = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    assert (triggers(error.flow)[-1], error.reasons[-1].code) == ("token_refused", "token_refused")
    flow = await worker.service.verify(flow.id, "004159")
    assert (await worker.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET


# Another code, while one is held


@pytest.mark.parametrize("command", ["verify", "resend"])
@EVERY_STORE
async def test_a_held_code_may_be_exchanged_and_only_the_last_is_sent(
    house: House, clock: FrozenClock, command: str
) -> None:
    worker = late(house, Policy(codes_per_user=Budget(1, DAY)))
    flow = await held(worker, "000000")
    clock.advance(timedelta(minutes=2))
    if command == "resend":
        flow = await worker.service.resend(flow.id)
        assert (flow.state, flow.attempts_left) == (State.QUESTION_ANSWERED, 5)
    await worker.service.verify(flow.id, "004158")
    assert (await worker.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
    assert [call.token for call in worker.transport.calls_of("update")] == [Secret("004158")]


async def test_a_token_is_not_exchanged_for_another_code(house: House) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(""))])
    flow = await held(worker)
    for command in (worker.service.verify(flow.id, "004159"), worker.service.resend(flow.id)):
        error = await refused(command, IllegalCommand)
        assert error.flow == flow


async def test_a_code_given_again_with_its_key_is_not_counted_again(house: House) -> None:
    worker = late(house)
    flow = await worker.service.start("robert.zak")
    for _ in range(3):
        flow = await worker.service.verify(flow.id, "000000", key="one")
    worker.transport.script(update=[NO_CODE])
    for _ in range(2):
        error = await refused(worker.service.set_password(flow.id, PASSWORD, key="two"), CodeRejected)
        assert error.flow
        assert error.flow.attempts_left == 4
    assert len(worker.transport.calls_of("update")) == 1


# Budgets


async def guesses(worker: ScriptedWorker, user: str = "robert.zak") -> int:
    """Have wrong codes judged in new flows until no more are taken; return how many were."""
    taken = 0
    while True:
        flow = await worker.service.start(user)
        try:
            for _ in range(5):
                await worker.service.verify(flow.id, f"{taken:06d}")
                worker.transport.script(update=[NO_CODE])
                await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
                taken += 1
        except LimitReached:
            worker.transport.unscript("update")
            await worker.service.cancel(flow.id)
            return taken


@EVERY_STORE
async def test_ten_wrong_codes_reach_the_broker_for_one_user_in_a_day(house: House, clock: FrozenClock) -> None:
    policy = Policy(starts_per_user=MANY)
    first, second = late(house, policy), late(house, policy)
    assert await guesses(first) == LIMIT
    assert await guesses(second, " Robert.Zak") == 0
    clock.advance(COUNTS)
    assert await guesses(second) == LIMIT
    reached = [call for worker in (first, second) for call in worker.transport.calls_of("update")]
    assert len(reached) == 2 * LIMIT


@pytest.mark.parametrize("end", ["cancel", "expire", "right"])
async def test_a_code_that_was_never_sent_or_was_right_is_no_guess(house: House, clock: FrozenClock, end: str) -> None:
    worker = late(house, Policy(starts_per_user=MANY))
    for _ in range(LIMIT + 1):
        flow = await held(worker)
        match end:
            case "cancel":
                await worker.service.cancel(flow.id)
            case "expire":
                clock.advance(timedelta(minutes=61))
                assert (await worker.service.sweep()).expired == 1
            case "right":
                await worker.service.set_password(flow.id, PASSWORD)
    assert await guesses(worker) == LIMIT


@pytest.mark.parametrize("sent", [WEAK, Unknown(), NotActed()], ids=lambda sent: type(sent).__name__)
async def test_a_code_that_the_broker_may_have_judged_stays_a_guess(house: House, sent: Outcome) -> None:
    worker = late(house, Policy(starts_per_user=MANY, probe_by_login=False))
    flow = await held(worker)
    worker.transport.script(update=[sent, sent])
    await refused(worker.service.set_password(flow.id, PASSWORD), ResetFlowError)
    worker.transport.unscript("update")
    await worker.service.cancel(flow.id)
    assert await guesses(worker) == (LIMIT if isinstance(sent, NotActed) else LIMIT - 1)


@EVERY_STORE
async def test_a_code_counts_for_a_day_after_its_flow_however_late_it_is_sent(house: House, clock: FrozenClock) -> None:
    worker = late(house, Policy(starts_per_user=MANY))
    flows = [await held(worker, f"{number:06d}") for number in range(LIMIT)]
    refused_one = await worker.service.start("robert.zak")
    await refused(worker.service.verify(refused_one.id, "000000"), LimitReached)
    clock.advance(HOUR - TICK)
    worker.transport.script(update=[NO_CODE] * LIMIT)
    for flow in flows:
        await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    clock.advance(DAY)
    assert await guesses(worker) == 0
    clock.advance(TICK)
    assert await guesses(worker) == LIMIT


async def test_a_code_that_is_held_unsent_keeps_its_place_as_long_as_its_flow_lives(
    house: House, clock: FrozenClock
) -> None:
    window = timedelta(minutes=5)
    worker = late(house, Policy(codes_per_user=Budget(1, window)))
    flow = await held(worker)
    clock.advance(HOUR - TICK)
    other = await worker.service.start("robert.zak")
    error = await refused(worker.service.verify(other.id, "004158"), LimitReached)
    assert (error.limit, error.retry_after) == ("codes_per_user", window + TICK)
    assert (await worker.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
    assert (await worker.service.verify(other.id, "004158")).state is State.TOKEN_ISSUED


class Guessing(ChanceHistory):
    """People and strangers at the flows of one user, over workers that come and go, with codes that are judged late."""

    def __init__(self, house: House, clock: FrozenClock, seed: int) -> None:
        self.sent: dict[str, list[datetime]] = {}
        super().__init__(
            house, clock, Policy(starts_per_user=MANY, resend_cooldown=timedelta(0), probe_by_login=False), seed
        )

    def hires(self) -> None:
        self.worker = late(self.house, self.policy)

    def played(self, outcome: Outcome) -> Part:
        async def play(call: ScriptedCall) -> Outcome:
            assert call.token
            if not isinstance(outcome, NotActed):
                self.sent.setdefault(call.token.reveal(), []).append(self.clock())
            if isinstance(outcome, Accepted):
                self.right.add(call.token.reveal())
            return outcome

        return play

    async def verify(self) -> str:
        """Type a code that nobody has typed before; return into which flow."""
        flow_id, code = self.types()
        await self.worker.service.verify(flow_id, code)
        return flow_id

    async def set_password(self, *outcomes: Outcome) -> None:
        self.worker.transport.unscript("update")
        self.worker.transport.script(update=[self.played(outcome) for outcome in outcomes])
        await self.worker.service.set_password(self.random.choice(self.flows), PASSWORD)

    async def guess(self, outcome: Outcome) -> None:
        flow_id = await self.verify()
        self.worker.transport.unscript("update")
        self.worker.transport.script(update=[self.played(outcome)])
        await self.worker.service.set_password(flow_id, PASSWORD)

    async def crash(self) -> None:
        """Let the process die with a password and a code on their way."""
        self.worker.transport.unscript("update")
        call = self.worker.transport.hold("update", self.played(NO_CODE))
        task = asyncio.create_task(self.worker.service.set_password(self.random.choice(self.flows), PASSWORD))
        arrived = asyncio.create_task(call.arrived.wait())
        await asyncio.wait([task, arrived], return_when=asyncio.FIRST_COMPLETED)
        if call.arrived.is_set():
            token = self.worker.transport.calls[-1].token
            assert token
            self.sent.setdefault(token.reveal(), []).append(self.clock())
        arrived.cancel()
        await self.worker.dies()
        await asyncio.gather(task, return_exceptions=True)
        self.hires()
        self.house.lease_runs_out()
        await self.worker.service.sweep()

    async def start(self) -> None:
        self.has_started((await self.worker.service.start(self.user())).id)

    def acts(self) -> list[tuple[int, Callable[[], Awaitable[object]]]]:
        return [
            (6, self.start),
            (8, self.verify),
            (10, lambda: self.guess(NO_CODE)),
            (4, lambda: self.set_password(NO_CODE)),
            (1, lambda: self.set_password(WEAK)),
            (1, lambda: self.set_password(Accepted())),
            (1, lambda: self.set_password(NotActed())),
            (1, lambda: self.set_password(Unknown(), NO_CODE)),
            (1, lambda: self.set_password(Unknown(), Unknown())),
        ]

    def most_in_a_day(self) -> int:
        """Return how many distinct wrong codes came in the 24 hours in which most did."""
        wrong = sorted((at, code) for code, times in self.sent.items() for at in times if code not in self.right)
        days = ({code for at, code in wrong[i:] if at - first < DAY} for i, (first, _) in enumerate(wrong))
        return max(map(len, days), default=0)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_no_more_than_ten_wrong_codes_are_sent_in_any_day(
    house: House, clock: FrozenClock, seed: int
) -> None:
    guessing = Guessing(house, clock, seed)
    for _ in range(400):
        await guessing.step()
    assert len(guessing.sent) > LIMIT
    assert guessing.most_in_a_day() <= LIMIT
    assert guessing.refused["limit_reached"] > 0
    # Once all flows have ended, what is left of the budget is exactly what was not sent and not right.
    clock.advance(timedelta(minutes=61))
    guessing.hires()
    await guessing.worker.service.sweep()
    counted = guessing.counted_until(guessing.sent)
    assert await guesses(guessing.worker) == LIMIT - len(counted)
    # And each counts for a day after its flow must have ended, and no longer.
    for end, freed in sorted(Counter(counted).items()):
        clock.advance(end - TICK - clock())
        assert await guesses(guessing.worker) == 0
        clock.advance(TICK)
        assert await guesses(guessing.worker) == freed


# Alarm


async def test_wrong_codes_sound_the_alarm_and_right_ones_speak_for_them(house: House) -> None:
    heard: list[str] = []

    async def listen(event: object) -> None:
        if getattr(event, "alarm", False):
            heard.append(event.transition.trigger)  # type: ignore[attr-defined] # any event has one

    policy = Policy(guess_alarm=GuessAlarm(at_least=3))
    worker = house.worker(ScriptedTransport(capabilities=JUDGES_LATE), policy=policy, listeners={"crm": listen})
    worker.transport.script(challenge=[Accepted(value=Secret(""))] * 10)
    for number in range(4):
        flow = await held(worker, "000000", f"invented {number}")
        worker.transport.script(update=[NO_CODE])
        await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    await worker.idle()
    assert heard == ["code_refused"]


async def test_an_alarm_that_stops_codes_stops_those_that_are_held(house: House) -> None:
    worker = late(house, Policy(guess_alarm=GuessAlarm(at_least=1), stop_on_alarm=True))
    waiting = await held(worker)
    for number in range(2):
        flow = await held(worker, "000000", f"invented {number}")
        worker.transport.script(update=[NO_CODE])
        await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    for command in (worker.service.set_password(waiting.id, PASSWORD), worker.service.verify(flow.id, "000000")):
        assert (await refused(command, LimitReached)).limit == "guess_alarm"
    assert len(worker.transport.calls_of("update")) == 2


# Masking


async def test_known_and_unknown_users_look_the_same(house: House, clock: FrozenClock) -> None:
    seen: dict[bool, list[object]] = {}
    used = []
    for known in (True, False):
        worker = late(house, known=known)
        worker.transport.script(request=[Accepted(sent_to="r***@e***")] * 2, update=[NO_CODE] * 5)
        flow = await worker.service.start("known" if known else "unknown")
        seen[known] = [shown(flow)]
        wrong = [("verify", "000000"), ("set_password", PASSWORD)]
        for command, *given in [*wrong, ("verify", "1"), *wrong, ("verify", "000000"), ("resend",), *wrong * 3]:
            if command == "resend":
                clock.advance(timedelta(seconds=60))
            try:
                flow = await getattr(worker.service, command)(flow.id, *given)
                seen[known].append(shown(flow))
            except ResetFlowError as error:
                told = str(error).replace(flow.id, "")
                seen[known].append((type(error), told, getattr(error, "reasons", None), shown(error.flow)))
        assert isinstance(seen[known][-1], tuple)
        assert worker.transport.calls_of("exchange") == []
        assert len(worker.transport.calls_of("update")) == (5 if known else 0)
        assert worker.store.tries == len(worker.store.used)
        used.append(worker.store.used)
    assert seen[True] == seen[False]
    assert used[0] == used[1], "they cost the same"


async def test_a_user_whom_the_broker_refuses_only_with_another_code_looks_like_a_known_one(
    house: House, clock: FrozenClock
) -> None:
    """The reply to the start was lost: nobody knows yet that the broker refuses the user."""
    seen: dict[bool, list[object]] = {}
    for known in (True, False):
        worker = late(house)
        worker.transport.script(request=[Unknown(), Accepted() if known else Rejected(reasons=["nobody"])])
        if known:
            worker.transport.script(update=[NO_CODE])
        flow = await worker.service.start("known" if known else "unknown")
        clock.advance(timedelta(seconds=60))
        seen[known] = [shown(flow), shown(await worker.service.resend(flow.id)), shown(await held_in(worker, flow))]
        error = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
        seen[known] += [error.reasons, shown(error.flow)]
        assert len(worker.transport.calls_of("update")) == known
    assert seen[True] == seen[False]


async def test_who_is_not_masked_is_told_so_by_another_code(house: House, clock: FrozenClock) -> None:
    worker = late(house, Policy(mask_unknown_users=False))
    worker.transport.script(request=[Unknown(), Rejected(reasons=["nobody has that name"])])
    flow = await worker.service.start("unknown")
    clock.advance(timedelta(seconds=60))
    error = await refused(worker.service.resend(flow.id), UnknownUser)
    assert [str(reason) for reason in error.reasons] == ["nobody has that name"]
    assert error.flow
    assert error.flow.failure is Failure.BROKER_REFUSED


# A process dies


async def dies_in_update(worker: ScriptedWorker, flow: Flow) -> None:
    call = worker.transport.hold("update")
    task = asyncio.create_task(worker.service.set_password(flow.id, PASSWORD))
    await call.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)


@EVERY_STORE
@pytest.mark.parametrize("proof", [Accepted(), Rejected()], ids=lambda proof: type(proof).__name__)
async def test_a_process_that_dies_with_a_held_code_on_its_way_leaves_a_doubt(house: House, proof: Outcome) -> None:
    first, second = late(house), late(house)
    flow = await held(first)
    await dies_in_update(first, flow)
    house.lease_runs_out()
    assert (await second.service.sweep()).settled == 1
    flow = await second.service.get(flow.id)
    assert (flow.state, flow.in_doubt, flow.expects) == (State.TOKEN_ISSUED, Step.PASSWORD, Step.PASSWORD)
    assert second.transport.calls == [], "no password is stored, and a code is not sent alone"
    second.transport.script(update=[NO_CODE], log_in=[proof])  # it was spent, or was wrong
    if isinstance(proof, Accepted):
        assert (await second.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
        return
    error = await refused(second.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt) == (State.QUESTION_ANSWERED, Step.PASSWORD)
    flow = await second.service.verify(flow.id, "004159")
    assert (await second.service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_a_guess_that_a_dead_process_took_stays_taken(house: House, clock: FrozenClock, how: str) -> None:
    policy = Policy(starts_per_user=MANY)
    first, second = late(house, policy), late(house, policy)
    flow = await held(first)
    await dies_in_update(first, flow)
    house.lease_runs_out()
    if how == "cancel":
        await second.service.cancel(flow.id)
    clock.advance(timedelta(hours=2))
    assert (await second.service.get(flow.id)).failure is Failure.OUTCOME_UNKNOWN
    assert await guesses(second) == LIMIT - 1

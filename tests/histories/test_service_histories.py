"""
Random histories of one flow: commands, faults, crashes, clock jumps, restarts, against a broker whose truth is known.

After each step, the flow is held to the transition table, to the promises, and to what the broker really did.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reset_flow import (
    Accepted,
    AnswerRejected,
    BrokerUnavailable,
    Capabilities,
    Case,
    CodeRejected,
    Failure,
    FlowBusy,
    FlowEnded,
    IllegalCommand,
    Keyring,
    LimitReached,
    MemoryStore,
    NewCredential,
    NotActed,
    Outcome,
    OutcomeInDoubt,
    PasswordRejected,
    Policy,
    Rejected,
    ResetFlowError,
    ResetService,
    Secret,
    State,
    Step,
    Unknown,
)
from reset_flow.domain.state_machine import COMMANDS, EDGES
from reset_flow.testing import FrozenClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reset_flow import Flow

TRANSITIONS = {(edge.trigger, source): edge.target for edge in EDGES for source in edge.sources}
FAULTS = ("none", "none", "none", "lost_before", "lost_after", "not_acted", "crash_before", "crash_after", "raise")
faults = st.lists(st.sampled_from(FAULTS), min_size=3, max_size=3)
POLICY = Policy(resend_cooldown=timedelta(seconds=20), flow_lifetime=timedelta(minutes=20))


class Broker:
    """A transport whose broker remembers what it really did, and whose wire does as it is told."""

    name = "broker"
    deadline = timedelta(seconds=10)
    capabilities = Capabilities()
    no_token = Rejected(reasons=["no"])

    def __init__(self, *, question: bool) -> None:
        self.question = question
        self.code = ""
        self.token = ""
        self.password = "forgotten"
        self.mails = 0
        self.changes = 0
        self.spent: list[str] = []  # codes
        self.sent: Counter[str] = Counter()
        self.plan: list[str] = []
        self.crashing = asyncio.Event()

    def canonical_user(self, user: str) -> str:
        return user

    async def challenge(self, case: Case) -> Outcome:
        return Accepted(value=Secret("Where?" if self.question else ""))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        self.sent["request"] += 1

        def act() -> Outcome:
            if self.question and (answer is None or answer.reveal() != "right"):
                return Rejected(reasons=["no"])
            self.mails += 1
            self.code = f"{self.mails:06d}"
            return Accepted()

        return await self._wire(act)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        self.sent["exchange"] += 1

        def act() -> Outcome:
            if not self.code or code.reveal() != self.code:
                return Rejected(reasons=["no"])
            self.spent.append(self.code)
            self.code, self.token = "", f"token-{self.mails}"
            return Accepted(value=Secret(self.token))

        return await self._wire(act)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        self.sent["update"] += 1

        def act() -> Outcome:
            if token.reveal() != self.token:
                return self.no_token
            if "weak" in new.secret.reveal():
                return Rejected(reasons=["no"])
            self.code = self.token = ""
            self.password = new.secret.reveal()
            self.changes += 1
            return Accepted()

        return await self._wire(act)

    async def probe(self, case: Case) -> Outcome:
        self.sent["probe"] += 1
        return Accepted()

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        self.sent["log_in"] += 1
        right = password.reveal() == self.password
        return await self._wire(lambda: Accepted() if right else Rejected())

    async def aclose(self) -> None:
        """Keep what it knows."""

    async def _wire(self, act: Callable[[], Outcome]) -> Outcome:
        fault = self.plan.pop(0) if self.plan else "none"
        if fault == "not_acted":
            return NotActed()
        outcome: Outcome = Unknown() if fault in ("lost_before", "crash_before", "raise") else act()
        if fault.startswith("crash"):
            self.crashing.set()
            await asyncio.Event().wait()
        if fault == "raise":
            raise ValueError("a transport against its contract")
        return Unknown() if fault == "lost_after" else outcome


class TellingBroker(Broker):
    """One that says whether the token or the password was refused."""

    no_token = Rejected(reasons=["no"], about=Step.CODE)


class LateBroker(TellingBroker):
    """One that judges the code only together with the password: the code is the token."""

    capabilities = Capabilities(verifies_code=False)

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        self.token = self.code
        return outcome


class Lasting(MemoryStore):
    """Outlives the services that come and go."""

    async def aclose(self) -> None:
        """Stay open."""


class Histories(RuleBasedStateMachine):
    """One flow, and whoever works on it."""

    kind: type[Broker] = Broker
    policy = POLICY
    broker: Broker
    service: ResetService
    id: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FrozenClock()
        self.store = Lasting(clock=self.clock)
        self.keyring = Keyring.generate()
        self.seen: Flow | None = None
        self.asked: Counter[str] = Counter()

    def teardown(self) -> None:
        self.runner.run(self.service.aclose())
        self.runner.close()

    def open(self) -> ResetService:
        return ResetService(self.broker, self.store, self.keyring, policy=self.policy, clock=self.clock, sweep=False)

    async def die(self) -> None:
        """Crash: stop everything that is under way where it is, and open the store in another process."""
        await self.service.aclose(timedelta(0))
        self.broker.crashing.clear()
        self.service = self.open()

    async def give(self, command: str, plan: list[str], *args: str) -> type[ResetFlowError] | None:
        """Give a command; `SystemExit` stands for never hearing of it."""
        broker = self.broker
        broker.plan = list(plan)
        before = (broker.mails, len(broker.spent), broker.changes)
        sent = Counter(broker.sent)
        self.asked[command] += 1
        call: Coroutine[object, object, Flow] = getattr(self.service, command)(*args)
        task, crash = asyncio.ensure_future(call), asyncio.ensure_future(broker.crashing.wait())
        await asyncio.wait({task, crash}, return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        if not task.done():
            await self.die()
        told: type[ResetFlowError] | None = None
        try:
            flow = await task
        except ResetFlowError as error:
            told, flow = type(error), error.flow or await self.service.get(self.id)
        if broker.crashing.is_set():
            await self.die()
        self.hold(command, told, flow, before, args, exchanges=broker.sent["exchange"] - sent["exchange"])
        assert broker.sent["request"] - sent["request"] <= 1
        assert broker.sent["exchange"] - sent["exchange"] <= 2 + 1  # what a dead process left open is settled first
        assert broker.sent["update"] - sent["update"] <= 2
        assert broker.sent["log_in"] - sent["log_in"] <= 1
        return told

    def hold(
        self,
        command: str,
        told: type[ResetFlowError] | None,
        flow: Flow,
        before: tuple[int, int, int],
        args: tuple[str, ...],
        *,
        exchanges: int,
    ) -> None:
        """Check that what was told is true."""
        broker = self.broker
        mails, spent, changes = before
        assert broker.mails <= mails + 1
        match command, told:
            case "answer" | "resend", None:
                assert (
                    flow.in_doubt or flow.busy_until or broker.mails == mails + 1 or flow.state is not State.REQUESTED
                )
            case "answer" | "resend", t if t is AnswerRejected:
                assert broker.mails == mails
            case "verify", t if t is CodeRejected:
                # What a dead process left open is settled first, which may spend the code that it had.
                assert broker.spent[spent:] == [] or (exchanges > 1 and args[1] not in broker.spent[spent:])
            case "verify", None:
                assert flow.state is State.TOKEN_ISSUED
            case "set_password", t if t in (PasswordRejected, CodeRejected):
                assert broker.changes == changes
                assert flow.in_doubt is not Step.PASSWORD
            case "set_password", None:
                assert flow.state is State.PASSWORD_SET
                assert broker.password == args[1]
            case _, t if t in (BrokerUnavailable, IllegalCommand, FlowEnded, LimitReached):
                assert broker.mails == mails
                assert broker.changes == changes
            case _, t:
                assert t in (None, FlowBusy, OutcomeInDoubt), t

    @initialize(question=st.booleans(), plan=faults)
    def start(self, question: bool, plan: list[str]) -> None:  # noqa: FBT001
        async def run() -> None:
            self.broker = self.kind(question=question)
            self.service = self.open()
            self.broker.plan = ["none"] if question else [plan[0].replace("crash", "lost")]
            self.asked["start"] += 1
            try:
                flow = await self.service.start("somebody", ref="one")
                self.id = flow.id
            except BrokerUnavailable as error:
                self.id = error.flow.id if error.flow else ""

        self.runner.run(run())

    @rule(plan=faults, answer=st.sampled_from(["right", "right", "wrong", ""]))
    def answer(self, plan: list[str], answer: str) -> None:
        self.runner.run(self.give("answer", plan, self.id, answer))

    @rule(plan=faults)
    def resend(self, plan: list[str]) -> None:
        self.runner.run(self.give("resend", plan, self.id))

    @rule(plan=faults, right=st.booleans())
    def verify(self, plan: list[str], right: bool) -> None:  # noqa: FBT001
        self.runner.run(self.give("verify", plan, self.id, self.broker.code or "999999" if right else "999999"))

    @rule(plan=faults, password=st.sampled_from(["violet tractor", "another tractor", "weak tractor"]))
    def set_password(self, plan: list[str], password: str) -> None:
        self.runner.run(self.give("set_password", plan, self.id, password))

    @rule(plan=faults)
    def the_person_does_what_is_expected(self, plan: list[str]) -> None:
        self._go_on(plan)

    @rule()
    def the_person_goes_on_and_all_is_well(self) -> None:
        self._go_on(["none"])

    @rule()
    def the_person_comes_back_later_and_goes_on(self) -> None:
        self.clock.advance(timedelta(seconds=35))
        self._go_on(["none"])

    def _go_on(self, plan: list[str]) -> None:
        match self.seen and self.seen.expects:
            case Step.ANSWER:
                self.answer(plan, "right" if self.broker.question else "")
            case Step.CODE if self.broker.code:
                self.verify(plan, right=True)
            case Step.CODE:
                self.resend(plan)
            case Step.PASSWORD:
                self.set_password(plan, "violet tractor")

    @precondition(lambda self: self.asked.total() > 30)
    @rule()
    def cancel(self) -> None:
        self.runner.run(self.give("cancel", [], self.id))

    @rule(seconds=st.sampled_from([0, 5, 25, 31, 31, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule(seconds=st.sampled_from([5, 120]))
    def the_clock_jumps_back(self, seconds: int) -> None:
        self.clock.advance(-timedelta(seconds=seconds))

    @rule()
    def the_process_dies(self) -> None:
        self.runner.run(self.die())

    @rule(plan=faults)
    def a_sweeper_comes_by(self, plan: list[str]) -> None:
        async def run() -> None:
            self.broker.plan = [fault.replace("crash", "lost") for fault in plan]
            mails, changes = self.broker.mails, self.broker.changes
            await self.service.sweep()
            assert (self.broker.mails, self.broker.changes) == (mails, changes)

        self.runner.run(run())

    @rule(plan=faults)
    def the_same_start_comes_again(self, plan: list[str]) -> None:
        async def run() -> None:
            self.broker.plan = [plan[0].replace("crash", "lost")]
            self.asked["start"] += 1
            with suppress(FlowBusy, BrokerUnavailable, AnswerRejected):
                assert (await self.service.start("somebody", ref="one")).id == self.id

        self.runner.run(run())

    @invariant()
    def only_edges_of_the_table_are_taken_and_what_ended_stays_ended(self) -> None:
        if not hasattr(self, "id"):
            return
        flow = self.runner.run(self.service.get(self.id))
        at = State.REQUESTED
        for transition in flow.history:
            assert transition.source is at
            at = TRANSITIONS[transition.trigger, at]
        assert at is flow.state
        assert flow.attempts_left is None or flow.attempts_left >= 0
        assert flow.ended == (flow.expects is None) == (not flow.allowed)
        held = flow.state is State.TOKEN_ISSUED and not self.broker.capabilities.verifies_code
        legal = {each.name for each in COMMANDS.values() if flow.state in each.legal_in or (held and each.while_held)}
        assert set(flow.allowed) <= legal
        if flow.state is State.PASSWORD_SET:
            # Of another code, a person may make a second one whose first nobody can know of.
            assert self.broker.changes == 1 or (self.kind is not Broker and self.broker.changes > 1)
        if flow.failure in (Failure.EXPIRED, Failure.TOO_MANY_ATTEMPTS, Failure.CANCELLED):
            assert self.broker.changes == 0, "a password that was set is called failed"
        if self.seen:
            assert flow.version >= self.seen.version
            assert flow.history[: len(self.seen.history)] == self.seen.history
            if self.seen.ended:
                assert flow == self.seen
        self.seen = flow
        asked = self.asked
        assert self.broker.sent["request"] <= asked["answer"] + asked["resend"] + asked["start"]
        assert self.broker.sent["exchange"] <= 2 * asked["verify"]
        assert self.broker.sent["update"] <= 2 * asked["set_password"]
        if not flow.ended and (flow.in_doubt, flow.busy_until) == (None, None):
            assert self.broker.changes == 0, "a password that was set is not known to be in doubt"
        assert self.broker.sent["exchange"] == 0 or self.broker.capabilities.verifies_code


class TellingHistories(Histories):
    """At a broker that tells a refused token from a refused password, and proves none by a log-in."""

    kind = TellingBroker
    policy = attrs.evolve(POLICY, probe_by_login=False)


class LateHistories(TellingHistories):
    """At a broker that judges codes late."""

    kind = LateBroker


TestHistories = Histories.TestCase
TestTellingHistories = TellingHistories.TestCase
TestLateHistories = LateHistories.TestCase
TestHistories.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestTellingHistories.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestLateHistories.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_a_code_of_a_dead_process_is_spent_before_another_one_is_refused() -> None:
    """A history that was found at random."""
    state = Histories()
    try:
        state.start(question=True, plan=["none"])
        state.answer(["none"], "right")
        state.verify(["crash_before"], right=True)
        state.time_passes(31)
        state.verify(["lost_after", "none"], right=False)
        assert state.broker.spent == ["000001"]
        state.only_edges_of_the_table_are_taken_and_what_ended_stays_ended()
    finally:
        state.teardown()

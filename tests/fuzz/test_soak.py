"""Two hundred resets at a broker at which a third of all calls meets a fault."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.errors import OutcomeInDoubt, ResetFlowError
from reset_flow.domain.flow import Failure, State, Step
from reset_flow.domain.policy import Budget, Policy
from reset_flow.domain.state_machine import EDGES, allowed
from reset_flow.persistence.keyring import Keyring
from reset_flow.sandbox import Sandbox
from reset_flow.service import ResetService
from reset_flow.stores.memory import MemoryStore
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow

pytestmark = pytest.mark.usefixtures("nothing_left")

FLOWS = 200
AT_ONCE = 25
COMMANDS_AT_MOST = 60
SEED = 20_261
DAY = timedelta(days=1)
STEPS = {(edge.trigger, source, edge.target) for edge in EDGES for source in edge.sources}
POLICY = Policy(
    lease=timedelta(seconds=10),
    resend_cooldown=timedelta(0),
    resends=30,
    code_attempts=30,
    password_attempts=30,
    codes_per_user=Budget(100, DAY),
)
FAULTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("drop_before", {}),
    ("drop_after", {}),
    ("cut_after", {}),
    ("reset", {}),
    ("reset", {"act": True}),
    ("status", {"status": 500}),
    ("status", {"status": 502, "act": True, "body": "<html>"}),
    ("status", {"status": 503, "headers": {"Retry-After": "0"}}),
    ("status", {"status": 429}),
    ("raw", {"body": b"\xff\x00", "act": True}),
    ("raw", {"body": '{"Errors": [], "IsSucceed": "true"', "act": True}),
    ("redirect", {"location": "/elsewhere"}),
    ("hang_after", {}),
    ("hang_before", {}),
    ("latency", {"seconds": 0.01}),
)


def check_history(flow: Flow) -> None:
    stands = State.REQUESTED
    for step in flow.history:
        assert (step.trigger, step.source, step.target) in STEPS
        assert step.source is stands
        stands = step.target
    assert flow.state is stands
    assert flow.allowed == allowed(flow.state, flow.credential)
    assert (flow.expects is None) == flow.ended
    assert (flow.failure is None) == (flow.state is not State.FAILED)


class Person:
    """Goes on until the flow has ended, whatever it takes; over whichever worker."""

    def __init__(self, number: int, sandbox: Sandbox) -> None:
        self.login = f"person.{number}"
        self.password = f"v1olet tractor {number}"
        self.answer = f"Peterson {number}"
        self._sandbox = sandbox
        self._chance = random.Random(SEED + number)  # noqa: S311 - a repeatable one
        self.asked = Counter[tuple[str, str]]()
        self.errors = Counter[str]()
        sandbox.add_user(self.login, question="Where did you live?" if number % 2 else None, answer=self.answer)

    async def resets(self, workers: list[ResetService]) -> Flow:
        flow: Flow | None = None
        for _ in range(COMMANDS_AT_MOST):
            service = self._chance.choice(workers)
            try:
                flow = await self._goes_on(service, flow)
            except ResetFlowError as error:
                self.errors[error.code] += 1
                flow = error.flow or flow
            if flow:
                check_history(flow)
            if flow and flow.ended:
                break
        assert flow is not None
        return await self._chance.choice(workers).get(flow.id)

    async def _goes_on(self, service: ResetService, flow: Flow | None) -> Flow:
        if flow is None:
            self.asked["start", ""] += 1
            return await service.start(self.login, ref=self.login)
        if flow.expects is Step.ANSWER:
            self.asked["answer", self.answer] += 1
            return await service.answer(flow.id, self.answer)
        if flow.expects is Step.CODE:
            code = self._code()
            if code is None or flow.in_doubt is Step.CODE or self.asked["verify", code]:
                self.asked["resend", ""] += 1
                return await service.resend(flow.id)
            self.asked["verify", code] += 1
            return await service.verify(flow.id, code)
        self.asked["set_password", self.password] += 1
        return await service.set_password(flow.id, self.password)

    def _code(self) -> str | None:
        try:
            return self._sandbox.newest_code(self.login)
        except LookupError:
            return None


async def test_two_hundred_resets_end_well_or_honestly() -> None:
    async with Sandbox(port=0) as sandbox, AsyncExitStack() as stack:
        for number, (name, order) in enumerate(FAULTS):
            sandbox.fault("*", name, times=None, probability=0.025, seed=SEED + number, **order)
        store, keyring = MemoryStore(), Keyring.generate()
        workers = [
            await stack.enter_async_context(
                ResetService(
                    EtnaTransport(sandbox.api_url, "sandbox", deadline=timedelta(seconds=0.6), name="etna"),
                    store, keyring, policy=POLICY, sweep=False,
                )
            )
            for _ in range(3)
        ]  # fmt: skip
        persons = [Person(number, sandbox) for number in range(FLOWS)]
        slots = asyncio.Semaphore(AT_ONCE)

        async def reset(person: Person) -> Flow:
            async with slots:
                return await person.resets(workers)

        flows = await asyncio.gather(*(reset(person) for person in persons))
        ended = Counter(str(flow.failure or flow.state) for flow in flows)
        met = sum((person.errors for person in persons), Counter[str]())
        assert ended[State.PASSWORD_SET] >= FLOWS * 0.9, ended
        assert met.total() >= FLOWS / 4, "there were faults"
        assert set(met) <= {
            "answer_rejected", "broker_protocol", "broker_unavailable", "code_rejected", "flow_ended",
            "outcome_in_doubt", "password_rejected",
        }, met  # fmt: skip
        assert OutcomeInDoubt.code in met

        sent = Counter(
            (call.route, body.get("Code") or body.get("Password"))
            for call in sandbox.calls
            if call.route in ("exchange", "update") and (body := json.loads(call.body))
        )
        for person, flow in zip(persons, flows, strict=True):
            check_history(flow)
            user = sandbox.user(person.login)
            assert user.password_changes <= 1
            assert (user.password == person.password) == bool(user.password_changes)
            if flow.state is State.PASSWORD_SET:
                assert user.password == person.password
            elif user.password_changes:
                assert flow.in_doubt is Step.PASSWORD or flow.failure is Failure.OUTCOME_UNKNOWN
            asks = person.asked
            assert user.mails_sent <= asks["start", ""] + asks["answer", person.answer] + asks["resend", ""]
            assert sent["update", person.password] <= 2 * asks["set_password", person.password]
            for (command, code), times in asks.items():
                assert command != "verify" or sent["exchange", code] <= 2 * times

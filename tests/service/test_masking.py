"""A user whom the broker refused is treated like one whom it took: also while the broker is at fault, and at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import (
    Accepted,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    Capabilities,
    Cause,
    CodeRejected,
    NotActed,
    OutcomeInDoubt,
    Policy,
    Rejected,
    ResetFlowError,
    State,
    Step,
    Unknown,
)
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport
from tests.patience import let_time_pass
from tests.shown import shown

if TYPE_CHECKING:
    from reset_flow import Flow, Outcome
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import Part
    from tests.service.conftest import House, MakeEtna, ScriptedWorker, Worker

KNOWN, UNKNOWN = "maria.noquestion", "nobody"
PASSWORD = "violet tractor 5"
HTML = "<html>sorry</html>"
FAULTS: dict[str, dict[str, Any]] = {
    "drop_before": {},
    "drop_after": {},
    "cut_after": {},
    "reset": {},
    "redirect": {"location": "/elsewhere"},
    "500 in HTML": {"name": "raw", "status": 500, "body": HTML, "content_type": "text/html"},
    "200 in HTML": {"name": "raw", "status": 200, "body": HTML, "content_type": "text/html"},
    "503": {"name": "status", "status": 503},
    "503, later": {"name": "status", "status": 503, "headers": {"Retry-After": "7"}},
    "429": {"name": "status", "status": 429},
    "403 of a gateway": {"name": "raw", "status": 403, "body": HTML, "content_type": "text/html"},
    "app key": {"name": "raw", "status": 401, "body": '{"error": "Application key is not defined"}'},
}


async def tries(worker: Worker, flow: Flow, clock: FrozenClock, *commands: str) -> list[object]:
    """Give the commands, and return all that an outsider sees of what comes of them."""
    seen: list[object] = []
    for command in commands:
        if command == "resend":
            clock.advance(timedelta(minutes=2))
        try:
            given = ["000000"] if command == "verify" else []
            seen.append(shown(await getattr(worker.service, command)(flow.id, *given)))
        except ResetFlowError as error:
            told = str(error).replace(flow.id, "")
            seen.append((type(error), told, error.retry_after, getattr(error, "reasons", None), shown(error.flow)))
    return seen


@pytest.mark.parametrize("fault", FAULTS)
async def test_known_and_unknown_users_look_the_same_while_the_broker_is_at_fault(
    house: House, etna: MakeEtna, sandbox: Sandbox, clock: FrozenClock, fault: str
) -> None:
    sandbox.settings.unknown_user_refused = True
    seen: dict[str, list[object]] = {KNOWN: [], UNKNOWN: []}
    for user in seen:
        for has_just_started in (False, True):
            worker = house.worker(etna())
            flow = await worker.service.start(user)
            if has_just_started:
                worker = house.worker(etna())
            order = {"name": fault, **FAULTS[fault]}
            sandbox.fault("*", times=None, **order)
            seen[user] += [shown(flow), await tries(worker, flow, clock, "verify", "resend", "verify")]
            sandbox.clear_faults()
            seen[user] += await tries(worker, flow, clock, "resend", "verify")
    assert seen[KNOWN] == seen[UNKNOWN]
    assert len(sandbox.calls_of("exchange")) > 0


async def test_known_and_unknown_users_look_the_same_while_nothing_answers(
    house: House, etna: MakeEtna, sandbox: Sandbox, clock: FrozenClock
) -> None:
    sandbox.settings.unknown_user_refused = True
    worker = house.worker(etna(name="one"))
    away = house.worker(etna(name="one", base_url="http://127.0.0.1:9/api"))
    seen = {}
    for user in (KNOWN, UNKNOWN):
        flow = await worker.service.start(user)
        seen[user] = await tries(away, flow, clock, "verify", "resend")
        assert all(isinstance(each, tuple) and each[0] is BrokerUnavailable for each in seen[user])
    assert seen[KNOWN] == seen[UNKNOWN]


async def masked(worker: ScriptedWorker) -> Flow:
    worker.transport.script(challenge=[Rejected()])
    flow = await worker.service.start("nobody")
    worker.transport.calls.clear()
    return flow


FAULTY: list[tuple[Part, type[ResetFlowError]]] = [
    (Unknown(), OutcomeInDoubt),
    (OSError("gone"), OutcomeInDoubt),
    (NotActed(), BrokerUnavailable),
    (NotActed(cause=Cause.THROTTLED, retry_after=timedelta(seconds=9)), BrokerUnavailable),
    (NotActed(cause=Cause.FORBIDDEN), AppKeyRejected),
    (NotActed(cause=Cause.PROTOCOL), BrokerProtocolError),
]


@pytest.mark.parametrize(("fault", "error"), FAULTY, ids=str)
async def test_a_masked_call_shares_the_faults_of_the_host(
    house: House, fault: Part, error: type[ResetFlowError]
) -> None:
    worker = house.worker()
    flow = await masked(worker)
    worker.transport.script(probe=[fault, fault])
    told = await refused(worker.service.verify(flow.id, "000000"), error)
    assert type(told) is error
    worker.transport.unscript("probe")
    assert {call.name for call in worker.transport.calls} == {"probe"}
    assert type(await refused(worker.service.verify(flow.id, "000000"), CodeRejected)) is CodeRejected


@pytest.mark.parametrize("fault", ["drop_before", "hang_before"])
async def test_another_code_after_an_answer_in_doubt_is_refused_to_known_and_unknown_users_alike(
    house: House, etna: MakeEtna, sandbox: Sandbox, clock: FrozenClock, fault: str
) -> None:
    """The answer that nobody has judged goes with it, and is wrong."""
    sandbox.settings.unknown_user_refused = True
    sandbox.add_user("with.question", question="Which pet?", answer="Rex")
    policy = Policy(decoy_questions=("Which pet?",))
    deadline = timedelta(seconds=20)
    worker = house.worker(etna(deadline=deadline), policy=policy)
    seen = {}
    for user in ("with.question", UNKNOWN):
        flow = await worker.service.start(user)
        sandbox.fault("*", fault, times=1)
        answering = asyncio.create_task(worker.service.answer(flow.id, "Bello"))
        if fault == "hang_before":
            while sandbox.calls[-1].fault != fault:  # noqa: ASYNC110 - of whatever route
                await asyncio.sleep(0.001)
            let_time_pass(deadline)
        doubted = await answering
        assert doubted.in_doubt is Step.ANSWER
        seen[user] = [shown(doubted), await tries(worker, flow, clock, "verify", "resend")]
        assert (await worker.service.get(flow.id)).expects is Step.ANSWER
    assert seen["with.question"] == seen[UNKNOWN]


async def test_a_transport_that_can_not_probe_has_no_faults_to_share(house: House) -> None:
    worker = house.worker(ScriptedTransport(capabilities=Capabilities(probes=False)))
    flow = await masked(worker)
    assert flow.state is State.QUESTION_ANSWERED
    for _ in range(2):
        await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    assert worker.transport.calls == []


async def test_a_masked_call_takes_at_least_as_long_as_the_host_takes_to_answer(house: House) -> None:
    worker = house.worker()
    flow = await masked(worker)
    held = worker.transport.hold("probe")
    typed = asyncio.create_task(worker.service.verify(flow.id, "000000"))
    await held.arrived.wait()
    assert not typed.done()
    held.released.set()
    await refused(typed, CodeRejected)
    assert held.left.is_set()


async def test_a_process_that_has_just_started_waits_for_nothing_but_the_probe(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def slow(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    worker = house.worker()
    monkeypatch.setattr("asyncio.sleep", slow)
    flow = await masked(worker)
    await refused(worker.service.verify(flow.id, "000000"), CodeRejected)
    assert len(slept) == 2
    assert max(slept) == 0, "as no real call was made yet"


async def test_a_masked_password_is_tried_nowhere(house: House) -> None:
    worker = house.worker(ScriptedTransport(capabilities=Capabilities(verifies_code=False)))
    flow = await masked(worker)
    await worker.service.verify(flow.id, "000000")
    outcomes: list[Outcome] = [Unknown(), Unknown(), Accepted()]
    worker.transport.script(probe=list(outcomes))
    await refused(worker.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    assert [call.name for call in worker.transport.calls] == ["probe"] * 3, "two sendings and a log-in, all pretended"
    assert all(call.given is None for call in worker.transport.calls)
    assert worker.transport.calls[0].case.user == "nobody"

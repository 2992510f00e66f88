"""What a hostile review found, held from now on."""

from __future__ import annotations

import asyncio
import copy
import pickle
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import reset_flow
from reset_flow import (
    Accepted,
    BrokerUnavailable,
    Case,
    CodeRejected,
    ConfigurationError,
    Credential,
    Event,
    FlowEnded,
    FlowNotFound,
    InvalidInput,
    KeyReused,
    NotActed,
    OutcomeInDoubt,
    Policy,
    RecordUnreadable,
    Rejected,
    ResetFlowError,
    ResetService,
    Secret,
    State,
    Step,
    StoreUnavailable,
    Transition,
    UnknownUser,
)
from reset_flow.domain import errors
from reset_flow.testing import LeakScanner, refused, shown_by_error
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Record
    from reset_flow.sandbox import Sandbox
    from reset_flow.testing.transport import ScriptedCall
    from tests.service.conftest import At, House, MakeEtna

LOGIN = "robert.zak@example.org"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


TESTS = Path(__file__).parents[1]


def shows(error: BaseException, *canaries: str) -> list[str]:
    """Those that somebody sees who logs the error with the variables of its frames."""
    scanner = LeakScanner({canary: canary for canary in canaries})
    return sorted({leak.name for leak in scanner.find(shown_by_error(error, callers=[TESTS]))})


async def test_a_service_that_is_closing_takes_no_more_commands(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    held = worker.transport.hold("request")
    first = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    closing = asyncio.create_task(worker.service.aclose())
    await asyncio.sleep(0)
    other = house.worker()
    await refused(worker.service.start("somebody else"), StoreUnavailable)
    held.released.set()
    assert (await first).state is State.QUESTION_ANSWERED
    await closing
    assert (await other.service.get(flow.id)).state is State.QUESTION_ANSWERED


async def test_closing_that_is_cut_short_leaves_nothing_running(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    held = worker.transport.hold("request")
    command = asyncio.create_task(worker.service.answer(flow.id, "Peterson"))
    await held.arrived.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await worker.service.aclose()
    await refused(command, OutcomeInDoubt)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_key_that_was_answered_by_settling_is_remembered(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    house.clock.advance(timedelta(minutes=2))
    held = worker.transport.hold("request")
    lost = asyncio.create_task(worker.service.resend(flow.id, key="a"))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(lost, return_exceptions=True)
    other = house.worker()
    house.clock.advance(timedelta(minutes=2))
    for _ in range(2):
        assert (await other.service.resend(flow.id, key="b")).in_doubt is not None
    assert other.transport.calls == []


async def test_keys_are_told_apart_to_the_letter(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected(), Accepted(value=Secret("token"))])
    await refused(worker.service.verify(flow.id, "111111", key="Ab3"), CodeRejected)
    assert (await worker.service.verify(flow.id, "222222", key="aB3")).state is State.TOKEN_ISSUED


@pytest.mark.parametrize(
    "extra", [{"image_name": b"x"}, {"authorization": 5}, {"personal_phrase": b"x"}, {"image_name": object()}]
)
async def test_what_can_not_be_sent_with_a_pin_makes_no_doubt(house: House, extra: dict[str, Any]) -> None:
    worker = house.worker()
    flow = await worker.service.adopt("robert.zak", "token", credential=Credential.PIN)
    await refused(worker.service.set_pin(flow.id, "1234", **extra), InvalidInput)
    assert worker.transport.calls == []
    assert (await worker.service.get(flow.id)).in_doubt is None


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted(value=Secret("\ud800")),
        Accepted(value="in plain"),  # type: ignore[arg-type]
        Accepted(value=Secret("t"), continuation="text"),  # type: ignore[arg-type]
    ],
)
async def test_an_outcome_that_can_not_be_kept_is_unknown(house: House, at: At, outcome: Outcome) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[outcome, outcome])
    error = await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert shows(error, "in plain") == []


class Grave(BaseException):
    pass


@pytest.mark.parametrize("raised", [Grave(), GeneratorExit(), asyncio.CancelledError()], ids=repr)
async def test_a_transport_may_raise_what_no_exception_is(house: House, at: At, raised: BaseException) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[raised, raised])
    error = await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow == await worker.service.get(flow.id)
    assert (await worker.service.verify(flow.id, "004158")).state is State.TOKEN_ISSUED


async def test_a_transport_that_will_not_be_cancelled_holds_up_nobody(house: House, at: At) -> None:
    goes_on, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(_: ScriptedCall) -> Outcome:
        while not goes_on.is_set():
            with suppress(asyncio.CancelledError):
                await goes_on.wait()
        ended.set()
        return Accepted(value=Secret("too late"))

    worker = house.worker(ScriptedTransport(deadline=timedelta(milliseconds=20)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[stubborn, stubborn])
    error = await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    assert error.flow
    assert error.flow.expects is Step.CODE
    goes_on.set()
    await ended.wait()
    assert (await worker.service.get(flow.id)).version == error.flow.version


async def test_no_frame_shows_who_wanted_a_reset(house: House) -> None:
    worker = house.worker(policy=Policy(mask_unknown_users=False))
    worker.transport.script(challenge=[Rejected()])
    assert shows(await refused(worker.service.start(LOGIN), UnknownUser), LOGIN) == []
    worker.transport.script(challenge=[NotActed()] * 3)
    assert shows(await refused(worker.service.start(LOGIN), BrokerUnavailable), LOGIN) == []
    assert shows(await refused(worker.service.start(f"{LOGIN}\0"), InvalidInput), LOGIN) == []
    worker.transport.hold("challenge")
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await worker.service.start(LOGIN)
    assert shows(caught.value, LOGIN) == []


def every_error() -> list[ResetFlowError]:
    special: list[ResetFlowError] = [
        FlowNotFound("id"),
        FlowEnded("id", "expired"),
        reset_flow.IllegalCommand("id", "answer", State.FAILED, ("cancel",)),
        reset_flow.FlowBusy("id", "answer", timedelta(seconds=7)),
        reset_flow.StaleRecord("id", 3),
        reset_flow.WrongBroker("id", "one", "another"),
        RecordUnreadable("id", "why"),
        CodeRejected("it must have 6 digits", sent=False),
        reset_flow.LimitReached("codes", timedelta(seconds=3)),
        BrokerUnavailable("nobody", timedelta(seconds=2)),
    ]
    made: dict[type[ResetFlowError], ResetFlowError] = {type(error): error for error in special}
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ResetFlowError)]
    return [made.get(kind) or kind("why") for kind in kinds]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
async def test_an_error_survives_a_pickle_without_its_flow(house: House, error: ResetFlowError) -> None:
    flow = await house.worker().service.start(LOGIN)
    again = pickle.loads(pickle.dumps(error.with_flow(flow)))  # noqa: S301 - its own
    assert (type(again), str(again), again.code, again.retryable) == (
        type(error), str(error), error.code, error.retryable,
    )  # fmt: skip
    assert vars(again) == {name: value for name, value in vars(error).items() if name != "flow"}
    assert again.flow is None
    assert shows(error, LOGIN) == []


async def test_what_has_a_login_or_a_key_is_not_pickled(house: House) -> None:
    worker = house.worker()
    flow = await worker.service.start(LOGIN)
    event = Event(id="1.0", flow=flow, transition=Transition(trigger="t", source=flow.state, target=flow.state, at=NOW))
    data = (await house.repository().load(flow.id)).flow
    case = Case(user=LOGIN)
    for each in (flow, event, [flow], data, case, Accepted(continuation=b"c"), house.keyring, house.keyring.writes):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="can't be pickled"):
                pickle.dumps(each, protocol)
    with pytest.raises(TypeError, match="keep its id, or what"):
        pickle.dumps(event)
    assert pickle.loads(pickle.dumps(flow.public())) == flow.public()  # noqa: S301 - its own


async def test_a_flow_and_an_event_can_be_copied(house: House) -> None:
    flow = await house.worker().service.start(LOGIN)
    transition = Transition(trigger="t", source=flow.state, target=flow.state, at=NOW)
    event = Event(id="1.0", flow=flow, transition=transition)
    assert copy.copy(flow) is flow
    assert copy.deepcopy([flow]) == [flow]
    assert copy.copy(event) == copy.deepcopy(event) == event
    assert attrs.evolve(flow, version=7).version == 7


async def test_a_store_that_gives_another_flow_is_not_believed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = house.worker()
    one, two = await worker.service.start("one"), await worker.service.start("two")
    real = worker.store.load

    async def lie(flow_id: str) -> Record:
        return await real(two.id if flow_id == one.id else flow_id)

    monkeypatch.setattr(worker.store, "load", lie)
    await refused(worker.service.get(one.id), RecordUnreadable)
    assert (await worker.service.get(two.id)).user == "two"


async def test_a_ref_that_was_started_is_not_adopted(house: House) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret(""))], request=[NotActed()])
    await refused(worker.service.start("robert.zak", ref="r"), BrokerUnavailable)
    before = len(worker.transport.calls)
    await refused(worker.service.adopt("robert.zak", "token", ref="r"), KeyReused)
    assert len(worker.transport.calls) == before
    flow = await worker.service.adopt("robert.zak", "token", ref="other")
    assert (await worker.service.adopt("robert.zak", "token", ref="other")).id == flow.id


@pytest.mark.parametrize("flow_id", [None, 7, b"id", ["id"]])
async def test_an_id_that_is_no_text_names_no_flow(house: House, flow_id: Any) -> None:
    service = house.worker().service
    await refused(service.get(flow_id), FlowNotFound)
    await refused(service.cancel(flow_id), FlowNotFound)


async def test_odd_arguments_are_refused_by_name(house: House) -> None:
    service = house.worker().service
    flow = await service.start("robert.zak")
    odd: Any
    for odd in (float("nan"), float("inf"), 1e15, timedelta.max, True, "5"):
        await refused(service.wait(flow.id, timeout=odd), InvalidInput)
    for odd in (5, []):
        await refused(service.start("robert.zak", credential=odd), InvalidInput)
    await refused(service.start("robert.zak", tags=5), InvalidInput)  # type: ignore[arg-type] # what it is about


@pytest.mark.parametrize("odd", [{"listeners": {"crm": "crm"}}, {"guards": ["captcha"]}], ids=str)
def test_what_can_not_be_called_is_refused_before_there_is_a_flow(house: House, odd: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be callable"):
        house.worker(**odd)
    assert isinstance(house.worker(listeners={"crm": None}).service, ResetService)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"policy": 30}, "policy must be like Policy"),
        ({"policy": {}}, "policy must be like Policy"),
        ({"listeners": [print]}, "listeners must be given by their names"),
        ({"guards": print}, "guards must be several of them"),
        ({"keyring": "keys.json"}, "keyring must be like Keyring"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_refused_with_an_example(house: House, odd: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        house.worker(**odd)
    with pytest.raises(ConfigurationError, match="store must be like SQLiteStore"):
        ResetService(ScriptedTransport(), "flows.db", house.keyring)  # type: ignore[arg-type] # what it is about


async def test_a_closing_that_is_given_a_number_waits_for_a_length_of_time(house: House) -> None:
    worker = house.worker()
    with pytest.raises(InvalidInput, match="patience: it must be a timedelta"):
        await worker.service.aclose(5)  # type: ignore[arg-type] # what it is about
    assert (await worker.service.start("robert.zak")).allowed, "nothing is closed yet"


def test_ends_are_kept_until_they_are_told() -> None:
    with pytest.raises(ConfigurationError, match="retention"):
        Policy(retention=timedelta(seconds=30))
    assert Policy(retention=timedelta(seconds=31)).retention == timedelta(seconds=31)


@pytest.mark.parametrize(
    "wrong",
    [{"guess_alarm": 3}, {"codes_per_user": 5}, {"starts_per_user": 5}, {"starts_per_origin": 1}, {"password": 8}],
)
def test_a_policy_of_the_wrong_kind_is_refused_before_there_is_a_flow(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be like"):
        Policy(**wrong)
    assert Policy(decoy_questions="What?").decoy_questions == ("What?",)
    assert Policy(guess_alarm=None).guess_alarm is None


class Text(str):
    """What frameworks call text that they take for safe."""

    __slots__ = ()


async def test_every_text_may_be_of_a_kind_of_its_own(house: House, etna: MakeEtna, sandbox: Sandbox) -> None:
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    worker = house.worker(etna(name=Text("the broker")), listeners={Text("mail"): listen})
    service = worker.service
    user = Text("robert.zak")
    flow = await service.start(user, ref=Text("ref"), tags=[Text("tag")], origin=Text("10.0.0.1"))
    flow = await service.answer(flow.id, Text("Peterson"), key=Text("key"))
    flow = await service.verify(flow.id, Text(sandbox.newest_code(user)))
    flow = await service.set_password(flow.id, Text("violet tractor 5"))
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert sandbox.password_of("robert.zak") == "violet tractor 5"
    assert [found.id for found in await service.find(Text("tag"))] == [flow.id]
    await worker.idle()
    assert [event.transition.trigger for event in heard][-1] == "password_accepted"


async def test_a_pin_and_its_image_may_be_of_a_kind_of_their_own(
    house: House, etna: MakeEtna, sandbox: Sandbox
) -> None:
    sandbox.settings.bearer_checked = False
    service = house.worker(etna()).service
    flow = await service.start("robert.zak", credential=Credential.PIN)
    flow = await service.answer(flow.id, "Peterson")
    flow = await service.verify(flow.id, sandbox.newest_code("robert.zak"))
    flow = await service.set_pin(
        flow.id, Text("8642"), image_name=Text("cactus"), personal_phrase=Text("a phrase"), authorization=Text("bearer")
    )
    assert flow.state is State.PASSWORD_SET

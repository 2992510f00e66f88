"""What a transport says that its provider can do, wants kept, and tells: what the service makes of it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from urllib.parse import quote_plus

import pytest

from reset_flow import (
    Accepted,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    Capabilities,
    Cause,
    CodeFormat,
    CodeRejected,
    ConfigurationError,
    Credential,
    NotActed,
    OutcomeInDoubt,
    PasswordRejected,
    Policy,
    Rejected,
    ResetFlowError,
    Secret,
    State,
    StoreUnavailable,
    Unknown,
)
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from reset_flow import Outcome
    from reset_flow.testing import FrozenClock
    from reset_flow.testing.transport import ScriptedCall
    from tests.service.conftest import At, House, ScriptedWorker

PASSWORD = "violet tractor 5"


def worker_of(house: House, capabilities: Capabilities, policy: Policy | None = None) -> ScriptedWorker:
    worker = house.worker(ScriptedTransport(capabilities=capabilities), policy=policy or Policy())
    worker.transport.script(challenge=[Accepted(value=Secret(""))] * 9)
    return worker


# Codes


@pytest.mark.parametrize(
    ("code", "typed", "sent"),
    [
        (CodeFormat.digits(6), "004 158", "004158"),
        (CodeFormat.digits(8), "0041-5812", "00415812"),
        (CodeFormat.letters(8), "abCD-12xy", "abCD12xy"),
        (CodeFormat.token(), " 1-cq2:AbC_ \n", "1-cq2:AbC_"),
    ],
    ids=lambda value: str(getattr(value, "kind", ""))[:10],
)
@pytest.mark.parametrize("verifies_code", [True, False])
async def test_a_code_is_read_in_the_format_of_the_provider(
    *, house: House, code: CodeFormat, typed: str, sent: str, verifies_code: bool
) -> None:
    worker = worker_of(house, Capabilities(code=code, verifies_code=verifies_code))
    flow = await worker.service.start("robert.zak")
    error = await refused(worker.service.verify(flow.id, "\x00"), CodeRejected)
    assert (error.sent, error.flow) == (False, flow)
    flow = await worker.service.verify(flow.id, typed)
    await worker.service.set_password(flow.id, PASSWORD)
    call = worker.transport.calls_of("exchange" if verifies_code else "update")[0]
    assert (call.given if verifies_code else call.token) == Secret(sent)


@pytest.mark.parametrize("link", ["https://shop.example/reset/1-cq2", "HTTP://x/?key=1-cq2#a", "shop://reset/1-cq2"])
async def test_a_whole_link_is_not_sent_in_the_place_of_its_key(house: House, link: str) -> None:
    worker = worker_of(house, Capabilities(code=CodeFormat.token()))
    flow = await worker.service.start("robert.zak")
    error = await refused(worker.service.verify(flow.id, link), CodeRejected)
    assert (error.sent, error.reasons[0].code, error.flow) == (False, "whole_link", flow)
    assert "key in the link" in str(error)
    assert (await worker.service.verify(flow.id, "1-cq2")).state is State.TOKEN_ISSUED


# Lifetimes


async def test_lifetimes_are_the_providers_where_the_policy_leaves_them_open(house: House, clock: FrozenClock) -> None:
    lifetimes = Capabilities(code_lifetime=timedelta(minutes=3), token_lifetime=timedelta(minutes=5))
    for policy, codes, tokens in (
        (Policy(), 3, 5),
        (Policy(code_lifetime=timedelta(minutes=9), token_lifetime=timedelta(minutes=1)), 9, 1),
    ):
        worker = worker_of(house, lifetimes, policy)
        flow = await worker.service.start("robert.zak")
        clock.advance(timedelta(minutes=codes, seconds=-1))
        # A worker of another mind judges the flow by what it was started with.
        other = worker_of(house, Capabilities(code_lifetime=timedelta(days=1)))
        taken = await other.service.verify(flow.id, "004158")
        assert taken.expires_at == clock() + timedelta(minutes=tokens)
        flow = await worker.service.start("robert.zak")
        clock.advance(timedelta(minutes=codes))
        error = await refused(other.service.verify(flow.id, "004158"), CodeRejected)
        assert error.reasons[0].code == "too_old"


# What is kept for the transport


async def test_both_sendings_of_one_intent_are_one_attempt_and_no_other_command_is(
    house: House, clock: FrozenClock
) -> None:
    worker = worker_of(house, Capabilities())
    flow = await worker.service.start("robert.zak")
    clock.advance(timedelta(minutes=2))
    await worker.service.resend(flow.id)
    worker.transport.script(
        exchange=[Unknown(), Rejected(), Rejected()], update=[Unknown(), Unknown()], log_in=[Rejected()]
    )
    await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    await refused(worker.service.verify(flow.id, "004158"), CodeRejected)
    await worker.service.verify(flow.id, "004158")
    await refused(worker.service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
    await worker.service.set_password(flow.id, PASSWORD)
    attempts = {
        name: [call.case.attempt for call in worker.transport.calls_of(name)]
        for name in ("request", "exchange", "update")
    }
    first, again, second, third = attempts["exchange"]
    assert first == again
    sending, repeated, later = attempts["update"]
    assert sending == repeated
    distinct = {*attempts["request"], first, second, third, sending, later}
    assert len(distinct) == 2 + 3 + 2
    assert all(len(attempt) == 16 for attempt in distinct)
    for name in ("challenge", "log_in"):
        assert {call.case.attempt for call in worker.transport.calls_of(name)} == {""}


async def test_a_repeat_after_a_crash_is_the_same_attempt(house: House, at: At) -> None:
    first, second = house.worker(), house.worker()
    flow = await at(first, State.QUESTION_ANSWERED)
    held = first.transport.hold("exchange")
    task = asyncio.create_task(first.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    await first.dies()
    await asyncio.gather(task, return_exceptions=True)
    house.lease_runs_out()
    await second.service.sweep()
    assert first.transport.calls[-1].case.attempt == second.transport.calls[-1].case.attempt


async def test_whatever_an_outcome_brings_is_kept_for_the_next_call(house: House, clock: FrozenClock) -> None:
    worker = worker_of(house, Capabilities())
    worker.transport.script(
        request=[Accepted(continuation=b"1"), NotActed(continuation=b"2"), Unknown(continuation=b"3")],
        exchange=[Unknown(continuation=b"4"), Rejected(continuation=b"5"), Accepted(value=Secret("t"))],
        update=[Rejected(continuation=b"6"), Unknown(continuation=b"7"), Unknown(continuation=b"8")],
        log_in=[Rejected()],
    )
    flow = await worker.service.start("robert.zak")
    for _ in range(2):
        clock.advance(timedelta(minutes=2))
        with suppress(BrokerUnavailable):
            await worker.service.resend(flow.id)
    await refused(worker.service.verify(flow.id, "004158"), OutcomeInDoubt)
    await worker.service.verify(flow.id, "004158")
    for _ in range(2):
        await refused(worker.service.set_password(flow.id, PASSWORD), ResetFlowError)
    await worker.service.set_password(flow.id, PASSWORD)
    kept = [call.case.continuation for call in worker.transport.calls if call.name not in ("challenge", "log_in")]
    assert kept == [None, b"1", b"2", b"3", b"4", b"5", b"5", b"6", b"7", b"8"]


# Where a code went


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("alike", [True, False])
async def test_where_a_code_went_is_told_where_that_tells_nobody_who_is_known(
    *, house: House, masks: bool, alike: bool
) -> None:
    worker = worker_of(house, Capabilities(answers_alike=alike), Policy(mask_unknown_users=masks))
    worker.transport.script(request=[Accepted(sent_to="r***@e***")])
    flow = await worker.service.start("robert.zak")
    assert flow.sent_to == (None if masks and not alike else "r***@e***")
    assert flow.public()["sent_to"] == flow.sent_to
    assert (await worker.service.get(flow.id)).sent_to == flow.sent_to


# A transport of somebody else's


class Odd(ScriptedTransport):
    """A transport whose attributes are as a test has them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": 5},
        {"name": ""},
        {"name": "a\x00b"},
        {"aliases": "old"},
        {"aliases": [5]},
        {"deadline": 5},
        {"deadline": None},
        {"deadline": timedelta(0)},
        {"deadline": timedelta(seconds=-1)},
        {"deadline": timedelta(hours=1)},
        {"capabilities": None},
        {"capabilities": {"verifies_code": False}},
        *({method: None} for method in ("canonical_user", "request", "exchange", "log_in", "probe", "aclose")),
    ],
    ids=str,
)
def test_a_transport_that_is_none_makes_no_service(house: House, attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(attributes))):
        house.worker(Odd(**attributes))


@pytest.mark.parametrize(
    ("method", "can"), [("exchange", Capabilities(verifies_code=False)), ("probe", Capabilities(probes=False))]
)
def test_a_method_that_is_never_called_may_be_missing(house: House, method: str, can: Capabilities) -> None:
    worker = house.worker(Odd(**{method: None}, capabilities=can))
    assert getattr(worker.transport, method) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "digits"},
        {"verifies_code": "no"},
        {"credentials": ["password", "fingerprint"]},
        {"credentials": "password"},
        {"credentials": []},
        {"code_lifetime": 600},
        {"token_lifetime": timedelta(0)},
        {"answers_alike": 1},
    ],
    ids=str,
)
def test_capabilities_of_the_wrong_kind_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Capabilities(**wrong)
    assert Capabilities(credentials=["password"]).credentials == {Credential.PASSWORD}


@pytest.mark.parametrize("given", [("words", 6), ("digits", -1), ("digits", 65), ("digits", "6"), (None, 6)], ids=str)
def test_a_format_of_codes_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"kind|length"):
        CodeFormat(*given)


class Strange(Exception):
    """What no transport may raise."""


@pytest.mark.parametrize("canonical", [Strange("robert.zak"), None, 5, b"robert.zak", "", "\ud800"], ids=repr)
async def test_a_transport_that_can_not_tell_users_apart_is_an_error_of_ours(
    house: House, monkeypatch: pytest.MonkeyPatch, canonical: Any
) -> None:
    def canonical_user(_: str) -> Any:
        if isinstance(canonical, Exception):
            raise canonical
        return canonical

    worker = house.worker()
    monkeypatch.setattr(worker.transport, "canonical_user", canonical_user)
    for call in (worker.service.start("robert.zak"), worker.service.adopt("robert.zak", "a token")):
        error = await refused(call, BrokerProtocolError)
        assert error.__cause__ is error.__context__ is None
        assert "robert" not in str(error)
    assert worker.transport.calls == []


class AcceptedByChance(Accepted):
    """An outcome whose fields do as they like."""

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise Strange("robert.zak")
        return super().__getattribute__(name)


ODD: list[Any] = [
    None,
    "accepted",
    Accepted,
    Accepted(value="in plain"),  # type: ignore[arg-type]
    Accepted(value=Secret("\ud800")),
    Accepted(value=Secret("t"), continuation="text"),  # type: ignore[arg-type]
    Accepted(value=Secret("t"), sent_to=5),  # type: ignore[arg-type]
    Accepted(value=Secret("t" * 70_000)),
    Accepted(value=Secret("t"), continuation=bytes(10_000_000)),
    AcceptedByChance(value=Secret("t")),
    Mock(spec=Accepted),
    Rejected(about="the weather"),  # type: ignore[arg-type]
    Rejected(continuation=bytearray(b"x")),  # type: ignore[arg-type]
    NotActed(cause="because"),  # type: ignore[arg-type]
    NotActed(retry_after=5),  # type: ignore[arg-type]
    NotActed(retry_after=timedelta(seconds=-1)),
    NotActed(continuation="text"),  # type: ignore[arg-type]
    Unknown(continuation=7),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize(
    ("command", "route", "state"),
    [
        ("answer", "request", State.REQUESTED),
        ("verify", "exchange", State.QUESTION_ANSWERED),
        ("set_password", "update", State.TOKEN_ISSUED),
    ],
)
async def test_what_is_no_outcome_of_a_known_type_leaves_a_doubt_and_no_more(
    *, house: House, at: At, command: str, route: str, state: State, odd: Any
) -> None:
    async def give(_: ScriptedCall) -> Outcome:
        return odd  # type: ignore[no-any-return]

    worker = house.worker()
    flow = await at(worker, state)
    worker.transport.script(**{route: [give, give], "log_in": [give]})
    given = {"answer": "Peterson", "verify": "004158", "set_password": PASSWORD}[command]
    call = getattr(worker.service, command)(flow.id, given)
    if command == "answer":
        await call
    else:
        await refused(call, OutcomeInDoubt)
    flow = await worker.service.get(flow.id)
    assert (flow.in_doubt is not None, flow.busy_until) == (True, None)


async def test_causes_steps_and_single_reasons_may_be_plain_texts(house: House) -> None:
    worker = worker_of(house, Capabilities(verifies_code=False), Policy(mask_unknown_users=False))
    flow = await worker.service.start("robert.zak")
    flow = await worker.service.verify(flow.id, "004158")
    worker.transport.script(
        update=[
            NotActed(cause="forbidden"),  # type: ignore[arg-type] # what it is about
            Rejected(reasons="too weak"),
            Rejected(reasons={"no such code"}, about="code"),  # type: ignore[arg-type] # what it is about
        ]
    )
    await refused(worker.service.set_password(flow.id, PASSWORD), AppKeyRejected)
    weak = await refused(worker.service.set_password(flow.id, PASSWORD), PasswordRejected)
    assert [str(reason) for reason in weak.reasons] == ["too weak"]
    wrong = await refused(worker.service.set_password(flow.id, PASSWORD), CodeRejected)
    assert [str(reason) for reason in wrong.reasons] == ["no such code"]


async def test_nobody_is_asked_to_wait_for_more_than_a_day(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    for asked, told in ((timedelta.max, timedelta(days=1)), (timedelta(hours=2), timedelta(hours=2))):
        worker.transport.script(request=[NotActed(cause=Cause.THROTTLED, retry_after=asked)])
        assert (await refused(worker.service.answer(flow.id, "Peterson"), BrokerUnavailable)).retry_after == told


async def test_a_transport_that_can_not_be_closed_keeps_nobody(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise Strange("robert.zak")

    async def hangs() -> None:
        await asyncio.Event().wait()

    for aclose, told, deadline in ((fails, "Strange", 20), (hangs, "TimeoutError", 0.02)):
        caplog.clear()
        worker = house.worker(ScriptedTransport(deadline=timedelta(seconds=deadline)))
        monkeypatch.setattr(worker.transport, "aclose", aclose)
        await worker.service.aclose()
        assert caplog.messages == [f"the transport could not be closed: {told}"]
        await refused(worker.service.start("robert.zak"), StoreUnavailable)


# What was sent comes back in nothing


SAID = "it was {0} who typed {0}, and {1} with it"


@pytest.mark.parametrize(
    "spell",
    [
        str,
        str.upper,
        lambda text: text.replace(" ", "%20"),
        lambda text: text.replace(" ", "  "),
        "-".join,
        lambda text: quote_plus(quote_plus(text)),
        lambda text: text.encode().hex(),
        lambda text: b64encode(text.encode()).decode(),
    ],
    ids=["plain", "capitals", "URL", "spaces", "dashes", "form in a form", "hex", "base64"],
)
async def test_nothing_that_was_sent_comes_back_whoever_wrote_the_transport(house: House, spell: Any) -> None:
    user, code = "robert.zak", "00415812"
    worker = worker_of(
        house, Capabilities(code=CodeFormat.digits(8), verifies_code=False), Policy(mask_unknown_users=False)
    )
    worker.transport.script(
        request=[Accepted(sent_to=spell(user), continuation=b"a session of ours")],
        update=[
            Rejected(
                reasons=[
                    spell(SAID.format(user, code)),
                    spell(f"no {PASSWORD}"),
                    spell("a session of ours"),
                    "too weak",
                ]
            ),
            NotActed(detail=spell(f"PUT {PASSWORD}: refused")),
            Unknown(detail=spell(code)),
            Strange(spell(PASSWORD)),
        ],
        log_in=[Rejected(reasons=[PASSWORD])],
    )
    flow = await worker.service.start(user)
    assert flow.sent_to is None
    await worker.service.verify(flow.id, code)
    for _ in range(3):
        error = await refused(worker.service.set_password(flow.id, PASSWORD), ResetFlowError)
        said = " ".join([str(error), repr(error), *map(str, getattr(error, "reasons", ()))])
        for secret in (user, code, PASSWORD, "session of ours"):
            assert secret not in " ".join(said.lower().replace("%20", " ").split())
            assert spell(secret) not in said
    assert isinstance(error, OutcomeInDoubt)
    assert len(worker.transport.calls_of("update")) == 4
    await worker.service.cancel(flow.id)


async def test_a_reason_that_repeats_nothing_is_told(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.TOKEN_ISSUED)
    told = ["Use 3+ kinds: a-z, 0-9 & \\u0021.", "100%25 too weak", "see aHR0cDovL2hlbHA", "x" * 200]
    worker.transport.script(update=[Rejected(reasons=told)])
    error = await refused(worker.service.set_password(flow.id, PASSWORD), PasswordRejected)
    assert [str(reason) for reason in error.reasons] == told


async def test_what_comes_with_a_pin_does_not_come_back(house: House) -> None:
    worker = house.worker()
    flow = await worker.service.adopt("robert.zak", "a token", credential=Credential.PIN)
    phrase, bearer = "a phrase of mine", "bearer-token-1"
    worker.transport.script(update=[Rejected(reasons=[f"no {phrase}", f"no {bearer}", "no such image"])])
    error = await refused(
        worker.service.set_pin(flow.id, "8642", personal_phrase=phrase, authorization=bearer), ResetFlowError
    )
    assert [str(reason) for reason in getattr(error, "reasons", ())] == ["no such image"]
    (update,) = worker.transport.calls_of("update")
    assert update.given.details == {"personal_phrase": Secret(phrase), "authorization": Secret(bearer)}  # type: ignore[union-attr]


async def test_a_question_shows_no_login_and_can_still_be_read(house: House) -> None:
    worker = house.worker()
    worker.transport.script(challenge=[Accepted(value=Secret("Dear  Robert.Zak, what is\nROBERT.ZAK's pet?"))])
    flow = await worker.service.start("robert.zak")
    assert flow.question == "Dear *** what is *** pet?"

"""Each error that the library raises, as it is printed with the variables of all frames, shows nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from msgspec.structs import replace

from reset_flow import (
    AnswerRejected,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    CommandRequest,
    CommandVetoed,
    ConfigurationError,
    Credential,
    EtnaTransport,
    FlowBusy,
    FlowEnded,
    FlowNotFound,
    HeldElsewhere,
    IllegalCommand,
    InvalidInput,
    KeyReused,
    Keyring,
    KeyringError,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    Policy,
    RecordUnreadable,
    ResetFlowError,
    ResetService,
    SQLiteStore,
    StaleRecord,
    State,
    StoreUnavailable,
    UnknownUser,
    WrongBroker,
)
from reset_flow.domain import errors
from reset_flow.persistence.key_file import Key
from reset_flow.testing import traceback_of
from reset_flow.testing.records import next_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.leaks.conftest import Raised, Scene

    Act: TypeAlias = Callable[[Scene], Awaitable[object]]

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

TESTS = Path(__file__).parents[1]
NEVER_RAISED = {"BrokerError", "InputRejected", "ResetFlowError", "StoreError"}
"""Names for kinds of errors; nothing raises them themselves."""

SCENES: list[tuple[type[ResetFlowError], Act]] = []


def provokes(kind: type[ResetFlowError]) -> Callable[[Act], Act]:
    def note(act: Act) -> Act:
        SCENES.append((kind, act))
        return act

    return note


@provokes(FlowNotFound)
async def _(scene: Scene) -> None:
    await scene.service.answer("nobody", scene.secret("answer"))


@provokes(FlowEnded)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    await scene.service.cancel(flow.id)
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(IllegalCommand)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(FlowBusy)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    scene.sandbox.fault("update", "latency", seconds=3600)
    first = asyncio.create_task(scene.service.set_password(flow.id, scene.secret("password")))
    await scene.sandbox.wait_for_calls("update")
    try:
        await scene.service.set_password(flow.id, scene.secret("password"))
    finally:
        scene.sandbox.release()
        await first


@provokes(KeyReused)
async def _(scene: Scene) -> None:
    await scene.service.start("somebody else", ref="r")
    await scene.service.start(scene.secret("login"), ref="r")


@provokes(KeyReused)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.REQUESTED)
    await scene.service.answer(flow.id, scene.secret("answer"), key="k")
    await scene.service.verify(flow.id, scene.code(), key="k")


@provokes(CommandVetoed)
async def _(scene: Scene) -> None:
    async def guard(request: CommandRequest) -> None:
        raise CommandVetoed(f"no {request.command} today")

    flow = await scene.at(State.TOKEN_ISSUED)
    async with scene.another(guards=[guard]) as service:
        await service.set_password(flow.id, scene.secret("password"))


@provokes(HeldElsewhere)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)
    await scene.service.verify(flow.id, scene.code(), holder=scene.secret("login"))
    await scene.service.set_password(flow.id, scene.secret("password"), holder=scene.secret("answer"))


@provokes(LimitReached)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)
    for _ in range(9):
        await scene.service.resend(flow.id)


@provokes(LimitReached)
async def _(scene: Scene) -> None:
    for _ in range(9):
        await scene.service.start(scene.secret("login"), origin=scene.secret("origin"))


@provokes(LimitReached)
async def _(scene: Scene) -> None:
    wrong = "104729"
    for _ in range(9):
        flow = await scene.at(State.QUESTION_ANSWERED)
        for _ in range(3):
            with suppress(CodeRejected):
                await scene.service.verify(flow.id, wrong)


@provokes(UnknownUser)
async def _(scene: Scene) -> None:
    async with scene.another(policy=Policy(mask_unknown_users=False)) as service:
        scene.sandbox.settings.email_as_user = False
        await service.start(scene.secret("login").upper())


@provokes(AnswerRejected)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.REQUESTED)
    await scene.service.answer(flow.id, scene.secret("wrong answer"))


@provokes(AnswerRejected)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.REQUESTED)
    await scene.service.answer(flow.id, scene.secret("answer") + "\0")


@provokes(CodeRejected)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)
    await scene.service.verify(flow.id, scene.secret("odd code"))


@provokes(PasswordRejected)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    await scene.service.set_password(flow.id, scene.secret("password") * 100)


@provokes(PasswordRejected)
async def _(scene: Scene) -> None:
    # A broker that repeats what it was sent.
    flow = await scene.at(State.TOKEN_ISSUED)
    words = f"{scene.secret('password')} of {scene.secret('login')}: {scene.secret('password').upper()}"
    body = f'{{"IsSucceed": false, "Errors": [{json_of(words)}]}}'
    scene.sandbox.fault("update", "raw", body=body, times=3)
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(BrokerUnavailable)
async def _(scene: Scene) -> None:
    await scene.sandbox.aclose()
    await scene.service.start(scene.secret("login"))


@provokes(BrokerUnavailable)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    await scene.sandbox.aclose()
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(OutcomeInDoubt)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    scene.sandbox.fault("*", "reset", times=9)
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(OutcomeInDoubt)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)
    scene.sandbox.fault("exchange", "cut_after", times=9)
    await scene.service.verify(flow.id, scene.code())


@provokes(OutcomeInDoubt)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    scene.sandbox.fault("update", "hang_before")
    first = asyncio.create_task(scene.service.set_password(flow.id, scene.secret("password")))
    await scene.sandbox.wait_for_calls("update")
    await scene.service.aclose(timedelta(0))
    await first


@provokes(BrokerProtocolError)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    scene.sandbox.fault("update", "raw", status=404, body=f"<h1>{scene.secret('password')}</h1>")
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(AppKeyRejected)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    scene.sandbox.settings.app_key = "another"
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(WrongBroker)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    async with scene.another(name="another broker") as service:
        await service.set_password(flow.id, scene.secret("password"))


@provokes(StoreUnavailable)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    await scene.store.aclose()
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(StoreUnavailable)
async def _(scene: Scene) -> None:
    await scene.store.aclose()
    await scene.service.start(scene.secret("login"), ref=scene.secret("ref"))


@provokes(StaleRecord)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.QUESTION_ANSWERED)

    async def somebody_is_faster(request: CommandRequest) -> None:
        assert request.command == "verify"
        repository = scene.repository
        await repository.save(repository.record((await repository.load(flow.id)).flow))

    async with scene.another(guards=[somebody_is_faster]) as service:
        await service.verify(flow.id, scene.code())


@provokes(RecordUnreadable)
async def _(scene: Scene) -> None:
    flow = await scene.at(State.TOKEN_ISSUED)
    record = await scene.store.load(flow.id)
    spoilt = next_version(record, body=record.body[:-1] + b"\0")
    await scene.store.save(spoilt)
    await scene.service.set_password(flow.id, scene.secret("password"))


@provokes(RecordUnreadable)
async def _(scene: Scene) -> None:
    # It can be opened, and what is in it is no data.
    flow = await scene.at(State.TOKEN_ISSUED)
    repository = scene.repository
    record = repository.record((await repository.load(flow.id)).flow)
    from reset_flow.persistence.repository import associated_data  # noqa: PLC0415 - for this one alone

    text = f'{{"user": "{scene.secret("login")}", "token": 5'.encode()
    record = replace(record, body=scene.keyring.seal("default", flow.id, text, associated_data(record)))
    await scene.store.save(record)
    await scene.service.get(flow.id)


@provokes(KeyringError)
async def _(scene: Scene) -> None:
    await scene.service.aclose()
    (scene.path / "keys").chmod(0o644)
    Keyring.from_file(scene.path / "keys")


@provokes(KeyringError)
async def _(scene: Scene) -> None:
    path = scene.path / "broken"
    path.touch(0o600)
    text = (scene.path / "keys").read_text()
    path.write_text(text.replace('"seal"', '"sealing"'))
    Keyring.from_file(path)


@provokes(KeyringError)
async def _(scene: Scene) -> None:
    key = scene.keyring.writes
    longer = Key(id=key.id, created_at=key.created_at, secret=key.secret + b"more")
    Keyring((longer,), (key,))


@provokes(KeyringError)
async def _(scene: Scene) -> None:
    key = scene.keyring.writes
    Keyring((key, key), (key,))


@provokes(KeyringError)
async def _(scene: Scene) -> None:
    scene.keyring.without(scene.keyring.writes.id)


@provokes(ConfigurationError)
async def _(scene: Scene) -> None:
    transport = EtnaTransport(scene.sandbox.api_url, scene.secret("app key"), deadline=timedelta(hours=1))
    ResetService(transport, SQLiteStore(scene.path / "x"), scene.keyring)


@provokes(ConfigurationError)
async def _(scene: Scene) -> None:
    EtnaTransport(scene.sandbox.api_url, scene.secret("app key"), pin_method="STEAL")


@provokes(ConfigurationError)
async def _(scene: Scene) -> None:
    EtnaTransport(scene.sandbox.api_url, scene.secret("app key") + "\n")


@provokes(InvalidInput)
async def _(scene: Scene) -> None:
    await scene.service.start(scene.secret("login") + "\0")


@provokes(InvalidInput)
async def _(scene: Scene) -> None:
    await scene.service.start(scene.secret("login"), tags=[5])  # type: ignore[list-item] # what it is about


@provokes(InvalidInput)
async def _(scene: Scene) -> None:
    await scene.service.adopt(scene.secret("login"), scene.secret("password") + "\ud800")


@provokes(InvalidInput)
async def _(scene: Scene) -> None:
    flow = await scene.service.adopt(scene.secret("login"), "a token", credential=Credential.PIN)
    bad: dict[str, Any] = {
        "image_name": "x",
        "personal_phrase": scene.secret("phrase"),
        "authorization": scene.secret("password") + "\0",
    }
    await scene.service.set_pin(flow.id, scene.secret("pin"), **bad)


def json_of(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("number", range(len(SCENES)), ids=lambda number: f"{SCENES[number][0].__name__}-{number}")
async def test_an_error_shows_nothing(scene: Scene, raised: Raised, number: int) -> None:
    kind, act = SCENES[number]
    error = await raised(act(scene))
    assert type(error) is kind, error
    assert "reset_flow/" in traceback_of(error, callers=[TESTS]), "no frame of the library was looked at"
    await scene.looked_at(error)


@pytest.mark.usefixtures("store_url")
def test_each_error_has_a_scene() -> None:
    raised = {kind.__name__ for kind, _ in SCENES}
    tree = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    assert raised == tree - NEVER_RAISED
    text = "".join(path.read_text() for path in Path(errors.__file__).parent.rglob("*.py"))
    assert not any(f"raise {name}(" in text for name in NEVER_RAISED)

"""What can be printed shows no login, no question and no secret; nor does what is logged, kept or raised."""

from __future__ import annotations

import asyncio
import json
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from msgspec import Struct

import reset_flow
from reset_flow import MemoryStore, ResetService
from reset_flow.admin import Admin
from reset_flow.domain.errors import FlowEnded, ResetFlowError, StoreUnavailable
from reset_flow.domain.flow import Event, NewCredential, State
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.outcomes import Accepted, NotActed, Rejected, Unknown
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.ports import Case
from reset_flow.testing import LeakScanner, ScriptedTransport, refused, shown_by, shown_by_error, traceback_of
from reset_flow.testing.transport import ScriptedCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from reset_flow.ports import Query, Record, Use, UseName
    from reset_flow.testing.transport import Part
    from tests.service.conftest import House, ScriptedWorker

LOGIN, QUESTION = "zygmunt.login@autoshares.com", "What was the name of your lemming?"
ANSWER, CODE, TOKEN = "lemming Zdzisław", "904158", "t0k3n-of-nobody-else"
PASSWORD, PHRASE, BEARER = "unlikely violet tractor", "phrase of nobody", "bearer-of-nobody"
SECRETS = (LOGIN, QUESTION, ANSWER, CODE, TOKEN, PASSWORD, PHRASE, BEARER)


SCANNER = LeakScanner({secret: secret for secret in SECRETS})
TESTS = Path(__file__).parents[1]


def shown(*places: str | bytes) -> list[str]:
    return sorted({leak.name for leak in SCANNER.find(*places)})


@pytest.fixture
def worker(house: House) -> ScriptedWorker:
    transport = ScriptedTransport()
    transport.script(challenge=[Accepted(value=Secret(QUESTION))] * 9, exchange=[Accepted(value=Secret(TOKEN))] * 2)
    return house.worker(transport, policy=Policy(resend_cooldown=timedelta(0)))


async def test_a_flow_shows_neither_user_nor_question(worker: ScriptedWorker) -> None:
    service = worker.service
    flow = await service.start(LOGIN, tags=["a tag"], ref="a ref")
    flows = [flow]
    for command, given in (("answer", ANSWER), ("verify", CODE), ("set_password", PASSWORD)):
        flows.append(await getattr(service, command)(flow.id, given))
    for each in flows:
        event = Event(id=f"{each.id}.0", flow=each, transition=flows[-1].history[0])
        for value in (each, event, [each], {"flow": each}):
            assert shown(shown_by(value)) == []
        document = json.dumps(each.public())
        assert shown(document) == [QUESTION]
        assert "history" not in each.public()
        assert json.loads(document)["question"] == QUESTION
    assert flow.user == LOGIN


async def test_what_the_parts_are_made_of_shows_nothing(house: House, worker: ScriptedWorker) -> None:
    flow = await worker.service.start(LOGIN)
    await worker.service.answer(flow.id, ANSWER)
    worker.transport.unscript("exchange")
    held = worker.transport.hold("exchange", Accepted(value=Secret(TOKEN)))
    task = asyncio.create_task(worker.service.verify(flow.id, CODE, key="k"))
    await held.arrived.wait()
    data = (await house.repository().load(flow.id)).flow
    assert isinstance(data, FlowData)
    assert data.intent is not None
    held.released.set()
    await task
    new = NewCredential(
        secret=Secret(PASSWORD), details={"personal_phrase": Secret(PHRASE), "authorization": Secret(BEARER)}
    )
    case = Case(user=LOGIN, continuation=TOKEN.encode())
    things = [
        data,
        data.intent,
        (await house.repository().load(flow.id)).flow,
        case,
        new,
        Secret(PASSWORD),
        Accepted(value=Secret(TOKEN), continuation=TOKEN.encode()),
        ScriptedCall(name="update", case=case, given=new, token=Secret(TOKEN)),
        worker.transport,
        worker.transport.calls,
        worker.service,
        worker.store.saves,
    ]
    for thing in things:
        assert shown(shown_by(thing)) == []
    assert shown("".join(repr(call) for call in worker.transport.calls)) == []


async def test_what_is_stored_shows_nothing(worker: ScriptedWorker) -> None:
    flow = await worker.service.start(LOGIN, tags=["tag of nobody"], ref="ref of nobody")
    for command, given in (("answer", ANSWER), ("verify", CODE), ("set_password", PASSWORD)):
        await getattr(worker.service, command)(flow.id, given, key=f"key of nobody {command}")
    names = LeakScanner({name: name for name in ("tag of nobody", "ref of nobody", "key of nobody")})
    for record in worker.store.saves:
        text = b"".join([record.body, *record.lookups, record.write_id, record.id.encode(), record.state.encode()])
        assert shown(text) == []
        assert names.find(text) == []


async def test_no_error_shows_anything(worker: ScriptedWorker, caplog: pytest.LogCaptureFixture) -> None:
    service, transport = worker.service, worker.transport
    errors: list[BaseException] = []

    async def collect(work: Awaitable[object]) -> None:
        try:
            await work
        except ResetFlowError as error:
            errors.append(error)

    loud = RuntimeError(" ".join(SECRETS))
    outcomes: list[Part] = [Rejected(reasons=["no"]), NotActed(), Unknown(), loud]
    for outcome in outcomes:
        flow = await service.start(LOGIN)
        transport.script(request=[outcome])
        await collect(service.answer(flow.id, ANSWER))
        if (await service.get(flow.id)).state is State.REQUESTED:
            await service.answer(flow.id, ANSWER)
        transport.script(request=[outcome])
        await collect(service.resend(flow.id))
        if (await service.get(flow.id)).state is State.REQUESTED:
            await service.answer(flow.id, ANSWER)
        transport.unscript("exchange")
        transport.script(exchange=[outcome] * 2)
        await collect(service.verify(flow.id, CODE))
        transport.unscript("exchange")
        transport.script(exchange=[Accepted(value=Secret(TOKEN))])
        flow = await service.get(flow.id)
        if flow.state is not State.TOKEN_ISSUED:
            await service.verify(flow.id, CODE)
        transport.script(update=[outcome] * 2, log_in=[NotActed()])
        await collect(service.set_password(flow.id, PASSWORD))
        await service.cancel(flow.id)
        await collect(service.set_password(flow.id, PASSWORD))
        transport.unscript("update")
        transport.unscript("log_in")
    for command, given in (("answer", ANSWER * 100), ("verify", CODE * 2), ("set_password", PASSWORD + "\x00")):
        await collect(getattr(service, command)(flow.id, given))
        await collect(getattr(service, command)("unknown", given))
    await collect(service.start(LOGIN + "\n"))
    await collect(service.adopt(LOGIN, TOKEN + "\ud800"))
    assert len(errors) >= 15
    assert any(isinstance(error, FlowEnded) for error in errors)
    for error in errors:
        assert shown(shown_by_error(error, callers=[TESTS])) == []
        if error.__cause__ is None:
            assert error.__context__ is None or error.__suppress_context__
        printed = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
        assert "RuntimeError" not in printed
    assert shown(caplog.text) == []


async def test_no_frame_of_ours_shows_a_secret(worker: ScriptedWorker) -> None:
    service, transport = worker.service, worker.transport
    flow = await service.start(LOGIN)
    transport.script(request=[Rejected(reasons=["no"])])
    errors = [await refused(service.answer(flow.id, ANSWER), ResetFlowError)]
    await service.answer(flow.id, ANSWER)
    transport.unscript("exchange")
    transport.script(exchange=[Rejected(reasons=["no"]), Accepted(value=Secret(TOKEN))], update=[Rejected()])
    errors.append(await refused(service.verify(flow.id, CODE), ResetFlowError))
    await service.verify(flow.id, CODE)
    errors.append(await refused(service.set_password(flow.id, PASSWORD), ResetFlowError))
    for error in errors:
        printed = traceback_of(error, callers=[TESTS])
        assert "reset_flow/engine/commands.py" in printed
        assert shown(printed) == []


def test_every_public_value_has_a_repr_that_was_thought_of() -> None:
    sensitive = {"user", "question", "body", "write_id", "history", "continuation", "key", "token", "answer"}
    seen = set()
    for name in reset_flow.__all__:
        each = getattr(reset_flow, name)
        if name in ("Use", "UseName", "Event") or not isinstance(each, type):
            continue
        if issubclass(each, Struct):
            shown = set(each.__struct_fields__) - getattr(each, "hidden", frozenset())
        elif attrs.has(each):
            shown = {field.name for field in attrs.fields(each) if field.repr}
        else:
            continue
        seen.add(name)
        assert not shown & sensitive, name
    assert {"Case", "Flow", "Record"} <= seen


class Connected(MemoryStore):
    """A store of somebody else's, whose driver has a password in its frames; calls of these names fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: tuple[str, ...] = ()

    def asked(self, name: str) -> None:
        def connect() -> None:
            hidden = PASSWORD
            raise ConnectionError(f"refused to a caller with {len(hidden)} letters")

        if name in self.failing:
            try:
                connect()
            except ConnectionError as error:
                raise StoreUnavailable("it can't be reached") from error

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        self.asked("save")
        await super().save(record, add=add, drop=drop)

    async def load(self, flow_id: str) -> Record:
        self.asked("load")
        return await super().load(flow_id)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        self.asked("scan")
        async for record in super().scan(query, limit=limit):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        self.asked("changed")
        await super().changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        self.asked("purge")
        return await super().purge(realm, before, limit)


async def test_no_error_of_a_store_shows_the_frames_of_its_driver(house: House) -> None:
    store = Connected()
    service = ResetService(ScriptedTransport(), store, house.keyring, sweep=False)
    admin, side = Admin(store, house.keyring), service.side("links")
    flow = await service.start("robert.zak", tags=["a tag"])
    calls: dict[str, list[Callable[[], Awaitable[object]]]] = {
        "save": [
            lambda: service.start("robert.zak"),
            lambda: side.save("name", b"", revision=b"", lifetime=timedelta(hours=1)),
            lambda: admin.lift("robert.zak"),
        ],
        "load": [lambda: service.get(flow.id), lambda: admin.get(flow.id), lambda: side.load("name")],
        "scan": [lambda: service.find("a tag"), service.sweep, service.reseal, admin.sealed_with],
        "changed": [lambda: service.wait(flow.id)],
        "purge": [service.sweep, lambda: admin.purge(timedelta(0)), lambda: admin.erase("nobody")],
    }
    for name, each in calls.items():
        store.failing = (name,)
        for call in each:
            error = await refused(call(), StoreUnavailable)
            assert isinstance(error.__cause__, ConnectionError), "its words are worth something"
            assert shown(shown_by_error(error)) == []
    store.failing = ()
    assert (await service.get(flow.id)).allowed

"""What takes work off those who embed the library: patience, one command for every step, flows by their ref."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from reset_flow import (
    CodeRejected,
    Credential,
    FlowBusy,
    FlowEnded,
    FlowNotFound,
    InvalidInput,
    KeyReused,
    PublicFlow,
    ResetService,
    State,
    Step,
    StoreUnavailable,
)
from reset_flow.domain.outcomes import Accepted, Rejected, Unknown
from reset_flow.testing import refused

if TYPE_CHECKING:
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, Until

ALL_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "redis"])
PATIENT = timedelta(seconds=60)


# Patience


@ALL_STORES
async def test_a_patient_command_comes_when_the_other_has_ended(house: House, at: At, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    verifying = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    await refused(other.service.cancel(flow.id), FlowBusy)
    cancelling = asyncio.create_task(other.service.cancel(flow.id, patience=PATIENT))
    await until(lambda: bool(other.store.awaited))
    held.released.set()
    assert (await verifying).state is State.TOKEN_ISSUED
    assert (await cancelling).state is State.FAILED


async def test_patience_ends(house: House, at: At) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    verifying = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    error = await refused(other.service.cancel(flow.id, patience=timedelta(milliseconds=100)), FlowBusy)
    assert error.flow
    assert error.flow.busy_until
    assert list(other.store.awaited) == [error.flow.version], "it has waited"
    held.released.set()
    await verifying


async def test_a_start_with_a_ref_that_is_busy_is_patient_too(house: House, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    held = worker.transport.hold("request")
    worker.transport.script(challenge=[Accepted()])
    starting = asyncio.create_task(worker.service.start("robert.zak", ref="ticket-4711"))
    await held.arrived.wait()
    await refused(other.service.start("robert.zak", ref="ticket-4711"), FlowBusy)
    again = asyncio.create_task(other.service.start("robert.zak", ref="ticket-4711", patience=PATIENT))
    await until(lambda: bool(other.store.awaited))
    assert not again.done()
    held.released.set()
    assert await again == await starting
    assert other.transport.calls == []


async def test_a_store_that_goes_away_ends_the_patience(house: House, at: At, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    verifying = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    cancelling = asyncio.create_task(other.service.cancel(flow.id, patience=PATIENT))
    await until(lambda: bool(other.store.awaited))
    other.store.down = True
    held.released.set()
    await verifying
    await refused(cancelling, StoreUnavailable)


@pytest.mark.parametrize("patience", [-1, 5, None, timedelta(seconds=-1), timedelta.max, "1"])
async def test_patience_that_can_be_none_is_refused(house: House, at: At, patience: object) -> None:
    worker = house.worker()
    flow = await at(worker, State.REQUESTED)
    await refused(worker.service.cancel(flow.id, patience=cast("timedelta", patience)), InvalidInput)
    await refused(worker.service.start("maria", patience=cast("timedelta", patience)), InvalidInput)
    assert (await worker.service.get(flow.id)).state is State.REQUESTED


# Submit


@pytest.mark.parametrize("credential", Credential)
async def test_what_is_expected_is_submitted_step_by_step(house: House, credential: Credential) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak", credential=credential)
    last = "violet tractor 5" if credential is Credential.PASSWORD else "471108"
    seen = []
    for text in ("Peterson", "004158", last):
        assert flow.expects
        seen.append(flow.expects.command)
        flow = await worker.service.submit(flow.id, text)
    assert flow.state is State.PASSWORD_SET
    assert seen == ["answer", "verify", f"set_{credential}"]
    await refused(worker.service.submit(flow.id, "more"), FlowEnded)


def test_every_step_has_a_command_of_the_service() -> None:
    assert all(callable(getattr(ResetService, step.command)) for step in Step)


async def test_a_code_that_is_delivered_twice_is_no_new_pin(house: House) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak", credential=Credential.PIN)
    await worker.service.submit(flow.id, "Peterson", key="message-1")
    for _ in range(2):
        flow = await worker.service.submit(flow.id, "004158", key="message-2")
        assert flow.state is State.TOKEN_ISSUED
    assert [call.name for call in worker.transport.calls].count("update") == 0
    await refused(worker.service.verify(flow.id, "004158", key="message-1"), KeyReused)


async def test_the_key_of_a_command_that_takes_no_text_is_no_key_for_one(house: House, clock: FrozenClock) -> None:
    worker = house.worker()
    flow = await worker.service.start("robert.zak")
    await worker.service.submit(flow.id, "Peterson")
    clock.advance(timedelta(minutes=2))
    await worker.service.resend(flow.id, key="message-2")
    await refused(worker.service.submit(flow.id, "004158", key="message-2"), KeyReused)
    await worker.service.cancel(flow.id, key="message-3")
    await refused(worker.service.submit(flow.id, "004158", key="message-3"), FlowEnded)


async def test_a_message_whose_call_is_under_way_is_the_same_command(house: House, until: Until) -> None:
    worker, other = house.worker(), house.worker()
    flow = await worker.service.start("robert.zak", credential=Credential.PIN)
    await worker.service.submit(flow.id, "Peterson")
    held = worker.transport.hold("exchange")
    first = asyncio.create_task(worker.service.submit(flow.id, "004158", key="message-2"))
    await held.arrived.wait()
    second = asyncio.create_task(other.service.submit(flow.id, "004158", key="message-2", patience=PATIENT))
    await until(lambda: bool(other.store.awaited))
    held.released.set()
    assert await second == await first
    assert other.transport.calls == []


async def test_a_submitted_text_is_refused_as_its_command_would(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected()])
    await refused(worker.service.submit(flow.id, "231408"), CodeRejected)


# Flows by their ref


@ALL_STORES
async def test_a_flow_is_found_by_its_ref_and_has_it(house: House) -> None:
    worker, other = house.worker(), house.worker()
    flow = await worker.service.start("robert.zak", ref="Ticket-4711", tags=["desk-3"])
    assert flow.ref == "Ticket-4711"
    assert await other.service.find(ref="Ticket-4711") == [flow]
    assert await other.service.find(ref="ticket-4712") == []
    assert await other.service.find(ref="desk-3") == await other.service.find("Ticket-4711") == []
    for record in [await worker.store.load(flow.id)]:
        assert b"4711" not in record.body
    assert "4711" not in repr(flow)
    assert "4711" not in str(flow.public())


async def test_a_search_is_by_one_name(house: House) -> None:
    service = house.worker().service
    await refused(service.find(), InvalidInput)
    await refused(service.find("tag", ref="ref"), InvalidInput)


# What may be shown


async def test_a_public_flow_has_the_fields_that_its_type_says(house: House, at: At, clock: FrozenClock) -> None:
    worker, other = house.worker(), house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    assert set(flow.public()) == set(PublicFlow.__annotations__)
    held = worker.transport.hold("exchange")
    verifying = asyncio.create_task(worker.service.verify(flow.id, "004158"))
    await held.arrived.wait()
    shown = (await other.service.get(flow.id)).public()
    assert (shown["busy_until"], shown["in_doubt"]) == ((clock() + house.lease).isoformat(), None)
    worker.transport.script(exchange=[Unknown()])
    held.released.set()
    assert (await verifying).public()["busy_until"] is None


# Ids of strangers


@pytest.mark.parametrize(
    "flow_id",
    [
        "",
        "x" * 2**20,
        "Flow",
        "a b",
        "a\n",
        "a\0",
        "ä",
        "a-b",
        "/etc/passwd",
        b"a",
        None,
        7,
        pytest.param(10**5000, id="digits"),
    ],
)
async def test_an_id_that_can_be_none_never_reaches_the_store(house: House, flow_id: object) -> None:
    worker = house.worker()
    worker.store.down = True
    service, given = worker.service, cast("str", flow_id)
    for use in (
        service.get(given),
        service.wait(given),
        service.answer(given, "Peterson"),
        service.resend(given),
        service.verify(given, "004158"),
        service.set_password(given, "violet tractor 5"),
        service.cancel(given, patience=PATIENT),
        service.submit(given, "Peterson", key="message-1"),
    ):
        error = await refused(use, FlowNotFound)
        assert len(str(error)) < 500
    assert worker.store.turned_away == 0

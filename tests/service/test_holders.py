"""A code that is taken binds the flow to who gave it; a secret of the client's names the flow that it started."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.domain.capabilities import Capabilities
from reset_flow.domain.errors import (
    CodeRejected,
    FlowBusy,
    HeldElsewhere,
    InvalidInput,
    KeyReused,
    OutcomeInDoubt,
)
from reset_flow.domain.flow import State, Step
from reset_flow.domain.outcomes import Accepted, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, ScriptedWorker

CODE, PASSWORD = "004158", "violet tractor 5"
OTHERS = pytest.mark.parametrize("other", ["browser 2", None])
BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])


async def bound(worker: ScriptedWorker, at: At) -> Flow:
    flow = await at(worker, State.QUESTION_ANSWERED)
    return await worker.service.verify(flow.id, CODE, holder="browser 1")


@BOTH_STORES
@OTHERS
async def test_who_gave_the_code_alone_sets_the_password(house: House, at: At, other: str | None) -> None:
    worker = house.worker()
    flow = await bound(worker, at)
    for service in (worker.service, house.worker().service):
        error = await refused(service.set_password(flow.id, PASSWORD, holder=other), HeldElsewhere)
        assert (error.code, error.retryable) == ("held_elsewhere", False)
        await refused(service.submit(flow.id, PASSWORD, holder=other), HeldElsewhere)
    assert worker.transport.calls_of("update") == []
    flow = await house.worker().service.set_password(flow.id, PASSWORD, holder="browser 1")
    assert flow.state is State.PASSWORD_SET


async def test_only_its_holder_sees_it_where_a_holder_looks(house: House, at: At) -> None:
    service = house.worker()
    flow = await bound(service, at)
    await refused(service.service.get(flow.id, holder="browser 2"), HeldElsewhere)
    assert await service.service.get(flow.id, holder="browser 1") == await service.service.get(flow.id) == flow


async def test_the_embedder_may_cancel_it_and_a_stranger_may_not(house: House, at: At) -> None:
    service = house.worker().service
    worker = house.worker()
    flow = await bound(worker, at)
    await refused(service.cancel(flow.id, holder="browser 2"), HeldElsewhere)
    assert (await service.cancel(flow.id)).state is State.FAILED


async def test_a_wrong_code_binds_nobody(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Rejected(), Unknown(), Unknown()])
    for error in (CodeRejected, OutcomeInDoubt):
        await refused(worker.service.verify(flow.id, CODE, holder="browser 2"), error)
    worker.transport.script(exchange=[Accepted(value=Secret("token"))])
    flow = await worker.service.verify(flow.id, CODE, holder="browser 1")
    assert flow.expects is Step.PASSWORD


async def test_no_idempotency_key_leads_around_it(house: House, at: At) -> None:
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    await worker.service.verify(flow.id, CODE, key="key", holder="browser 1")
    await refused(worker.service.verify(flow.id, CODE, key="key", holder="browser 2"), HeldElsewhere)


@pytest.mark.parametrize("gives", ["browser 1", "browser 2"])
async def test_a_code_that_is_taken_after_a_crash_binds_to_who_gave_it(house: House, at: At, gives: str) -> None:
    """Somebody else types a code while nobody knows what became of the first."""
    worker = house.worker()
    flow = await at(worker, State.QUESTION_ANSWERED)
    held = worker.transport.hold("exchange")
    task = asyncio.create_task(worker.service.verify(flow.id, CODE, holder="browser 1"))
    await held.arrived.wait()
    await worker.dies()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    other = house.worker()
    await refused(other.service.verify(flow.id, CODE, holder="browser 2"), FlowBusy)
    house.lease_runs_out()
    if gives == "browser 1":
        assert (await other.service.verify(flow.id, CODE, holder=gives)).expects is Step.PASSWORD
    else:
        await refused(other.service.verify(flow.id, CODE, holder=gives), HeldElsewhere)
    await refused(other.service.set_password(flow.id, PASSWORD, holder="browser 2"), HeldElsewhere)
    assert (await other.service.set_password(flow.id, PASSWORD, holder="browser 1")).ended


async def test_another_code_may_be_given_by_anybody(house: House, at: At, clock: FrozenClock) -> None:
    """What binds is a code that was taken; when it is lost and another is sent, that one binds anew."""
    worker = house.worker(ScriptedTransport())
    flow = await at(worker, State.QUESTION_ANSWERED)
    worker.transport.script(exchange=[Accepted()])  # taken, and no token
    await refused(worker.service.verify(flow.id, CODE, holder="browser 1"), OutcomeInDoubt)
    await refused(worker.service.resend(flow.id, holder="browser 2"), HeldElsewhere)
    clock.advance(timedelta(minutes=1))
    assert (await worker.service.resend(flow.id, holder="browser 1")).expects is Step.CODE
    assert (await worker.service.verify(flow.id, CODE, holder="browser 2")).expects is Step.PASSWORD
    await refused(worker.service.set_password(flow.id, PASSWORD, holder="browser 1"), HeldElsewhere)


async def test_a_code_that_is_held_binds_until_it_is_refused(house: House, at: At) -> None:
    worker = house.worker(ScriptedTransport(capabilities=Capabilities(verifies_code=False)))
    flow = await at(worker, State.QUESTION_ANSWERED)
    flow = await worker.service.verify(flow.id, CODE, holder="browser 1")
    for command, given in (("set_password", [PASSWORD]), ("verify", ["111111"]), ("resend", [])):
        await refused(getattr(worker.service, command)(flow.id, *given, holder="browser 2"), HeldElsewhere)
    worker.transport.script(update=[Rejected(about=Step.CODE)])
    await refused(worker.service.set_password(flow.id, PASSWORD, holder="browser 1"), CodeRejected)
    assert (await worker.service.verify(flow.id, CODE, holder="browser 2")).expects is Step.PASSWORD
    await refused(worker.service.set_password(flow.id, PASSWORD, holder="browser 1"), HeldElsewhere)


# Secrets


@BOTH_STORES
async def test_a_secret_starts_one_flow_and_names_it(house: House) -> None:
    worker, other = house.worker(), house.worker()
    secret = secrets.token_urlsafe()
    flow = await worker.service.start("robert.zak", secret=secret)
    assert other.service.id_of(secret) == flow.id
    assert await other.service.start("robert.zak", secret=Secret(secret)) == flow
    assert flow.ref is None
    assert len(worker.transport.calls) + len(other.transport.calls) == 1


async def test_a_secret_is_no_ref_and_no_tag_and_counts_exactly(house: House) -> None:
    service = house.worker().service
    secret = "Aa" * 16
    flow = await service.start("robert.zak", secret=secret)
    assert await service.find(secret) == await service.find(ref=secret) == []
    assert service.id_of(secret.lower()) != flow.id
    assert (await service.start("robert.zak", ref=secret)).id != flow.id


async def test_a_secret_of_another_user_is_refused(house: House) -> None:
    service = house.worker().service
    secret = secrets.token_urlsafe()
    await service.start("robert.zak", secret=secret)
    await refused(service.start("maria.smith", secret=secret), KeyReused)


@pytest.mark.parametrize("options", [{"secret": "0123456789"}, {"secret": ""}, {"secret": "s" * 32, "ref": "ref"}])
async def test_a_secret_that_can_be_none_is_refused(house: House, options: dict[str, str]) -> None:
    worker = house.worker()
    error = await refused(worker.service.start("robert.zak", **options), InvalidInput)  # type: ignore[arg-type]
    assert "secret" in str(error)
    assert worker.transport.calls == []

"""The service over a user pool: a code is held until the password comes, and every promise holds all the same."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

import pytest

from reset_flow import (
    CodeRejected,
    Event,
    GuessAlarm,
    Keyring,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    PasswordRules,
    Policy,
    ResetFlowError,
    ResetService,
    Secret,
    SQLiteStore,
    State,
    Step,
)
from reset_flow.testing import Counts, Fault, FaultProxy, refused
from tests.shown import shown
from tests.transports.cognito.clients import ALIKE, FIRST_PASSWORD, PLAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from reset_flow import Listener
    from tests.transports.cognito.conftest import MakeCognito
    from tests.transports.cognito.pool import UserPool

PASSWORD = "Violet tractor sings at 5!"
WEAK_IN_THE_POOL = "violet tractor sings at 5!"


class ServiceOptions(TypedDict, total=False):
    """What tests set of a worker."""

    url: str
    client_id: str
    policy: Policy
    listeners: Mapping[str, Listener | None]


class Hire(Protocol):
    """Run a worker. All of a test share a store."""

    def __call__(self, **options: Unpack[ServiceOptions]) -> AbstractAsyncContextManager[ResetService]: ...


@pytest.fixture
def hire(pool: UserPool, cognito: MakeCognito, tmp_path: Path) -> Hire:
    keyring = Keyring.load_or_create(tmp_path / "keys")

    @asynccontextmanager
    async def run(
        url: str = pool.url,
        client_id: str = PLAIN,
        policy: Policy | None = None,
        listeners: Mapping[str, Listener | None] | None = None,
    ) -> AsyncIterator[ResetService]:
        transport = cognito(url, client_id, answers_alike=client_id == ALIKE, name="pool")
        store = SQLiteStore(tmp_path / "flows.db")
        async with ResetService(
            transport, store, keyring, policy=policy or Policy(), listeners=listeners or {}
        ) as service:
            yield service

    return run


def wrong(number: int, code: str) -> str:
    """Return one of a thousand wrong codes."""
    return f"{(int(code) + 1 + number) % 10**6:06}"


async def test_a_whole_reset(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    async with hire() as service:
        flow = await service.start(user)
        assert (flow.expects, flow.sent_to) == (Step.CODE, None)  # masked: where it went would tell who exists
        flow = await service.verify(flow.id, await pool.newest_code(user))
        assert (flow.state, flow.expects) == (State.TOKEN_ISSUED, Step.PASSWORD)
        assert await pool.counts(user) == Counts(mails=1, attempts=0, resets=0)
        flow = await service.set_password(flow.id, PASSWORD)
    assert flow.state is State.PASSWORD_SET
    assert await pool.counts(user) == Counts(mails=1, attempts=1, resets=1)
    assert await pool.accepts(user, PASSWORD)


async def test_a_wrong_code_leads_back_to_the_code(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    async with hire() as service:
        flow = await service.start(user)
        code = await pool.newest_code(user)
        await service.verify(flow.id, wrong(0, code))
        error = await refused(service.set_password(flow.id, PASSWORD), CodeRejected)
        assert error.flow
        assert (error.flow.expects, error.flow.in_doubt) == (Step.CODE, None)
        assert await pool.accepts(user, FIRST_PASSWORD)
        await service.verify(flow.id, code)
        assert (await service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
    assert await pool.counts(user) == Counts(mails=1, attempts=2, resets=1)


async def test_a_password_that_the_pool_refuses_leaves_the_code(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    async with hire() as service:
        flow = await service.start(user)
        await service.verify(flow.id, await pool.newest_code(user))
        error = await refused(service.set_password(flow.id, WEAK_IN_THE_POOL), PasswordRejected)
        assert error.flow
        assert error.flow.expects is Step.PASSWORD
        assert "Password must have uppercase characters" in str(error)
        assert (await service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET


async def test_after_a_lost_reply_a_log_in_tells_that_the_password_is_set(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    async with FaultProxy(pool.url) as proxy, hire(url=proxy.url) as service:
        flow = await service.start(user)
        await service.verify(flow.id, await pool.newest_code(user))
        proxy.fault(Fault.DROP_AFTER)
        assert (await service.set_password(flow.id, PASSWORD)).state is State.PASSWORD_SET
    assert await pool.counts(user) == Counts(mails=1, attempts=2, resets=1)  # the same code once more, in vain


async def test_after_a_lost_reply_and_without_a_log_in_the_doubt_stands(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    policy = Policy(probe_by_login=False, resend_cooldown=timedelta(0))
    async with FaultProxy(pool.url) as proxy, hire(url=proxy.url, policy=policy) as service:
        flow = await service.start(user)
        await service.verify(flow.id, await pool.newest_code(user))
        proxy.fault(Fault.DROP_AFTER)
        error = await refused(service.set_password(flow.id, PASSWORD), OutcomeInDoubt)
        assert error.flow
        assert error.flow.in_doubt is Step.PASSWORD
        await service.resend(flow.id)
        flow = await service.verify(flow.id, await pool.newest_code(user))
        assert flow.in_doubt is Step.PASSWORD
        flow = await service.set_password(flow.id, PASSWORD + "!")
        assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert await pool.counts(user) == Counts(mails=2, attempts=3, resets=2)


async def test_ten_wrong_codes_of_a_user_reach_the_pool_over_flows_and_workers(pool: UserPool, hire: Hire) -> None:
    user = await pool.add_user()
    async with hire() as first, hire() as second:
        for number, service in enumerate((first, second)):
            flow = await service.start(user)
            code = await pool.newest_code(user)
            for each in range(5):
                await service.verify(flow.id, wrong(5 * number + each, code))
                await refused(service.set_password(flow.id, PASSWORD), CodeRejected)
        for service in (first, second):
            flow = await service.start(user)
            error = await refused(service.verify(flow.id, await pool.newest_code(user)), LimitReached)
            assert error.limit == "codes_per_user"
    assert len(await pool.codes_judged(user)) == 10
    assert await pool.accepts(user, FIRST_PASSWORD)


async def test_wrong_codes_sound_the_alarm(pool: UserPool, hire: Hire) -> None:
    heard: list[str] = []

    async def listen(event: Event) -> None:
        if event.alarm:
            heard.append(event.transition.trigger)

    async with hire(policy=Policy(guess_alarm=GuessAlarm(at_least=3)), listeners={"crm": listen}) as service:
        for _ in range(4):
            user = await pool.add_user()
            flow = await service.start(user)
            await service.verify(flow.id, wrong(0, await pool.newest_code(user)))
            await refused(service.set_password(flow.id, PASSWORD), CodeRejected)
    assert heard == ["code_refused"]


async def like_the_pool(password: Secret, _: str) -> tuple[str, ...]:
    return () if re.search("[A-Z]", password.reveal()) else ("it must have an upper-case letter",)


@pytest.mark.parametrize("client_id", [PLAIN, ALIKE])
async def test_known_and_unknown_users_look_alike(pool: UserPool, hire: Hire, client_id: str) -> None:
    seen: dict[str, list[object]] = {}
    known = await pool.add_user()
    unknown = f"{known}.of.nobody"
    policy = Policy(password=PasswordRules(checks=(like_the_pool,)))
    async with hire(client_id=client_id, policy=policy) as service:
        for user in (known, unknown):
            flow = await service.start(user)
            sent_to = flow.sent_to
            seen[user] = [shown(flow)]
            code = await pool.newest_code(known)
            for number in range(6):
                for command, text in (
                    (service.verify, wrong(number, code)),
                    (service.set_password, WEAK_IN_THE_POOL),
                    (service.set_password, PASSWORD),
                ):
                    try:
                        seen[user].append(shown(await command(flow.id, text)))
                    except ResetFlowError as error:
                        told = str(error).replace(flow.id, "")
                        seen[user].append((type(error), told, shown(error.flow)))
    assert seen[known] == seen[unknown]
    assert len(await pool.codes_judged(known)) == 5
    assert sent_to == (None if client_id == PLAIN else "r***@e***")

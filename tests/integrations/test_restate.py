"""An object of a real Restate that starts resets and waits for their ends."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import restate

from reset_flow import (
    ConfigurationError,
    Event,
    MemoryStore,
    Policy,
    Record,
    StoreUnavailable,
    UnknownUser,
)
from reset_flow.integrations import calls, restate as integration
from reset_flow.integrations.restate import RestateListener
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.integrations.restate_house import LOGIN, PEOPLE, House, RefusedError, login_of, open_house

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from benchmarks.servers import RestateServer
    from reset_flow import Use, UseName

SOON = timedelta(milliseconds=300)


class MakeHouse(Protocol):
    def __call__(self, **options: Any) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        for login in PEOPLE.values():
            sandbox.add_user(login)
        yield sandbox


@pytest.fixture
def make_house(restate_server: RestateServer, sandbox: Sandbox) -> MakeHouse:
    def make_house(**options: Any) -> AbstractAsyncContextManager[House]:
        return open_house(restate_server, sandbox, **options)

    return make_house


@pytest.fixture
async def house(make_house: MakeHouse) -> AsyncIterator[House]:
    async with make_house() as house:
        yield house


class FailingStore(MemoryStore):
    """Nothing gets through while it is down."""

    down = False
    turned_away = 0

    def _check(self) -> None:
        if self.down:
            self.turned_away += 1
            raise StoreUnavailable(f"no store for {LOGIN}")

    async def load(self, flow_id: str) -> Record:
        self._check()
        return await super().load(flow_id)

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        self._check()
        await super().save(record, add=add, drop=drop)


async def test_a_reset_that_is_started_twice_is_one_flow_with_one_mail(house: House) -> None:
    first, second = await asyncio.gather(*(house.call("start", "ticket 1", "user 1") for _ in range(2)))
    assert first == second == await house.call("status", "ticket 1")
    assert first["flow_id"] == (await house.flow("ticket 1")).id
    assert (first["state"], first["expects"], first["ended"]) == ("question_answered", "code", False)
    assert len(house.sandbox.mails) == 1


async def test_a_flow_that_was_begun_without_restate_is_joined_by_its_ref(house: House) -> None:
    flow = await house.service.start(LOGIN, ref="ticket 2")
    assert (await house.call("start", "ticket 2", "user 1"))["flow_id"] == flow.id
    (wait,) = await house.wait("ticket 2")
    await house.set_password("ticket 2")
    assert (await wait)["state"] == "password_set"
    assert len(house.sandbox.mails) == 1


async def test_a_ref_of_another_person_is_refused_for_good_and_the_reset_goes_on(house: House) -> None:
    await house.call("start", "ticket 3", "user 1")
    with pytest.raises(RefusedError) as caught:
        await house.call("start", "ticket 3", "user 2")
    assert caught.value.status == 409
    assert caught.value.answer["message"] == "the reset is refused: key_reused"
    assert caught.value.answer["metadata"] == {"code": "key_reused"}
    await house.set_password("ticket 3")
    assert (await house.call("status", "ticket 3"))["state"] == "password_set"


@pytest.mark.parametrize("handler", ["status", "cancel", "ended"])
async def test_a_reset_that_was_not_started_is_not_found(house: House, handler: str) -> None:
    with pytest.raises(RefusedError) as caught:
        await house.call(handler, "nothing")
    assert (caught.value.status, caught.value.answer["metadata"]) == (404, {"code": "flow_not_found"})


@pytest.mark.parametrize("ref", ["../a b?c#d%2F", "Tïcket+4\N{EM DASH}'5'", "..", " a+ ", 100 * "\N{PILE OF POO}"])
async def test_a_ref_may_have_any_sign(house: House, ref: str) -> None:
    await house.call("start", ref, "user 1")
    (wait,) = await house.wait(ref)
    await house.set_password(ref)
    assert (await wait)["state"] == "password_set"


async def test_all_who_wait_are_told_of_the_new_password(house: House) -> None:
    await house.call("start", "ticket 6", "user 1")
    waits = await house.wait("ticket 6", 3)
    await house.set_password("ticket 6")
    status = await house.call("status", "ticket 6")
    assert (status["state"], status["ended"], status["expects"], status["failure"]) == (
        "password_set",
        True,
        None,
        None,
    )
    assert await asyncio.gather(*waits) == [status] * 3


async def test_a_reset_is_cancelled_while_three_wait_and_only_once(house: House) -> None:
    await house.call("start", "ticket 7", "user 1")
    waits = await house.wait("ticket 7", 3)
    cancelled = await house.call("cancel", "ticket 7")
    assert (cancelled["state"], cancelled["failure"]) == ("failed", "cancelled")
    assert await asyncio.gather(*waits) == [cancelled] * 3
    assert await house.call("cancel", "ticket 7") == cancelled
    assert await house.call("start", "ticket 7", "user 1") == cancelled
    assert len(house.sandbox.mails) == 1


async def test_who_waits_for_what_has_ended_is_told_at_once(house: House) -> None:
    await house.call("start", "ticket 8", "user 1")
    await house.set_password("ticket 8")
    assert (await house.call("ended", "ticket 8"))["state"] == "password_set"
    assert await house.waiters("ticket 8") == []


async def test_a_reset_whose_time_is_up_ends_without_anybody_who_tells(make_house: MakeHouse) -> None:
    policy = Policy(flow_lifetime=timedelta(seconds=2))
    async with make_house(listens=False, policy=policy) as house:
        await house.call("start", "ticket 9", "user 1")
        assert (await house.call("ended", "ticket 9"))["failure"] == "expired"


async def test_an_end_that_nobody_tells_of_is_found_by_asking(make_house: MakeHouse) -> None:
    async with make_house(listens=False, ask_every=SOON) as house:
        await house.call("start", "ticket 10", "user 1")
        waits = await house.wait("ticket 10", 3)
        await house.set_password("ticket 10")
        assert [(await wait)["state"] for wait in waits] == ["password_set"] * 3
        # Nothing of the reset is left in the object.
        await house.until(lambda: house.has(house.rows("SELECT key FROM state WHERE service_key = 'ticket 10'"), 0))


async def test_one_who_waits_beyond_what_the_object_remembers_asks(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "WAITERS", 2)
    async with make_house(ask_every=SOON) as house:
        await house.call("start", "ticket 11", "user 1")
        waits = [*await house.wait("ticket 11", 2), asyncio.create_task(house.call("ended", "ticket 11"))]
        remembered = await house.waiters("ticket 11")

        async def another_is_remembered() -> bool:
            return await house.waiters("ticket 11") != remembered

        await house.until(another_is_remembered)
        assert len(await house.waiters("ticket 11")) == 2
        await house.set_password("ticket 11")
        assert [(await wait)["state"] for wait in waits] == ["password_set"] * 3


async def test_who_waits_takes_no_memory_of_the_worker_and_comes_back(house: House) -> None:
    await house.call("start", "ticket 12", "user 1")
    (wait,) = await house.wait("ticket 12")
    parked = "SELECT id FROM sys_invocation WHERE target = '%s/ticket 12/ended' AND status = 'suspended'"
    await house.until(lambda: house.has(house.rows(parked, house.resets.name), 1))
    await house.set_password("ticket 12")
    assert (await wait)["state"] == "password_set"


async def test_an_end_that_is_told_twice_is_told_once_in_restate(make_house: MakeHouse) -> None:
    ends: list[Event] = []

    async with make_house(listens=False) as house:
        await house.call("start", "ticket 13", "user 1")
        (wait,) = await house.wait("ticket 13")
        flow = await house.set_password("ticket 13")
        ends = [Event(id=f"{flow.id}.{index}", flow=flow, transition=each) for index, each in enumerate(flow.history)]
        listen = RestateListener(house.server.url, name=house.resets.name)
        for event in (*ends, ends[-1]):
            await listen(event)
        assert (await wait)["state"] == "password_set"
        told = "SELECT id FROM sys_invocation WHERE target = '%s/ticket 13/tell'"
        assert len(await house.rows(told, house.resets.name)) == 1


async def test_the_end_of_a_flow_without_a_ref_is_not_for_restate(make_house: MakeHouse) -> None:
    async with make_house() as house:
        flow = await house.service.start(LOGIN)
        ended = await house.service.cancel(flow.id)
        nowhere = RestateListener("http://127.0.0.1:9")
        await nowhere(Event(id="1", flow=ended, transition=ended.history[-1]))


async def test_an_end_that_restate_does_not_take_is_told_again(house: House, caplog: pytest.LogCaptureFixture) -> None:
    flow = await house.service.start(LOGIN, ref="ticket 14")
    ended = await house.service.cancel(flow.id)
    event = Event(id=f"{flow.id}.9", flow=ended, transition=ended.history[-1])
    for listen, reason in (
        (RestateListener("http://127.0.0.1:9", name=house.resets.name), "ClientConnectorError"),
        (RestateListener(house.server.url, name="Unknown"), "HTTP 404"),
    ):
        with pytest.raises(ConnectionError, match="Restate did not take the end of a reset"):
            await listen(event)
        assert reason in caplog.text
    await RestateListener(f"{house.server.url}/", name=house.resets.name, token="secret token")(event)


async def test_a_login_that_can_not_be_looked_up_is_looked_up_again_and_shows_nowhere(
    make_house: MakeHouse, restate_server: RestateServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(calls, "LOOK_UP", 0.2)
    asked = 0

    async def unreliable(user_ref: str) -> str:
        nonlocal asked
        asked += 1
        match asked:
            case 1:
                raise ValueError(f"there is no {LOGIN} today")
            case 2:
                await asyncio.sleep(60)
            case 3:
                raise restate.TerminalError(LOGIN) from KeyError(LOGIN)
        return await login_of(user_ref)

    async with make_house(login_of=unreliable) as house:
        status = await house.call("start", "ticket 15", "user 1")
        assert (status["state"], asked) == ("question_answered", 4)
        assert len(house.sandbox.mails) == 1
    assert "ValueError" in caplog.text
    assert "TimeoutError" in caplog.text
    assert LeakScanner({"login": LOGIN}).find(caplog.text, restate_server.log) == []


async def test_what_somebody_has_to_mend_is_logged_in_words(
    make_house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    not_async: Any = PEOPLE.__getitem__
    looks: list[Callable[[str], Awaitable[str]]] = [not_async, not_async, login_of]

    def look_up(user_ref: str) -> Awaitable[str]:
        return looks.pop(0)(user_ref)

    async with make_house(login_of=look_up) as house:
        assert (await house.call("start", "ticket 20", "user 1"))["state"] == "question_answered"
    assert caplog.text.count("a reset is tried again later: login_of must be an async function") == 2
    assert LeakScanner({"login": LOGIN}).find(caplog.text, house.server.log) == []


@pytest.mark.parametrize(
    ("found", "status", "code"),
    [
        (None, 400, "invalid_input"),
        (42, 400, "invalid_input"),
        ("", 400, "invalid_input"),
        ("a\0b", 400, "invalid_input"),
        (UnknownUser(f"there is no {LOGIN}"), 404, "unknown_user"),
    ],
)
async def test_a_login_that_is_none_ends_the_call_for_good(
    make_house: MakeHouse, found: Any, status: int, code: str
) -> None:
    async def wrong(_: str) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    async with make_house(login_of=wrong) as house:
        with pytest.raises(RefusedError) as caught:
            await house.call("start", "ticket 16", "user 1")
    assert (caught.value.status, caught.value.answer["metadata"]["code"]) == (status, code)
    assert caught.value.answer["message"] == f"the reset is refused: {code}"


async def test_a_user_whom_the_broker_refuses_ends_the_call_for_good(make_house: MakeHouse) -> None:
    async def stranger(_: str) -> str:
        return "nobody"

    async with make_house(login_of=stranger, policy=Policy(mask_unknown_users=False)) as house:
        with pytest.raises(RefusedError) as caught:
            await house.call("start", "ticket 17", "user 1")
    assert (caught.value.status, caught.value.answer["message"]) == (404, "the reset is refused: unknown_user")


async def test_a_broker_that_is_down_is_asked_again(house: House) -> None:
    await house.sandbox.aclose()
    start = asyncio.create_task(house.call("start", "ticket 18", "user 1"))
    tried = "SELECT id FROM sys_invocation WHERE target = '%s/ticket 18/start' AND last_failure LIKE '%%unavailable%%'"
    await house.until(lambda: house.has(house.rows(tried, house.resets.name), 1))
    await house.sandbox.start()
    assert (await start)["state"] == "question_answered"
    assert len(house.sandbox.mails) == 1


async def test_a_store_that_is_down_for_a_while_ends_no_wait(make_house: MakeHouse) -> None:
    store = FailingStore()
    async with make_house(store=store, listens=False, ask_every=SOON) as house:
        await house.call("start", "ticket 19", "user 1")
        (wait,) = await house.wait("ticket 19")
        store.down, store.turned_away = True, 0

        async def asked_in_vain() -> bool:
            return store.turned_away > 2

        await house.until(asked_in_vain)
        assert not wait.done()
        store.down = False
        await house.set_password("ticket 19")
        assert (await wait)["state"] == "password_set"
    failures = await house.rows("SELECT last_failure FROM sys_invocation")
    assert LeakScanner({"login": LOGIN}).find(str(failures), house.server.log) == []


def test_settings_that_can_not_be_are_refused() -> None:
    for url in ("", "127.0.0.1:8080", "ftp://host", "http://", "http://host/?a=b", "http://me:violet@host", None):
        with pytest.raises(ConfigurationError, match="ingress_url must be like"):
            RestateListener(url)  # type: ignore[arg-type] # what somebody may give
    listener = RestateListener("https://restate.example", token="secret token")
    assert "secret token" not in repr(vars(listener))

"""Two workers on one store take messages of one conversation at once: both have read it before either has written."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from reset_flow import Keyring, PostgresStore, SQLiteStore
from reset_flow.testing import FrozenClock
from tests.chat.chats import CODE, LOGIN, PUBLIC_URL, Chat, Provider, ids, link_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from reset_flow.chat import Turn
    from reset_flow.ports import Store
    from tests.chat.conftest import MakeDesk

OTHER_LOGIN = "somebody.else"


class Waiting:
    """A store of which a save can be made to wait for something."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.waits_for: Callable[[], Awaitable[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def save(self, *args: Any, **options: Any) -> None:
        waits_for, self.waits_for = self.waits_for, None
        if waits_for:
            await waits_for()
        await self._store.save(*args, **options)


@attrs.frozen
class Workers:
    """One conversation, as two workers reach it, and their stores."""

    here: Chat
    there: Chat
    stores: list[Waiting]

    async def at_once(self, here: Awaitable[Turn], there: Awaitable[Turn]) -> tuple[Turn, Turn]:
        """Await both; neither writes before both have read."""
        both = asyncio.Barrier(2)
        for store in self.stores:
            store.waits_for = both.wait
        return await asyncio.gather(here, there)


@pytest.fixture
def provider() -> Provider:
    return Provider(question=False)


@pytest.fixture(params=["sqlite", "postgres"])
def open_one(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[FrozenClock], Store]:
    """Return what opens the store once more."""
    if request.param == "sqlite":
        return lambda clock: SQLiteStore(tmp_path / "flows.db", clock=clock)
    url: str = request.getfixturevalue("postgres_url")
    return lambda clock: PostgresStore(url, clock=clock)


@pytest.fixture
async def workers(
    open_one: Callable[[FrozenClock], Store], make_desk: MakeDesk, provider: Provider, tmp_path: Path
) -> AsyncIterator[Workers]:
    clock, keyring = FrozenClock(), Keyring.load_or_create(tmp_path / "keys")
    stores: list[Waiting] = []
    async with AsyncExitStack() as closing:

        def store() -> Store:
            opened = open_one(clock)
            closing.push_async_callback(opened.aclose)
            stores.append(Waiting(opened))
            return cast("Store", stores[-1])

        desk = make_desk(provider, clock=clock, keyring=keyring, store=store)
        yield Workers(Chat(desk), Chat(desk), stores)


async def test_a_login_that_both_are_given_starts_one_reset(workers: Workers, provider: Provider) -> None:
    here, there = workers.here, workers.there
    await here.say("hello", "1")
    turns = await workers.at_once(here.say(LOGIN, "2"), there.say(LOGIN, "2"))
    assert turns[0] == turns[1]
    assert ids(turns[0]) == ["chat.code"]
    assert len(provider.calls_of("request")) == 1


async def test_of_two_logins_one_starts_a_reset(workers: Workers, provider: Provider) -> None:
    here, there = workers.here, workers.there
    await here.say("hello", "1")
    turns = await workers.at_once(here.say(LOGIN, "2"), there.say(OTHER_LOGIN, "3"))
    assert sorted(map(ids, turns)) == [["chat.aside", "chat.code.again"], ["chat.code"]]
    assert len(provider.calls_of("request")) == 1
    assert ids(await there.say(CODE, "4")) == ["chat.open"]


async def test_a_request_for_help_that_takes_long_loses_no_reset(workers: Workers, provider: Provider) -> None:
    here, there = workers.here, workers.there
    await here.say("hello", "1")
    has_read, started = asyncio.Event(), asyncio.Event()

    async def until_started() -> None:
        has_read.set()
        await started.wait()

    workers.stores[1].waits_for = until_started
    helped = asyncio.create_task(there.say("help", "2"))
    await has_read.wait()
    assert ids(await here.say(LOGIN, "3")) == ["chat.code"]
    started.set()
    assert ids(await helped) == ["chat.help", "chat.mailbox", "chat.code.again"]
    assert ids(await here.say(CODE, "4")) == ["chat.open"]
    assert len(provider.calls_of("request")) == 1


async def test_a_code_that_both_are_given_is_sent_once_and_gets_one_link(workers: Workers, provider: Provider) -> None:
    here, there = workers.here, workers.there
    await here.says("hello", LOGIN)
    turns = await workers.at_once(here.say(CODE, "3"), there.say(CODE, "3"))
    assert turns[0] == turns[1]
    assert link_of(turns[0]).url.startswith(PUBLIC_URL)
    assert provider.given("exchange") == [CODE]

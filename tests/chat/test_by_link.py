"""The code is typed in the chat, the password in a browser that came by the chat's link."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
import pytest

from reset_flow.chat import DeleteMessage, Inbound, News, OpenLink, ResetDialogue, Turn
from tests.chat.chats import ids, link_of
from tests.web.houses import PASSWORD, UNASKED, House

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.web.houses import Browser, Worker


@attrs.define
class Chat:
    """One person's conversation with a bot on one worker."""

    dialogue: ResetDialogue
    name: str
    messages: int = 0

    async def say(self, text: str) -> Turn:
        self.messages += 1
        inbound = Inbound(conversation=self.name, message=str(self.messages), text=text, private=True)

        async def delete(_: DeleteMessage) -> bool:
            return True

        return await self.dialogue.handle(inbound, delete)


@attrs.define
class Desk:
    """A worker with a page and a bot, and what was told without being asked."""

    house: House
    worker: Worker
    dialogue: ResetDialogue
    told: asyncio.Queue[tuple[str, Turn]]

    async def verified(self, name: str) -> tuple[Chat, OpenLink]:
        """Have somebody type their code in the chat, and return the link that they get."""
        chat = Chat(self.dialogue, name)
        await chat.say("hello")
        await chat.say(UNASKED)
        return chat, link_of(await chat.say(self.house.sandbox.newest_code(UNASKED)))

    async def at(self, link: OpenLink) -> Browser:
        """Return a browser that came by the link."""
        browser = await self.house.browser(self.worker)
        page = await browser.get(urlsplit(link.url).path)
        await browser.send(page.forms[-1])
        return browser


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with House("sqlite", tmp_path) as house:
        news, told = News(), asyncio.Queue[tuple[str, Turn]]()

        async def tell(conversation: str, turn: Turn) -> None:
            told.put_nowait((conversation, turn))

        worker = await house.worker(listeners={"chat": news})
        dialogue = ResetDialogue(worker.service, links=worker.links, news=news, tell=tell, clock=house.clock)
        yield Desk(house, worker, dialogue, told)


async def test_the_password_is_set_at_the_link_and_the_chat_is_told(desk: Desk) -> None:
    chat, link = await desk.verified("telegram:1")
    browser = await desk.at(link)
    assert browser.page.has("password")
    await browser.do("password", password=PASSWORD)
    conversation, turn = await asyncio.wait_for(desk.told.get(), 60)
    assert (conversation, ids(turn), turn.done) == ("telegram:1", ["done"], True)
    assert desk.house.sandbox.password_of(UNASKED) == PASSWORD
    assert ids(await chat.say("thanks")) == ["chat.login"]


async def test_the_link_of_a_conversation_works_once_and_a_new_one_can_be_asked_for(desk: Desk) -> None:
    chat, link = await desk.verified("telegram:1")
    await desk.at(link)
    other = await desk.house.browser(desk.worker)
    assert (await other.get(urlsplit(link.url).path)).status == 410
    again = link_of(await chat.say("/resend"))
    assert again.url != link.url
    assert (await desk.at(again)).page.has("password")


async def test_another_conversation_gets_nothing_of_a_flow_whose_code_was_typed_elsewhere(desk: Desk) -> None:
    _, link = await desk.verified("telegram:1")
    stranger = Chat(desk.dialogue, "telegram:2")
    await stranger.say("hello")
    await stranger.say(UNASKED)
    turn = await stranger.say("/resend")
    assert not [effect for effect in turn.effects if isinstance(effect, OpenLink)]
    assert (await desk.at(link)).page.has("password")


async def test_cancelling_in_the_chat_ends_what_was_begun_at_the_link(desk: Desk) -> None:
    chat, link = await desk.verified("telegram:1")
    browser = await desk.at(link)
    turn = await chat.say("Abbrechen, bitte!")
    assert (ids(turn), turn.done) == (["failed.cancelled"], True)
    await browser.do("password", password=PASSWORD)
    assert not browser.page.has("password")
    assert desk.house.sandbox.password_of(UNASKED) != PASSWORD
    assert desk.told.empty()

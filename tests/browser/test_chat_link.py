"""A person whose chat sends them to the page for the password, and whom the page leads back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from benchmarks.servers import free_port
from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore
from reset_flow.chat import DeleteMessage, Inbound, News, OpenLink, ResetDialogue, Turn
from reset_flow.web import Links
from tests.browser.conftest import ANSWER, PASSWORD, TEXTS, TITLES, at_browser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

    from reset_flow.sandbox import Sandbox
    from tests.browser.conftest import PageServer

LOOK = {"look": {"finish_url": "https://example.com/login"}}


class Chat:
    """One person's conversation, at a bot in another process than the page."""

    def __init__(self, dialogue: ResetDialogue) -> None:
        self._dialogue = dialogue
        self._said = 0

    async def says(self, text: str) -> Turn:
        self._said += 1
        inbound = Inbound(conversation="acme:1", message=str(self._said), text=text, private=True)

        async def delete(_: DeleteMessage) -> bool:
            return True

        return await self._dialogue.handle(inbound, delete)


@pytest.fixture
async def chat(server: PageServer, sandbox: Sandbox) -> AsyncIterator[tuple[Chat, str]]:
    keys = Keyring.from_file(server.database.with_name("keys"))
    transport, news = EtnaTransport(sandbox.api_url, "sandbox", name="broker"), News()
    back_url = f"http://127.0.0.1:{free_port()}/bot"
    async with ResetService(transport, SQLiteStore(server.database), keys, listeners={"chat": news}) as service:

        async def tell(_: str, __: Turn) -> None: ...

        links = Links(service, server.url, back_url=back_url)
        yield Chat(ResetDialogue(service, links=links, news=news, tell=tell)), back_url


@pytest.mark.parametrize("options", [LOOK], indirect=True)
@pytest.mark.parametrize("language", ["en", "de", "es"])
async def test_the_page_leads_back_to_the_chat(
    browser: Browser, server: PageServer, sandbox: Sandbox, chat: tuple[Chat, str], language: str
) -> None:
    bot, back_url = chat
    for text in ("hello", "robert.zak", ANSWER):
        await bot.says(text)
    turn = await bot.says(sandbox.newest_code("robert.zak"))
    link = next(each.url for each in turn.effects if isinstance(each, OpenLink))
    async with at_browser(browser, server, sandbox, locale=language) as person:
        heading, back = person.page.get_by_role("heading", level=1), TEXTS.say("page.back_to_chat", language)
        await person.page.goto(link)
        await person.page.locator("button.primary").click()
        await expect(heading).to_have_text(TEXTS.say(TITLES["password"], language))
        await expect(person.page.get_by_role("link", name=back)).to_have_count(0)
        await person.types("password", PASSWORD)
        await expect(heading).to_have_text(TEXTS.say(TITLES["done"], language))
        assert [await each.get_attribute("href") for each in await person.page.locator("main a").all()] == [back_url]
        await person.page.route(back_url, lambda route: route.fulfill(body="the chat"))
        await person.page.get_by_role("link", name=back).click()
        await expect(person.page.locator("body")).to_have_text("the chat")
        assert person.page.url == back_url
        await person.page.goto(link)
        await expect(heading).to_have_text(TEXTS.say("page.link_used.title", language))
        await expect(person.page.get_by_role("link", name=back)).to_have_attribute("href", back_url)
        assert sandbox.password_of("robert.zak") == PASSWORD

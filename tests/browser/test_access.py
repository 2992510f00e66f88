"""A link that is sent to somebody, and what can be found in a browser afterwards."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from reset_flow import EtnaTransport, HeldElsewhere, Keyring, ResetService, SQLiteStore
from reset_flow.testing import LeakScanner, refused
from reset_flow.web import Links
from tests.browser.conftest import ANSWER, PASSWORD, at_browser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

    from reset_flow.sandbox import Sandbox
    from tests.browser.conftest import PageServer, Person


@pytest.fixture
async def service(server: PageServer, sandbox: Sandbox) -> AsyncIterator[ResetService]:
    """Another process's way into the same flows, such as a chat's."""
    keys = Keyring.from_file(server.database.with_name("keys"))
    transport = EtnaTransport(sandbox.api_url, "sandbox", name="broker")
    async with ResetService(transport, SQLiteStore(server.database), keys) as service:
        yield service


async def test_a_link_is_looked_at_by_many_and_used_by_one(
    browser: Browser, person: Person, service: ResetService, server: PageServer, sandbox: Sandbox
) -> None:
    flow = await service.start("robert.zak")
    link = await Links(service, server.url).create(flow.id)
    for _ in range(3):  # scanners and previews
        assert (await person.page.request.get(link)).status == 200
    await person.page.goto(link)
    await person.sees("page.link.title")
    await person.reads("page.link.text")
    assert "r…k" in await person.page.content()
    assert "robert.zak" not in await person.page.content()
    await person.clicks("page.continue")
    await person.sees("answer")
    assert "robert.zak" not in await person.page.content()
    async with at_browser(browser, server, sandbox) as other:
        await other.page.goto(link)
        await other.sees("page.link_used.title")


async def test_a_link_that_is_too_old(person: Person, service: ResetService, server: PageServer) -> None:
    flow = await service.start("robert.zak")
    link = await Links(service, server.url).create(flow.id, lifetime=timedelta(milliseconds=1))
    await person.page.goto(link)
    await person.sees("page.link_used.title")


async def test_a_code_that_is_typed_in_a_browser_is_of_no_use_to_who_sent_the_link(
    person: Person, service: ResetService, server: PageServer
) -> None:
    """The attacker starts a reset for somebody's login in a chat, and sends them the genuine link to it."""
    flow = await service.start("robert.zak")
    await service.answer(flow.id, ANSWER, holder="the attacker's chat")
    links = Links(service, server.url)
    link, kept = await links.create(flow.id), await links.create(flow.id)
    await person.page.goto(link)
    await person.reads("page.link.text")
    await person.clicks("page.continue")
    await person.types("code", person.code)
    await person.sees("password")
    await refused(service.set_password(flow.id, "attacker's own", holder="the attacker's chat"), HeldElsewhere)
    await refused(service.set_password(flow.id, "attacker's own"), HeldElsewhere)
    attacker = await person.page.context.browser.new_context()  # type: ignore[union-attr]
    page = await attacker.new_page()
    await page.goto(kept)
    await page.locator("button").last.click()
    await expect(page.locator("input[name=password]")).to_have_count(0)
    await attacker.close()
    await person.types("password", PASSWORD)
    await person.sees("done")
    assert person.sandbox.password_of("robert.zak") == PASSWORD


async def test_nothing_is_left_in_the_browser_and_in_logs(person: Person, server: PageServer) -> None:
    await person.reaches("code")
    code = person.code
    bodies: list[bytes] = []
    person.page.on("response", lambda response: bodies.append(json.dumps(response.headers).encode()))
    await person.types("code", "111111" if code != "111111" else "222222")
    await expect(person.page.locator("#code-error")).to_be_visible()
    await person.types("code", code)
    await person.sees("password")
    await person.types("password", "12345678")
    await expect(person.page.locator("#password-error")).to_be_visible()
    seen = [await person.page.content()]
    await person.types("password", PASSWORD)
    await person.sees("done")
    seen.append(await person.page.content())
    storage = await person.page.evaluate(
        "async () => JSON.stringify([{...localStorage}, {...sessionStorage}, await indexedDB.databases(),"
        " await caches.keys(), history.length, document.cookie])"
    )
    assert json.loads(storage)[:4] == [{}, {}, [], []]
    assert json.loads(storage)[5] == ""
    scanner = LeakScanner({"answer": ANSWER, "code": code, "password": PASSWORD})
    everything = [*seen, storage, *person.addresses, server.log.read_text(), *[body.decode() for body in bodies]]
    assert [leak for text in everything for leak in scanner.find(text.encode())] == []
    logins = LeakScanner({"login": "robert.zak"})
    assert logins.find("\n".join([*person.addresses, server.log.read_text(), storage]).encode()) == []

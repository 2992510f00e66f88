"""Who can use the page: with a keyboard, a screen reader, a small screen, without scripts, in the dark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.conftest import ANSWER, PASSWORD, at_browser, text

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from reset_flow.sandbox import Sandbox
    from tests.browser.conftest import PageServer, Person


async def faults(person: Person, axe: str) -> list[str]:
    """Return what axe-core finds on the page."""
    found = await person.page.evaluate(f"async () => {{ {axe}; return JSON.stringify((await axe.run()).violations) }}")
    return [f"{each['id']}: {node['html']}" for each in json.loads(found) for node in each["nodes"]]


async def check(person: Person, axe: str) -> None:
    assert await faults(person, axe) == []
    assert await person.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("screen", ["light 320", "dark 320", "light 1280", "dark 1280"])
async def test_every_step_can_be_read(
    browser: Browser, server: PageServer, sandbox: Sandbox, axe: str, screen: str
) -> None:
    """A window of 320 pixels is also what one of 1280 is at 400 %."""
    scheme, width = screen.split()
    size = {"width": int(width), "height": 700}
    async with at_browser(browser, server, sandbox, color_scheme=scheme, viewport=size, bypass_csp=True) as person:
        await person.opens()
        await check(person, axe)
        await person.types("user", "robert.zak")
        wrong = {"answer": "wrong", "code": "abc", "password": "12345678"}
        for step in ("answer", "code", "password"):
            await person.sees(step)
            await check(person, axe)
            await person.types(step, wrong[step])
            await expect(person.page.locator(f"#{step}-error")).to_be_visible()
            await check(person, axe)
            await person.types(step, await person.given(step))
        await person.sees("done")
        await check(person, axe)
        await person.opens("nowhere")
        await check(person, axe)


async def test_the_keyboard_alone_gets_through(person: Person) -> None:
    await person.opens()
    keyboard = person.page.keyboard
    for step, typed in (("account", "robert.zak"), ("answer", ANSWER), ("code", ""), ("password", PASSWORD)):
        await person.sees(step)
        field = person.page.locator("main input:not([type=hidden])").last
        for _ in range(10):
            if await field.evaluate("field => field === document.activeElement"):
                break
            await keyboard.press("Tab")
        await expect(field).to_be_focused()
        await keyboard.type(typed or person.code)
        await keyboard.press("Enter")
    await person.sees("done")


async def test_without_scripts_everything_works(browser: Browser, server: PageServer, sandbox: Sandbox) -> None:
    async with at_browser(browser, server, sandbox, java_script_enabled=False) as person:
        await person.reaches("code")
        await expect(person.page.get_by_role("main")).to_contain_text("UTC")  # times of day in the place of countdowns
        await person.types("code", "abc")
        await expect(person.page.locator("#code-error")).to_be_visible()
        await person.types("code", person.code)
        await person.sees("password")
        await person.types("password", PASSWORD)
        await person.sees("done")


async def test_a_screen_reader_is_not_flooded_by_the_countdown(person: Person) -> None:
    await person.reaches("code")
    await person.page.evaluate(
        "() => { window.said = 0; for (const each of document.querySelectorAll('[aria-live], [role=status],"
        " [role=alert]')) new MutationObserver(() => window.said++).observe(each,"
        " {childList: true, characterData: true, subtree: true}) }"
    )
    await person.page.wait_for_timeout(3500)
    assert await person.page.evaluate("window.said") <= 1


@pytest.mark.parametrize("step", ["answer", "code", "password"])
async def test_password_managers_and_telephones_know_the_fields(person: Person, step: str) -> None:
    await person.reaches(step)
    field = person.page.locator(f"input[name={step}]")
    wish = {"answer": {"autocomplete": "off"}, "code": {"autocomplete": "one-time-code", "inputmode": "numeric"}}
    for name, value in wish.get(step, {"autocomplete": "new-password", "type": "password"}).items():
        await expect(field).to_have_attribute(name, value)
    if step == "password":
        username = person.page.locator("input[autocomplete=username]")
        assert await username.input_value() == "robert.zak"
        await person.page.get_by_role("button", name=text("page.password.show_label")).click()
        await expect(field).to_have_attribute("type", "text")

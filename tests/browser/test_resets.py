"""Whole resets in a browser, as people make them and as things go wrong."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser.conftest import ANSWER, PASSWORD, TEXTS, TITLES, at_browser, text

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from benchmarks.servers import RedisServer
    from reset_flow.sandbox import Sandbox
    from tests.browser.conftest import PageServer, Person

DAY, SECOND = 86_400.0, 1.0
STEPS = ("answer", "code", "password", "done")


async def goes_on(person: Person, step: str) -> None:
    """Type what the page asks for at a step."""
    field = {"answer": "answer", "code": "code", "password": "password"}[step]
    await person.types(field, await person.given(field))


# --- the straight way


async def test_a_person_resets_a_password(person: Person) -> None:
    await person.reaches("done")
    assert person.sandbox.password_of("robert.zak") == PASSWORD
    assert person.errors == []
    assert len(person.sandbox.mails) == 1


async def test_without_a_question_the_code_comes_at_once(
    browser: Browser, server: PageServer, sandbox: Sandbox
) -> None:
    async with at_browser(browser, server, sandbox, "maria.noquestion") as maria:
        await maria.starts()
        for step in ("code", "password"):
            await maria.sees(step)
            await goes_on(maria, step)
        await maria.sees("done")
    assert sandbox.password_of("maria.noquestion") == PASSWORD


@pytest.mark.parametrize("wish", ["de-AT", "es-MX", "fi-FI"])
async def test_each_in_their_language(browser: Browser, server: PageServer, sandbox: Sandbox, wish: str) -> None:
    spoken = wish[:2].replace("fi", "en")  # where it is spoken; else in the first
    async with at_browser(browser, server, sandbox, locale=wish) as person:
        heading = person.page.get_by_role("heading", level=1)
        await person.opens()
        for step, field in zip(("account", *STEPS), ("user", "answer", "code", "password", ""), strict=True):
            await expect(heading).to_have_text(TEXTS.say(TITLES[step], spoken))
            assert await person.page.locator("html").get_attribute("lang") == spoken
            if field:
                typed = {"user": "robert.zak", "answer": ANSWER, "password": PASSWORD}.get(field) or person.code
                await person.types(field, typed)
        assert person.sandbox.password_of("robert.zak") == PASSWORD


async def test_a_switch_changes_the_language_and_nothing_else(person: Person) -> None:
    await person.reaches("code")
    await person.page.locator("details.languages summary").click()
    await person.page.get_by_role("button", name="Deutsch").click()
    await expect(person.page.locator("html")).to_have_attribute("lang", "de")
    await expect(person.page.locator("input[name=code]")).to_be_visible()
    await person.page.reload()
    await expect(person.page.locator("html")).to_have_attribute("lang", "de")


# --- wrong entries and limits


async def test_a_wrong_answer_is_said_at_its_field_and_the_third_ends_it(person: Person) -> None:
    await person.reaches("answer")
    for left in (2, 1):
        await person.types("answer", "wrong")
        field = person.page.locator("input[name=answer]")
        await expect(field).to_have_attribute("aria-invalid", "true")
        await expect(person.page.locator("#answer-error")).to_contain_text(text("answer.rejected"))
        await expect(person.page.locator("#answer-error")).to_contain_text(text("tries_left", count=left))
        await expect(field).to_be_focused()
        assert (await person.page.title()).startswith(text("page.error"))
    await person.types("answer", "wrong")
    await person.sees("page.failed.too_many_attempts")
    await person.clicks("page.failed.button")
    await person.sees("account")
    await expect(person.page.locator("input[name=user]")).to_have_value("robert.zak")


async def test_wrong_codes_until_the_limit(person: Person) -> None:
    await person.reaches("code")
    wrong = [code for code in ("111111", "222222", "333333", "444444", "555555", "666666") if code != person.code]
    for code, left in zip(wrong[:4], (4, 3, 2, 1), strict=True):
        await person.types("code", code)
        await expect(person.page.locator("#code-error")).to_contain_text(text("code.rejected"))
        await expect(person.page.locator("#code-error")).to_contain_text(text("tries_left", count=left))
    await person.types("code", wrong[4])
    await person.sees("page.failed.too_many_attempts")
    assert len(person.sandbox.calls_of("exchange")) == 5


async def test_a_password_that_is_not_good_enough_is_said_before_and_after(person: Person) -> None:
    await person.reaches("password")
    rules = person.page.locator(".rules li")
    await expect(rules.filter(has_text=text("page.rule.length", count=8))).to_be_visible()
    await person.types("password", "12345678")
    await expect(person.page.locator("#password-error")).to_be_visible()
    await expect(person.page.locator("input[name=password]")).to_have_value("")
    assert person.sandbox.calls_of("update") == []
    await person.types("password", PASSWORD)
    await person.sees("done")


@pytest.mark.parametrize("options", [{"policy": {"resend_cooldown": 4 * SECOND}}], indirect=True)
async def test_another_code_before_its_time_and_after(person: Person) -> None:
    await person.reaches("code")
    first = person.code
    resend = person.page.get_by_role("button", name=re.compile(text("page.code.resend")))
    await expect(resend).to_contain_text(re.compile(r"in 0:0\d"))
    await person.page.locator("form[action$=resend]").evaluate("form => HTMLFormElement.prototype.submit.call(form)")
    await person.reads("limit.resend_cooldown")
    await expect(resend).to_have_text(text("page.code.resend"))
    await resend.click()
    await person.sees("code")
    await expect(resend).to_contain_text(re.compile(r"in 0:0\d"))
    assert len(person.sandbox.mails) == 2
    if person.code != first:
        await person.types("code", first)
        await expect(person.page.locator("#code-error")).to_contain_text(text("reason.newest_counts"))
    await person.types("code", person.code)
    await person.sees("password")


async def test_when_the_time_is_over_it_begins_again_with_the_login(person: Person) -> None:
    await person.reaches("answer")
    await person.server.stop()
    await person.server.start(ahead=3600)
    await person.page.reload()
    await person.sees("page.failed.expired")
    await person.clicks("page.failed.button")
    await expect(person.page.locator("input[name=user]")).to_have_value("robert.zak")


# --- habits of people


async def test_back_and_reload_show_where_it_stands(person: Person) -> None:
    await person.reaches("password")
    await person.page.go_back()
    await person.sees("password")
    await person.page.reload()
    await person.sees("password")
    await person.types("password", PASSWORD)
    await person.sees("done")
    await person.page.go_back()
    await person.sees("done")
    assert len(person.sandbox.calls_of("update")) == 1


async def test_a_reload_of_a_refused_form_is_no_second_try(person: Person) -> None:
    await person.reaches("answer")
    await person.types("answer", "wrong")
    await expect(person.page.locator("#answer-error")).to_contain_text(text("tries_left", count=2))
    await person.page.reload()
    await expect(person.page.locator("input[name=answer]")).to_be_visible()
    assert len(person.sandbox.calls_of("request")) == 1


@pytest.mark.parametrize("step", ["answer", "code", "password"])
async def test_a_double_click_is_one_command(person: Person, step: str) -> None:
    await person.reaches(step)
    await person.page.locator(f"input[name={step}]").fill(await person.given(step))
    await person.page.locator("button.primary").dblclick()
    await person.sees(STEPS[STEPS.index(step) + 1])
    route = {"answer": "request", "code": "exchange", "password": "update"}[step]
    assert len(person.sandbox.calls_of(route)) == 1
    assert person.sandbox.mails


async def test_without_its_script_a_double_click_is_one_command_too(
    browser: Browser, server: PageServer, sandbox: Sandbox
) -> None:
    async with at_browser(browser, server, sandbox, java_script_enabled=False) as person:
        await person.reaches("answer")
        await person.page.locator("input[name=answer]").fill(ANSWER)
        await person.page.locator("button.primary").dblclick()
        await person.sees("code")
        assert len(person.sandbox.mails) == 1


async def test_two_tabs_are_one_reset(person: Person) -> None:
    await person.reaches("code")
    other = await person.page.context.new_page()
    await other.goto(person.server.url)
    await other.locator("input[name=code]").fill(person.code)
    await other.locator("button.primary").click()
    await expect(other.get_by_role("heading", level=1)).to_have_text(text(TITLES["password"]))
    await person.types("code", "111111")  # in the first tab, which does not know
    await person.sees("password")
    assert len(person.sandbox.calls_of("exchange")) == 1


async def test_an_id_that_was_stolen_opens_nothing(
    browser: Browser, person: Person, server: PageServer, sandbox: Sandbox
) -> None:
    await person.reaches("code")
    cookies = await person.page.context.cookies()
    assert [(cookie["name"], cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [("reset", True, "Lax")]
    async with at_browser(browser, server, sandbox) as thief:
        await thief.opens()
        await thief.sees("account")
        found = server.database.with_name("flows.db")
        assert found.exists()
        flow_id = await _flow_id(person)
        answer = await thief.page.request.get(f"{server.url}api/flows/{flow_id}")
        assert answer.status == 404
        unknown = await thief.page.request.get(f"{server.url}api/flows/{'0' * len(flow_id)}")
        assert (await unknown.json())["code"] == (await answer.json())["code"]


async def _flow_id(person: Person) -> str:
    """Return the id of a person's flow, which the page itself never shows."""
    from reset_flow import Keyring, MemoryStore, ResetService  # noqa: PLC0415
    from reset_flow.testing import ScriptedTransport  # noqa: PLC0415

    keys = Keyring.from_file(person.server.database.with_name("keys"))
    (cookie,) = await person.page.context.cookies()
    async with ResetService(ScriptedTransport(), MemoryStore(), keys, sweep=False) as service:
        return service.id_of(cookie["value"])


async def test_start_over_and_cancel(person: Person) -> None:
    await person.reaches("code")
    await person.clicks("page.again")
    await person.sees("account")
    await expect(person.page.locator("input[name=user]")).to_have_value("robert.zak")
    await person.page.locator("button.primary").click()
    await person.sees("answer")
    await person.clicks("page.cancel")
    await person.sees("page.failed.cancelled")


# --- what breaks


async def test_the_worker_dies_between_any_two_steps(person: Person) -> None:
    await person.opens()
    for step, field in zip(("account", *STEPS), ("user", "answer", "code", "password", ""), strict=True):
        await person.sees(step)
        await person.server.dies_and_comes_back()
        await person.page.reload()
        await person.sees(step)
        if field:
            await person.server.dies_and_comes_back()  # with the form before the person
            await person.types(field, "robert.zak" if field == "user" else await person.given(field))
    assert person.sandbox.password_of("robert.zak") == PASSWORD
    assert len(person.sandbox.mails) == len(person.sandbox.calls_of("exchange")) == 1


async def test_a_broker_that_is_down_is_said_and_nothing_is_lost(person: Person) -> None:
    await person.reaches("answer")
    await person.sandbox.aclose()
    await person.types("answer", ANSWER)
    await person.reads("broker.unavailable")
    await person.sandbox.start()
    await person.types("answer", ANSWER)
    await person.sees("code")
    assert len(person.sandbox.mails) == 1


async def test_a_broker_that_is_down_at_the_start(person: Person) -> None:
    await person.sandbox.aclose()
    await person.starts()
    await person.reads("broker.unavailable")
    await expect(person.page.locator("input[name=user]")).to_have_value("robert.zak")
    await person.sandbox.start()
    await person.page.locator("button.primary").click()
    await person.sees("answer")


async def test_a_store_that_is_down_is_said_and_nothing_is_sent(
    person: Person, redis_server: RedisServer, redis_url: str
) -> None:
    await person.server.stop()
    await person.server.start(store=redis_url)
    await person.reaches("answer")
    await asyncio.to_thread(redis_server.stop)
    await person.types("answer", ANSWER)
    await person.reads("store.unavailable")
    await person.page.reload()
    await person.sees("page.unavailable.title")
    assert person.sandbox.calls_of("request") == []
    await asyncio.to_thread(redis_server.start)
    await person.opens()
    await person.types("answer", ANSWER)
    await person.sees("code")
    await person.server.stop()


@pytest.mark.parametrize(
    ("step", "route", "said"),
    [
        ("answer", "request", ["answer.in_doubt"]),
        ("code", "exchange", ["code.in_doubt", "code.rejected"]),
        ("password", "update", ["password.in_doubt", "done"]),
    ],
)
async def test_a_reply_that_is_lost(person: Person, step: str, route: str, said: list[str]) -> None:
    """The broker acted, and nobody learned it: the person is told what to do, and gets there."""
    await person.reaches(step)
    person.sandbox.fault(route, "drop_after", times=2)
    await person.types(step, await person.given(step))
    await person.reads(*said)
    if step == "answer":
        await person.types("code", person.code)
        await person.sees("password")
    assert len(person.sandbox.mails) == 1


async def test_a_lost_connection_keeps_what_was_typed(person: Person) -> None:
    await person.reaches("code")
    await person.page.locator("input[name=code]").fill(person.code)
    await person.page.context.set_offline(offline=True)
    await person.page.locator("button.primary").click()
    await expect(person.page.locator("#net")).to_contain_text(text("page.lost"))
    await expect(person.page.locator("input[name=code]")).to_have_value(person.code)
    await person.page.context.set_offline(offline=False)
    await person.sees("password")
    assert len(person.sandbox.calls_of("exchange")) == 1

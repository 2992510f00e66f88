"""The process that serves the page is killed at every point of a form; the browser sends the form again to another."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest
from aiohttp import web

from reset_flow import Flow, State
from reset_flow.web import create_app
from tests.crash.conftest import ANSWER, PASSWORD
from tests.web.houses import COOKIE, Form, Page, page_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.crash.conftest import Crash, Person

STEPS = ("start", "answer", "code", "password")
COMMANDS = {"code": "verify", "password": "set_password"}
TRIES = 200


@attrs.define
class Browser:
    """A person's at the page; it counts what was asked for, as a person does: a form that is sent again is the same."""

    crash: Crash
    url: str
    session: aiohttp.ClientSession
    person: Person
    page: Page | None = None

    @property
    def cookie(self) -> str:
        return next((each.value for each in self.session.cookie_jar if each.key == COOKIE), "")

    async def look(self) -> Page:
        return await self.send(self.url, "GET", "/")

    async def send(self, url: str, method: str, path: str, **options: Any) -> Page:
        async with self.session.request(method, url + path, allow_redirects=False, **options) as response:
            location = response.headers.get("Location")
            page = page_of(response.status, response.headers, await response.text() or "<p></p>")
        self.page = await self.send(self.url, "GET", location) if location else page
        return self.page

    def ask(self, step: str) -> tuple[Form, dict[str, str]]:
        """Fill a form, and count it."""
        assert self.page
        form, person = self.page.form(step), self.person
        command = COMMANDS.get(step, step)
        person.asked[command] += 1
        match step:
            case "start":
                return form, {**form.fields, "user": person.user}
            case "answer" if person.question:
                return form, {**form.fields, "answer": ANSWER}
            case "code":
                code = self.crash.sandbox.newest_code(person.user)
                person.asked[f"verify {code}"] += 1
                return form, {**form.fields, "code": code}
            case "password":
                person.passwords = 1
                person.asked[f"set_password {person.wanted}"] += 1
                return form, {**form.fields, "password": person.wanted}
        return form, form.fields

    async def do(self, step: str) -> Page:
        form, fields = self.ask(step)
        return await self.send(self.url, "POST", form.action, data=fields)

    async def go_on(self, until: str) -> None:
        """Do what the page asks for, until it asks for this, or nothing more."""
        for _ in range(TRIES):
            page = await self.look()
            shown = next((step for step in STEPS if page.has(step)), None)
            if shown == until or (shown is None and not page.has("resend") and "data-look" not in page.text):
                return
            if shown == "code" and self._is_lost():
                shown = "resend"
            if shown or page.has("resend"):
                await self.do(shown or "resend")
            else:
                await asyncio.sleep(0.1)  # busy
        pytest.fail(f"stuck: {self.page}")

    def _is_lost(self) -> bool:
        """Return whether there is no code that works."""
        mails = [mail.code for mail in self.crash.sandbox.mails if mail.user == self.person.user]
        return not mails or self.person.asked[f"verify {mails[-1]}"] > 0

    async def flow(self) -> Flow:
        service = self.crash.service
        return await service.get(service.id_of(self.cookie))


@pytest.fixture
async def living(crash: Crash) -> AsyncIterator[str]:
    """The address of the worker that lives."""
    async with AsyncExitStack() as closing:
        runner = web.AppRunner(create_app(crash.service, public_url="http://localhost/"), access_log=None)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"


async def play(
    crash: Crash, url: str, step: str, point: str | None, *, question: bool = True, pace: float = 1
) -> list[str] | None:
    """Play one reset; at this step, the process dies. Return the points that it passed, or `None` if not this one."""
    person = crash.person(question=question)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = Browser(crash, url, session, person)
        await browser.go_on(step)
        form, fields = browser.ask(step)
        doomed = crash.serve(person, point, deadline=1.5 * pace, lease=2.5 * pace)
        address = (await doomed.address).rstrip("/")
        with suppress(aiohttp.ClientError):
            await browser.send(address, "POST", form.action, data=fields)
        with suppress(ProcessLookupError):
            os.kill(await doomed.pid, signal.SIGTERM)  # the point may lie behind the answer
        end = await doomed.end
        if point and end["status"] == 0:
            return None
        assert end["status"] == (-signal.SIGKILL if point else 0), end
        await crash.check_nothing_shows(person)
        if point:
            await browser.send(url, "POST", form.action, data=fields)
        await browser.go_on("nothing")
        flow = await browser.flow()
        crash.check(person, flow)
        assert flow.state is State.PASSWORD_SET
        assert crash.kept(person) == PASSWORD.format(1)
        return list(end["passed"])


async def play_and_kill(crash: Crash, url: str, step: str, point: str, *, question: bool) -> None:
    """Play with a death at this point; again, with longer times, where the machine stalled on the way to it."""
    async with crash.at_once:
        for pace in (1, 4, 16):
            if await play(crash, url, step, point, question=question, pace=pace) is not None:
                return
    raise AssertionError(f"{step} did not come by {point!r}")


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("step", "question"), [("start", True), ("start", False), ("answer", True), ("code", False), ("password", False)]
)
async def test_a_form_that_is_sent_again_after_a_crash_goes_on_and_doubles_nothing(
    crash: Crash, living: str, step: str, *, question: bool
) -> None:
    await crash.person(question=True).finish()  # the first save in a store brings the ids of the keys with it
    points = await play(crash, living, step, None, question=question, pace=10)
    assert points
    assert any("save" in point for point in points)
    assert len(set(points)) == len(points)
    await asyncio.gather(*(play_and_kill(crash, living, step, point, question=question) for point in points))
    crash.check_the_living_shows_nothing()

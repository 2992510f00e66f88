"""What is logged, answered and kept in cookies, searched for secrets: nothing is there but what the page asks for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from reset_flow.testing import LeakScanner, traceback_of
from tests.web.houses import APP_KEY, random_key

if TYPE_CHECKING:
    import pytest

    from tests.web.houses import Browser, House, Page, Program, Reply

USER, ANSWER, PASSWORD = "Pérson+1/ü", 'Königsallee "7 ½" \\ Häuser', "violet träctor & {5}"
TYPED = ("wrong Änswer <1>", "violet träctor", "x" * 500 + " träctor")


def told(shown: Page | Reply) -> str:
    """Return all that a client got, but for its cookie."""
    headers = {name: value for name, value in shown.headers.items() if name != "Set-Cookie"}
    return f"{headers} {getattr(shown, 'text', '') or getattr(shown, 'body', '')}"


async def by_page(house: House, browser: Browser, shown: list[str], user: str) -> None:
    """Go through a reset from where the browser stands, with an error at each step."""
    for step, wrong, right in (("answer", TYPED[0], ANSWER), ("code", "000000", ""), ("password", TYPED[2], PASSWORD)):
        shown.append(told(await browser.do(step, **{step: wrong})))
        shown.append(told(await browser.do(step, **{step: right or house.sandbox.newest_code(user)})))
        shown.append(told(await browser.get()))


async def by_api(house: House, program: Program, replies: list[Reply], user: str) -> None:
    for step, wrong, right in (("answer", TYPED[0], ANSWER), ("code", "000000", ""), ("password", TYPED[2], PASSWORD)):
        replies.append(await program.do(step, wrong))
        replies.append(await program.do(step, right or house.sandbox.newest_code(user), key="1" + step))
        replies.append(await program.call("GET", f"api/flows/{program.flow_id}?answer=x"))


def secrets_of(house: House) -> dict[str, str]:
    """Return what was typed, and what the broker gave."""
    tokens = [call.reply["Model"] for call in house.sandbox.calls_of("exchange") if call.reply and call.acted]
    codes = [mail.code for mail in house.sandbox.mails]
    given = [ANSWER, PASSWORD, APP_KEY, *TYPED, *tokens, *codes]
    assert tokens
    assert codes
    return {f"text {number}": text for number, text in enumerate(given)}


async def test_a_page_says_nothing_but_what_it_asks_for(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.sandbox.add_user(USER, question="Where?", answer=ANSWER)
    worker = await house.worker()
    browser, linked = await house.browser(worker), await house.browser(worker)
    started, by_link = list[str](), list[str]()
    cookies = []
    with caplog.at_level(logging.DEBUG):
        started.append(told(await browser.get(f"?user={USER}")))
        cookies.append(browser.cookie)
        started.append(told(await browser.do("start", user=USER)))
        cookies.append(browser.cookie)
        await by_page(house, browser, started, USER)
        link = await worker.links.create((await worker.service.start(USER)).id)
        by_link.append(told(await linked.get(f"link/{link.rpartition('/')[2]}")))
        by_link.append(told(await linked.send(linked.page.forms[-1])))
        cookies.append(linked.cookie)
        await by_page(house, linked, by_link, USER)
    logged = f"{caplog.text} {[vars(record) for record in caplog.records]}"
    assert "POST '/reset/code' 303" in logged
    assert "POST '/reset/link/…' 303" in logged
    scanner = LeakScanner(secrets_of(house))
    assert scanner.find(*started, *by_link, logged, *cookies) == []
    opening = LeakScanner({"link": link.rpartition("/")[2], **{each: each for each in cookies}})
    assert opening.find(logged, *started) == []
    login = LeakScanner({"login": USER})
    assert login.find(logged, *by_link, *cookies) == []
    assert login.find(*started) != [], "the browser that typed it has it for its password manager"


async def test_the_api_says_nothing_but_what_it_asks_for(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.sandbox.add_user(USER, question="Where?", answer=ANSWER)
    worker = await house.worker()
    program = await house.program(worker)
    with caplog.at_level(logging.DEBUG):
        key = random_key()
        first = await program.start(USER, key=key)
        replies: list[Any] = [
            await program.start(f"{USER}\x00"),
            await program.call("POST", "api/flows", {USER: PASSWORD}),
        ]
        await by_api(house, program, replies, USER)
        replies.append(await program.cancel())
    assert {reply.status for reply in replies} >= {200, 400, 410, 422}
    logged = f"{caplog.text} {[vars(record) for record in caplog.records]}"
    assert f"/reset/api/flows/{program.flow_id}/code" in logged
    scanner = LeakScanner({**secrets_of(house), "login": USER})
    assert scanner.find(logged, told(first), *map(told, replies)) == []
    opening = LeakScanner({"secret": program.secret, "key": key})
    assert opening.find(logged, *map(told, replies)) == []
    assert opening.find(told(first)) != []


async def test_a_defect_is_logged_without_what_was_typed_and_told_without_what_it_is(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.sandbox.add_user(USER, question="Where?", answer=ANSWER)
    worker = await house.worker()
    program, browser = await house.program(worker), await house.browser(worker)
    await program.start(USER)
    await browser.start(USER)

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a disk of /srv")

    monkeypatch.setattr(type(worker.service), "answer", fail)
    reply, page = await program.do("answer", ANSWER), await browser.do("answer", answer=ANSWER)
    assert (reply.status, reply.body["code"], page.status) == (500, "reset_flow", 500)
    scanner = LeakScanner({"answer": ANSWER, "login": USER, "secret": program.secret, "cookie": browser.cookie})
    assert "a defect, please report it" in caplog.text
    assert "in fail" in caplog.text
    variables = [traceback_of(each[1]) for each in (record.exc_info for record in caplog.records) if each and each[1]]
    assert scanner.find(caplog.text, *variables, told(reply), told(page)) == []
    assert "/srv" not in told(reply) + told(page)

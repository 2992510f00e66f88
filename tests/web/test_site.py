"""A person's way through a reset, by forms: what is shown, and what comes of clicks that come twice, or late."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import html5lib
import pytest

from reset_flow import CommandRequest, CommandVetoed, Policy, State
from reset_flow.messages import LOCALES, Texts
from reset_flow.web import site
from tests.web.houses import ANSWER, ASKED, COOKIE, NOBODY, PASSWORD, UNASKED

if TYPE_CHECKING:
    from tests.web.houses import Browser, House


def said(text: str, browser: Browser, locale: str = "en") -> bool:
    """Return whether the page says a text that has no places."""
    document = html5lib.parse(browser.page.text, namespaceHTMLElements=False)
    return Texts().say(text, locale) in " ".join("".join(document.itertext()).split())


def title_of(browser: Browser) -> str:
    return "".join(html5lib.parse(browser.page.text, namespaceHTMLElements=False).find("head/title").itertext())


async def to_the_code(house: House, **options: object) -> Browser:
    browser = await house.browser(await house.worker(**options))  # type: ignore[arg-type] # as they are
    await browser.start()
    assert browser.page.has("code")
    return browser


@pytest.mark.parametrize("user", [ASKED, UNASKED])
async def test_any_worker_goes_on_after_any_step(house: House, user: str) -> None:
    browser = await house.browser(await house.worker())
    await browser.get()
    for step, text in (("start", user), ("answer", ANSWER), ("code", ""), ("password", PASSWORD)):
        if step == "answer" and user == UNASKED:
            continue
        field = {"start": "user"}.get(step, step)
        form = browser.page.form(step)
        await browser.worker.aclose()
        browser.worker = await house.worker()
        await browser.send(form.filled({field: text or house.sandbox.newest_code(user)}))
        assert browser.page.status == 200
    assert said("done", browser)
    assert house.sandbox.password_of(user) == PASSWORD


async def test_a_wrong_input_is_shown_at_its_field_and_may_be_typed_again(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start(ASKED)
    for step, wrong, right in (
        ("answer", "Elm street", ANSWER),
        ("code", "000000", ""),
        ("password", "short", PASSWORD),
    ):
        page = await browser.do(step, **{step: wrong})
        assert page.status == 422
        assert f'id="{step}-error"' in page.text
        assert title_of(browser).startswith("Error: ")
        assert wrong not in page.text, "it may be another secret of the person's"
        assert (await browser.do(step, **{step: right or house.sandbox.newest_code(ASKED)})).status == 200
    assert said("done", browser)


async def test_an_empty_login_is_asked_for_again(house: House) -> None:
    browser = await house.browser(await house.worker())
    for user in ("", "   "):
        page = await browser.start(user)
        assert (page.status, page.has("start")) == (422, True)
        assert said("user.invalid", browser)
    assert (await browser.do("start", user=f"  {UNASKED} ")).has("code")


# --- clicks that come twice, late, or in two windows


async def test_a_double_click_is_one_click(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.get()
    for step, text in (("start", ASKED), ("answer", ANSWER), ("code", ""), ("password", PASSWORD)):
        form, sent = browser.page.form(step), {"Cookie": f"{COOKIE}={browser.cookie}"}
        fields = {{"start": "user"}.get(step, step): text or house.sandbox.newest_code(ASKED)}
        pages = await asyncio.gather(*(browser.send(form, follow=False, headers=sent, **fields) for _ in range(4)))
        assert [page.status for page in pages] == [303] * 4
        await browser.get()
    assert said("done", browser)
    for route in ("request", "exchange", "update"):
        assert len(house.sandbox.calls_of(route)) == 1
    assert house.sandbox.user(ASKED).mails_sent == 1


async def test_a_page_that_is_loaded_again_sends_nothing_again(house: House) -> None:
    browser = await to_the_code(house)
    form = browser.page.form("code")
    for _ in range(3):
        page = await browser.send(form, code="000000")
        assert (page.status, page.has("code")) == (422, True)
    assert len(house.sandbox.calls_of("exchange")) == 1
    assert (await browser.flow()).attempts_left == 4


async def test_who_went_back_is_shown_where_the_reset_stands(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start(ASKED)
    answer = browser.page.form("answer")
    await browser.do("answer", answer=ANSWER)
    code = browser.page.form("code")
    assert (await browser.send(answer, answer="another one")).has("code")
    await browser.do("code", code=house.sandbox.newest_code(ASKED))
    assert (await browser.send(code, code="000000")).has("password")
    assert (await browser.send(answer, answer=ANSWER)).has("password")
    password = browser.page.form("password")
    await browser.do("password", password=PASSWORD)
    assert (await browser.send(password, password="another one 4")).status == 200
    assert said("done", browser)
    assert house.sandbox.password_of(ASKED) == PASSWORD
    assert [len(house.sandbox.calls_of(route)) for route in ("request", "exchange", "update")] == [1, 1, 1]


async def test_two_windows_go_on_with_one_reset(house: House) -> None:
    browser = await to_the_code(house)
    first, second = browser.page.form("code"), (await browser.get()).form("code")
    code = house.sandbox.newest_code(UNASKED)
    pages = await asyncio.gather(*(browser.send(form, code=code) for form in (first, second)))
    assert [page.has("password") for page in pages] == [True, True]
    assert len(house.sandbox.calls_of("exchange")) == 1


async def test_start_over_ends_the_reset_and_keeps_the_login(house: House) -> None:
    browser = await to_the_code(house)
    flow, before = await browser.flow(), browser.cookie
    page = await browser.do("again")
    assert page.form("start").fields["user"] == UNASKED
    assert browser.cookie != before
    assert (await browser.worker.service.get(flow.id)).state is State.FAILED
    await browser.do("start", user=ASKED)
    assert browser.page.has("answer")


async def test_start_over_works_where_the_reset_can_not_be_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: CommandRequest) -> None:
        if request.command == "cancel":
            raise CommandVetoed("not now")

    monkeypatch.setattr(site, "PATIENCE", timedelta(0))
    browser = await to_the_code(house, guards=(refuse,))
    assert (await browser.do("again")).has("start")
    await browser.do("start", user=UNASKED)
    house.sandbox.fault("exchange", "latency_after", seconds=3600)
    busy, again = browser.page.form("code"), browser.page.form("again")
    sending = asyncio.create_task(browser.send(busy, code=house.sandbox.newest_code(UNASKED)))
    await house.sandbox.wait_for_calls("exchange")
    assert (await browser.send(again)).has("start")
    house.sandbox.release()
    await sending


async def test_a_reset_that_is_cancelled_can_be_begun_anew(house: House) -> None:
    browser = await to_the_code(house)
    await browser.do("cancel")
    assert said("failed.cancelled", browser)
    assert (await browser.do("again")).form("start").fields["user"] == UNASKED


async def test_another_code_is_sent_when_its_time_has_come(house: House) -> None:
    browser = await to_the_code(house)
    page = await browser.do("resend")
    assert (page.status, page.headers["Retry-After"]) == (429, "60")
    house.clock.advance(timedelta(minutes=1))
    assert (await browser.do("resend")).status == 200
    assert house.sandbox.user(UNASKED).mails_sent == 2
    await browser.do("code", code=house.sandbox.newest_code(UNASKED))
    assert browser.page.has("password")


async def test_a_reset_whose_time_is_up_says_so(house: House) -> None:
    browser = await to_the_code(house)
    form = browser.page.form("code")
    house.clock.advance(timedelta(hours=1))
    await browser.send(form, code=house.sandbox.newest_code(UNASKED))
    assert said("failed.expired", browser)
    assert browser.page.has("again")


async def test_too_many_wrong_codes_end_the_reset(house: House) -> None:
    browser = await to_the_code(house, policy=Policy(code_attempts=2))
    await browser.do("code", code="000000")
    await browser.do("code", code="000001")
    assert said("failed.too_many_attempts", browser)


# --- languages


async def test_a_person_chooses_a_language_and_keeps_it(house: House) -> None:
    browser = await house.browser(await house.worker())
    page = await browser.get(headers={"Accept-Language": "es"})
    assert page.headers["Content-Language"] == "es"
    await browser.do("language", locale="de")
    assert browser.page.headers["Content-Language"] == "de"
    await browser.do("start", user=UNASKED)
    assert 'lang="de"' in browser.page.text
    await browser.do("language", locale="xx")
    assert browser.page.headers["Content-Language"] == "de"
    assert browser.page.has("code"), "the step stays the same"


async def test_the_switch_leads_back_to_the_page_of_a_link_and_nowhere_else(house: House) -> None:
    browser = await to_the_code(house)
    link = await browser.worker.links.create((await browser.flow()).id)
    path = f"link/{link.rpartition('/')[2]}"
    await browser.get(path)
    form = browser.page.form("language")
    page = await browser.send(form, locale="de", follow=False)
    assert page.headers["Location"] == f"/reset/{path}"
    for elsewhere in (
        "https://elsewhere.example",
        "//elsewhere.example",
        "link/\r\nX: y",
        "../admin",
        "\\\\x",
        "start",
    ):
        page = await browser.send(form, locale="de", follow=False, next=elsewhere)
        assert page.headers["Location"] == "/reset/"


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_whole_reset_in_each_language(house: House, locale: str) -> None:
    browser = await house.browser(await house.worker())
    await browser.get()
    await browser.do("language", locale=locale)
    for step, text in (("start", ASKED), ("answer", ANSWER), ("code", ""), ("password", PASSWORD)):
        await browser.do(step, **{{"start": "user"}.get(step, step): text or house.sandbox.newest_code(ASKED)})
        assert (browser.page.status, browser.page.headers["Content-Language"]) == (200, locale)
    assert said("done", browser, locale)


# --- brokers out of reach, and doubt


async def test_a_broker_out_of_reach_loses_nothing(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start(ASKED)
    await house.sandbox.aclose()
    page = await browser.do("answer", answer=ANSWER)
    assert (page.status, page.has("answer")) == (503, True)
    assert "127.0.0.1" not in page.text.replace(browser.worker.url, "")
    await house.sandbox.start()
    assert (await browser.do("answer", answer=ANSWER)).has("code")


async def test_a_broker_out_of_reach_at_the_start_keeps_the_login(house: House) -> None:
    browser = await house.browser(await house.worker())
    await house.sandbox.aclose()
    page = await browser.start()
    assert page.status == 503
    assert page.form("start").fields["user"] == UNASKED
    await house.sandbox.start()
    assert (await browser.do("start", user=UNASKED)).has("code")


async def test_a_code_that_could_not_be_sent_is_asked_for_again(house: House) -> None:
    browser = await house.browser(await house.worker())
    house.sandbox.fault("request", "status", status=503, headers={"Retry-After": "7"})
    page = await browser.start()
    assert page.status == 503
    assert (await browser.get()).has("answer"), "the reset is there"
    assert (await browser.do("answer")).has("code")


async def test_a_password_in_doubt_is_explained_and_may_be_set_again(house: House) -> None:
    browser = await to_the_code(house, policy=Policy(probe_by_login=False))
    await browser.do("code", code=house.sandbox.newest_code(UNASKED))
    house.sandbox.fault("update", "drop_before", times=2)
    page = await browser.do("password", password=PASSWORD)
    assert page.status == 502
    assert said("password.in_doubt", browser)
    await browser.do("password", password=PASSWORD)
    assert said("done", browser)
    assert house.sandbox.password_of(UNASKED) == PASSWORD


async def test_a_veto_is_told_and_the_reset_stays(house: House) -> None:
    async def refuse(request: CommandRequest) -> None:
        if request.command == "verify":
            raise CommandVetoed("first prove that you are no machine")

    browser = await to_the_code(house, guards=(refuse,))
    page = await browser.do("code", code="000000")
    assert (page.status, page.has("code")) == (403, True)
    assert said("vetoed", browser)


async def test_a_start_that_is_vetoed_keeps_the_login(house: House) -> None:
    async def refuse(request: CommandRequest) -> None:
        raise CommandVetoed(f"no {request.command} from there")

    browser = await house.browser(await house.worker(guards=(refuse,)))
    page = await browser.start()
    assert (page.status, page.form("start").fields["user"]) == (403, UNASKED)
    assert said("vetoed", browser)


# --- masking


async def test_a_login_that_is_unknown_is_shown_the_same_in_the_same_size(house: House) -> None:
    other = UNASKED[0] + "x" * (len(UNASKED) - 2) + UNASKED[-1]
    worker = await house.worker(policy=Policy(code_attempts=3))
    browsers = [await house.browser(worker) for _ in range(2)]
    pairs = []
    for step, text in (
        ("start", ""),
        ("code", "1"),
        ("code", "000000"),
        ("resend", ""),
        ("code", "0"),
        ("code", "000001"),
    ):
        pages = []
        for browser, user in zip(browsers, (UNASKED, other), strict=True):
            if step == "start":
                await browser.start(user)
            elif step == "resend":
                await browser.do("resend")
            else:
                await browser.do("code", code=text)
            pages.append(browser.page)
        pairs.append(pages)
    for one, two in pairs:
        assert one.status == two.status
        assert len(one.text) == len(two.text)
        assert [form.action for form in one.forms] == [form.action for form in two.forms]
        assert set(one.headers) == set(two.headers)
    assert len({page.status for pages in pairs for page in pages}) > 1


async def test_a_login_that_is_unknown_is_not_told_even_when_the_page_is_new(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start(NOBODY)
    assert browser.page.has("code")
    assert (await browser.get()).has("resend")

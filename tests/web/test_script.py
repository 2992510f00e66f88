"""What the script adds to the page, in chromium: countdowns, local times, and forms that outlive a lost reply."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import attrs
import pytest
from playwright.sync_api import expect

from reset_flow import CodeFormat, PasswordRules, Step
from reset_flow.domain.secret import Secret
from reset_flow.web import Look
from reset_flow.web.pages import Pages
from tests.conftest import program
from tests.web.gallery import ORIGIN, chromium, serve
from tests.web.screens import NOW, SCREENS, flow_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.server  # a browser of the system is installed as servers are
BERLIN = "Europe/Berlin"
expect.set_options(timeout=60_000)  # machines are busy
WRONG = NOW - timedelta(hours=3)
"""What the clock of the device says."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(program("chromium")) as started:
        yield started


class Stage:
    """A page in a browser, and what its forms come to: a screen, a text that is none of ours, or a lost reply."""

    def __init__(self, page: Page, pages: Pages) -> None:
        self.page = page
        self.pages = pages
        self.replies: list[str | None] = []
        self.sent: list[dict[str, list[str]]] = []
        page.route("**", self.answer)

    def answer(self, route: Route) -> None:
        if route.request.method == "GET":
            serve(self.pages, SCREENS[self.shown], route)
            return
        self.sent.append(parse_qs(route.request.post_data or "", keep_blank_values=True))
        reply = self.replies.pop(0)
        if reply is None:
            route.abort("connectionreset")
        elif reply in SCREENS:
            serve(self.pages, SCREENS[reply], route)
        else:
            route.fulfill(status=502, body=reply, content_type="text/html")

    def show(self, name: str, *replies: str | None) -> Page:
        self.shown, self.replies = name, list(replies)
        self.page.goto(f"{ORIGIN}/reset/")
        return self.page


@contextmanager
def staged(browser: Browser, **settings: Any) -> Iterator[Stage]:
    context = browser.new_context(timezone_id=BERLIN, locale="en-GB", **settings)
    pages = Pages(Look(name="Nordbank"), code=CodeFormat.digits(6), rules=PasswordRules())
    page = context.new_page()
    page.clock.install(time=WRONG - timedelta(minutes=1))
    yield Stage(page, pages)
    context.close()


@pytest.fixture
def stage(browser: Browser) -> Iterator[Stage]:
    with staged(browser) as made:
        yield made


def test_another_code_is_counted_down_by_the_servers_clock_and_told_once(stage: Stage) -> None:
    stage.page.clock.pause_at(WRONG)
    page = stage.show("code", "code")
    button = page.locator("form[action$=resend] button")
    expect(button).to_have_accessible_name("Send another code (from 15:01)")
    expect(button.locator("[aria-hidden]")).to_have_text("Send another code (in 0:42)")
    button.click(force=True)
    page.clock.run_for(30_000)
    expect(button.locator("[aria-hidden]")).to_have_text("Send another code (in 0:12)")
    expect(page.locator("#live")).to_be_empty()
    page.clock.run_for(12_500)
    expect(button).to_have_text("Send another code")
    expect(page.locator("#live")).to_have_text("You can ask for another code now.")
    assert stage.sent == []
    button.click()
    expect(button.locator("[aria-hidden]")).to_be_visible()
    assert len(stage.sent) == 1


def test_times_are_those_of_the_person(stage: Stage) -> None:
    page = stage.show("code-limit")
    expect(page.locator("footer")).to_contain_text("This reset is open until 15:57.")
    expect(page.locator(".alert")).to_contain_text("Try again in 20 hours (Tuesday 11:00).")
    stage.page.clock.pause_at(WRONG + timedelta(minutes=10))
    stage.show("unavailable")
    waits = page.get_by_role("main")
    expect(waits).to_contain_text("Try again in 5 seconds.")
    page.clock.run_for(5_000)
    expect(waits).to_contain_text("Try again now.")


def test_the_end_is_told_five_minutes_and_one_minute_before(stage: Stage) -> None:
    stage.page.clock.pause_at(WRONG)
    page = stage.show("code")
    live = page.locator("#live")
    for minutes, told in ((52, "in 5 minutes"), (4, "in one minute"), (1, "The time for this reset is over.")):
        expect(live).not_to_contain_text(told)
        page.clock.run_for(minutes * 60_000 + 1_200)
        expect(live).to_contain_text(told)


def test_a_form_whose_reply_is_lost_is_sent_again_as_the_same_command(stage: Stage) -> None:
    page = stage.show("code", None, "<h1>502 Bad Gateway</h1>", "password")
    page.get_by_label("Code", exact=True).fill("012345")
    page.get_by_role("button", name="Continue").click()
    lost = page.locator("#net")
    expect(lost).to_contain_text("No connection. What you typed is kept.")
    expect(page.get_by_role("button", name="One moment…")).to_be_disabled()
    lost.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Choose a new password")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(lost).to_be_empty()
    assert [(form["code"], form["once"]) for form in stage.sent] == [(["012345"], ["o" * 22])] * 3


def test_a_double_click_sends_one_form(stage: Stage) -> None:
    page = stage.show("account", "answer")
    page.get_by_label("Login or email address").fill("robert.zak")
    page.get_by_role("button", name="Continue").dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text("Answer your security question")
    assert [form["user"] for form in stage.sent] == [["robert.zak"]]


def test_a_refusal_puts_the_person_at_the_field_that_tells_it(stage: Stage) -> None:
    page = stage.show("code", "code-rejected")
    page.get_by_role("button", name="Continue").click()
    field = page.get_by_label("Code", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(
        "6 digits That code is not right. Only the code from the newest email counts. One try left."
    )
    expect(page).to_have_title("Error: Enter the code from your email – Nordbank")


def test_a_password_can_be_shown_and_its_rules_are_ticked_and_told(stage: Stage) -> None:
    page = stage.show("password")
    field = page.get_by_label("New password", exact=True)
    page.get_by_role("button", name="Show password").click()
    expect(field).to_have_attribute("type", "text")
    expect(page.get_by_role("button", name="Show password")).to_have_attribute("aria-pressed", "true")
    met = page.locator(".rules .met")
    field.press_sequentially("robert.zak1")
    expect(met).to_have_text(["At least 8 characters (met)"])
    field.fill("robert eats violet tractors")
    expect(met).to_have_text(["At least 8 characters (met)", "Not just your login (met)"])
    expect(page.locator("#live")).to_have_text("Not just your login (met)")
    field.fill("short")
    expect(page.locator(".rules li").first).to_have_text("At least 8 characters (not met yet)")


LOGINS = ["robert.zak", "ana", "Jürgen.Ößterreich@example.com", "x" * 20, "zoë-1990@b.org", "12", "12@x.org"]
TYPED = [
    "{login}", "{login}1", "{login}12345678", "{login}abcd", "{login}{login}", "{login}-{login}",
    "{login} eats 9 pears", "ROBERT.ZAK", "robert", "zak12345", "zakzakzak", "robertzak!", "r0bert.zak",
    "ana", "anaana12", "xana99",
    "example.com", "jürgen", "JÜRGEN2026", "oßterreich", "zoë", "1990", "violet tractor sings", "ｒｏｂｅｒｔ", "💐💐",
    "a", "12", "x12", "anabcana",
]  # fmt: skip


def test_the_rule_on_the_login_is_met_as_the_library_has_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = PasswordRules(min_length=1, blocklist=())
    for login in LOGINS:
        flow = flow_at(Step.PASSWORD, user=login)
        monkeypatch.setitem(SCREENS, "of this login", attrs.evolve(SCREENS["password"], flow=flow))
        page = stage.show("of this login")
        for password in (typed.replace("{login}", login) for typed in TYPED):
            page.locator("#password").fill("-")
            page.locator("#password").fill(password)
            is_met = page.locator('[data-rule="login"]').evaluate("rule => rule.classList.contains('met')")
            refused = [reason.code for reason in rules.refusals(Secret(password), login)]
            assert is_met is ("login" not in refused), (login, password)


def test_a_page_that_waits_looks_until_there_is_something_to_do(stage: Stage) -> None:
    page = stage.show("busy")
    heading = page.get_by_role("heading", level=1)
    with page.expect_request(f"{ORIGIN}/reset/"):
        page.clock.run_for(1_500)
    expect(heading).to_have_text("One moment, please")
    stage.shown = "done"
    expect(heading).to_have_text("Your password is changed")


def test_without_the_script_times_are_of_the_day_and_a_form_is_a_form(browser: Browser) -> None:
    with staged(browser, java_script_enabled=False) as stage:
        page = stage.show("code", "code-rejected")
        expect(page.get_by_role("button", name="Send another code (from 2:01")).to_be_enabled()
        expect(page.locator("footer")).to_contain_text("open until 2:57")
        page.get_by_label("Code", exact=True).fill("111111")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#code-error")).to_contain_text("That code is not right.")
        assert [form["code"] for form in stage.sent] == [["111111"]]
        stage.show("password")
        expect(page.get_by_role("button", name="Show password")).to_have_count(0)


@pytest.mark.parametrize("locale", ["en", "de", "es"])
def test_nothing_is_wider_than_a_small_screen_or_one_at_400_percent(browser: Browser, locale: str) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 225})
    page = context.new_page()
    pages = Pages(Look(name="N" * 40), code=CodeFormat.digits(6), rules=PasswordRules())
    for screen in SCREENS.values():
        named = attrs.evolve(screen, locale=locale)
        if named.flow:
            named = attrs.evolve(named, flow=attrs.evolve(named.flow, user="x" * 300 + "@" + "y" * 300 + ".org"))
        page.set_content(pages.render(named))
        page.add_style_tag(content=pages_style(pages))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()


def pages_style(pages: Pages) -> str:
    return "".join(asset.body.decode() for asset in pages.assets.values() if asset.content_type == "text/css")

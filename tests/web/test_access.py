"""What opens a flow: secrets, cookies, forms and links. And what does not."""

from __future__ import annotations

import asyncio
import itertools
import re
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from reset_flow import (
    ConfigurationError,
    FlowNotFound,
    HeldElsewhere,
    InvalidInput,
    Keyring,
    MemoryStore,
    ResetService,
    State,
)
from reset_flow.testing import LeakScanner, ScriptedTransport, dump
from reset_flow.web import Links
from tests.web.houses import ANSWER, ASKED, COOKIE, PASSWORD, UNASKED, Form, random_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from reset_flow import Record, Use, UseName
    from tests.web.houses import Browser, House, Program, Worker

HTTPS = "https://example.com/reset/"
ELSEWHERE = [
    {"Origin": "https://elsewhere.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
]


def path_of(link: str) -> str:
    """Return where a link leads, below the page."""
    return f"link/{link.rpartition('/')[2]}"


async def opened_by_link(house: House, worker: Worker, flow_id: str, holder: str | None = None) -> Browser:
    """Return a browser whose person has followed a new link to a flow."""
    browser = await house.browser(worker)
    page = await browser.get(path_of(await worker.links.create(flow_id, holder=holder)))
    await browser.send(page.forms[-1])
    return browser


# --- secrets


async def test_the_secret_of_the_start_opens_the_flow(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    assert (await program.get()).status == 200
    assert (
        await program.call("GET", f"api/flows/{program.flow_id}", headers={"authorization": "nothing"})
    ).status == 200


async def test_a_wrong_secret_is_as_an_unknown_id(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    unknown = await program.call("GET", f"api/flows/{'0' * 26}")
    for secret in ("", " ", "wrong", "w" * 43, "w" * 5000, "ü" * 43, "Zm9v" * 20, "link." + "w" * 30, program.flow_id):
        wrong = await program.get(secret=secret)
        assert (wrong.status, wrong.body) == (unknown.status, unknown.body)
        assert wrong.status == 404
        assert (await program.cancel(secret=secret)).status == 404
    assert (await program.get()).body["state"] == "question_answered"


async def test_a_secret_opens_no_other_flow(house: House) -> None:
    worker = await house.worker()
    mine, other = await house.program(worker), await house.program(worker)
    await mine.start()
    await other.start(ASKED)
    assert (await mine.get(secret=other.secret)).status == 404
    assert (await mine.do("code", "123456", secret=other.secret)).status == 404
    assert (await mine.cancel(secret=other.secret)).status == 404
    assert house.sandbox.calls_of("exchange") == []
    assert (await mine.cancel()).body["state"] == "failed"


@pytest.mark.parametrize("house", ["sqlite"], indirect=True)
async def test_the_store_has_the_hash_of_a_secret_and_of_a_link_alone(tmp_path: Path, house: House) -> None:
    worker = await house.worker()
    program, browser = await house.program(worker), await house.browser(worker)
    await program.start()
    await browser.start(ASKED)
    link = await worker.links.create(program.flow_id)
    other = await opened_by_link(house, worker, program.flow_id)
    scanner = LeakScanner({
        "secret": program.secret, "cookie": browser.cookie, "link": link.rpartition("/")[2], "of a link": other.cookie,
    })  # fmt: skip
    found = await dump(f"sqlite:///{tmp_path}/flows.db")
    assert scanner.find(found) == []
    assert scanner.find(found + program.secret.encode()) != []


# --- cookies


async def test_on_this_machine_the_cookie_has_a_plain_name_and_is_out_of_the_reach_of_scripts(house: House) -> None:
    browser = await house.browser(await house.worker())
    page = await browser.get()
    cookie = SimpleCookie(page.headers["Set-Cookie"])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")
    assert not cookie["secure"]


async def test_over_https_browsers_enforce_that_the_cookie_is_of_this_host(house: House) -> None:
    browser = await house.browser(await house.worker(public_url=HTTPS))
    page = await browser.get()
    (name, cookie), *more = SimpleCookie(page.headers["Set-Cookie"]).items()
    assert (name, more) == (f"__Host-{COOKIE}", [])
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
    assert (cookie["path"], cookie["domain"]) == ("/", "")
    assert page.headers["Strict-Transport-Security"]


async def test_over_https_the_cookie_with_the_plain_name_opens_nothing(house: House) -> None:
    worker = await house.worker(public_url=HTTPS)
    program, browser = await house.program(worker), await house.browser(worker)
    await program.start()
    page = await browser.get(headers={"Cookie": f"{COOKIE}={program.secret}"})
    assert page.has("start")
    page = await browser.get(headers={"Cookie": f"__Host-{COOKIE}={program.secret}"})
    assert page.has("code")


async def test_each_start_has_a_cookie_of_its_own(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.get()
    cookies = [browser.cookie]
    for _ in range(2):
        await browser.do("start", user=UNASKED)
        cookies.append(browser.cookie)
        await browser.do("again")
        cookies.append(browser.cookie)
    assert len(set(cookies)) == 5


async def test_the_cookie_that_somebody_had_before_the_start_does_not_open_the_flow(house: House) -> None:
    worker = await house.worker()
    browser, attacker = await house.browser(worker), await house.browser(worker)
    await attacker.get()
    browser.cookie = attacker.cookie  # tossed from a sibling, where nothing keeps that from happening
    await browser.start()
    assert browser.page.has("code")
    assert (await attacker.get()).has("start")


async def test_what_another_site_has_a_browser_send_does_not_cost_it_its_cookie(house: House) -> None:
    browser = await house.browser(await house.worker())
    # With SameSite=Lax, the browser keeps its cookie to itself: it must not be given another one in its place.
    for path in ("", "start", "code", "nowhere", "link/" + "w" * 43):
        for headers in ({}, *ELSEWHERE):
            page = await browser.send(Form(f"/reset/{path}", {}), headers=headers, follow=False)
            assert page.status in (403, 404, 405)
            assert "Set-Cookie" not in page.headers


# --- forms


async def test_a_form_without_the_right_token_does_nothing(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start()
    forms, tokens = ("code", "resend", "again", "cancel", "language"), ("", "wrong", "ü" * 22, "\x00")
    for name, csrf in itertools.product(forms, tokens):
        before = await browser.flow()
        page = await browser.send(browser.page.form(name), csrf=csrf, code="123456", locale="de")
        assert page.status == 403
        assert await browser.flow() == before
        await browser.get()
    assert house.sandbox.calls_of("exchange") == []


async def test_the_form_of_another_browser_does_nothing(house: House) -> None:
    worker = await house.worker()
    browser, attacker = await house.browser(worker), await house.browser(worker)
    await browser.start()
    await attacker.start(ASKED)
    page = await browser.send(attacker.page.form("cancel"))
    assert page.status == 403
    assert (await browser.flow()).state is State.QUESTION_ANSWERED


async def test_what_another_site_sends_does_nothing_even_with_the_right_token(house: House) -> None:
    browser = await house.browser(await house.worker())
    await browser.start()
    form = browser.page.form("cancel")
    for headers in ELSEWHERE:
        assert (await browser.send(form, headers=headers)).status == 403
    assert (await browser.flow()).state is State.QUESTION_ANSWERED
    await browser.send(form)
    assert (await browser.flow()).state is State.FAILED


@pytest.mark.parametrize("headers", [{"Origin": "null"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}])
async def test_what_our_own_forms_send_is_taken(house: House, headers: dict[str, str]) -> None:
    browser = await house.browser(await house.worker())
    await browser.start()
    await browser.send(browser.page.form("cancel"), headers=headers)
    assert (await browser.flow()).state is State.FAILED


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        ("https://example.com/reset/", "https://example.com"),
        ("https://Example.com:443/reset/", "https://example.com"),
        ("https://example.com:8443/reset/", "https://example.com:8443"),
        ("https://exämple.com/reset/", "https://xn--exmple-cua.com"),
    ],
)
async def test_the_origin_is_as_browsers_write_it(house: House, public_url: str, origin: str) -> None:
    worker = await house.worker(public_url=public_url)
    browser = await house.browser(worker)
    page = await browser.get()
    name, morsel = next(iter(SimpleCookie(page.headers["Set-Cookie"]).items()))
    cookie = {"Cookie": f"{name}={morsel.value}"}
    page = await browser.send(page.form("start"), user=UNASKED, follow=False, headers=cookie | {"Origin": origin})
    assert page.status == 303
    other = cookie | {"Origin": origin.replace("ex", "x")}
    assert (await browser.send(Form("/reset/start", {}), user=UNASKED, headers=other)).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_this_machine_may_be_called_by_any_of_its_names(house: House, host: str) -> None:
    browser = await house.browser(await house.worker())
    port = urlsplit(browser.worker.url).port
    form = (await browser.get()).form("start")
    assert (await browser.send(form, user=UNASKED, headers={"Origin": f"http://{host}:{port}"})).has("code")
    for other in (f"http://{host}:1", f"https://{host}:{port}", f"http://{host}.elsewhere.example:{port}"):
        assert (await browser.send(form, user=UNASKED, headers={"Origin": other})).status == 403


# --- the API with the page's cookie


async def test_the_pages_cookie_opens_the_api_with_the_token_of_its_forms(house: House) -> None:
    worker = await house.worker()
    browser, program = await house.browser(worker), await house.program(worker)
    await browser.start()
    program.cookie, program.flow_id = browser.cookie, (await browser.flow()).id
    assert (await program.get()).status == 200
    token = browser.page.form("cancel").fields["csrf"]
    for wrong in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": "ü"}, {"X-CSRF-Token": "\udcff"}):
        assert (await program.cancel(headers=wrong)).status == 403
    for headers in ELSEWHERE:
        assert (await program.cancel(headers={"X-CSRF-Token": token, **headers})).status == 403
    assert (await program.cancel(headers={"X-CSRF-Token": token})).body["failure"] == "cancelled"


# --- links


async def test_a_link_opens_the_flow_at_the_step_that_is_due(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(ASKED)
    browser = await opened_by_link(house, worker, flow.id)
    page = await browser.do("answer", answer=ANSWER)
    assert page.has("code")
    other = await opened_by_link(house, worker, flow.id)
    assert other.page.has("code")


async def test_to_look_at_a_link_uses_nothing_up(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    path = path_of(await worker.links.create(flow.id))
    scanner, browser = await house.browser(worker), await house.browser(worker)
    for _ in range(3):
        page = await scanner.get(path)
        assert (await scanner.head(path)) == 200
    assert "m…n" in page.text, "for whom"
    page = await browser.get(path)
    page = await browser.send(page.forms[-1])
    assert page.has("code")


async def test_a_link_works_once(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    path = path_of(await worker.links.create(flow.id))
    first, second = await house.browser(worker), await house.browser(await house.worker())
    forms = [(await browser.get(path)).forms[-1] for browser in (first, second)]
    assert (await first.send(forms[0])).has("code")
    assert (await second.send(forms[1])).status == 410
    assert (await second.get(path)).status == 410
    assert (await second.get()).has("start")
    await worker.aclose()
    third = await house.browser(await house.worker())
    assert (await third.get(path)).status == 410


async def test_the_click_on_a_link_that_comes_again_is_one_click(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    path = path_of(await worker.links.create(flow.id))
    browser = await house.browser(worker)
    form = (await browser.get(path)).forms[-1]
    sent = {"Cookie": f"{COOKIE}={browser.cookie}"}
    pages = await asyncio.gather(*(browser.send(form, follow=False, headers=sent) for _ in range(8)))
    assert {page.status for page in pages} == {303}
    assert len({SimpleCookie(page.headers["Set-Cookie"])[COOKIE].value for page in pages}) == 1


class Stalled(MemoryStore):
    """A store in memory; `before`: what else happens before each of its next saves."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Callable[[], Awaitable[object]] | None] = []

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        if self.before and (happening := self.before.pop(0)):
            await happening()
        await super().save(record, add=add, drop=drop)


async def test_the_click_that_comes_again_is_one_click_wherever_it_meets_the_first() -> None:
    store, reached, released = Stalled(), asyncio.Event(), asyncio.Event()
    others: list[asyncio.Task[str | None]] = []
    async with ResetService(ScriptedTransport(), store, Keyring.generate()) as service:
        links = Links(service, HTTPS)
        token = path_of(await links.create((await service.start(UNASKED)).id)).removeprefix("link/")

        async def begin() -> None:
            others.append(asyncio.create_task(links.exchange(token, "once")))
            await reached.wait()

        async def stop() -> None:
            reached.set()
            await released.wait()

        async def go_on() -> None:
            released.set()
            await others[0]

        store.before = [begin, None, stop, go_on]
        secret = await links.exchange(token, "once")
        assert store.before == []
        assert secret
        assert secret == await others[0]


async def test_of_two_browsers_with_one_link_one_gets_in(house: House) -> None:
    workers = [await house.worker(), await house.worker()]
    flow = await workers[0].service.start(UNASKED)
    path = path_of(await workers[0].links.create(flow.id))
    browsers = [await house.browser(worker) for worker in workers * 3]
    forms = [(await browser.get(path)).forms[-1] for browser in browsers]
    pages = await asyncio.gather(*(browser.send(form) for browser, form in zip(browsers, forms, strict=True)))
    assert sorted(page.status for page in pages) == [200, *[410] * 5]
    assert [(await browser.get()).has("code") for browser in browsers].count(True) == 1


async def test_a_link_is_good_for_its_lifetime(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    links = [await worker.links.create(flow.id), await worker.links.create(flow.id, timedelta(minutes=2))]
    browser = await house.browser(worker)
    house.clock.advance(timedelta(minutes=3))
    page = await browser.get(path_of(links[0]))
    assert (await browser.get(path_of(links[1]))).status == 410
    house.clock.advance(timedelta(minutes=8))
    assert (await browser.send(page.forms[-1])).status == 410


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), 600, None])
async def test_a_link_that_is_good_for_no_time_is_none(house: House, lifetime: Any) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    with pytest.raises(InvalidInput):
        await worker.links.create(flow.id, lifetime)


async def test_what_is_no_link_is_as_one_that_is_used(house: House) -> None:
    browser = await house.browser(await house.worker())
    for token in ("x", "w" * 43, "%00" * 30, "%0d%0a" * 20, "%ff" * 30, "%C3%BC" * 30, "w" * 3000, "w" * 30 + "%2F"):
        page = await browser.get(f"link/{token}")
        assert page.status == 410
        again = await browser.send(Form(f"/reset/link/{token}", page.forms[0].fields))
        assert again.status == 410


async def test_links_say_what_no_link_is(house: House) -> None:
    worker = await house.worker()
    for token in ("", "\x00" * 30, "ü" * 30, "w" * 43, "w" * 10_000):
        assert await worker.links.look(token) is None
        assert await worker.links.exchange(token, "once") is None
    with pytest.raises(FlowNotFound):
        await worker.links.create("nothing")


# --- fixation: somebody has another person's code typed into a flow that he started


async def refused_to(attacker: Program) -> None:
    """Try everything that a secret is good for."""
    replies = [
        await attacker.get(),
        await attacker.do("password", "the attackers choice"),
        await attacker.do("code", "123456"),
        await attacker.do("resend"),
        await attacker.cancel(),
    ]
    assert [(reply.status, reply.body["code"]) for reply in replies] == [(403, "held_elsewhere")] * 5
    assert [reply.body["flow"] for reply in replies] == [None] * 5


async def test_who_started_a_flow_for_his_own_login_gets_nothing_of_the_code_typed_by_another(house: House) -> None:
    worker = await house.worker()
    attacker, key = await house.program(worker), random_key()
    await attacker.start(UNASKED, key=key)
    own = await house.browser(worker)
    await own.start(ASKED)
    await own.do("answer", answer=ANSWER)
    victim = await opened_by_link(house, worker, attacker.flow_id)
    assert "m…n" in victim.page.text, "it is not the victim's login, and that is said"
    # Codes carry no user: this one is the victim's, and the token that it gives is the victim's.
    assert (await victim.do("code", code=house.sandbox.newest_code(ASKED))).has("password")
    await refused_to(attacker)
    repeated = await attacker.start(UNASKED, key=key)
    assert (repeated.status, repeated.body["code"]) == (403, "held_elsewhere")
    linked = await opened_by_link(house, worker, attacker.flow_id)
    assert linked.page.status == 403
    assert not linked.page.has("password")
    await victim.do("password", password=PASSWORD)
    assert house.sandbox.password_of(ASKED) == PASSWORD


async def test_who_started_a_flow_for_the_login_of_another_gets_nothing_of_the_code_that_he_had_sent(
    house: House,
) -> None:
    worker = await house.worker()
    attacker = await house.browser(worker)
    await attacker.start(UNASKED)
    flow_id, before = (await attacker.flow()).id, attacker.page
    victim = await opened_by_link(house, worker, flow_id)
    await victim.do("code", code=house.sandbox.newest_code(UNASKED))
    for name in ("code", "resend", "cancel"):
        page = await attacker.send(before.form(name), code="123456")
        assert page.status == 403
        assert page.has("again")
        assert not page.has("password")
    assert (await attacker.get()).status == 403
    form = before.form("cancel")
    page = await attacker.send(Form("/reset/password", form.fields), password="the attackers choice")
    assert page.status == 403
    assert house.sandbox.calls_of("update") == []
    await victim.do("password", password=PASSWORD)
    assert house.sandbox.password_of(UNASKED) == PASSWORD


async def test_who_is_kept_out_of_a_flow_may_start_another_one(house: House) -> None:
    worker = await house.worker()
    attacker = await house.browser(worker)
    await attacker.start(UNASKED)
    flow_id = (await attacker.flow()).id
    victim = await opened_by_link(house, worker, flow_id)
    await victim.do("code", code=house.sandbox.newest_code(UNASKED))
    await attacker.get()
    page = await attacker.do("again")
    assert page.has("start")
    await attacker.do("start", user=ASKED)
    assert attacker.page.has("answer")
    assert (await victim.get()).has("password"), "it was not cancelled"


async def test_a_browser_that_came_by_a_link_is_not_told_the_login(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    browser = await opened_by_link(house, worker, flow.id)
    shown = [browser.page.text]
    await browser.do("code", code=house.sandbox.newest_code(UNASKED))
    shown.append(browser.page.text)
    await browser.do("again")
    shown.append(browser.page.text)
    assert [UNASKED in text for text in shown] == [False] * 3


async def test_of_two_browsers_that_type_the_code_one_holds_the_flow(house: House) -> None:
    workers = [await house.worker(), await house.worker()]
    flow = await workers[0].service.start(UNASKED)
    browsers = [await opened_by_link(house, worker, flow.id) for worker in workers]
    code = house.sandbox.newest_code(UNASKED)
    await asyncio.gather(*(browser.do("code", code=code) for browser in browsers))
    pages = [await browser.get() for browser in browsers]
    assert sorted(page.status for page in pages) == [200, 403]
    assert [page.has("password") for page in pages] == [page.status == 200 for page in pages]
    assert len(house.sandbox.calls_of("exchange")) == 1


# --- a link that its maker gives the own place to

CHAT, OTHER_CHAT = "chat 4711", "chat 4712"


async def test_who_comes_by_the_link_of_a_chat_goes_on_where_the_code_was_typed_in_it(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    await worker.service.verify(flow.id, house.sandbox.newest_code(UNASKED), holder=CHAT)
    browser = await opened_by_link(house, worker, flow.id, CHAT)
    await browser.do("password", password="password")
    assert browser.page.has("password"), "it is refused as a password, not as another's"
    page = await browser.do("password", password=PASSWORD)
    assert page.status == 200
    assert house.sandbox.password_of(UNASKED) == PASSWORD


async def test_a_code_typed_in_the_browser_binds_the_flow_to_the_browser_alone(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    browser = await opened_by_link(house, worker, flow.id, CHAT)
    await browser.do("code", code=house.sandbox.newest_code(UNASKED))
    for refused in (
        worker.service.get(flow.id, holder=CHAT),
        worker.service.set_password(flow.id, "the chats choice", holder=CHAT),
    ):
        with pytest.raises(HeldElsewhere):
            await refused
    other = await opened_by_link(house, worker, flow.id, CHAT)
    assert (other.page.status, other.page.has("password")) == (403, False)
    await browser.do("password", password=PASSWORD)
    assert house.sandbox.password_of(UNASKED) == PASSWORD


@pytest.mark.parametrize("holder", [None, OTHER_CHAT])
async def test_the_link_of_anybody_else_opens_nothing_of_what_a_chat_holds(house: House, holder: str | None) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    waiting = await opened_by_link(house, worker, flow.id, holder)
    before = waiting.page
    await worker.service.verify(flow.id, house.sandbox.newest_code(UNASKED), holder=CHAT)
    late = await opened_by_link(house, worker, flow.id, holder)
    assert (late.page.status, late.page.has("password")) == (403, False)
    form = before.form("code")
    for name in ("code", "password", "resend", "cancel"):
        page = await waiting.send(Form(f"/reset/{name}", form.fields), code="123456", password="the others choice")
        assert page.status == 403
    assert house.sandbox.calls_of("update") == []
    right = await opened_by_link(house, worker, flow.id, CHAT)
    assert right.page.has("password")


async def test_the_place_of_a_chat_is_in_the_cookie_of_its_link_and_in_no_other(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    await worker.service.verify(flow.id, house.sandbox.newest_code(UNASKED), holder=CHAT)
    browser, program = await opened_by_link(house, worker, flow.id, CHAT), await house.program(worker)
    stranger = await house.browser(worker)
    await stranger.start(ASKED)
    program.flow_id, token = flow.id, browser.page.form("cancel").fields["csrf"]
    program.cookie = stranger.cookie
    assert [(await program.get()).status, (await program.get(secret=flow.id)).status] == [404, 404]
    program.cookie = browser.cookie
    assert (await program.get()).body["state"] == "token_issued"
    reply = await program.do("password", PASSWORD, headers={"X-CSRF-Token": token})
    assert reply.body["state"] == "password_set"


async def test_who_may_begin_anew_in_the_place_of_a_chat_gives_its_flow_up(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    await worker.service.verify(flow.id, house.sandbox.newest_code(UNASKED), holder=CHAT)
    browser = await opened_by_link(house, worker, flow.id, CHAT)
    page = await browser.do("again")
    assert page.has("start")
    assert (await worker.service.get(flow.id, holder=CHAT)).ended


async def test_a_browser_that_came_by_a_link_before_links_had_holders_still_gets_in(house: House) -> None:
    worker = await house.worker()
    flow, browser = await worker.service.start(UNASKED), await house.browser(worker)
    cookie = "link." + "b" * 43
    await worker.service.side("web browser").save(
        cookie, flow.id.encode(), revision=b"", lifetime=timedelta(minutes=15)
    )
    browser.cookie = cookie
    page = await browser.get()
    assert page.has("code")
    await browser.do("code", code=house.sandbox.newest_code(UNASKED))
    await browser.do("password", password=PASSWORD)
    assert house.sandbox.password_of(UNASKED) == PASSWORD


# --- back to the chat

BOT = "https://t.me/helpful_bot"
BACK = f'href="{BOT}">Back to the chat</a>'


async def test_who_came_from_a_chat_is_led_back_to_it_at_the_end(house: House) -> None:
    worker = await house.worker()
    links = Links(worker.service, worker.url, back_url=BOT)
    flow = await worker.service.start(UNASKED)
    await worker.service.verify(flow.id, house.sandbox.newest_code(UNASKED), holder=CHAT)
    browser, path = await house.browser(worker), path_of(await links.create(flow.id, holder=CHAT))
    page = await browser.get(path)
    assert BOT not in page.text
    page = await browser.send(page.forms[-1])
    assert BOT not in page.text
    page = await browser.do("password", password=PASSWORD)
    assert BACK in page.text
    other = await house.browser(worker)
    page = await other.get(path)
    assert (page.status, BACK in page.text) == (410, True)
    assert "ask for a new link in the chat" in page.text


@pytest.mark.parametrize("by", ["the person", "somebody else", "wrong codes"])
async def test_who_came_from_a_chat_is_led_back_to_it_when_it_comes_to_nothing(house: House, by: str) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    browser = await house.browser(worker)
    page = await browser.get(path_of(await Links(worker.service, worker.url, back_url=BOT).create(flow.id)))
    page = await browser.send(page.forms[-1])
    if by == "the person":
        page = await browser.do("cancel")
    elif by == "somebody else":
        await worker.service.cancel(flow.id)
        page = await browser.get()
    else:
        for code in range(5):
            page = await browser.do("code", code=f"00000{code}")
    assert BACK in page.text
    assert not page.has("again")


async def test_nobody_else_is_led_there_and_nothing_that_is_sent_changes_it(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    with_back = path_of(await Links(worker.service, worker.url, back_url=BOT).create(flow.id))
    without = path_of(await worker.links.create(flow.id))
    evil = "https://elsewhere.example/"
    for path, is_led in ((with_back, True), (without, False)):
        browser = await house.browser(worker)
        page = await browser.get(f"{path}?back_url={evil}")
        page = await browser.send(page.forms[-1], back_url=evil)
        await browser.get(f"?back_url={evil}")
        if browser.page.has("cancel"):
            page = await browser.send(browser.page.form("cancel"), back_url=evil)
        else:
            page = browser.page
        assert (BACK in page.text) is is_led
        assert "elsewhere.example" not in page.text


@pytest.mark.parametrize("house", ["sqlite"], indirect=True)
async def test_where_people_come_from_is_sealed(tmp_path: Path, house: House) -> None:
    worker = await house.worker()
    flow, browser = await worker.service.start(UNASKED), await house.browser(worker)
    page = await browser.get(path_of(await Links(worker.service, worker.url, back_url=BOT).create(flow.id)))
    await browser.send(page.forms[-1])
    found = await dump(f"sqlite:///{tmp_path}/flows.db")
    assert LeakScanner({"flow": flow.id}).find(found)
    assert LeakScanner({"back": BOT}).find(found) == []


@pytest.mark.parametrize(
    "back_url",
    ["t.me/bot", "http://t.me/bot", "javascript:alert(1)", "//t.me/bot", "/chat", "https://", "https://a:b@t.me/",
     "https://t.me/\nbot", 5, "data:text/html,x"],
)  # fmt: skip
async def test_people_are_led_back_to_https_addresses_alone(back_url: Any) -> None:
    service = ResetService(ScriptedTransport(), MemoryStore(), Keyring.generate(), sweep=False)
    with pytest.raises(ConfigurationError, match=r"back_url must be like https://t\.me/your_bot"):
        Links(service, HTTPS, back_url=back_url)


@pytest.mark.parametrize("back_url", ["https://wa.me/4915112345678?text=hi", "http://127.0.0.1:8000/chat", None])
async def test_people_are_led_back_to_any_chat(house: House, back_url: str | None) -> None:
    worker = await house.worker()
    links, flow = Links(worker.service, worker.url, back_url=back_url), await worker.service.start(UNASKED)
    browser = await house.browser(worker)
    page = await browser.get(path_of(await links.create(flow.id)))
    await browser.send(page.forms[-1])
    page = await browser.do("cancel")
    assert re.findall('href="([^"]*)">Back to the chat</a>', page.text) == ([back_url] if back_url else [])


async def test_a_link_with_a_holder_that_can_be_none_is_not_made(house: House) -> None:
    worker = await house.worker()
    flow = await worker.service.start(UNASKED)
    for holder in ("", " ", "h" * 400, "a\nb"):
        with pytest.raises(InvalidInput):
            await worker.links.create(flow.id, holder=holder)
    assert await worker.links.create(flow.id, holder="a chat")

"""What a stranger tries who has read the code, and a bad day of operations."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request

from reset_flow import Budget, ConfigurationError, MemoryStore, StoreUnavailable
from reset_flow.web import Limits, Links, create_app, site
from tests.web.houses import ASKED, PASSWORD, UNASKED
from tests.web.test_access import opened_by_link

if TYPE_CHECKING:
    from tests.web.houses import House

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_who_is_gone_before_it_is_asked_who_he_is_stays_the_same_client() -> None:
    transport = Mock()
    transport.get_extra_info = {"peername": ("192.0.2.7", 5000)}.get
    request = make_mocked_request("GET", "/", [("X-Forwarded-For", "192.0.2.99")], transport=transport)
    request.protocol.transport = None
    assert request.transport is None
    for trusted in ("unix", "192.0.2.8"):
        assert Limits(trusted_proxies=(trusted,)).client_of(request) == "192.0.2.7"


async def test_a_clock_that_was_ahead_keeps_nobody_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await house.worker(limits=Limits(starts=Budget(2, HOUR)))
    program = await house.program(worker)
    tomorrow = time.time() + DAY.total_seconds()
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    house.clock.advance(DAY)
    assert [(await program.start(user)).status for user in ("first", "second", "third")] == [201, 201, 429]
    monkeypatch.undo()
    house.clock.advance(-DAY)
    assert [(await program.start(user)).status for user in ("first", "second", "third")] == [201, 201, 429]


async def test_a_cookie_of_spaces_is_replaced(house: House) -> None:
    browser = await house.browser(await house.worker())
    page = await browser.get(headers={"Cookie": f'reset="{" " * 40}"'})
    assert page.status == 200
    assert "Set-Cookie" in page.headers
    assert (await browser.do("start", user=UNASKED)).has("code")


async def test_a_link_of_spaces_is_no_link(house: House) -> None:
    browser = await house.browser(await house.worker())
    assert (await browser.get("link/" + "%20" * 40)).status == 410
    program = await house.program(browser.worker)
    await program.start(ASKED)
    assert (await program.get(secret="", headers={"Cookie": f'reset="{" " * 40}"'})).status == 404
    assert (await program.get()).status == 200


@pytest.mark.parametrize("path", ["//", "/a//b/", "/%2e%2e/..%2f/", "/a%2Fb/", "/ä/", "/a b/", '/"/', "/{t}/"])
async def test_a_path_at_which_nothing_can_be_served_is_refused_at_the_start(house: House, path: str) -> None:
    service = (await house.worker()).service
    for made in (create_app, Links):
        with pytest.raises(ConfigurationError, match="public_url: its path must be"):
            made(service, public_url=f"https://example.com{path}")


@pytest.mark.parametrize("path", ["/", "/a/b.c/", "/~reset/", "/a;b/", "/2@x/"])
async def test_at_any_other_path_a_reset_begins(house: House, path: str) -> None:
    browser = await house.browser(await house.worker(path=path))
    assert (await browser.start(UNASKED)).has("code")


async def test_who_starts_again_sees_nothing_of_what_the_victim_does_now(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PATIENCE", timedelta(milliseconds=50))
    worker = await house.worker()
    attacker = await house.browser(worker)
    start, cookie = (await attacker.get()).form("start").filled({"user": UNASKED}), attacker.cookie
    assert (await attacker.send(start)).has("code")
    victim = await opened_by_link(house, worker, (await attacker.flow()).id)
    await victim.do("code", code=house.sandbox.newest_code(UNASKED))
    house.sandbox.fault("update", "latency_after", seconds=3600)
    password = asyncio.create_task(victim.do("password", password=PASSWORD))
    await house.sandbox.wait_for_calls("update")
    attacker.cookie = cookie
    page = await attacker.send(start)
    assert (page.status, page.has("again")) == (403, True)
    assert "data-ends" not in page.text
    house.sandbox.release()
    assert (await password).status == 200
    assert house.sandbox.password_of(UNASKED) == PASSWORD


@pytest.mark.parametrize("house", ["memory"], indirect=True)
async def test_who_clicks_on_a_link_while_the_store_is_away_is_led_back_to_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("nobody is there")

    worker = await house.worker()
    program = await house.program(worker)
    await program.start()
    link = (await worker.links.create(program.flow_id)).partition("/reset/")[2]
    browser = await house.browser(worker)
    page = await browser.get(link)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "load", away)
        for told in (await browser.get(link), await browser.send(page.forms[-1])):
            assert told.status == 503
            assert f'class="button primary" href="/reset/{link}"' in told.text
        assert 'class="button primary" href="/reset/"' in (await browser.get()).text
    assert (await browser.get(link)).status == 200
    assert (await browser.send(page.forms[-1])).has("code")


async def test_of_the_pages_on_one_host_each_has_a_cookie_of_its_own(house: House) -> None:
    names = set()
    for path in ("/acme/eu/", "/acme-eu/", "/acme.eu/", "/acme;eu/", "/acme@eu/"):
        worker = await house.worker(path=path, public_url=f"https://example.com{path}")
        cookie = (await (await house.browser(worker)).get()).headers["Set-Cookie"]
        name = cookie.partition("=")[0]
        assert name.startswith("__Host-acme")
        page = await (await house.browser(worker)).get(headers={"Cookie": cookie.partition(";")[0]})
        assert "Set-Cookie" not in page.headers
        names.add(name)
    assert len(names) == 5

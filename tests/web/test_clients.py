"""What one client may do, and who a client is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request

from reset_flow import Budget, CommandRequest, ConfigurationError
from reset_flow.messages import Texts
from reset_flow.web import Limits
from tests.web.houses import ASKED, UNASKED

if TYPE_CHECKING:
    from tests.web.houses import House

HOUR = timedelta(hours=1)
PROXY = "10.0.0.1"


def client_of(peer: Any, *forwarded: str, trusted: tuple[str, ...] = ()) -> str:
    transport = Mock()
    transport.get_extra_info = {"peername": peer}.get
    headers = [("X-Forwarded-For", each) for each in forwarded]
    request = make_mocked_request("GET", "/", headers, transport=transport)
    return Limits(trusted_proxies=trusted).client_of(request)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("192.0.2.7", 5000), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::", 5000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::", 5000, 0, 0), "2001:db8:1:3::/64"),
        (("::ffff:192.0.2.7", 5000, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        ("", "unix"),
        (None, "unix"),
    ],
)
def test_a_client_is_an_address_and_of_ipv6_a_network(peer: Any, client: str) -> None:
    assert client_of(peer) == client


@pytest.mark.parametrize("trusted", [(), ("10.0.0.2",), ("unix",), ("2001:db8::/32",)])
def test_who_is_no_trusted_proxy_can_not_say_that_he_is_another(trusted: tuple[str, ...]) -> None:
    assert client_of((PROXY, 5000), "192.0.2.7", trusted=trusted) == PROXY


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db8::1]:4711"], "2001:db8::/64"),
        (["2001:db8::1"], "2001:db8::/64"),
        (['"[2001:db8::1]"'], "2001:db8::/64"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),  # the first is what the client says of itself
        (["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.9"], "192.0.2.7"),  # through two proxies
        (["198.51.100.1, 192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        (["10.0.0.9"], "10.0.0.9"),
        (["unknown"], PROXY),
        (["192.0.2.7, unknown"], PROXY),
        (["192.0.2.7, "], PROXY),
        ([""], PROXY),
        (["1.2.3"], PROXY),
        (["0x7f.1"], PROXY),
        ([], PROXY),
    ],
)
@pytest.mark.parametrize("trusted", [("10.0.0.0/8",), ("10.0.0.1", "10.0.0.9")])
def test_a_trusted_proxy_says_who_the_client_is(trusted: tuple[str, ...], forwarded: list[str], client: str) -> None:
    assert client_of((PROXY, 5000), *forwarded, trusted=trusted) == client


def test_a_trusted_proxy_may_come_over_a_unix_socket() -> None:
    assert client_of("", "192.0.2.7", trusted=("unix",)) == "192.0.2.7"
    assert client_of("", "192.0.2.7") == "unix"


@pytest.mark.parametrize(
    "wrong",
    [
        {"trusted_proxies": ("everybody",)},
        {"trusted_proxies": ("10.0.0.0/33",)},
        {"body": 0},
        {"body": True},
        {"body": 10**9},
        {"slowness": timedelta(0)},
        {"slowness": 5},
        {"requests": 5},
        {"starts": None},
    ],
)
def test_limits_that_can_be_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**wrong)


def test_one_trusted_proxy_may_stand_alone() -> None:
    assert Limits(trusted_proxies="10.0.0.1") == Limits(trusted_proxies=("10.0.0.1",))


async def test_a_client_that_starts_too_many_waits_and_others_do_not(house: House) -> None:
    limits = Limits(starts=Budget(2, HOUR), trusted_proxies=("127.0.0.1",))
    workers = [await house.worker(limits=limits), await house.worker(limits=limits)]
    programs = [await house.program(worker) for worker in workers]
    mine, others = {"X-Forwarded-For": "2001:db8::1"}, {"X-Forwarded-For": "2001:db8:0:1::1"}
    for program in programs:
        assert (await program.start(headers=mine)).status == 201
    for program in programs:
        refused = await program.start(ASKED, headers={"X-Forwarded-For": "1.2.3.4, 2001:db8::2"})
        assert (refused.status, refused.body["limit"]) == (429, "starts")
        assert refused.body["message"]["id"] == "limit.wait"
        assert 3500 < int(refused.headers["Retry-After"]) <= 3600
        assert (await program.start(headers=others)).status == 201
    assert (await programs[0].get(headers=mine)).status == 200, "what runs stays usable"


async def test_starts_are_counted_over_a_restart_and_on_the_page_as_well(house: House) -> None:
    limits = Limits(starts=Budget(2, HOUR))
    worker = await house.worker(limits=limits)
    browser, program = await house.browser(worker), await house.program(worker)
    await browser.start()
    assert browser.page.has("code")
    await program.start(ASKED)
    await worker.aclose()
    browser.worker = program.worker = await house.worker(limits=limits)
    await browser.get()
    await browser.do("again")
    page = await browser.do("start", user=ASKED)
    assert page.status == 429
    assert page.has("start"), "the login is kept, to be sent again later"
    assert page.form("start").fields["user"] == ASKED
    assert (await program.start()).status == 429


async def test_starts_count_for_logins_that_are_none_too(house: House) -> None:
    program = await house.program(await house.worker(limits=Limits(starts=Budget(2, HOUR))))
    found = [(await program.start(user)).status for user in ("nobody", "no\x00body", "maria.noquestion")]
    assert found == [201, 400, 429]


async def test_starts_at_once_are_counted_one_by_one(house: House) -> None:
    limits = Limits(starts=Budget(3, HOUR))
    programs = [await house.program(await house.worker(limits=limits)) for _ in range(2)] * 3
    replies = await asyncio.gather(*(program.start(f"user.{number}") for number, program in enumerate(programs)))
    assert sorted(reply.status for reply in replies) == [201] * 3 + [429] * 3


async def test_a_client_that_asks_too_often_waits(house: House) -> None:
    limits = Limits(requests=Budget(3, HOUR), trusted_proxies=("127.0.0.1",))
    worker = await house.worker(limits=limits)
    browser, program = await house.browser(worker), await house.program(worker)
    mine = {"X-Forwarded-For": "192.0.2.7"}
    assert [(await browser.get(headers=mine)).status for _ in range(4)] == [200, 200, 200, 429]
    assert 0 < int(browser.page.headers["Retry-After"]) <= 3600
    refused = await program.call("GET", "healthz", headers=mine)
    assert (refused.status, refused.body["limit"]) == (429, "requests")
    assert (await browser.get("nowhere", headers=mine)).status == 429
    assert (await browser.get(headers={"X-Forwarded-For": "192.0.2.8"})).status == 200


async def test_who_asks_too_often_is_told_so_and_may_look_at_a_link_again(house: House) -> None:
    worker = await house.worker(limits=Limits(requests=Budget(1, HOUR)))
    browser = await house.browser(worker)
    link = await worker.links.create((await worker.service.start("robert.zak")).id)
    path = urlsplit(link).path
    assert (await browser.get(path)).status == 200
    refused = await browser.get(path)
    assert refused.status == 429
    assert Texts().pattern("limit.wait", "en").partition("{")[0] in refused.text
    assert f'href="{path}"' in refused.text


async def test_the_address_is_the_origin_of_a_start(house: House) -> None:
    origins = []

    async def note(request: CommandRequest) -> None:
        origins.append((request.command, request.origin))

    worker = await house.worker(limits=Limits(trusted_proxies=("127.0.0.1",)), guards=(note,))
    program, browser = await house.program(worker), await house.browser(worker)
    await program.start(headers={"X-Forwarded-For": "2001:db8::1"})
    await browser.start(UNASKED)
    starts = [origin for command, origin in origins if command == "start"]
    assert starts == ["web 2001:db8::/64", "web 127.0.0.1"]

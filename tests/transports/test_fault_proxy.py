"""The fault proxy does to a request what it says, told by the bytes that a plain client gets."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web

from reset_flow.testing import Fault, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SAYS = {"code": "no_such_user", "errors": ["There is no such user."]}


class Provider:
    """A server that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.port = 0
        self.silent = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        await self.may_answer.wait()
        if self.silent:
            assert request.transport
            request.transport.close()
        if request.path.endswith("/nothing"):
            return web.Response(status=204)
        return web.json_response(SAYS, status=409, headers={"X-Served-By": "provider"})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", provider.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.port = runner.addresses[0][1]
    yield provider
    await runner.cleanup()


@pytest.fixture
async def proxy(provider: Provider) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(f"http://127.0.0.1:{provider.port}/api/") as proxy:
        yield proxy


async def ask(url: str) -> bytes:
    """Send one request over a connection of its own, and return all bytes of the reply."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    head = f"PUT /{path}/users?name=a%2Fb%20c HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Key: abc\r\n"
    writer.write(f'{head}Content-Length: 10\r\n\r\n{{"a":"ü"}}'.encode())
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_a_request_is_passed_on_and_so_is_the_reply(proxy: FaultProxy, provider: Provider) -> None:
    head, _, body = (await ask(proxy.url)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 409 ")
    assert b"X-Served-By: provider" in head
    assert json.loads(body) == SAYS
    ((method, path, headers, sent),) = provider.asked
    assert (method, path, sent) == ("PUT", "/api/users?name=a%2Fb%20c", '{"a":"ü"}'.encode())
    assert headers["X-Key"] == "abc"
    assert not {"User-Agent", "Accept", "Accept-Encoding", "Content-Type"} & set(headers)
    assert proxy.arrivals == 1


@pytest.mark.parametrize("fault", list(Fault))
async def test_the_provider_acts_as_the_fault_says_and_the_next_request_is_spared(
    proxy: FaultProxy, provider: Provider, fault: Fault
) -> None:
    proxy.fault(fault)
    asking = asyncio.create_task(ask(proxy.url))
    if fault in (Fault.HANG_BEFORE, Fault.HANG_AFTER):
        await proxy.wait_for_arrivals(1)
        await proxy.settled()
        asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert len(provider.asked) == fault.acts
    assert (await ask(proxy.url)).startswith(b"HTTP/1.1 409 ")
    assert (len(provider.asked), proxy.arrivals) == (1 + fault.acts, 2)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER])
async def test_a_drop_ends_the_connection_without_a_byte(proxy: FaultProxy, fault: Fault) -> None:
    proxy.fault(fault)
    assert await ask(proxy.url) == b""


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER])
async def test_a_reset_is_one(proxy: FaultProxy, fault: Fault) -> None:
    proxy.fault(fault)
    with pytest.raises(ConnectionResetError):
        await ask(proxy.url)


async def test_a_reply_is_cut_in_its_body(proxy: FaultProxy) -> None:
    proxy.fault(Fault.CUT_AFTER)
    head, _, body = (await ask(proxy.url)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 409 ")
    whole = json.dumps(SAYS).encode()
    assert body
    assert whole.startswith(body)
    assert len(body) < len(whole)


async def test_of_a_reply_without_a_body_the_connection_is_not_used_again(proxy: FaultProxy) -> None:
    async with ClientSession() as session:
        proxy.fault(Fault.CUT_AFTER)
        async with session.post(f"{proxy.url}/nothing") as reply:
            assert (reply.status, reply.headers["Connection"]) == (204, "close")
        async with session.post(f"{proxy.url}/nothing") as reply:
            assert reply.status == 204


async def test_a_provider_that_breaks_off_is_asked_once_and_told_of(proxy: FaultProxy, provider: Provider) -> None:
    await ask(proxy.url)
    provider.silent = True
    assert (await ask(proxy.url)).startswith(b"HTTP/1.1 502 ")
    assert len(provider.asked) == 2


async def test_a_provider_that_breaks_off_after_the_client_has_gone_is_nobodys_error(
    proxy: FaultProxy, provider: Provider
) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    provider.silent = True
    provider.may_answer.clear()
    asking = asyncio.create_task(ask(proxy.url))
    await proxy.wait_for_arrivals(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    provider.may_answer.set()
    await proxy.settled()
    gc.collect()
    assert told == []
    provider.silent = False
    assert (await ask(proxy.url)).startswith(b"HTTP/1.1 409 ")


async def test_other_replies_take_the_place_of_the_providers(proxy: FaultProxy) -> None:
    for fault in (Fault.REDIRECT, Fault.THROTTLED, Fault.THROTTLED_FOR_A_WHILE, Fault.HTML_500_AFTER):
        proxy.fault(fault)
    redirect, throttled, for_a_while, page = [await ask(proxy.url) for _ in range(4)]
    assert redirect.startswith(b"HTTP/1.1 307 ")
    assert b"Location: /api/users?name=a%2Fb%20c\r\n" in redirect
    assert throttled.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After" not in throttled
    assert for_a_while.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 7\r\n" in for_a_while
    assert page.startswith(b"HTTP/1.1 500 ")
    assert b"Content-Type: text/html; charset=utf-8\r\n" in page
    assert b"X-Key: abc" in page


async def test_the_reply_is_made_longer_packed_or_made_to_repeat_a_text(proxy: FaultProxy) -> None:
    proxy.fault(Fault.LONG_AFTER)
    proxy.fault(Fault.COMPRESSED_AFTER)
    proxy.fault(Fault.ECHO_AFTER, echo="robert.zak")
    long, packed, echo = [(await ask(proxy.url)).partition(b"\r\n\r\n") for _ in range(3)]
    assert len(long[2]) == 300_000
    assert json.loads(long[2]) == SAYS
    assert b"Content-Encoding: gzip" in packed[0]
    assert json.loads(gzip.decompress(packed[2])) == SAYS
    assert json.loads(echo[2]) == {"code": "no_such_user", "errors": ["There is no such user. robert.zak"]}


async def test_a_port_of_its_own_refuses_connections(proxy: FaultProxy) -> None:
    with pytest.raises(ConnectionRefusedError):
        await ask(proxy.refusing_url)
    assert proxy.arrivals == 0


async def test_a_request_has_arrived_once_it_is_whole(proxy: FaultProxy, provider: Provider) -> None:
    async def arrive() -> None:
        await proxy.wait_for_arrivals(1)
        await proxy.settled()

    arriving = asyncio.create_task(arrive())

    async def body() -> AsyncIterator[bytes]:
        yield b"half "
        await asyncio.wait([arriving], timeout=0.2)
        yield b"and half"

    async with ClientSession() as session:
        asking = asyncio.create_task(session.put(proxy.url, data=body()))
        await arriving
        assert [sent for _, _, _, sent in provider.asked] == [b"half and half"]
        await asking


async def test_a_request_that_hangs_ends_with_the_proxy(provider: Provider) -> None:
    async with FaultProxy(f"http://127.0.0.1:{provider.port}") as proxy:
        proxy.fault(Fault.HANG_AFTER)
        asking = asyncio.create_task(ask(proxy.url))
        await proxy.wait_for_arrivals(1)
        await proxy.settled()
    assert await asking == b""

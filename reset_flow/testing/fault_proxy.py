"""For authors of transports: a proxy on loopback that spoils the requests that it is told to."""

from __future__ import annotations

import asyncio
import gzip
import html
import json
import socket
import struct
from collections import deque
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import attrs
from aiohttp import ClientError, ClientSession, DummyCookieJar, web
from yarl import URL

from reset_flow.transports.http import prevent_resend

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Fault", "FaultProxy"]

HOST = "127.0.0.1"
LONG_BODY = 300_000
"""Bytes: more than a transport has reason to read."""

RETRY_AFTER = 7
"""Seconds, in the header of `Fault.THROTTLED_FOR_A_WHILE`."""

HOP_BY_HOP = frozenset(
    {"connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
ADDED_BY_AIOHTTP = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST


class Fault(StrEnum):
    """What happens to a request. `…_BEFORE`: the provider never sees it. `…_AFTER`: the provider has acted on it."""

    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    HANG_BEFORE = "hang_before"
    HANG_AFTER = "hang_after"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    HTML_500_BEFORE = "html_500_before"
    HTML_500_AFTER = "html_500_after"
    CUT_AFTER = "cut_after"
    """The connection ends in the middle of the body of the reply."""
    LONG_AFTER = "long_after"
    """The reply, with spaces behind it: 300 kB."""
    COMPRESSED_AFTER = "compressed_after"
    """The reply, in gzip, whether that was asked for or not."""
    ECHO_AFTER = "echo_after"
    """The reply, in which each sentence repeats the text that the fault was ordered with."""
    REDIRECT = "redirect"
    """307 to the same address: a client that follows it arrives twice."""
    THROTTLED = "throttled"
    """429 without Retry-After."""
    THROTTLED_FOR_A_WHILE = "throttled_for_a_while"
    """429 with Retry-After."""

    @property
    def acts(self) -> bool:
        """Whether the provider gets the request."""
        return self.value.endswith("_after")


@attrs.frozen(kw_only=True)
class _Reply:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = attrs.field(default=b"", repr=False)


class FaultProxy:
    """
    Stands before a provider on loopback, passes requests on, counts them, and spoils those that it is told to.

    ::

        async with FaultProxy("http://127.0.0.1:8000/api") as proxy:
            transport = MyTransport(proxy.url)
            proxy.fault(Fault.DROP_AFTER)
            assert isinstance(await transport.request(case, None), Unknown)
            assert proxy.arrivals == 1

    Attributes:
        arrivals: The number of whole requests that have come so far, spoilt ones included.
    """

    def __init__(self, target: str) -> None:
        self.arrivals = 0
        self._target = URL(target)
        self._faults: deque[tuple[Fault, str]] = deque()
        self._passing: set[asyncio.Task[_Reply]] = set()
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._refusing = socket.socket()
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._session = ClientSession(auto_decompress=False, cookie_jar=DummyCookieJar(), middlewares=(prevent_resend,))
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, auto_decompress=False, handle_signals=False, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self._refusing.bind((HOST, 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner is not None
        assert self._session is not None
        self._closing.set()
        await self.settled()
        await self._runner.cleanup()
        await self._session.close()
        self._refusing.close()

    @property
    def url(self) -> str:
        """The address of the provider, by way of the proxy."""
        assert self._runner is not None, "it does not listen yet"
        return self._url_at(self._runner.addresses[0][1])

    @property
    def refusing_url(self) -> str:
        """The same at a port where every connection is refused."""
        return self._url_at(self._refusing.getsockname()[1])

    def fault(self, fault: Fault, *, echo: str = "") -> None:
        """
        Spoil the next request, or the one after those that are to be spoilt already.

        Args:
            echo: What the sentences of the reply repeat, with `Fault.ECHO_AFTER`.
        """
        self._faults.append((fault, echo))

    async def wait_for_arrivals(self, count: int) -> None:
        """Wait until so many requests have come."""
        while self.arrivals < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def settled(self) -> None:
        """Wait until the provider has replied to every request that was passed on, even if the client is gone."""
        if self._passing:
            await asyncio.wait(self._passing)

    def _url_at(self, port: int) -> str:
        return str(URL.build(scheme="http", host=HOST, port=port)) + self._target.raw_path.rstrip("/")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.arrivals += 1
        self._arrived.set()
        fault, echo = self._faults.popleft() if self._faults else (None, "")
        if fault is None or fault.acts:
            task = asyncio.create_task(self._pass_on(request, body))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
            reply = await asyncio.shield(task)  # the provider acts whether the client waits or not
        else:
            reply = _Reply(status=500)
        return await self._spoil(request, body, reply, fault, echo)

    async def _pass_on(self, request: web.Request, body: bytes) -> _Reply:
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                URL(str(self._target.origin()) + request.raw_path, encoded=True),
                headers=[(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP],
                data=body if body or request.body_exists else None,
                allow_redirects=False,
                skip_auto_headers=ADDED_BY_AIOHTTP,
            ) as reply:
                headers = tuple(each for each in reply.headers.items() if each[0].lower() not in HOP_BY_HOP)
                return _Reply(status=reply.status, headers=headers, body=await reply.read())
        except (ClientError, OSError):  # the client may be gone, and nobody else would hear of it
            return _Reply(status=502)

    async def _spoil(
        self, request: web.Request, body: bytes, reply: _Reply, fault: Fault | None, echo: str
    ) -> web.StreamResponse:
        match fault:
            case Fault.DROP_BEFORE | Fault.DROP_AFTER:
                return _drop(request)
            case Fault.HANG_BEFORE | Fault.HANG_AFTER:
                await self._closing.wait()  # cancelled when the client goes away
                return _drop(request)
            case Fault.RESET_BEFORE | Fault.RESET_AFTER:
                return _reset(request)
            case Fault.CUT_AFTER:
                return await _cut(request, reply)
        return _response(_spoilt(request, body, reply, fault, echo))


def _spoilt(request: web.Request, body: bytes, reply: _Reply, fault: Fault | None, echo: str) -> _Reply:
    match fault:
        case Fault.REDIRECT:
            reply = _Reply(status=307, headers=(("Location", request.raw_path),))
        case Fault.THROTTLED:
            reply = _Reply(status=429)
        case Fault.THROTTLED_FOR_A_WHILE:
            reply = _Reply(status=429, headers=(("Retry-After", str(RETRY_AFTER)),))
        case Fault.HTML_500_BEFORE | Fault.HTML_500_AFTER:
            reply = _debug_page(request, body)
        case Fault.LONG_AFTER:
            reply = attrs.evolve(reply, body=reply.body.ljust(LONG_BODY))
        case Fault.COMPRESSED_AFTER:
            headers = (*reply.headers, ("Content-Encoding", "gzip"))
            reply = attrs.evolve(reply, headers=headers, body=gzip.compress(reply.body))
        case Fault.ECHO_AFTER:
            reply = attrs.evolve(reply, body=_echoing(reply.body, echo))
    return reply


def _response(reply: _Reply) -> web.Response:
    response = web.Response(status=reply.status, body=reply.body)
    for name, value in reply.headers:
        response.headers.add(name, value)
    return response


def _drop(request: web.Request) -> web.Response:
    """Close the connection. aiohttp wants a response in any case, and drops it."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, reply: _Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
    response.content_length = len(reply.body) + 1
    response.force_close()  # a reply that can have no body (204) comes whole, and its connection must not be used again
    with suppress(ConnectionError):  # the client did not wait
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
    _drop(request)
    return response


def _debug_page(request: web.Request, body: bytes) -> _Reply:
    """Return what web frameworks show where nobody switched debugging off: the whole request."""
    lines = [f"{request.method} {request.raw_path}", *(f"{name}: {value}" for name, value in request.headers.items())]
    shown = html.escape("\n".join([*lines, "", body.decode(errors="replace")]))
    page = f"<!doctype html><title>Server Error (500)</title><pre>{shown}</pre>"
    return _Reply(status=500, headers=(("Content-Type", "text/html; charset=utf-8"),), body=page.encode())


def _echoing(body: bytes, echo: str) -> bytes:
    try:
        return json.dumps(_repeated(json.loads(body), echo)).encode()
    except ValueError:
        return body + f" {echo}".encode()


def _repeated(value: Any, echo: str) -> Any:
    """Return a JSON value in which the sentences, told from names by their spaces, repeat the text."""
    match value:
        case str() if " " in value:
            return f"{value} {echo}"
        case list():
            return [_repeated(each, echo) for each in value]
        case dict():
            return {name: _repeated(each, echo) for name, each in value.items()}
    return value

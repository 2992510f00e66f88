"""Requests on real connections."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import multiprocessing
import threading
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypedDict, TypeVar, Unpack
from urllib.parse import unquote

import aiohttp
import pytest
from yarl import URL

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.outcomes import Cause, NotActed, Unknown
from reset_flow.transports import http
from reset_flow.transports.http import BODY_LIMIT, Reply, Sender
from tests.patience import let_time_pass
from tests.transports.conftest import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from pathlib import Path

    from aiohttp.client_middlewares import ClientHandlerType
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from tests.transports.conftest import Broker, Contexts, Script, Serve

T = TypeVar("T")

SHORT = timedelta(seconds=1)
LONG = timedelta(seconds=60)
"""No machine stalls for so long: what ended before it ended for another reason."""
LONGER = timedelta(hours=1)
HEADERS = {"Accept-Encoding": "identity"}
JSON = "application/json"
BODY = b'{"Code": "741175"}'


class Times(TypedDict, total=False):
    deadline: timedelta
    connect_deadline: timedelta


class Options(Times, total=False):
    session: aiohttp.ClientSession | None
    trust_env: bool
    proxy: str
    ssl: ssl.SSLContext | None
    headers: Mapping[str, str]
    content_type: str
    reply_headers: Iterable[str]


class MakeSender(Protocol):
    """Make a sender, which is closed after the test."""

    def __call__(self, **options: Unpack[Options]) -> Sender: ...


@pytest.fixture
async def sender() -> AsyncIterator[MakeSender]:
    senders: list[Sender] = []

    def make(**options: Unpack[Options]) -> Sender:
        options.setdefault("deadline", LONG)
        options.setdefault("connect_deadline", LONG)
        options.setdefault("headers", HEADERS)
        options.setdefault("content_type", JSON)
        senders.append(Sender(**options))
        return senders[-1]

    yield make
    for each in senders:
        await each.aclose()


async def posted(sender: Sender, url: str, method: str = "POST", body: bytes | None = BODY) -> http.Result:
    return await sender.send(method, URL(url), body)


async def forever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def answers(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Behave as a server should."""
    while True:
        await server.request(reader)
        writer.write(server.reply(b"{}"))
        await writer.drain()


async def test_a_reply_comes_back_as_a_value(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b'{"a": 1}', "418 Teapot", "Retry-After: 7"))

    server = await serve(script)
    got = await posted(sender(), server.url + "/a")
    assert got == Reply(status=418, retry_after=timedelta(seconds=7), body=b'{"a": 1}')
    assert '"a"' not in repr(got)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a HTTP/1.1\r\n")
    assert body == BODY


async def test_headers_of_a_reply_are_kept_if_they_were_asked_for(serve: Serve, sender: MakeSender) -> None:
    async def creates(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 201 Created\r\nlocation: /codes/7\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\n\r\ncut")
        writer.close()

    server = await serve(creates)
    reply = await posted(sender(reply_headers=["Location", "ETag"]), server.url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.headers) == (201, None, {"Location": "/codes/7"})
    assert "codes" not in repr(reply)


@pytest.mark.parametrize("login", ["a/b?c#d%2F", "../admin", "żółć 🦊", "a:b@c", "a+b&c=d;e"])
async def test_a_login_in_a_path_is_one_segment_of_it(serve: Serve, sender: MakeSender, login: str) -> None:
    server = await serve(answers)
    url = http.below(http.endpoint(f"{server.url}/api"), "users", login, "codes")
    assert isinstance(await sender().send("PUT", url, BODY), Reply)
    (request,) = server.requests
    _, path, _ = request.partition(b"\r\n")[0].decode().split(" ")
    _, api, users, segment, codes = path.split("/")
    assert (api, users, unquote(segment), codes) == ("api", "users", login, "codes")


@pytest.mark.parametrize("login", [".", "..", "%2e", "%2E%2e", ".%2E"])
async def test_dots_in_a_path_lead_nowhere(serve: Serve, sender: MakeSender, login: str) -> None:
    server = await serve(answers)
    for method, body in (("GET", None), ("PUT", BODY)):
        outcome = await sender().send(method, URL(f"{server.url}/users/{login}/codes", encoded=True), body)
        assert isinstance(outcome, NotActed)
        assert outcome.cause is Cause.PROTOCOL
    assert server.requests == []
    assert isinstance(await sender().send("GET", http.below(URL(server.url), "users", "...")), Reply)


@pytest.mark.parametrize("value", ["a key\n", "a\r\nb", "a\x00b", " a", "ключ", "\ud800"])
def test_what_no_header_can_carry_is_refused_before_anything_is_sent(value: str) -> None:
    with pytest.raises(ConfigurationError, match="Api-Key"):
        Sender(deadline=SHORT, connect_deadline=SHORT, headers={"Api-Key": value})
    Sender(deadline=SHORT, connect_deadline=SHORT, headers={"Api-Key": "", "Tenant": "a b"})


async def test_a_connection_reads_no_more_at_once_than_a_reply_may_need(serve: Serve) -> None:
    # From inside: nothing outside shows how much a connection reads at once, and the setting is asyncio's own.
    server = await serve(answers)
    async with http._Connector() as connector:
        request = aiohttp.ClientRequest("GET", URL(server.url), loop=asyncio.get_running_loop())
        connection = await connector.connect(request, [], aiohttp.ClientTimeout())
        transport: Any = connection.transport
        assert transport.max_size == http.READ_SIZE
        connection.close()


async def test_calls_share_a_connection(serve: Serve, sender: MakeSender) -> None:
    server = await serve(answers)
    client = sender()
    for _ in range(3):
        assert await posted(client, server.url) == Reply(status=200, body=b"{}")
    assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("body", [None, b""])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH"])
async def test_nothing_is_of_no_type(
    serve: Serve, sender: MakeSender, method: str, body: bytes | None, *, foreign: bool
) -> None:
    server = await serve(answers)
    async with aiohttp.ClientSession() as session:
        client = sender(session=session if foreign else None)
        assert await client.send(method, URL(server.url), body) == Reply(status=200, body=b"{}")
    assert b"content-type" not in server.requests[0].lower()


async def test_a_body_in_pieces_comes_back_whole(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"{", b"}"):
            writer.write(b"1\r\n" + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    server = await serve(script)
    assert await posted(sender(), server.url) == Reply(status=200, body=b"{}")


async def test_a_body_of_just_the_limit_comes_back(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"x" * BODY_LIMIT))

    server = await serve(script)
    assert await posted(sender(), server.url) == Reply(status=200, body=b"x" * BODY_LIMIT)


# Never sent.


@pytest.mark.parametrize("body", [BODY, b"", None])
async def test_refused_is_not_acted(serve: Serve, sender: MakeSender, body: bytes | None) -> None:
    server = await serve(answers)
    url = server.url
    await server.aclose()
    assert await posted(sender(), url, body=body) == NotActed(detail="ClientConnectorError")


async def test_a_name_that_does_not_resolve_is_not_acted(sender: MakeSender, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> NoReturn:
        raise OSError("no such name")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", unknown)
    assert await posted(sender(), "https://broker.test/a") == NotActed(detail="ClientConnectorDNSError")


TIMES: list[Times] = [
    {"connect_deadline": LONG, "deadline": LONGER},
    {"deadline": LONG, "connect_deadline": LONGER},
]


@pytest.mark.parametrize("times", TIMES, ids=str)
async def test_a_handshake_that_takes_too_long_is_not_acted(serve: Serve, sender: MakeSender, times: Times) -> None:
    async def script(_: Server, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read(1)
        let_time_pass(LONG)
        await forever()

    server = await serve(script)
    got = await posted(sender(**times), server.url.replace("http", "https"))
    assert isinstance(got, NotActed)
    assert got.detail in ("ConnectionTimeoutError", "TimeoutError")


@pytest.mark.parametrize("times", TIMES, ids=str)
async def test_no_free_connection_is_not_acted(serve: Serve, sender: MakeSender, times: Times) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await forever()

    server = await serve(script)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        patient = sender(session=session, deadline=LONGER, connect_deadline=LONGER)
        first = asyncio.create_task(posted(patient, server.url))
        await server.asked.wait()
        second = asyncio.create_task(posted(sender(session=session, **times), server.url))
        await asyncio.sleep(0.01)  # it waits for a connection
        let_time_pass(LONG)
        assert isinstance(await second, NotActed)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("hook", "outcome"),
    [("on_connection_create_end", NotActed), ("on_request_headers_sent", NotActed), ("on_request_chunk_sent", Unknown)],
)
async def test_a_deadline_counts_from_the_first_byte_that_may_be_sent(
    serve: Serve, sender: MakeSender, hook: str, outcome: type
) -> None:
    async def stuck(*_: object) -> None:
        let_time_pass(LONG)
        await forever()

    server = await serve(answers)
    config = aiohttp.TraceConfig()
    getattr(config, hook).append(stuck)
    async with aiohttp.ClientSession(trace_configs=[config]) as session:
        got = await posted(sender(session=session), server.url)
    assert got == outcome(detail="TimeoutError")
    assert server.requests == []


class Closing(aiohttp.TCPConnector):
    """Gives connections that are being closed, or that are closed."""

    def __init__(self, *, closed: bool) -> None:
        super().__init__()
        self._is_closed = closed

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        assert connection.transport is not None
        connection.transport.close()
        if self._is_closed:
            await asyncio.sleep(0.01)
        return connection


@pytest.mark.parametrize("closed", [False, True])
async def test_a_body_is_not_begun_on_a_connection_that_is_closing(
    serve: Serve, sender: MakeSender, *, closed: bool
) -> None:
    server = await serve(answers)
    async with aiohttp.ClientSession(connector=Closing(closed=closed)) as session:
        assert isinstance(await posted(sender(session=session), server.url), NotActed)
    assert server.requests == []


async def test_tls_is_verified(serve: Serve, sender: MakeSender, certificate: Contexts) -> None:
    server = await serve(answers, certificate.server)
    got = await posted(sender(), server.url)
    assert got == NotActed(detail="ClientConnectorCertificateError")
    assert server.requests == []
    assert await posted(sender(ssl=certificate.client), server.url) == Reply(status=200, body=b"{}")


# Sent, but not answered.


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_no_reply_in_time_is_unknown(serve: Serve, sender: MakeSender, method: str) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.request(reader)
        let_time_pass(LONG)
        await forever()

    server = await serve(script)
    assert await posted(sender(), server.url, method) == Unknown(detail="TimeoutError")
    assert len(server.requests) == 1


async def test_a_deadline_longer_than_five_seconds_is_not_rounded_up(broker: Broker, sender: MakeSender) -> None:
    broker.says(b"{}")
    async with aiohttp.ClientSession() as session:  # to another session, each request states its timeout
        client = sender(deadline=timedelta(seconds=9.5), connect_deadline=timedelta(seconds=7.5), session=session)
        assert await posted(client, "https://broker.test") == Reply(status=200, body=b"{}")
    timeout = broker.call.timeout
    assert timeout is not None
    assert (timeout.total, timeout.connect, timeout.ceil_threshold) == (None, 7.5, float("inf"))


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before the request", "after the request"])
async def test_a_dropped_connection_is_unknown(
    serve: Serve, sender: MakeSender, method: str, how: str, when: str
) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if when == "after the request":
            await server.request(reader)
        if how == "reset":
            server.reset(writer)

    server = await serve(script)
    got = await posted(sender(), server.url, method)
    assert isinstance(got, Unknown)
    assert got.detail in ("ServerDisconnectedError", "ClientOSError")
    assert server.connections == 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-server\r\n\r\n"])
async def test_half_a_head_or_none_is_unknown(serve: Serve, sender: MakeSender, head: bytes) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(head)

    server = await serve(script)
    assert isinstance(await posted(sender(), server.url), Unknown)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_body_that_breaks_off_keeps_its_status_and_is_none(serve: Serve, sender: MakeSender, how: str) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b'{"IsSucceed": true}', length=100))
        await writer.drain()
        if how == "reset":
            await asyncio.sleep(0.05)
            server.reset(writer)

    server = await serve(script)
    got = await posted(sender(), server.url)
    assert isinstance(got, Reply)
    assert (got.status, got.body) == (200, None)
    assert got.flaw in ("ClientPayloadError", "ClientOSError")


async def test_one_byte_at_a_time_ends_at_the_deadline(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(length=1000))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)
            let_time_pass(LONG / 10)

    server = await serve(script)
    assert await posted(sender(), server.url) == Reply(status=200, flaw="TimeoutError")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_not_read_to_its_end(
    serve: Serve, sender: MakeSender, *, chunked: bool
) -> None:
    size, sent = 64 * 1024 * 1024, 0

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if chunked else server.reply(length=size))
        piece = b"x" * 0x8000
        while sent < size:
            writer.write(b"8000\r\n" + piece + b"\r\n" if chunked else piece)
            await writer.drain()
            sent += len(piece)

    server = await serve(script)
    assert await posted(sender(), server.url) == Reply(status=200, flaw="a body that is too long")
    assert sent < size / 2


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without a header": partial(zlib.compress, wbits=-zlib.MAX_WBITS),
}
"""What a proxy does to a reply, by the name that it gives it, up to the first space."""


def encoded(body: bytes, coding: str) -> Script:
    """Reply with a body that is said to be packed."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(body, "200 OK", f"Content-Encoding: {coding}"))

    return script


@pytest.mark.parametrize("coding", PACK)
async def test_a_reply_that_was_packed_on_the_way_is_unpacked(serve: Serve, sender: MakeSender, coding: str) -> None:
    server = await serve(encoded(PACK[coding](b'{"a": 1}'), coding.partition(" ")[0]))
    assert await posted(sender(), server.url) == Reply(status=200, body=b'{"a": 1}')


@pytest.mark.parametrize("size", [BODY_LIMIT, BODY_LIMIT + 1])
async def test_unpacked_it_is_as_long_as_a_body_may_be(serve: Serve, sender: MakeSender, size: int) -> None:
    server = await serve(encoded(gzip.compress(b"x" * size), "gzip"))
    got = await posted(sender(), server.url)
    fits = Reply(status=200, body=b"x" * size)
    assert got == (fits if size == BODY_LIMIT else Reply(status=200, flaw="a body that is too long"))


@pytest.mark.parametrize("coding", ["identity", " Identity , ", "", "gzip, identity"])
async def test_what_is_packed_in_name_only_is_read(serve: Serve, sender: MakeSender, coding: str) -> None:
    body = gzip.compress(b"{}") if "gzip" in coding else b"{}"
    server = await serve(encoded(body, coding))
    assert await posted(sender(), server.url) == Reply(status=200, body=b"{}")


async def test_nothing_stays_nothing_however_it_is_packed(serve: Serve, sender: MakeSender) -> None:
    server = await serve(encoded(b"", "gzip"))
    assert await posted(sender(), server.url) == Reply(status=200, body=b"")


def packed(body: bytes) -> bytes:
    """Pack a body the same way in every process that collects these tests: without the time."""
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (packed(b"{}")[:-1], "gzip"),
        (packed(b'{"a": 1}' * 100)[:30], "gzip"),
        (zlib.compress(b"{}")[:-1], "deflate"),
        (packed(b"{}") + b"more", "gzip"),
        (b"{}", "gzip"),
        (zlib.compress(b"{}"), "gzip"),
        (packed(packed(b"{}")), "gzip, gzip"),
        (packed(packed(b"{}")), "gzip\r\nContent-Encoding: gzip"),
        (b"{}", "br"),
        (b"{}", "nonsense"),
    ],
)
async def test_what_can_not_be_unpacked_whole_is_no_body(
    serve: Serve, sender: MakeSender, body: bytes, coding: str
) -> None:
    server = await serve(encoded(body, coding))
    assert await posted(sender(), server.url) == Reply(status=200, flaw="an encoded body")


@pytest.mark.parametrize("level", [1, 9])
async def test_a_compression_bomb_stays_packed(serve: Serve, sender: MakeSender, level: int) -> None:
    server = await serve(encoded(gzip.compress(b" " * 64 * 1024 * 1024, compresslevel=level), "gzip"))
    client = sender()
    tracemalloc.start()
    try:
        assert await posted(client, server.url) == Reply(status=200, flaw="a body that is too long")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


# Sent once.


async def test_a_redirect_is_not_followed(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(b"", "307 Temporary Redirect", "Location: /elsewhere"))

    server = await serve(script)
    assert await posted(sender(), server.url) == Reply(status=307, body=b"")
    assert len(server.requests) == 1


async def drops_the_second(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the first request of a connection, takes the second one and goes away."""
    await server.request(reader)
    writer.write(server.reply(b"{}"))
    await server.request(reader)


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("foreign", [False, True])
async def test_on_a_lost_connection_nothing_is_sent_twice(
    serve: Serve, sender: MakeSender, method: str, *, foreign: bool
) -> None:
    server = await serve(drops_the_second)
    body = None if method == "GET" else BODY
    async with aiohttp.ClientSession() as session:
        client = sender(session=session) if foreign else sender()
        assert await posted(client, server.url, method, body) == Reply(status=200, body=b"{}")
        assert await posted(client, server.url, method, body) == Unknown(detail="ServerDisconnectedError")
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_aiohttp_by_itself_does_send_twice(serve: Serve, method: str) -> None:
    server = await serve(drops_the_second)
    body = None if method == "GET" else BODY
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.request(method, server.url, data=body) as response:
                assert response.status == 200
    assert len(server.requests) == 3


async def test_middlewares_and_habits_of_a_foreign_session_do_not_count(serve: Serve, sender: MakeSender) -> None:
    async def again(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        (await handler(request)).close()
        return await handler(request)

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(b"{}", "409 Conflict"))

    server = await serve(script)
    async with aiohttp.ClientSession(middlewares=[again], raise_for_status=True) as session:
        assert await posted(sender(session=session), server.url) == Reply(status=409, body=b"{}")
    assert len(server.requests) == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"{}"))

    server = await serve(script)
    client = sender()
    for _ in range(2):
        assert await posted(client, server.url) == Reply(status=200, body=b"{}")
        await asyncio.sleep(0.05)
    assert server.connections == 2


async def test_what_a_server_says_unasked_is_no_reply_to_the_next_request(serve: Serve, sender: MakeSender) -> None:
    said = asyncio.Event()

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(b'{"mine": 1}'))
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(server.reply(b'{"unasked": 1}'))
            said.set()

    server = await serve(script)
    client = sender()
    for _ in range(2):
        said.clear()
        assert await posted(client, server.url) == Reply(status=200, body=b'{"mine": 1}')
        await said.wait()
        await asyncio.sleep(0.05)
    assert server.connections == 2


# Sessions.


async def test_a_foreign_session_is_left_open(serve: Serve, sender: MakeSender) -> None:
    server = await serve(answers)
    async with aiohttp.ClientSession() as session:
        client = sender(session=session)
        assert isinstance(await posted(client, server.url), Reply)
        await client.aclose()
        assert not session.closed
    assert isinstance(await posted(sender(session=session), server.url), NotActed)


async def test_our_own_session_is_closed_once_and_not_opened_again(serve: Serve, sender: MakeSender) -> None:
    gone = asyncio.Event()

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"{}"))
        await reader.read()
        gone.set()

    server = await serve(script)
    client = sender()
    assert isinstance(await posted(client, server.url), Reply)
    assert not gone.is_set()
    await client.aclose()
    await client.aclose()
    await asyncio.wait_for(gone.wait(), 60)
    assert await posted(client, server.url) == NotActed(detail="the transport is closed")
    assert len(server.requests) == 1


async def test_closing_ends_what_is_under_way(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await forever()

    server = await serve(script)
    client = sender()
    call = asyncio.create_task(posted(client, server.url))
    await server.asked.wait()
    await client.aclose()
    assert isinstance(await call, Unknown)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run one of the loops of a process; nothing may be left to it."""
    left: list[object] = []

    async def run() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        return await test()

    result = asyncio.run(run())
    gc.collect()  # a session that is left open says so when it is collected
    assert left == []
    return result


def test_one_event_loop_after_another_sends() -> None:
    client, accepted = Sender(deadline=LONG, connect_deadline=LONG), []

    async def call() -> list[http.Result]:
        server = Server(answers)
        await server.open()
        replies = [await posted(client, server.url) for _ in range(2)]
        accepted.append(server.connections)
        await server.aclose()
        return replies

    for _ in range(3):
        assert in_a_loop(call) == [Reply(status=200, body=b"{}")] * 2
    assert accepted == [1, 1, 1]
    in_a_loop(client.aclose)
    assert in_a_loop(call) == [NotActed(detail="the transport is closed")] * 2


def test_the_connections_of_a_loop_are_closed_when_it_ends() -> None:
    client, gone = Sender(deadline=LONG, connect_deadline=LONG), threading.Event()
    url, ready = [""], threading.Event()

    async def serves() -> None:
        async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            writer.write(server.reply(b"{}"))
            await reader.read()
            gone.set()

        server = Server(script)
        await server.open()
        url[0] = server.url
        ready.set()
        await asyncio.to_thread(gone.wait, 60)
        await server.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serves(),))
    thread.start()
    ready.wait()
    assert in_a_loop(lambda: posted(client, url[0])) == Reply(status=200, body=b"{}")
    assert gone.wait(60)
    thread.join()


def test_a_loop_that_ends_without_a_word_is_in_nobody_s_way() -> None:
    client = Sender(deadline=LONG, connect_deadline=LONG)
    url = "http://127.0.0.1:1"  # a port where nobody listens
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it complains of tasks that it had
    assert loop.run_until_complete(posted(client, url)) == NotActed(detail="ClientConnectorError")
    loop.close()
    assert in_a_loop(lambda: posted(client, url)) == NotActed(detail="ClientConnectorError")
    in_a_loop(client.aclose)


def test_a_loop_of_another_thread_may_begin_to_send_at_any_time() -> None:
    client, unanswered = Sender(deadline=LONG, connect_deadline=LONG), NotActed(detail="ClientConnectorError")
    results, watched = [], Watched()
    loops = [watched, asyncio.new_event_loop(), asyncio.new_event_loop()]

    def send(loop: asyncio.AbstractEventLoop) -> None:
        results.append(loop.run_until_complete(posted(client, "http://127.0.0.1:1")))

    send(loops[0])

    def send_from_another_thread() -> None:
        thread = threading.Thread(target=send, args=(loops[1],))
        thread.start()
        thread.join()

    watched.looked_at = send_from_another_thread
    send(loops[2])
    assert results == [unanswered] * 3
    for loop in loops:
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class Watched(asyncio.SelectorEventLoop):
    """An event loop that calls a function once when somebody asks whether it is closed."""

    looked_at: Callable[[], object] | None = None

    def is_closed(self) -> bool:
        looked_at, self.looked_at = self.looked_at, None
        if looked_at:
            looked_at()
        return super().is_closed()


def test_closing_in_another_loop_closes_what_rests() -> None:
    client = Sender(deadline=LONG, connect_deadline=LONG)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(posted(client, "http://127.0.0.1:1")) == NotActed(detail="ClientConnectorError")
    in_a_loop(client.aclose)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert asyncio.all_tasks(loop) == set()
    loop.close()


def test_a_session_that_was_passed_in_belongs_to_its_loop() -> None:
    async def make() -> tuple[aiohttp.ClientSession, Sender]:
        session = aiohttp.ClientSession()
        client = Sender(deadline=LONG, connect_deadline=LONG, session=session)
        assert await posted(client, "http://127.0.0.1:1") == NotActed(detail="ClientConnectorError")
        await session.close()
        return session, client

    _, client = in_a_loop(make)
    assert in_a_loop(lambda: posted(client, "http://127.0.0.1:1")) == NotActed(
        detail="the session that was passed in belongs to another event loop: let the transport make its own"
    )


@pytest.mark.parametrize("running", [False, True], ids=["before", "while"])
async def test_a_sender_that_was_used_before_a_fork_serves_parent_and_child(
    serve: Serve, sender: MakeSender, *, running: bool
) -> None:
    server = await serve(answers)
    client = sender() if running else Sender(deadline=LONG, connect_deadline=LONG)
    if running:
        assert await posted(client, server.url) == Reply(status=200, body=b"{}")
    child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(client, server.url))
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode == 0
    assert await posted(client, server.url) == Reply(status=200, body=b"{}")
    assert (server.connections, len(server.requests)) == ((2, 4) if running else (2, 3))
    await client.aclose()


def _in_a_child(client: Sender, url: str) -> None:
    async def call() -> None:
        for _ in range(2):
            assert await posted(client, url) == Reply(status=200, body=b"{}")
        await client.aclose()

    asyncio.run(call())


async def test_cookies_are_not_kept(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(b"{}", "200 OK", "Set-Cookie: session=of-somebody; Path=/"))

    server = await serve(script)
    client = sender()
    for _ in range(2):
        await posted(client, server.url.replace("127.0.0.1", "localhost"))
    assert len(server.requests) == 2
    assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("trust_env", [False, True])
async def test_the_environment_counts_only_when_it_is_trusted(
    serve: Serve, sender: MakeSender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, trust_env: bool
) -> None:
    server, proxy = await serve(answers), await serve(answers)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert await posted(sender(trust_env=trust_env), server.url) == Reply(status=200, body=b"{}")
    reached = proxy if trust_env else server
    assert (len(server.requests), len(proxy.requests)) == ((0, 1) if trust_env else (1, 0))
    assert (b"authorization" in reached.requests[0].lower()) is trust_env


async def test_what_traces_all_sessions_does_not_trace_ours(
    serve: Serve, sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    make = aiohttp.ClientSession.__init__

    async def trace(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(str(params.url))

    def instrumented(self: aiohttp.ClientSession, *args: Any, **options: Any) -> None:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(trace)
        make(self, *args, **(options | {"trace_configs": [config]}))

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", instrumented)
    server = await serve(answers)
    assert isinstance(await posted(sender(), server.url + "/?username=robert.zak"), Reply)
    assert seen == []


async def test_cancelling_passes_through(serve: Serve, sender: MakeSender) -> None:
    gone = asyncio.Event()

    async def script(server: Server, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await reader.read()
        gone.set()

    server = await serve(script)
    call = asyncio.create_task(posted(sender(), server.url))
    await server.asked.wait()
    call.cancel("by the caller")
    with pytest.raises(asyncio.CancelledError) as caught:
        await call
    assert caught.value.args == ("by the caller",)
    await asyncio.wait_for(gone.wait(), 30)


async def test_cancelling_in_the_middle_of_a_body_passes_through(serve: Serve, sender: MakeSender) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"{", length=2))
        await forever()

    server = await serve(script)
    call = asyncio.create_task(posted(sender(), server.url))
    await server.asked.wait()
    await asyncio.sleep(0.2)  # so that the reply has come as well
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(server.requests) == 1


# Results.


def saying_wait(text: str) -> Script:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"", "429 Too Many Requests", f"Retry-After: {text}"))

    return script


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        ("0000000000060", 60),
        ("3601", 3600),
        ("1000000000", 3600),
        ("9" * 5000, 3600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0667", None),
        ("Thu, 99 Foo 2099 99:99:99 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 3600),
    ],
)
async def test_retry_after_is_bounded_and_garbage_is_none(
    serve: Serve, sender: MakeSender, text: str, wait: int | None
) -> None:
    got = await posted(sender(), (await serve(saying_wait(text))).url)
    assert got == Reply(status=429, retry_after=None if wait is None else timedelta(seconds=wait), body=b"")


async def test_retry_after_may_be_a_date(serve: Serve, sender: MakeSender) -> None:
    at = datetime.now(UTC) + timedelta(minutes=50)
    got = await posted(sender(), (await serve(saying_wait(format_datetime(at, usegmt=True)))).url)
    assert isinstance(got, Reply)
    assert got.retry_after is not None
    assert timedelta(minutes=45) < got.retry_after <= timedelta(minutes=50)


@pytest.mark.parametrize("off", [timedelta(hours=2), -timedelta(hours=2)], ids=str)
async def test_a_date_is_by_the_clock_of_the_server(serve: Serve, sender: MakeSender, off: timedelta) -> None:
    async def says_dates(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        there = datetime.now(UTC) + off
        until = format_datetime(there + timedelta(minutes=2), usegmt=True)
        dates = (f"Date: {format_datetime(there, usegmt=True)}", f"Retry-After: {until}")
        writer.write(server.reply(b"", "429 Too Many Requests", *dates))

    got = await posted(sender(), (await serve(says_dates)).url)
    assert got == Reply(status=429, retry_after=timedelta(minutes=2), body=b"")


async def test_nothing_that_is_said_holds_the_url(serve: Serve, sender: MakeSender) -> None:
    server = await serve(drops_the_second)
    client = sender()
    results = [await posted(client, f"{server.url}/?username=robert.zak", "GET", None) for _ in range(2)]
    port = server.port
    await server.aclose()
    results.append(await posted(client, f"{server.url_of(port)}/?username=robert.zak", "GET", None))
    assert [type(each) for each in results] == [Reply, Unknown, NotActed]
    assert "robert" not in repr(results)
    assert str(port) not in repr(results)


# Settings.


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(seconds=-1), 10, None])
@pytest.mark.parametrize("which", ["deadline", "connect_deadline"])
def test_a_deadline_is_a_positive_timedelta(which: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=which):
        Sender(**({"deadline": SHORT, "connect_deadline": SHORT} | {which: wrong}))


@pytest.mark.parametrize("which", ["careless", "no", "yes"])
def test_tls_without_verification_is_refused(certificate: Contexts, which: str) -> None:
    ssl: Any = {"careless": certificate.careless, "no": False, "yes": True}[which]
    with pytest.raises(ConfigurationError, match="verifies"):
        Sender(deadline=SHORT, connect_deadline=SHORT, ssl=ssl)


@pytest.mark.parametrize("more", [{"trust_env": True}, {"proxy": "http://proxy.test:3128"}])
async def test_trust_env_and_a_session_are_refused(more: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="trust_env and proxy"):
            Sender(deadline=SHORT, connect_deadline=SHORT, session=session, **more)


# Proxies.

PROXY_USER = "somebody:pass%20phrase"
PROXY_HEADER = b"proxy-authorization: basic " + base64.b64encode(b"somebody:pass phrase").lower()


def tunnel(status: str = "200 Connection established") -> Script:
    """Serve CONNECT as a proxy does, and pass on what comes after it."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await server.request(reader)
        host, port = request.split()[1].decode().split(":")
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await writer.drain()
        if not status.startswith("200"):
            return
        there, back = await asyncio.open_connection(host, int(port))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while piece := await source.read(65536):
                target.write(piece)
                await target.drain()
            target.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    return script


async def test_a_proxy_carries_what_it_can_not_read(
    serve: Serve, sender: MakeSender, certificate: Contexts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login nobody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server, proxy = await serve(answers, certificate.server), await serve(tunnel())
    for user in ("", f"{PROXY_USER}@"):
        client = sender(ssl=certificate.client, proxy=f"http://{user}127.0.0.1:{proxy.port}")
        assert await posted(client, server.url) == Reply(status=200, body=b"{}")
        assert proxy.requests[-1].startswith(f"CONNECT 127.0.0.1:{server.port} ".encode())
        assert (PROXY_HEADER in proxy.requests[-1].lower()) is bool(user)
        assert b"authorization" not in server.requests[-1].lower()
        await client.aclose()
    assert b"authorization" not in proxy.requests[0].lower()


@pytest.mark.parametrize("body", [None, BODY])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("407 Proxy Authentication Required", NotActed(cause=Cause.PROTOCOL, detail=http.PROXY_WANTS_LOG_IN)),
        ("403 Forbidden", NotActed(cause=Cause.PROTOCOL, detail="a proxy on the way refuses to connect: HTTP 403")),
        ("502 Bad Gateway", NotActed(detail="a proxy on the way refuses to connect: HTTP 502")),
        ("302 Found", NotActed(detail="a proxy on the way refuses to connect: HTTP 302")),
    ],
)
async def test_what_a_proxy_refuses_did_nothing(
    serve: Serve, sender: MakeSender, status: str, outcome: NotActed, body: bytes | None
) -> None:
    proxy = await serve(tunnel(status))
    client = sender(proxy=f"http://{PROXY_USER}@127.0.0.1:{proxy.port}")
    assert await client.send("PUT" if body else "GET", URL("https://127.0.0.1:1/"), body) == outcome
    assert len(proxy.requests) == 1


async def test_a_proxy_that_is_not_there_did_nothing(sender: MakeSender) -> None:
    client = sender(proxy="http://127.0.0.1:1")
    for body in (None, BODY):
        got = await client.send("PUT" if body else "GET", URL("https://127.0.0.1:1/"), body)
        assert got == NotActed(detail="ClientProxyConnectionError")


@pytest.mark.parametrize(
    "wrong",
    ["", "proxy.test:3128", "socks5://a:secret@b:1", "http://", "http://a:secret@b:port", "http://b/x?secret=1", 5],
)
def test_what_is_no_proxy_is_refused_and_not_repeated(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="proxy must be like http://") as caught:
        Sender(deadline=SHORT, connect_deadline=SHORT, proxy=wrong)
    assert "secret" not in str(caught.value)


def test_a_proxy_s_password_is_in_no_repr() -> None:
    # From inside, because a traceback with variables shows private attributes, too.
    client = Sender(deadline=SHORT, connect_deadline=SHORT, proxy="http://somebody:phrase@proxy.test")
    assert "phrase" not in repr(vars(client))

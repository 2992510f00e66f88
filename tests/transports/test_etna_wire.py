"""The requests to the broker, byte for byte, and the outcome of a step when its connection fails."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from reset_flow.domain.flow import NewCredential
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.ports import Case
from tests.patience import let_time_pass

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.outcomes import Outcome
    from reset_flow.transports.etna import EtnaTransport
    from tests.transports.conftest import MakeEtna, Script, Serve, Server

CASE = Case(user="robert.zak")
DEADLINE = timedelta(seconds=60)
NEW = NewCredential(secret=Secret("p\u00e4ssw\u00f6rd \u4e2d\u6587 \U0001f600"))
CALLS: dict[str, Callable[[EtnaTransport], Awaitable[Outcome]]] = {
    "challenge": lambda etna: etna.challenge(CASE),
    "request": lambda etna: etna.request(CASE, Secret("Peterson")),
    "exchange": lambda etna: etna.exchange(CASE, Secret("041175")),
    "update": lambda etna: etna.update(CASE, Secret("a-token"), NEW),
    "log_in": lambda etna: etna.log_in(CASE, Secret("p\u00e4ssword")),
}


def saying(body: bytes) -> Script:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(body))
            await writer.drain()

    return script


def parts(request: bytes) -> tuple[str, dict[str, bytes], bytes]:
    """Return the first line, the headers by lower-case name, and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    pairs = [line.split(b": ", 1) for line in lines]
    return first.decode("ascii"), {name.decode().lower(): value for name, value in pairs}, body


@pytest.mark.parametrize(
    ("user", "encoded"),
    [
        ("robert.zak", "robert.zak"),
        ("hello@autoshares.com", "hello%40autoshares.com"),
        ("a+b&c=d e/f?g#h%40", "a%2Bb%26c%3Dd%20e%2Ff%3Fg%23h%2540"),
        ("Zo\u00eb\u4e2d", "Zo%C3%AB%E4%B8%AD"),
        ("a\r\nHost: b", "a%0D%0AHost%3A%20b"),
        ("", ""),
    ],
)
async def test_the_login_of_step_2_is_encoded_once_and_whole(
    serve: Serve, etna: MakeEtna, user: str, encoded: str
) -> None:
    server = await serve(saying(b'{"Model": "", "Errors": [], "IsSucceed": true}'))
    assert await etna(f"{server.url}/api").challenge(Case(user=user)) == Accepted(value=Secret(""))
    first, headers, body = parts(server.requests[0])
    assert first == f"GET /api/v1.0/users/password/secret-question?username={encoded} HTTP/1.1"
    assert headers["et-app-key"] == b"app-key-of-nobody"
    assert body == b""


@pytest.mark.parametrize(
    ("step", "first", "body"),
    [
        (
            "request",
            "POST /api/v1.0/users/password/reset HTTP/1.1",
            b'{"User":"robert.zak","SecretQuestionAnswer":"Peterson"}',
        ),
        (
            "exchange",
            "POST /api/v1.0/users/identifiers/reset/code HTTP/1.1",
            b'{"Code":"041175","Identifier":"ResetPassword"}',
        ),
        (
            "update",
            "PUT /api/v1.0/users/passwords/reset/ HTTP/1.1",
            '{"Token":"a-token","Password":"p\u00e4ssw\u00f6rd \u4e2d\u6587 \U0001f600",'
            '"PasswordConfirmation":"p\u00e4ssw\u00f6rd \u4e2d\u6587 \U0001f600"}'.encode(),
        ),
    ],
)
async def test_a_step_is_sent_byte_for_byte(serve: Serve, etna: MakeEtna, step: str, first: str, body: bytes) -> None:
    server = await serve(saying(b'{"Model": "t", "Errors": [], "IsSucceed": true}'))
    assert isinstance(await CALLS[step](etna(f"{server.url}/api/")), Accepted)
    assert len(server.requests) == 1
    line, headers, sent = parts(server.requests[0])
    assert (line, sent) == (first, body)
    assert headers["content-type"] == b"application/json"
    assert headers["content-length"] == str(len(body)).encode()
    assert headers["accept-encoding"] == b"identity"
    assert headers["et-app-key"] == b"app-key-of-nobody"


async def test_in_somebody_elses_session_the_headers_are_the_same(serve: Serve, etna: MakeEtna) -> None:
    server = await serve(saying(b'{"Model": "t", "Errors": [], "IsSucceed": true}'))
    theirs = {"Content-Type": "text/plain", "Et-App-Key": "another", "Accept": "text/plain", "X-Theirs": "1"}
    async with aiohttp.ClientSession(headers=theirs) as session:
        transport = etna(f"{server.url}/api/", session=session)
        assert isinstance(await CALLS["exchange"](transport), Accepted)
        assert isinstance(await CALLS["challenge"](transport), Accepted)
    (_, posted, _), (_, asked, _) = map(parts, server.requests)
    for headers in (posted, asked):
        assert headers["accept"] == b"application/json"
        assert headers["accept-encoding"] == b"identity"
        assert headers["et-app-key"] == b"app-key-of-nobody"
        assert headers["x-theirs"] == b"1"
    assert posted["content-type"] == b"application/json"


async def test_a_log_in_has_two_headers_and_no_body(serve: Serve, etna: MakeEtna) -> None:
    server = await serve(saying(b'{"State": "Succeeded"}'))
    assert await CALLS["log_in"](etna(f"{server.url}/api")) == Accepted()
    first, headers, body = parts(server.requests[0])
    assert first == "POST /api/token HTTP/1.1"
    assert headers["username"] == b"robert.zak"
    assert headers["password"] == "p\u00e4ssword".encode()
    assert headers["content-length"] == b"0"
    assert "content-type" not in headers
    assert body == b""


@pytest.mark.parametrize("step", CALLS)
async def test_never_connected_is_not_acted(serve: Serve, etna: MakeEtna, step: str) -> None:
    server = await serve(saying(b"{}"))
    transport = etna(server.url)
    await server.aclose()
    assert await CALLS[step](transport) == NotActed(detail="ClientConnectorError")


@pytest.mark.parametrize("step", CALLS)
@pytest.mark.parametrize("how", ["drops it", "is silent", "breaks off"])
async def test_a_step_that_nobody_answers_whole_is_unknown(serve: Serve, etna: MakeEtna, step: str, how: str) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        if how == "is silent":
            let_time_pass(DEADLINE)
            await reader.read()
        if how == "breaks off":
            writer.write(server.reply(b'{"Errors": [], "IsSucceed": true, "State": "Succeeded"}', length=1000))

    server = await serve(script)
    got = await CALLS[step](etna(server.url, deadline=DEADLINE))
    assert len(server.requests) == 1
    if step == "challenge":
        assert isinstance(got, NotActed)
        assert got.cause is Cause.UNAVAILABLE
    else:
        assert isinstance(got, Unknown)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", Unknown(detail="HTTP 200, a body that is too long")),
        ("404 Not Found", Unknown(detail="HTTP 404, a body that is too long")),  # the envelope may be in it
        ("302 Found", Unknown(detail="HTTP 302, a body that is too long")),
        ("429 Too Many Requests", NotActed(cause=Cause.THROTTLED, detail="HTTP 429")),
    ],
)
async def test_a_body_that_was_not_read_misses_no_envelope(
    serve: Serve, etna: MakeEtna, status: str, outcome: Outcome
) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b" " * 300_000, status))

    server = await serve(script)
    assert await CALLS["update"](etna(server.url)) == outcome


async def test_an_encoded_reply_is_unknown(serve: Serve, etna: MakeEtna) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b'{"Errors": [], "IsSucceed": true}', "200 OK", "Content-Encoding: br"))

    server = await serve(script)
    assert await CALLS["update"](etna(server.url)) == Unknown(detail="HTTP 200, an encoded body")


async def test_a_redirect_takes_no_password_elsewhere(serve: Serve, etna: MakeEtna) -> None:
    elsewhere = await serve(saying(b'{"Errors": [], "IsSucceed": true}'))

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b"", "308 Permanent Redirect", f"Location: {elsewhere.url}/"))

    server = await serve(script)
    assert await CALLS["update"](etna(server.url)) == NotActed(cause=Cause.PROTOCOL, detail="HTTP 308")
    assert elsewhere.requests == []


async def test_a_password_goes_out_once_when_the_connection_is_lost(serve: Serve, etna: MakeEtna) -> None:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(server.reply(b'{"Model": "a-token", "Errors": [], "IsSucceed": true}'))
        await server.request(reader)

    server = await serve(script)
    transport = etna(server.url)
    assert await CALLS["exchange"](transport) == Accepted(value=Secret("a-token"))
    assert await CALLS["update"](transport) == Unknown(detail="ServerDisconnectedError")
    assert len(server.requests) == 2


async def test_nothing_is_logged(serve: Serve, etna: MakeEtna, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    server = await serve(saying(b'{"Model": "a-token", "Errors": ["robert.zak"], "IsSucceed": false}'))
    transport = etna(server.url)
    for call in CALLS.values():
        await call(transport)
    await transport.aclose()
    assert len(server.requests) == len(CALLS)
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    assert "robert" not in caplog.text

"""Breached passwords are found without being sent, and no failure of the check blocks anybody."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import aiohttp
import pytest
from hypothesis import given, strategies as st

from reset_flow.domain.errors import ConfigurationError, Reason
from reset_flow.domain.password_rules import PasswordRules
from reset_flow.domain.secret import Secret
from reset_flow.engine.password_checks import complaints
from reset_flow.testing import LeakScanner, traceback_of
from reset_flow.transports import breaches
from reset_flow.transports.breaches import BREACHED, BreachCheck
from reset_flow.transports.http import BODY_LIMIT, Reply
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow.ports import PasswordCheck
    from tests.transports.conftest import Broker, Contexts, Script, Serve, Server

DEADLINE = timedelta(seconds=60)
PASSWORD, USER = " violet tractor 🦊 canary", "robert.zak"
DIGEST = hashlib.sha1(PASSWORD.encode()).hexdigest().upper()  # noqa: S324 - the range API is defined with it
PREFIX, SUFFIX = DIGEST[:5], DIGEST[5:]
OTHERS = [f"{index:035X}:{index + 1}" for index in range(900)]


class Options(TypedDict, total=False):
    session: aiohttp.ClientSession | None
    deadline: timedelta
    threshold: int


class Make(Protocol):
    def __call__(self, url: str, **options: Unpack[Options]) -> BreachCheck: ...


@pytest.fixture
async def check() -> AsyncIterator[Make]:
    checks: list[BreachCheck] = []

    def make(url: str, **options: Unpack[Options]) -> BreachCheck:
        checks.append(BreachCheck(url, **options))
        return checks[-1]

    yield make
    for each in checks:
        await each.aclose()


def listing(*lines: str, end: str = "\r\n") -> bytes:
    return end.join([*OTHERS[:450], *lines, *OTHERS[450:]]).encode()


def saying(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            writer.write(server.reply(body, status, *headers))
            await writer.drain()

    return script


async def test_a_breached_password_is_found_by_five_digits_of_its_hash(serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:3730471")))
    searching = check(server.url + "/range/")
    assert await searching(Secret(PASSWORD), USER) == (BREACHED,)
    assert await searching(Secret(PASSWORD + "!"), USER) == ()
    head = server.requests[0].decode()
    assert head.startswith(f"GET /range/{PREFIX} HTTP/1.1\r\n")
    assert "\r\nAdd-Padding: true\r\n" in head
    assert server.requests[0].endswith(b"\r\n\r\n")
    assert SUFFIX not in head.upper()
    assert "canary" not in head
    assert USER not in head
    assert server.connections == 1


@pytest.mark.parametrize("path", ["", "/", "/range", "/range/", "/a%20b/range/"])
async def test_the_digits_are_one_more_segment_of_any_url(path: str, serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:1")))
    assert await check(server.url + path)(Secret(PASSWORD), USER) == (BREACHED,)
    assert server.requests[0].startswith(f"GET {path.rstrip('/')}/{PREFIX} HTTP/1.1".encode())


@pytest.mark.parametrize(
    "body",
    [
        listing(f"{SUFFIX}:1", end="\n"),
        listing(f"{SUFFIX.lower()}:1"),
        listing(f"{SUFFIX}:1") + b"\r\n",
        f"{SUFFIX}:999999999999".encode(),
    ],
    ids=["line feeds", "lower case", "an end of the last line", "one line, a large count"],
)
async def test_any_way_to_write_the_lines_will_do(body: bytes, serve: Serve, check: Make) -> None:
    server = await serve(saying(body))
    assert await check(server.url)(Secret(PASSWORD), USER) == (BREACHED,)


@pytest.mark.parametrize(
    ("count", "threshold", "found"), [(0, 1, False), (1, 1, True), (9, 10, False), (10, 10, True), (11, 10, True)]
)
async def test_padding_and_what_is_seen_too_seldom_pass(
    count: int,
    threshold: int,
    found: bool,  # noqa: FBT001 - a table
    serve: Serve,
    check: Make,
) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:{count}")))
    complaints = await check(server.url, threshold=threshold)(Secret(PASSWORD), USER)
    assert complaints == ((BREACHED,) if found else ())


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((listing(f"{SUFFIX}:7"), "201 Created"), "status 201"),
        ((listing(f"{SUFFIX}:7"), "302 Found", "Location: /elsewhere"), "status 302"),
        ((b"slow down", "429 Too Many Requests", "Retry-After: 2"), "status 429"),
        ((listing(f"{SUFFIX}:7"), "500 Oops"), "status 500"),
        ((b"", "503 Service Unavailable"), "status 503"),
        ((b"",), "a body of another shape"),
        ((b"<html>please log in to this network</html>",), "a body of another shape"),
        ((listing(f"{SUFFIX}:7", "oops"),), "a body of another shape"),
        ((listing(f"{SUFFIX}:7", f"{SUFFIX}:-1"),), "a body of another shape"),
        ((listing(f"{SUFFIX}:"),), "a body of another shape"),
        ((listing(f"{DIGEST}:7"),), "a body of another shape"),
        ((listing(f"{SUFFIX}:{'9' * 5000}"),), "a body of another shape"),
        ((b"\xff\x00" * 700,), "a body of another shape"),
        ((gzip.compress(listing(f"{SUFFIX}:7"))[:-1], "200 OK", "Content-Encoding: gzip"), "an encoded body"),
        ((f"{SUFFIX}:7\r\n".encode() * (BODY_LIMIT // 30),), "a body that is too long"),
    ],
)
async def test_a_reply_that_is_no_answer_blocks_nobody(
    reply: tuple[bytes, str] | tuple[bytes, str, str] | tuple[bytes],
    reason: str,
    serve: Serve,
    check: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await serve(saying(*reply))
    assert await check(server.url)(Secret(PASSWORD), USER) == ()
    assert len(server.requests) == 1
    logged = [record for record in caplog.records if record.name == "reset_flow"]
    assert [(record.levelname, record.getMessage()) for record in logged] == [
        ("DEBUG", f"a password was not looked up in breaches: {reason}")
    ]
    nothing_shows(caplog.text)


async def lost(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    server.reset(writer)


async def cut(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    body = listing(f"{SUFFIX}:7")
    writer.write(server.reply(body, length=len(body) + 100))
    await writer.drain()


async def gibberish(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    writer.write(b"\x00\x01 no HTTP " + SUFFIX.encode() + b"\r\n\r\n")


async def silent(server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    await reader.read()


async def silent_for_long(server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    let_time_pass(DEADLINE)
    await reader.read()


async def dripping(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.request(reader)
    writer.write(server.reply(f"{SUFFIX}:7\r\n".encode(), length=10_000))
    while True:
        writer.write(f"{SUFFIX}:7\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        let_time_pass(DEADLINE / 10)


@pytest.mark.parametrize("script", [lost, cut, gibberish, silent_for_long, dripping])
async def test_a_connection_that_fails_or_hangs_blocks_nobody(
    script: Script, serve: Serve, check: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await serve(script)
    assert await check(server.url, deadline=DEADLINE)(Secret(PASSWORD), USER) == ()
    assert server.connections == 1
    assert "a password was not looked up in breaches: " in caplog.text
    nothing_shows(caplog.text)


async def test_where_nobody_listens_or_tls_fails_nobody_is_blocked(
    serve: Serve, check: Make, certificate: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gone = await serve(silent)
    url = gone.url
    await gone.aclose()
    assert await check(url)(Secret(PASSWORD), USER) == ()
    unknown = await serve(saying(listing(f"{SUFFIX}:7")), certificate.server)
    assert await check(unknown.url)(Secret(PASSWORD), USER) == ()
    assert unknown.requests == []
    nothing_shows(caplog.text)


async def test_a_check_that_is_closed_has_no_complaint(serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:7")))
    searching = check(server.url)
    assert await searching(Secret(PASSWORD), USER) == (BREACHED,)
    await searching.aclose()
    await searching.aclose()
    assert await searching(Secret(PASSWORD), USER) == ()
    assert len(server.requests) == 1


async def test_a_session_that_is_passed_in_is_used_and_left_open(serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:7")))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        searching = check(server.url, session=session)
        assert await searching(Secret(PASSWORD), USER) == (BREACHED,)
        await searching.aclose()
        assert not session.closed


async def test_the_rules_ask_it_only_where_they_are_told_to(serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:7")))
    searching: PasswordCheck = check(server.url)
    assert await complaints(PasswordRules(), Secret(PASSWORD), USER) == ()
    assert server.requests == []
    rules = PasswordRules(checks=(searching,))
    assert await complaints(rules, Secret("football1"), USER) != ()
    assert server.requests == []
    assert await complaints(rules, Secret(PASSWORD), USER) == (BREACHED,)
    assert await complaints(rules, Secret(PASSWORD + "!"), USER) == ()


async def test_the_traceback_of_a_caller_who_leaves_shows_no_hash(serve: Serve, check: Make) -> None:
    server = await serve(silent)
    task = asyncio.create_task(check(server.url)(Secret(PASSWORD), USER))
    await server.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    shown = traceback_of(caught.value, callers=[Path(__file__).parents[1]])
    assert breaches.__file__ in shown
    # Five digits of the hash are in the URL, by design, and that is in frames of the driver.
    assert LeakScanner({"password": PASSWORD, "user": USER, "the rest of it": SUFFIX}).find(shown) == []


async def test_nothing_shows_in_what_can_be_printed(check: Make) -> None:
    searching = check("http://127.0.0.1:1")
    nothing_shows(f"{searching!r} {searching} {vars(searching)} {breaches.sha1_hex(Secret(PASSWORD))!r}")


async def test_what_no_text_should_hold_is_searched_all_the_same(serve: Serve, check: Make) -> None:
    server = await serve(saying(listing(f"{SUFFIX}:7")))
    assert await check(server.url)(Secret("\ud800 violet"), USER) == ()
    assert len(server.requests) == 1


@given(st.binary(max_size=200) | st.from_regex(rb"([0-9A-F]{34,36}:[0-9]{0,3}\r?\n){0,4}", fullmatch=True))
def test_whatever_comes_back_is_read_as_a_whole_or_not_at_all(body: bytes) -> None:
    known, flaw = breaches.read_counts(Reply(status=200, body=body))
    assert bool(known) != bool(flaw)
    assert all(len(suffix) == 35 and count >= 0 for suffix, count in known.items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://api.example/range/"}, "url must be https"),
        ({"url": "https://user:secret@api.example/"}, "url must have no credentials"),
        ({"url": "https://api.example/?range="}, "url must have no credentials, no query"),
        ({"url": "api.example"}, "url must be like https://"),
        ({"url": None}, "url must be like https://"),
        ({"deadline": timedelta(0)}, "deadline must be a timedelta longer than zero"),
        ({"deadline": 2}, "deadline must be a timedelta longer than zero"),
        ({"threshold": 0}, "threshold must be a whole number of at least 1"),
        ({"threshold": 1.5}, "threshold must be a whole number of at least 1"),
        ({"threshold": True}, "threshold must be a whole number of at least 1"),
    ],
)
def test_settings_that_no_check_can_be_made_of_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BreachCheck(**settings)
    assert str(caught.value).startswith(says)
    assert "secret" not in str(caught.value)


def test_a_check_needs_no_loop_to_be_made() -> None:
    check = BreachCheck("http://127.0.0.1:1")

    async def ask() -> tuple[Reason, ...]:
        complaints = await check(Secret(PASSWORD), USER)
        await check.aclose()
        return complaints

    assert asyncio.run(ask()) == ()


async def test_without_a_url_the_public_service_is_asked(broker: Broker) -> None:
    broker.says(listing(f"{SUFFIX}:7"))
    check = BreachCheck()
    assert await check(Secret(PASSWORD), USER) == (BREACHED,)
    await check.aclose()
    assert broker.call.url == f"https://api.pwnedpasswords.com/range/{PREFIX}"


def nothing_shows(text: str) -> None:
    for canary in (PASSWORD, "canary", USER, DIGEST, SUFFIX, PREFIX, SUFFIX[:12]):
        assert canary.lower() not in text.lower()

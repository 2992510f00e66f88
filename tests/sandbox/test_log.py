"""The log has each call as it was on the wire, and the broker's reply."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from reset_flow.sandbox.calls import Call, CallLog

if TYPE_CHECKING:
    import aiohttp

    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Ask

REQUEST = "/api/v1.0/users/password/reset"
EXCHANGE = "/api/v1.0/users/password/reset/code"


async def send_raw(sandbox: Sandbox, head: str, body: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
    lines = [head, "Host: sandbox", f"Content-Length: {len(body)}", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1.0/users/passwords/reset/",
        "/api/v1.0/users/passwords/reset",
        "/api/v1.0/users/password/secret-question?username=hello%40autoshares.com",
        "/api/v1.0/users/password/secret-question?username=hello@autoshares.com",
        "/api/v1.0/users/password/secret-question?username=a%2Bb+c%20d&x=%c3%b6",
        "/api/v1.0//users/../%75sers/?",
    ],
)
async def test_the_target_is_logged_as_it_was_on_the_wire(target: str, sandbox: Sandbox) -> None:
    assert (await send_raw(sandbox, f"PUT {target} HTTP/1.1")).startswith(b"HTTP/1.1 401 ")
    assert [(call.method, call.target) for call in sandbox.calls] == [("PUT", target)]


async def test_headers_and_body_are_logged_byte_for_byte(sandbox: Sandbox, ask: Ask) -> None:
    body = b'{ "User":\t"robert.zak" ,"x":"\xff\x00\\u00e9"}'
    await send_raw(sandbox, f"POST {REQUEST} HTTP/1.1\r\neT-aPP-kEY:  sandbox\r\nX-Twice: 1\r\nX-Twice: ö", body)
    _, [call] = await ask("GET", "/sandbox/log")
    assert base64.b64decode(call["body_base64"]) == body == sandbox.calls[0].body
    assert call["body"] == body.decode(errors="replace")
    assert call["headers"][:4] == [["eT-aPP-kEY", "sandbox"], ["X-Twice", "1"], ["X-Twice", "ö"], ["Host", "sandbox"]]


async def test_a_compressed_body_is_logged_compressed(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    async with client.post(REQUEST, data=b"\x1f\x8b\x00", headers={"Content-Encoding": "gzip"}) as reply:
        assert reply.status == 400
    assert sandbox.calls[0].body == b"\x1f\x8b\x00"


async def test_the_log_tells_the_route_the_deed_and_the_reply(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.next_codes.append("004158")
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    await ask("POST", EXCHANGE, {"Code": "999999"})
    await ask("POST", EXCHANGE, {"Code": "004158"})
    await ask("GET", "/api/v2.0/else")
    _, calls = await ask("GET", "/sandbox/log")
    assert [(call["number"], call["route"], call["acted"], call["status"], call["user"]) for call in calls] == [
        (1, "request", True, 200, "maria.noquestion"),
        (2, "exchange", False, 409, None),
        (3, "exchange", True, 200, "maria.noquestion"),
        (4, "unknown", False, 404, None),
    ]
    assert calls[0]["reply"] == {"Errors": [], "IsSucceed": False}
    assert calls[0]["time"] == "2025-03-01T12:00:00+00:00"
    assert calls[0]["fault"] is None
    assert [call.number for call in sandbox.calls_of("exchange")] == [2, 3]


async def test_the_log_can_be_narrowed_and_cleared_and_its_numbers_go_on(sandbox: Sandbox, ask: Ask) -> None:
    for _ in range(2):
        await ask("POST", REQUEST, {"User": "maria.noquestion"})
    await ask("POST", EXCHANGE, {"Code": "999999"})
    assert [call["number"] for call in (await ask("GET", "/sandbox/log?route=request"))[1]] == [1, 2]
    assert [call["number"] for call in (await ask("GET", "/sandbox/log?after=1"))[1]] == [2, 3]
    assert (await ask("GET", "/sandbox/log?after=x"))[0] == 400
    assert (await ask("DELETE", "/sandbox/log"))[0] == 204
    assert sandbox.calls == []
    await ask("POST", EXCHANGE, {"Code": "999999"})
    assert [call.number for call in sandbox.calls] == [4]


async def test_the_repr_of_a_call_shows_no_secret(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "robert.zak", "SecretQuestionAnswer": "Peterson"})
    assert "Peterson" in sandbox.calls[0].text
    shown = repr(sandbox.calls) + repr(sandbox.mails)
    assert "request" in shown
    assert not [secret for secret in ("Peterson", sandbox.newest_code("robert.zak")) if secret in shown]


def call(number: int, body: bytes = b"") -> Call:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    return Call(number=number, at=at, method="GET", target="/", headers=(), body=body, route="unknown")


def test_the_log_keeps_only_the_newest_calls() -> None:
    log = CallLog(limit=3)
    calls = [call(log.next_number()) for _ in range(5)]
    for one in calls:
        log.add(one)
    assert [one.number for one in log] == [3, 4, 5]
    log.settle(calls[0], acted=True)
    log.settle(calls[4], acted=True)
    assert [(one.number, one.acted) for one in log] == [(3, False), (4, False), (5, True)]


def test_the_log_keeps_only_so_many_bytes_of_bodies() -> None:
    log = CallLog(byte_limit=10)
    for number in (1, 2, 3):
        log.add(call(number, b"1234"))
    assert [one.number for one in log] == [2, 3]
    log.clear()
    log.add(call(4, b"1234567890"))
    assert [one.number for one in log] == [4]

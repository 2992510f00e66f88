"""Each fault applies to its calls, as its name says, and not to the next call."""

from __future__ import annotations

import asyncio
import base64
import errno
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from reset_flow.sandbox.faults import ACTS, Fault, FaultQueue

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Ask

REQUEST = "/api/v1.0/users/password/reset"
EXCHANGE = "/api/v1.0/users/password/reset/code"
HOUR = 3600.0
MARIA = {"User": "maria.noquestion"}
ACCEPTED = (200, {"Errors": [], "IsSucceed": False})


@pytest.mark.parametrize(("name", "acts"), [("drop_before", False), ("drop_after", True)])
async def test_a_dropped_call_gets_no_reply(name: str, acts: bool, sandbox: Sandbox, ask: Ask) -> None:  # noqa: FBT001
    sandbox.fault("request", name)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask("POST", REQUEST, MARIA)
    [call] = sandbox.calls
    assert (call.fault, call.acted, call.status, call.reply) == (name, acts, *ACCEPTED)
    assert len(sandbox.mails) == acts
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED


async def test_a_cut_reply_ends_in_the_middle_of_its_body(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.fault("request", "cut_after")
    async with client.post(REQUEST, json=MARIA) as reply:
        assert (reply.status, reply.content_length) == (200, len('{"Errors": [], "IsSucceed": false}'))
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
    assert sandbox.calls[0].acted
    assert len(sandbox.mails) == 1


@pytest.mark.parametrize(("name", "acts"), [("hang_before", False), ("hang_after", True)])
async def test_a_hanging_call_lasts_until_the_client_goes(
    name: str,
    acts: bool,  # noqa: FBT001
    sandbox: Sandbox,
    client: aiohttp.ClientSession,
    ask: Ask,
) -> None:
    sandbox.fault("request", name)
    call = asyncio.create_task(client.post(REQUEST, json=MARIA))
    await sandbox.wait_for_calls("request", acted=acts)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (sandbox.calls[0].fault, sandbox.calls[0].acted) == (name, acts)
    assert len(sandbox.mails) == acts
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED


async def test_a_hanging_call_ends_when_the_sandbox_closes(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("*", "hang_before", times=None)
    calls = asyncio.gather(*(ask("POST", REQUEST, MARIA) for _ in range(3)), return_exceptions=True)
    await sandbox.wait_for_calls("request", 3)
    async with asyncio.timeout(30):
        await sandbox.aclose()
        outcomes = await calls
    assert [type(outcome) for outcome in outcomes] == [aiohttp.ServerDisconnectedError] * 3


async def test_latency_delays_the_deed_and_the_reply(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("request", "latency", seconds=HOUR)
    call = asyncio.create_task(ask("POST", REQUEST, MARIA))
    [logged] = await sandbox.wait_for_calls("request")
    assert (logged.fault, logged.acted, logged.status) == ("latency", False, None)
    assert sandbox.mails == []
    sandbox.release()
    assert await call == ACCEPTED
    assert sandbox.calls[0].acted


async def test_a_delayed_deed_is_done_even_after_the_client_has_gone(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    sandbox.fault("request", "latency", seconds=HOUR)
    call = asyncio.create_task(client.post(REQUEST, json=MARIA))
    await sandbox.wait_for_calls("request")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.05)  # the sandbox hears of it
    assert sandbox.mails == []
    sandbox.release()
    async with asyncio.timeout(60):
        await sandbox.wait_for_calls("request", acted=True)
    assert len(sandbox.mails) == 1


async def test_latency_after_delays_the_reply_only(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("request", "latency_after", seconds=HOUR)
    call = asyncio.create_task(ask("POST", REQUEST, MARIA))
    await sandbox.wait_for_calls("request", acted=True)
    assert len(sandbox.mails) == 1
    assert not call.done()
    sandbox.release()
    assert await call == ACCEPTED


@pytest.mark.parametrize("name", ["latency", "latency_after"])
async def test_latency_ends_when_its_time_is_up(name: str, sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("request", name, seconds=0.05)
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED
    sandbox.fault("request", name, seconds=0.05)
    sandbox.release()  # none is under way
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED


@pytest.mark.parametrize("act", [False, True])
async def test_a_status_replaces_the_reply(act: bool, sandbox: Sandbox, client: aiohttp.ClientSession) -> None:  # noqa: FBT001
    sandbox.fault("request", "status", status=429, headers={"Retry-After": "7"}, body="slow down", act=act)
    async with client.post(REQUEST, json=MARIA) as reply:
        assert (reply.status, reply.headers["Retry-After"], await reply.text()) == (429, "7", "slow down")
    assert (sandbox.calls[0].acted, sandbox.calls[0].status) == (act, 200)
    assert len(sandbox.mails) == act


async def test_a_status_is_503_without_a_body_unless_told(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("*", "status")
    assert await ask("POST", REQUEST, MARIA) == (503, None)
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED


@pytest.mark.parametrize(
    ("body", "content_type"),
    [("{", "application/json"), ("<h1>Maintenance</h1>", "text/html"), (b"\xff\x00", "application/octet-stream")],
)
async def test_a_raw_reply_is_any_bytes(
    body: str | bytes, content_type: str, sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    sandbox.fault("request", "raw", body=body, content_type=content_type, act=True)
    async with client.post(REQUEST, json=MARIA) as reply:
        assert (reply.status, reply.headers["Content-Type"]) == (200, content_type)
        assert await reply.read() == (body.encode() if isinstance(body, str) else body)
    assert len(sandbox.mails) == 1


async def test_a_redirect_points_elsewhere(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    sandbox.fault("request", "redirect", status=307, location="http://127.0.0.1:9/x?y=%20z")
    async with client.post(REQUEST, json=MARIA, allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (307, "http://127.0.0.1:9/x?y=%20z")
    assert sandbox.mails == []


@pytest.mark.parametrize("act", [False, True])
async def test_a_reset_is_seen_as_one_by_the_client(act: bool, sandbox: Sandbox, ask: Ask) -> None:  # noqa: FBT001
    sandbox.fault("request", "reset", act=act)
    with pytest.raises(aiohttp.ClientOSError) as caught:
        await ask("POST", REQUEST, MARIA)
    assert caught.value.errno == errno.ECONNRESET
    assert (sandbox.calls[0].acted, len(sandbox.mails)) == (act, act)
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED


async def test_a_fault_may_wait_before_it_strikes(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("request", "drop_after", seconds=0.1)
    call = asyncio.create_task(ask("POST", REQUEST, MARIA))
    await sandbox.wait_for_calls("request")
    assert sandbox.mails == []
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call
    assert len(sandbox.mails) == 1


async def test_a_fault_is_for_its_route_and_for_so_many_calls(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("exchange", "status", times=2)
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED
    statuses = [(await ask("POST", EXCHANGE, {"Code": "000000"}))[0] for _ in range(3)]
    assert statuses == [503, 503, 409]


async def test_faults_are_met_in_the_order_of_their_queue(sandbox: Sandbox, ask: Ask) -> None:
    for status in (500, 502, 504):
        sandbox.fault("request", "status", status=status)
    assert [(await ask("POST", REQUEST, MARIA))[0] for _ in range(4)] == [500, 502, 504, 200]


async def test_a_fault_may_be_for_one_user_also_where_the_call_names_nobody(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.fault("*", "status", user="maria.noquestion", times=None)
    body = {"User": "robert.zak", "SecretQuestionAnswer": "Peterson"}
    assert await ask("POST", REQUEST, body) == ACCEPTED
    assert (await ask("POST", EXCHANGE, {"Code": sandbox.newest_code("robert.zak")}))[0] == 200
    assert (await ask("POST", REQUEST, {"User": "maria@autoshares.com"}))[0] == 503
    sandbox.clear_faults()
    await ask("POST", REQUEST, MARIA)
    sandbox.fault("exchange", "status", user="maria.noquestion", times=2)
    code = {"Code": sandbox.newest_code("maria.noquestion")}
    assert [(await ask("POST", EXCHANGE, code))[0] for _ in range(3)] == [503, 503, 200]


def test_a_fault_may_be_for_every_third_call() -> None:
    faults = FaultQueue()
    faults.add(Fault(route="request", name="status", every=3, times=None))
    met = [faults.take("request", None) is not None for _ in range(7)]
    assert met == [False, False, True, False, False, True, False]


def test_a_seeded_chance_repeats_itself() -> None:
    def drawn(seed: int) -> list[bool]:
        faults = FaultQueue()
        faults.add(Fault(route="*", name="status", probability=0.5, seed=seed, times=None))
        return [faults.take("request", None) is not None for _ in range(200)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 60 < sum(drawn(1)) < 140


@pytest.mark.parametrize("name", sorted(ACTS))
def test_an_order_is_listed_as_it_would_be_taken(name: str) -> None:
    fault = Fault(route="update", name=name, times=3, seconds=1.5, headers={"Retry-After": "7"}, body=b"\xff")
    assert Fault.from_json(fault.as_json()) == fault


async def test_faults_are_ordered_listed_and_cleared_over_http(sandbox: Sandbox, ask: Ask) -> None:
    order = {"route": "request", "fault": "raw", "body_base64": base64.b64encode(b"[]").decode(), "times": 2}
    status, taken = await ask("POST", "/sandbox/faults", order)
    assert (status, taken["fault"], taken["times"]) == (201, "raw", 2)
    assert await ask("POST", REQUEST, MARIA) == (200, [])
    _, [listed] = await ask("GET", "/sandbox/faults")
    assert listed == {**taken, "times": 1}
    assert (await ask("DELETE", "/sandbox/faults"))[0] == 204
    assert await ask("POST", REQUEST, MARIA) == ACCEPTED
    assert len(sandbox.mails) == 1


@pytest.mark.parametrize(
    "order",
    [
        {"route": "request"},
        {"fault": "drop_before"},
        {"route": "request", "fault": "explode"},
        {"route": "elsewhere", "fault": "drop_before"},
        {"route": "request", "fault": "drop_before", "act": True},
        {"route": "request", "fault": "status", "status": "many"},
        {"route": "request", "fault": "status", "status": 42},
        {"route": "request", "fault": "status", "headers": ["Retry-After"]},
        {"route": "request", "fault": "raw", "body": 7},
        {"route": "request", "fault": "raw", "body_base64": "?"},
        {"route": "request", "fault": "drop_before", "times": 0},
        {"route": "request", "fault": "drop_before", "every": 0},
        {"route": "request", "fault": "drop_before", "probability": 2},
        {"route": "request", "fault": "drop_before", "seconds": -1},
        {"route": "request", "fault": "drop_before", "tmies": 1},
        ["drop_before"],
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(order: Any, ask: Ask) -> None:
    status, reply = await ask("POST", "/sandbox/faults", order)
    assert (status, list(reply)) == (400, ["error"])
    assert await ask("GET", "/sandbox/faults") == (200, [])

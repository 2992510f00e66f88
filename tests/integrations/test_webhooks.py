"""A receiver of webhooks is told every end at least once, whatever it answers, and whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from reset_flow import ConfigurationError
from reset_flow.integrations.webhooks import WebhookListener, verify
from reset_flow.testing import LeakScanner
from tests.integrations.receiver import LONG, LOOPBACK, SECRET, Delivery, Office, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow import Event

DOOMED = Path(__file__).with_name("doomed_sender.py")


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with Office(tmp_path) as office:
        yield office


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_the_end_of_a_reset_is_told_with_ids_alone(office: Office, receiver: Receiver) -> None:
    (flow,) = await office.ended(await office.hook(f"{receiver.url}?key=a%2Fb"))
    (got,) = receiver.got
    assert got.query == "key=a%2Fb"
    assert got.headers["Content-Type"] == "application/json"
    assert json.loads(got.body) == {
        "type": "reset.ended",
        "timestamp": "2030-01-01T12:00:00Z",
        "data": {
            "event_id": got.id,
            "flow_id": flow.id,
            "ref": "ticket-0",
            "state": "failed",
            "failure": "cancelled",
        },
    }
    assert b" " not in got.body
    assert "robert.zak" not in f"{got.body!r}{got.headers}"
    event = verify(got.headers, got.body, SECRET, now=office.clock())
    assert (event.flow_id, event.ref, event.state, event.failure) == (flow.id, flow.ref, flow.state, flow.failure)
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 0


async def whole(office: Office, listener: WebhookListener) -> list[str]:
    """Carry a reset to its end, and return what happened in it."""
    service = await office.service(crm=listener)
    flow = await service.start("robert.zak")
    for text in ("Peterson", "004158", "violet tractor 5"):
        flow = await service.submit(flow.id, text)
    await service.aclose()
    return [f"{flow.id}.{number}" for number in range(len(flow.history))]


async def test_ends_alone_are_told(office: Office, receiver: Receiver) -> None:
    *_, end = await whole(office, await office.hook(receiver.url))
    assert [each.id for each in receiver.got] == [end]
    assert receiver.got[0].data["state"] == "password_set"
    assert receiver.got[0].data["failure"] is None


async def test_all_that_happens_is_told_where_that_is_wanted(office: Office, receiver: Receiver) -> None:
    happened = await whole(office, await office.hook(receiver.url, events="all"))
    assert sorted(each.id for each in receiver.got) == happened
    told = {each.data["state"]: json.loads(each.body)["type"] for each in receiver.got}
    assert told.pop("password_set") == "reset.ended"
    assert set(told) == {"question_answered", "code_verified", "token_issued"}
    assert set(told.values()) == {"reset.moved"}


async def test_neither_the_receiver_nor_the_log_gets_what_is_secret(
    office: Office, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secrets = ("robert.zak", "Peterson", "004158", "violet tractor 5", "b5f1c2d0-scripted", "your first pet")
    scanner = LeakScanner({each: each for each in (*secrets, SECRET, SECRET.removeprefix("whsec_"))})
    receiver.answers.append(500)
    *_, end = await whole(office, await office.hook(receiver.url, events="all"))
    receiver.answer = receiver.hang_for_long
    await office.ended(await office.hook(receiver.url, timeout=LONG))
    assert end in {each.id for each in receiver.got}
    for each in receiver.got:
        assert scanner.find(f"{each.headers} {each.query}".encode() + each.body) == []
    assert "was not delivered: HTTP 500" in caplog.text
    assert "was not delivered: TimeoutError" in caplog.text
    assert scanner.find(caplog.text.encode()) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 401, 404, 409, 422, 500, 502, 504])
async def test_what_is_not_taken_is_told_again_and_signed_anew(status: int, office: Office, receiver: Receiver) -> None:
    elsewhere = {"Location": "/elsewhere"} if status < 400 else {}
    receiver.answers.append(web.Response(status=status, headers=elsewhere))
    hook = await office.hook(receiver.url)
    await office.ended(hook)
    office.later(minutes=10)
    assert await office.tells(hook) == 1
    first, second = receiver.got  # and nobody was asked elsewhere
    assert first.id == second.id
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert verify(second.headers, second.body, SECRET, now=office.clock()).id == first.id
    assert await office.tells(hook) == 0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_status_of_success_is_delivery(status: int, office: Office, receiver: Receiver) -> None:
    receiver.answers.append(status)
    receiver.answer = 500
    await office.ended(await office.hook(receiver.url))
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 0
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {"Retry-After": "3600"}), (503, {"Retry-After": "3600"}), (410, {})]
)
async def test_a_receiver_that_asks_for_peace_gets_it_and_loses_nothing(
    status: int, headers: dict[str, str], office: Office, receiver: Receiver
) -> None:
    receiver.answers.append(web.Response(status=status, headers=headers))
    hook = await office.hook(receiver.url)
    await office.ended(hook)
    office.later()
    assert await office.tells(hook) == 0
    await office.ended(hook)
    assert len(receiver.got) == 1
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 2
    assert len({each.id for each in receiver.got}) == 2


async def test_a_receiver_that_is_down_for_an_hour_loses_nothing(office: Office) -> None:
    async with Receiver() as down:
        port = down.port
    hook = await office.hook(f"http://127.0.0.1:{port}/")
    flows = await office.ended(hook, 3)
    for _ in range(12):
        office.later(minutes=5)
        assert await office.tells(hook) == 0
    async with Receiver(port) as receiver:
        office.later(hours=1)
        assert await office.tells(hook) == 3
        assert {each.data["flow_id"] for each in receiver.got} == {flow.id for flow in flows}


async def test_a_receiver_that_hangs_delays_no_other_listener(office: Office, receiver: Receiver) -> None:
    receiver.answer = receiver.hang
    heard, all_heard = set[str](), asyncio.Event()

    async def other(event: Event) -> None:
        heard.add(event.flow.id)
        if len(heard) == 30:
            all_heard.set()

    service = await office.service(crm=await office.hook(receiver.url), other=other)
    flows = await office.ends(service, 30)
    async with asyncio.timeout(120):
        await all_heard.wait()
    assert receiver.answered == 0
    assert heard == {flow.id for flow in flows}
    await service.aclose(timedelta(0))


async def test_a_receiver_that_hangs_is_given_up_in_time(office: Office, receiver: Receiver) -> None:
    receiver.answers.append(receiver.hang_for_long)
    await office.ended(await office.hook(receiver.url, timeout=LONG))
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 1
    assert len({each.id for each in receiver.got}) == 1


async def test_no_more_deliveries_are_under_way_at_once_than_set(office: Office, receiver: Receiver) -> None:
    async def slow(_: Delivery) -> int:
        for _turn in range(10):
            await asyncio.sleep(0)
        return 204

    receiver.answer = slow
    await office.owed(40, "crm")
    assert await office.tells(await office.hook(receiver.url, at_once=3)) == 40
    assert receiver.most == 3


async def test_the_reply_is_neither_read_nor_remembered(office: Office, receiver: Receiver) -> None:
    async def endless(_: Delivery) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Set-Cookie": "session=1", "Content-Length": str(10**12)})
        receiver.answers.append(204)
        return response

    receiver.answers.append(endless)
    await office.ended(await office.hook(receiver.url), 2)
    assert len({each.id for each in receiver.got}) == 2
    assert all("Cookie" not in each.headers for each in receiver.got)
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 0


async def test_no_proxy_of_the_environment_is_used(
    office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        await office.ended(await office.hook(receiver.url))
        assert len(receiver.got) == 1
        assert proxy.got == []


async def test_a_service_that_closes_waits_for_a_delivery(office: Office, receiver: Receiver) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def wait(_: Delivery) -> int:
        arrived.set()
        await released.wait()
        return 204

    receiver.answers.append(wait)
    service = await office.service(crm=await office.hook(receiver.url))
    await office.ends(service)
    await arrived.wait()
    closing = asyncio.create_task(service.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    released.set()
    await closing
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 0
    assert len(receiver.got) == 1


async def test_what_a_closing_service_can_not_wait_for_is_told_again(office: Office, receiver: Receiver) -> None:
    receiver.answers.append(receiver.hang)
    service = await office.service(crm=await office.hook(receiver.url))
    await office.ends(service)
    await receiver.came(1)
    await service.aclose(timedelta(0))
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 1
    first, second = receiver.got
    assert first.id == second.id


async def test_a_process_that_dies_between_delivery_and_its_mark_is_followed_by_one_that_repeats_it(
    office: Office, receiver: Receiver
) -> None:
    job = {"folder": str(office.path), "url": receiver.url, "secret": SECRET}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(DOOMED), json.dumps(job), cwd=Path(__file__).parents[2]
    )
    async with asyncio.timeout(120):
        assert await process.wait() == -signal.SIGKILL
    assert len(receiver.got) == 1
    office.later()
    assert await office.tells(await office.hook(receiver.url)) == 1
    first, second = receiver.got
    assert first.id == second.id
    assert first.body == second.body
    assert await office.tells(await office.hook(receiver.url)) == 0


async def test_one_event_loop_after_another_may_deliver(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        hook = WebhookListener(receiver.url, SECRET, allow_private=LOOPBACK)

        async def deliver(folder: Path) -> None:
            async with Office(folder) as office:
                await office.ended(hook)

        for folder in (tmp_path / "first", tmp_path / "second"):
            folder.mkdir()
            await asyncio.to_thread(asyncio.run, deliver(folder))
        assert len({each.id for each in receiver.got}) == 2
        await hook.aclose()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"events": "some"}, "events must be ends or all"),
        ({"timeout": timedelta(0)}, "timeout must be a timedelta"),
        ({"timeout": timedelta(seconds=11)}, "timeout must be a timedelta"),
        ({"timeout": 5}, "timeout must be a timedelta"),
        ({"at_once": 0}, "at_once must be a whole number"),
        ({"at_once": True}, "at_once must be a whole number"),
        ({"ssl": False}, "ssl must be"),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "ssl must be"),
    ],
)
def test_a_setting_that_can_not_be_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        WebhookListener("https://crm.example/", SECRET, **options)
    WebhookListener("https://crm.example/", SECRET, events="all", timeout=timedelta(seconds=10), at_once=1)

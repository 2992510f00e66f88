"""The examples carry resets, and are as short as they say."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, CookieJar, encode_basic_auth

from benchmarks.servers import free_port
from reset_flow.sandbox import Sandbox
from tests.web.programs import PASSWORD, ROOT, Browser, running, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DOCUMENTS = {"fastapi": "/openapi.json", "litestar": "/schema/openapi.json"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(params=DOCUMENTS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(framework: str, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[ClientSession]:
    """A client of the example, with a secret of its own."""
    command = ["-m", "uvicorn", f"examples.{framework}_app:app", "--port", "0"]
    with running(command, settings_for(sandbox, tmp_path), r"running on (http://\S+)") as program:
        async with ClientSession(program.url, headers={"Authorization": f"Bearer {secrets.token_urlsafe()}"}) as client:
            yield client


async def submit(client: ClientSession, key: str, text: str) -> tuple[int, dict[str, Any]]:
    async with client.post("/reset/next", json={"text": text}, headers={"Idempotency-Key": key}) as reply:
        return reply.status, await reply.json(content_type=None)


async def start(client: ClientSession) -> dict[str, Any]:
    async with client.post("/reset", json={"user": "robert.zak"}) as reply:
        assert reply.status == 201
        flow: dict[str, Any] = await reply.json()
        return flow


async def test_a_whole_reset_in_which_everything_is_sent_twice(client: ClientSession, sandbox: Sandbox) -> None:
    flow = await start(client)
    assert (await start(client))["id"] == flow["id"]
    for key, text, status in (
        ("1", "Peterson", 200),
        ("2", "000000", 422),
        ("3", None, 200),
        ("4", PASSWORD, 200),
    ):
        typed = text or sandbox.newest_code("robert.zak")
        first, again = await submit(client, key, typed), await submit(client, key, typed)
        assert (first[0], again[0]) == (status, status)
        if status == 422:
            assert (again[1]["code"], again[1]["attempts_left"]) == ("code_rejected", first[1]["attempts_left"])
            assert first[1]["attempts_left"] == 4
        else:
            assert again == first
    async with client.get("/reset") as reply:
        assert (await reply.json())["state"] == "password_set"
    assert sandbox.password_of("robert.zak") == PASSWORD
    assert [len(sandbox.calls_of(route)) for route in ("exchange", "update")] == [2, 1]
    assert sandbox.user("robert.zak").mails_sent == 1


async def test_a_wrong_secret_opens_nothing_and_a_weak_one_starts_nothing(client: ClientSession) -> None:
    await start(client)
    for secret, status, code in ((secrets.token_urlsafe(), 404, "flow_not_found"), ("guess", 400, "invalid_input")):
        async with client.get("/reset", headers={"Authorization": f"Bearer {secret}"}) as reply:
            assert (reply.status, reply.content_type) == (status, "application/problem+json")
            assert (await reply.json(content_type=None))["code"] == code


async def test_while_a_call_is_under_way_another_one_is_told_to_wait(client: ClientSession, sandbox: Sandbox) -> None:
    await start(client)
    await submit(client, "1", "Peterson")
    code = sandbox.newest_code("robert.zak")
    sandbox.fault("exchange", "hang_before")
    first = asyncio.create_task(submit(client, "2", code))
    await sandbox.wait_for_calls("exchange")
    async with client.post("/reset/next", json={"text": code}, headers={"Idempotency-Key": "3"}) as reply:
        assert (reply.status, (await reply.json(content_type=None))["code"]) == (409, "flow_busy")
        assert int(reply.headers["Retry-After"]) > 0
    await sandbox.aclose()
    status, told = await first
    assert (status, told["code"], told["flow"]["in_doubt"]) == (502, "outcome_in_doubt", "code")
    await sandbox.start()
    assert (await submit(client, "4", code))[1]["expects"] == "password"


async def test_the_served_document_has_the_fields_of_a_flow(framework: str, client: ClientSession) -> None:
    async with client.get(DOCUMENTS[framework]) as reply:
        document = await reply.json(content_type=None)
    shown = document["paths"]["/reset"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    fields = document["components"]["schemas"][shown["$ref"].rpartition("/")[2]]["properties"]
    assert {"state", "expects", "attempts_left", "in_doubt"} <= set(fields)


async def test_a_help_desk_makes_a_link_and_the_page_beside_it_asks_for_no_password(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = settings_for(sandbox, tmp_path) | {"DESK_PASSWORD": "secret", "PORT": str(free_port())}
    with running(["-m", "examples.aiohttp_app"], settings, r"Running on (http://\S+)") as program:
        base = program.url
        async with ClientSession(base) as stranger:
            for method in ("GET", "POST"):
                async with stranger.request(method, "/desk") as reply:
                    assert reply.status == 401
            async with stranger.get("/reset/") as reply:
                assert reply.status == 200
        async with ClientSession(base, headers={"Authorization": encode_basic_auth("desk", "secret")}) as desk:
            async with desk.post("/desk", data={"user": "robert.zak"}, headers={"Sec-Fetch-Site": "cross-site"}) as no:
                assert no.status == 403
            async with desk.post("/desk", data={"user": "robert.zak"}) as reply:
                link = (await reply.text()).partition("<p>")[2].partition("</p>")[0]
        async with ClientSession(base, cookie_jar=CookieJar(unsafe=True)) as client:
            browser = Browser(client)
            await browser.open(link)
            await browser.send(link.removeprefix(base))
            await browser.reset(sandbox)
    assert browser.status == 200
    assert sandbox.password_of("robert.zak") == PASSWORD


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_takes_at_most_sixty_lines(path: Path) -> None:
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 60

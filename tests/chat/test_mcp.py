"""The tools of a model, used through the client of the SDK: what they do, whose flows are, and what they never say."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import httpx2
import mcp_types as types
import pytest
from aiohttp import web
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore
from reset_flow.chat.mcp import create_server
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from reset_flow.web import Links, create_app
from tests.web.houses import ANSWER, APP_KEY, ASKED, NOBODY, PASSWORD, UNASKED, Browser, House, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 120
MODERN, LEGACY = "2026-07-28", "legacy"
CHOSEN = "reset-flow/flow"
QUESTION = "What street did you live on in third grade?"


@attrs.define
class Model:
    """A client of the tools, with all that it was ever told, and the person who sits before it."""

    client: Client
    browser: Browser
    accepts: bool = True
    links: list[str] = attrs.field(factory=list)
    heard: list[str] = attrs.field(factory=list)
    error: bool = False

    async def call(self, tool: str, *, meta: Any = None, **given: Any) -> Any:
        result = await self.client.call_tool(tool, given, meta=meta)
        self.heard.append(result.model_dump_json())
        self.error = bool(result.is_error)
        assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]
        return result.structured_content

    async def follows(self, link: str) -> None:
        """Go to the page of a link, and press its button."""
        await self.browser.get(f"link/{link.rpartition('/')[2]}")
        await self.browser.send(self.browser.page.forms[-1])


@asynccontextmanager
async def model(
    where: Any, browser: Browser, *, mode: str = MODERN, asks: bool = True, accepts: bool = True
) -> AsyncIterator[Model]:
    links = list[str]()

    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:  # noqa: ARG001 - its name counts
        assert isinstance(params, types.ElicitRequestURLParams)
        links.append(params.url)
        return types.ElicitResult(action="accept" if accepts else "decline")

    async with Client(where, mode=mode, elicitation_callback=elicit if asks else None) as client:
        yield Model(client, browser, accepts, links)


@asynccontextmanager
async def assistant(house: House, **options: Any) -> AsyncIterator[Model]:
    """Yield the model of a person, at a server on a worker of its own."""
    worker = await house.worker()
    server = create_server(worker.service, links=worker.links)
    async with model(server, await house.browser(worker), **options) as one:
        yield one


async def whole(one: Model, sandbox: Sandbox, user: str = ASKED) -> Any:
    """Go through a reset. The person types what is secret on the page alone."""
    told = await one.call("start_reset", user=user)
    link = told["link"] or one.links[-1]
    assert (told["expects"], told["message"]["id"]) == ("answer", "chat.answer_at_link")
    await one.follows(link)
    await one.browser.do("answer", answer=ANSWER)
    told = await one.call("reset_status", flow=told["flow"])
    assert (told["expects"], told["link"]) == ("code", None)
    told = await one.call("enter_code", flow=told["flow"], code=sandbox.newest_code(user))
    assert told["expects"] == "password"
    await one.follows(told["link"] or one.links[-1])
    await one.browser.do("password", password=PASSWORD)
    told = await one.call("reset_status", flow=told["flow"])
    assert sandbox.password_of(user) == PASSWORD
    return told


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House("memory", tmp_path) as house:
        yield house


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("asks", [True, False])
async def test_a_whole_reset(house: House, mode: str, *, asks: bool) -> None:
    async with assistant(house, mode=mode, asks=asks) as one:
        told = await whole(one, house.sandbox)
        assert (told["state"], told["message"]["id"], told["link"]) == ("password_set", "done", None)
        assert bool(one.links) is asks
        for link in one.links:  # the client showed it to the person, and no model has read it
            assert link not in "".join(one.heard)
        assert QUESTION not in "".join(one.heard)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_a_person_who_goes_to_no_page_is_asked_again_when_they_wish(house: House, mode: str) -> None:
    async with assistant(house, mode=mode, accepts=False) as one:
        told = await one.call("start_reset", user=ASKED)
        assert (told["expects"], told["link"], len(one.links)) == ("answer", None, 1)
        assert "reset_status" in told["next"]
        await one.call("reset_status", flow=told["flow"])
        assert len(set(one.links)) == 2
        assert len(house.sandbox.calls_of("challenge")) == 1  # asked twice, started once


@pytest.mark.parametrize("answers", [None, {}, {"another": types.ElicitResult(action="accept")}])
async def test_a_call_that_comes_again_without_the_answer_that_was_asked_for_starts_no_other_reset(
    house: House, answers: dict[str, Any] | None
) -> None:
    async with assistant(house) as one:
        given = {"user": ASKED}
        asked = await one.client.session.call_tool("start_reset", given, allow_input_required=True)
        assert isinstance(asked, types.InputRequiredResult)
        again: Any = {"input_responses": answers, "request_state": asked.request_state}
        told = (await one.client.session.call_tool("start_reset", given, **again)).structured_content
        assert (told["flow"], told["expects"], told["error"]) == (asked.request_state, "answer", None)
        assert "reset_status" in told["next"]
        for strange in ("", "x" * 100_000, secrets.token_urlsafe()):
            again = {"input_responses": answers, "request_state": strange}
            told = (await one.client.session.call_tool("start_reset", given, **again)).structured_content
            assert told["error"]["code"] == "flow_not_found"
        assert len(house.sandbox.calls_of("challenge")) == 1


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("user", [ASKED, UNASKED])
async def test_a_start_with_the_handle_that_the_client_chose_is_one_reset_however_often_it_is_called(
    house: House, mode: str, user: str
) -> None:
    chosen = secrets.token_urlsafe()
    async with assistant(house, mode=mode, asks=False) as one:
        first, again = [await one.call("start_reset", user=user, meta={CHOSEN: chosen}) for _ in range(2)]
        assert first["flow"] == again["flow"] == chosen
        assert {**first, "link": None} == {**again, "link": None}
        assert len(house.sandbox.calls_of("challenge")) == 1
        other = await one.call("start_reset", user=NOBODY, meta={CHOSEN: chosen})
        assert (one.error, other["error"]["code"], other["state"]) == (True, "key_reused", None)
        await one.call("cancel_reset", flow=chosen)
        ended = await one.call("start_reset", user=user, meta={CHOSEN: chosen})
        assert (one.error, ended["failure"], len(house.sandbox.calls_of("challenge"))) == (False, "cancelled", 1)
        assert (await one.call("start_reset", user=user))["flow"] != chosen
        assert len(house.sandbox.calls_of("challenge")) == 2


async def test_a_handle_that_one_client_chose_is_another_reset_for_any_other_client(house: House) -> None:
    chosen = secrets.token_urlsafe()
    async with assistant(house) as one, assistant(house) as other:
        for client in (one, other):
            assert (await client.call("start_reset", user=UNASKED, meta={CHOSEN: chosen}))["expects"] == "code"
        assert len(house.sandbox.mails) == 2
        await one.call("cancel_reset", flow=chosen)
        assert (await other.call("reset_status", flow=chosen))["expects"] == "code"


async def test_a_start_that_comes_again_when_the_reset_is_held_elsewhere_gives_no_other_one(house: House) -> None:
    chosen = secrets.token_urlsafe()
    async with assistant(house, asks=False) as one:
        told = await one.call("start_reset", user=ASKED, meta={CHOSEN: chosen})
        await one.follows(told["link"])
        await one.browser.do("answer", answer=ANSWER)
        await one.browser.do("code", code=house.sandbox.newest_code(ASKED))
        told = await one.call("start_reset", user=ASKED, meta={CHOSEN: chosen})
        assert (told["error"]["code"], told["state"], told["link"]) == ("held_elsewhere", None, None)
        assert len(house.sandbox.calls_of("challenge")) == 1
        assert (await one.browser.do("password", password=PASSWORD)).status == 200


@pytest.mark.parametrize("handle", ["", "1", ASKED, 43 * "!", 44 * "x", 4711, ["x"]])
async def test_a_handle_that_could_be_guessed_is_not_taken(house: House, handle: Any) -> None:
    async with assistant(house) as one:
        told = await one.call("start_reset", user=UNASKED, meta={CHOSEN: handle})
        assert (one.error, told["error"]["code"]) == (True, "invalid_input")
        assert house.sandbox.calls == []


async def test_a_client_that_cannot_ask_after_all_gets_the_link(house: House) -> None:
    async def fail(context: Any, params: types.ElicitRequestParams) -> types.ErrorData:  # noqa: ARG001 - as above
        return types.ErrorData(code=types.INTERNAL_ERROR, message="there is no browser")

    worker = await house.worker()
    server = create_server(worker.service, links=worker.links)
    async with Client(server, mode=LEGACY, elicitation_callback=fail) as client:
        one = Model(client, await house.browser(worker))
        told = await one.call("start_reset", user=ASKED)
        await one.follows(told["link"])
        assert one.browser.page.has("answer")


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_tools_take_and_return_what_their_schemas_say(house: House, mode: str) -> None:
    async with assistant(house, mode=mode, asks=False) as one:
        tools = {tool.name: tool for tool in (await one.client.list_tools()).tools}
        assert list(tools) == ["start_reset", "reset_status", "enter_code", "resend_code", "cancel_reset"]
        taken = {name for tool in tools.values() for name in tool.input_schema["properties"]}
        assert taken == {"user", "flow", "code"}
        for tool in tools.values():
            assert tool.output_schema
            returned = set(tool.output_schema["properties"])
            assert not returned & {"question", "answer", "password", "pin", "token", "code", "user", "id"}
        told = await one.call("start_reset", user=UNASKED)
        assert told.keys() == returned


async def test_a_wrong_code_until_the_limit(house: House) -> None:
    async with assistant(house) as one:
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        right = house.sandbox.newest_code(UNASKED)
        wrong = [code for code in (f"00000{number}" for number in range(7)) if code != right]
        for left, code in zip((4, 3, 2, 1), wrong, strict=False):
            for _ in range(2):  # a call that comes again, as after a lost reply
                told = await one.call("enter_code", flow=flow, code=code)
                assert one.error
                assert (told["error"]["code"], told["attempts_left"]) == ("code_rejected", left)
        told = await one.call("enter_code", flow=flow, code=wrong[4])
        assert (one.error, told["state"], told["failure"]) == (True, "failed", "too_many_attempts")
        told = await one.call("enter_code", flow=flow, code=right)
        assert (told["error"]["code"], told["message"]["id"]) == ("flow_ended", "failed.too_many_attempts")
        assert len(house.sandbox.calls_of("exchange")) == 5


async def test_another_code_and_the_wait_for_it_and_an_end(house: House) -> None:
    async with assistant(house) as one:
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        told = await one.call("resend_code", flow=flow)
        assert (told["error"]["code"], told["error"]["retry_after"], told["flow"]) == ("limit_reached", 60, flow)
        house.clock.advance(timedelta(seconds=61))
        told = await one.call("resend_code", flow=flow)
        assert (one.error, told["expects"], len(house.sandbox.mails)) == (False, "code", 2)
        told = await one.call("cancel_reset", flow=flow)
        assert (one.error, told["failure"]) == (False, "cancelled")
        assert (await one.call("cancel_reset", flow=flow))["error"]["code"] == "flow_ended"


async def test_doubt_is_said_and_the_same_code_settles_it(house: House) -> None:
    async with assistant(house, asks=False) as one:
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        for _ in range(2):  # it is repeated once
            house.sandbox.fault("exchange", "drop_before")
        code = house.sandbox.newest_code(UNASKED)
        told = await one.call("enter_code", flow=flow, code=code)
        assert (told["in_doubt"], told["error"]["code"]) == ("code", "outcome_in_doubt")
        assert (await one.call("reset_status", flow=flow))["message"]["id"] == "code.in_doubt"
        assert (await one.call("enter_code", flow=flow, code=code))["expects"] == "password"


async def test_a_broker_that_is_down_and_comes_back(house: House) -> None:
    async with assistant(house) as one:
        house.sandbox.fault("challenge", "drop_before", times=3)
        told = await one.call("start_reset", user=UNASKED)
        assert (told["error"]["code"], told["error"]["retryable"], told["flow"]) == ("broker_unavailable", True, None)
        house.sandbox.fault("request", "status", status=429)
        told = await one.call("start_reset", user=UNASKED)
        assert (told["error"]["code"], told["expects"], told["link"]) == ("broker_unavailable", "answer", None)
        told = await one.call("reset_status", flow=told["flow"])
        assert (one.error, told["message"]["id"], told["next"]) == (False, "request.wanted", "Call resend_code.")
        told = await one.call("resend_code", flow=told["flow"])
        assert (one.error, told["expects"], len(house.sandbox.mails)) == (False, "code", 1)


async def test_a_call_that_meets_another_one_is_told_to_wait(house: House) -> None:
    async with assistant(house) as one:
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        code = house.sandbox.newest_code(UNASKED)
        house.sandbox.fault("exchange", "latency", seconds=3600)
        first = asyncio.create_task(one.client.call_tool("enter_code", {"flow": flow, "code": code}))
        await house.sandbox.wait_for_calls("exchange")
        told = await one.call("reset_status", flow=flow)
        assert (told["message"]["id"], told["next"]) == ("busy", "Call reset_status in a few seconds.")
        told = await one.call("cancel_reset", flow=flow)
        assert (told["error"]["code"], told["error"]["retryable"]) == ("flow_busy", True)
        assert told["error"]["retry_after"] > 0
        house.sandbox.release()
        await first
        assert (await one.call("reset_status", flow=flow))["expects"] == "password"


async def test_who_types_the_code_in_the_browser_goes_on_there(house: House) -> None:
    async with assistant(house, asks=False) as one:
        told = await one.call("start_reset", user=ASKED)
        await one.follows(told["link"])
        await one.browser.do("answer", answer=ANSWER)
        await one.browser.do("code", code=house.sandbox.newest_code(ASKED))
        told = await one.call("reset_status", flow=told["flow"])
        assert (one.error, told["error"]["code"], told["state"], told["link"]) == (True, "held_elsewhere", None, None)
        assert "browser" in told["next"]
        page = await one.browser.do("password", password=PASSWORD)
        assert page.status == 200
        assert house.sandbox.password_of(ASKED) == PASSWORD


async def test_an_unknown_user_looks_like_one_who_is_known(house: House) -> None:
    worker = await house.worker()
    server = create_server(worker.service, links=worker.links)
    seen = []
    async with model(server, await house.browser(worker)) as one:
        for user in (UNASKED, NOBODY):
            told = await one.call("start_reset", user=user)
            then = await one.call("enter_code", flow=told["flow"], code="000000")
            seen.append([{**each, "flow": None} for each in (told, then)])
    assert seen[0] == seen[1]


async def test_a_process_has_its_own_flows(house: House) -> None:
    worker = await house.worker()
    mine, other = (create_server(worker.service, links=worker.links) for _ in range(2))
    async with (
        model(mine, await house.browser(worker)) as one,
        model(other, await house.browser(worker)) as thief,
    ):
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        code = house.sandbox.newest_code(UNASKED)
        unknown = await thief.call("reset_status", flow=secrets.token_urlsafe())
        assert unknown["error"]["code"] == "flow_not_found"
        assert await thief.call("reset_status", flow=flow) == unknown
        assert await thief.call("enter_code", flow=flow, code=code) == unknown
        assert await thief.call("resend_code", flow=flow) == unknown
        assert await thief.call("cancel_reset", flow=flow) == unknown
        assert (await one.call("enter_code", flow=flow, code=code))["expects"] == "password"


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("enter_code", {"flow": "FLOW", "code": 741175}),
    ("enter_code", {"flow": "FLOW", "code": ["741175"]}),
    ("enter_code", {"flow": "FLOW", "code": {"741175": "741175"}}),
    ("enter_code", {"flow": "FLOW", "code": "741175" * 1000}),
    ("enter_code", {"flow": "FLOW", "code": "code 741175 \x00"}),
    ("enter_code", {"flow": "FLOW", "code": "741175", "password": "741175 violet"}),
    ("enter_code", {"flow": "FLOW", "741175": "741175"}),
    ("enter_code", {"flow": "741175", "code": "FLOW"}),
    ("reset_status", {"flow": "741175"}),
    ("reset_status", {"flow": None}),
    ("reset_status", {}),
    ("start_reset", {"user": ""}),
    ("start_reset", {"user": "741175\x00"}),
    ("start_reset", {"user": "741175", "flow": "FLOW"}),
    ("741175", {"flow": "741175"}),
]


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_hostile_arguments_are_refused_and_not_repeated(
    house: House, mode: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = await house.worker()
    server = create_server(worker.service, links=worker.links)
    caplog.set_level(logging.DEBUG)
    async with model(server, await house.browser(worker), mode=mode, asks=False) as one:
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        for tool, given in HOSTILE:
            told = await one.call(tool, **{name: flow if each == "FLOW" else each for name, each in given.items()})
            assert one.error, given
            assert told["error"]["code"] in {"invalid_input", "flow_not_found", "code_rejected"}
    assert len(house.sandbox.calls_of("exchange")) == 0
    logged = [f"{record.name} {record.getMessage()} {record.exc_text}" for record in caplog.records]
    assert logged
    assert not LeakScanner({"code": "741175"}).find(*one.heard, *logged, *capfd.readouterr())


# --- processes


class Place:
    """A broker, a store in a file, and the page over it. The tools are served by processes beside."""

    def __init__(self, folder: Path, sandbox: Sandbox, worker: Worker) -> None:
        self.folder, self.sandbox, self.worker = folder, sandbox, worker
        self.logged = folder / "logged"

    @property
    def env(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("RESET_FLOW_")},
            "PYTHONWARNINGS": "error",
            "RESET_FLOW_BROKER_URL": self.sandbox.api_url,
            "RESET_FLOW_BROKER_SECRET": APP_KEY,
            "RESET_FLOW_BROKER_NAME": "broker",
            "RESET_FLOW_STORE": f"sqlite:///{self.folder / 'flows.db'}",
            "RESET_FLOW_KEYS": str(self.folder / "keys"),
            "RESET_FLOW_PUBLIC_URL": self.worker.url,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "reset_flow.cli", "mcp", *arguments]

    def secrets(self) -> LeakScanner:
        """Return a search for all that was typed, and that the broker gave."""
        codes = {f"code {number}": mail.code for number, mail in enumerate(self.sandbox.mails)}
        assert codes
        return LeakScanner({"answer": ANSWER, "password": PASSWORD, "question": QUESTION, "key": APP_KEY, **codes})


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with Sandbox(app_key=APP_KEY) as sandbox, AsyncExitStack() as closing:
        transport = EtnaTransport(sandbox.api_url, APP_KEY, name="broker")
        keyring = Keyring.load_or_create(tmp_path / "keys")
        service = await closing.enter_async_context(
            ResetService(transport, SQLiteStore(tmp_path / "flows.db"), keyring, sweep=False)
        )
        sock = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        runner = web.AppRunner(create_app(service, public_url=url), shutdown_timeout=1)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock).start()
        yield Place(tmp_path, sandbox, Worker(service, Links(service, url), url, closing))


@asynccontextmanager
async def over_stdio(place: Place, **options: Any) -> AsyncIterator[Model]:
    program, *arguments = place.command()
    with place.logged.open("a") as logged:
        where = stdio_client(StdioServerParameters(command=program, args=arguments, env=place.env), errlog=logged)
        async with Browser(place.worker) as browser, model(where, browser, **options) as one:
            yield one


@asynccontextmanager
async def listening(place: Place, **clients: str) -> AsyncIterator[str]:
    """Serve over HTTP for clients with these tokens, until it is asked to end."""
    tokens = place.folder / "tokens"
    tokens.touch(mode=0o600)
    lines = [f"{name} {hashlib.sha256(token.encode()).hexdigest()}" for name, token in clients.items()]
    tokens.write_text("\n".join(["# clients of the tools", "", *lines]))
    env = place.env | {"RESET_FLOW_MCP_TOKENS_FILE": str(tokens)}
    with place.logged.open("ab") as logged:
        process = await asyncio.create_subprocess_exec(
            *place.command("--http", "--port", "0"), env=env, stdout=asyncio.subprocess.PIPE, stderr=logged
        )
    try:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        assert said.startswith("serving http://127.0.0.1:"), place.logged.read_text()
        yield said.split()[1]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0, place.logged.read_text()
    finally:
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def over_http(place: Place, url: str, token: str, **options: Any) -> AsyncIterator[Model]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE) as http,
        Browser(place.worker) as browser,
        model(streamable_http_client(url, http_client=http), browser, **options) as one,
    ):
        yield one


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("asks", [True, False])
async def test_a_whole_reset_over_stdio(place: Place, mode: str, *, asks: bool) -> None:
    async with over_stdio(place, mode=mode, asks=asks) as one:
        assert (await whole(one, place.sandbox))["state"] == "password_set"
    logged = place.logged.read_text()
    assert not place.secrets().find(logged, *one.heard)
    assert "Traceback" not in logged


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("asks", [True, False])
async def test_a_whole_reset_over_http(place: Place, mode: str, *, asks: bool) -> None:
    async with (
        listening(place, bank="a token of the bank") as url,
        over_http(place, url, "a token of the bank", mode=mode, asks=asks) as one,
    ):
        assert (await whole(one, place.sandbox))["state"] == "password_set"
    logged = place.logged.read_text()
    assert not place.secrets().find(logged, *one.heard)
    assert not LeakScanner({"token": "a token of the bank"}).find(logged, *one.heard)
    assert "Traceback" not in logged


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_over_http_a_flow_belongs_to_the_client_of_the_token(place: Place, mode: str) -> None:
    async with (
        listening(place, bank="one token", shop="another token", other="third token") as url,
        over_http(place, url, "one token", mode=mode) as one,
        over_http(place, url, "another token", mode=mode) as thief,
    ):
        flow = (await one.call("start_reset", user=UNASKED))["flow"]
        code = place.sandbox.newest_code(UNASKED)
        unknown = await thief.call("reset_status", flow=secrets.token_urlsafe())
        assert unknown["error"]["code"] == "flow_not_found"
        assert await thief.call("enter_code", flow=flow, code=code) == unknown
        assert await thief.call("cancel_reset", flow=flow) == unknown
        async with over_http(place, url, "one token", mode=mode) as again:  # another connection of the same client
            assert (await again.call("enter_code", flow=flow, code=code))["expects"] == "password"


async def test_over_http_nobody_is_served_without_a_token(place: Place) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    async with listening(place, bank="one token") as url, httpx2.AsyncClient(timeout=PATIENCE) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic b25lIHRva2Vu"}):
            assert (await http.post(url, json=call, headers=headers)).status_code == 401
        known = {"Authorization": "Bearer one token", "Accept": "application/json, text/event-stream"}
        assert (await http.post(url, json=call, headers=known)).status_code != 401


async def test_what_cannot_be_read_is_not_logged_nor_repeated(place: Place) -> None:
    token = {"Authorization": "Bearer one token", "Accept": "application/json, text/event-stream"}
    bodies = [b"741175", b'{"741175": ', b'{"jsonrpc": "2.0", "id": {"741175": 1}, "method": "741175"}', b"[741175]"]
    async with listening(place, bank="one token") as url, httpx2.AsyncClient(timeout=PATIENCE) as http:
        replies = [
            await http.post(url, content=body, headers={**token, "Content-Type": "application/json"}) for body in bodies
        ]
    assert all(reply.status_code >= 400 for reply in replies)
    process = await asyncio.create_subprocess_exec(
        *place.command(), env=place.env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, logged = await asyncio.wait_for(process.communicate(b"\n".join([*bodies, b""])), PATIENCE)
    assert process.returncode == 0
    for line in said.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    scanner = LeakScanner({"code": "741175"})
    assert not scanner.find(said, logged, place.logged.read_bytes())  # HTTP tells who sent it what was wrong with it


async def test_over_http_a_server_without_a_verifier_serves_nobody(house: House) -> None:
    worker = await house.worker()
    app = create_server(worker.service, links=worker.links).streamable_http_app()
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), timeout=PATIENCE) as http,
        Client(streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http), mode=MODERN) as client,
    ):
        with pytest.raises(MCPError, match="token verifier"):
            await client.call_tool("start_reset", {"user": UNASKED})
    assert house.sandbox.mails == []

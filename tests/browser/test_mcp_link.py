"""A person whose assistant resets their password: what is secret is typed in their browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp_types as types
import pytest
from mcp import Client
from playwright.async_api import expect

from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore
from reset_flow.chat.mcp import create_server
from reset_flow.web import Links
from tests.browser.conftest import ANSWER, PASSWORD

if TYPE_CHECKING:
    from tests.browser.conftest import PageServer, Person


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_the_assistant_asks_for_the_code_and_the_page_for_all_else(
    person: Person, server: PageServer, mode: str
) -> None:
    async def follow(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:  # noqa: ARG001 - its name counts
        assert isinstance(params, types.ElicitRequestURLParams)
        await person.page.goto(params.url)
        await person.sees("page.link.title")
        await person.clicks("page.continue")
        return types.ElicitResult(action="accept")

    keys = Keyring.from_file(server.database.with_name("keys"))
    transport = EtnaTransport(person.sandbox.api_url, "sandbox", name="broker")
    async with (
        ResetService(transport, SQLiteStore(server.database), keys) as service,
        Client(
            create_server(service, links=Links(service, server.url)), mode=mode, elicitation_callback=follow
        ) as model,
    ):
        told = await call(model, "start_reset", user="robert.zak")
        await person.sees("answer")
        await expect(person.page.get_by_role("main")).to_contain_text("third grade")
        await person.types("answer", ANSWER)
        await person.sees("code")
        told = await call(model, "enter_code", flow=told["flow"], code=person.code)
        assert told["expects"] == "password"
        await person.sees("password")
        await person.types("password", PASSWORD)
        await person.sees("done")
        told = await call(model, "reset_status", flow=told["flow"])
        assert told["state"] == "password_set"
    assert person.sandbox.password_of("robert.zak") == PASSWORD


async def call(model: Client, tool: str, **given: str) -> Any:
    result = await model.call_tool(tool, given)
    assert not result.is_error
    return result.structured_content

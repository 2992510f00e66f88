"""The sandbox as an object, its pages and its JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from reset_flow.sandbox import Sandbox, Settings

if TYPE_CHECKING:
    from tests.sandbox.conftest import Ask

REQUEST = "/api/v1.0/users/password/reset"
EXCHANGE = "/api/v1.0/users/password/reset/code"
MARIA = {"User": "maria.noquestion"}


async def test_it_listens_on_loopback_and_says_where(sandbox: Sandbox) -> None:
    assert sandbox.url.startswith("http://127.0.0.1:")
    assert sandbox.api_url == f"{sandbox.url}/api"


async def test_its_application_key_and_settings_are_the_callers() -> None:
    settings = Settings(request_is_succeed=True)
    async with Sandbox(app_key="k", settings=settings) as sandbox, aiohttp.ClientSession() as client:
        reply = await client.post(sandbox.url + REQUEST, json=MARIA, headers={"Et-App-Key": "k"})
        assert (reply.status, await reply.json()) == (200, {"Errors": [], "IsSucceed": True})


async def test_after_an_outage_it_serves_the_same_users_at_the_same_address(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, MARIA)
    url = sandbox.url
    await sandbox.aclose()
    await sandbox.aclose()
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask("POST", REQUEST, MARIA)
    await sandbox.start()
    assert sandbox.url == url
    assert (await ask("POST", EXCHANGE, {"Code": sandbox.newest_code("maria.noquestion")}))[0] == 200


async def test_a_port_in_use_is_an_os_error(sandbox: Sandbox) -> None:
    other = Sandbox(port=int(sandbox.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    await other.aclose()


async def test_a_body_that_never_ends_is_no_call(sandbox: Sandbox, ask: Ask) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
    writer.write(f"POST {REQUEST} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await ask("POST", REQUEST, MARIA))[0] == 200
    assert len(sandbox.calls) == 1


async def test_hundreds_of_connections_at_once_are_answered(sandbox: Sandbox) -> None:
    for number in range(400):
        sandbox.add_user(f"user.{number}")
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Et-App-Key": "sandbox"}

    async def reset(client: aiohttp.ClientSession, login: str) -> int:
        await client.post(sandbox.url + REQUEST, json={"User": login})
        body = {"Code": sandbox.newest_code(login)}
        async with client.post(sandbox.url + EXCHANGE, json=body) as reply:
            return reply.status

    async with aiohttp.ClientSession(connector=connector, headers=headers) as client:
        statuses = await asyncio.gather(*(reset(client, f"user.{number}") for number in range(400)))
    assert statuses == [200] * 400
    assert len(sandbox.mails) == 400


async def test_of_many_exchanges_of_one_code_at_once_one_is_accepted(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, MARIA)
    code = {"Code": sandbox.newest_code("maria.noquestion")}
    replies = await asyncio.gather(*(ask("POST", EXCHANGE, code) for _ in range(20)))
    assert sorted(status for status, _ in replies) == [200] + [409] * 19


async def test_a_user_can_be_added(sandbox: Sandbox, ask: Ask) -> None:
    user = sandbox.add_user("new.user", question="Which?", answer="This", password="passwort")
    assert (user.email, sandbox.password_of("new.user")) == ("new.user@example.com", "passwort")
    with pytest.raises(ValueError, match="taken"):
        sandbox.add_user("new.user")
    with pytest.raises(ValueError, match="answer"):
        sandbox.add_user("other.user", question="Which?")
    assert (await ask("POST", REQUEST, {"User": "new.user", "SecretQuestionAnswer": "This"}))[0] == 200
    with pytest.raises(LookupError):
        sandbox.newest_code("nobody")
    with pytest.raises(LookupError):
        sandbox.user("other.user")


async def test_a_user_can_be_added_over_http(sandbox: Sandbox, ask: Ask) -> None:
    user = {"login": "новый", "question": "Где?", "answer": "Здесь", "two_factor": True}
    status, reply = await ask("POST", "/sandbox/users", user)
    assert (status, reply["login"], reply["email"]) == (201, "новый", "новый@example.com")
    assert sandbox.user("новый").two_factor
    assert (await ask("POST", REQUEST, {"User": "новый", "SecretQuestionAnswer": "Здесь"}))[0] == 200


@pytest.mark.parametrize(
    "user",
    [
        {},
        [],
        {"login": ""},
        {"login": 7},
        {"login": "robert.zak"},
        {"login": "x", "email": "hello@autoshares.com"},
        {"login": "x", "pasword": "y"},
        {"login": "x", "password": 7},
        {"login": "x", "mails_sent": 7},
    ],
)
async def test_a_user_who_makes_no_sense_is_refused(user: Any, ask: Ask) -> None:
    status, reply = await ask("POST", "/sandbox/users", user)
    assert (status, list(reply)) == (400, ["error"])
    assert (await ask("GET", "/sandbox/state?user=x"))[0] == 404


async def test_the_state_of_a_user_counts_what_happened(sandbox: Sandbox, ask: Ask) -> None:
    for _ in range(2):
        await ask("POST", REQUEST, MARIA)
    _, reply = await ask("POST", EXCHANGE, {"Code": sandbox.newest_code("maria.noquestion")})
    body = {"Token": reply["Model"], "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    await ask("PUT", "/api/v1.0/users/passwords/reset/", body)
    status, state = await ask("GET", "/sandbox/state?user=maria.noquestion")
    assert (status, state) == (200, sandbox.state_of("maria.noquestion"))
    assert (state["mails_sent"], state["codes_spent"], state["password_changes"]) == (2, 1, 1)
    assert state["password"] == "nieuw-Wacht7"
    assert "answer" not in state


async def test_the_inbox_lists_the_mails_of_a_user_newest_last(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.next_codes.extend(["000001", "000002", "000003"])
    for user in (MARIA, {"User": "two.factor"}, MARIA):
        await ask("POST", REQUEST, user)
    _, mails = await ask("GET", "/sandbox/inbox?user=maria.noquestion")
    assert [mail["code"] for mail in mails] == ["000001", "000003"]
    assert mails[0] == {
        "user": "maria.noquestion",
        "email": "maria@autoshares.com",
        "kind": "confirmation_code",
        "code": "000001",
        "sent_at": "2025-03-01T12:00:00+00:00",
    }
    assert len((await ask("GET", "/sandbox/inbox"))[1]) == 3


@pytest.mark.parametrize("path", ["/", "/inbox"])
async def test_the_page_shows_the_newest_mail_first_and_escapes_it(
    path: str, sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    async with client.get(path) as reply:
        assert "No mail yet" in await reply.text()
    sandbox.add_user("<script>", email="<b>@example.com")
    sandbox.next_codes.extend(["004158", "123456"])
    for login in ("maria.noquestion", "<script>"):
        await client.post(REQUEST, json={"User": login})
    async with client.get(path) as reply:
        page = await reply.text()
        assert (reply.status, reply.content_type) == (200, "text/html")
    assert page.index("123456") < page.index("004158")
    assert "&lt;b&gt;@example.com" in page
    assert "<script>" not in page
    assert "toy" in page


async def test_the_controls_need_no_application_key_and_are_not_logged(sandbox: Sandbox) -> None:
    async with aiohttp.ClientSession() as anonymous:
        for path in ("/", "/sandbox/inbox", "/sandbox/log", "/sandbox/faults"):
            assert (await anonymous.get(sandbox.url + path)).status == 200
        assert (await anonymous.post(f"{sandbox.url}/sandbox/users", data=b"[" * 100_000)).status == 400
    assert sandbox.calls == []

"""The documented steps, call by call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Ask

REQUEST = "/api/v1.0/users/password/reset"
CHALLENGE = "/api/v1.0/users/password/secret-question?username="
FIRST_EXCHANGE = "/api/v1.0/users/password/reset/code"
LATER_EXCHANGE = "/api/v1.0/users/identifiers/reset/code"
UPDATE = "/api/v1.0/users/passwords/reset/"

QUESTION = "What street did you live on in third grade?"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def test_an_accepted_request_mails_a_code_and_says_is_succeed_false(sandbox: Sandbox, ask: Ask) -> None:
    body = {"User": "robert.zak", "SecretQuestionAnswer": "Peterson"}
    assert await ask("POST", REQUEST, body) == (200, {"Errors": [], "IsSucceed": False})
    [mail] = sandbox.mails
    assert (mail.user, mail.email) == ("robert.zak", "hello@autoshares.com")
    assert re.fullmatch("[0-9]{6}", mail.code)
    assert sandbox.newest_code("robert.zak") == mail.code


async def test_a_setting_turns_is_succeed_of_an_accepted_request_to_true(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.request_is_succeed = True
    assert await ask("POST", REQUEST, {"User": "maria.noquestion"}) == (200, {"Errors": [], "IsSucceed": True})


async def test_a_user_without_a_question_needs_no_answer(sandbox: Sandbox, ask: Ask) -> None:
    status, reply = await ask("POST", REQUEST, {"User": "maria.noquestion"})
    assert (status, reply["Errors"]) == (200, [])
    assert sandbox.newest_code("maria.noquestion")


@pytest.mark.parametrize("name", ["robert.zak", "hello%40autoshares.com"])
async def test_the_question_is_found_by_login_and_by_address(name: str, ask: Ask) -> None:
    assert await ask("GET", CHALLENGE + name) == (200, {"Model": QUESTION, "Errors": [], "IsSucceed": True})


async def test_an_empty_model_says_that_there_is_no_question(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.add_user("empty.question", question="")
    for login in ("maria.noquestion", "empty.question"):
        assert await ask("GET", CHALLENGE + login) == (200, {"Model": "", "Errors": [], "IsSucceed": True})


async def test_login_question_and_answer_may_be_written_in_any_letters(sandbox: Sandbox, ask: Ask) -> None:
    _, reply = await ask("GET", CHALLENGE + quote("jörg.müller"))
    assert reply["Model"] == "Wie hieß die Straße Ihrer Großmutter?"
    body = {"User": "jörg.müller", "SecretQuestionAnswer": "Königsallee 7 ½"}
    assert (await ask("POST", REQUEST, body))[1]["Errors"] == []
    assert sandbox.newest_code("jörg.müller")


async def test_the_first_revision_exchanges_a_code_for_a_token(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    status, reply = await ask("POST", FIRST_EXCHANGE, {"Code": sandbox.newest_code("maria.noquestion")})
    assert (status, sorted(reply)) == (200, ["Errors", "IsSucceed", "Model"])
    assert UUID.fullmatch(reply["Model"])
    assert (reply["Errors"], reply["IsSucceed"]) == ([], True)


async def test_the_later_revision_exchanges_a_code_and_an_identifier(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    body = {"Code": sandbox.newest_code("maria.noquestion"), "Identifier": "ResetPassword"}
    status, reply = await ask("POST", LATER_EXCHANGE, body)
    assert status == 200
    assert UUID.fullmatch(reply.pop("Model"))
    assert reply == {"Errors": [], "ErrorsCode": [], "StatusCode": "Continue", "IsSucceed": True}


@pytest.mark.parametrize("path", [FIRST_EXCHANGE, LATER_EXCHANGE])
async def test_the_token_sets_the_new_password(path: str, sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    code = sandbox.newest_code("maria.noquestion")
    _, reply = await ask("POST", path, {"Code": code, "Identifier": "ResetPassword"})
    body = {"Token": reply["Model"], "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    assert await ask("PUT", UPDATE, body) == (200, {"Errors": [], "IsSucceed": True})
    assert sandbox.password_of("maria.noquestion") == "nieuw-Wacht7"
    assert sandbox.password_of("robert.zak") == "old-Passw0rd"


async def test_step_four_exists_only_with_its_trailing_slash(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    _, reply = await ask("POST", FIRST_EXCHANGE, {"Code": sandbox.newest_code("maria.noquestion")})
    body = {"Token": reply["Model"], "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    assert (await ask("PUT", UPDATE.rstrip("/"), body))[0] == 404
    assert sandbox.password_of("maria.noquestion") == "old-Passw0rd"
    assert (await ask("PUT", UPDATE, body))[0] == 200


async def test_a_code_yields_the_token_of_whoever_it_was_sent_to(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "robert.zak", "SecretQuestionAnswer": "Peterson"})
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    _, reply = await ask("POST", FIRST_EXCHANGE, {"Code": sandbox.newest_code("robert.zak")})
    body = {"Token": reply["Model"], "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    await ask("PUT", UPDATE, body)
    assert sandbox.password_of("robert.zak") == "nieuw-Wacht7"
    assert sandbox.password_of("maria.noquestion") == "old-Passw0rd"


async def test_a_code_with_leading_zeros_is_text_and_can_be_ordered(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.next_codes.append("004158")
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    assert sandbox.newest_code("maria.noquestion") == "004158"
    status, reply = await ask("POST", FIRST_EXCHANGE, {"Code": 4158})
    assert (status, list(reply["ModelState"])) == (400, ["Code"])
    assert (await ask("POST", FIRST_EXCHANGE, {"Code": "4158"}))[0] == 409
    assert (await ask("POST", FIRST_EXCHANGE, {"Code": "004158"}))[0] == 200


async def test_both_revisions_are_served_at_once_and_share_their_codes(sandbox: Sandbox, ask: Ask) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    code = sandbox.newest_code("maria.noquestion")
    assert (await ask("POST", FIRST_EXCHANGE, {"Code": code}))[0] == 200
    assert (await ask("POST", LATER_EXCHANGE, {"Code": code, "Identifier": "ResetPassword"}))[0] == 409

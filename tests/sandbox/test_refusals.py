"""Every form of a refusal, and the statuses that the documents leave open."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Ask

REQUEST = "/api/v1.0/users/password/reset"
CHALLENGE = "/api/v1.0/users/password/secret-question?username="
FIRST_EXCHANGE = "/api/v1.0/users/password/reset/code"
LATER_EXCHANGE = "/api/v1.0/users/identifiers/reset/code"
UPDATE = "/api/v1.0/users/passwords/reset/"
EVERY_CALL = [
    ("POST", REQUEST),
    ("GET", CHALLENGE + "robert.zak"),
    ("POST", FIRST_EXCHANGE),
    ("POST", LATER_EXCHANGE),
    ("PUT", UPDATE),
    ("POST", "/api/token"),
    ("POST", "/api/v1.0/users/pincode/change"),
    ("GET", "/api/v1.0/assets/security-images"),
    ("GET", "/api/v1.0/no/such/path"),
]
WRONG_APP_KEY = {"error": "Application key is not defined or does not exist"}


@pytest.mark.parametrize(("verb", "path"), EVERY_CALL)
async def test_a_wrong_application_key_is_refused_everywhere(verb: str, path: str, ask: Ask) -> None:
    assert await ask(verb, path, Et_App_Key="someone-else's") == (401, WRONG_APP_KEY)


async def test_a_missing_application_key_is_refused_before_anything_happens(sandbox: Sandbox) -> None:
    async with aiohttp.ClientSession() as anonymous:
        reply = await anonymous.post(sandbox.url + REQUEST, json={"User": "maria.noquestion"})
        assert (reply.status, await reply.json()) == (401, WRONG_APP_KEY)
    assert sandbox.mails == []


@pytest.mark.parametrize("status", [200, 400, 403])
async def test_the_status_of_a_wrong_application_key_is_a_setting(status: int, sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.app_key_status = status
    assert await ask("POST", REQUEST, {"User": "maria.noquestion"}, Et_App_Key="") == (status, WRONG_APP_KEY)
    sandbox.settings.app_key = "another"
    assert (await ask("POST", REQUEST, {"User": "maria.noquestion"}, Et_App_Key="another"))[1]["Errors"] == []


@pytest.mark.parametrize("answer", [{}, {"SecretQuestionAnswer": "Petersen"}, {"SecretQuestionAnswer": None}])
async def test_a_wrong_or_missing_answer_is_refused(answer: dict[str, Any], sandbox: Sandbox, ask: Ask) -> None:
    assert await ask("POST", REQUEST, {"User": "robert.zak", **answer}) == (
        409,
        {
            "Errors": ["Answer is incorrect, try again."],
            "ErrorsCode": ["ErrorIncorrectAnswer"],
            "IsSucceed": False,
        },
    )
    assert sandbox.mails == []


async def test_an_unknown_user_is_refused_in_the_envelope(sandbox: Sandbox, ask: Ask) -> None:
    envelope = {"Model": None, "Errors": ["User is not found."], "StatusCode": 409, "IsSucceed": False}
    assert await ask("POST", REQUEST, {"User": "nobody"}) == (409, envelope)
    assert await ask("GET", CHALLENGE + "nobody") == (409, envelope)
    assert sandbox.mails == []


async def test_an_unknown_user_may_be_met_with_silence(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.unknown_user_refused = False
    assert await ask("POST", REQUEST, {"User": "nobody"}) == (200, {"Errors": [], "IsSucceed": False})
    assert await ask("GET", CHALLENGE + "nobody") == (200, {"Model": "", "Errors": [], "IsSucceed": True})
    assert sandbox.mails == []
    assert not any(call.acted for call in sandbox.calls)


async def test_an_address_for_a_login_is_a_setting(sandbox: Sandbox, ask: Ask) -> None:
    assert (await ask("POST", REQUEST, {"User": "maria@autoshares.com"}))[0] == 200
    sandbox.settings.email_as_user = False
    assert (await ask("POST", REQUEST, {"User": "maria@autoshares.com"}))[0] == 409
    assert (await ask("GET", CHALLENGE + "maria@autoshares.com"))[0] == 200


@pytest.mark.parametrize("path", [FIRST_EXCHANGE, LATER_EXCHANGE])
async def test_a_wrong_code_is_refused_in_the_envelope(path: str, ask: Ask) -> None:
    status, reply = await ask("POST", path, {"Code": "000000", "Identifier": "ResetPassword"})
    assert (status, reply.pop("Errors")) == (409, ["Confirmation code is incorrect or has expired."])
    assert reply == {"Model": None, "StatusCode": 409, "IsSucceed": False}


async def test_status_status_code_and_errors_code_of_a_refusal_are_settings(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.refusal_status = 200
    sandbox.settings.refusal_code = "Conflict"
    sandbox.settings.errors_code = True
    status, reply = await ask("POST", FIRST_EXCHANGE, {"Code": "000000"})
    assert (status, reply["StatusCode"], reply["ErrorsCode"]) == (200, "Conflict", ["ErrorRefused"])
    assert (await ask("POST", REQUEST, {"User": "robert.zak"}))[0] == 200


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Token": "ba6b8cac-6738-4434-bd26-825db020a05c"}, "Token is invalid or has expired."),
        ({"PasswordConfirmation": "nieuw-Wacht8"}, "Password and its confirmation do not match."),
        ({"Password": "kort", "PasswordConfirmation": "kort"}, "Password is too weak."),
    ],
)
async def test_a_refused_password_leaves_the_token_unspent(
    changes: dict[str, str], error: str, sandbox: Sandbox, ask: Ask
) -> None:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    _, reply = await ask("POST", FIRST_EXCHANGE, {"Code": sandbox.newest_code("maria.noquestion")})
    body = {"Token": reply["Model"], "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    envelope = {"Model": None, "Errors": [error], "StatusCode": 409, "IsSucceed": False}
    assert await ask("PUT", UPDATE, {**body, **changes}) == (409, envelope)
    assert sandbox.password_of("maria.noquestion") == "old-Passw0rd"
    assert (await ask("PUT", UPDATE, body))[0] == 200
    assert sandbox.password_of("maria.noquestion") == "nieuw-Wacht7"


@pytest.mark.parametrize(
    ("verb", "path", "body", "fields"),
    [
        ("POST", REQUEST, {}, ["User"]),
        ("POST", REQUEST, {"User": ""}, ["User"]),
        ("POST", REQUEST, {"User": "robert.zak", "SecretQuestionAnswer": 7}, ["SecretQuestionAnswer"]),
        ("GET", CHALLENGE, None, ["username"]),
        ("POST", FIRST_EXCHANGE, {"Code": None}, ["Code"]),
        ("POST", LATER_EXCHANGE, {"Code": "231408"}, ["Identifier"]),
        ("POST", LATER_EXCHANGE, {"Code": "231408", "Identifier": "ResetLogin"}, ["Identifier"]),
        ("POST", LATER_EXCHANGE, {"Code": ["231408"], "Identifier": "ResetPassword"}, ["Code"]),
        ("PUT", UPDATE, {"Token": "x"}, ["Password", "PasswordConfirmation"]),
        ("PUT", UPDATE, ["x"], ["body"]),
        ("PUT", UPDATE, None, ["body"]),
    ],
)
async def test_a_request_that_lacks_something_fails_validation(
    verb: str, path: str, body: Any, fields: list[str], ask: Ask
) -> None:
    status, reply = await ask(verb, path, body)
    assert (status, sorted(reply)) == (400, ["Message", "ModelState"])
    assert reply["Message"] == "Validation error occured while processing entity"
    assert list(reply["ModelState"]) == fields
    assert all(isinstance(error, str) for errors in reply["ModelState"].values() for error in errors)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'"text"'])
async def test_a_body_that_is_no_json_object_fails_validation(body: bytes, client: aiohttp.ClientSession) -> None:
    async with client.post(REQUEST, data=body) as reply:
        assert (reply.status, list((await reply.json())["ModelState"])) == (400, ["body"])


@pytest.mark.parametrize("status", [404, 405])
async def test_the_question_endpoint_may_be_missing(status: int, sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.question_endpoint = False
    sandbox.settings.question_endpoint_status = status
    found, reply = await ask("GET", CHALLENGE + "robert.zak")
    assert (found, list(reply)) == (status, ["Message"])
    assert [call.route for call in sandbox.calls] == ["challenge"]


@pytest.mark.parametrize(("verb", "status"), [("GET", 405), ("POST", 200)])
async def test_a_wrong_verb_is_no_route(verb: str, status: int, sandbox: Sandbox, ask: Ask) -> None:
    assert (await ask(verb, REQUEST, {"User": "maria.noquestion"}))[0] == status
    assert len(sandbox.mails) == (status == 200)


async def test_a_body_of_more_than_a_mebibyte_is_too_large(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    async with client.post(REQUEST, data=io.BytesIO(b"x" * (1024**2 + 1))) as reply:
        assert reply.status == 413
    async with client.post(REQUEST, data=io.BytesIO(b"x" * 1024**2)) as reply:
        assert reply.status == 400
    assert [(call.status, len(call.body)) for call in sandbox.calls] == [(413, 0), (400, 1024**2)]

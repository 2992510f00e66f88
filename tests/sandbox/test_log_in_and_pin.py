"""The related calls: log-in, expired password, two factors, PIN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Ask

LOG_IN = "/api/token"
REQUEST = "/api/v1.0/users/password/reset"
EXCHANGE = "/api/v1.0/users/identifiers/reset/code"
UPDATE = "/api/v1.0/users/passwords/reset/"
CHANGE_PIN = "/api/v1.0/users/pincode/change"
IMAGES = "/api/v1.0/assets/security-images"


async def new_token(sandbox: Sandbox, ask: Ask, identifier: str) -> str:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    body = {"Code": sandbox.newest_code("maria.noquestion"), "Identifier": identifier}
    _, reply = await ask("POST", EXCHANGE, body)
    return str(reply["Model"])


async def bearer(ask: Ask, login: str = "maria.noquestion") -> str:
    _, reply = await ask("POST", LOG_IN, Username=login, Password="old-Passw0rd")
    return f"Bearer {reply['Token']}"


def new_pin(token: str, **changes: str) -> dict[str, str]:
    return {"Token": token, "Pin": "4711", "ImageName": "anchor", "PersonalPhrase": "ahoy", **changes}


@pytest.mark.parametrize("name", ["robert.zak", "hello@autoshares.com"])
async def test_a_log_in_with_the_right_password_gives_a_token(name: str, sandbox: Sandbox, ask: Ask) -> None:
    status, reply = await ask("POST", LOG_IN, Username=name, Password="old-Passw0rd")
    assert (status, sorted(reply), reply["State"]) == (200, ["State", "Token"], "Succeeded")
    assert reply["Token"]
    assert not sandbox.calls_of("log_in")[0].acted


@pytest.mark.parametrize(
    "headers",
    [{"Username": "robert.zak", "Password": "wrong"}, {"Username": "nobody", "Password": "old-Passw0rd"}, {}],
)
async def test_a_wrong_log_in_fails(headers: dict[str, str], sandbox: Sandbox, ask: Ask) -> None:
    failed = {"State": "Failed", "Step": "BaseAuthentication", "Reason": "Invalid credentials"}
    assert await ask("POST", LOG_IN, **headers) == (401, failed)
    sandbox.settings.log_in_refusal_status = 200
    assert await ask("POST", LOG_IN, **headers) == (200, failed)


async def test_an_expired_password_opens_the_door_to_step_four(sandbox: Sandbox, ask: Ask) -> None:
    status, reply = await ask("POST", LOG_IN, Username="expired.user", Password="old-Passw0rd")
    token = reply.pop("Token")
    reason = "Your Password has expired and must be changed"
    assert (status, reply) == (200, {"State": "BaseAuthentication", "Reason": reason})
    body = {"Token": token, "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    assert await ask("PUT", UPDATE, body) == (200, {"Errors": [], "IsSucceed": True})
    assert sandbox.password_of("expired.user") == "nieuw-Wacht7"
    _, reply = await ask("POST", LOG_IN, Username="expired.user", Password="nieuw-Wacht7")
    assert reply["State"] == "Succeeded"


async def test_two_factors_expect_a_code(ask: Ask) -> None:
    expecting = {"State": "Expecting", "Step": "VerificationCode", "Reason": "Expecting confirmation code"}
    assert await ask("POST", LOG_IN, Username="two.factor", Password="old-Passw0rd") == (200, expecting)
    assert (await ask("POST", LOG_IN, Username="two.factor", Password="wrong"))[1]["State"] == "Failed"


async def test_a_pin_is_set_with_a_token_an_image_and_a_session(sandbox: Sandbox, ask: Ask) -> None:
    token = await new_token(sandbox, ask, "ResetPinCode")
    _, images = await ask("GET", IMAGES)
    body = new_pin(token, ImageName=images["Model"][-1])
    status, reply = await ask("POST", CHANGE_PIN, body, Authorization=await bearer(ask))
    assert (status, reply) == (200, {"Errors": [], "IsSucceed": True})
    assert sandbox.user("maria.noquestion").pin == "4711"
    assert sandbox.user("maria.noquestion").pin_changes == 1


async def test_a_pin_is_not_set_without_the_session_of_the_same_user(sandbox: Sandbox, ask: Ask) -> None:
    token = await new_token(sandbox, ask, "ResetPinCode")
    denied = (401, {"Message": "Authorization has been denied for this request."})
    for authorization in (
        "",
        "Bearer x",
        await bearer(ask, "robert.zak"),
        (await bearer(ask)).replace("Bearer", "Basic"),
    ):
        assert await ask("POST", CHANGE_PIN, new_pin(token), Authorization=authorization) == denied
    assert sandbox.user("maria.noquestion").pin == "0000"
    sandbox.settings.bearer_checked = False
    assert (await ask("POST", CHANGE_PIN, new_pin(token)))[0] == 200
    assert sandbox.user("maria.noquestion").pin == "4711"


async def test_the_verb_of_a_pin_change_is_a_setting(sandbox: Sandbox, ask: Ask) -> None:
    token, session = await new_token(sandbox, ask, "ResetPinCode"), await bearer(ask)
    assert (await ask("PUT", CHANGE_PIN, new_pin(token), Authorization=session))[0] == 405
    sandbox.settings.pin_verbs = ("GET", "PUT")
    assert (await ask("POST", CHANGE_PIN, new_pin(token), Authorization=session))[0] == 405
    assert (await ask("GET", CHANGE_PIN, new_pin(token), Authorization=session))[0] == 200
    assert [call.route for call in sandbox.calls[-3:]] == ["unknown", "unknown", "change_pin"]


async def test_a_token_is_good_only_for_what_its_code_was_exchanged_for(sandbox: Sandbox, ask: Ask) -> None:
    pin_token = await new_token(sandbox, ask, "ResetPinCode")
    body = {"Token": pin_token, "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}
    assert (await ask("PUT", UPDATE, body))[0] == 409
    password_token = await new_token(sandbox, ask, "ResetPassword")
    session = await bearer(ask)
    assert (await ask("POST", CHANGE_PIN, new_pin(password_token), Authorization=session))[0] == 409
    assert (await ask("POST", CHANGE_PIN, new_pin(pin_token), Authorization=session))[0] == 200
    assert (await ask("PUT", UPDATE, {**body, "Token": password_token}))[0] == 200


@pytest.mark.parametrize("changes", [{"ImageName": "submarine"}, {"Pin": "12"}, {"Pin": "abcd"}])
async def test_a_refused_pin_leaves_the_token_unspent(changes: dict[str, str], sandbox: Sandbox, ask: Ask) -> None:
    token, session = await new_token(sandbox, ask, "ResetPinCode"), await bearer(ask)
    status, reply = await ask("POST", CHANGE_PIN, new_pin(token, **changes), Authorization=session)
    assert (status, reply["IsSucceed"]) == (409, False)
    assert sandbox.user("maria.noquestion").pin == "0000"
    assert (await ask("POST", CHANGE_PIN, new_pin(token), Authorization=session))[0] == 200
    assert (await ask("POST", CHANGE_PIN, new_pin(token), Authorization=session))[0] == 409


@pytest.mark.parametrize("key", ["Token", "Pin", "ImageName", "PersonalPhrase"])
async def test_a_pin_change_needs_each_of_its_keys(key: str, sandbox: Sandbox, ask: Ask) -> None:
    token, session = await new_token(sandbox, ask, "ResetPinCode"), await bearer(ask)
    body = new_pin(token)
    del body[key]
    status, reply = await ask("POST", CHANGE_PIN, body, Authorization=session)
    assert (status, list(reply["ModelState"])) == (400, [key])

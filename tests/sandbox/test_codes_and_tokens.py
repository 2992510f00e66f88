"""Codes and tokens, and when they become invalid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from reset_flow.sandbox.grants import Grant, Grants

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.sandbox.conftest import Advance, Ask

REQUEST = "/api/v1.0/users/password/reset"
EXCHANGE = "/api/v1.0/users/password/reset/code"
UPDATE = "/api/v1.0/users/passwords/reset/"
SECOND = timedelta(seconds=1)


async def new_code(sandbox: Sandbox, ask: Ask) -> str:
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    return sandbox.newest_code("maria.noquestion")


async def new_token(sandbox: Sandbox, ask: Ask) -> str:
    _, reply = await ask("POST", EXCHANGE, {"Code": await new_code(sandbox, ask)})
    return str(reply["Model"])


def update(token: str) -> dict[str, str]:
    return {"Token": token, "Password": "nieuw-Wacht7", "PasswordConfirmation": "nieuw-Wacht7"}


async def test_a_code_is_spent_by_its_exchange(sandbox: Sandbox, ask: Ask) -> None:
    code = await new_code(sandbox, ask)
    assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 200
    assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 409
    assert sandbox.user("maria.noquestion").codes_spent == 1


async def test_a_code_dies_after_its_lifetime_and_not_before(sandbox: Sandbox, ask: Ask, advance: Advance) -> None:
    code = await new_code(sandbox, ask)
    advance(timedelta(minutes=10))
    assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 409
    sandbox.settings.code_lifetime = timedelta(minutes=3)
    code = await new_code(sandbox, ask)
    advance(timedelta(minutes=3) - SECOND)
    assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 200


async def test_a_new_code_kills_the_older_one_of_the_same_user_only(sandbox: Sandbox, ask: Ask) -> None:
    older = await new_code(sandbox, ask)
    await ask("POST", REQUEST, {"User": "robert.zak", "SecretQuestionAnswer": "Peterson"})
    newer = await new_code(sandbox, ask)
    assert (await ask("POST", EXCHANGE, {"Code": older}))[0] == 409
    assert (await ask("POST", EXCHANGE, {"Code": newer}))[0] == 200
    assert (await ask("POST", EXCHANGE, {"Code": sandbox.newest_code("robert.zak")}))[0] == 200


async def test_a_setting_keeps_the_older_code_alive(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.settings.new_code_kills_old = False
    older, newer = await new_code(sandbox, ask), await new_code(sandbox, ask)
    for code in (older, newer):
        assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 200
        assert (await ask("POST", EXCHANGE, {"Code": code}))[0] == 409


async def test_a_token_is_spent_by_the_new_password(sandbox: Sandbox, ask: Ask) -> None:
    token = await new_token(sandbox, ask)
    assert (await ask("PUT", UPDATE, update(token)))[0] == 200
    assert (await ask("PUT", UPDATE, update(token)))[0] == 409
    assert sandbox.user("maria.noquestion").password_changes == 1


async def test_a_token_dies_after_its_lifetime_and_not_before(sandbox: Sandbox, ask: Ask, advance: Advance) -> None:
    token = await new_token(sandbox, ask)
    advance(timedelta(minutes=10))
    assert (await ask("PUT", UPDATE, update(token)))[0] == 409
    token = await new_token(sandbox, ask)
    advance(timedelta(minutes=10) - SECOND)
    assert (await ask("PUT", UPDATE, update(token)))[0] == 200


async def test_the_same_code_given_to_two_users_belongs_to_the_later(sandbox: Sandbox, ask: Ask) -> None:
    sandbox.next_codes.extend(["004158", "004158"])
    sandbox.add_user("second.user")
    await ask("POST", REQUEST, {"User": "maria.noquestion"})
    await ask("POST", REQUEST, {"User": "second.user"})
    assert (await ask("POST", EXCHANGE, {"Code": "004158"}))[0] == 200
    assert sandbox.user("second.user").codes_spent == 1
    assert sandbox.user("maria.noquestion").codes_spent == 0


async def test_a_random_code_is_six_digits_whatever_its_value(sandbox: Sandbox, ask: Ask) -> None:
    codes = [await new_code(sandbox, ask) for _ in range(50)]
    assert all(len(code) == 6 and code.isdigit() for code in codes)
    assert len(set(codes)) > 40


def test_only_the_newest_grants_are_kept() -> None:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    grants = Grants(limit=2)
    for text in ("a", "b", "c"):
        grants.add(text, Grant(login="maria.noquestion", expires_at=at + SECOND))
    assert (grants.live("a", at), grants.owner("a")) == (None, None)
    assert grants.live("c", at) is not None
    assert grants.live("c", at + SECOND) is None
    assert grants.owner("c") == "maria.noquestion"

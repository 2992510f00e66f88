"""Further checks of a new password are asked once the rules have no complaint, and block nobody."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow.domain.password_rules import COMMON, PasswordRules
from reset_flow.domain.secret import Secret
from reset_flow.engine import password_checks
from reset_flow.engine.password_checks import GUESSABLE

if TYPE_CHECKING:
    from reset_flow.ports import PasswordCheck

USER = "robert.zak@mail.example"
CANARY = "violet tractor 7 canary"


async def weak(_password: Secret, _user: str) -> tuple[str, ...]:
    return ("it must be stronger",)


async def content(_password: Secret, _user: str) -> tuple[str, ...]:
    return ()


async def broken(password: Secret, user: str) -> tuple[str, ...]:
    raise RuntimeError(f"{password.reveal()} of {user}")


async def cancelled(password: Secret, _user: str) -> tuple[str, ...]:
    raise asyncio.CancelledError(password.reveal())


async def hanging(_password: Secret, _user: str) -> tuple[str, ...]:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def asked(*checks: PasswordCheck, password: str = CANARY, user: str = USER) -> tuple[str, ...]:
    return tuple(map(str, await password_checks.complaints(PasswordRules(checks=checks), Secret(password), user)))


async def test_checks_are_asked_in_order_once_each_with_what_was_typed() -> None:
    seen: list[tuple[str, str]] = []

    async def spying(password: Secret, user: str) -> tuple[str, ...]:
        seen.append((password.reveal(), user))
        return ("it must be odd",)

    assert await asked(weak, spying, content, weak) == ("it must be stronger", "it must be odd")
    assert seen == [(CANARY, USER)]
    assert await asked(content) == await asked() == ()


async def test_checks_are_not_asked_about_what_the_rules_refuse() -> None:
    async def never(_password: Secret, _user: str) -> tuple[str, ...]:
        raise AssertionError

    assert await asked(never, password="football1") == (str(COMMON),)
    assert await asked(never, password="short") == ("it must have at least 8 characters",)


async def test_checks_are_asked_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    async def meets(_password: Secret, _user: str) -> tuple[str, ...]:
        await meeting.wait()
        return ("it must meet",)

    async with asyncio.timeout(30):
        assert await asked(meets, meets, meets) == ("it must meet",)


def not_async(_password: Secret, _user: str) -> tuple[str, ...]:
    return ("it must be awaited",)


@pytest.mark.parametrize("returned", [None, "it must be stronger", 7, {"it": "must"}, True])
async def test_a_check_that_returns_something_else_is_passed_over(
    returned: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(_password: Secret, _user: str) -> Any:
        return returned

    assert await asked(odd, weak) == ("it must be stronger",)
    assert f"password check odd was passed over: it returned {type(returned).__name__}" in caplog.text


@pytest.mark.parametrize(
    ("check", "name", "error"),
    [
        (broken, "broken", "RuntimeError"),
        (cancelled, "cancelled", "CancelledError"),
        (not_async, "not_async", "TypeError"),
    ],
)
async def test_a_check_that_fails_blocks_nobody_and_is_logged_by_class(
    check: PasswordCheck, name: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await asked(check) == ()
    assert await asked(check, weak) == ("it must be stronger",)
    assert f"password check {name} was passed over: {error}" in caplog.text
    for canary in (CANARY, USER):
        assert canary not in caplog.text


async def test_a_check_that_hangs_blocks_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_checks, "CHECKS_TIMEOUT", 0.05)
    async with asyncio.timeout(30):
        assert await asked(hanging, weak) == ("it must be stronger",)
    assert "password check hanging was passed over: TimeoutError" in caplog.text
    assert CANARY not in caplog.text


async def test_a_check_that_will_not_be_cancelled_blocks_nobody_and_is_not_heard_of_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_checks, "CHECKS_TIMEOUT", 0.05)
    released = asyncio.Event()

    async def stubborn(password: Secret, _user: str) -> tuple[str, ...]:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        raise SystemError(password.reveal())

    async with asyncio.timeout(30):
        assert await asked(stubborn) == ()
    left_behind = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert left_behind
    released.set()
    await asyncio.gather(*left_behind, return_exceptions=True)
    assert CANARY not in caplog.text


async def test_a_caller_who_leaves_takes_the_checks_along() -> None:
    started, gone = asyncio.Event(), asyncio.Event()

    async def waiting(_password: Secret, _user: str) -> tuple[str, ...]:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            gone.set()
        raise AssertionError

    task = asyncio.create_task(asked(waiting))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        await gone.wait()


def test_the_complaint_in_place_of_one_that_would_repeat_the_password_tells_what_to_do() -> None:
    assert GUESSABLE.text.startswith("it must ")
    assert not GUESSABLE.text.endswith(".")


@pytest.mark.parametrize("password", ["violet  tractor canary", "violet\u200dtractor canary", "violet tractor " * 14])
async def test_a_password_is_found_in_a_complaint_before_it_is_made_fit_to_be_shown(password: str) -> None:
    async def repeats(password: Secret, _user: str) -> tuple[str, ...]:
        return (f"it must not be {password.reveal()}", f"it must not be {' '.join(password.reveal().split())}")

    rules = PasswordRules(checks=(repeats,), max_length=1000)
    assert await password_checks.complaints(rules, Secret(password.strip()), USER) == (GUESSABLE,)


async def test_complaints_of_checks_are_made_fit_to_be_shown() -> None:
    async def chatty(password: Secret, user: str) -> Any:
        said = [
            f"it must not be {password.reveal().upper()}",
            f"it must not hold {user}",
            "it must\n be\x1b[31m red",
            7,
            "",
        ]
        return [*said, "x" * 500, *(f"it must {index}" for index in range(99))]

    complaints = await asked(chatty)
    assert complaints[0] == str(GUESSABLE)
    assert complaints[1] == "it must be [31m red"
    assert len(complaints) <= password_checks.MAX_COMPLAINTS
    assert all(len(complaint) <= 200 for complaint in complaints)
    assert not any(canary in "".join(complaints).lower() for canary in (CANARY, USER))

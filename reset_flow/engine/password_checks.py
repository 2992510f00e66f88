"""Asks what the embedder checks of a new password, once the rules have no complaint."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from reset_flow.domain.text import printable, repeats
from reset_flow.engine.background_tasks import retrieve_error

if TYPE_CHECKING:
    from reset_flow.domain.password_rules import PasswordRules
    from reset_flow.domain.secret import Secret
    from reset_flow.ports import PasswordCheck

__all__ = ["complaints"]

logger = logging.getLogger("reset_flow")

CHECKS_TIMEOUT = 5.0
"""Seconds for all checks of a password together: a person is waiting."""

MAX_COMPLAINTS = 10
"""Per check."""

GUESSABLE = "it must be harder to guess"


async def complaints(rules: PasswordRules, password: Secret, user: str) -> tuple[str, ...]:
    """
    Return the complaints of the rules or, if they have none, of the checks; empty where the password is good enough.

    Lower-case clauses that tell the person what to do. None repeats the password or the login. Errors of checks are
    logged by their class, and count as no complaint.
    """
    return rules.refusals(password, user) or await _run_checks(rules, password, user)


async def _run_checks(rules: PasswordRules, password: Secret, user: str) -> tuple[str, ...]:
    if not rules.checks:
        return ()
    tasks = [asyncio.create_task(_run_check(check, password, user)) for check in rules.checks]
    try:
        # Not asyncio.timeout: that would wait for a check that ignores its cancellation.
        await asyncio.wait(tasks, timeout=CHECKS_TIMEOUT)
    finally:
        for task in tasks:
            task.add_done_callback(retrieve_error)
            task.cancel()
    complaints: list[str] = []
    for check, task in zip(rules.checks, tasks, strict=True):
        if not task.done():
            _log_failure(check, "TimeoutError")
        elif task.cancelled():
            _log_failure(check, "CancelledError")
        elif not task.exception():
            complaints += task.result()
    return tuple(dict.fromkeys(complaints))


async def _run_check(check: PasswordCheck, password: Secret, user: str) -> tuple[str, ...]:
    """Return the complaints of a check, safe to show; none if it fails."""
    failure, complaints = "", None
    try:
        complaints = await check(password, user)
    except Exception as error:  # noqa: BLE001 - a check of the embedder's may raise anything
        failure = type(error).__name__
    if not isinstance(complaints, (tuple, list)):
        _log_failure(check, failure or f"it returned {type(complaints).__name__}")
        return ()
    return tuple(_safe(complaint, password, user) for complaint in complaints[:MAX_COMPLAINTS])


def _safe(complaint: object, password: Secret, user: str) -> str:
    """Return the complaint on one line; replace one that repeats the password or the login."""
    if not isinstance(complaint, str) or repeats(complaint, password.reveal(), user):
        return GUESSABLE
    return printable(complaint) or GUESSABLE


def _log_failure(check: PasswordCheck, failure: str) -> None:
    name = getattr(check, "__name__", None) or type(check).__name__
    logger.warning("password check %s was passed over: %s", printable(name), failure)

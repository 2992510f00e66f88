"""Asks what the embedder checks of a new password, once the rules have no complaint."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from reset_flow.deadlines import Deadlines
from reset_flow.domain.errors import Reason
from reset_flow.domain.text import printable, repeats
from reset_flow.engine.background_tasks import attempt

if TYPE_CHECKING:
    from reset_flow.domain.password_rules import PasswordRules
    from reset_flow.domain.secret import Secret
    from reset_flow.ports import PasswordCheck

logger = logging.getLogger("reset_flow")

CHECKS_TIMEOUT = 5.0
"""Seconds for the checks of a password, which are asked at once: a person is waiting."""

MAX_COMPLAINTS = 10
"""Per check."""

GUESSABLE = Reason("guessable", "it must be harder to guess")


async def complaints(rules: PasswordRules, password: Secret, user: str) -> tuple[Reason, ...]:
    """
    Return the complaints of the rules or, if they have none, of the checks. None repeats the password or the login.
    Errors of checks are logged by their class, and count as no complaint.
    """
    if refusals := rules.refusals(password, user):
        return refusals
    said = await asyncio.gather(*(_ask(check, password, user) for check in rules.checks))
    return tuple(dict.fromkeys(chain.from_iterable(said)))


async def _ask(check: PasswordCheck, password: Secret, user: str) -> list[Reason]:
    """Return the complaints of a check, safe to show; none if it fails."""
    given, failure = await attempt(partial(check, password, user), Deadlines().within(CHECKS_TIMEOUT))
    if isinstance(given, (tuple, list)):
        return [_safe(complaint, password, user) for complaint in given[:MAX_COMPLAINTS]]
    name = getattr(check, "__name__", None) or type(check).__name__
    failure = failure or f"it returned {type(given).__name__}"
    logger.warning("password check %s was passed over: %s", printable(name), failure)
    return []


def _safe(complaint: object, password: Secret, user: str) -> Reason:
    """Return the complaint on one line; replace one that repeats the password or the login."""
    said = complaint if isinstance(complaint, Reason) else Reason(None, complaint if isinstance(complaint, str) else "")
    text = printable(said.text)
    return Reason(said.code, text) if text and not repeats(said.text, password.reveal(), user) else GUESSABLE

"""What the workers of durable engines share: who a person is, which errors end a call for good, when to ask again."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.deadlines import Deadlines
from reset_flow.domain import validation
from reset_flow.domain.errors import (
    AppKeyRejected,
    ConfigurationError,
    FlowEnded,
    FlowNotFound,
    KeyringError,
    RecordUnreadable,
    ResetFlowError,
)
from reset_flow.domain.secret import Secret
from reset_flow.domain.times import NO_TIME
from reset_flow.engine.background_tasks import attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.flow import Flow
    from reset_flow.service import ResetService

LoginOf: TypeAlias = "Callable[[str], Awaitable[str]]"

logger = logging.getLogger("reset_flow")

NAME = "PasswordReset"
"""Of these resets in an engine."""
ASK_EVERY = timedelta(minutes=5)

LOOK_UP = 10.0
"""Seconds that the look-up of a login may take."""
PATIENCE = timedelta(seconds=30)
"""How long to wait for another call of the flow."""

OPERATORS = (AppKeyRejected, ConfigurationError, KeyringError, RecordUnreadable)
"""Tried again as well: somebody will mend the worker's settings, and people's resets must outlast that."""


class LoginUnavailable(ResetFlowError):
    """The embedder's look-up of a login failed, with an error that is none of this library's, or took too long."""

    code = "login_unavailable"
    retryable = True


async def find_login(login_of: LoginOf, user_ref: str) -> Secret:
    """
    Return the login of a person.

    Raises:
        ResetFlowError: What `login_of` raised, if that is one.
        ConfigurationError: It is no async function.
        LoginUnavailable: After any other error, without its text.
    """
    user_ref = validation.name(user_ref, "user_ref")

    async def look_up() -> Secret | ResetFlowError:
        try:
            looking = login_of(user_ref)
            if not isawaitable(looking):
                return ConfigurationError("login_of must be an async function")
            return Secret(await looking)
        except ResetFlowError as error:
            return error

    found, failure = await attempt(look_up, Deadlines().within(LOOK_UP))
    if isinstance(found, ResetFlowError):
        raise found
    if found is None:
        logger.warning("the login of a person can't be looked up, and will be later: %s", failure)
        raise LoginUnavailable
    return found


async def find_reset(service: ResetService, ref: str) -> Flow:
    """Return the reset of a `ref`; raise FlowNotFound if there is none."""
    found = await service.find(ref=ref)
    if not found:
        raise FlowNotFound(ref)
    return found[0]


async def give_up(service: ResetService, flow_id: str) -> Flow:
    """Give a reset up and return it. One that has ended stays as it is."""
    with suppress(FlowEnded):
        return await service.cancel(flow_id, patience=PATIENCE)
    return await service.get(flow_id)


def log_retry(error: ResetFlowError) -> None:
    """Log that a call is made again: in words where somebody has to mend something, else by the error's code."""
    logger.warning("a reset is tried again later: %s", error if isinstance(error, OPERATORS) else error.code)


def is_final(error: ResetFlowError) -> bool:
    """Return True if the same call can't succeed later."""
    return not error.retryable and not isinstance(error, OPERATORS)


def checked(ask_every: Any) -> float:
    """Return how often to ask, in seconds; raise ConfigurationError if it can't be that."""
    if not isinstance(ask_every, timedelta) or ask_every <= NO_TIME:
        raise ConfigurationError("ask_every must be a timedelta longer than zero")
    return ask_every.total_seconds()


def pause(flow: Flow, ask_every: float) -> float:
    """Return for how many seconds to wait for news: until a second after the end that time brings, at most."""
    ends_at = max(flow.expires_at, flow.busy_until or flow.expires_at)
    left = (ends_at - datetime.now(UTC)).total_seconds()
    return min(ask_every, left + 1) if left > 0 else ask_every

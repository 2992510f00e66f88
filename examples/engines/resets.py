"""What a worker of any engine calls. Only ids go in and come out, since engines keep what passes in readable form."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from functools import cache
from pathlib import Path

import attrs

from reset_flow import Flow, FlowNotFound, ResetFlowError, ResetService, UnknownUser, from_env
from reset_flow.integrations.status import ResetStatus, status_of
from reset_flow.web import Links

PAGE = "https://example.com/reset/"
PEOPLE = {"employee-17": "robert.zak"}
LISTENER = "engine"  # of the process with the page; that of `reset-flow serve` is "webhook"
MENDED = {"app_key_rejected", "configuration", "keyring"}  # by an operator, sooner or later


async def login_of(user_ref: str) -> str:
    """Return the login. Yours: from a directory, for example. Any error but `UnknownUser` is tried again."""
    if user_ref in PEOPLE:
        return PEOPLE[user_ref]
    raise UnknownUser


async def invite(user_ref: str, link: str) -> None:
    """Send the person the link. Yours: by e-mail, for example. Who has the link may go on with the reset."""
    await asyncio.to_thread(Path(f"{user_ref}.txt").write_text, link)


@attrs.define
class ResetFailed(Exception):
    """A call failed. It repeats nothing: engines keep messages and tracebacks, those of causes included."""

    code: str
    retryable: bool
    retry_after: timedelta | None = None

    def __str__(self) -> str:
        return self.code


@cache
def service() -> ResetService:
    """Make the service of this process at its first use. Its listener is in the process with the page."""
    return from_env(listeners={LISTENER: None})


async def start_reset(user_ref: str, ref: str) -> ResetStatus:
    """Start the reset of this name, and invite the person. Again, it gives the same reset, even after its end."""

    async def start() -> Flow:
        flow = await service().start(await login_of(user_ref), ref=ref, patience=timedelta(seconds=20))
        if not flow.ended:
            await invite(user_ref, await Links(service(), PAGE).create(flow.id, flow.expires_at - flow.created_at))
        return flow

    return await _told(start())


async def reset_status(ref: str, wait: timedelta = timedelta(0)) -> ResetStatus:
    """Return where it stands, or how it ended within that time."""

    async def look() -> Flow:
        if found := await service().find(ref=ref):
            return await service().wait(found[0].id, wait)
        raise FlowNotFound("of this ref")

    return await _told(look())


async def _told(work: Awaitable[Flow]) -> ResetStatus:
    try:
        return status_of(await work)
    except ResetFlowError as error:
        failed = ResetFailed(error.code, error.retryable or error.code in MENDED, error.retry_after)
    except Exception:  # noqa: BLE001 - it may have anything in its text
        failed = ResetFailed("failed", retryable=True)
    raise failed  # outside of `except`: it has no context

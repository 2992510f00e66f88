"""
An object of Restate that starts resets and waits for their ends. Needs restate-sdk, of the extra `restate`.

Restate keeps arguments, results and errors in readable form: none of them has a login or the text of somebody's error
here.

A parked `ended` replays its journal after an upgrade: the order, names and results of its steps are a format.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import quote

import aiohttp
from yarl import URL

from reset_flow.domain.errors import (
    ConfigurationError,
    FlowNotFound,
    KeyReused,
    ResetFlowError,
    UnknownUser,
)
from reset_flow.domain.secret import Secret
from reset_flow.integrations.calls import (
    ASK_EVERY,
    NAME,
    PATIENCE,
    checked,
    find_login,
    find_reset,
    give_up,
    is_final,
    log_retry,
    pause,
)
from reset_flow.integrations.status import ResetStatus, status_of

try:
    import restate
    from restate.exceptions import RetryableError
except ImportError:
    raise ConfigurationError("objects of Restate need more: pip install 'reset-flow[restate]'") from None

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from reset_flow.domain.flow import Event, Flow
    from reset_flow.integrations.calls import LoginOf
    from reset_flow.service import ResetService

__all__ = ["ResetObject", "RestateListener", "reset_object"]

logger = logging.getLogger("reset_flow")

TELLING = aiohttp.ClientTimeout(total=5)

ENOUGH = timedelta(seconds=1)
"""A shorter `retry_after` is left to Restate's backoff: it is a guess, and a store may be down for hours."""
RETRIES = restate.InvocationRetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    exponentiation_factor=2.0,
    max_interval=timedelta(minutes=1),
    max_attempts=1_000_000,  # two years; after Restate's 70, an operator would have to resume each process by hand
)
PARKED = timedelta(seconds=1)
"""After which a wait leaves the worker's memory; Restate brings it back when there is news."""

WAITERS = 100
"""Waits of one reset that are told of its end. Others ask."""

STATUSES = {FlowNotFound.code: 404, UnknownUser.code: 404, KeyReused.code: 409}


class _Look(TypedDict):
    """
    The result of a step, as Restate keeps it.

    Attributes:
        wait: Seconds until it is worth asking again.
    """

    status: ResetStatus
    wait: float


def reset_object(
    service: ResetService, login_of: LoginOf, *, name: str = NAME, ask_every: timedelta = ASK_EVERY
) -> ResetObject:
    """
    Return a virtual object, to be served in the event loop of the service. Its key is the `ref` of a reset.

    Args:
        login_of: Called in the worker with the embedder's id of a person. It raises `UnknownUser` where there is none;
            after an error that is none of this library's it is called again, later.

        name: Of the object in Restate. The listener needs the same.

        ask_every: How often a wait asks by itself, should it not be told of the end.
    """
    return ResetObject(service, login_of, name=name, ask_every=ask_every)


class ResetObject(restate.VirtualObject):
    """
    Made by `reset_object`. What can't succeed ends a call with a `TerminalError`, whose metadata have the `code` of the
    service's error; all else is tried again.

    Attributes:
        start: Starts the reset of a person, given the embedder's id; returns it as it stands, also one that has ended.

        status: Returns the reset as it stands.

        cancel: Gives the reset up; one that has ended stays as it is.

        ended: Waits for the end. It does not keep others from this object.

        tell: Has those told who wait, if the reset has ended.
    """

    def __init__(self, service: ResetService, login_of: LoginOf, *, name: str, ask_every: timedelta) -> None:
        super().__init__(name, invocation_retry_policy=RETRIES)
        self._service = service
        self._login_of = login_of
        self._ask_every = checked(ask_every)
        self.start = self.handler("start")(self._start)
        self.status = self.handler("status", kind="shared")(self._status)
        self.cancel = self.handler("cancel")(self._cancel)
        self.ended = self.handler("ended", kind="shared", inactivity_timeout=PARKED)(self._ended)
        self.tell = self.handler("tell")(self._tell)
        self._enlist = self.handler("enlist", ingress_private=True)(self._enlisted)

    # --- handlers

    async def _start(self, ctx: restate.ObjectContext, user_ref: str) -> ResetStatus:
        look = await ctx.run_typed("start", self._begin, restate.RunOptions(), ctx.key(), user_ref)
        if not look["status"]["ended"]:
            ctx.set("flow_id", look["status"]["flow_id"])
        return look["status"]

    async def _status(self, ctx: restate.ObjectSharedContext) -> ResetStatus:
        return (await self._look(ctx))["status"]

    async def _cancel(self, ctx: restate.ObjectContext) -> ResetStatus:
        flow_id = await ctx.get("flow_id", type_hint=str)
        look = await ctx.run_typed("cancel", self._end, restate.RunOptions(), ctx.key(), flow_id)
        return look["status"]

    async def _ended(self, ctx: restate.ObjectSharedContext) -> ResetStatus:
        waiter, end = ctx.awakeable(type_hint=ResetStatus)
        look = await ctx.object_call(self._enlist, ctx.key(), waiter)
        if look["status"]["ended"]:
            return look["status"]
        while not look["status"]["ended"]:
            news, status = await restate.select(end=end, pause=ctx.sleep(timedelta(seconds=look["wait"])))
            if news == "end":
                told: ResetStatus = status
                return told
            look = await self._look(ctx)
        ctx.object_send(self.tell, ctx.key(), None)  # others may wait for the same
        return look["status"]

    async def _enlisted(self, ctx: restate.ObjectContext, waiter: str) -> _Look:
        look = await self._look(ctx)
        if not look["status"]["ended"]:
            waiters = await ctx.get("waiters", type_hint=list[str]) or []
            ctx.set("waiters", [*waiters, waiter][-WAITERS:])
        return look

    async def _tell(self, ctx: restate.ObjectContext) -> None:
        look = await self._look(ctx)
        if look["status"]["ended"]:
            for waiter in await ctx.get("waiters", type_hint=list[str]) or []:
                ctx.resolve_awakeable(waiter, look["status"])
            ctx.clear_all()

    async def _look(self, ctx: restate.ObjectContext | restate.ObjectSharedContext) -> _Look:
        flow_id = await ctx.get("flow_id", type_hint=str)
        return await ctx.run_typed("look", self._ask, restate.RunOptions(), ctx.key(), flow_id)

    # --- steps: what they return or raise is kept

    async def _begin(self, ref: str, user_ref: str) -> _Look:
        async def started() -> Flow:
            login = await find_login(self._login_of, user_ref)
            return await self._service.start(login, ref=ref, patience=PATIENCE)

        return await self._outcome(started())

    async def _ask(self, ref: str, flow_id: str | None) -> _Look:
        return await self._outcome(self._found(ref, flow_id))

    async def _end(self, ref: str, flow_id: str | None) -> _Look:
        async def cancelled() -> Flow:
            return await give_up(self._service, (await self._found(ref, flow_id)).id)

        return await self._outcome(cancelled())

    async def _found(self, ref: str, flow_id: str | None) -> Flow:
        if flow_id is None:  # it was not started here, or it has ended
            flow_id = (await find_reset(self._service, ref)).id
        return await self._service.get(flow_id)

    async def _outcome(self, call: Awaitable[Flow]) -> _Look:
        """Return or raise what the call comes to. Restate keeps texts and tracebacks: it gets none but ours."""
        refusal: Exception
        try:
            flow = await call
        except ResetFlowError as error:
            refusal = _refusal(error)
        except Exception as error:  # noqa: BLE001 - of a store or transport of somebody else's
            refusal = RetryableError(f"the reset is tried again later: {type(error).__name__}", 503)
        else:
            return {"status": status_of(flow), "wait": pause(flow, self._ask_every)}
        raise refusal  # here, where it has no context


def _refusal(error: ResetFlowError) -> Exception:
    if is_final(error):
        status = STATUSES.get(error.code, 400)
        return restate.TerminalError(f"the reset is refused: {error.code}", status, metadata={"code": error.code})
    log_retry(error)
    after = error.retry_after if error.retry_after and error.retry_after > ENOUGH else None
    return RetryableError(f"the reset is tried again later: {error.code}", 503, retry_after=after)


class RestateListener:
    """
    Tells those who wait for a reset in Restate of its end: a listener for the service in any process.

    Args:
        ingress_url: Of Restate, such as `http://127.0.0.1:8080`.

        name: That of the `reset_object`.

        token: Sent as a bearer token, where the ingress wants one.
    """

    def __init__(self, ingress_url: str, *, name: str = NAME, token: str | Secret | None = None) -> None:
        try:
            self._url = URL(ingress_url)
        except (TypeError, ValueError):
            self._url = URL()
        has_more = self._url.user or self._url.query_string or self._url.fragment
        if self._url.scheme not in ("http", "https") or not self._url.host or has_more:
            raise ConfigurationError("ingress_url must be like http://127.0.0.1:8080")
        self._name = name
        self._token = None if token is None else Secret(token)

    async def __call__(self, event: Event) -> None:
        """
        Tell of an end.

        Raises:
            ConnectionError: Restate did not take it. The service calls again.
        """
        if not event.transition.target.ended or event.flow.ref is None:
            return
        try:
            failure = await self._tell(event.flow.ref, event.id)
        except (aiohttp.ClientError, OSError) as error:
            failure = type(error).__name__
        if failure:
            logger.warning("Restate did not take the end of a reset: %s", failure)
            raise ConnectionError("Restate did not take the end of a reset")

    async def _tell(self, ref: str, event_id: str) -> str:
        """Return the reason if it was not taken, else `""`."""
        # Not `URL / part`, which takes a ref like ".." for a step up.
        url = URL(f"{str(self._url).rstrip('/')}/{self._name}/{quote(ref, safe='')}/tell/send", encoded=True)
        headers = {"Idempotency-Key": event_id}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        session = aiohttp.ClientSession(timeout=TELLING, skip_auto_headers=["Content-Type"])
        async with session, session.post(url, headers=headers, allow_redirects=False) as reply:
            return "" if reply.status in (200, 202) else f"HTTP {reply.status}"

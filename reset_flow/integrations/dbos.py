"""
Workflows of DBOS that wait for a reset. Needs dbos, of the extra `dbos`.

DBOS keeps arguments, results and errors in readable form: here, none of them has a login, or the text of somebody's
error.

A parked workflow replays the steps of `reset_password` after an upgrade: their order, names and results are a format.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypedDict, cast

from reset_flow.domain import validation
from reset_flow.domain.errors import (
    ConfigurationError,
    InvalidInput,
    KeyReused,
    ResetFlowError,
    StoreUnavailable,
)
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical
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
    from dbos import DBOS, DBOSClient, SetWorkflowID, SetWorkflowTimeout, error as errors
except ImportError:
    raise ConfigurationError("workflows of DBOS need more: pip install 'reset-flow[dbos]'") from None

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import timedelta
    from types import TracebackType
    from typing import Self

    from reset_flow.domain.flow import Event, Flow
    from reset_flow.integrations.calls import LoginOf
    from reset_flow.service import ResetService

__all__ = ["DBOSListener", "ResetRefused", "Resets"]

logger = logging.getLogger("reset_flow")

WAITS = "waits "
"""Begins the attributes of the workflow that started the reset which name those that wait for its end."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two tries, doubled each time."""

THREADS = 4
"""That tell DBOS of ends, at most. They may hang with its database, so they are none of the event loop's own, by which
names are looked up."""

GIVEN_UP = (errors.DBOSAwaitedWorkflowCancelledError, errors.DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded)
"""What a workflow raises that was awaited, and ended without a result."""


class ResetRefused(ResetFlowError):
    """
    The reset can't be had, however often it is tried.

    Attributes:
        code: That of the error of the service, such as `unknown_user`, `key_reused` or `limit_reached`.
    """

    code = "reset_refused"

    def __init__(self, code: str) -> None:
        super().__init__(f"the reset is refused: {code}")
        self.code = code


class _Outcome(TypedDict, total=False):
    """
    The result of a step, as DBOS keeps it: one of these.

    Attributes:
        wait: Beside the status: seconds until it is worth asking again.

        later: Seconds until it is worth another try.

        refused: The code of an error for good.
    """

    status: ResetStatus
    wait: float
    later: float
    refused: str


class Resets:
    """
    Resets that workflows of DBOS wait for. Make it before `DBOS.launch()`, and call that in the event loop of the
    service.

    Args:
        login_of: Called in the worker with the embedder's id of a person. It raises `UnknownUser` where there is none;
            after an error that is none of this library's it is called again, later.

        name: Of these resets in DBOS. The listener needs the same.

        ask_every: How often a workflow asks by itself, should it not be told of the end.
    """

    def __init__(
        self,
        service: ResetService,
        login_of: LoginOf,
        *,
        name: str = NAME,
        ask_every: timedelta = ASK_EVERY,
    ) -> None:
        self._service = service
        self._login_of = login_of
        self._name = name
        self._ask_every = checked(ask_every)

        # DBOS derives the version of an application from the text of its workflows: leave this one as it is.
        @DBOS.workflow(name=f"{name}.start")
        async def start(user_ref: str, ref: str) -> tuple[str, ResetStatus]:
            return user_ref, await self._begun(user_ref, ref)

        self._start = start

    async def start(self, user_ref: str, ref: str) -> ResetStatus:
        """
        In a workflow: start a reset for this person, once for each `ref`, and return it as it stood then.

        Raises:
            ResetRefused: There is no such person, the `ref` is another person's, or the like.
        """
        if DBOS.workflow_id is None:
            raise InvalidInput("a reset is started in a workflow of DBOS")
        # Others may wait for the same: it has no deadline of this workflow's, and goes on if it was cancelled with one,
        # or if it was recovered more often than DBOS does by itself.
        with SetWorkflowID(_workflow_id(self._name, _checked_ref(ref))), SetWorkflowTimeout(None):
            starting = await DBOS.start_workflow_async(self._start, user_ref, ref)
        while True:
            try:
                started_for, begun = await starting.get_result()
                break
            except GIVEN_UP:
                await DBOS.resume_workflow_async(starting.workflow_id)
        if isinstance(code := begun.get("refused"), str):
            raise ResetRefused(code)
        if started_for != user_ref:
            raise ResetRefused(KeyReused.code)
        return begun

    async def reset_password(self, user_ref: str, ref: str) -> ResetStatus:
        """In a workflow: start a reset as `start` does, if that was not done, wait for its end, and return that."""
        flow_id = (await self.start(user_ref, ref))["flow_id"]
        reset, workflow = _workflow_id(self._name, ref), DBOS.workflow_id
        assert workflow, "it is in one"
        # Before it is asked whether the reset has ended: whoever tells of a later end finds this workflow.
        key = WAITS + workflow.encode().hex()  # of an id as it is, SQLite makes another one
        await DBOS.update_workflow_attributes_async(reset, {key: workflow}, merge=True)
        # What is kept here while it waits is kept ten thousand times.
        while isinstance(end := await self._end(flow_id), float):
            await DBOS.recv_async(reset, timeout_seconds=end)
        return end

    async def cancel(self, ref: str) -> ResetStatus:
        """
        Give the reset up, in a workflow or outside of one. A reset that has ended stays as it is.

        Raises:
            ResetRefused: There is none with this `ref`.
        """
        return (await _until_done(f"{self._name}.cancel", partial(self._cancel, ref)))["status"]

    async def _begun(self, user_ref: str, ref: str) -> ResetStatus:
        """Return the reset as it stands, or why it is refused: of an error, DBOS would log the traceback."""
        try:
            return (await _until_done(f"{self._name}.begin", partial(self._begin, user_ref, ref)))["status"]
        except ResetRefused as error:
            refused: _Outcome = {"refused": error.code}
        return cast("ResetStatus", refused)  # as the text of the workflow has it, which is to stay

    async def _end(self, flow_id: str) -> ResetStatus | float:
        """Return how the reset ended, or for how many seconds to wait for that."""
        asked = await _until_done(f"{self._name}.ask", partial(self._ask, flow_id))
        return asked["status"] if asked["status"]["ended"] else asked["wait"]

    # --- steps: what they return is kept

    async def _begin(self, user_ref: str, ref: str) -> _Outcome:
        async def started() -> Flow:
            login = await find_login(self._login_of, user_ref)
            return await self._service.start(login, ref=ref, patience=PATIENCE)

        return await self._outcome(started())

    async def _ask(self, flow_id: str) -> _Outcome:
        return await self._outcome(self._service.get(flow_id))

    async def _cancel(self, ref: str) -> _Outcome:
        async def cancelled() -> Flow:
            return await give_up(self._service, (await find_reset(self._service, ref)).id)

        return await self._outcome(cancelled())

    async def _outcome(self, call: Awaitable[Flow]) -> _Outcome:
        """Return what the call came to. It raises nothing: DBOS would keep the text of the error."""
        try:
            flow = await call
        except ResetFlowError as error:
            if is_final(error):
                return {"refused": error.code}
            log_retry(error)
            return {"later": error.retry_after.total_seconds() if error.retry_after else 0.0}
        except Exception as error:  # noqa: BLE001 - of a store or transport of somebody else's
            logger.warning("a reset is tried again later: %s", type(error).__name__)
            return {"later": 0.0}
        return {"status": status_of(flow), "wait": pause(flow, self._ask_every)}


async def _until_done(name: str, step: Callable[[], Coroutine[None, None, _Outcome]]) -> _Outcome:
    """Run a step until it has a status; wait in between, durably if this is in a workflow."""
    durably = DBOS.workflow_id is not None and DBOS.step_id is None
    for number in count():
        outcome: _Outcome = await DBOS.run_step_async({"name": name}, step)
        if "refused" in outcome:
            raise ResetRefused(outcome["refused"])
        if "status" in outcome:
            break
        later = max(outcome["later"], min(FIRST_PAUSE * 2.0 ** min(number, 10), LONGEST_PAUSE))
        await (DBOS.sleep_async(later) if durably else asyncio.sleep(later))
    return outcome


def _checked_ref(ref: str) -> str:
    """Return the ref; raise ResetRefused if it can't be one: an error of DBOS's own would repeat it."""
    with suppress(InvalidInput):
        return validation.name(ref, "ref")
    raise ResetRefused(InvalidInput.code)


def _workflow_id(name: str, ref: str) -> str:
    """Return the id of the workflow that starts this reset; of the form of the `ref` that the service compares."""
    return f"{name}:{canonical(ref).strip()}"


class DBOSListener:
    """
    Tells the workflows that wait for a reset of its end: a listener for services in any process, with DBOS or without.

    Args:
        system_database_url: DBOS's own, as in the workers.

        name: That of the `Resets`.

        schema: DBOS's `dbos_system_schema`.
    """

    def __init__(self, system_database_url: str | Secret, *, name: str = NAME, schema: str = "dbos") -> None:
        self._name = name
        self._threads = ThreadPoolExecutor(THREADS, "reset-flow-dbos")
        failed = False
        try:
            self._client = DBOSClient(
                system_database_url=Secret(system_database_url).reveal(),
                dbos_system_schema=schema,
                lazy=True,
                retry_connection_errors=False,
            )
        except Exception:  # noqa: BLE001 - it may repeat the address
            failed = True
        if failed:
            raise ConfigurationError("DBOS can't have a system database of this address")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __call__(self, event: Event) -> None:
        """
        Tell of an end.

        Raises:
            StoreUnavailable: DBOS's database can't be reached. The service calls again.
        """
        if not event.transition.target.ended or event.flow.ref is None:
            return
        failure = ""
        told = partial(self._tell, _workflow_id(self._name, event.flow.ref), event.id)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, told)
        except Exception as error:  # noqa: BLE001 - of a driver: it may repeat the address
            failure = type(error).__name__
        if failure:
            raise StoreUnavailable(f"DBOS can't be told of an end: {failure}")

    def _tell(self, reset: str, event_id: str) -> None:
        found = self._client.list_workflows(workflow_ids=[reset], load_input=False, load_output=False)
        marks = found[0].attributes if found else None
        for workflow in [each for key, each in (marks or {}).items() if key.startswith(WAITS)]:
            try:
                self._client.send(workflow, event_id, reset, idempotency_key=event_id, send_to_forks=True)
            except errors.DBOSNonExistentWorkflowError:
                logger.debug("workflow %s no longer waits", workflow)

    def close(self) -> None:
        """Let go of the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.destroy()

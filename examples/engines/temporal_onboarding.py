"""A Temporal workflow that waits for a reset."""

from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

with workflow.unsafe.imports_passed_through():
    from examples.engines import resets
    from reset_flow import Event
    from reset_flow.integrations.status import ResetStatus

ASK_EVERY = timedelta(minutes=5)
SHORT = timedelta(minutes=1)


async def reported(work: Awaitable[ResetStatus]) -> ResetStatus:
    try:
        return await work
    except resets.ResetFailed as error:
        raise ApplicationError(
            error.code, type=error.code, non_retryable=not error.retryable, next_retry_delay=error.retry_after
        ) from None


@activity.defn
async def start_reset(user_ref: str, ref: str) -> ResetStatus:
    return await reported(resets.start_reset(user_ref, ref))


@activity.defn
async def reset_status(ref: str) -> ResetStatus:
    return await reported(resets.reset_status(ref))


@workflow.defn
class Onboarding:
    def __init__(self) -> None:
        self._told = False

    @workflow.signal
    def reset_ended(self) -> None:
        self._told = True

    @workflow.run
    async def run(self, user_ref: str) -> str:
        ref = workflow.info().workflow_id
        status = await workflow.execute_activity(start_reset, args=[user_ref, ref], start_to_close_timeout=SHORT)
        while not status["ended"]:
            with suppress(TimeoutError):  # then ask without having been told
                await workflow.wait_condition(lambda: self._told, timeout=ASK_EVERY)
            self._told = False
            status = await workflow.execute_activity(reset_status, ref, start_to_close_timeout=SHORT)
        return status["state"]


class TellTemporal:
    """The listener `engine` of the process that has the page."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, event: Event) -> None:
        if not (event.transition.target.ended and event.flow.ref):
            return
        try:
            await self._client.get_workflow_handle(event.flow.ref).signal(Onboarding.reset_ended)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # of no workflow, or of one that is over
                raise

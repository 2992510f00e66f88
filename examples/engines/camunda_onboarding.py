"""Jobs of a process in Camunda 8 that waits for a reset, and the receiver of webhooks that wakes it."""

from contextlib import suppress
from datetime import timedelta

from aiohttp import web
from pyzeebe import Job, JobController, ZeebeClient, ZeebeTaskRouter
from pyzeebe.errors import MessageAlreadyExistsError

from examples.engines import resets
from reset_flow.integrations.status import ResetStatus
from reset_flow.integrations.webhooks import WebhookRejected, verify

TRY_AGAIN_AFTER = timedelta(seconds=30)
KEEP_FOR = timedelta(hours=1)
"""How long a message waits for a process that does not yet wait for it."""


async def report(error: Exception, _: Job, controller: JobController) -> None:
    """Have the job tried again, or throw an error that the process may catch by its code."""
    if isinstance(error, resets.ResetFailed) and not error.retryable:
        await controller.set_error_status(error.code, error_code=error.code)
        return
    code, after = getattr(error, "code", "failed"), getattr(error, "retry_after", None) or TRY_AGAIN_AFTER
    await controller.set_failure_status(code, retry_back_off_ms=int(after.total_seconds() * 1000))


router = ZeebeTaskRouter(exception_handler=report)


# The ignored errors are of pyzeebe's types: they take no async function.
@router.task("start-reset", timeout_ms=60_000, single_value=True, variable_name="reset")  # type: ignore[arg-type]
async def start_reset(user_ref: str, ref: str) -> ResetStatus:
    return await resets.start_reset(user_ref, ref)


@router.task("reset-status", timeout_ms=60_000, single_value=True, variable_name="reset")  # type: ignore[arg-type]
async def reset_status(ref: str) -> ResetStatus:
    return await resets.reset_status(ref)


def make_receiver(client: ZeebeClient, secret: str) -> web.Application:
    """Return what receives the webhooks: it sends the message that a process waits for."""

    async def told(request: web.Request) -> web.Response:
        try:
            event = verify(request.headers, await request.read(), secret)
        except WebhookRejected:
            raise web.HTTPBadRequest from None
        if event.type == "reset.ended" and event.ref:
            with suppress(MessageAlreadyExistsError):  # it was told before
                await client.publish_message(
                    "reset-ended", event.ref, message_id=event.id,
                    time_to_live_in_milliseconds=int(KEEP_FOR.total_seconds() * 1000),
                )  # fmt: skip
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/resets", told)
    return app

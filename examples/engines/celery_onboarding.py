"""Tasks of Celery around a reset. The wait is in no task: who waits, comes again."""

import asyncio
from datetime import timedelta

from celery import Celery, Task

from examples.engines import resets

app = Celery("onboarding")
ASK_EVERY = timedelta(minutes=1)


@app.task(bind=True, acks_late=True, max_retries=None)
def onboard(self: "Task[..., str]", user_ref: str, ref: str, *, started: bool = False) -> str:
    try:
        status = asyncio.run(resets.reset_status(ref) if started else resets.start_reset(user_ref, ref))
    except resets.ResetFailed as error:
        if not error.retryable:
            raise
        raise self.retry(countdown=(error.retry_after or ASK_EVERY).total_seconds()) from None
    if not status["ended"]:
        raise self.retry(kwargs={"started": True}, countdown=ASK_EVERY.total_seconds())
    return status["state"]

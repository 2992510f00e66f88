"""A deferrable operator of Airflow that waits for a reset: in a trigger, where it takes no place of a worker."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from examples.engines import resets

ASK_EVERY = timedelta(minutes=1)


class ResetEnded(BaseTrigger):
    def __init__(self, ref: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ref = ref

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "examples.engines.airflow_onboarding.ResetEnded", {"ref": self._ref}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        status = await resets.reset_status(self._ref, wait=ASK_EVERY)
        while not status["ended"]:
            status = await resets.reset_status(self._ref, wait=ASK_EVERY)
        yield TriggerEvent(status)  # type: ignore[no-untyped-call]


class ResetPassword(BaseOperator):
    template_fields = ("user_ref", "ref")

    def __init__(self, *, user_ref: str, ref: str = "{{ dag.dag_id }} {{ run_id }}", **settings: Any) -> None:
        super().__init__(**settings)
        self.user_ref, self.ref = user_ref, ref

    def execute(self, context: Context) -> None:
        try:
            asyncio.run(resets.start_reset(self.user_ref, self.ref))
        except resets.ResetFailed as error:
            if error.retryable:
                raise
            raise AirflowFailException(error.code) from None
        self.defer(trigger=ResetEnded(self.ref), method_name="ended")

    def ended(self, context: Context, event: dict[str, Any]) -> str:
        return str(event["state"])


with DAG("onboarding", schedule=None, params={"user_ref": "employee-17"}) as dag:
    ResetPassword(task_id="reset", user_ref="{{ params.user_ref }}", retries=10, retry_exponential_backoff=True)

"""Brings a flow up to date: settles intents that other workers left, ends it when its time is up."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from reset_flow.domain import rules
from reset_flow.domain.decide import Expired, decide
from reset_flow.domain.errors import FlowBusy, StaleRecord, WrongBroker
from reset_flow.domain.text import printable
from reset_flow.persistence.batches import RACES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.context import Context
    from reset_flow.engine.intents import IntentExecutor
    from reset_flow.persistence.repository import Found


T = TypeVar("T")

SHORTEST_WAIT = timedelta(milliseconds=50)


@attrs.frozen(kw_only=True)
class RecoveryResult:
    """
    What was due for one flow.

    Attributes:
        settled: Whether an intent was settled.

        expired: Whether the flow was ended because its time was up.

        delivered: How many listeners were told of its end.
    """

    settled: bool = False
    expired: bool = False
    delivered: int = 0


class Recovery:
    """Does for flows what no command does."""

    def __init__(self, context: Context, intents: IntentExecutor) -> None:
        self._context = context
        self._intents = intents

    async def settle(
        self, found: Found, key: bytes | None = None, *, ending: bool = False
    ) -> tuple[FlowData, ResetFlowError | None]:
        """
        Return the flow without an intent, and the error that its command ended in.

        Args:
            key: Of the same command, given again: it recalls the result from now on.

            ending: The flow is about to be given up: a call that only another transport could repeat is left in doubt.

        Raises:
            FlowBusy: The intent may still be under way.
            WrongBroker: Another transport must repeat its call.
        """
        flow = found.flow
        if flow.intent is None:
            return flow, None
        if self._intents.was_given_up(flow.write_id):
            return await self._intents.withdraw(flow), None
        if found.busy:
            raise FlowBusy(flow.id, flow.intent.command, found.busy).with_flow(found.view(self._context.now()))
        repeat = self._intents.repeats(flow)
        if repeat and not ending:
            self.check_broker(flow)
        return await self._intents.settle(flow, key, repeat=repeat and self._context.broker.serves(flow))

    async def expire(self, flow: FlowData) -> FlowData:
        """Return the flow, ended if its time is up."""
        if not rules.expired(flow, self._context.now()):
            return flow
        return await self._intents.keep(decide(flow, Expired(), self._context.moment()))

    async def patiently(self, work: Callable[[], Coroutine[Any, Any, T]], patience: timedelta) -> T:
        """Return the result of the work; while its flow is busy with another call, wait for the end of that."""
        if not patience:
            return await work()
        give_up_at = time.monotonic() + patience.total_seconds()
        while True:
            try:
                return await work()
            except FlowBusy as error:
                left = give_up_at - time.monotonic()
                if left <= 0 or error.flow is None:
                    raise
                pause = min(timedelta(seconds=left), max(error.retry_after, SHORTEST_WAIT))
                await self._context.repository.changed(error.flow.id, error.flow.version, pause)

    async def resume(self, flow_id: str) -> FlowData:
        """Load a flow with nothing left open that can be settled now."""
        for _ in range(RACES):
            try:
                flow, _ = await self.settle(await self._context.repository.load(flow_id))
                return await self.expire(flow)
            except StaleRecord as error:
                stale = error
        raise stale

    async def look(self, flow_id: str, holder: bytes | None = None) -> Flow:
        """Return a flow as it stands, ended if its time is up and no call of it can be under way."""
        found = await self._context.repository.load(flow_id)
        if holder:
            rules.check_holder(found.flow, "get", holder)
        if rules.expired(found.flow, self._context.now()) and not found.busy:
            return rules.view(await self.resume(flow_id))
        return found.view(self._context.now())

    async def tend(self, found: Found, paused_before: float) -> RecoveryResult:
        """Do for a flow what is due, but wait for no listener that is slow. Raises like a command."""
        flow, _ = await self.settle(found)
        ended = await self.expire(flow)
        delivered = await self._context.notifications.deliver_end(found.flow, paused_before)
        return RecoveryResult(settled=found.flow.intent is not None, expired=ended is not flow, delivered=delivered)

    def check_broker(self, flow: FlowData) -> None:
        """Raise WrongBroker if the flow belongs to another transport."""
        if not self._context.broker.serves(flow):
            bound_to, name = printable(flow.transport), printable(self._context.broker.name)
            message = (
                f"flow {flow.id} was started with {bound_to!r}, and this is {name!r}: if both are one broker, give its "
                "old name to the transport as one of its aliases (RESET_FLOW_BROKER_ALIASES); else go on with the "
                "transport that it was started with, or cancel it"
            )
            raise WrongBroker(message).with_flow(rules.view(flow))

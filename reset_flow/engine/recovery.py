"""Brings a flow up to date: settles intents that other workers left, ends it when its time is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from reset_flow.domain import rules
from reset_flow.domain.decide import Expired, decide
from reset_flow.domain.errors import FlowBusy, StaleRecord, WrongBroker

if TYPE_CHECKING:
    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.context import Context
    from reset_flow.engine.intents import IntentExecutor
    from reset_flow.persistence.repository import Found

__all__ = ["RACES", "Recovery", "RecoveryResult"]

RACES = 5
"""How often a save that lost a race is tried again with the winner's flow."""


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

    async def settle(self, found: Found, key: bytes | None = None) -> tuple[FlowData, ResetFlowError | None]:
        """
        Return the flow without an intent, and the error that its command ended in.

        Args:
            key: Of the same command, given again: it recalls the result from now on.

        Raises:
            FlowBusy: The intent may still be under way.
            WrongBroker: Another transport must settle it.
        """
        flow = found.flow
        if flow.intent is None:
            return flow, None
        self.check_broker(flow)
        if self._intents.was_given_up(flow.write_id):
            return await self._intents.withdraw(flow), None
        if found.busy:
            raise FlowBusy(flow.id, flow.intent.command, found.busy).with_flow(rules.view(flow))
        return await self._intents.settle(flow, key)

    async def expire(self, flow: FlowData) -> FlowData:
        """Return the flow, ended if its time is up."""
        if not rules.expired(flow, self._context.now()):
            return flow
        return await self._intents.keep(decide(flow, Expired(), self._context.moment()))

    async def resume(self, flow_id: str) -> FlowData:
        """Load a flow with nothing left open that can be settled now."""
        for _ in range(RACES):
            try:
                flow, _ = await self.settle(await self._context.repository.load(flow_id))
                return await self.expire(flow)
            except StaleRecord as error:
                stale = error
        raise stale

    async def look(self, flow_id: str) -> Flow:
        """Return a flow as it stands, ended if its time is up and no call of it can be under way."""
        found = await self._context.repository.load(flow_id)
        if rules.expired(found.flow, self._context.now()) and not found.busy:
            return rules.view(await self.resume(flow_id))
        return rules.view(found.flow)

    async def tend(self, found: Found, paused_before: float) -> RecoveryResult:
        """Do for a flow what is due, but wait for no listener that is slow. Raises like a command."""
        flow, _ = await self.settle(found)
        ended = await self.expire(flow)
        delivered = 0
        if self._context.notifications.owes(found.flow, paused_before):
            delivered = await self._context.notifications.deliver_end(ended, paused_before)
        return RecoveryResult(settled=found.flow.intent is not None, expired=ended is not flow, delivered=delivered)

    def check_broker(self, flow: FlowData) -> None:
        """Raise WrongBroker if the flow belongs to another transport."""
        name = self._context.broker.name
        if flow.transport != name:
            message = f"flow {flow.id} belongs to {flow.transport}, not to {name}"
            raise WrongBroker(message).with_flow(rules.view(flow))

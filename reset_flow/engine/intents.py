"""Saves an intent, makes its call, and saves and publishes what is decided of the outcome."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from reset_flow.deadlines import uptime
from reset_flow.domain import rules
from reset_flow.domain.decide import Concluded, Decision, Event, Repeated, decide
from reset_flow.domain.errors import (
    FlowNotFound,
    LimitReached,
    OutcomeInDoubt,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.domain.flow_data import BudgetName
from reset_flow.domain.outcomes import NotActed, Outcome, Unknown
from reset_flow.domain.times import NO_TIME
from reset_flow.engine.background_tasks import Backoff
from reset_flow.ports import Use, UseName

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow, NewCredential
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.context import Context

logger = logging.getLogger("reset_flow")

MOST_GIVEN_UP = 10_000
"""How many intents that were not sent are remembered: an outage makes one of each command."""


class IntentExecutor:
    """
    Carries out what was decided: intent, call, outcome.

    All of it runs in background tasks, so cancelling the caller cannot lose an outcome.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        # Write ids of intents that were not sent, though the store may have them, or may yet take them; oldest first.
        self._given_up: dict[bytes, None] = {}

    async def send(self, intended: Decision, new: NewCredential | None = None) -> Flow:
        """
        Save an intent, make its call and return the flow after it.

        Raises:
            StaleRecord: The flow has moved since it was loaded; nothing was sent.
            LimitReached: A budget is full; nothing was sent.
            ResetFlowError: As decided of the outcome; the flow is attached.
        """
        return await self._context.tasks.run(self._send(intended, new))

    async def keep(self, decision: Decision) -> FlowData:
        """Save and publish a decision that needs no call."""
        return await self._context.tasks.run(self._keep(decision))

    async def withdraw(self, flow: FlowData) -> FlowData:
        """Take back an intent that this worker has given up."""
        withdrawn, _ = await self._context.tasks.run(self._conclude(flow, NotActed()))
        return withdrawn

    def repeats(self, flow: FlowData) -> bool:
        """Return whether an intent whose worker is gone is settled by making its call once more."""
        assert flow.intent is not None
        if rules.expired(flow, self._context.now()) or flow.intent.secret is None:
            return False
        return rules.repeatable(flow.intent)

    async def settle(
        self, flow: FlowData, key: bytes | None = None, *, repeat: bool
    ) -> tuple[FlowData, ResetFlowError | None]:
        """Find out, or say in doubt, what became of an intent whose worker is gone. Return the error, if one is due."""
        if repeat:
            return await self._context.tasks.run(self._repeat(flow, None, key))
        gone = Unknown(detail="the process that sent it is gone")
        return await self._context.tasks.run(self._conclude(flow, gone, key))

    def was_given_up(self, write_id: bytes) -> bool:
        """Return whether this worker gave up the intent of this save before it sent anything."""
        return write_id in self._given_up

    # --- saving

    async def _keep(self, decision: Decision) -> FlowData:
        saved = await self._save(decision)
        self._context.notifications.publish(decision, saved)
        return saved

    async def _save(self, decision: Decision, *, must: bool = False) -> FlowData:
        """
        Save a decision, without its optional use where that finds no room.

        Args:
            must: The decision must not be lost: try again until the store takes it, or the service has closed.
        """
        record = self._context.repository.record(decision.flow, decision.write_id)
        backoff: Backoff | None = None
        while True:
            try:
                await self._context.repository.save(record, *self._uses(decision))
            except LimitReached as error:
                if decision.optional is None:
                    raise _limit_of(error) from None
                decision = decision.without_optional()
                record = self._context.repository.record(decision.flow, decision.write_id)
            except StoreUnavailable:
                if not must:
                    raise
                logger.warning("flow %s: the store does not take an outcome, trying again", record.id)
                backoff = backoff or Backoff()
                await backoff.pause()
            except StaleRecord:
                # An earlier try may have got through without a word, and others may have gone on from there.
                if backoff is None or not await self._is_history(decision, backoff):
                    raise
                break
            else:
                break
        return replace(decision.flow, version=record.version, write_id=record.write_id)

    async def _is_history(self, decision: Decision, backoff: Backoff) -> bool:
        """Return whether the stored flow has taken the transitions of a decision."""
        moves = decision.flow.moves
        while True:
            with suppress(StoreUnavailable):
                try:
                    stored = (await self._context.repository.load(decision.flow.id)).flow
                except (FlowNotFound, RecordUnreadable):
                    return False
                return bool(decision.moves) and stored.moves[: len(moves)] == moves
            await backoff.pause()

    def _uses(self, decision: Decision) -> tuple[list[Use], list[UseName]]:
        flow = decision.flow
        left = max(flow.latest_end - self._context.now(), NO_TIME)
        left = min(left, flow.limits.flow_lifetime)  # no more, where the clock is wrong
        added = decision.add if decision.optional is None else (*decision.add, decision.optional)
        add = []
        for use in added:
            for name, key in flow.budget_keys(use):
                budget = self._context.policy.budget(name)
                # A guess may be typed until the flow must have ended: its window begins then.
                window = budget.window + (NO_TIME if use.budget is BudgetName.STARTS_PER_USER else left)
                add.append(Use(key=key, id=use.id, limit=budget.limit, window=window))
        return add, [UseName(key, use.id) for use in decision.drop for _, key in flow.budget_keys(use)]

    def _decide(self, flow: FlowData, event: Event) -> Decision:
        return decide(flow, event, self._context.moment())

    # --- sending

    async def _send(self, intended: Decision, new: NewCredential | None) -> Flow:
        began = uptime()
        flow = await self._announce(intended)
        error: ResetFlowError | None
        try:
            flow, error = await self._carry_out(flow, new, began)
        except StaleRecord:
            # Not to be tried again: it was sent. Another worker took this one for dead and settled its intent.
            error = OutcomeInDoubt("another worker has settled this call meanwhile: look at the flow again")
            with suppress(StoreUnavailable, FlowNotFound, RecordUnreadable):
                flow = (await self._context.repository.load(flow.id)).flow
        if error:
            raise error.with_flow(rules.view(flow))
        return rules.view(flow)

    async def _announce(self, intended: Decision) -> FlowData:
        """Save an intent. Where that fails, it may be stored all the same: take it back, as nothing was sent."""
        try:
            return await self._save(intended)
        except StoreUnavailable:
            if not self._context.tasks.closed:
                self._give_up(intended.write_id)
                self._context.tasks.spawn(self._withdraw(intended.flow.id, intended.write_id))
            raise

    def _give_up(self, write_id: bytes) -> None:
        self._given_up[write_id] = None
        if len(self._given_up) > MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    async def _withdraw(self, flow_id: str, write_id: bytes) -> None:
        """Take an intent back at once, for the person to go on. One that the store takes later is left to a sweep."""
        backoff = Backoff()
        with suppress(FlowNotFound, StaleRecord):
            while True:
                with suppress(StoreUnavailable):
                    found = await self._context.repository.load(flow_id)
                    if found.flow.write_id == write_id:
                        await self._conclude(found.flow, NotActed())
                    return
                await backoff.pause()

    async def _carry_out(
        self, flow: FlowData, new: NewCredential | None, began: float, key: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        """Make the call of an intent that is saved, once more if its outcome is unknown, and save the outcome."""
        outcome = await self._context.broker.send(flow, new, began)
        assert flow.intent is not None
        if isinstance(outcome, Unknown) and rules.repeatable(flow.intent):
            return await self._repeat(flow, new, key, outcome.continuation)
        return await self._conclude(flow, outcome, key)

    async def _repeat(
        self, flow: FlowData, new: NewCredential | None, key: bytes | None, continuation: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        """Send once more. Each sending is an intent of its own, with a lease of its own."""
        began = uptime()
        flow = await self._save(self._decide(flow, Repeated(continuation)), must=True)
        return await self._carry_out(flow, new, began, key)

    async def _conclude(
        self, flow: FlowData, outcome: Outcome, key: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        decision = self._decide(flow, Concluded(outcome, key))
        saved = await self._save(decision, must=True)
        alarm = decision.right_guess is not None and self._context.alarm.count(right=decision.right_guess)
        self._context.notifications.publish(decision, saved, alarm=alarm)
        return saved, decision.error


def _limit_of(error: LimitReached) -> LimitReached:
    """Return a store's refusal with the name of the limit, by the letter that each key of ours ends with."""
    letters = {key[-1:].decode("latin-1") for key in error.keys}
    names = [budget.field for budget in BudgetName if budget.value in letters]
    return LimitReached(names[0] if names else "uses", error.retry_after, keys=error.keys)

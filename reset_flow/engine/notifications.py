"""Publishes saved decisions: to the audit log, the tracer and the listeners."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from reset_flow.domain import rules
from reset_flow.domain.decide import Delivered, Moment, decide
from reset_flow.domain.errors import StaleRecord, StoreUnavailable
from reset_flow.domain.flow import Event
from reset_flow.engine.background_tasks import attempt
from reset_flow.persistence.repository import new_write_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from reset_flow.domain.decide import Decision
    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.background_tasks import BackgroundTasks
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.repository import FlowRepository
    from reset_flow.ports import Listener

logger = logging.getLogger("reset_flow")
audit = logging.getLogger("reset_flow.audit")

PATIENCE = timedelta(seconds=10)
"""How long one listener may take for one event."""


class Notifications:
    """Tells the world about the flows of one service."""

    def __init__(
        self,
        listeners: Mapping[str, Listener],
        repository: FlowRepository,
        tasks: BackgroundTasks,
        tracer: SafeTracer,
        name_worker: Callable[[], str],
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._listeners = dict(listeners)
        self.names = tuple(sorted(self._listeners))
        self._repository = repository
        self._tasks = tasks
        self._tracer = tracer
        self._name_worker = name_worker
        self._now = now

    def publish(self, decision: Decision, saved: FlowData, *, alarm: bool = False) -> None:
        """Publish the transitions of a decision that is saved. Listeners are told in the background."""
        worker = self._name_worker()
        for move in decision.moves:
            why = f" ({move.reason})" if move.reason else ""
            audit.info("flow %s: %s%s to %s (%s)", saved.id, move.edge.trigger, why, move.edge.target, worker)
            self._tracer.count("transition", trigger=move.edge.trigger)
        for trigger in decision.doubts:
            self._tracer.count("doubt", trigger=trigger)
        if self._listeners and decision.moves and not self._tasks.closed:
            since = len(saved.moves) - len(decision.moves)
            self._tasks.spawn(self._deliver(saved, since, saved.listeners, alarm=alarm))

    async def deliver_end(self, flow: FlowData) -> int:
        """Tell the end to the listeners that were not told yet. Return how many were told."""
        return await self._deliver(flow, len(flow.moves) - 1, flow.undelivered)

    async def _deliver(self, flow: FlowData, since: int, names: tuple[str, ...], *, alarm: bool = False) -> int:
        """Tell listeners every transition from this index on. Note in the flow who was told of its end."""
        view = rules.view(flow)
        present = [name for name in names if name in self._listeners]
        results = await asyncio.gather(*(self._tell(name, view, since, alarm=alarm) for name in present))
        told = frozenset(name for name, delivered in zip(present, results, strict=True) if delivered)
        if told & set(flow.undelivered):
            noted = decide(flow, Delivered(told), Moment(self._now(), self._name_worker(), new_write_id()))
            # An end that is not noted is told again, for which listeners are prepared.
            with suppress(StaleRecord, StoreUnavailable):
                await self._repository.save(self._repository.record(noted.flow, noted.write_id))
        return len(told)

    async def _tell(self, name: str, flow: Flow, since: int, *, alarm: bool) -> bool:
        """Tell one listener. Return whether it took the last event: one that fails or is slow misses an event."""
        delivered = False
        for index, transition in enumerate(flow.history[since:], since):
            event = Event(id=f"{flow.id}.{index}", flow=flow, transition=transition, alarm=alarm and index == since)
            _, failure = await attempt(partial(self._listeners[name], event), PATIENCE.total_seconds())
            delivered = not failure
            if failure:
                logger.warning("listener %s missed event %s: %s", name, event.id, failure)
        return delivered

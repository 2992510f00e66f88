"""Tells listeners what flows durably did."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from reset_flow.domain import rules
from reset_flow.domain.errors import StaleRecord, StoreUnavailable
from reset_flow.domain.flow import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.domain.policy import Policy
    from reset_flow.engine.background_tasks import OwnTasks
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.repository import FlowRepository
    from reset_flow.ports import Listener

__all__ = ["Announcer", "Chronicle"]

logger = logging.getLogger("reset_flow")
audit = logging.getLogger("reset_flow.audit")

PATIENCE = timedelta(seconds=10)
"""How long one listener may take for one event."""


class Announcer:
    """The listeners of one service, by name."""

    def __init__(self, listeners: Mapping[str, Listener], patience: timedelta = PATIENCE) -> None:
        self._listeners = dict(listeners)
        self.names = tuple(sorted(self._listeners))
        self._patience = patience.total_seconds()

    async def tell(self, flow: Flow, since: int, names: Iterable[str], *, alarm: bool = False) -> set[str]:
        """
        Tell those of the names that are here what came after that many transitions, in order. -> who heard the last

        A listener that raises or takes too long misses that event, and delays or disturbs no other.

        Args:
            alarm: Whether the guess alarm went on by the first of these.
        """
        present = [name for name in names if name in self._listeners]
        heard = await asyncio.gather(*(self._tell(name, flow, since, alarm) for name in present))
        return {name for name, last in zip(present, heard, strict=True) if last}

    async def _tell(self, name: str, flow: Flow, since: int, alarm: bool) -> bool:  # noqa: FBT001 - of `tell`
        heard = False
        for index, transition in enumerate(flow.history[since:], since):
            event = Event(id=f"{flow.id}.{index}", flow=flow, transition=transition, alarm=alarm and index == since)
            heard = False
            try:
                async with asyncio.timeout(self._patience):
                    await self._listeners[name](event)
                heard = True
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                logger.warning("listener %s missed event %s: it was cancelled", name, event.id)
            except Exception as error:  # noqa: BLE001 - a listener of the embedder's may raise anything
                logger.warning("listener %s missed event %s: %s", name, event.id, type(error).__name__)
        return heard


class Chronicle:
    """Tells of the flows of one service."""

    def __init__(
        self,
        announcer: Announcer,
        repository: FlowRepository,
        tracer: SafeTracer,
        tasks: OwnTasks,
        *,
        policy: Policy,
        worker: str,
    ) -> None:
        self._announcer = announcer
        self._repository = repository
        self._tracer = tracer
        self._tasks = tasks
        self._policy = policy
        self._worker = worker

    def write(self, saved: FlowData, since: int, *, alarm: bool = False) -> None:
        """Tell what came after that many transitions; listeners hear it a little later."""
        for move in saved.moves[since:]:
            audit.info("flow %s: %s to %s (%s)", saved.id, move.trigger, move.target, self._worker)
            self._tracer.count("transition", trigger=move.trigger)
            if move.trigger.endswith("in_doubt") or move.trigger == "code_spent":
                self._tracer.count("doubt", trigger=move.trigger)
        if self._announcer.names and len(saved.moves) > since and not self._tasks.closed:
            self._tasks.spawn(self.tell(saved, since, saved.listeners, alarm=alarm))

    async def tell(self, data: FlowData, since: int, names: Sequence[str], *, alarm: bool = False) -> int:
        """Tell these listeners what came after that many; of an end, note who has heard it. -> how many have"""
        flow = rules.view(data, self._policy)
        heard = await self._announcer.tell(flow, since, names, alarm=alarm)
        told = rules.heard(data, heard)
        if told.owed != data.owed:
            # Not noted is told again, which listeners are prepared for.
            with suppress(StaleRecord, StoreUnavailable):
                await self._repository.save(self._repository.record(told))
        return len(heard)

"""What becomes known of a flow's transitions once they are saved: to the audit log, the tracer and the listeners."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from reset_flow import rules
from reset_flow.errors import StaleRecord, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.announcer import Announcer
    from reset_flow.archive import Archive
    from reset_flow.dossier import Dossier
    from reset_flow.policy import Policy
    from reset_flow.tasks import OwnTasks
    from reset_flow.tracing import SafeTracer

__all__ = ["Chronicle"]

audit = logging.getLogger("reset_flow.audit")


class Chronicle:
    """Tells of the flows of one service."""

    def __init__(
        self,
        announcer: Announcer,
        archive: Archive,
        tracer: SafeTracer,
        tasks: OwnTasks,
        *,
        policy: Policy,
        worker: str,
    ) -> None:
        self._announcer = announcer
        self._archive = archive
        self._tracer = tracer
        self._tasks = tasks
        self._policy = policy
        self._worker = worker

    def write(self, saved: Dossier, since: int, *, alarm: bool = False) -> None:
        """Tell what came after that many transitions; listeners hear it a little later."""
        for move in saved.moves[since:]:
            audit.info("flow %s: %s to %s (%s)", saved.id, move.trigger, move.target, self._worker)
            self._tracer.count("transition", trigger=move.trigger)
            if move.trigger.endswith("in_doubt") or move.trigger == "code_spent":
                self._tracer.count("doubt", trigger=move.trigger)
        if self._announcer.names and len(saved.moves) > since and not self._tasks.closed:
            self._tasks.spawn(self.tell(saved, since, saved.listeners, alarm=alarm))

    async def tell(self, dossier: Dossier, since: int, names: Sequence[str], *, alarm: bool = False) -> int:
        """Tell these listeners what came after that many; of an end, note who has heard it. -> how many have"""
        flow = rules.view(dossier, self._policy)
        heard = await self._announcer.tell(flow, since, names, alarm=alarm)
        told = rules.heard(dossier, heard)
        if told.owed != dossier.owed:
            # Not noted is told again, which listeners are prepared for.
            with suppress(StaleRecord, StoreUnavailable):
                await self._archive.save(self._archive.record(told))
        return len(heard)

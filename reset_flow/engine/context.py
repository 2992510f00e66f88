"""What the parts of one service share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from reset_flow.domain.decide import Moment
from reset_flow.persistence.repository import new_write_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.domain.policy import Policy
    from reset_flow.engine.background_tasks import BackgroundTasks
    from reset_flow.engine.broker_client import BrokerClient
    from reset_flow.engine.guess_alarm import GuessMonitor
    from reset_flow.engine.notifications import Notifications
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.persistence.repository import FlowRepository
    from reset_flow.ports import Guard

__all__ = ["Context"]


@attrs.frozen(kw_only=True)
class Context:
    """
    What the parts of one service share.

    Attributes:
        worker: The name of this process in histories.

        now: The clock that lifetimes and cooldowns are judged by, UTC. Leases and budgets go by the store's.
    """

    policy: Policy
    realm: str
    worker: str
    now: Callable[[], datetime]
    guards: tuple[Guard, ...]
    keyring: Keyring
    repository: FlowRepository
    broker: BrokerClient
    alarm: GuessMonitor
    notifications: Notifications
    tasks: BackgroundTasks
    tracer: SafeTracer

    def moment(self) -> Moment:
        """Return this moment, with a write id for the decision that is made in it."""
        return Moment(self.now(), self.worker, new_write_id())

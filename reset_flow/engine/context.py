"""What the parts of one service share."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.decide import Moment
from reset_flow.domain.errors import ConfigurationError
from reset_flow.persistence.repository import new_write_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.domain.policy import Policy
    from reset_flow.engine.background_tasks import BackgroundTasks
    from reset_flow.engine.broker_client import BrokerClient
    from reset_flow.engine.guess_alarm import GuessMonitor
    from reset_flow.engine.notifications import Notifications
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.persistence.repository import FlowRepository
    from reset_flow.ports import Clock, Guard

__all__ = ["Context", "in_utc", "system_clock", "this_process"]


def system_clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def in_utc(clock: Clock) -> Clock:
    """Convert the times of a clock to plain ones in UTC; reject naive ones."""
    if clock is system_clock:
        return clock

    def now() -> datetime:
        time: Any = clock()
        if not isinstance(time, datetime) or time.tzinfo is None:
            raise ConfigurationError("the clock must give times with a zone, like datetime.now(UTC)")
        utc = time.astimezone(UTC)  # of a subclass, still one of that
        return datetime.combine(utc.date(), utc.time(), UTC)

    return now


def this_process() -> str:
    """Name this process in histories and in the audit log."""
    host = socket.gethostname().encode("utf-8", "replace").decode()
    return f"{host}:{os.getpid()}"


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

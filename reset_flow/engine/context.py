"""What the parts of one service share."""

from __future__ import annotations

import logging
import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.deadlines import uptime
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
    from reset_flow.ports import Clock, CommandRequest, Guard

logger = logging.getLogger("reset_flow")


def system_clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def in_utc(clock: Clock) -> Clock:
    """
    Convert the times of a clock to plain ones in UTC. The first must be aware; a clock that fails later goes on from
    its last time, as it may fail when a call was made whose outcome must be saved.
    """
    if clock is system_clock:
        return clock

    last: tuple[datetime, float] | None = None

    def now() -> datetime:
        nonlocal last
        try:
            given: Any = clock()
            if isinstance(given, datetime) and given.tzinfo is not None:
                utc = given.astimezone(UTC)  # of a subclass, still one of that
                last = datetime.combine(utc.date(), utc.time(), UTC), uptime()
                return last[0]
            failure = f"it gave {given!r:.40}"
        except Exception as error:  # noqa: BLE001 - a clock of the embedder's may raise anything
            failure = type(error).__name__
        if last is None:
            raise ConfigurationError(f"the clock must give times with a zone, like datetime.now(UTC); {failure}")
        logger.error("the clock failed and is taken to have gone on: %s", failure)
        return last[0] + timedelta(seconds=uptime() - last[1])

    return now


def worker_names(given: str | None = None) -> Callable[[], str]:
    """
    Return what names this process in histories and in the audit log: as given, or host and process id. A process that
    is forked later has a name of its own: the given one, too, gets its id.
    """
    host = socket.gethostname().encode("utf-8", "replace").decode()
    names = {os.getpid(): given or f"{host}:{os.getpid()}"}

    def name() -> str:
        pid = os.getpid()
        return names.get(pid) or names.setdefault(pid, f"{given or host}:{pid}")

    return name


def moments(now: Callable[[], datetime], name_worker: Callable[[], str]) -> Callable[[], Moment]:
    """Return what tells this moment, with a write id for the decision that is made in it."""
    return lambda: Moment(now(), name_worker(), new_write_id())


@attrs.frozen(kw_only=True)
class Context:
    """What the parts of one service share."""

    policy: Policy
    realm: str
    name_worker: Callable[[], str]
    moment: Callable[[], Moment]
    now: Callable[[], datetime]  # for lifetimes and cooldowns, UTC; leases and budgets go by the store's clock
    guards: tuple[Guard, ...]
    keyring: Keyring
    repository: FlowRepository
    broker: BrokerClient
    alarm: GuessMonitor
    notifications: Notifications
    tasks: BackgroundTasks
    tracer: SafeTracer

    @property
    def worker(self) -> str:
        """The name of this process."""
        return self.name_worker()

    async def ask_guards(self, request: CommandRequest) -> None:
        """Return if no guard stops the command."""
        for guard in self.guards:
            await guard(request)

"""Publishes saved decisions: to the audit log, the tracer and the listeners."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from reset_flow.deadlines import Deadlines
from reset_flow.domain import rules
from reset_flow.domain.decide import Delivered, decide
from reset_flow.domain.errors import ResetFlowError, StaleRecord
from reset_flow.domain.flow import Event
from reset_flow.engine.background_tasks import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from reset_flow.domain.decide import Decision, Moment
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

SOON = timedelta(seconds=1)
"""How long what others do waits for a listener at most."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds for which a listener is told no late ends after it failed or was slow; doubled each time."""

LONGEST_RETRY = timedelta(hours=1)
"""How long an end that a listener missed waits at most before it is told again."""

PUT_OFF_AT_MOST = 100_000
"""Ends that this process alone puts off. Of more, the first are told again sooner."""


class Notifications:
    """Tells the world about the flows of one service."""

    def __init__(
        self,
        listeners: Mapping[str, Listener | None],
        repository: FlowRepository,
        tasks: BackgroundTasks,
        tracer: SafeTracer,
        moment: Callable[[], Moment],
        *,
        retention: timedelta,
    ) -> None:
        self._listeners = {name: each for name, each in listeners.items() if each is not None}
        self.names = tuple(sorted(listeners))
        self.listening = bool(self._listeners)
        self._telling: dict[str, asyncio.Task[None]] = {}  # by the flow, of those whose end is being told
        self._pauses: dict[str, _Pause] = {}
        self._put_off: dict[str, float] = {}  # by the flow, of those whose end this process alone puts off
        self._deadlines = Deadlines()
        self._repository = repository
        self._tasks = tasks
        self._tracer = tracer
        self._moment = moment
        self._retention = retention

    def publish(self, decision: Decision, saved: FlowData, *, alarm: bool = False) -> None:
        """Publish the transitions of a decision that is saved. Listeners are told in the background."""
        for move in decision.moves:
            why = f" ({move.reason})" if move.reason else ""
            worker = saved.workers[move.worker]
            audit.info("flow %s: %s%s to %s (%s)", saved.id, move.edge.trigger, why, move.edge.target, worker)
            self._tracer.count("transition", trigger=move.edge.trigger)
        for trigger in decision.doubts:
            self._tracer.count("doubt", trigger=trigger)
        if self._listeners and decision.moves and not self._tasks.closed:
            since = len(saved.moves) - len(decision.moves)
            self._begin(saved, self._deliver(saved, since, saved.listeners, alarm=alarm))

    def _begin(self, flow: FlowData, delivery: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.spawn(delivery)
        if flow.ended_at is not None:
            self._telling[flow.id] = task
            task.add_done_callback(lambda _: self._telling.pop(flow.id, None))
        return task

    def owes(self, flow: FlowData, paused_before: float = -math.inf) -> bool:
        """Return whether a listener is to be told the end now; pauses that began before that time do not count."""
        put_off = self._put_off.get(flow.id, -math.inf) > time.monotonic()
        if self._tasks.closed or put_off or not self._owed(flow, paused_before):
            return False
        telling = self._telling.get(flow.id)
        return telling is None or telling.get_loop().is_closed()  # with its loop, a task may be left for good

    def _owed(self, flow: FlowData, paused_before: float) -> tuple[str, ...]:
        now = time.monotonic()

        def is_paused(name: str) -> bool:
            pause = self._pauses.get(name)
            return pause is not None and pause.began >= paused_before and now < pause.began + pause.length

        return tuple(name for name in flow.undelivered if name in self._listeners and not is_paused(name))

    async def deliver_end(self, flow: FlowData, paused_before: float = -math.inf) -> int:
        """Tell the end to the listeners that are owed it now. Return how many were told soon; the others go on."""
        if not self.owes(flow, paused_before):
            return 0
        soon: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        delivery = self._deliver(flow, len(flow.moves) - 1, self._owed(flow, paused_before), soon=soon)
        task = self._begin(flow, delivery)
        await asyncio.wait((task, soon), return_when=asyncio.FIRST_COMPLETED)
        return soon.result() if soon.done() else 0

    async def _deliver(
        self,
        flow: FlowData,
        since: int,
        names: tuple[str, ...],
        *,
        alarm: bool = False,
        soon: asyncio.Future[int] | None = None,
    ) -> None:
        """Tell listeners every transition from this index on. Note in the flow who was told of its end."""
        view = rules.view(flow)
        telling = {
            asyncio.create_task(self._tell(name, view, since, alarm=alarm)): name
            for name in names
            if name in self._listeners
        }
        waiting, missed = set(telling), False
        timeout: float | None = SOON.total_seconds()
        try:
            while waiting:  # twice: who is slow must not keep it from being noted that others were told
                done, waiting = await asyncio.wait(waiting, timeout=timeout)
                for task in waiting:
                    self._pause(telling[task])
                told = frozenset(telling[task] for task in done if task.result())
                missed = missed or len(told) < len(done)
                # Missed for the first time, it is due again after its lease; from then on, this puts it off.
                flow = await self._note(flow, told, later=missed and soon is not None and not waiting)
                if soon and not soon.done():
                    soon.set_result(len(told))
                timeout = None
        finally:
            for task in waiting:
                task.cancel()

    async def _note(self, flow: FlowData, told: frozenset[str], *, later: bool) -> FlowData:
        """
        Note in the flow who was told of its end.

        Args:
            later: Whether it is put off for the others: no end that is refused again and again may keep those behind it
                from being told. It waits for a part of the time that has passed since the end. If other processes have
                some of the others, only this process puts it off.
        """
        if flow.ended_at is None or not (later or told & set(flow.undelivered)):
            return flow
        moment = self._moment()
        part = random.uniform(0.25, 0.5)  # noqa: S311 - jitter
        wait = min((moment.at - flow.ended_at) * part, LONGEST_RETRY)
        # By a clock that ran ahead, it would be purged before it is told.
        later = later and moment.at + wait < flow.ended_at + self._retention
        is_ours = self._listeners.keys() >= set(flow.undelivered)
        self._put_off.pop(flow.id, None)
        if later and not is_ours:
            self._put_off[flow.id] = time.monotonic() + wait.total_seconds()
            if len(self._put_off) > PUT_OFF_AT_MOST:
                del self._put_off[next(iter(self._put_off))]
        not_before = moment.at + wait if later and is_ours else None
        if not_before is None and not told:
            return flow
        noted = decide(flow, Delivered(told), moment)
        record = self._repository.record(noted.flow, noted.write_id, not_before=not_before)
        # An end that is not noted is told again, for which listeners are prepared.
        with suppress(ResetFlowError):
            try:
                await self._repository.save(record)
            except StaleRecord:  # another process has noted whom it told
                found = await self._repository.load(flow.id)
                return await self._note(found.flow, told, later=later)
            return replace(noted.flow, version=record.version, write_id=record.write_id)
        return flow

    def _pause(self, name: str) -> None:
        now, last = time.monotonic(), self._pauses.get(name)
        if last is None:
            self._pauses[name] = _Pause(now, FIRST_PAUSE)
        elif now >= last.began + last.length:
            self._pauses[name] = _Pause(now, min(2 * last.length, LONGEST_PAUSE))

    async def _tell(self, name: str, flow: Flow, since: int, *, alarm: bool) -> bool:
        """Tell one listener. Return whether it took the last event: one that fails or is slow misses an event."""
        delivered = False
        for index, transition in enumerate(flow.history[since:], since):
            event = Event(id=f"{flow.id}.{index}", flow=flow, transition=transition, alarm=alarm and index == since)
            deadline = self._deadlines.within(PATIENCE.total_seconds())
            _, failure = await attempt(partial(self._listeners[name], event), deadline)
            delivered = not failure
            if failure:
                logger.warning("listener %s missed event %s: %s", name, event.id, failure)
        if delivered:
            self._pauses.pop(name, None)
        else:
            self._pause(name)
        return delivered


class _Pause(NamedTuple):
    began: float
    length: float

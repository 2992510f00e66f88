"""Does what no command does: ends expired flows, settles intents of dead workers, tells listeners, purges."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from reset_flow.deadlines import uptime
from reset_flow.domain.errors import FlowNotFound, RecordUnreadable, ResetFlowError, StoreUnavailable
from reset_flow.engine.recovery import RecoveryResult
from reset_flow.persistence.batches import purge
from reset_flow.persistence.side_records import side_realm

if TYPE_CHECKING:
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.context import Context
    from reset_flow.engine.recovery import Recovery
    from reset_flow.persistence.repository import Found
    from reset_flow.ports import Store

logger = logging.getLogger("reset_flow")

INTERVAL = timedelta(seconds=15)
LATE_INTERVAL = timedelta(seconds=0.5)
"""Between two looks for ends that others brought about, where there are listeners."""
LATE_AT_MOST = 256
AT_ONCE = 16
"""Flows that are tended side by side."""
DUE_AT_MOST = 100_000
PURGED_AT_MOST = 100_000
JUMP = timedelta(minutes=5)
"""By how much a clock may run ahead of the time that has really passed before a purge goes by the latter."""


@attrs.frozen(kw_only=True)
class SweepReport:
    """
    The result of one sweep.

    Attributes:
        settled: Flows whose intent was left by a worker that is gone.

        expired: Flows whose time was up.

        delivered: Ends that a listener was told of late.

        purged: Flows that were deleted, their `retention` over.

        unreadable: Records that can't be opened; they are left as they are.

        held_back: Whether the clock has jumped ahead, so that the purge went by the time that has really passed.
    """

    settled: int = 0
    expired: int = 0
    delivered: int = 0
    purged: int = 0
    unreadable: int = 0
    held_back: bool = False


class Sweeper:
    """Sweeps one realm. Any number of workers may do so at once: versions keep them apart."""

    def __init__(self, context: Context, recovery: Recovery, store: Store) -> None:
        self._context = context
        self._recovery = recovery
        self._store = store
        self._began = (context.now(), uptime())
        self._held_back = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep in the background, until closed or until the event loop ends."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run())

    async def aclose(self) -> None:
        """Sweep no more in the background."""
        if self._task and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def sweep(self, *, at_once: bool = True) -> SweepReport:
        """
        Go once through all that is due. If the store goes away, what was done is done.

        Args:
            at_once: Whether listeners that failed or were slow before are tried again before their pause is over.
        """
        return await self._context.tracer.during(self._sweep(at_once=at_once), "sweep")

    async def _sweep(self, *, at_once: bool) -> SweepReport:
        counts = Counter[str]()
        paused_before = time.monotonic() if at_once else -math.inf
        batch: list[Found] = []
        async for found in self._context.repository.scan(due=True, limit=DUE_AT_MOST):
            if isinstance(found, RecordUnreadable):
                counts["unreadable"] += 1
                continue
            batch.append(found)
            if len(batch) == AT_ONCE:
                await self._tend(batch, counts, paused_before)
                batch.clear()
        await self._tend(batch, counts, paused_before)
        if counts["unreadable"]:
            logger.error("%d records can't be read and are left as they are", counts["unreadable"])
        counts["purged"], held_back = await self._purge()
        for name, amount in counts.items():
            if amount:
                self._context.tracer.count(name, amount)
        return SweepReport(**counts, held_back=held_back)

    async def _run(self) -> None:
        """Sweep again and again, at times that differ from worker to worker; in between, tell ends that are due."""
        next_sweep = self._after(INTERVAL)
        while True:
            if self._context.notifications.listening:
                await asyncio.sleep(min(self._after(LATE_INTERVAL), next_sweep) - time.monotonic())
            else:
                await asyncio.sleep(next_sweep - time.monotonic())
            is_sweep = time.monotonic() >= next_sweep
            try:
                if is_sweep:
                    next_sweep = self._after(INTERVAL)
                    await self.sweep(at_once=False)
                else:
                    await self._deliver()
            except Exception as error:  # noqa: BLE001 - the next sweep may be luckier
                if is_sweep:
                    logger.warning("a sweep broke off: %s", type(error).__name__)
                elif not isinstance(error, ResetFlowError):  # such as of the store: the next sweep says so
                    logger.error("ends can't be told: %s", type(error).__name__)  # noqa: TRY400 - frames hold secrets

    @staticmethod
    def _after(interval: timedelta) -> float:
        return time.monotonic() + interval.total_seconds() * random.uniform(0.5, 1.5)  # noqa: S311 - jitter

    async def _deliver(self) -> None:
        """Tell listeners of ends that are due, in an order of this worker's own: others may be at it, too."""
        owed = [
            found.flow
            async for found in self._context.repository.scan(due=True, limit=LATE_AT_MOST)
            if not isinstance(found, RecordUnreadable) and self._context.notifications.owes(found.flow)
        ]
        random.shuffle(owed)
        for first in range(0, len(owed), AT_ONCE):
            await asyncio.gather(*map(self._deliver_end, owed[first : first + AT_ONCE]))

    async def _deliver_end(self, flow: FlowData) -> None:
        """Tell listeners of an end, unless another worker has done so since it was found."""
        with suppress(FlowNotFound, RecordUnreadable):
            found = await self._context.repository.load(flow.id)
            if found.flow.version == flow.version:
                await self._context.notifications.deliver_end(flow)

    async def _tend(self, batch: list[Found], counts: Counter[str], paused_before: float) -> None:
        tending = (self._recovery.tend(found, paused_before) for found in batch)
        for done in await asyncio.gather(*tending, return_exceptions=True):
            if isinstance(done, RecoveryResult):
                counts["settled"] += done.settled
                counts["expired"] += done.expired
                counts["delivered"] += done.delivered
            elif isinstance(done, (StoreUnavailable, asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise done
            elif not isinstance(done, ResetFlowError):  # else another worker was faster, or it is not ours to settle
                logger.error("a flow can't be tended: %s", type(done).__name__)

    async def _purge(self) -> tuple[int, bool]:
        """Delete what ended long ago by the clock and by the time that has really passed since this worker began."""
        now = self._context.now()
        passed = self._began[0] + timedelta(seconds=uptime() - self._began[1])
        held_back = now > passed + JUMP
        if held_back and not self._held_back:
            logger.error("the clock is %s ahead of the time that has passed: nothing is purged by it", now - passed)
        self._held_back = held_back
        until, realm = passed if held_back else now, self._context.realm
        purged = await purge(self._store, realm, until - self._context.policy.retention, limit=PURGED_AT_MOST)
        await purge(self._store, side_realm(realm), until, limit=PURGED_AT_MOST)
        return purged, held_back

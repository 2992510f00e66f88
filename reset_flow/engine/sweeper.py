"""Does what no command does: ends expired flows, settles intents of dead workers, tells listeners, purges."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from reset_flow.domain.errors import RecordUnreadable, ResetFlowError, StoreUnavailable
from reset_flow.engine.recovery import RecoveryResult
from reset_flow.persistence.batches import purge
from reset_flow.persistence.side_records import side_realm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reset_flow.engine.context import Context
    from reset_flow.engine.recovery import Recovery
    from reset_flow.persistence.repository import Found
    from reset_flow.ports import Store

__all__ = ["SweepReport", "Sweeper"]

logger = logging.getLogger("reset_flow")

INTERVAL = timedelta(seconds=15)
AT_ONCE = 16
"""Flows that are tended side by side."""
DUE_AT_MOST = 100_000
PURGED_AT_MOST = 100_000
JUMP = timedelta(minutes=5)
"""By how much a clock may run ahead of the time that has really passed before a purge goes by the latter."""


def _uptime() -> float:
    """Seconds that no clock setting changes; also those that the machine slept, where the system tells."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


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
        self._began = (context.now(), _uptime())
        self._held_back = False

    async def sweep(self) -> SweepReport:
        """
        Go once through all that is due.

        Raises:
            StoreUnavailable: The store went away; what was done is done.
        """
        return await self._context.tracer.during(self._counted(), "sweep")

    async def _counted(self) -> SweepReport:
        report = await self._sweep()
        for name in ("settled", "expired", "delivered", "purged", "unreadable"):
            if amount := getattr(report, name):
                self._context.tracer.count(name, amount)
        return report

    async def _sweep(self) -> SweepReport:
        report, unreadable = SweepReport(), 0
        batch: list[Found] = []
        async for found in self._context.repository.scan(due=True, limit=DUE_AT_MOST):
            if isinstance(found, RecordUnreadable):
                unreadable += 1
                continue
            batch.append(found)
            if len(batch) == AT_ONCE:
                report = _with(report, await self._tend(batch))
                batch = []
        report = _with(report, await self._tend(batch))
        if unreadable:
            logger.error("%d records can't be read and are left as they are", unreadable)
        purged, held_back = await self._purge()
        return attrs.evolve(report, purged=purged, unreadable=unreadable, held_back=held_back)

    async def run(self) -> None:
        """Sweep again and again, at times that differ from worker to worker."""
        while True:
            await asyncio.sleep(INTERVAL.total_seconds() * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the next sweep may be luckier
                logger.warning("a sweep broke off: %s", type(error).__name__)

    async def _tend(self, batch: list[Found]) -> list[RecoveryResult]:
        done = await asyncio.gather(*(self._recovery.tend(found) for found in batch), return_exceptions=True)
        for each in done:
            if isinstance(each, (StoreUnavailable, asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise each
            if isinstance(each, BaseException) and not isinstance(each, ResetFlowError):
                logger.error("a flow can't be tended: %s", type(each).__name__)
        # Any other error of ours: another worker was faster, or a flow is not ours to settle.
        return [each for each in done if isinstance(each, RecoveryResult)]

    async def _purge(self) -> tuple[int, bool]:
        """Delete what ended long ago by the clock and by the time that has really passed since this worker began."""
        now = self._context.now()
        passed = self._began[0] + timedelta(seconds=_uptime() - self._began[1])
        held_back = now > passed + JUMP
        if held_back and not self._held_back:
            logger.error("the clock is %s ahead of the time that has passed: nothing is purged by it", now - passed)
        self._held_back = held_back
        until, realm = passed if held_back else now, self._context.realm
        purged = await purge(self._store, realm, until - self._context.policy.retention, limit=PURGED_AT_MOST)
        await purge(self._store, side_realm(realm), until, limit=PURGED_AT_MOST)
        return purged, held_back


def _with(report: SweepReport, results: Iterable[RecoveryResult]) -> SweepReport:
    """Add results to a report: of a hundred thousand flows nothing else is kept."""
    for each in results:
        report = attrs.evolve(
            report,
            settled=report.settled + each.settled,
            expired=report.expired + each.expired,
            delivered=report.delivered + each.delivered,
        )
    return report

"""Whether the wrong codes of a realm are too many to be honest, by what all its workers saw."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from reset_flow.domain.errors import LimitReached, RecordUnreadable, StaleRecord, StoreUnavailable
from reset_flow.engine.background_tasks import OwnTasks
from reset_flow.persistence.guess_counts import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.domain.policy import GuessAlarm, Policy
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.guess_counts import Counts
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Store

__all__ = ["Alarm"]

logger = logging.getLogger("reset_flow")

SLICES = 60
"""Into which the window is cut; the oldest goes as a whole."""
RACES = 5


def slice_of(rule: GuessAlarm | None) -> timedelta:
    """How finely time is told apart."""
    return max((rule.window if rule else timedelta(hours=1)) / SLICES, timedelta(microseconds=1))


class Alarm:
    """
    Counts the codes of a realm, approximately: what a worker saw is added to the realm's record a little later, and may
    be lost with the worker until then, or count twice if the store falls silent in between.

    Attributes:
        INTERVAL: Between two looks of a worker at the record, at least.
    """

    INTERVAL = timedelta(seconds=5)

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        realm: str,
        tracer: SafeTracer,
        *,
        policy: Policy,
        now: Callable[[], datetime],
    ) -> None:
        self._rule = policy.guess_alarm
        self._stops = policy.stop_on_alarm
        self._ledger = Ledger(store, keyring, realm, slice_of(self._rule))
        self._tracer = tracer
        self._now = now
        self._own: Counts = Counter()  # not in the record yet
        self._all: Counts = Counter()  # the record, as it was last seen
        self._version: int | None = None  # of the record; before the first look, nobody knows
        self._slice = 0
        self._wrong = self._right = 0
        self._on = self._told = False
        self._tasks = OwnTasks()
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def admit(self) -> None:
        """
        Return if a code may be typed. Waits for nothing but, where an alarm stops codes, the first look at the record.

        Raises:
            LimitReached: There is an alarm, and it is to stop codes.
        """
        if self._rule is None:
            return
        if self._version is None and self._stops:
            await self.sync(first=True)
        elif self._version is None and not self._lock.locked():
            self._soon(timedelta(0), first=True)
        if self._stops:
            self._soon(self.INTERVAL)
            self._count()
            if self._on:
                raise LimitReached("wrong codes of all users together")

    def saw(self, *, right: bool) -> bool:
        """Note a code that the broker judged. -> whether it is the wrong one that the alarm is first seen with"""
        if self._rule is None:
            return False
        number = self._ledger.number(self._now())
        self._own[number, right] += 1
        if number != self._slice:
            self._count()
        else:
            self._right += right
            self._wrong += not right
            self._judge(self._rule)
        self._soon(self.INTERVAL)
        first = self._on and not self._told and not right
        self._told |= first
        return first

    async def sync(self, *, first: bool = False) -> None:
        """
        Learn what others saw, and add to the record what it lacks; later, if the store can't be used now.

        Args:
            first: Only learn, and only if nothing is known yet.
        """
        async with self._lock:
            if first and self._version is not None:
                return
            try:
                await self._merge(tell=not first)
            except (StoreUnavailable, RecordUnreadable) as error:
                logger.warning("the codes of this worker are not counted with others': %s", type(error).__name__)
                self._soon(self.INTERVAL)
        self._count()

    async def _merge(self, *, tell: bool) -> None:
        for _ in range(RACES):
            if self._version is None or not self._own or not tell:
                self._all, self._version = await self._ledger.load()
            self._count()
            own = self._own.copy()
            if not own or not tell:
                break
            merged = self._all + own
            try:
                await self._ledger.save(merged, self._version + 1)
            except StaleRecord:
                self._version = None
            else:
                self._own -= own
                self._all, self._version = merged, self._version + 1
                break
        if self._own:
            self._soon(self.INTERVAL)

    async def aclose(self, patience: timedelta) -> None:
        """Tell what is not told yet, if that takes no longer than this."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._own:
            self._tasks.spawn(self.sync())
        await self._tasks.aclose(patience)

    # --- when

    def _soon(self, delay: timedelta, *, first: bool = False) -> None:
        """Look at the record by then; however often this is called, a worker looks once."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(delay.total_seconds(), self._look, first)

    def _look(self, first: bool) -> None:  # noqa: FBT001 - the loop gives it so
        self._timer = None
        self._tasks.spawn(self.sync(first=first))

    # --- how many

    def _recent(self, counts: Counts) -> Counts:
        return Counter({key: count for key, count in counts.items() if abs(key[0] - self._slice) < SLICES})

    def _count(self) -> None:
        """Count anew, without what is too old by now."""
        if self._rule is None:
            return
        self._slice = self._ledger.number(self._now())
        self._own, self._all = self._recent(self._own), self._recent(self._all)
        self._wrong = self._right = 0
        for counts in (self._own, self._all):
            for (_, right), count in counts.items():
                self._right += count if right else 0
                self._wrong += 0 if right else count
        self._judge(self._rule)

    def _judge(self, rule: GuessAlarm) -> None:
        before, self._on = self._on, self._wrong > max(rule.at_least, rule.share * self._right)
        self._told &= self._on
        if self._on and not before:
            self._tracer.count("alarm")
            logger.error(
                "guess alarm: %d wrong codes and %d right ones within %s", self._wrong, self._right, rule.window
            )

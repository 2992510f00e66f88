"""Raises an alarm when the wrong codes of a realm are too many to be honest, by the counts of all its workers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from reset_flow.domain.errors import LimitReached, StaleRecord, StoreError
from reset_flow.domain.times import EPOCH, MICROSECOND
from reset_flow.engine.background_tasks import BackgroundTasks
from reset_flow.persistence.batches import RACES

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.domain.policy import Policy
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.side_records import SideRecords

logger = logging.getLogger("reset_flow")

Counts: TypeAlias = Counter[tuple[int, bool]]
"""How many codes there were in a slice of time, by its number since the epoch and by whether they were right."""

KIND, NAME = "guess counts", "codes"
"""Of the side record that all workers share."""

SLICES = 60
"""Into which the alarm's window is cut; the oldest goes as a whole."""

KEPT = 12 * SLICES
"""Slices in the record: each of several workers whose clocks differ adds its own in a window."""

LIFETIME = timedelta(days=365)
"""Of the record: longer than a clock is wrong, so that no worker takes it for over, or purges it."""

INTERVAL = timedelta(seconds=5)
"""Between two looks of a worker at the record, at least."""

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[tuple[int, int, int]])  # a slice by its beginning, its wrong codes, its right ones


async def load_counts(side: SideRecords, length: timedelta) -> tuple[Counts, bytes]:
    """
    Load the counts of a realm, in slices of this length, and their revision. Unreadable counts are none.

    A slice is numbered by the clock of the worker that counted; those that grew last come last.
    """
    record = await side.load(NAME)
    counts: Counts = Counter()
    try:
        rows = _DECODER.decode(record.value or b"[]")
    except ValueError:
        rows = []
    for start, wrong, right in rows:
        counts[start // (length // MICROSECOND), False] += wrong
        counts[start // (length // MICROSECOND), True] += right
    return counts, record.revision


class GuessMonitor:
    """
    Counts the codes of a realm, approximately: a worker adds its counts to the realm's record a little later; they are
    lost with the worker until then, and count twice if the store falls silent in between. What one event loop has not
    told is told by the next.

    The clocks of workers differ. So what others have added since the last look is as old as that look by the clock of
    this worker, whatever theirs showed; and no worker takes what is too old by its own clock out of the record.
    """

    def __init__(self, side: SideRecords, tracer: SafeTracer, policy: Policy, now: Callable[[], datetime]) -> None:
        self._side = side
        self._tracer = tracer
        self._rule = policy.guess_alarm
        self._stops = policy.stop_on_alarm
        self._now = now
        window = self._rule.window if self._rule else timedelta(hours=1)
        self._length = max(window / SLICES, MICROSECOND)
        self._own: Counts = Counter()  # not in the record yet
        self._all: Counts = Counter()  # in the record, by the clock of this worker
        self._seen: Counts = Counter()  # the record, as it was last seen
        self._looked: int | None = None  # the slice of the last look
        self._revision: bytes | None = None  # of the record; unknown before the first look
        self._on = self._told = False
        self._tasks = BackgroundTasks()
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at: float | None = None  # when the timer goes off, by `time.monotonic`
        self._loop: asyncio.AbstractEventLoop | None = None  # of the lock and the timer
        self._pid = os.getpid()
        self._closed = False

    async def admit(self) -> None:
        """
        Return if a code may be typed. Waits only for the first look at the record, where an alarm stops codes.

        Raises:
            LimitReached: There is an alarm, and it is to stop codes.
        """
        if self._rule is None:
            return
        self._enter_loop()
        if self._revision is None and self._stops:
            await self.sync(first=True)
        elif self._revision is None and not self._lock.locked():
            self._look_in(timedelta(0), first=True)
        if self._stops:
            self._look_in(INTERVAL)
            self._judge()
            if self._on:
                raise LimitReached("guess_alarm")

    def count(self, *, right: bool) -> bool:
        """Count a code that the broker judged. Return whether it is the wrong one that the alarm first sounds with."""
        if self._rule is None:
            return False
        self._enter_loop()
        self._own[self._slice(), right] += 1
        self._judge()
        self._look_in(INTERVAL)
        first = self._on and not self._told and not right
        self._told |= first
        return first

    async def sync(self, *, first: bool = False) -> None:
        """
        Load the counts of others and add those of this worker to the record; later, if the store can't be used now.

        Args:
            first: Only load, and only if nothing is known yet.
        """
        self._enter_loop()
        async with self._lock:
            if first and self._revision is not None:
                return
            try:
                await self._merge(save=not first)
            except StoreError as error:
                logger.warning("the codes of this worker are not counted with others': %s", type(error).__name__)
                self._look_in(INTERVAL)
        self._judge()

    async def _merge(self, *, save: bool) -> None:
        for _ in range(RACES):
            if self._revision is None or not self._own or not save:
                counts, self._revision = await load_counts(self._side, self._length)
                self._take(counts)
            self._judge()
            own = self._own.copy()
            if not own or not save:
                break
            try:
                counts = _kept(self._seen, own)
                self._revision = await self._save(counts, self._revision)
            except StaleRecord:
                self._revision = None
            else:
                self._seen = counts
                self._own -= own
                self._all += own
                break
        if self._own:
            self._look_in(INTERVAL)

    def _take(self, counts: Counts) -> None:
        """Add what others have counted since the last look, by the clock of this worker."""
        now, looked = self._slice(), self._looked
        known = now
        for key in reversed(counts):
            number, is_right = key
            if looked is not None:
                at = max(number, looked)
            elif number <= now:
                at = known = number
            else:  # by a clock ahead of this one, and before the slices behind it grew
                at = known
            if (grown := counts[key] - self._seen[key]) > 0:
                self._all[min(at, now), is_right] += grown
        self._seen, self._looked = counts, now

    async def _save(self, counts: Counts, revision: bytes) -> bytes:
        length = self._length // MICROSECOND
        slices = dict.fromkeys(number for number, _ in counts)
        rows = [(number * length, counts[number, False], counts[number, True]) for number in slices]
        return (await self._side.save(NAME, _ENCODER.encode(rows), revision=revision, lifetime=LIFETIME)).revision

    async def aclose(self, patience: timedelta) -> None:
        """Save what is not saved yet, if that takes no longer than this."""
        self._closed = True
        self._enter_loop()
        if self._timer:
            self._timer.cancel()
        if self._own:
            self._tasks.spawn(self.sync())
        await self._tasks.aclose(patience)

    def _enter_loop(self) -> None:
        """Begin anew where this is another event loop than before: a timer or a lock of one that has ended is dead."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        self._loop, self._lock, self._timer = loop, asyncio.Lock(), None
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._own.clear()  # this process was forked: its parent tells them
        if self._look_at is not None and not self._closed:
            left = max(0.0, self._look_at - time.monotonic())
            self._timer = loop.call_later(left, self._look, False)  # noqa: FBT003 - as below

    def _look_in(self, delay: timedelta, *, first: bool = False) -> None:
        """Look at the record after a delay; a look that is due already is enough."""
        if self._timer is None and not self._closed:
            self._look_at = time.monotonic() + delay.total_seconds()
            self._timer = asyncio.get_running_loop().call_later(delay.total_seconds(), self._look, first)

    def _look(self, first: bool) -> None:  # noqa: FBT001 - the loop gives it so
        self._timer = self._look_at = None
        self._tasks.spawn(self.sync(first=first))

    def _slice(self) -> int:
        return (self._now() - EPOCH) // self._length

    def _judge(self) -> None:
        """Forget the codes that are too old by now, and say whether there is an alarm."""
        if self._rule is None:
            return
        now, before, right, wrong = self._slice(), self._on, 0, 0
        for counts in (self._own, self._all):
            for (number, is_right), count in list(counts.items()):
                if number > now:  # the clock has gone back
                    counts[now, is_right] += counts.pop((number, is_right))
                if now - number >= SLICES:
                    del counts[number, is_right]
                elif is_right:
                    right += count
                else:
                    wrong += count
        self._on = wrong > max(self._rule.at_least, self._rule.share * right)
        self._told &= self._on
        if self._on and not before:
            self._tracer.count("alarm")
            logger.error("guess alarm: %d wrong codes and %d right ones within %s", wrong, right, self._rule.window)


def _kept(seen: Counts, own: Counts) -> Counts:
    """Return the counts of a record and of this worker together, without the slices that have not grown for longest."""
    grown = {number for number, _ in own}
    order = [*(number for number in dict.fromkeys(number for number, _ in seen) if number not in grown), *sorted(grown)]
    both = seen + own
    return Counter({(number, right): both[number, right] for number in order[-KEPT:] for right in (False, True)})

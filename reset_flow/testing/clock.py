"""A clock that stands still."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

__all__ = ["FrozenClock"]


class FrozenClock:
    """A clock that goes only when told to. May be read by any thread."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        """Now, aware."""
        return self._now

    def advance(self, time: timedelta) -> datetime:
        """Let time pass. -> now"""
        with self._lock:
            self._now += time
            return self._now

"""Times that others are counted from, and in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_TIME = timedelta(0)
MICROSECOND = timedelta(microseconds=1)

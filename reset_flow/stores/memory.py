"""Flows in a dict: for tests, and where losing them with the process does no harm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, StaleRecord
from reset_flow.domain.times import MICROSECOND
from reset_flow.ports import Record, Store
from reset_flow.stores.rows import is_match, micros, span
from reset_flow.stores.session import Ownership
from reset_flow.stores.uses import check_limits
from reset_flow.stores.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from reset_flow.ports import Query, Use, UseName


class _Kept(Struct, frozen=True, gc=False):
    record: Record
    leased_until: int | None
    due: float


class MemoryStore(Store):
    """
    Keeps records until the process ends.

    Belongs to the process that uses it first, and there to one event loop at a time.

    Args:
        clock: What leases and budgets are judged by; gives an aware time.
    """

    durable = False

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._clock = clock or (lambda: datetime.now(UTC))
        self._kept: dict[str, _Kept] = {}
        self._uses: dict[bytes, dict[bytes, int]] = {}  # of each key, by their ids, when they expire
        self._waiters: Waiters[str] = Waiters(inf)
        self._ownership = Ownership(lambda loop: not loop.is_running())

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        self._ownership.take()
        kept = self._kept.get(record.id)
        version, write_id = (kept.record.version, kept.record.write_id) if kept else (0, b"")
        if kept and write_id == record.write_id:
            return
        if (record.version, record.replaces) != (version + 1, write_id):
            raise StaleRecord(record.id, record.version)
        now = micros(self._clock())
        check_limits(lambda key: self._uses.get(key, {}).items(), add, drop, now)
        for name in drop:
            self._uses.get(name.key, {}).pop(name.id, None)
        self._forget_expired({use.key for use in add}, now)
        for use in add:
            self._uses.setdefault(use.key, {}).setdefault(use.id, now + span(use.window))
        leased_until = None if record.lease is None else now + span(record.lease)
        due = leased_until or (inf if record.due_at is None else micros(record.due_at))
        self._kept[record.id] = _Kept(replace(record, replaces=b"", lease_left=None), leased_until, due)
        self._waiters.wake(record.id)

    async def load(self, flow_id: str) -> Record:
        self._ownership.take()
        if flow_id not in self._kept:
            raise FlowNotFound(flow_id)
        return self._shown(self._kept[flow_id])

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        self._ownership.take()
        now = micros(self._clock())
        found = [kept for kept in self._kept.values() if is_match(kept.record, query)]
        if query.due:
            found = sorted([kept for kept in found if kept.due <= now], key=lambda kept: kept.due)
        elif query.lookup is not None:
            found.reverse()
        else:
            found.sort(key=lambda kept: kept.record.id)
        for kept in found[: max(limit, 0)]:
            yield self._shown(kept)

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._waiters.wait(flow_id, version, timeout, partial(self.load, flow_id))

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        self._ownership.take()
        records = [kept.record for kept in self._kept.values() if kept.record.realm == realm]
        ended = [record.id for record in records if record.ended_at is not None and record.ended_at < before]
        del ended[max(limit, 0) :]
        for flow_id in ended:
            del self._kept[flow_id]
            self._waiters.wake(flow_id)
        self._forget_expired(set(self._uses), micros(self._clock()))
        return len(ended)

    async def aclose(self) -> None:
        self._ownership.close()
        self._waiters.stop()

    def _forget_expired(self, keys: set[bytes], now: int) -> None:
        for key in keys:
            left = {use_id: end for use_id, end in self._uses.pop(key, {}).items() if end > now}
            if left:
                self._uses[key] = left

    def _shown(self, kept: _Kept) -> Record:
        if kept.leased_until is None:
            return kept.record
        return replace(kept.record, lease_left=(kept.leased_until - micros(self._clock())) * MICROSECOND)

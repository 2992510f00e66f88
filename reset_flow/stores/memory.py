"""Flows in a dict: for tests, and where losing them with the process does no harm."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, LimitReached, StaleRecord, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from reset_flow.ports import Charge, Query, Record

__all__ = ["MemoryStore"]


@attrs.frozen
class _Use:
    at: datetime
    flow: int
    expires_at: datetime


@attrs.frozen
class _Kept:
    number: int  # tells a flow from a purged one that had its id
    record: Record
    leased_until: datetime | None

    @property
    def due(self) -> datetime | None:
        return self.leased_until or self.record.due_at


class MemoryStore:
    """
    Keeps records until the process ends.

    Belongs to one event loop at a time.

    Args:
        clock: What leases and budgets are judged by; gives an aware time.
    """

    durable = False

    def __init__(self, *, clock: Callable[[], datetime] | None = None) -> None:
        self._clock = clock or (lambda: datetime.now(UTC))
        self._numbers = itertools.count(1)
        self._kept: dict[str, _Kept] = {}
        self._uses: dict[bytes, list[_Use]] = {}
        self._saved: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    async def save(self, record: Record, *, charges: Sequence[Charge] = ()) -> None:
        """As the port says."""
        self._check_open()
        kept = self._kept.get(record.id)
        if kept and kept.record.write_id == record.write_id:
            return
        if record.version != (kept.record.version if kept else 0) + 1:
            raise StaleRecord(record.id, record.version)
        now = self._clock()
        number = kept.number if kept else next(self._numbers)
        self._uses |= self._charged(number, charges, now)
        leased_until = None if record.lease is None else now + record.lease
        self._kept[record.id] = _Kept(number, _with(record, None), leased_until)
        for event in self._saved.get(record.id, ()):
            event.set()

    def _charged(self, flow: int, charges: Sequence[Charge], now: datetime) -> dict[bytes, list[_Use]]:
        """The uses of every key that is charged as they will be, the oldest first."""
        uses = {
            charge.key: [use for use in self._uses.get(charge.key, ()) if use.expires_at > now] for charge in charges
        }
        fresh: list[_Use] = []
        waits: list[timedelta | None] = []
        for charge in charges:
            these = uses[charge.key]
            if charge.amount < 0:
                mine = [use for use in these if use.flow == flow]
                if mine:
                    # By identity: two uses of one microsecond are equal, and the newest is to go.
                    uses[charge.key] = [use for use in these if use is not mine[-1]]
                continue
            counted = [use for use in these if use.at > now - charge.window]
            if len(counted) >= charge.limit:
                blocking = counted[-charge.limit] if charge.limit > 0 else None
                helps = blocking is not None and not any(blocking is use for use in fresh)
                waits.append(blocking.at + charge.window - now if blocking and helps else None)
            fresh.append(_Use(now, flow, now + charge.window))
            these.append(fresh[-1])
        if waits:
            raise LimitReached("uses of this budget", None if None in waits else max(filter(None, waits)))
        return uses

    async def load(self, flow_id: str) -> Record:
        """As the port says."""
        self._check_open()
        return self._look(self._find(flow_id))

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        """As the port says."""
        self._check_open()
        for kept in list(self._picked(query))[: max(limit, 0)]:
            yield self._look(kept)

    def _picked(self, query: Query) -> Iterator[_Kept]:
        now = self._clock()
        everything = list(self._kept.values())
        if query.due:
            everything = sorted((kept for kept in everything if kept.due), key=lambda kept: kept.due or now)
        elif query.lookup is not None:
            everything.reverse()
        else:
            everything.sort(key=lambda kept: kept.record.id)
        for kept in everything:
            record = kept.record
            if (
                record.realm == query.realm
                and record.id > query.after
                and (query.lookup is None or query.lookup in record.lookups)
                and (not query.due or (kept.due and kept.due <= now))
            ):
                yield kept

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """
        As the port says.

        Raises:
            FlowNotFound: There is no such record (any more).
        """
        event = asyncio.Event()
        self._saved.setdefault(flow_id, set()).add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout.total_seconds()):
                    while self._version(flow_id) <= version:
                        await event.wait()
                        event.clear()
        finally:
            self._saved[flow_id].discard(event)
            if not self._saved[flow_id]:
                del self._saved[flow_id]

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        """As the port says."""
        self._check_open()
        now = self._clock()
        ended = [
            (record.ended_at, record.id)
            for record in (kept.record for kept in self._kept.values())
            if record.realm == realm and record.ended_at is not None and record.ended_at < before
        ]
        ended = sorted(ended, key=lambda each: each[0])[: max(limit, 0)]
        for _, flow_id in ended:
            del self._kept[flow_id]
            for event in self._saved.get(flow_id, ()):
                event.set()
        left = {key: [use for use in uses if use.expires_at > now] for key, uses in self._uses.items()}
        self._uses = {key: uses for key, uses in left.items() if uses}
        return len(ended)

    async def aclose(self) -> None:
        """As the port says."""
        self._closed = True
        for events in self._saved.values():
            for event in events:
                event.set()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store was closed: make another one")

    def _find(self, flow_id: str) -> _Kept:
        try:
            return self._kept[flow_id]
        except KeyError:
            raise FlowNotFound(flow_id) from None

    def _version(self, flow_id: str) -> int:
        self._check_open()
        return self._find(flow_id).record.version

    def _look(self, kept: _Kept) -> Record:
        return _with(kept.record, None if kept.leased_until is None else kept.leased_until - self._clock())


def _with(record: Record, lease_left: timedelta | None) -> Record:
    return record if record.lease_left == lease_left else replace(record, lease_left=lease_left)

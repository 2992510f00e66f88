"""Flows in a dict: for tests, and where losing them with the process does no harm."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import attrs
from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound, LimitReached, StaleRecord, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from reset_flow.ports import Query, Record, Use, UseName

__all__ = ["MemoryStore"]


_Uses: TypeAlias = "dict[bytes, datetime]"
"""When each use of a key expires, by its id."""


@attrs.frozen
class _Kept:
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
        self._kept: dict[str, _Kept] = {}
        self._uses: dict[bytes, _Uses] = {}
        self._saved: dict[str, set[asyncio.Event]] = {}
        self._closed = False

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """As the port says."""
        self._check_open()
        kept = self._kept.get(record.id)
        if kept and kept.record.write_id == record.write_id:
            return
        if record.version != (kept.record.version if kept else 0) + 1:
            raise StaleRecord(record.id, record.version)
        now = self._clock()
        self._uses |= self._changed(add, drop, now)
        leased_until = None if record.lease is None else now + record.lease
        self._kept[record.id] = _Kept(_with(record, None), leased_until)
        for event in self._saved.get(record.id, ()):
            event.set()

    def _changed(self, add: Sequence[Use], drop: Sequence[UseName], now: datetime) -> dict[bytes, _Uses]:
        """Return the uses of every key that changes, as they will be."""
        keys = {name.key for name in drop} | {use.key for use in add}
        uses = {key: {use_id: end for use_id, end in self._uses.get(key, {}).items() if end > now} for key in keys}
        for name in drop:
            uses[name.key].pop(name.id, None)
        waits: dict[bytes, timedelta | None] = {}
        for key in dict.fromkeys(use.key for use in add):
            added = {use.id: use for use in add if use.key == key}
            if all(use_id in uses[key] for use_id in added):
                continue
            others = sorted(end for use_id, end in uses[key].items() if use_id not in added)
            excess = len(others) + len(added) - min(use.limit for use in added.values())
            if excess > 0:
                waits[key] = others[excess - 1] - now if excess <= len(others) else None
            uses[key] = {use_id: now + use.window for use_id, use in added.items()} | uses[key]
        if waits:
            known = [wait for wait in waits.values() if wait is not None]
            raise LimitReached("uses", max(known) if len(known) == len(waits) else None, keys=tuple(waits))
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
        left = {key: {use_id: end for use_id, end in uses.items() if end > now} for key, uses in self._uses.items()}
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

"""
How many codes of a realm were wrong and how many right, by time: one sealed record for all workers, beside the flows.

It stands in a realm of its own, whose name no embedder can give, so that nothing that goes through flows meets it.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec.structs import replace

from reset_flow.domain.errors import FlowNotFound
from reset_flow.domain.flow import State
from reset_flow.persistence.repository import associated, new_write_id, spelled
from reset_flow.ports import Record

if TYPE_CHECKING:
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Store

__all__ = ["Counts", "Ledger", "ledger_realm"]

Counts: TypeAlias = Counter[tuple[int, bool]]
"""How many codes there were in a slice of time, by its number since the epoch and by whether they were right."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SCHEMA = 1
NOTHING = msgspec.json.encode([SCHEMA, []])


def ledger_realm(realm: str) -> str:
    """Where the record of this realm's codes is kept: names that embedders give have no control characters."""
    return f"{realm}\x1fcodes"


class Ledger:
    """
    The record of one realm.

    Args:
        length: Of the slices that its counts are given in. What others wrote in slices of another length is sorted into
            these.
    """

    def __init__(self, store: Store, keyring: Keyring, realm: str, length: timedelta) -> None:
        self._store = store
        self._keyring = keyring
        self._realm = ledger_realm(realm)
        self._id = spelled(keyring.lookup(realm, "codes", realm))
        self._length = length

    def number(self, time: datetime) -> int:
        """Of the slice that a time is in."""
        return (time - EPOCH) // self._length

    async def load(self) -> tuple[Counts, int]:
        """
        The counts and the version of the record; nothing and 0 where there is none. What can't be read is taken for
        nothing, to be written over.

        Raises:
            StoreUnavailable: As the store says.
            RecordUnreadable: What is stored is no record; it has no version either.
        """
        try:
            record = await self._store.load(self._id)
        except FlowNotFound:
            return Counter(), 0
        try:
            return self._decode(self._open(record)), record.version
        except (ValueError, TypeError):
            return Counter(), record.version

    async def save(self, counts: Counts, version: int) -> None:
        """
        Make them the version.

        Raises:
            StoreUnavailable, StaleRecord: As the store says.
        """
        await self._store.save(self._record(self._id, version, self._encode(counts)))

    async def reseal(self, record: Record) -> None:
        """
        Save a record of this realm's again under the key that writes now: nothing, where it can't be read.

        Raises:
            StoreUnavailable, StaleRecord: As the store says.
        """
        try:
            body = self._open(record)
        except ValueError:
            body = NOTHING
        await self._store.save(self._record(record.id, record.version + 1, body))

    def _open(self, record: Record) -> bytes:
        return self._keyring.open(record.realm, record.id, record.body, associated(record))

    def _record(self, record_id: str, version: int, body: bytes) -> Record:
        record = Record(
            realm=self._realm,
            id=record_id,
            version=version,
            state=State.REQUESTED,
            write_id=new_write_id(),
            body=b"",
        )
        return replace(record, body=self._keyring.seal(self._realm, record_id, body, associated(record)))

    def _encode(self, counts: Counts) -> bytes:
        """Each slice as its beginning in microseconds, its wrong codes and its right ones."""
        length = self._length // MICROSECOND
        rows = [
            [number * length, counts[number, False], counts[number, True]]
            for number in sorted({each for each, _ in counts})
        ]
        return msgspec.json.encode([SCHEMA, rows])

    def _decode(self, body: bytes) -> Counts:
        length = self._length // MICROSECOND
        schema, rows = msgspec.json.decode(body)
        if schema != SCHEMA:
            raise ValueError(f"schema {schema}")
        counts: Counts = Counter()
        for start, wrong, right in rows:
            counts[start // length, False] += wrong
            counts[start // length, True] += right
        return counts

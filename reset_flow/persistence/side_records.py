"""
Sealed values beside the flows of a realm: what a surface must remember without touching a flow's record.

They are records of the same store in a realm whose name no embedder can give, so that nothing that goes through flows
meets them. Purges, reseals, removals of keys and backups include them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from reset_flow.domain import validation
from reset_flow.domain.errors import FlowNotFound, InvalidInput
from reset_flow.domain.flow import State
from reset_flow.domain.times import EPOCH
from reset_flow.persistence.repository import new_write_id, opened, sealed, spell
from reset_flow.ports import Record
from reset_flow.tracebacks import forget_causes

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Store

LONGEST_VALUE = 64 * 1024
"""Bytes: a value is read and written as a whole."""

LONGEST_LIFETIME = timedelta(days=3660)
VERSION_BYTES = 8
MOST_VERSIONS = 2**62


def side_realm(realm: str) -> str:
    """Return the realm that holds a realm's side records: names of embedders have no control characters."""
    return f"{realm}\x1fside"


class SideRecord(Struct, frozen=True, gc=False):
    """
    One value as it was loaded or saved.

    Attributes:
        value: `None`: there is none, its lifetime is over, or it can't be read.

        revision: To be given with the next save; empty where nothing is stored.
    """

    value: bytes | None
    revision: bytes = b""

    @classmethod
    def of(cls, record: Record, value: bytes | None) -> SideRecord:
        """Return a value with the revision that its record is."""
        return cls(value, record.version.to_bytes(VERSION_BYTES) + record.write_id)


class SideRecords:
    """
    The side records of one kind in one realm, by name.

    Any number of tasks and processes may use them at once: a save names the revision that it replaces.

    Args:
        kind: Keeps the names of different users of side records apart.
    """

    def __init__(self, store: Store, keyring: Keyring, realm: str, kind: str, now: Callable[[], datetime]) -> None:
        self._store = store
        self._keyring = keyring
        self._realm = realm
        self._kind = kind
        self._now = now

    async def load(self, name: str) -> SideRecord:
        """
        Load a value.

        Raises:
            StoreUnavailable: As the store says.
        """
        try:
            with forget_causes:
                record = await self._store.load(self._id(name))
        except FlowNotFound:
            return SideRecord(None)
        if record.ended_at is None or record.ended_at <= self._now():
            return SideRecord.of(record, None)
        try:
            value = opened(record, self._keyring)
        except ValueError:
            return SideRecord.of(record, None)
        return SideRecord.of(record, value)

    async def save(self, name: str, value: bytes, *, revision: bytes, lifetime: timedelta) -> SideRecord:
        """
        Replace the revision that was loaded (compare-and-swap).

        Args:
            lifetime: From now on. A value whose lifetime is over is gone, and is purged later.

        Raises:
            StaleRecord: Somebody else saved it after it was loaded.
            StoreUnavailable: As the store says. The value may have been saved.
            InvalidInput: The value is longer than 64 KiB, the lifetime longer than ten years, or the revision is none.
        """
        _check(value, lifetime)
        return await self._save(name, value, revision, self._now() + lifetime)

    async def _save(self, name: str, value: bytes, revision: bytes, ends_at: datetime) -> SideRecord:
        version = int.from_bytes(_checked(revision)[:VERSION_BYTES])
        record = Record(
            realm=side_realm(self._realm),
            id=self._id(name),
            version=version + 1,
            state=State.REQUESTED,
            ended_at=ends_at,
            write_id=new_write_id(),
            replaces=revision[VERSION_BYTES:],
            body=b"",
        )
        with forget_causes:
            await self._store.save(sealed(record, value, self._keyring))
        return SideRecord.of(record, value)

    async def delete(self, name: str, *, revision: bytes) -> None:
        """
        Delete the revision that was loaded.

        Raises:
            StaleRecord, StoreUnavailable: As for `save`.
        """
        # Not now: the clock of another worker may be behind.
        await self._save(name, b"", revision, EPOCH)

    def _id(self, name: str) -> str:
        return spell(self._keyring.digest(self._realm, f"side {self._kind}", validation.name(name, "name")))


def _checked(revision: Any) -> bytes:
    if not isinstance(revision, bytes) or int.from_bytes(revision[:VERSION_BYTES]) >= MOST_VERSIONS:
        raise InvalidInput("revision: it must be that of a value that was loaded or saved, or empty")
    return revision


def _check(value: Any, lifetime: Any) -> None:
    if not isinstance(value, bytes) or len(value) > LONGEST_VALUE:
        raise InvalidInput(f"value: it must be bytes, at most {LONGEST_VALUE} of them")
    if not isinstance(lifetime, timedelta) or not timedelta(0) <= lifetime <= LONGEST_LIFETIME:
        raise InvalidInput(f"lifetime: it must be a timedelta of at most {LONGEST_LIFETIME.days} days")

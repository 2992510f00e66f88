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
from reset_flow.domain.errors import FlowNotFound, InvalidInput, RecordUnreadable, StoreError
from reset_flow.domain.flow import State
from reset_flow.persistence.repository import EPOCH, new_write_id, opened, sealed, spell
from reset_flow.ports import Record
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Store

__all__ = ["SideRecord", "SideRecords", "side_realm"]

LONGEST_VALUE = 64 * 1024
"""Bytes: a value is read and written as a whole."""

LONGEST_LIFETIME = timedelta(days=3660)


def side_realm(realm: str) -> str:
    """Return the realm that holds a realm's side records: names of embedders have no control characters."""
    return f"{realm}\x1fside"


class SideRecord(Struct, frozen=True, gc=False):
    """
    One value as it was loaded or saved.

    Attributes:
        value: `None`: there is none, its lifetime is over, or it can't be read.

        version: To be given with the next save; 0 where nothing is stored.
    """

    value: bytes | None
    version: int


class SideRecords:
    """
    The side records of one kind in one realm, by name.

    Any number of tasks and processes may use them at once: a save names the version that it replaces.

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
            record = await self._store.load(self._id(name))
        except FlowNotFound:
            return SideRecord(None, 0)
        except StoreError as error:
            forget_frames(error.__cause__ or error.__context__)
            raise
        if record.ended_at is None or record.ended_at <= self._now():
            return SideRecord(None, record.version)
        try:
            value = opened(record, self._keyring)
        except (ValueError, RecordUnreadable):
            return SideRecord(None, record.version)
        return SideRecord(value, record.version)

    async def save(self, name: str, value: bytes, *, version: int, lifetime: timedelta) -> SideRecord:
        """
        Replace the version that was loaded (compare-and-swap).

        Args:
            lifetime: From now on. A value whose lifetime is over is gone, and is purged later.

        Raises:
            StaleRecord: Somebody else saved it after it was loaded.
            StoreUnavailable: As the store says. The value may have been saved.
            InvalidInput: The value is longer than 64 KiB, or the lifetime than ten years.
        """
        _check(value, lifetime)
        return await self._save(name, value, version, self._now() + lifetime)

    async def _save(self, name: str, value: bytes, version: int, ends_at: datetime) -> SideRecord:
        record = Record(
            realm=side_realm(self._realm),
            id=self._id(name),
            version=version + 1,
            state=State.REQUESTED,
            ended_at=ends_at,
            write_id=new_write_id(),
            body=b"",
        )
        try:
            await self._store.save(sealed(record, value, self._keyring))
        except StoreError as error:
            forget_frames(error.__cause__ or error.__context__)
            raise
        return SideRecord(value, record.version)

    async def delete(self, name: str, *, version: int) -> None:
        """
        Delete the version that was loaded.

        Raises:
            StaleRecord, StoreUnavailable: As for `save`.
        """
        # Not now: the clock of another worker may be behind.
        await self._save(name, b"", version, EPOCH)

    def _id(self, name: str) -> str:
        return spell(self._keyring.digest(self._realm, f"side {self._kind}", validation.name(name, "name")))


def _check(value: Any, lifetime: Any) -> None:
    if not isinstance(value, bytes) or len(value) > LONGEST_VALUE:
        raise InvalidInput(f"value: it must be bytes, at most {LONGEST_VALUE} of them")
    if not isinstance(lifetime, timedelta) or not timedelta(0) <= lifetime <= LONGEST_LIFETIME:
        raise InvalidInput(f"lifetime: it must be a timedelta of at most {LONGEST_LIFETIME.days} days")

"""
The ids of the keys that a realm is used with, kept in its store in the clear: a ring of other keys is refused.

Under other lookup keys nothing is found, and the same `ref` would make a second flow. The record is in a realm that no
embedder can name, so that nothing that goes through flows or side records meets it; it never ends.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from reset_flow.domain.errors import FlowNotFound, KeyringError, StaleRecord
from reset_flow.domain.flow import State
from reset_flow.domain.text import printable
from reset_flow.persistence.batches import RACES
from reset_flow.persistence.repository import ID_BYTES, WRITE_ID_BYTES, spell
from reset_flow.ports import Record, Store
from reset_flow.tracebacks import forget_causes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from reset_flow.persistence.key_file import KeySet
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Query, Use, UseName

logger = logging.getLogger("reset_flow")


def key_realm(realm: str) -> str:
    """Return the realm that holds the record of a realm's keys: names of embedders have no control characters."""
    return f"{realm}\x1fkeys"


class KeyIds(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of keys."""

    seal: frozenset[str] = frozenset()
    lookup: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: KeySet) -> KeyIds:
        """Return the ids of these keys."""
        return cls(seal=frozenset(key.id for key in keys.seal), lookup=frozenset(key.id for key in keys.lookup))

    def __str__(self) -> str:
        return f"{' '.join(sorted(self.seal))} (lookup {' '.join(sorted(self.lookup))})"


async def check_unused(store: Store, realm: str, path: Path) -> None:
    """
    Return if new keys may be made for a realm.

    Raises:
        KeyringError: The realm is used with keys, which are not in this file, as it does not exist.
    """
    _, ids = await _load(store, realm)
    if ids.lookup:
        raise KeyringError(f"{path} does not exist, and {_told(realm, ids)}")


async def forget(store: Store, realm: str, key_id: str) -> None:
    """Take the id of a removed sealing key out of a realm's record."""
    await _change(store, realm, lambda ids: KeyIds(seal=ids.seal - {key_id}, lookup=ids.lookup))


class KeyedStore(Store):
    """A store as it is used with the keys of one ring: only if they are, or may be, the keys of the realm."""

    def __init__(self, store: Store, keyring: Keyring, realm: str) -> None:
        self.durable = store.durable
        self._store = store
        self._keyring = keyring
        self._realm = realm
        self._checked = False  # for reads
        self._accepted: KeySet | None = None  # for saves

    def save(
        self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()
    ) -> Coroutine[Any, Any, None]:
        if self._accepted is self._keyring.key_set:
            return self._store.save(record, add=add, drop=drop)
        return self._check_and_save(record, add, drop)

    async def _check_and_save(self, record: Record, add: Sequence[Use], drop: Sequence[UseName]) -> None:
        keys = self._keyring.key_set
        own = KeyIds.of(keys)
        if not self._keyring.saved:  # lost with the process, by choice: the store does not remember such keys
            await self._check()
        elif await _change(self._store, self._realm, lambda ids: self._joined(ids, own)):
            self._checked, self._accepted = True, keys
        await self._store.save(record, add=add, drop=drop)

    def load(self, flow_id: str) -> Coroutine[Any, Any, Record]:
        return self._store.load(flow_id) if self._checked else self._check_and_load(flow_id)

    async def _check_and_load(self, flow_id: str) -> Record:
        await self._check()
        return await self._store.load(flow_id)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        if not self._checked:
            await self._check()
        async for record in self._store.scan(query, limit=limit):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._store.changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        return await self._store.purge(realm, before, limit)

    async def aclose(self) -> None:
        await self._store.aclose()

    async def _check(self) -> None:
        keys = self._keyring.key_set
        _, ids = await _load(self._store, self._realm)
        joined = self._joined(ids, KeyIds.of(keys))
        self._checked = True
        if joined == ids or not self._keyring.saved:
            self._accepted = keys

    def _joined(self, ids: KeyIds, own: KeyIds) -> KeyIds:
        if ids.lookup and own.lookup.isdisjoint(ids.lookup):
            raise KeyringError(f"these keys are {own}, but {_told(self._realm, ids)}")
        return KeyIds(seal=ids.seal | own.seal, lookup=ids.lookup | own.lookup)


def _told(realm: str, ids: KeyIds) -> str:
    return (
        f"realm {printable(realm)} of the store is used with the keys {ids}: put their file back, set RESET_FLOW_KEYS "
        "to it, and start again; if it is lost, so are these flows: take another realm, or an empty store"
    )


async def _change(store: Store, realm: str, changed: Callable[[KeyIds], KeyIds]) -> bool:
    """Change the record. Return False if others change it all the time."""
    for _ in range(RACES):
        record, ids = await _load(store, realm)
        if (wanted := changed(ids)) == ids:
            return True
        body = msgspec.json.encode(wanted, order="deterministic")
        version, replaced = (record.version, record.write_id) if record else (0, b"")
        newer = Record(
            realm=key_realm(realm),
            id=_id(realm),
            version=version + 1,
            state=State.REQUESTED,
            # Made of what it writes: many tasks and workers do it at once, and all of them have done it then.
            write_id=hashlib.sha256(replaced + body).digest()[:WRITE_ID_BYTES],
            replaces=replaced,
            body=body,
        )
        with suppress(StaleRecord), forget_causes:
            await store.save(newer)
            return True
    return False


async def _load(store: Store, realm: str) -> tuple[Record | None, KeyIds]:
    try:
        with forget_causes:
            record = await store.load(_id(realm))
    except FlowNotFound:
        return None, KeyIds()
    with suppress(ValueError):  # also of a text in it that is no UTF-8
        return record, msgspec.json.decode(record.body, type=KeyIds)
    logger.error("the store does not know the keys of realm %s any more: that record was changed", printable(realm))
    return record, KeyIds()


def _id(realm: str) -> str:
    return spell(hashlib.sha256(key_realm(realm).encode()).digest()[:ID_BYTES])

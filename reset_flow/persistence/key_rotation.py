"""
From an old key to a new one while flows run: add it, let every worker read it, write with it, reseal, remove the old.

The id of its key stands in front of a sealed body: counting opens nothing, and needs no key.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs
from msgspec.structs import replace

from reset_flow.domain.errors import KeyringError
from reset_flow.persistence import key_file, key_record
from reset_flow.persistence.batches import change_all, ignore, record_batches
from reset_flow.persistence.key_file import DELAY
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import new_write_id, opened, sealed
from reset_flow.persistence.side_records import side_realm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reset_flow.persistence.batches import Progress
    from reset_flow.persistence.key_file import Key
    from reset_flow.ports import Record, Store


@attrs.frozen(kw_only=True)
class ResealReport:
    """
    The result of a pass through a realm.

    Attributes:
        resealed: Records that were saved again.

        waiting: Flows with a call under way, or whose worker died in a call: left to the next pass.

        unreadable: Records that can't be opened; they are left as they are.
    """

    resealed: int = 0
    waiting: int = 0
    unreadable: int = 0


def rotate(path: Path, *, delay: timedelta = DELAY, shared: bool = False) -> Key:
    """Add a key to a file, and return it. It writes after the delay: by then, every worker must have read the file."""
    return key_file.change(path, lambda keys: keys.rotated(delay), shared=shared).seal[-1]


async def remove(
    path: Path,
    key_id: str,
    store: Store,
    realms: Iterable[str],
    *,
    settled: timedelta = DELAY,
    shared: bool = False,
) -> None:
    """Remove a key from a file, once a newer one has been writing for as long as `settled`."""
    keys = key_file.change(path, lambda keys: keys, shared=shared)  # as a removal that was broken off has left them
    safe_at = keys.superseded_at(key_id) + settled
    if datetime.now(UTC) < safe_at:
        raise KeyringError(f"a worker may still write with key {key_id} until {safe_at:%H:%M:%S} UTC: remove it then")
    realms = tuple(realms)
    for realm in realms:
        if records := (await sealed_with(store, realm))[key_id]:
            raise KeyringError(
                f"key {key_id} seals {records} records of realm {realm}: "
                "run `reset-flow keys reseal` until it seals none"
            )
    key_file.change(path, lambda keys: keys.without(key_id), shared=shared)
    for realm in realms:
        await key_record.forget(store, realm, key_id)


async def sealed_with(store: Store, realm: str) -> Counter[str]:
    """Count the records of a realm by the id of the key that seals them, side records included."""
    records = Counter[str]()
    async for batch in record_batches(store, realm, side_realm(realm)):
        records.update(Keyring.key_of(record.body) for record in batch)
    return records


async def reseal(store: Store, keyring: Keyring, realm: str, progress: Progress = ignore) -> ResealReport:
    """Seal every record again that is not sealed with the key that writes now: to workers, a save as any other."""
    keyring.refresh()

    async def again(record: Record) -> str:
        if keyring.key_of(record.body) == keyring.writes.id:
            return "newest"
        if record.lease is not None:
            # Another version would take the outcome of the call from the worker that makes it.
            return "waiting"
        version, replaced = record.version + 1, record.write_id
        newer = replace(record, version=version, write_id=new_write_id(), replaces=replaced, lease_left=None)
        try:
            newer = sealed(newer, opened(record, keyring), keyring)
        except ValueError:
            return "unreadable"
        await store.save(newer)
        return "resealed"

    results = await change_all(store, realm, side_realm(realm), change=again, progress=progress)
    return ResealReport(**{each.name: results[each.name] for each in attrs.fields(ResealReport)})

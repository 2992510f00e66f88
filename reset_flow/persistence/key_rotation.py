"""
From an old key to a new one while flows run: add, let every worker see it, write with it, reseal, remove.

What a record is sealed with is read from the front of its body: counting opens nothing, and needs no key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from reset_flow.domain.errors import FlowNotFound, KeyringError, RecordUnreadable, StaleRecord
from reset_flow.persistence import key_file
from reset_flow.persistence.key_file import DELAY
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.side_records import reseal_side_record, side_realm
from reset_flow.ports import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from reset_flow.persistence.key_file import Key, KeySet
    from reset_flow.persistence.repository import FlowRepository
    from reset_flow.ports import Record, Store

__all__ = ["ResealReport", "remove", "reseal", "rotate", "sealed_with"]

PIECE = 256
AT_ONCE = 32
RACES = 5
"""How often a flow that others save meanwhile is looked at again before it is left to the next pass."""

Done: TypeAlias = Literal["resealed", "waiting", "unreadable", "moved"]


@attrs.frozen(kw_only=True)
class ResealReport:
    """
    What a pass through a realm came to.

    Attributes:
        resealed: Flows that were saved again.

        waiting: Flows that a call is under way for, or was when a process died: the next pass does them.

        unreadable: Records that can't be opened; they are left as they are.
    """

    resealed: int = 0
    waiting: int = 0
    unreadable: int = 0


def rotate(path: Path, *, delay: timedelta = DELAY) -> Key:
    """
    Add a key to a file. -> the key

    Args:
        delay: From when on it writes. By then, every worker must have read the file.

    Raises:
        KeyringError: The file can't be read or written.
    """
    return key_file.change(path, lambda keys: keys.rotated(datetime.now(UTC), delay)).seal[-1]


async def remove(path: Path, key_id: str, store: Store, realms: Iterable[str], *, settled: timedelta = DELAY) -> None:
    """
    Take a key out of a file.

    Args:
        realms: All that have flows under these keys: what is sealed in another one can't be seen from here.

        settled: How long a newer key must have been writing: until then, a worker that does not know it may write with
            the old one.

    Raises:
        KeyringError: The key is needed: it writes, or may, or flows are sealed with it; or the file can't be used.
        StoreUnavailable: Nobody can say whether it is needed.
    """
    now = datetime.now(UTC)
    safe_at = key_file.read(path)[0].superseded_at(key_id, now) + settled
    if now < safe_at:
        raise KeyringError(f"a worker may still write with key {key_id} until {safe_at:%H:%M:%S} UTC: remove it then")
    for realm in realms:
        if records := (await sealed_with(store, realm))[key_id]:
            raise KeyringError(
                f"key {key_id} seals {records} records of realm {realm}: "
                "run `reset-flow keys reseal` until it seals none"
            )

    def smaller(keys: KeySet) -> KeySet:
        return keys.without(key_id, datetime.now(UTC))

    key_file.change(path, smaller)


async def sealed_with(store: Store, realm: str) -> Counter[str]:
    """Count the records of a realm by the id of the key that seals them, side records included."""
    flows = Counter[str]()
    for each in (realm, side_realm(realm)):
        async for piece in _pieces(store, each):
            flows.update(Keyring.key_of(record.body) for record in piece)
    return flows


async def reseal(repository: FlowRepository, store: Store, keyring: Keyring, realm: str) -> ResealReport:
    """
    Save every flow again that is not sealed with the key that writes now, those that have ended included.

    Safe at any time and in any number of processes: whoever works on a flow meanwhile looks at it again, as after any
    other save. A pass that is broken off is gone on with by the next.

    Args:
        repository: Of this store, these keys and this realm.

    Raises:
        StoreUnavailable: The store went away; what was done is done.
    """
    keyring.refresh()
    done = Counter[Done]()
    async for piece in _pieces(store, realm):
        old = [record.id for record in piece if _old(record, keyring)]
        for at in range(0, len(old), AT_ONCE):
            work = (_reseal(flow_id, repository, store, keyring) for flow_id in old[at : at + AT_ONCE])
            # All are waited for: none is to go on by itself once the store has failed another.
            results = await asyncio.gather(*work, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                done[result] += 1
    async for piece in _pieces(store, side_realm(realm)):
        for record in piece:
            if _old(record, keyring):
                done[await _reseal_side_record(record, store, keyring)] += 1
    return ResealReport(resealed=done["resealed"], waiting=done["waiting"], unreadable=done["unreadable"])


def _old(record: Record, keyring: Keyring) -> bool:
    return keyring.key_of(record.body) != keyring.writes.id


async def _reseal(flow_id: str, repository: FlowRepository, store: Store, keyring: Keyring) -> Done:
    for race in range(RACES):
        try:
            if race and not _old(await store.load(flow_id), keyring):
                return "moved"
            flow = (await repository.load(flow_id)).flow
            if flow.intent:
                # Another version under it would take the call's outcome from whoever waits for that.
                return "waiting"
            await repository.save(repository.record(flow))
        except StaleRecord:
            continue
        except FlowNotFound:  # purged
            return "moved"
        except RecordUnreadable:
            return "unreadable"
        return "resealed"
    return "waiting"


async def _reseal_side_record(record: Record, store: Store, keyring: Keyring) -> Done:
    try:
        await reseal_side_record(record, store, keyring)
    except StaleRecord:  # another worker was faster, and sealed it anew
        return "moved"
    except ValueError:
        return "unreadable"
    return "resealed"


async def _pieces(store: Store, realm: str) -> AsyncIterator[list[Record]]:
    """All records of a realm; no reading of the store stays open while they are worked on."""
    after = ""
    while piece := [record async for record in store.scan(Query(realm=realm, after=after), limit=PIECE)]:
        yield piece
        after = piece[-1].id

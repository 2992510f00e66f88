"""What an operator does with store and keys alone, without a broker."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from reset_flow.domain import validation
from reset_flow.domain.decide import ERASED_AT, Erased, Lifted, decide
from reset_flow.domain.errors import ConfigurationError, InvalidInput, RecordUnreadable
from reset_flow.domain.policy import Policy
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical
from reset_flow.domain.times import MICROSECOND, NO_TIME
from reset_flow.engine.context import in_utc, moments, system_clock, worker_names
from reset_flow.persistence import key_rotation
from reset_flow.persistence.batches import change_all, ignore, purge
from reset_flow.persistence.key_file import DELAY, Key
from reset_flow.persistence.key_record import KeyedStore
from reset_flow.persistence.repository import FlowRepository
from reset_flow.persistence.side_records import side_realm
from reset_flow.ports import UseName

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncGenerator, Callable, Iterable
    from datetime import timedelta

    from reset_flow.domain.flow import Flow
    from reset_flow.persistence.batches import Progress
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Clock, Record, Store
    from reset_flow.stores.sqlite import SQLiteStore

__all__ = ["Admin", "ChangeReport", "Key", "backup", "restore", "rotate_keys"]

audit = logging.getLogger("reset_flow.audit")

EVERYTHING = 2**31 - 1


@attrs.frozen(kw_only=True)
class ChangeReport:
    """
    The result of a pass through a realm for one person.

    Attributes:
        changed: Flows of the person that were changed.

        waiting: Flows of the person with a call under way: left to the next pass.

        unreadable: Records of any person that can't be opened; they are left as they are.
    """

    changed: int = 0
    waiting: int = 0
    unreadable: int = 0


class Admin:
    """
    Looks after the flows of one realm. With keys that are not those of the realm, it can only purge and count.

    Use it as an async context manager: it closes the store with itself. Workers may run meanwhile. Each change is
    written to the audit log, `reset_flow.audit`, without any login. Long work takes `progress`, which is called after
    each batch with its number of records.

    Args:
        worker: The name in the audit log; host and process id unless given.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        *,
        realm: str = "default",
        clock: Clock = system_clock,
        worker: str | None = None,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._realm = validation.name(realm, "realm")
        self._now = in_utc(clock)
        self._name_worker = worker_names(validation.name(worker, "worker") if worker else None)
        self._moment = moments(self._now, self._name_worker)
        self._keyed = KeyedStore(store, keyring, self._realm)
        # What it saves has no intent, so the lease is never taken.
        self._repository = FlowRepository(self._keyed, keyring, self._realm, Policy().lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def flows(
        self, *, tag: str | Secret | None = None, running: bool = False
    ) -> AsyncGenerator[Flow | RecordUnreadable, None]:
        """
        Go through the flows of the realm as they are stored; a record that can't be read comes as the error. With a
        tag, only those that were started with it, the newest first (else in no order); `running`: only those that have
        not ended.
        """
        tag = validation.hidden(tag)
        of_tag = None if tag is None else self._keyring.lookups(self._realm, "tag", validation.name(tag, "tag"))
        for lookup in of_tag or (None,):
            async for found in self._repository.scan(limit=EVERYTHING, lookup=lookup):
                if isinstance(found, RecordUnreadable):
                    yield found
                elif not (running and found.flow.state.ended):
                    yield found.view(self._now())

    async def get(self, flow_id: str) -> Flow:
        """Return a flow as it is stored, with its history. Raises as `ResetService.get`, but ends nothing expired."""
        return (await self._repository.load(flow_id)).view(self._now())

    async def sealed_with(self) -> Counter[str]:
        """Count the records of the realm by the id of the key that seals them, side records included."""
        return await key_rotation.sealed_with(self._store, self._realm)

    async def reseal(self, *, progress: Progress = ignore) -> key_rotation.ResealReport:
        """Seal every record of the realm, side records included, with the newest key: older ones can then go."""
        report = await key_rotation.reseal(self._keyed, self._keyring, self._realm, progress)
        if report.resealed:
            self._log(f"realm {self._realm}: {report.resealed} records resealed with key {self._keyring.writes.id}")
        return report

    async def remove_key(
        self, path: str | Path, key_id: str, *, realms: Iterable[str] = (), at_once: bool = False
    ) -> None:
        """
        Remove a sealing key from a key file.

        Args:
            realms: The other realms that use the file: records of realms that are not named are not looked at.

            at_once: Do not wait until every worker has read the file: what a worker that has not seals meanwhile may
                be lost.

        Raises:
            KeyringError: The key is needed (it writes, or may, or seals records), or the file can't be used.
        """
        every = dict.fromkeys((self._realm, *realms))
        settled, shared = NO_TIME if at_once else DELAY, self._keyring.shared
        await key_rotation.remove(Path(path), key_id, self._store, every, settled=settled, shared=shared)
        self._log(f"key {key_id} removed")

    async def purge(self, older_than: timedelta, *, progress: Progress = ignore) -> int:
        """
        Delete the flows that ended longer ago than this, and the side records whose lifetime is over. Return how many
        flows. A listener that was not told of the end of such a flow never is.

        Raises:
            InvalidInput: The length is below zero, or reaches back before all time.
        """
        now = self._now()
        try:
            before = now - older_than if older_than >= NO_TIME else None
        except (OverflowError, TypeError):
            before = None
        if before is None:
            raise InvalidInput("older_than: it must be a timedelta of zero or more that does not reach back to year 1")
        purged = await purge(self._store, self._realm, before, progress=progress)
        await purge(self._store, side_realm(self._realm), now)
        if purged:
            self._log(f"realm {self._realm}: {purged} flows that had ended before {before} purged")
        return purged

    async def lift(self, user: str | Secret, *, progress: Progress = ignore) -> ChangeReport:
        """
        Lift the budgets of one person at once: wrong guesses and starts that the flows of the realm have counted no
        longer count. The user is found by any spelling that differs from what was given to `start` in case, width and
        outer space. A flow that was purged since can't be found; its uses expire by themselves.
        """
        user = Secret(user)  # frames are logged
        return await self._change_flows_of(user, Lifted(), progress)

    async def erase(self, user: str | Secret, *, progress: Progress = ignore) -> ChangeReport:
        """
        Delete all that the store keeps of one login in this realm, given as for `lift`: its flows, running ones
        included, and their uses of budgets.

        A flow that is started meanwhile may be missed, and one with a call under way is left: repeat until nothing is
        `waiting`. Copies of the store are not reached, nor are side records of surfaces, which expire.
        """
        user = Secret(user)
        report = await self._change_flows_of(user, Erased(), progress)
        # Also those that an interrupted pass has left.
        await purge(self._store, self._realm, ERASED_AT + MICROSECOND)
        return report

    async def _change_flows_of(self, user: Secret, event: Lifted | Erased, progress: Progress) -> ChangeReport:
        wanted = Secret(canonical(validation.user(user)).strip())
        lifting = isinstance(event, Lifted)

        async def change(record: Record) -> str:
            try:
                found = self._repository.open(record)
            except RecordUnreadable:
                return "unreadable"
            flow = found.flow
            if canonical(flow.user).strip() != wanted.reveal() or (lifting and not flow.all_uses and not flow.intent):
                return "nothing to do"
            if flow.intent and (found.busy or lifting):
                # Another version would take the outcome of the call from the worker that makes it.
                return "waiting"
            # Without the reserve for the next guess: how many uses a budget holds is the service's policy to say.
            decision = decide(flow, event, self._moment()).without_optional()
            drop = [UseName(key, use.id) for use in decision.drop for _, key in flow.budget_keys(use)]
            await self._repository.save(self._repository.record(decision.flow, decision.write_id), drop=drop)
            self._log(f"flow {flow.id}: {'budgets lifted' if lifting else 'erased'}")
            return "changed"

        results = await change_all(self._keyed, self._realm, change=change, progress=progress)
        return ChangeReport(**{each.name: results[each.name] for each in attrs.fields(ChangeReport)})

    def _log(self, what: str) -> None:
        _log(what, self._name_worker)


def _log(what: str, name_worker: Callable[[], str] | None = None) -> None:
    audit.info("%s (%s)", what, (name_worker or worker_names())())


def rotate_keys(path: str | Path, *, at_once: bool = False, shared: bool = False) -> Key:
    """
    Add a sealing key to a key file, and return it. It writes once every worker has read it, or `at_once`.

    Args:
        shared: Accept a file that others can read, as `Keyring.from_file` does.

    Raises:
        KeyringError: The file can't be read or written.
    """
    key = key_rotation.rotate(Path(path), delay=NO_TIME if at_once else DELAY, shared=shared)
    _log(f"key {key.id} added")
    return key


async def backup(store: Store, path: str | Path) -> None:
    """
    Copy all that a store of SQLite holds, every realm and side records included, to a new file. Workers may go on
    meanwhile. What servers keep is backed up by their own tools: docs/backup.md.

    Raises:
        ConfigurationError: The file exists, or the store is another one.
        StoreUnavailable: The store can't be read, or the file can't be written.
    """
    await _file_store(store).backup(path)
    _log(f"the store was copied to {path}")


async def restore(store: Store, path: str | Path) -> None:
    """
    Replace all that a store of SQLite holds by a backup. The store makes its file if it is missing. End the workers
    before: docs/backup.md says what an older state means for e-mails, codes and budgets.

    Raises:
        ConfigurationError: The file is no backup of such a store, or is damaged, or the store is another one.
        StoreUnavailable: The file can't be read, or the store can't be written.
    """
    await _file_store(store).restore(path)
    _log(f"the store was replaced by the backup {path}")


def _file_store(store: Store) -> SQLiteStore:
    from reset_flow.stores.sqlite import SQLiteStore  # noqa: PLC0415 - nobody else needs the driver

    if not isinstance(store, SQLiteStore):
        raise ConfigurationError(
            f"a {type(store).__name__} is backed up and restored by the tools of its server: docs/backup.md"
        )
    return store

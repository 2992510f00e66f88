"""Flow data in, sealed records out, and back: with side records, the only place where a store and a keyring meet."""

from __future__ import annotations

import os
import re
from base64 import b32hexencode
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct, msgpack
from msgspec.structs import replace

from reset_flow.domain import rules
from reset_flow.domain.errors import FlowNotFound, RecordUnreadable
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.state_machine import COMMANDS
from reset_flow.domain.times import NO_TIME
from reset_flow.observability.tracing import NullTracer
from reset_flow.persistence import codec
from reset_flow.persistence.keyring import UnknownKeyError
from reset_flow.ports import Query, Record
from reset_flow.tracebacks import forget_causes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from reset_flow.domain.flow import Flow
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Store, Use, UseName

ID_BYTES = 16
WRITE_ID_BYTES = 8
LONGEST_ID = 64
POSSIBLE_ID = re.compile(f"[0-9a-z]{{1,{LONGEST_ID}}}")

_FORM = msgpack.Encoder()


class Found(Struct, frozen=True, gc=False):
    """
    Flow data as it was just loaded.

    Attributes:
        busy: How long the worker that announced its intent may still be calling, by the store's clock; zero: no longer.
    """

    flow: FlowData
    busy: timedelta

    def view(self, now: datetime) -> Flow:
        """Return the flow as embedders see it at this moment."""
        return rules.view(self.flow, now + self.busy if self.busy else None)


def new_id() -> str:
    """Return an id that nobody can guess, and that names nothing."""
    return spell(os.urandom(ID_BYTES))


def new_write_id() -> bytes:
    """Return 8 random bytes."""
    return os.urandom(WRITE_ID_BYTES)


def spell(name: bytes) -> str:
    """Return bytes as the id of a record: in base32hex, lower-case, without padding."""
    return b32hexencode(name).decode().rstrip("=").lower()


def _is_possible(flow_id: object) -> bool:
    """Return whether a flow could have this id. Strangers may ask for anything, and no store is troubled with it."""
    return isinstance(flow_id, str) and POSSIBLE_ID.fullmatch(flow_id) is not None


def associated_data(record: Record) -> bytes:
    """Return every clear column that the library sets, in one form, for a body to be sealed beside."""
    return _FORM.encode(
        (
            record.realm,
            record.id,
            record.version,
            record.state,
            record.due_at,
            record.ended_at,
            record.lease,
            record.lookups,
            record.write_id,
        )
    )


def sealed(record: Record, body: bytes, keyring: Keyring) -> Record:
    """Return the record with this body, sealed beside its clear columns."""
    return replace(record, body=keyring.seal(record.realm, record.id, body, associated_data(record)))


def opened(record: Record, keyring: Keyring) -> bytes:
    """
    Return the body of a record as it was before it was sealed.

    Raises:
        ValueError: The body or a clear column was changed, or its key is not in the ring.
    """
    return keyring.open(record.realm, record.id, record.body, associated_data(record))


class FlowRepository:
    """
    The flows of one realm.

    Args:
        lease: How long a worker may be busy with the call of an intent.

        listeners: The names of those that this process has.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        realm: str,
        lease: timedelta,
        tracer: SafeTracer | None = None,
        *,
        listeners: Collection[str] = (),
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._realm = realm
        self._lease = lease
        self._tracer = tracer or NullTracer()
        self._listeners = frozenset(listeners)

    def record(self, flow: FlowData, write_id: bytes | None = None, *, not_before: datetime | None = None) -> Record:
        """
        Return the record that makes this flow data the next version. Saving it twice is saving it once.

        Args:
            not_before: A flow that has ended, and is due for its listeners, is due at this time at the earliest.
        """
        due_at = self._due_at(flow)
        if due_at and not_before:
            due_at = max(due_at, not_before)
        record = Record(
            realm=self._realm,
            id=flow.id,
            version=flow.version + 1,
            state=flow.state,
            due_at=due_at,
            ended_at=flow.ended_at,
            lease=self._lease if flow.intent else None,
            lookups=flow.lookups,
            write_id=write_id or new_write_id(),
            replaces=flow.write_id,
            body=b"",
        )
        return sealed(record, codec.encode(flow), self._keyring)

    def _due_at(self, flow: FlowData) -> datetime | None:
        if flow.ended_at is None:
            return flow.expires_at
        if not flow.undelivered:
            return None
        # The worker that ended it tells its own listeners at once: others need to look only if it can't.
        return flow.ended_at + self._lease if self._listeners.issuperset(flow.undelivered) else flow.ended_at

    async def save(self, record: Record, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        """Save a record and change uses; the errors are the store's."""
        with forget_causes:
            saving = self._store.save(record, add=add, drop=drop)
            await self._tracer.during(saving, "save", state=record.state, uses=len(add))

    async def load(self, flow_id: str) -> Found:
        """
        Load one flow of this realm.

        Raises:
            FlowNotFound: There is none, or it is another realm's.
            RecordUnreadable: It can't be opened.
        """
        if not _is_possible(flow_id):
            raise FlowNotFound(flow_id)
        with forget_causes:
            record = await self._store.load(flow_id)
        if record.id != flow_id:
            raise RecordUnreadable(flow_id, "the store gave another flow's")
        found = self.open(record)
        if record.realm != self._realm:
            raise FlowNotFound(flow_id)
        return found

    async def scan(
        self, *, limit: int, due: bool = False, lookup: bytes | None = None, after: str = ""
    ) -> AsyncIterator[Found | RecordUnreadable]:
        """Go through flows of this realm, as `Query` says; a record that can't be opened comes as the error."""
        query = Query(realm=self._realm, due=due, lookup=lookup, after=after)
        with forget_causes:
            async for record in self._store.scan(query, limit=limit):
                try:
                    yield self.open(record)
                except RecordUnreadable as error:
                    yield error

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """Return once a newer version is stored, or when the time is up."""
        with forget_causes:
            await self._store.changed(flow_id, version, timeout)

    def open(self, record: Record) -> Found:
        """
        Open a record.

        Raises:
            RecordUnreadable: Its key is not in the ring, it was changed, or another release wrote it.
            FlowNotFound: It is of another realm, under keys that are not in the ring.
        """
        try:
            # Opened into no variable: whoever logs this frame with its locals must not find it.
            flow = codec.decode(opened(record, self._keyring), record)
            left = record.lease_left
            if flow.intent is None or flow.intent.command in COMMANDS:
                return Found(flow, busy=max(left or NO_TIME, NO_TIME))
            why = "it is busy with a command that this release does not know"
        except UnknownKeyError as error:
            if record.realm != self._realm:
                raise FlowNotFound(record.id) from None
            why = str(error)
        except ValueError as error:
            why = str(error)
        raise RecordUnreadable(record.id, why)

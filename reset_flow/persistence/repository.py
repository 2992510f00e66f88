"""Dossiers in, sealed records out, and back: the only place where a store and a keyring meet."""

from __future__ import annotations

import secrets
from base64 import b32hexencode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import force_setattr

from reset_flow.domain.errors import FlowNotFound, RecordUnreadable, StoreError
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.state_machine import COMMANDS
from reset_flow.observability.tracing import NullTracer
from reset_flow.persistence import codec
from reset_flow.persistence.keyring import UnknownKeyError
from reset_flow.ports import Query, Record
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.keyring import Keyring
    from reset_flow.ports import Charge, Store

__all__ = ["FlowRepository", "Found", "associated", "new_id", "new_write_id", "spelled"]

ID_DIGITS = 26
WRITE_ID_BYTES = 8
DIGITS = b"0123456789abcdefghijklmnopqrstuv" * 8
"""Of base32hex, one for each byte: as random as the bytes are."""
NO_TIME, MICROSECOND = timedelta(0), timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Found(Struct, frozen=True, gc=False):
    """
    Flow data as it was just loaded.

    Attributes:
        write_id: Of the save that it comes from.

        busy: How long whoever announced its intent may still be at it, by the store's clock; nothing: no longer.
    """

    data: FlowData
    write_id: bytes
    busy: timedelta


def new_id() -> str:
    """An id that nobody can guess, and that names nothing."""
    return secrets.token_bytes(ID_DIGITS).translate(DIGITS).decode()


def new_write_id() -> bytes:
    """Return 8 random bytes, which tell one save from every other."""
    return secrets.token_bytes(WRITE_ID_BYTES)


def spelled(name: bytes) -> str:
    """The id of a record that is named by these bytes: in base32hex, small, and without padding."""
    return b32hexencode(name).decode().rstrip("=").lower()


def associated(record: Record) -> bytes:
    """Every clear column that the library sets, in one form: what a body is sealed beside."""
    due, ended, lease = record.due_at, record.ended_at, record.lease
    # The realm alone is free text; its length in front keeps it from running into its neighbour.
    return (
        f"{len(record.realm)}\n{record.realm}\n{record.id}\n{record.version}\n{record.state}\n"
        f"{'' if due is None else (due - EPOCH) // MICROSECOND}\n"
        f"{'' if ended is None else (ended - EPOCH) // MICROSECOND}\n"
        f"{'' if lease is None else lease // MICROSECOND}\n"
        f"{b''.join(record.lookups).hex() if record.lookups else ''}\n{record.write_id.hex()}"
    ).encode()


class FlowRepository:
    """The flows of one realm."""

    def __init__(
        self, store: Store, keyring: Keyring, realm: str, lease: timedelta, tracer: SafeTracer | None = None
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._realm = realm
        self._lease = lease
        self._tracer = tracer or NullTracer()

    def record(self, data: FlowData, write_id: bytes | None = None) -> Record:
        """
        The record that makes this data the next version. Saving the same one twice is saving it once.

        Args:
            write_id: Of the record that this one is saved instead of: of the two, no more than one is.
        """
        record = Record(
            realm=self._realm,
            id=data.id,
            version=data.version + 1,
            state=data.state,
            due_at=self._due_at(data),
            ended_at=data.ended_at,
            lease=self._lease if data.intent else None,
            lookups=data.lookups,
            write_id=write_id or new_write_id(),
            body=b"",
        )
        body = self._keyring.seal(self._realm, data.id, codec.encode(data), associated(record))
        # Nobody has seen the record yet: putting the body in costs a tenth of making another one.
        force_setattr(record, "body", body)
        return record

    def _due_at(self, data: FlowData) -> datetime | None:
        if data.ended_at is None:
            return data.expires_at
        # Whoever ended it tells the listeners at once; others need to look only if that one can't.
        return data.ended_at + self._lease if data.owed else None

    async def save(self, record: Record, charges: Sequence[Charge] = ()) -> None:
        """Keep it; the errors are the store's."""
        try:
            saving = self._store.save(record, charges=charges)
            await self._tracer.during(saving, "save", state=record.state, charges=len(charges))
        except StoreError as error:
            forget_frames(error.__cause__ or error.__context__)
            raise

    async def load(self, flow_id: str) -> Found:
        """
        One flow of this realm.

        Raises:
            FlowNotFound: There is none, or it is another realm's.
            RecordUnreadable: It can't be opened.
        """
        if not isinstance(flow_id, str):
            raise FlowNotFound(flow_id)
        try:
            record = await self._store.load(flow_id)
        except StoreError as error:
            forget_frames(error.__cause__ or error.__context__)
            raise
        if record.id != flow_id:
            raise RecordUnreadable(flow_id, "the store gave another flow's")
        found = self._open(record)
        if record.realm != self._realm:
            raise FlowNotFound(flow_id)
        return found

    async def scan(
        self, *, limit: int, due: bool = False, lookup: bytes | None = None, after: str = ""
    ) -> AsyncIterator[Found | RecordUnreadable]:
        """Flows of this realm, as `Query` picks and orders them; what can't be opened comes as the error."""
        query = Query(realm=self._realm, due=due, lookup=lookup, after=after)
        async for record in self._store.scan(query, limit=limit):
            try:
                yield self._open(record)
            except RecordUnreadable as error:
                yield error

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        """Return once a newer version is stored, or when the time is up."""
        await self._store.changed(flow_id, version, timeout)

    async def purge(self, before: datetime, limit: int) -> int:
        """Delete flows of this realm that ended before then, at most so many. -> how many"""
        return await self._store.purge(self._realm, before, limit)

    def _open(self, record: Record) -> Found:
        try:
            # Opened into no variable: whoever logs this frame with its locals must not find it.
            data = codec.decode(self._keyring.open(record.realm, record.id, record.body, associated(record)), record)
            left = record.lease_left
            if data.intent is None or data.intent.command in COMMANDS:
                return Found(data, record.write_id, busy=max(left or NO_TIME, NO_TIME))
            why = "it is busy with a command that this release does not know"
        except UnknownKeyError as error:
            if record.realm != self._realm:
                raise FlowNotFound(record.id) from None
            why = str(error)
        except ValueError as error:
            why = str(error)
        raise RecordUnreadable(record.id, why)

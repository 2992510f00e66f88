"""
Flows in PostgreSQL, for any number of workers.

A round trip and a commit cost more than the work in them. So all saves that wait are done by one call of a function in
one transaction, while the next ones gather; likewise loads.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from reset_flow.domain import validation
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, InvalidInput, StaleRecord
from reset_flow.ports import Store
from reset_flow.stores.postgres.address import read_address
from reset_flow.stores.postgres.connections import Pool
from reset_flow.stores.postgres.rows import is_storable, notification_name, to_save
from reset_flow.stores.postgres.session import Session
from reset_flow.stores.rows import PAGE, Place, micros, scan_pages, to_record
from reset_flow.stores.session import SessionHolder
from reset_flow.stores.statements import statements
from reset_flow.stores.uses import limit_reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from reset_flow.domain.secret import Secret
    from reset_flow.ports import Query, Record, Use, UseName

PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}")

PURGE_BATCH = 256
"""How many rows a purge deletes in one transaction."""


class PostgresStore(Store):
    """
    Keeps records in tables of a PostgreSQL database (12 or newer, UTF-8), which its first save creates if need be.

    Any number of processes may share them. A store is used by one event loop at a time, and opened after a fork, not
    before. A save that returned is on disk (`synchronous_commit` is never off). A scan skips rows that were damaged
    beyond reading; `load` raises `RecordUnreadable` for them. A call raises `ConfigurationError` where the tables can't
    be created, or are those of a newer release. A pooler in between may pool by session or by transaction.

    Args:
        dsn: `postgresql://user:password@host/database`, with options of libpq (docs/stores.md); shown in no message.

        prefix: Begins the names of the tables, which are in the first schema of the user's search path.

        connections: How many scans and purges use at most. Saves, loads and notifications have one more each.

        connect_timeout: How long connecting may take, before `StoreUnavailable`.

        statement_timeout: How long a statement may take, before `StoreUnavailable`.

        clock: For tests: judges leases and uses instead of the server's clock.
    """

    durable = True

    def __init__(
        self,
        dsn: str | Secret,
        *,
        prefix: str = "reset_flow",
        connections: int = 2,
        connect_timeout: timedelta = timedelta(seconds=5),
        statement_timeout: timedelta = timedelta(seconds=10),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        dsn = validation.address(dsn, "the dsn of a PostgresStore")  # a logged frame would show the text
        address = read_address(dsn)
        if not PREFIX.fullmatch(prefix):
            raise ConfigurationError("a prefix has at most 40 of a-z, 0-9 and _, and does not begin with a digit")
        if connections < 1 or min(connect_timeout, statement_timeout) <= timedelta(0):
            raise ConfigurationError("connections and timeouts must be above zero")
        setup = statements("postgres", prefix)["setup"]
        connect_seconds = float(address.connect_timeout or connect_timeout.total_seconds())
        pool = partial(Pool, address, connect_seconds, statement_timeout.total_seconds(), setup, address.pooled)
        self._sessions = SessionHolder(partial(Session, pool, prefix, connections, self._now), Session.close)
        self._clock = clock

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        session = self._sessions.get()
        failure = await session.saves.run(to_save(record, add, drop))
        if failure is None:
            session.notifications.wake(notification_name(record.id))
        elif failure["refused"] is None:
            raise StaleRecord(record.id, record.version)
        else:
            raise limit_reached(dict(zip(failure["refused"], failure["waits"], strict=True)))

    async def load(self, flow_id: str) -> Record:
        session = self._sessions.get()
        row = await session.loads.run(flow_id) if is_storable(flow_id) else None
        if row is None:
            raise FlowNotFound(flow_id)
        return to_record(row, row["present"])

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        if not is_storable(query.after):
            raise InvalidInput("no id is like the one to go on from")
        if not is_storable(query.realm):
            return

        async def fetch(statement: str, place: Place) -> list[Any]:
            after, number, due = place
            values = {
                "scan_due": (query.realm, due, number),
                "scan_lookup": (query.lookup, number),
                "scan_ids": (after,),
            }
            return await self._sessions.get().fetch(statement, self._now(), *values[statement], PAGE)

        async for record in scan_pages(query, limit, fetch, lambda row: to_record(row, row["present"])):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._sessions.get().notifications.wait(
            notification_name(flow_id), version, timeout, partial(self.load, flow_id)
        )

    async def purge(self, realm: str, before: datetime, limit: int) -> int:
        purged = 0
        while purged < limit and is_storable(realm):
            size = min(limit - purged, PURGE_BATCH)
            session = self._sessions.get()
            gone = await session.fetch("purge_flows", realm, micros(before), size)
            purged += len(gone)
            for (flow_id,) in gone:
                session.notifications.wake(notification_name(flow_id))
            if len(gone) < size:
                break
        while len(await self._sessions.get().fetch("purge_uses", self._now(), PURGE_BATCH)) == PURGE_BATCH:
            pass
        return purged

    async def aclose(self) -> None:
        await self._sessions.aclose()

    def _now(self) -> int | None:
        return None if self._clock is None else micros(self._clock())

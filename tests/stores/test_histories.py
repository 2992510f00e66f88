"""Random histories of each store, compared step by step with a plain model of what the port promises."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reset_flow.domain.errors import FlowNotFound, LimitReached, StaleRecord
from reset_flow.domain.flow import State
from reset_flow.ports import Query, Record, Use, UseName
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.postgres.store import PostgresStore
from reset_flow.stores.redis.store import RedisStore
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import FrozenClock

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from reset_flow.ports import Store

START = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)

REALMS = st.sampled_from(["north", "south"])
NAMES = st.sampled_from([f"flow{n}" for n in range(6)])
LOOKUPS = [bytes([n]) * 16 for n in range(3)]
KEYS = [bytes([9, n] * 8) for n in range(2)]
IDS = [bytes([n]) for n in range(5)] + [b"\0\0", bytes(range(16))]
TIMES = st.none() | st.integers(-20, 60).map(lambda seconds: START + seconds * SECOND)
LEASES = st.none() | st.integers(0, 15).map(lambda seconds: seconds * SECOND)
LIMITS = st.integers(1, 40)


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[Use], list[UseName]]:
    """Uses to add, those of one key with one limit, and names to drop; ids come again, as no embedder's do."""
    limits = {key: draw(st.integers(0, 4)) for key in KEYS}
    windows = st.sampled_from([7 * SECOND, 20 * SECOND])
    names = st.lists(st.builds(UseName, key=st.sampled_from(KEYS), id=st.sampled_from(IDS)), max_size=4)
    added = list({(name.key, name.id): name for name in draw(names)}.values())
    return [Use(key=each.key, id=each.id, limit=limits[each.key], window=draw(windows)) for each in added], draw(names)


CHANGES = changes()


@attrs.define
class Kept:
    record: Record
    leased_until: datetime | None


class Histories(RuleBasedStateMachine):
    """A flow is kept in the order of creation; of a use, when it expires."""

    store: Store

    def make_store(self) -> Store:
        raise NotImplementedError

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """What a call gave, or the error that it raised."""

        async def tried() -> Any:
            try:
                return await call
            except (FlowNotFound, LimitReached, StaleRecord) as error:
                return error

        return self.runner.run(tried())

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FrozenClock(START)
        self.kept: dict[str, Kept] = {}
        self.uses: dict[tuple[bytes, bytes], datetime] = {}
        self.write_ids: list[bytes] = []

    @initialize()
    def open(self) -> None:
        self.store = self.make_store()

    def teardown(self) -> None:
        self.do(self.store.aclose())
        self.runner.close()

    # Saving

    @rule(name=NAMES, realm=REALMS, lookups=st.lists(st.sampled_from(LOOKUPS), unique=True), data=st.data())
    def start(self, name: str, realm: str, lookups: list[bytes], data: st.DataObject) -> None:
        self.save(data, realm=realm, id=name, version=1, lookups=tuple(lookups))

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), skipped=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def go_on(self, data: st.DataObject, skipped: int) -> None:
        record = self.kept[data.draw(st.sampled_from(sorted(self.kept)))].record
        version = record.version + 1 + skipped
        replaces = data.draw(st.sampled_from([record.write_id] * 4 + [*self.write_ids, b""]))
        self.save(data, realm=record.realm, id=record.id, version=version, lookups=record.lookups, replaces=replaces)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), changed=CHANGES)
    def repeat(self, data: st.DataObject, changed: tuple[list[Use], list[UseName]]) -> None:
        record = self.kept[data.draw(st.sampled_from(sorted(self.kept)))].record
        assert self.do(self.store.save(record, add=changed[0], drop=changed[1])) is None

    def save(self, data: st.DataObject, **values: Any) -> None:
        record = Record(
            **values,
            state=data.draw(st.sampled_from(State)),
            due_at=data.draw(TIMES),
            ended_at=data.draw(TIMES),
            lease=data.draw(LEASES),
            write_id=len(self.write_ids).to_bytes(8),
            body=data.draw(st.binary(max_size=5)),
        )
        add, drop = data.draw(CHANGES)
        result = self.do(self.store.save(record, add=add, drop=drop))
        kept = self.kept.get(record.id)
        self.write_ids.append(record.write_id)
        version, write_id = (kept.record.version, kept.record.write_id) if kept else (0, b"")
        if (record.version, record.replaces) != (version + 1, write_id):
            assert isinstance(result, StaleRecord)
            assert (result.flow_id, result.version) == (record.id, record.version)
            return
        now = self.clock()
        uses = {name: end for name, end in self.uses.items() if end > now and UseName(*name) not in drop}
        waits = {key: wait for key in KEYS if (wait := self.wait(uses, [use for use in add if use.key == key])) != 0}
        if waits:
            assert isinstance(result, LimitReached)
            assert sorted(result.keys) == sorted(waits)
            known = [wait for wait in waits.values() if isinstance(wait, timedelta)]
            assert result.retry_after == (max(known) if len(known) == len(waits) else None)
            return
        assert result is None
        self.uses = {(use.key, use.id): now + use.window for use in add} | uses
        self.kept[record.id] = Kept(record, None if record.lease is None else now + record.lease)

    def wait(self, uses: dict[tuple[bytes, bytes], datetime], add: list[Use]) -> timedelta | int | None:
        """How long until these may be added, by trying every end of a use; 0: they may be now, `None`: never."""
        new = [use for use in add if (use.key, use.id) not in uses]
        if not new:
            return 0
        ids = {use.id for use in add}
        others = [end for (key, use_id), end in uses.items() if key == add[0].key and use_id not in ids]
        for moment in (self.clock(), *sorted(others)):
            if sum(end > moment for end in others) + len(ids) <= add[0].limit:
                return moment - self.clock() or 0
        return None

    # Time and ends

    @rule(milliseconds=st.integers(0, 20_000))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.advance(timedelta(milliseconds=milliseconds))

    @rule(realm=REALMS, before=st.integers(-20, 60), limit=st.integers(0, 4))
    def purge(self, realm: str, before: int, limit: int) -> None:
        until = START + before * SECOND
        ended = {
            record_id
            for record_id, kept in self.kept.items()
            if kept.record.realm == realm and kept.record.ended_at is not None and kept.record.ended_at < until
        }
        assert self.do(self.store.purge(realm, until, limit)) == min(limit, len(ended))
        purged = ended - {record.id for record in self.scanned(Query(realm=realm), 100)}
        assert len(purged) == min(limit, len(ended))
        for record_id in purged:
            del self.kept[record_id]

    # Looking

    def scanned(self, query: Query, limit: int) -> list[Record]:
        async def scan() -> list[Record]:
            return [record async for record in self.store.scan(query, limit=limit)]

        found: list[Record] = self.do(scan())
        return found

    @rule(realm=REALMS, limit=LIMITS)
    def scan_what_is_due(self, realm: str, limit: int) -> None:
        due = {
            record_id: at
            for record_id, kept in self.kept.items()
            if kept.record.realm == realm and (at := kept.leased_until or kept.record.due_at) and at <= self.clock()
        }
        found = self.scanned(Query(realm=realm, due=True), limit)
        assert [due[record.id] for record in found] == sorted(due.values())[:limit]
        assert len({record.id for record in found}) == len(found)
        assert all(record == self.kept[record.id].record for record in found)

    @rule(realm=REALMS, lookup=st.sampled_from(LOOKUPS), limit=LIMITS)
    def scan_by_lookup(self, realm: str, lookup: bytes, limit: int) -> None:
        expected = [
            kept.record
            for kept in reversed(self.kept.values())
            if kept.record.realm == realm and lookup in kept.record.lookups
        ]
        assert self.scanned(Query(realm=realm, lookup=lookup), limit) == expected[:limit]

    @rule(realm=REALMS, after=NAMES | st.just(""), limit=LIMITS)
    def scan_all(self, realm: str, after: str, limit: int) -> None:
        expected = [
            self.kept[name].record
            for name in sorted(self.kept)
            if name > after and self.kept[name].record.realm == realm
        ]
        assert self.scanned(Query(realm=realm, after=after), limit) == expected[:limit]

    @rule(name=NAMES)
    def load(self, name: str) -> None:
        result = self.do(self.store.load(name))
        if name not in self.kept:
            assert isinstance(result, FlowNotFound)
            assert result.flow_id == name
            return
        kept = self.kept[name]
        assert result == kept.record
        left = kept.leased_until and kept.leased_until - self.clock()
        assert (result.lease_left and max(result.lease_left, timedelta(0))) == (left and max(left, timedelta(0)))

    @rule(name=NAMES, behind=st.integers(1, 2))
    def wait_for_what_has_come(self, name: str, behind: int) -> None:
        version = self.kept[name].record.version - behind if name in self.kept else 0
        result = self.do(self.store.changed(name, version, timedelta(seconds=5)))
        assert result is None if name in self.kept else isinstance(result, FlowNotFound)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "store"):
            found = self.scanned(Query(realm="north"), 100) + self.scanned(Query(realm="south"), 100)
            assert {record.id: record for record in found} == {name: kept.record for name, kept in self.kept.items()}


class MemoryHistories(Histories):
    def make_store(self) -> Store:
        return MemoryStore(clock=self.clock)


class LastingHistories(Histories):
    """Of a store that finds everything again."""

    @rule()
    def reopen(self) -> None:
        self.do(self.store.aclose())
        self.store = self.make_store()


class SQLiteHistories(LastingHistories):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    def make_store(self) -> Store:
        return SQLiteStore(Path(self.folder.name) / "flows.db", clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class ServedHistories(LastingHistories):
    """Of a store on one server, beside those of all other histories."""

    url = ""
    serial = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"h{next(self.serial)}"


class PostgresHistories(ServedHistories):
    def make_store(self) -> Store:
        return PostgresStore(self.url, prefix=self.prefix, clock=self.clock)


class RedisHistories(ServedHistories):
    def make_store(self) -> Store:
        return RedisStore(self.url, prefix=self.prefix, clock=self.clock)


@pytest.fixture
def on_postgres(postgres_url: str) -> None:
    PostgresHistories.url = postgres_url


@pytest.fixture
def on_redis(redis_url: str) -> None:
    RedisHistories.url = redis_url


TestMemoryHistories = MemoryHistories.TestCase
TestMemoryHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestSQLiteHistories = SQLiteHistories.TestCase
TestSQLiteHistories.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)

TestPostgresHistories = pytest.mark.usefixtures("on_postgres")(PostgresHistories.TestCase)
TestPostgresHistories.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestRedisHistories = pytest.mark.usefixtures("on_redis")(RedisHistories.TestCase)
TestRedisHistories.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)

"""A stored row that somebody changed, swapped or cut is refused: in memory and in a real file of SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from reset_flow import Policy
from reset_flow.domain.errors import RecordUnreadable
from reset_flow.domain.flow import Credential, State
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.secret import Secret
from reset_flow.observability.tracing import NullTracer
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import FlowRepository
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.rows import to_row
from reset_flow.stores.sqlite.store import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from reset_flow.ports import Query, Record, Store

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class OverwrittenStore(MemoryStore):
    """A store whose records somebody else has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.overwritten: dict[str, Record] = {}

    async def load(self, flow_id: str) -> Record:
        return self._as_overwritten(await super().load(flow_id))

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        async for record in super().scan(query, limit=limit):
            yield self._as_overwritten(record)

    def _as_overwritten(self, record: Record) -> Record:
        return replace(self.overwritten.get(record.id, record), lease_left=record.lease_left)


class Vault:
    """The flows of two realms in one store, and access to their rows without the library."""

    def __init__(self, store: Store, path: Path | None) -> None:
        self.store = store
        self.path = path
        self.keyring = Keyring.generate()
        self.ours = FlowRepository(store, self.keyring, "ours", LEASE, NullTracer())
        self.theirs = FlowRepository(store, self.keyring, "theirs", LEASE, NullTracer())

    async def saved(self, repository: FlowRepository, flow_id: str, versions: int = 1) -> list[Record]:
        """Save versions of a new flow, and return the stored record of each."""
        data = FlowData(
            id=flow_id, user="jörg", credential=Credential.PASSWORD, transport="scripted", created_at=START,
            expires_at=START + timedelta(hours=1), answer=Secret("Peterson"), limits=Policy().limits,
            lookups=(b"a" * 16, b"b" * 16),
        )  # fmt: skip
        records = []
        for version in range(versions):
            await repository.save(repository.record(replace(data, version=version)))
            records.append(await self.store.load(flow_id))
            data = replace(data, write_id=records[-1].write_id)
        return records

    def put(self, flow_id: str, record: Record) -> None:
        """Overwrite the row of a flow, except its id."""
        if isinstance(self.store, OverwrittenStore):
            self.store.overwritten[flow_id] = replace(record, id=flow_id)
            return
        columns = {**to_row(record), "id": flow_id, "leased_until": None if record.lease is None else 0}
        self.change(flow_id, ", ".join(f"{name} = :{name}" for name in columns), columns)

    def change(self, flow_id: str, assignment: str, values: Mapping[str, object] | None = None) -> None:
        """Change the row of a flow by SQL."""
        assert self.path
        with closing(sqlite3.connect(self.path, timeout=10)) as database:
            database.execute("PRAGMA synchronous = OFF")
            statement = f"UPDATE flows SET {assignment} WHERE id = :id"  # noqa: S608 - the words of this test
            assert database.execute(statement, {"id": flow_id, **(values or {})}).rowcount == 1
            database.commit()

    async def refuses(self, flow_id: str) -> None:
        """Check that the flow can't be read, neither by its id nor in a scan, and that the scan goes on."""
        with pytest.raises(RecordUnreadable):
            await self.ours.load(flow_id)
        found = [each async for each in self.ours.scan(limit=10)]
        assert flow_id not in [each.flow.id for each in found if not isinstance(each, RecordUnreadable)]

    async def opens(self, flow_id: str) -> None:
        """Check that the flow can be read."""
        flow = (await self.ours.load(flow_id)).flow
        assert (flow.id, flow.user, flow.answer) == (flow_id, "jörg", Secret("Peterson"))


@pytest.fixture(params=["memory", "sqlite"])
async def vault(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vault]:
    path = tmp_path / "flows.db" if request.param == "sqlite" else None
    store = SQLiteStore(path) if path else OverwrittenStore()
    yield Vault(store, path)
    await store.aclose()


async def test_a_change_of_any_byte_of_a_body_is_refused(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for at in range(len(record.body)):
        flipped = bytearray(record.body)
        flipped[at] ^= 1 << at % 8
        vault.put("flow", replace(record, body=bytes(flipped)))
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("flow")
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_a_body_of_any_other_length_is_refused(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for size in range(len(record.body)):
        vault.put("flow", replace(record, body=record.body[:size]))
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("flow")
    for body in (record.body + b"\0", record.body * 2, record.body[1:], b"\0" * len(record.body)):
        vault.put("flow", replace(record, body=body))
        await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_swapped_bodies_and_swapped_rows_are_refused(vault: Vault) -> None:
    (one,), (two,) = await vault.saved(vault.ours, "one"), await vault.saved(vault.ours, "two")
    for whole in (False, True):
        vault.put("one", two if whole else replace(one, body=two.body))
        vault.put("two", one if whole else replace(two, body=one.body))
        await vault.refuses("one")
        await vault.refuses("two")
        vault.put("one", one)
        vault.put("two", two)
        await vault.opens("one")
        await vault.opens("two")


async def test_an_older_body_is_refused_in_a_newer_version(vault: Vault) -> None:
    old, older_still, new = await vault.saved(vault.ours, "flow", versions=3)
    for earlier in (old, older_still):
        vault.put("flow", replace(new, body=earlier.body))
        await vault.refuses("flow")
        vault.put("flow", replace(earlier, version=new.version))
        await vault.refuses("flow")
        vault.put("flow", replace(new, body=earlier.body, write_id=earlier.write_id))
        await vault.refuses("flow")
    vault.put("flow", new)
    await vault.opens("flow")


async def test_a_row_of_another_realm_is_refused(vault: Vault) -> None:
    (ours,), (theirs,) = await vault.saved(vault.ours, "ours"), await vault.saved(vault.theirs, "theirs")
    for row in (replace(theirs, realm="ours"), replace(ours, body=theirs.body), theirs):
        vault.put("ours", row)
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("ours")
    vault.put("theirs", replace(theirs, realm="ours"))
    await vault.refuses("theirs")
    vault.put("ours", replace(ours, realm="theirs"))
    with pytest.raises(RecordUnreadable):
        await vault.theirs.load("ours")
    vault.put("ours", ours)
    await vault.opens("ours")


def _changes() -> Iterator[Mapping[str, object]]:
    moment = timedelta(microseconds=1)
    yield from ({"realm": realm} for realm in ("", "our", "ours ", "theirs"))
    yield from ({"version": version} for version in (2, 3, 2**62))
    yield from ({"state": state} for state in State if state is not State.REQUESTED)
    yield from ({"due_at": due} for due in (None, START, START + timedelta(hours=1) - moment))
    yield from ({"ended_at": ended} for ended in (START, START + moment))
    yield from ({"lease": lease} for lease in (timedelta(0), LEASE))
    yield from ({"lookups": (b"a" * 16, b"b" * 16)[:count]} for count in (0, 1))
    yield {"lookups": (b"b" * 16, b"a" * 16)}
    yield {"lookups": (b"a" * 16, b"b" * 16, b"c" * 16)}
    yield from ({"write_id": write_id} for write_id in (b"", b"x" * 8, b"x" * 9))


@pytest.mark.parametrize("changes", list(_changes()), ids=str)
async def test_a_change_of_any_clear_column_is_refused(vault: Vault, changes: Mapping[str, object]) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    vault.put("flow", replace(record, **changes))
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_a_change_of_any_byte_of_the_write_id_or_a_lookup_is_refused(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for at in range(8):
        write_id = record.write_id[:at] + bytes([record.write_id[at] ^ 1]) + record.write_id[at + 1 :]
        vault.put("flow", replace(record, write_id=write_id))
        await vault.refuses("flow")
    for at in range(16):
        lookup = bytearray(record.lookups[1])
        lookup[at] ^= 1
        vault.put("flow", replace(record, lookups=(record.lookups[0], bytes(lookup))))
        await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


@pytest.mark.parametrize("vault", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "assignment",
    [
        "version = 0", "version = -1", f"version = {2**63 - 1}", "state = ''", "state = 'done'",
        "state = 'REQUESTED'", "state = CAST(x'ff' AS TEXT)", "realm = realm || char(0)", f"due_at = {2**62}",
        f"due_at = {-(2**63)}", f"ended_at = {2**62}", "lease = 1", "lease = -1, leased_until = 0",
        f"lease = {2**62}, leased_until = {2**63 - 1}", "leased_until = 0", "lookups = x'00'", "lookups = x''",
        "write_id = x''", "body = x''", "body = zeroblob(1000000)", "body = CAST(body || body AS BLOB)",
        "write_id = body, body = write_id",
    ],
)  # fmt: skip
async def test_a_row_that_sql_has_changed_is_refused(vault: Vault, assignment: str) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    vault.change("flow", assignment)
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


@pytest.mark.parametrize("vault", ["sqlite"], indirect=True)
async def test_a_renamed_row_is_refused(vault: Vault) -> None:
    await vault.saved(vault.ours, "flow")
    vault.change("flow", "id = 'flaw'")
    await vault.refuses("flaw")
    vault.change("flaw", "id = 'flow'")
    await vault.opens("flow")


async def test_a_worker_without_the_key_leaves_the_flow_intact(vault: Vault) -> None:
    await vault.saved(vault.ours, "flow")
    other = FlowRepository(vault.store, Keyring.generate(), "ours", LEASE, NullTracer())
    with pytest.raises(RecordUnreadable, match=f"key {vault.keyring.writes.id} is not in the ring"):
        await other.load("flow")
    await vault.opens("flow")

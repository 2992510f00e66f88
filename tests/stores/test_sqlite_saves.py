"""The few statements that usual saves take, and that they decide as the many would."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from reset_flow.domain.errors import LimitReached, StaleRecord
from reset_flow.ports import Charge
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.sqlite import changes
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import FrozenClock, make_record, next_version, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from reset_flow.ports import Record, Store

START = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
KEYS = [bytes([n]) * 16 for n in range(2)]
Step = tuple[int, int, int, list[Charge]]
"""The seconds that pass, which of three flows is saved, whether it may skip a version, and the charges."""


def steps(*windows: int) -> st.SearchStrategy[list[Step]]:
    """Few moments: uses of one and the same are common."""
    charge = st.builds(
        Charge,
        key=st.sampled_from(KEYS),
        amount=st.sampled_from([1, -1]),
        limit=st.sampled_from([0, 1, 2, 2, 3, 9]),
        window=st.sampled_from(windows).map(lambda seconds: seconds * SECOND),
    )
    return st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 5]), st.integers(0, 2), st.integers(0, 1), st.lists(charge, max_size=5)),
        max_size=25,
    )


def use(name: str, amount: int = 1, limit: int = 9) -> Charge:
    return Charge(key=name.encode() * 16, amount=amount, limit=limit, window=timedelta(hours=1))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "flows.db")
    yield store
    await store.aclose()


async def statements(store: SQLiteStore, record: Record, charges: Sequence[Charge] = ()) -> list[str]:
    """The first word of each statement that a save took between BEGIN and COMMIT, but for what is about the log."""
    texts: list[str] = []
    assert store._writer._database is not None
    found = store._writer._database.writer
    assert isinstance(found, sqlite3.Connection)
    found.set_trace_callback(texts.append)
    try:
        await store.save(record, charges=charges)
    finally:
        found.set_trace_callback(None)
    assert (texts[0], texts[-1]) == ("BEGIN IMMEDIATE", "COMMIT")
    return [text.split()[0] for text in texts[1:-1] if not text.startswith("PRAGMA")]


async def test_a_usual_save_takes_one_statement_and_one_for_each_charge(store: SQLiteStore) -> None:
    await store.save(make_record())
    record = make_record()
    assert await statements(store, record, [use("a"), use("b"), use("c")]) == ["INSERT"] * 4
    lease = timedelta(seconds=30)
    record = next_version(record, lease=lease)
    assert await statements(store, record) == ["UPDATE"]
    record = next_version(record, lease=None)
    assert await statements(store, record, [use("d")]) == ["UPDATE", "INSERT"]
    record = next_version(record)
    assert await statements(store, record, [use("d", -1), use("d")]) == ["UPDATE", "DELETE", "INSERT"]
    record = next_version(record, ended_at=START)
    assert await statements(store, record, [use("d", -1), use("a", -1)]) == ["UPDATE", "DELETE", "DELETE"]
    record = next_version(record, due_at=None)  # what was owed after the end
    assert await statements(store, record) == ["UPDATE"]
    assert await store.load(record.id) == record


async def test_a_place_that_only_its_owner_can_have_is_found(store: SQLiteStore) -> None:
    record = make_record()
    await store.save(record, charges=[use("a", limit=1)])
    await refused(store.save(make_record(), charges=[use("a", limit=1)]), LimitReached)
    found = await statements(store, next_version(record), [use("a", -1), use("a", limit=1)])
    assert found.count("DELETE") == 1
    assert found[-1] == "INSERT"
    await refused(store.save(make_record(), charges=[use("a", limit=1)]), LimitReached)
    await store.save(make_record(), charges=[use("a", limit=2)])


async def test_a_save_that_is_sent_again_charges_nothing_again(store: SQLiteStore) -> None:
    first = make_record(lookups=(b"a" * 16,))
    second = next_version(first)
    for record in (first, first, second, second):
        await store.save(record, charges=[use("a", limit=2)])
    await refused(store.save(make_record(), charges=[use("a", limit=2)]), LimitReached)
    third = next_version(second)
    for _ in range(2):  # the other use is left
        await store.save(third, charges=[use("a", -1)])
    await refused(store.save(make_record(), charges=[use("a", limit=1)]), LimitReached)


async def test_another_turn_is_told_before_a_limit(store: SQLiteStore) -> None:
    record = make_record()
    await store.save(record, charges=[use("a", limit=1)])
    full = [use("a", limit=1)]
    await refused(store.save(make_record(id=record.id), charges=full), StaleRecord)
    await refused(store.save(next_version(record, version=3), charges=full), StaleRecord)
    await refused(store.save(next_version(record), charges=full), LimitReached)
    assert await store.load(record.id) == record


async def test_what_never_changes_may_be_changed_all_the_same(store: SQLiteStore) -> None:
    record = make_record(realm="north", ended_at=START, lookups=(b"a" * 16,))
    await store.save(record)
    for change in ({"realm": "south"}, {"lookups": (b"b" * 16,)}, {"ended_at": None}, {"ended_at": START}):
        record = next_version(record, **change)
        await store.save(record)
        assert await store.load(record.id) == record


async def replay(store: Store, clock: FrozenClock, steps: Sequence[Step]) -> list[object]:
    """What came of each save: of one of three flows, as its next version or the one after that."""
    results: list[object] = []
    versions = [0, 0, 0]
    for number, (seconds, flow, skipped, charges) in enumerate(steps):
        clock.advance(seconds * SECOND)
        version = versions[flow] + 1 + (skipped if number % 5 == 0 else 0)
        record = make_record(id=f"flow {flow}", version=version, write_id=number.to_bytes(8))
        try:
            await store.save(record, charges=charges)
            await store.save(record, charges=charges)
        except (LimitReached, StaleRecord) as error:
            results.append((type(error), getattr(error, "retry_after", None)))
        else:
            results.append(None)
            versions[flow] = version
    await store.aclose()
    return results


async def replay_on_disk(steps: Sequence[Step]) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        clock = FrozenClock(START)
        return await replay(SQLiteStore(Path(folder) / "flows.db", clock=clock), clock, steps)


@given(steps=steps(8))
@settings(max_examples=40, deadline=None)
def test_any_charges_are_judged_as_in_memory(steps: list[Step]) -> None:
    clock = FrozenClock(START)
    assert asyncio.run(replay_on_disk(steps)) == asyncio.run(replay(MemoryStore(clock=clock), clock, steps))


@given(steps=steps(3, 8), back=st.integers(0, 25))
@settings(max_examples=40, deadline=None)
def test_few_statements_come_to_what_many_do_even_if_a_clock_is_set_back(steps: list[Step], back: int) -> None:
    steps = [*steps[:back], (-4, 0, 0, []), *steps[back:]]
    found = asyncio.run(replay_on_disk(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "_rooms", lambda *_: None)
        assert found == asyncio.run(replay_on_disk(steps))

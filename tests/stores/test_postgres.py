"""The contract over a real PostgreSQL, and what goes wrong with servers and networks."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
import warnings
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from reset_flow.domain.errors import (
    ConfigurationError,
    FlowNotFound,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.ports import Query, Record, Use, UseName
from reset_flow.stores.postgres import PostgresStore, session
from reset_flow.testing import StoreContract, make_record, next_version, refused
from tests.patience import PATIENCE, takes_less_than, unhurried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import asyncpg

    from benchmarks.servers import PostgresServer

HOUR = timedelta(hours=1)
A_WHILE = timedelta(minutes=5)
"""That a test may take; less than the 45 minutes by which the server's time zone is odd."""


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, postgres_url: str) -> AsyncIterator[PostgresStore]:
        store = PostgresStore(postgres_url, clock=self.clock)
        yield store
        await store.aclose()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    yield store
    await store.aclose()


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """Another worker's store over the same tables."""
    store = PostgresStore(postgres_url)
    yield store
    await store.aclose()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def use(limit: int = 1, key: bytes = b"k" * 16, window: timedelta = HOUR) -> Use:
    return Use(key=key, id=os.urandom(9), limit=limit, window=window)


def name_of(use: Use) -> UseName:
    return UseName(use.key, use.id)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is asked is the server
            await asyncio.sleep(0.005)


async def fails(call: Awaitable[object], words: str) -> bool:
    """Whether a call is refused in these words."""
    return words in str(await refused(call, StoreUnavailable))


class Proxy:
    """A TCP proxy that loses what a test wants it to."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.cut = asyncio.Event()
        """Break the connection instead of passing on what the server says next."""
        self.mute = asyncio.Event()
        """Swallow whatever is said from now on."""
        self.full = asyncio.Event()
        """Take no more connections."""
        self.port = 0

    @property
    def url(self) -> str:
        who = self._target.netloc.rpartition("@")[0]
        return self._target._replace(netloc=f"{who}@127.0.0.1:{self.port}").geturl()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        pumps: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            if self.full.is_set():
                writer.transport.abort()
                return
            pumps.add(task)
            there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back, answers=False))
                    group.create_task(self._pump(there, writer, answers=True))
            except* (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                for end in (writer, back):
                    end.transport.abort()
                pumps.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tuple(pumps):
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await server.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if answers and self.cut.is_set():
                self.cut.clear()
                break
            if not self.mute.is_set():
                target.write(data)
                await target.drain()
        raise ConnectionError


# Time


async def test_the_servers_clock_judges_leases_and_budgets(store: PostgresStore) -> None:
    record = make_record(lease=HOUR, due_at=datetime(2000, 1, 1, tzinfo=UTC))
    await store.save(record, add=[use()])
    left = (await store.load(record.id)).lease_left
    assert left is not None
    assert HOUR - A_WHILE < left <= HOUR
    error = await refused(store.save(make_record(), add=[use()]), LimitReached)
    assert error.retry_after is not None
    assert HOUR - A_WHILE < error.retry_after <= HOUR
    assert [found async for found in store.scan(Query(realm="default", due=True), limit=9)] == []
    await store.save(next_version(record, lease=None))
    assert [found.id async for found in store.scan(Query(realm="default", due=True), limit=9)] == [record.id]


# Many workers


async def test_stores_with_two_prefixes_live_side_by_side(postgres_url: str, store: PostgresStore) -> None:
    beside = PostgresStore(postgres_url, prefix="_2nd")
    mine, theirs = make_record(id="same"), make_record(id="same")
    await store.save(mine, add=[use()])
    await beside.save(theirs, add=[use()])
    assert await store.load("same") == mine
    assert await beside.load("same") == theirs
    assert await store.purge("default", datetime.now(UTC), 10) == 0
    await beside.aclose()


RIVAL = """
import asyncio, sys
from reset_flow.domain.errors import StaleRecord
from reset_flow.stores.postgres.store import PostgresStore
from reset_flow.testing import make_record

async def main():
    store = PostgresStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    saves = (store.save(make_record(id="contested")) for _ in range(4))
    for result in await asyncio.gather(*saves, return_exceptions=True):
        print("won" if result is None else type(result).__name__)
    await store.aclose()

asyncio.run(main())
"""


async def test_of_many_processes_that_open_and_save_at_once_one_wins(postgres_url: str, store: PostgresStore) -> None:
    pipe = asyncio.subprocess.PIPE
    rivals = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", RIVAL, postgres_url, stdin=pipe, stdout=pipe)
        for _ in range(4)
    ]
    for rival in rivals:
        assert rival.stdout
        assert await rival.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(rival.communicate(b"\n") for rival in rivals))
    assert [rival.returncode for rival in rivals] == [0] * 4
    words = [word for output, _ in outputs for word in output.decode().split()]
    assert sorted(words) == ["StaleRecord"] * 15 + ["won"]
    assert (await store.load("contested")).version == 1


async def test_saves_are_durable_and_not_compiled_whatever_the_databases_defaults_are(
    store: PostgresStore, database: asyncpg.Connection, postgres_url: str
) -> None:
    name = urlsplit(postgres_url).path[1:]
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await database.execute(f"ALTER DATABASE {name} SET jit = on")
    await store.save(make_record())
    await database.execute("CREATE TABLE seen AS SELECT '' AS jit, '' AS synchronous_commit")
    await database.execute(
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE seen SET "
        "jit = current_setting('jit'), synchronous_commit = current_setting('synchronous_commit'); RETURN NEW; END $$"
    )
    await database.execute("CREATE TRIGGER look BEFORE INSERT ON reset_flow_flows FOR EACH ROW EXECUTE FUNCTION look()")
    await store.save(make_record())
    assert tuple(await database.fetchrow("SELECT * FROM seen")) == ("off", "on")


async def test_rows_are_found_by_an_index_even_if_there_were_none_when_it_was_planned(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    async def alone() -> bool:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = $1"
        return bool(await database.fetchval(sessions, "client backend") == 1)

    async def full_scans() -> dict[str, int]:
        await until(alone)  # sessions report their scans when they end
        tables = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname <> 'reset_flow_schema'"
        return dict(await database.fetch(tables))

    await other.save(make_record(ended_at=datetime(2000, 1, 1, tzinfo=UTC)))
    assert await other.purge("default", datetime.now(UTC), 9) == 1
    await other.aclose()
    await database.execute("VACUUM ANALYZE")
    before = await full_scans()
    for _ in range(10):
        mine = use(key=os.urandom(16))
        record = make_record(ended_at=datetime(2000, 1, 1, tzinfo=UTC), lookups=(os.urandom(16),))
        await store.save(record, add=[mine])
        await store.save(next_version(record), add=[use(key=mine.key)], drop=[name_of(mine)])
        await store.load(record.id)
        for query in (Query(realm="r"), Query(realm="r", due=True), Query(realm="r", lookup=b"a" * 16)):
            assert [found async for found in store.scan(query, limit=9)] == []
        assert await store.purge("default", datetime.now(UTC), 9) == 1
    await store.aclose()
    assert await full_scans() == before


async def test_workers_that_use_the_same_budgets_neither_overdraw_nor_block_each_other(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection, postgres_url: str
) -> None:
    # Even where the database's default is another isolation than the one that the locks need.
    name = urlsplit(postgres_url).path[1:]
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    keys = [bytes([n]) * 16 for n in range(6)]
    saves = [
        (store, other)[n % 2].save(make_record(), add=[use(10, keys[n % 6]), use(10, keys[(n * 5 + 1) % 6])])
        for n in range(200)
    ]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), LimitReached}
    counts = await database.fetch("SELECT count(*) FROM reset_flow_uses GROUP BY key")
    assert max(count for (count,) in counts) == 10
    assert sum(count for (count,) in counts) == 2 * results.count(None)


async def test_workers_that_drop_the_same_uses_while_they_are_purged_do_not_block_each_other(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    uses = [use(1000, bytes([n % 6]) * 16, window=timedelta(milliseconds=n % 2)) for n in range(60)]
    await store.save(make_record(), add=uses)

    async def exchange(store: PostgresStore, uses: Sequence[Use]) -> None:
        # In opposite orders, so that batches would deadlock that take their uses as they come.
        saves = [
            store.save(make_record(), add=[uses[n], use(1000, uses[n - 1].key)], drop=[name_of(uses[n - 2])])
            for n in range(60)
        ]
        await asyncio.gather(*saves)

    for _ in range(5):
        purges = [store.purge("default", datetime.now(UTC), 1) for store in (store, other)]
        await asyncio.gather(exchange(store, uses), exchange(other, uses[::-1]), *purges)
    await store.purge("default", datetime.now(UTC), 1)
    assert await database.fetchval("SELECT count(*) FROM reset_flow_flows") == 1 + 600
    assert await database.fetchval("SELECT count(*) FROM reset_flow_uses") == 600  # those that nobody dropped


async def test_rivals_in_two_workers_are_told_apart(store: PostgresStore, other: PostgresStore) -> None:
    records = [make_record() for _ in range(40)]
    await asyncio.gather(*(store.save(record) for record in records))
    # In opposite orders, so that batches would deadlock that take their rows as they come.
    mine, theirs = [next_version(record) for record in records], [next_version(record) for record in records[::-1]]
    results = await asyncio.gather(
        *(store.save(record) for record in mine), *(other.save(record) for record in theirs), return_exceptions=True
    )
    assert results.count(None) == 40
    assert [type(result) for result in results].count(StaleRecord) == 40


async def test_several_versions_of_a_flow_may_wait_together(store: PostgresStore) -> None:
    versions = [make_record()]
    for _ in range(9):
        versions.append(next_version(versions[-1]))
    rival = next_version(versions[4])
    saves = [store.save(record, add=[use(limit=10)] if n % 2 else []) for n, record in enumerate(versions)]
    *results, refusal = await asyncio.gather(*saves, store.save(rival), return_exceptions=True)
    assert results == [None] * 10
    assert isinstance(refusal, StaleRecord)
    assert await store.load(rival.id) == versions[-1]


async def test_a_purge_leaves_alone_what_another_is_busy_with(
    store: PostgresStore, database: asyncpg.Connection
) -> None:
    ended = datetime(2000, 1, 1, tzinfo=UTC)
    for name in ("busy", "idle"):
        await store.save(make_record(id=name, ended_at=ended, lookups=(b"a" * 16,)))
    async with asyncio.timeout(PATIENCE), database.transaction():
        await database.execute("SELECT FROM reset_flow_flows WHERE id = 'busy' FOR UPDATE")
        assert await store.purge("default", datetime.now(UTC), 10) == 1
    assert (await store.load("busy")).ended_at == ended
    assert await store.purge("default", datetime.now(UTC), 10) == 1
    assert await database.fetchval("SELECT count(*) FROM reset_flow_lookups") == 0


# Waiting


async def listeners(database: asyncpg.Connection) -> list[int]:
    rows = await database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    return [pid for (pid,) in rows]


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing but a notification wake who waits."""
    monkeypatch.setattr(session, "POLL", 2 * PATIENCE)
    monkeypatch.setattr(session, "POLL_UNNOTIFIED", 2 * PATIENCE)


@pytest.mark.usefixtures("only_told")
async def test_a_change_by_another_worker_wakes_at_once(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(other.changed(record.id, 1, HOUR))
    await until(lambda: listeners(database))
    await store.save(make_record())
    assert not waiting.done()
    await store.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting


@pytest.mark.usefixtures("only_told")
async def test_who_listens_does_so_again_after_the_connection_was_lost(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(other.changed(record.id, 1, HOUR))
    await until(lambda: listeners(database))
    (first,) = await listeners(database)
    await database.execute("SELECT pg_terminate_backend($1)", first)

    async def listens_again() -> bool:
        return bool(set(await listeners(database)) - {first})

    await until(listens_again)
    assert not waiting.done()
    await store.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting


async def test_a_change_is_seen_where_nobody_can_listen(store: PostgresStore, postgres_url: str) -> None:
    record = make_record()
    await store.save(record)
    async with Proxy(postgres_url).running() as proxy:
        remote = PostgresStore(proxy.url)
        await remote.load(record.id)
        proxy.full.set()
        waiting = asyncio.create_task(remote.changed(record.id, 1, HOUR))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await store.save(next_version(record))
        async with asyncio.timeout(PATIENCE):
            await waiting
        await remote.aclose()


# Failures of servers and networks


async def test_no_acknowledged_save_is_lost_when_the_server_is_killed(
    store: PostgresStore, postgres_server: PostgresServer
) -> None:
    acknowledged: dict[str, Record] = {}
    errors: list[ResetFlowError] = []
    back = asyncio.Event()

    async def flow() -> None:
        record, after = make_record(), 0
        while after < 5:
            try:
                await store.save(record, add=[use(limit=100_000)])
            except StoreUnavailable as error:
                errors.append(error)
                await asyncio.sleep(0.01)
                continue
            acknowledged[record.id] = record
            after += back.is_set()
            record = next_version(record)

    flows = [asyncio.create_task(flow()) for _ in range(16)]
    await until(lambda: asyncio.sleep(0, len(acknowledged) == 16))
    await asyncio.to_thread(postgres_server.kill)
    await until(lambda: asyncio.sleep(0, len(errors) >= 16))
    await asyncio.to_thread(postgres_server.start)
    back.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*flows)
    assert all(error.__cause__ is not None for error in errors)
    for record in acknowledged.values():
        assert await store.load(record.id) == record
    # And none counted twice.
    many = [use(limit=sum(record.version for record in acknowledged.values()))]
    assert (await refused(store.save(make_record(), add=many), LimitReached)).retry_after


async def test_a_restarted_server_is_found_again(store: PostgresStore, postgres_server: PostgresServer) -> None:
    record = make_record()
    await store.save(record)
    await asyncio.to_thread(postgres_server.stop)
    for call in (store.load(record.id), store.save(next_version(record)), store.changed(record.id, 1, HOUR)):
        assert isinstance((await refused(call, StoreUnavailable)).__cause__, Exception)
    await refused(store.purge("default", datetime.now(UTC), 1), StoreUnavailable)
    await asyncio.to_thread(postgres_server.start)
    assert await store.load(record.id) == record
    await store.save(next_version(record))


async def test_tables_that_are_gone_say_what_to_do_and_are_used_when_they_are_back(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    record = make_record()
    await store.save(record)
    await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    for call in (store.load(record.id), store.save(next_version(record))):
        assert "restore a backup" in str(await refused(call, StoreUnavailable))
    await other.save(record)
    assert await store.load(record.id) == record
    await store.save(next_version(record))


async def test_a_session_that_looks_for_the_tables_elsewhere_is_not_used_again(
    store: PostgresStore, database: asyncpg.Connection
) -> None:
    record = make_record()
    await store.save(record)
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET search_path = elsewhere")
    await database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    await until(lambda: fails(store.load(record.id), "search path"))
    await database.execute(f"ALTER DATABASE {name} RESET search_path")
    assert await store.load(record.id) == record
    await store.save(next_version(record))


async def test_who_waits_for_a_change_hears_that_the_server_went_away(
    store: PostgresStore, database: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(store.changed(record.id, 1, HOUR))
    await until(lambda: listeners(database))
    await asyncio.to_thread(postgres_server.kill)
    async with asyncio.timeout(PATIENCE):
        await refused(waiting, StoreUnavailable)


async def test_a_save_whose_acknowledgement_was_lost_is_a_success_when_repeated(
    postgres_url: str, store: PostgresStore
) -> None:
    async with Proxy(postgres_url).running() as proxy:
        remote = PostgresStore(proxy.url, connections=1)
        await remote.save(make_record(), add=[use(limit=3)])  # later ones are a single question and answer
        record = make_record()
        proxy.cut.set()
        await refused(remote.save(record, add=[use(limit=3)]), StoreUnavailable)
        assert not proxy.cut.is_set()
        assert await store.load(record.id) == record
        await remote.save(record, add=[use(limit=3)])
        await remote.save(make_record(), add=[use(limit=3)])
        await refused(remote.save(make_record(), add=[use(limit=3)]), LimitReached)
        await remote.aclose()


async def test_a_silent_server_is_not_waited_for_for_ever(postgres_url: str) -> None:
    short = timedelta(milliseconds=200)
    async with Proxy(postgres_url).running() as proxy:
        remote = PostgresStore(proxy.url, connect_timeout=short * 5, statement_timeout=short)
        record = make_record()
        await unhurried(lambda: remote.save(record))
        proxy.mute.set()

        async def calls() -> None:
            await refused(remote.save(next_version(record)), StoreUnavailable)
            await refused(remote.load(record.id), StoreUnavailable)

        await takes_less_than(5, calls)
        proxy.mute.clear()
        assert (await unhurried(lambda: remote.load(record.id))).version == 1
        await remote.aclose()


async def test_a_statement_that_is_held_up_too_long_is_given_up(
    postgres_url: str, database: asyncpg.Connection
) -> None:
    impatient = PostgresStore(postgres_url, statement_timeout=timedelta(milliseconds=300))
    record = make_record()
    await unhurried(lambda: impatient.save(record))
    async with database.transaction():
        await database.execute("LOCK TABLE reset_flow_flows")
        await refused(impatient.save(next_version(record)), StoreUnavailable)
    later = next_version(record)
    await unhurried(lambda: impatient.save(later))
    assert (await unhurried(lambda: impatient.load(record.id))).version == 2
    await impatient.aclose()


async def test_a_cancelled_scan_or_save_leaves_connections_that_work(
    postgres_url: str, database: asyncpg.Connection
) -> None:
    store = PostgresStore(postgres_url, connections=1)
    record = make_record()
    await store.save(record)

    async def scan() -> None:
        async for _ in store.scan(Query(realm="default"), limit=10):
            pass

    for call in (scan(), store.save(next_version(record)), store.purge("default", datetime.now(UTC), 1)):
        async with database.transaction():
            await database.execute("LOCK TABLE reset_flow_flows IN ACCESS EXCLUSIVE MODE")
            task = asyncio.create_task(call)
            await asyncio.sleep(0.05)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(PATIENCE):
            assert (await store.load(record.id)).id == record.id
    await store.aclose()


async def test_scans_that_are_held_up_leave_connections_for_saves_and_loads(
    postgres_url: str, database: asyncpg.Connection
) -> None:
    store = PostgresStore(postgres_url, statement_timeout=HOUR)
    record = make_record()
    await store.save(record)

    async def scan() -> list[Record]:
        return [found async for found in store.scan(Query(realm="default", lookup=b"a" * 16), limit=9)]

    async with asyncio.timeout(PATIENCE):
        async with database.transaction():
            await database.execute("LOCK TABLE reset_flow_lookups")
            scans = [asyncio.create_task(scan()) for _ in range(10)]
            await asyncio.sleep(0.1)
            await asyncio.gather(store.save(next_version(record)), store.load(record.id))
            assert not any(task.done() for task in scans)
        assert await asyncio.gather(*scans) == [[]] * 10
    await store.aclose()


async def test_one_that_can_not_be_saved_does_not_harm_its_neighbours(store: PostgresStore) -> None:
    records = [make_record() for _ in range(10)]
    # Longer than the port allows: the server's indexes can't hold it.
    records[4] = make_record(realm=os.urandom(4000).hex(), due_at=datetime.now(UTC))
    await store.save(make_record())
    results = await asyncio.gather(*(store.save(record) for record in records), return_exceptions=True)
    assert isinstance(results.pop(4), StoreUnavailable)
    assert results == [None] * 9
    await refused(store.load(records[4].id), FlowNotFound)
    assert await store.load(records[5].id) == records[5]


async def test_texts_may_hold_what_is_special_elsewhere(store: PostgresStore) -> None:
    odd = ["", "NULL", "null", "{}", ",", '"', "'", "\\", '\\"', '"\\', " a ", "\n", "\\x41", "%s", "é"]
    records = [make_record(id=f"{text}1{text}", realm=text) for text in odd]
    await asyncio.gather(*(store.save(record) for record in records))
    assert await asyncio.gather(*(store.load(record.id) for record in records)) == records


async def test_texts_that_postgresql_can_not_hold_are_refused(store: PostgresStore) -> None:
    for text in ("a\0b", "\ud800"):
        await refused(store.save(make_record(id=text)), InvalidInput)
        await refused(store.save(make_record(realm=text)), InvalidInput)
        assert [found async for found in store.scan(Query(realm=text), limit=9)] == []
        assert await store.purge(text, datetime.now(UTC), 9) == 0


async def test_a_damaged_row_spoils_nothing_but_itself(store: PostgresStore, database: asyncpg.Connection) -> None:
    records = [make_record(id=name, lookups=(b"a" * 16,)) for name in "abc"]
    await asyncio.gather(*(store.save(record) for record in records))
    await database.execute("UPDATE reset_flow_flows SET state = 'lost' WHERE id = 'b'")
    assert (await refused(store.load("b"), RecordUnreadable)).flow_id == "b"
    for query in (Query(realm="default"), Query(realm="default", lookup=b"a" * 16)):
        assert {found.id async for found in store.scan(query, limit=9)} == {"a", "c"}
    assert [found.id async for found in store.scan(Query(realm="default"), limit=2)] == ["a", "c"]


# Opening


async def test_a_newer_schema_is_left_alone(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    await store.save(make_record())
    await database.execute("UPDATE reset_flow_schema SET version = 99")
    error = await refused(other.save(make_record()), ConfigurationError)
    assert "99" in str(error)
    assert "newer" in str(error)
    await database.execute("UPDATE reset_flow_schema SET version = 1")
    await other.save(make_record())


async def test_looking_makes_no_tables_and_sees_those_that_another_makes(
    store: PostgresStore, other: PostgresStore, database: asyncpg.Connection
) -> None:
    record = make_record(lookups=(b"a" * 16,), ended_at=datetime(2000, 1, 1, tzinfo=UTC))
    everything = Query(realm=record.realm)
    looks = [store.load(record.id) for _ in range(3)]
    assert [type(each) for each in await asyncio.gather(*looks, return_exceptions=True)] == [FlowNotFound] * 3
    await refused(store.changed(record.id, 0, HOUR), FlowNotFound)
    for query in (everything, Query(realm=record.realm, due=True), Query(realm=record.realm, lookup=b"a" * 16)):
        assert [each async for each in store.scan(query, limit=9)] == []
    assert await store.purge(record.realm, datetime.now(UTC), 9) == 0
    assert await database.fetchval("SELECT count(*) FROM pg_stat_user_tables") == 0
    await other.save(record)
    assert [each async for each in store.scan(everything, limit=9)] == [await store.load(record.id)] == [record]
    assert await store.purge(record.realm, datetime.now(UTC), 9) == 1


async def test_of_a_look_and_a_save_at_once_the_save_makes_the_tables(store: PostgresStore) -> None:
    record = make_record()
    found, saved = await asyncio.gather(store.load(record.id), store.save(record), return_exceptions=True)
    assert isinstance(found, FlowNotFound) or found == record
    assert saved is None
    assert await store.load(record.id) == record


async def test_who_may_not_make_tables_is_told_what_to_do(
    postgres_url: str, store: PostgresStore, database: asyncpg.Connection
) -> None:
    role = f"guest_{urlsplit(postgres_url).path[-12:]}"
    await database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'")
    await database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    parts = urlsplit(postgres_url)
    guest = PostgresStore(parts._replace(netloc=f"{role}:guest@{parts.hostname}:{parts.port}").geturl())
    try:
        error = await refused(guest.save(make_record()), ConfigurationError)
        assert "CREATE on a schema" in str(error)
        # What another has made serves as well.
        await store.save(make_record(id="any"))
        await database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await database.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        assert (await guest.load("any")).id == "any"
        await guest.save(make_record(lookups=(b"a" * 16,)), add=[use()])
    finally:
        await guest.aclose()
        await database.execute(f"DROP OWNED BY {role}")
        await database.execute(f"DROP ROLE {role}")


async def test_no_error_shows_the_password(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    dsns = [
        f"postgresql://postgres:hunter2@{parts.hostname}:{parts.port}/nothing",
        f"postgresql://postgres:hunter2@{parts.hostname}:1/nothing",
        "postgresql://postgres:hunter2@127.0.0.1:hunter2/nothing",
        "postgresql://postgres:hunter2@nowhere.invalid/nothing",
    ]
    for dsn in dsns:
        store = PostgresStore(dsn)
        error = await refused(store.load("any"), ResetFlowError)
        assert isinstance(error, (StoreUnavailable, ConfigurationError))
        shown = "".join(traceback.format_exception(error)) + repr(store) + repr(vars(store))
        assert "hunter2" not in shown.replace(__file__, ""), dsn
        await store.aclose()


def test_what_can_not_be_a_store_is_refused_at_construction() -> None:
    url = "postgresql://localhost/flows"
    for prefix in ("", "1st", "Flows", "a-b", "a" * 41, "a\n", 'a"b'):
        with pytest.raises(ConfigurationError):
            PostgresStore(url, prefix=prefix)
    for dsn in ("", "localhost", "mysql://user:hunter2@localhost/flows"):
        with pytest.raises(ConfigurationError) as caught:
            PostgresStore(dsn)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        PostgresStore(url, connections=0)
    assert PostgresStore(url, prefix="_flows_2").durable


async def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    store = PostgresStore("postgresql://localhost/flows")
    error = await refused(store.load("any"), ConfigurationError)
    assert "pip install 'reset-flow[postgres]'" in str(error)
    await store.aclose()


async def test_many_that_open_an_empty_database_at_once_make_its_tables_once(postgres_url: str) -> None:
    for n in range(5):
        stores = [PostgresStore(postgres_url, prefix=f"round_{n}", connections=1) for _ in range(8)]
        records = [make_record() for _ in stores]
        await asyncio.gather(*(store.save(record) for store, record in zip(stores, records, strict=True)))
        assert await asyncio.gather(*(stores[0].load(record.id) for record in records)) == records
        await asyncio.gather(*(store.aclose() for store in stores))


async def test_who_is_cancelled_while_it_opens_leaves_the_opening_to_the_others(store: PostgresStore) -> None:
    record = make_record()
    first, second = (asyncio.create_task(store.save(record)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert await store.load(record.id) == record


async def test_a_store_that_is_closed_while_it_opens_says_so(store: PostgresStore) -> None:
    saving = asyncio.create_task(store.save(make_record()))
    await asyncio.sleep(0)
    await store.aclose()
    await refused(saving, StoreUnavailable)


def test_a_store_serves_one_event_loop_after_the_other(postgres_url: str) -> None:
    store = PostgresStore(postgres_url)
    record = make_record()

    async def twice() -> Record:
        await store.save(record)
        return await store.load(record.id)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its sockets were left open
        assert asyncio.run(twice()) == record
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(twice()) == record
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(twice())
        loop.run_until_complete(store.aclose())
        loop.close()
        gc.collect()


async def test_versions_go_on_in_another_worker(store: PostgresStore, other: PostgresStore) -> None:
    record = make_record(lookups=(b"a" * 16, b"b" * 16))
    for n in range(6):
        await (store, other)[n % 2].save(record)
        assert await (other, store)[n % 2].load(record.id) == record
        record = next_version(record)

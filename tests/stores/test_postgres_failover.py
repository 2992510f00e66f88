"""PostgreSQL under operations: a standby is promoted, connections die without a word, a pooler is in between."""

from __future__ import annotations

import asyncio
import os
import secrets
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from benchmarks import servers
from benchmarks.binaries import NoServerError
from benchmarks.servers import PgBouncer, PostgresServer, PostgresStandby
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, LimitReached, StoreUnavailable
from reset_flow.ports import Query, Use
from reset_flow.stores.postgres import PostgresStore, connections
from reset_flow.testing import StoreContract, make_record, next_version, refused
from tests.conftest import without
from tests.patience import PATIENCE, takes_less_than, unhurried
from tests.switch import Switch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import asyncpg

    from reset_flow.ports import Record

LONG = timedelta(hours=1)
SHORT = timedelta(milliseconds=300)
FLOWS = 500


@pytest.fixture(scope="session")
def primary(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A primary of the tests' own, which waits for a standby."""
    if not isinstance(postgres_server, PostgresServer):
        without("a server that is run by somebody else is not set up for a test")
    server = servers.postgres({"shared_buffers": "32MB", "autovacuum": "off"})
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def spare() -> Iterator[list[PostgresStandby]]:
    """The standby that is there already, if it was not promoted."""
    spare: list[PostgresStandby] = []
    yield spare
    for server in spare:
        server.close()


@pytest.fixture
async def standby(primary: PostgresServer, spare: list[PostgresStandby]) -> AsyncIterator[PostgresStandby]:
    """The standby that each commit waits for."""
    primary.ensure()
    server = spare.pop() if spare else await asyncio.to_thread(PostgresStandby, primary)
    try:
        await asyncio.to_thread(server.start)
        await set_up(primary, "*")
        yield server
    finally:
        await asyncio.to_thread(primary.ensure)
        await set_up(primary, "")
        await asyncio.to_thread(server.stop if server.is_standby else server.close)
        if server.is_standby:
            spare.append(server)


async def set_up(primary: PostgresServer, standbys: str) -> None:
    async with connected(primary.url) as database:
        await database.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
        await database.execute("SELECT pg_reload_conf()")
        if standbys:
            await until(lambda: database.fetchval("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))


class connected:  # noqa: N801 - reads as a function
    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> asyncpg.Connection:
        asyncpg = pytest.importorskip("asyncpg")
        self._connection = await asyncpg.connect(self._url, statement_cache_size=0)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is asked is the server
            await asyncio.sleep(0.01)


def use(limit: int) -> Use:
    return Use(key=b"k" * 16, id=os.urandom(9), limit=limit, window=timedelta(hours=1))


async def waits_for_standby(database: asyncpg.Connection, number: int = 1) -> bool:
    # A commit with a notification waits for the one before it to be over: as an object in the server's terms.
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event IN ('SyncRep', 'object')"
    return bool(await database.fetchval(waiting) == number)


@pytest.fixture
def prefix() -> str:
    """Tables of the test's own."""
    return f"t{secrets.token_hex(6)}"


# A standby that each commit waits for


async def test_five_hundred_flows_survive_the_promotion_of_a_synchronous_standby(
    primary: PostgresServer, standby: PostgresStandby, prefix: str
) -> None:
    async with Switch(primary.port).running() as switch:
        store, replica = (PostgresStore(url, prefix=prefix) for url in (switch.url(primary.url), standby.url))
        await refused(replica.load("any"), StoreUnavailable)
        acknowledged: dict[str, Record] = {}
        missed: list[StoreUnavailable] = []
        promoted = asyncio.Event()

        async def flow() -> None:
            record, after = make_record(), 0
            while after < 2:
                try:
                    await store.save(record, add=[use(100_000)])
                except StoreUnavailable as error:
                    missed.append(error)
                    await asyncio.sleep(0.05)
                    continue
                acknowledged[record.id] = record
                after += promoted.is_set()
                record = next_version(record)

        flows = [asyncio.create_task(flow()) for _ in range(FLOWS)]
        await until(lambda: asyncio.sleep(0, len(acknowledged) == FLOWS))
        await asyncio.to_thread(primary.kill)
        await until(lambda: asyncio.sleep(0, missed))
        await asyncio.to_thread(standby.promote)
        switch.target = standby.port
        promoted.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*flows)
        for record in acknowledged.values():
            assert await store.load(record.id) == record
            assert await replica.load(record.id) == record
        # None counted twice, and none was forgotten.
        versions = sum(record.version for record in acknowledged.values())
        await store.save(make_record(), add=[use(versions + 1)])
        await refused(store.save(make_record(), add=[use(versions + 1)]), LimitReached)
        await store.aclose()
        await replica.aclose()


@pytest.mark.parametrize("how", ["timed out", "given up"])
async def test_a_save_that_waits_for_its_standby_is_not_cancelled_and_does_not_show(
    primary: PostgresServer, standby: PostgresStandby, prefix: str, how: str
) -> None:
    store = PostgresStore(primary.url, prefix=prefix, statement_timeout=SHORT)
    other = PostgresStore(primary.url, prefix=prefix, statement_timeout=SHORT)
    record, later = make_record(), make_record()
    await unhurried(lambda: store.save(make_record()))
    await asyncio.to_thread(standby.stop)
    async with connected(primary.url) as database:

        async def commits_too_late() -> bool:
            await refused(store.save(record), StoreUnavailable)
            return await waits_for_standby(database)  # else the time was up before the commit

        if how == "timed out":
            await until(commits_too_late)
        else:
            saving = asyncio.create_task(store.save(record))
            await until(lambda: waits_for_standby(database))
            saving.cancel()
            await store.aclose()  # what everybody has given up is broken off
        assert await waits_for_standby(database)
        await unhurried(lambda: refused(other.load(record.id), FlowNotFound))
        # Nor does a repetition pass for confirmed. And none leaves a process of the server behind.
        for repeated in (record, later, record, later):
            await refused(other.save(repeated), StoreUnavailable)
        await until(lambda: waits_for_standby(database))
        await asyncio.to_thread(standby.start)
        await until(lambda: waits_for_standby(database, 0))
    assert await unhurried(lambda: other.load(record.id)) == record
    for repeated in (record, later):
        await unhurried(partial(other.save, repeated))
    for each in (store, other):
        await each.aclose()


async def test_a_commit_that_no_standby_has_confirmed_is_no_success_and_neither_is_its_repetition(
    primary: PostgresServer, standby: PostgresStandby, prefix: str
) -> None:
    async with connected(primary.url) as database:
        await database.execute("ALTER ROLE postgres SET client_min_messages = error")
        try:
            store = PostgresStore(primary.url, prefix=prefix, statement_timeout=LONG)
            record = make_record()
            await store.save(make_record())
            await asyncio.to_thread(standby.stop)
            for counted in ([], [use(9)]):
                saving = asyncio.create_task(store.save(record, add=counted))
                await until(lambda: waits_for_standby(database))
                await database.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                )
                assert "standby" in str(await refused(saving, StoreUnavailable))
                assert await store.load(record.id) == record  # that is PostgreSQL's way
            again = asyncio.create_task(store.save(record))
            await until(lambda: waits_for_standby(database))
            await asyncio.to_thread(standby.start)
            await again
            await store.aclose()
        finally:
            await set_up(primary, "")  # or the next statement would wait
            await database.execute("ALTER ROLE postgres RESET client_min_messages")


async def test_a_standby_is_neither_read_nor_written_and_the_primary_is_found_among_several(
    primary: PostgresServer, standby: PostgresStandby, prefix: str
) -> None:
    store = PostgresStore(standby.url, prefix=prefix)
    for call in (store.load("any"), store.save(make_record())):
        assert "standby" in str(await refused(call, StoreUnavailable))
    parts = urlsplit(primary.url)
    who = parts.netloc.rpartition("@")[0]
    hosts = f"{who}@127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    record = make_record()
    for query in ("", "target_session_attrs=any", "target_session_attrs=read-write"):
        either = PostgresStore(parts._replace(netloc=hosts, query=query).geturl(), prefix=prefix)
        await either.save(record)
        record = next_version(record)
        await either.aclose()
    await store.aclose()


# Connections that died without a word


@pytest.fixture
async def switch(postgres_url: str) -> AsyncIterator[Switch]:
    port = urlsplit(postgres_url).port
    assert port
    async with Switch(port).running() as switch:
        yield switch


@pytest.fixture
async def remote(postgres_url: str, switch: Switch) -> AsyncIterator[PostgresStore]:
    """A store by way of the switch."""
    store = PostgresStore(switch.url(postgres_url), connect_timeout=LONG, statement_timeout=LONG)
    yield store
    await store.aclose()


@pytest.fixture
async def impatient(postgres_url: str, switch: Switch) -> AsyncIterator[PostgresStore]:
    """A store by way of the switch, which soon finds out that nothing passes."""
    store = PostgresStore(switch.url(postgres_url), connect_timeout=SHORT * 2, statement_timeout=SHORT * 2)
    yield store
    await store.aclose()


async def use_all(store: PostgresStore, record: Record) -> None:
    """Use each kind of connection."""

    async def scan() -> None:
        assert [found.id async for found in store.scan(Query(realm="default"), limit=9)]

    await asyncio.gather(store.save(record), store.load(record.id), scan(), scan())


@pytest.mark.parametrize("used", ["a moment ago", "long ago"])
async def test_half_open_connections_lead_to_new_ones(
    impatient: PostgresStore, switch: Switch, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if used == "long ago":
        monkeypatch.setattr(connections, "UNUSED", 0.0)
    record = make_record()
    await unhurried(lambda: impatient.save(record))
    await unhurried(lambda: use_all(impatient, record))
    for _ in range(2):
        switch.freeze()
        if used == "a moment ago":  # it is trusted: that takes a time-out
            await refused(impatient.save(record), StoreUnavailable)
        await unhurried(lambda: use_all(impatient, record))


async def test_connections_that_were_cut_while_idle_are_missed_by_nobody(remote: PostgresStore, switch: Switch) -> None:
    record = make_record()
    await remote.save(record)
    await use_all(remote, record)
    before = switch.opened
    await switch.cut()
    await use_all(remote, record)
    assert switch.opened > before


async def test_a_server_that_was_set_to_reading_only_is_left_for_another(
    remote: PostgresStore, switch: Switch, postgres_url: str
) -> None:
    name = urlsplit(postgres_url).path[1:]
    record = make_record()
    await remote.save(record)
    async with connected(postgres_url) as database:
        await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await switch.cut()
        await use_all_but_save(remote, record)
        await refused(remote.save(next_version(record)), StoreUnavailable)
        await database.execute("SET default_transaction_read_only = off")
        await database.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await remote.save(next_version(record))


async def use_all_but_save(store: PostgresStore, record: Record) -> None:
    assert (await store.load(record.id)).id == record.id
    assert [found.id async for found in store.scan(Query(realm="default"), limit=9)]


async def test_no_connection_outlives_its_time(
    remote: PostgresStore, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LIFETIME", 0.05)
    record = make_record()
    await remote.save(record)
    before = switch.opened
    await asyncio.sleep(0.1)
    await remote.save(record)
    assert switch.opened > before


@pytest.mark.parametrize("failure", ["freeze", "cut"])
async def test_notifications_come_again_after_their_connection_was_lost(
    impatient: PostgresStore, switch: Switch, postgres_url: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNUSED", 0.0)
    monkeypatch.setattr("reset_flow.stores.postgres.session.PING_INTERVAL", 0.1)
    monkeypatch.setattr("reset_flow.stores.postgres.session.POLL", 2 * PATIENCE)
    other = PostgresStore(postgres_url)
    record = make_record()
    await other.save(record)
    waiting = asyncio.create_task(unhurried(lambda: impatient.changed(record.id, 1, LONG)))
    await until(lambda: asyncio.sleep(0, switch.opened >= 2))
    await asyncio.sleep(0.3)
    before = switch.opened
    if failure == "freeze":
        switch.freeze()
    else:
        await switch.cut()
    await until(lambda: asyncio.sleep(0, switch.opened > before))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await other.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting
    await other.aclose()


async def test_a_server_that_is_silent_at_the_first_opening_is_waited_for_once(
    impatient: PostgresStore, switch: Switch
) -> None:
    switch.is_silent = True

    async def scan() -> None:
        async for _ in impatient.scan(Query(realm="default"), limit=9):
            pass

    async def calls() -> None:
        before = switch.opened
        calls = [impatient.save(make_record()), impatient.load("any"), *(scan() for _ in range(4))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 6
        assert len({id(result) for result in results}) == 6
        assert switch.opened == before + 1

    await takes_less_than(4 * SHORT.total_seconds(), calls)
    switch.is_silent = False
    await unhurried(lambda: impatient.save(make_record()))


async def test_a_password_that_was_changed_and_changed_back_locks_nobody_out(
    primary: PostgresServer,
) -> None:
    async with connected(primary.url) as database, Switch(primary.port).running() as switch:
        await database.execute("DROP ROLE IF EXISTS rotated")
        await database.execute("CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'old'")
        store = PostgresStore(f"postgresql://rotated:old@127.0.0.1:{switch.port}/postgres", prefix="rotated")
        record = make_record()
        await store.save(record)
        await database.execute("ALTER ROLE rotated PASSWORD 'new'")
        await switch.cut()
        assert "password" in str(await refused(store.load(record.id), StoreUnavailable))
        await database.execute("ALTER ROLE rotated PASSWORD 'old'")
        assert await store.load(record.id) == record
        await store.aclose()
        await database.execute("DROP OWNED BY rotated; DROP ROLE rotated")


# A pooler


@pytest.fixture(scope="session")
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """A PgBouncer that gives each transaction another session."""
    if not isinstance(postgres_server, PostgresServer):
        without("a server that is run by somebody else gets no pooler")
    try:
        server = servers.pgbouncer(postgres_server, {"default_pool_size": 3, "server_round_robin": 1})
    except NoServerError as error:
        without(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def pooled_url(postgres_url: str, pooler: PgBouncer) -> str:
    pooler.ensure()
    return urlsplit(pooler.url)._replace(path=urlsplit(postgres_url).path).geturl()


class TestPostgresStoreBehindAPooler(StoreContract):
    @pytest.fixture
    async def store(self, pooled_url: str) -> AsyncIterator[PostgresStore]:
        store = PostgresStore(pooled_url, clock=self.clock)
        yield store
        await store.aclose()


async def test_many_workers_share_the_sessions_of_a_pooler(pooled_url: str, postgres_url: str) -> None:
    name = urlsplit(postgres_url).path[1:]
    async with connected(postgres_url) as database:
        await database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
        await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        workers = [PostgresStore(pooled_url) for _ in range(6)]
        record = make_record()
        await workers[0].save(record)
        await database.execute("CREATE TABLE seen AS SELECT '' AS synchronous_commit, '' AS isolation")
        await database.execute(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE seen SET "
            "synchronous_commit = current_setting('synchronous_commit'), "
            "isolation = current_setting('transaction_isolation'); RETURN NEW; END $$"
        )
        trigger = "CREATE TRIGGER look BEFORE INSERT ON reset_flow_flows FOR EACH ROW EXECUTE FUNCTION look()"
        await database.execute(trigger)
        heard = [asyncio.create_task(worker.changed(record.id, 1, LONG)) for worker in workers]

        async def work(worker: PostgresStore) -> None:
            for _ in range(10):
                mine = make_record()
                await asyncio.gather(worker.save(mine, add=[use(100)]), worker.load(record.id))
                assert [found async for found in worker.scan(Query(realm="default"), limit=3)]
                assert await worker.load(mine.id) == mine

        await asyncio.gather(*map(work, workers))
        assert tuple(await database.fetchrow("SELECT * FROM seen")) == ("on", "read committed")
        await workers[0].save(next_version(record))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*heard)
        # The sessions are left to others as they were.
        async with connected(pooled_url) as client:
            for _ in range(3):
                query = "SELECT current_setting($1)"
                assert await client.fetchval(query, "synchronous_commit") == "off"
                assert await client.fetchval(query, "statement_timeout") == "0"
                assert await client.fetchval(query, "enable_seqscan") == "on"
                assert await client.fetchval(query, "jit") == "on"
                assert await client.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
        for worker in workers:
            await worker.aclose()


async def test_a_pooler_that_restarts_is_got_over(pooled_url: str, pooler: PgBouncer) -> None:
    store = PostgresStore(pooled_url)
    record = make_record()
    await store.save(record)
    await asyncio.to_thread(pooler.kill)
    await refused(store.save(next_version(record)), StoreUnavailable)
    await asyncio.to_thread(pooler.start)
    await store.save(next_version(record))
    await store.aclose()


@pytest.fixture
def start_pooler(postgres_server: PostgresServer, pooler: PgBouncer) -> Iterator[Callable[[str], PgBouncer]]:
    started: list[PgBouncer] = []

    def start(mode: str) -> PgBouncer:
        server = PgBouncer(pooler.binary, postgres_server, {"pool_mode": mode})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


async def test_a_pooler_is_taken_or_refused_when_the_store_opens(
    postgres_url: str, start_pooler: Callable[[str], PgBouncer]
) -> None:
    path = urlsplit(postgres_url).path
    by_session, by_statement = [
        urlsplit((await asyncio.to_thread(start_pooler, mode)).url)._replace(path=path).geturl()
        for mode in ("session", "statement")
    ]
    stores = [
        PostgresStore(url)
        for url in (by_session, f"{by_session}?pgbouncer=true", by_statement, f"{by_session}?options=-c%20jit%3Doff")
    ]
    record = make_record()
    for store in stores[:2]:
        await store.save(record)
        record = next_version(record)
    assert "pools by statement" in str(await refused(stores[2].load("any"), ConfigurationError))
    assert "options" in str(await refused(stores[3].load("any"), ConfigurationError))
    for store in stores:
        await store.aclose()

"""The contract over Redis, and what only a server can do: stop, fill up, forget, fall silent, refuse."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import traceback
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import pytest

from benchmarks.servers import RedisServer, free_port
from reset_flow.domain.errors import (
    ConfigurationError,
    FlowNotFound,
    InvalidInput,
    LimitReached,
    RecordUnreadable,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.ports import Query, Use, UseName
from reset_flow.stores.redis import Durability, RedisStore, session
from reset_flow.testing import FrozenClock, StoreContract, make_record, next_version, refused
from tests.patience import PATIENCE, REDIS_OPTIONS, takes_less_than, unhurried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from redis.asyncio import Redis

HOUR = timedelta(hours=1)
EVERYTHING = Query(realm="default")
KEY = b"k" * 16
RECORD = b"{reset_flow}:flow:%s"
CHANNEL = "{reset_flow}:changed"


def use(key: bytes = KEY, *, limit: int = 1, window: timedelta = HOUR) -> Use:
    """A use with an id of its own."""
    return Use(key=key, id=os.urandom(8), limit=limit, window=window)


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(redis_url, clock=self.clock)
        yield store
        await store.aclose()


class TestRedisStoreOnACluster(StoreContract):
    @pytest.fixture
    async def store(self, cluster: Cluster) -> AsyncIterator[RedisStore]:
        store = RedisStore(cluster.url, clock=self.clock)
        yield store
        await store.aclose()


# Servers, and ways to them


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Redis]:
    """Somebody else at the same server."""
    async with client(redis_url) as admin:
        yield admin


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    from redis.asyncio import Redis  # noqa: PLC0415 - not installed with every set of extras

    async with Redis.from_url(url, **REDIS_OPTIONS) as client:
        yield client


async def ask(client: Redis, *command: str | bytes | int) -> Any:
    """The reply to a command that redis-py has no name for."""
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def start_server(redis_server: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers that a test may set up and damage as it likes."""
    if not isinstance(redis_server, RedisServer):
        pytest.skip("a server that is run by somebody else is not set up for a test")
    started: list[RedisServer] = []

    def start(**settings: str | int) -> RedisServer:
        server = RedisServer(
            redis_server.binary, None, {name.replace("_", "-"): each for name, each in settings.items()}
        )
        server.password = redis_server.password
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def own_server(start_server: Callable[..., RedisServer]) -> RedisServer:
    return start_server()


@pytest.fixture
async def own_url(own_server: RedisServer) -> AsyncIterator[str]:
    """An empty server that may be set up anyhow: it is put back afterwards."""
    own_server.ensure()
    async with client(own_server.url) as own:
        before = {name: str((await own.config_get(name))[name]) for name in SETTINGS}
    yield own_server.url
    own_server.ensure()
    async with client(own_server.url) as own:
        for name, value in before.items():
            await own.config_set(name, value)
        await own.flushall()


SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy")


@pytest.fixture(scope="session")
def cluster_servers(start_server: Callable[..., RedisServer]) -> list[RedisServer]:
    """Two nodes that do not know each other yet."""
    return [start_server(cluster_enabled="yes", cluster_port=free_port()) for _ in range(2)]


@attrs.frozen
class Cluster:
    """
    Two nodes, of which one has all the slots but one, and so all the data.

    Attributes:
        url: Of the other one: who takes it for a single server finds nothing there.
    """

    url: str
    empty: Redis
    full: Redis


@pytest.fixture
async def cluster(cluster_servers: list[RedisServer]) -> AsyncIterator[Cluster]:
    for server in cluster_servers:
        server.ensure()
    async with client(cluster_servers[0].url) as empty, client(cluster_servers[1].url) as full:
        with suppress(Exception):  # it has them already
            await ask(full, "CLUSTER", "ADDSLOTSRANGE", 1, 16383)
            await ask(empty, "CLUSTER", "ADDSLOTS", 0)
            port, bus = cluster_servers[0].port, cluster_servers[0].settings["cluster-port"]
            await ask(full, "CLUSTER", "MEET", "127.0.0.1", port, bus)
        for node in (empty, full):
            async with asyncio.timeout(PATIENCE):
                while "cluster_state:ok" not in str(await ask(node, "CLUSTER", "INFO")):  # noqa: ASYNC110 - what is asked is the server
                    await asyncio.sleep(0.01)
        yield Cluster(cluster_servers[0].url, empty, full)
        await full.flushall()


class Proxy:
    """
    A way to a server that can be spoiled.

    Attributes:
        answer: Given to whatever is asked, instead of asking the server.

        cut: The server's next reply is lost, and the connection with it.

        silent: The server's replies are withheld.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self.answer = b""
        self.cut = False
        self.silent = False
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = self._target._replace(netloc=f":{self._target.password}@127.0.0.1:{port}").geturl()
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._target.port
        upstream, onward = await asyncio.open_connection("127.0.0.1", self._target.port)
        self._writers += [writer, onward]
        with suppress(OSError):
            await asyncio.gather(self._forth(reader, onward, writer), self._back(upstream, writer, onward))

    async def _forth(
        self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.answer:
                writer.write(self.answer)
            else:
                onward.write(data)
        onward.close()

    async def _back(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, onward: asyncio.StreamWriter
    ) -> None:
        while data := await upstream.read(1 << 16):
            if self.cut:
                self.cut = False
                break
            if not self.silent:
                writer.write(data)
        writer.close()
        onward.close()


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url).running() as proxy:
        yield proxy


async def ids(store: RedisStore, query: Query = EVERYTHING) -> list[str]:
    return [record.id async for record in store.scan(query, limit=10_000)]


async def test_leases_and_budgets_are_judged_by_the_servers_clock(store: RedisStore) -> None:
    leased, briefly = make_record(lease=HOUR), make_record(lease=timedelta(milliseconds=100))
    await store.save(leased)
    left = (await store.load(leased.id)).lease_left
    assert left is not None
    assert HOUR - timedelta(minutes=5) < left < HOUR
    await store.save(briefly)
    await asyncio.sleep(0.11)
    assert await ids(store, Query(realm="default", due=True)) == [briefly.id]
    await store.save(make_record(), add=[use()])
    error = await refused(store.save(make_record(), add=[use()]), LimitReached)
    assert error.retry_after is not None
    assert HOUR - timedelta(minutes=5) < error.retry_after <= HOUR
    brief = b"b" * 16
    await store.save(make_record(), add=[use(brief, window=timedelta(milliseconds=100))])
    await asyncio.sleep(0.11)
    await store.save(make_record(), add=[use(brief)])


# What a save is worth


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ({"appendfsync": "always"}, Durability.ALWAYS),
        ({"appendfsync": "everysec"}, Durability.EVERYSEC),
        ({"appendfsync": "no"}, Durability.SYSTEM),
        ({"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"}, Durability.SYSTEM),
        ({"appendonly": "no"}, Durability.NONE),
    ],
)
async def test_it_says_what_a_save_is_worth(
    own_url: str, settings: dict[str, str], durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reset_flow")
    async with client(own_url) as own:
        for name, value in settings.items():
            await own.config_set(name, value)
    store = RedisStore(own_url)
    assert store.durability is None
    await asyncio.gather(*(store.save(make_record()) for _ in range(5)))
    assert store.durability is durability
    await store.aclose()
    (told,) = [record for record in caplog.records if record.name == "reset_flow"]
    assert durability.sentence in told.getMessage()
    assert told.levelno == (logging.INFO if durability is Durability.ALWAYS else logging.WARNING)


async def test_whatever_was_acknowledged_survives_a_sudden_death_of_the_server(
    redis_url: str, redis_server: RedisServer
) -> None:
    store = RedisStore(redis_url)
    acknowledged: dict[str, int] = {}
    enough = asyncio.Event()

    async def saver() -> None:
        while True:
            record = make_record(body=bytes(300))
            for _ in range(5):
                await store.save(record, add=[use(record.id[:16].encode(), limit=9)])
                acknowledged[record.id] = record.version
                record = next_version(record)
            if len(acknowledged) > 300:
                enough.set()

    for _ in range(2):
        enough.clear()
        savers = [asyncio.create_task(saver()) for _ in range(32)]
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        await asyncio.to_thread(redis_server.kill)
        for error in await asyncio.gather(*savers, return_exceptions=True):
            assert isinstance(error, StoreUnavailable)
        await refused(store.load("nobody"), StoreUnavailable)
        await asyncio.to_thread(redis_server.start)
        found = {record.id: record.version async for record in store.scan(EVERYTHING, limit=1_000_000)}
        # What came through without being acknowledged may be one version ahead.
        assert {name: found.get(name, 0) for name, seen in acknowledged.items() if found.get(name, 0) < seen} == {}
        assert store.durability is Durability.ALWAYS
        acknowledged.clear()
    await store.aclose()


async def test_a_restart_in_good_order_is_noticed_by_nobody_who_is_idle(
    redis_url: str, redis_server: RedisServer
) -> None:
    store = RedisStore(redis_url)
    record = make_record(lookups=(b"a" * 16,), due_at=datetime(2020, 1, 1, tzinfo=UTC))
    await store.save(record, add=[use()])
    await asyncio.to_thread(redis_server.restart)
    assert await store.load(record.id) == record
    assert await ids(store, Query(realm="default", lookup=b"a" * 16)) == [record.id]
    assert await ids(store, Query(realm="default", due=True)) == [record.id]
    await refused(store.save(make_record(), add=[use()]), LimitReached)
    await store.aclose()


# A server that must not be used


@pytest.mark.parametrize(
    "policy",
    [
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
    ],
)
@pytest.mark.parametrize("config", ["readable", "forbidden"])
async def test_a_server_that_may_evict_is_refused(own_url: str, policy: str, config: str) -> None:
    async with client(own_url) as own:
        await own.config_set("maxmemory", "500mb")
        await own.config_set("maxmemory-policy", policy)
        url = own_url if config == "readable" else await limited(own, own_url, "+@all", "-config")
        store = RedisStore(url)
        results = await asyncio.gather(store.save(make_record()), store.load("nobody"), return_exceptions=True)
        for result in results:
            assert isinstance(result, ConfigurationError)
            assert policy in str(result)
            assert "noeviction" in str(result)
        assert results[0] is not results[1]
        assert await own.dbsize() == 0
        await own.config_set("maxmemory-policy", "noeviction")
        await store.save(make_record())
        assert len(await ids(store)) == 1
        await store.aclose()


async def test_a_policy_does_no_harm_where_memory_has_no_limit(own_url: str) -> None:
    async with client(own_url) as own:
        await own.config_set("maxmemory", "0")
        await own.config_set("maxmemory-policy", "allkeys-lru")
    store = RedisStore(own_url)
    await store.save(make_record())
    assert len(await ids(store)) == 1
    await store.aclose()


async def limited(own: Redis, url: str, *rights: str) -> str:
    """The url for a user who may not do everything."""
    await ask(own, "ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "&*", *rights)
    parts = urlsplit(url)
    return parts._replace(netloc=f"limited:pw@127.0.0.1:{parts.port}").geturl()


async def test_a_server_that_tells_nothing_is_used(own_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with client(own_url) as own:
        store = RedisStore(await limited(own, own_url, "+@all", "-config", "-info"))
        record = make_record()
        await store.save(record)
        assert await store.load(record.id) == record
        assert store.durability is Durability.UNKNOWN
        assert "make sure that it is noeviction" in caplog.text
        await store.aclose()


async def test_who_may_neither_publish_nor_subscribe_saves_and_waits_all_the_same(own_url: str) -> None:
    async with client(own_url) as own:
        url = await limited(own, own_url, "resetchannels", "+@all")
        await ask(own, "ACL", "LOG", "RESET")

        async def refused_in(context: str) -> None:
            """Wait until the server has refused the channel to a script, or to a command."""
            refusals: set[tuple[object, object]] = set()
            async with asyncio.timeout(PATIENCE):
                while (CHANNEL, context) not in refusals:
                    refusals = {(each["object"], each["context"]) for each in await own.acl_log()}

        stores = [RedisStore(url), RedisStore(url)]
        record = make_record()
        await stores[0].save(record)
        await refused_in("lua")
        waiting = asyncio.create_task(stores[1].changed(record.id, 1, HOUR))
        await refused_in("toplevel")
        assert not waiting.done()
        await stores[0].save(next_version(record))
        async with asyncio.timeout(PATIENCE):
            await waiting
        assert (await stores[1].load(record.id)).version == 2
        for store in stores:
            await store.aclose()


async def test_data_of_a_newer_release_is_left_alone(store: RedisStore, admin: Redis) -> None:
    await admin.set("{reset_flow}:schema", 99)
    assert "newer" in str(await refused(store.save(make_record()), ConfigurationError))
    await admin.set("{reset_flow}:schema", "hello")
    assert "prefix" in str(await refused(store.load("nobody"), ConfigurationError))
    assert await admin.keys() == [b"{reset_flow}:schema"]
    await admin.delete("{reset_flow}:schema")
    await store.save(make_record())
    assert await admin.get("{reset_flow}:schema") == b"1"


async def test_the_mark_of_a_newer_release_is_not_set_back(store: RedisStore, admin: Redis) -> None:
    record = make_record()
    await store.save(record)
    await admin.set("{reset_flow}:schema", 99)
    await store.save(next_version(record))  # by a worker that was connected before
    assert await admin.get("{reset_flow}:schema") == b"99"


async def test_replies_must_stay_bytes() -> None:
    with pytest.raises(ConfigurationError, match="decode_responses"):
        RedisStore("redis://localhost?decode_responses=true")


async def test_a_missing_driver_is_named(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "redis.asyncio", None)
        error = await refused(store.load("nobody"), ConfigurationError)
    assert "pip install 'reset-flow[redis]'" in str(error)
    await refused(store.load("nobody"), FlowNotFound)


# A server that can't do it now


@pytest.mark.parametrize(
    "answer",
    [
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "NOAUTH Authentication required.",
        "NOREPLICAS Not enough good replicas to write.",
        "BUSY Redis is busy running a script.",
        "ERR something new",
    ],
)
async def test_a_refusal_of_the_server_is_told_and_got_over(proxy: Proxy, answer: str) -> None:
    store = RedisStore(proxy.url)
    record = make_record()
    await store.save(record)
    proxy.answer = f"-{answer}\r\n".encode()
    for call in (store.save(next_version(record)), store.load(record.id), store.changed(record.id, 1, HOUR)):
        error = await refused(call, StoreUnavailable)
        assert error.__cause__ is not None
        assert answer.split(" ", 1)[1][:20] in str(error)
    await refused(ids(store), StoreUnavailable)
    await refused(store.purge("default", datetime.now(UTC), 1), StoreUnavailable)
    proxy.answer = b""
    assert await store.load(record.id) == record
    await store.save(next_version(record))
    await store.aclose()


async def test_a_replica_and_a_full_server_write_nothing_and_are_read(own_url: str) -> None:
    store = RedisStore(own_url)
    record = make_record()
    await store.save(record)
    async with client(own_url) as own:
        await own.config_set("maxmemory", "1")
        await refused(store.save(next_version(record), add=[use()]), StoreUnavailable)
        assert await store.load(record.id) == record
        await own.config_set("maxmemory", "0")
        await ask(own, "REPLICAOF", "127.0.0.1", "1")
        try:
            await refused(store.save(next_version(record), add=[use()]), StoreUnavailable)
            assert await store.load(record.id) == record
        finally:
            await ask(own, "REPLICAOF", "NO", "ONE")
        await store.save(next_version(record), add=[use()])
    assert (await store.load(record.id)).version == 2
    await store.aclose()


async def test_a_server_that_falls_silent_is_waited_for_no_longer_than_told(proxy: Proxy) -> None:
    store = RedisStore(proxy.url, reply_timeout=timedelta(milliseconds=200))
    record = make_record()
    await unhurried(lambda: store.save(record))
    proxy.silent = True

    async def calls() -> None:
        results = await asyncio.gather(*(store.save(next_version(record)) for _ in range(10)), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 10
        assert len({id(result) for result in results}) == 10
        await refused(store.load(record.id), StoreUnavailable)

    await takes_less_than(3, calls)
    proxy.silent = False
    # One of them got through, unheard.
    assert (await unhurried(lambda: store.load(record.id))).version == 2
    await store.aclose()


async def test_a_save_whose_acknowledgement_was_lost_is_repeated_and_counts_once(proxy: Proxy, admin: Redis) -> None:
    store = RedisStore(proxy.url)
    record = make_record()
    await store.save(record)
    later = next_version(record)
    proxy.cut = True
    counted = use()
    await refused(store.save(later, add=[counted]), StoreUnavailable)
    assert not proxy.cut
    await store.save(later, add=[counted])
    assert await store.load(record.id) == later
    assert await admin.zcard(b"{reset_flow}:uses:" + KEY) == 1
    await refused(store.save(make_record(), add=[use()]), LimitReached)
    await refused(store.save(record), StaleRecord)
    await store.aclose()


async def test_no_password_is_told(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    word = "hunter2"
    port = urlsplit(redis_url).port
    told = []
    for address in (f"127.0.0.1:{port}", "127.0.0.1:1", "no.such.host.invalid:1"):
        store = RedisStore(f"redis://user:{word}@{address}/0", connect_timeout=timedelta(seconds=1))
        error = await refused(store.save(make_record()), StoreUnavailable)
        told += [*traceback.format_exception(error), repr(error), repr(store)]
        await store.aclose()
    for url in (f"redis://:{word}", f"redis://:{word}/0", f"redis://[{word}", f"redis://{word}\u2100@host/0"):
        store = RedisStore(url)
        unfit = await refused(store.load("nobody"), ConfigurationError)
        assert unfit.__context__ is None
        told += traceback.format_exception(unfit)
        await store.aclose()
    for url in (f"redis://:{word}/x@host/0", f"redis://:{word}?@host/0", f"redis://:{word}#@host/0", word):
        with pytest.raises(ConfigurationError) as caught:
            RedisStore(url)
        told += traceback.format_exception(caught.value)
    assert word not in "".join([*told, caplog.text])


# Many at once


async def test_of_sixteen_who_save_one_version_in_four_workers_one_wins(redis_url: str) -> None:
    stores = [RedisStore(redis_url) for _ in range(4)]
    record = make_record()
    await stores[0].save(record)
    for version in range(2, 12):  # the limit has room for winners alone
        rivals = [next_version(record) for _ in range(16)]
        saves = [stores[n % 4].save(rival, add=[use(limit=version - 1)]) for n, rival in enumerate(rivals)]
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert [type(result) for result in results].count(StaleRecord) == 15
        (record,) = [rival for rival, result in zip(rivals, results, strict=True) if result is None]
        assert await stores[1].load(record.id) == record
    for store in stores:
        await store.aclose()


async def test_five_hundred_flows_share_one_connection(store: RedisStore, admin: Redis) -> None:
    records = [make_record() for _ in range(500)]
    await asyncio.gather(*(store.save(record) for record in records))
    assert await asyncio.gather(*(store.load(record.id) for record in records)) == records
    waiting = [asyncio.create_task(store.changed(record.id, 1, HOUR)) for record in records]
    await asyncio.sleep(0.05)
    assert (await admin.info("clients"))["connected_clients"] <= 3
    await asyncio.gather(*(store.save(next_version(record)) for record in records))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting)


async def test_a_caller_who_goes_away_leaves_the_replies_to_their_owners(store: RedisStore) -> None:
    records = [make_record() for _ in range(40)]
    await asyncio.gather(*(store.save(record) for record in records))
    for _ in range(20):
        loading = [asyncio.create_task(store.load(record.id)) for record in records]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in loading[::3]:
            task.cancel()
        results = await asyncio.gather(*loading, return_exceptions=True)
        for n, (record, result) in enumerate(zip(records, results, strict=True)):
            assert isinstance(result, asyncio.CancelledError) if n % 3 == 0 else result == record


async def test_several_versions_of_a_flow_may_wait_together(store: RedisStore) -> None:
    versions = [make_record()]
    for _ in range(9):
        versions.append(next_version(versions[-1]))
    rival = next_version(versions[4])
    saves = [store.save(record, add=[use(limit=10)] if n % 2 else []) for n, record in enumerate(versions)]
    *results, refusal = await asyncio.gather(*saves, store.save(rival), return_exceptions=True)
    assert results == [None] * 10
    assert isinstance(refusal, StaleRecord)
    assert await store.load(rival.id) == versions[-1]


async def test_what_one_is_refused_for_is_not_refused_to_others(store: RedisStore, admin: Redis) -> None:
    await admin.lpush(b"{reset_flow}:all:spoiled", "no set")
    records = [make_record(realm="spoiled" if n == 3 else "default") for n in range(8)]
    saves = [store.save(record, add=[use(limit=8)]) for record in records]
    results = await asyncio.gather(*saves, return_exceptions=True)
    spoiled, results[3] = results[3], None
    assert isinstance(spoiled, StoreUnavailable)
    assert "wrong kind" in str(spoiled)
    assert results == [None] * 8
    assert await ids(store) == sorted(record.id for record in records if record.realm == "default")
    assert await admin.zcard(b"{reset_flow}:uses:" + KEY) == 7


async def test_what_waits_when_the_store_is_closed_is_saved(redis_url: str) -> None:
    store = RedisStore(redis_url)
    records = [make_record() for _ in range(600)]
    saving = [asyncio.create_task(store.save(record)) for record in records]
    await asyncio.sleep(0)
    await store.aclose()
    await asyncio.gather(*saving)
    again = RedisStore(redis_url)
    assert len(await ids(again)) == 600
    await again.aclose()


def test_one_store_serves_one_loop_after_the_other(redis_url: str) -> None:
    store = RedisStore(redis_url)
    record = make_record()
    asyncio.run(store.save(record))
    assert asyncio.run(store.load(record.id)) == record

    async def elsewhere() -> None:
        await store.load(record.id)
        error = await asyncio.to_thread(asyncio.run, refused(store.load(record.id), ConfigurationError))
        assert "another event loop" in str(error)

    asyncio.run(elsewhere())
    asyncio.run(store.aclose())
    asyncio.run(store.aclose())


# Messages


async def test_a_change_by_another_worker_is_heard_at_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "POLL", 2 * PATIENCE)  # so that nothing but a message wakes who waits
    stores = [RedisStore(redis_url), RedisStore(redis_url)]
    record = make_record()
    await stores[0].save(record)
    for _ in range(5):
        waiting = asyncio.create_task(stores[1].changed(record.id, record.version, HOUR))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        record = next_version(record)
        await stores[0].save(record)
        async with asyncio.timeout(PATIENCE):
            await waiting
    for store in stores:
        await store.aclose()


async def test_messages_come_again_after_their_connection_was_lost(
    store: RedisStore, redis_url: str, admin: Redis
) -> None:
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(store.changed(record.id, 1, HOUR))
    channel = b"{reset_flow}:changed"
    await subscribed(admin, channel, 1)
    await ask(admin, "CLIENT", "KILL", "TYPE", "pubsub")
    await subscribed(admin, channel, 1)
    assert not waiting.done()
    rival = RedisStore(redis_url)
    await rival.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting
    await rival.aclose()
    await store.aclose()
    await subscribed(admin, channel, 0)


async def subscribed(admin: Redis, channel: bytes, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await admin.pubsub_numsub(channel))[0][1] != number:  # noqa: ASYNC110 - what is asked is the server
            await asyncio.sleep(0.01)


async def test_a_store_closes_just_as_the_connection_for_messages_is_checked(
    redis_url: str, admin: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PING_INTERVAL", 0.2)
    record = make_record()
    for turns in range(4):
        store = RedisStore(redis_url)
        await store.save(record)
        waiting = asyncio.create_task(store.changed(record.id, record.version, HOUR))
        await subscribed(admin, b"{reset_flow}:changed", 1)
        time.sleep(0.3)  # noqa: ASYNC251 - the process stalls, and a check is due when it goes on
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await store.aclose()
        await refused(waiting, StoreUnavailable)
        record = next_version(record)


async def test_a_purged_flow_is_waited_for_no_longer(store: RedisStore) -> None:
    record = make_record(ended_at=datetime(2020, 1, 1, tzinfo=UTC))
    await store.save(record)
    waiting = asyncio.create_task(store.changed(record.id, 1, HOUR))
    await asyncio.sleep(0.05)
    assert await store.purge("default", datetime.now(UTC), 10) == 1
    async with asyncio.timeout(PATIENCE):
        await refused(waiting, FlowNotFound)


# What is in there


async def test_a_server_that_forgot_the_scripts_is_reminded(store: RedisStore, admin: Redis) -> None:
    record = make_record()
    await store.save(record)
    for _ in range(3):
        await admin.script_flush()
        record = next_version(record)
        await store.save(record)
        await admin.script_flush()
        assert await store.load(record.id) == record
        assert await ids(store) == [record.id]
        await admin.script_flush()
        assert await store.purge("default", datetime.now(UTC), 1) == 0


async def test_two_prefixes_stand_side_by_side(redis_url: str) -> None:
    stores = [RedisStore(redis_url, prefix="ours"), RedisStore(redis_url, prefix="ours:too")]
    records = [make_record(id="flow", lookups=(b"a" * 16,)) for _ in stores]
    for store, record in zip(stores, records, strict=True):
        await store.save(record, add=[use()])
    for store, record in zip(stores, records, strict=True):
        assert await store.load("flow") == record
        assert await ids(store, Query(realm="default", lookup=b"a" * 16)) == ["flow"]
        await refused(store.save(make_record(), add=[use()]), LimitReached)
    await stores[0].save(next_version(records[0], ended_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert await stores[0].purge("default", datetime.now(UTC), 10) == 1
    assert await stores[1].purge("default", datetime.now(UTC), 10) == 0
    assert await stores[1].load("flow") == records[1]
    for store in stores:
        await store.aclose()


@pytest.mark.parametrize("prefix", ["", "{a}", "a}"])
async def test_a_prefix_is_a_hash_tag(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisStore("redis://localhost", prefix=prefix)


async def test_every_key_is_in_the_stores_slot_and_nothing_is_left_of_what_is_purged(
    redis_url: str, admin: Redis
) -> None:
    store = RedisStore(redis_url, prefix="mine")
    await store.save(make_record())  # opened
    seen: list[str] = []
    async with admin.monitor() as monitor:
        record = make_record(
            realm="{other}", lookups=(b"a" * 16, b"b" * 16), lease=HOUR, due_at=datetime.now(UTC), id="{x}"
        )
        counted = use()
        await store.save(record, add=[counted])
        record = next_version(record, lease=None, ended_at=datetime(2020, 1, 1, tzinfo=UTC))
        await store.save(record, add=[use()], drop=[UseName(counted.key, counted.id)])
        await store.load(record.id)
        for query in (
            Query(realm="{other}"),
            Query(realm="{other}", due=True),
            Query(realm="{other}", lookup=b"a" * 16),
        ):
            assert await ids(store, query) == ["{x}"]
        assert await store.purge("{other}", datetime.now(UTC), 10) == 1
        await admin.echo("over")
        async for command in monitor.listen():
            if command["command"] == "ECHO over":
                break
            seen += [command["command"]] if command["client_type"] == "lua" else []
    named = [command for command in seen if command != "TIME"]
    assert named
    for command in named:
        assert command.split(" ")[1].startswith("{mine}:"), command
    left = {key for key in await admin.keys() if b"other" in key or b"{x}" in key or b"lookup" in key}
    assert left == set()
    await store.aclose()


async def test_a_budget_keeps_its_uses_by_expiry_and_goes_by_itself(redis_url: str, admin: Redis) -> None:
    clock = FrozenClock()
    store = RedisStore(redis_url, clock=clock)
    key = b"{reset_flow}:uses:" + KEY
    long, short, later = use(limit=5), use(limit=5, window=timedelta(seconds=1)), use(limit=5)
    await store.save(make_record(), add=[long, short])
    assert await admin.zrange(key, 0, -1) == [short.id, long.id]
    first, last = [await ask(admin, "ZSCORE", key, each.id) for each in (short, long)]
    assert last - first == 3599 * 10**6
    left = await admin.pttl(key)
    assert 0 < left - HOUR.total_seconds() * 1000 <= 60_000
    clock.advance(timedelta(seconds=1))
    await store.save(make_record(), add=[later])
    assert await admin.zrange(key, 0, -1) == [long.id, later.id]
    assert [await admin.ttl(flow) for flow in await admin.keys("*flow:*")] == [-1, -1]
    await store.save(make_record(), drop=[UseName(KEY, long.id), UseName(KEY, later.id)])
    assert not await admin.exists(key)
    await store.aclose()


@pytest.mark.parametrize("damage", ["cut", "longer", "format", "state", "realm", "time", "lease", "empty", "kind"])
async def test_a_damaged_record_is_told_from_a_missing_one(store: RedisStore, admin: Redis, damage: str) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    names = [f"flow {n:03}" for n in range(110)]
    records = [make_record(id=name, due_at=long_ago, ended_at=long_ago, lookups=(b"a" * 16,)) for name in names]
    for record in records:
        await store.save(record)
    # The last of the first page of a scan.
    spoiled = records[49]
    key = RECORD % spoiled.id.encode()
    value = await admin.get(key)
    assert isinstance(value, bytes)
    await admin.delete(key)
    changed = {
        "cut": value[:-1],
        "longer": value + b"x",
        "format": b"\x02" + value[1:],
        "state": value.replace(b"requested", b"forgotten"),
        "realm": value.replace(b"default", b"def\xff\xff\xff\xff"),
        "time": value[:25] + b"\x7f" + value[26:],
        "lease": value[:41] + bytes(8) + value[49:],
        "empty": b"",
    }
    if damage == "kind":
        await admin.lpush(key, "x")
    else:
        await admin.set(key, changed[damage])
    error = await refused(store.load(spoiled.id), RecordUnreadable)
    assert error.flow_id == spoiled.id
    readable_by_scripts = damage not in ("format", "empty", "kind", "realm")
    if not readable_by_scripts and damage != "realm":
        await refused(store.save(next_version(spoiled)), RecordUnreadable)
    left = [name for name in names if name != spoiled.id]
    assert await ids(store) == left
    assert await ids(store, Query(realm="default", due=True)) == left
    assert await ids(store, Query(realm="default", lookup=b"a" * 16)) == left[::-1]
    # Where a script can't tell what stands there, it leaves it, and goes on behind it.
    assert await store.purge("default", datetime.now(UTC), 1000) == (110 if readable_by_scripts else 109)
    assert await admin.exists(key) == (0 if readable_by_scripts else 1)
    assert await ids(store) == []


async def test_what_no_record_can_hold_is_refused_at_once(store: RedisStore) -> None:
    for record in (make_record(lookups=(b"short",)), make_record(id="\ud800"), make_record(realm="\ud800")):
        await refused(store.save(record), InvalidInput)
    assert await ids(store, Query(realm="\ud800")) == []
    assert await store.purge("\ud800", datetime.now(UTC), 10) == 0
    late = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    forever = make_record(lease=timedelta.max, due_at=late, ended_at=late)
    await store.save(forever, add=[use(window=timedelta.max, limit=10**30), use(b"o" * 16, window=timedelta.max)])
    assert (await store.load(forever.id)).ended_at == late
    await refused(store.save(make_record(), add=[use()]), LimitReached)


async def test_many_that_are_due_at_one_moment_are_all_found(store: RedisStore) -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    names = [f"{n * 7919 % 331:03}" for n in range(331)]
    for name in names:
        await store.save(make_record(id=name, due_at=moment))
    assert await ids(store, Query(realm="default", due=True)) == names


@asynccontextmanager
async def moving(cluster: Cluster, key: bytes) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Move the slot of a key from the full node to the empty one, and back afterwards. Gives what moves keys."""
    full, empty = cluster.full, cluster.empty
    here, there = await ask(full, "CLUSTER", "MYID"), await ask(empty, "CLUSTER", "MYID")
    slot = await ask(full, "CLUSTER", "KEYSLOT", key)
    password = full.connection_pool.connection_kwargs["password"]
    await ask(empty, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    await ask(full, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)

    async def move(*keys: bytes, whole: bool = False) -> None:
        port = empty.connection_pool.connection_kwargs["port"]
        moved = await full.keys() if whole else keys
        await ask(full, "MIGRATE", "127.0.0.1", port, "", 0, 5000, "AUTH", password, "KEYS", *moved)
        if whole:
            for node in (empty, full):
                await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", there)

    try:
        yield move
    finally:
        await empty.flushall()
        for node in (full, empty):
            await ask(node, "CLUSTER", "SETSLOT", slot, "STABLE")
            await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", here)


async def test_flows_are_loaded_while_a_cluster_moves_them(cluster: Cluster) -> None:
    store = RedisStore(cluster.url)
    records = [make_record() for _ in range(2)]
    for record in records:
        await store.save(record)
    async with moving(cluster, RECORD % records[0].id.encode()) as move:
        await move(RECORD % records[0].id.encode())
        assert [await store.load(record.id) for record in records] == records
        await refused(store.load("nobody"), FlowNotFound)
    await store.aclose()


async def test_what_a_cluster_is_moving_is_saved_after_the_move_and_nothing_is_saved_twice(cluster: Cluster) -> None:
    store = RedisStore(cluster.url)
    record, counted = make_record(), use()
    await store.save(record, add=[counted])
    async with moving(cluster, RECORD % record.id.encode()) as move:
        for keys in ((), (RECORD % record.id.encode(),), (b"{reset_flow}:flows",)):
            if keys:
                await move(*keys)
            await refused(store.save(make_record(id=record.id)), StoreUnavailable)
            await refused(store.save(next_version(record), drop=[UseName(counted.key, counted.id)]), StoreUnavailable)
        await move(whole=True)
        assert await store.load(record.id) == record
        await refused(store.save(make_record(id=record.id)), StaleRecord)
        await refused(store.save(make_record(), add=[use()]), LimitReached)
        record = next_version(record)
        await store.save(record)
        assert await store.load(record.id) == record
    await store.aclose()

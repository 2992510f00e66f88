"""Redis under operations: a replica is promoted behind one address, connections die without a word."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from benchmarks.servers import RedisSentinel, RedisServer
from reset_flow.domain.errors import ConfigurationError, LimitReached, StoreUnavailable
from reset_flow.ports import Query, Use
from reset_flow.stores.redis import Durability, RedisStore, session
from reset_flow.testing import make_record, next_version, refused
from tests.conftest import without
from tests.patience import PATIENCE, REDIS_OPTIONS, takes_less_than, unhurried
from tests.switch import Switch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from redis.asyncio import Redis

    from reset_flow.ports import Record

LONG = timedelta(hours=1)
SHORT = timedelta(milliseconds=300)
FLOWS = 500


@pytest.fixture(scope="session")
def pair(redis_server: RedisServer) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers of the tests' own."""
    if not isinstance(redis_server, RedisServer):
        without("a server that is run by somebody else is not set up for a test")
    servers = [RedisServer(redis_server.binary, None, {"repl-diskless-sync-delay": 0}) for _ in range(2)]
    for server in servers:
        server.password = redis_server.password
        server.settings["masterauth"] = redis_server.password
    try:
        for server in servers:
            server.start()
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.close()


@pytest.fixture
async def first(pair: tuple[RedisServer, RedisServer]) -> AsyncIterator[RedisServer]:
    """A server with a replica, `second`."""
    for server in pair:
        server.ensure()
    await follow(pair[1], pair[0])
    yield pair[0]
    for server in pair:
        server.ensure()
        await follow(server, None)
        async with client(server.url) as admin:
            await admin.config_set("maxmemory", 0)
            await admin.config_set("maxmemory-policy", "noeviction")
            await admin.flushall()


@pytest.fixture
def second(pair: tuple[RedisServer, RedisServer]) -> RedisServer:
    return pair[1]


@pytest.fixture
async def switch(first: RedisServer) -> AsyncIterator[Switch]:
    async with Switch(first.port).running() as switch:
        yield switch


@pytest.fixture
async def store(first: RedisServer, switch: Switch) -> AsyncIterator[RedisStore]:
    """A store by way of the switch."""
    store = RedisStore(switch.url(first.url), connect_timeout=LONG, reply_timeout=LONG)
    yield store
    await store.aclose()


@pytest.fixture
async def impatient(first: RedisServer, switch: Switch) -> AsyncIterator[RedisStore]:
    """A store by way of the switch, which soon finds out that nothing passes."""
    store = RedisStore(switch.url(first.url), connect_timeout=SHORT * 2, reply_timeout=SHORT * 2)
    yield store
    await store.aclose()


def client(url: str) -> Redis:
    from redis.asyncio import Redis  # noqa: PLC0415 - not installed with every set of extras

    return Redis.from_url(url, **REDIS_OPTIONS)


async def follow(server: RedisServer, master: RedisServer | None) -> None:
    """Make a server a replica that has all that its master has, or a master."""
    async with client(server.url) as admin:
        if master is None:
            await admin.replicaof("NO", "ONE")
            return
        await admin.replicaof("127.0.0.1", str(master.port))

        async def is_linked() -> bool:
            return bool((await admin.info("replication")).get("master_link_status") == "up")

        await until(is_linked)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is asked is the server
            await asyncio.sleep(0.01)


def use(record: Record, limit: int) -> Use:
    """A use of a budget of the flow's own."""
    return Use(key=record.id[:16].encode(), id=os.urandom(9), limit=limit, window=timedelta(hours=1))


async def use_all(store: RedisStore, record: Record) -> None:
    """Use each kind of call."""

    async def scan() -> None:
        assert [found.id async for found in store.scan(Query(realm="default"), limit=9)]

    await asyncio.gather(store.save(record), store.load(record.id), scan(), scan())


# Failover


@pytest.mark.parametrize("old", ["demoted", "killed"])
async def test_five_hundred_flows_survive_a_failover_behind_one_address(
    first: RedisServer, second: RedisServer, switch: Switch, old: str
) -> None:
    store = RedisStore(switch.url(first.url))
    acknowledged: dict[str, Record] = {}
    missed: list[StoreUnavailable] = []
    done, going_on = asyncio.Event(), asyncio.Event()
    going_on.set()

    async def flow() -> None:
        record, after = make_record(), 0
        while after < 2:
            await going_on.wait()
            try:
                await store.save(record, add=[use(record, 1000)])
            except StoreUnavailable as error:
                missed.append(error)
                await asyncio.sleep(0.05)
                continue
            acknowledged[record.id] = record
            after += done.is_set()
            record = next_version(record)

    flows = [asyncio.create_task(flow()) for _ in range(FLOWS)]
    await until(lambda: asyncio.sleep(0, len(acknowledged) == FLOWS))
    # What its replica has not got when a master goes is lost: that is Redis, and not what is asked here.
    going_on.clear()
    async with client(first.url) as admin:
        await store.save(make_record())
        assert await admin.wait(1, 60_000) == 1
    if old == "killed":
        await asyncio.to_thread(first.kill)
    await follow(second, None)
    switch.target = second.port
    if old == "demoted":
        await follow(first, second)
    going_on.set()
    if old == "demoted":
        await until(lambda: asyncio.sleep(0, missed))
    done.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*flows)
    for record in acknowledged.values():
        assert await store.load(record.id) == record
        # None counted twice, and none was forgotten.
        await refused(store.save(next_version(record), add=[use(record, record.version)]), LimitReached)
        await store.save(next_version(record), add=[use(record, record.version + 1)])
    await store.aclose()


async def test_a_frozen_master_is_left_for_the_one_that_sentinel_promotes(
    impatient: RedisStore, first: RedisServer, second: RedisServer, switch: Switch
) -> None:
    sentinel = await asyncio.to_thread(RedisSentinel, first)
    try:
        await asyncio.to_thread(sentinel.start)
        record = make_record()
        await unhurried(lambda: impatient.save(record))
        async with client(first.url) as old, client(sentinel.url) as asked:
            assert await old.wait(1, 60_000) == 1

            async def master() -> int:
                address: Any = await asked.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "watched")  # type: ignore[no-untyped-call]
                return int(address[1])

            async def replicas() -> Any:
                return await asked.execute_command("SENTINEL", "REPLICAS", "watched")  # type: ignore[no-untyped-call]

            async def is_switched() -> bool:
                switch.target = await master()
                return switch.target == second.port

            await until(replicas)
            os.kill(first.pid, signal.SIGSTOP)
            try:
                await refused(impatient.save(next_version(record)), StoreUnavailable)
                await until(is_switched)
                await unhurried(lambda: use_all(impatient, record))
            finally:
                os.kill(first.pid, signal.SIGCONT)
    finally:
        await asyncio.to_thread(sentinel.close)
    later = next_version(record)
    await unhurried(lambda: impatient.save(later))


async def test_after_a_failover_messages_come_from_the_new_server(
    store: RedisStore, first: RedisServer, second: RedisServer, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "POLL", 2 * PATIENCE)
    record = make_record()
    await store.save(record)
    waiting = asyncio.create_task(store.changed(record.id, 1, LONG))
    channel = b"{reset_flow}:changed"
    async with client(first.url) as old, client(second.url) as new:

        async def heard_by(server: Redis) -> bool:
            return bool((await server.pubsub_numsub(channel))[0][1] == 1)

        await until(lambda: heard_by(old))
        assert await old.wait(1, 60_000) == 1
        await follow(second, None)
        switch.target = second.port
        await follow(first, second)
        await refused(store.save(make_record()), StoreUnavailable)
        await store.load(record.id)
        await until(lambda: heard_by(new))
    assert not waiting.done()
    other = RedisStore(second.url)
    await other.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting
    await other.aclose()


async def test_an_old_master_that_nobody_demoted_is_left_in_time(
    store: RedisStore, first: RedisServer, second: RedisServer, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LIFETIME", 0.1)
    record = make_record()
    await store.save(record)
    async with client(first.url) as admin:
        assert await admin.wait(1, 60_000) == 1
    await follow(second, None)
    switch.target = second.port
    other = RedisStore(second.url)
    await other.save(next_version(record))
    await asyncio.sleep(0.1)
    assert (await store.load(record.id)).version == 2
    await other.aclose()


async def test_a_replica_is_asked_only_until_its_address_leads_to_a_master(
    first: RedisServer, second: RedisServer, switch: Switch
) -> None:
    writer = RedisStore(first.url)
    record = make_record()
    await writer.save(record)
    async with client(first.url) as admin:
        assert await admin.wait(1, 60_000) == 1
    switch.target = second.port
    store = RedisStore(switch.url(first.url))
    assert await store.load(record.id) == record
    opened = switch.opened
    switch.target = first.port
    assert await store.load(record.id) == record
    assert switch.opened > opened
    await store.save(next_version(record))
    opened = switch.opened
    await store.load(record.id)
    assert switch.opened == opened
    await store.aclose()
    await writer.aclose()


async def test_the_settings_of_the_server_behind_an_address_are_looked_at_after_a_failover(
    store: RedisStore, first: RedisServer, second: RedisServer, switch: Switch
) -> None:
    await store.save(make_record())
    assert store.durability is Durability.ALWAYS
    async with client(second.url) as admin:
        await admin.config_set("maxmemory", "500mb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")
    await follow(second, None)
    switch.target = second.port
    await follow(first, second)
    await refused(store.save(make_record()), StoreUnavailable)
    assert "noeviction" in str(await refused(store.save(make_record()), ConfigurationError))


# Connections that died without a word


async def test_half_open_connections_lead_to_new_ones(impatient: RedisStore, switch: Switch) -> None:
    record = make_record()
    await unhurried(lambda: use_all(impatient, record))
    for _ in range(2):
        switch.freeze()
        await refused(impatient.save(record), StoreUnavailable)
        await unhurried(lambda: use_all(impatient, record))


async def test_connections_that_were_cut_while_idle_are_missed_by_nobody(
    store: RedisStore, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.stores.redis.server.IDLE", -1.0)  # at once
    record = make_record()
    await store.save(record)
    before = switch.opened
    await switch.cut()
    await use_all(store, record)
    assert switch.opened > before


async def test_messages_come_again_after_their_connection_went_silent(
    impatient: RedisStore, switch: Switch, first: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(session, "POLL", 2 * PATIENCE)  # so that nothing but a message wakes who waits
    record = make_record()
    await unhurried(lambda: impatient.save(record))
    waiting = asyncio.create_task(unhurried(lambda: impatient.changed(record.id, 1, LONG)))
    async with client(first.url) as admin:

        async def subscribed() -> int:
            ((_, count),) = await admin.pubsub_numsub("{reset_flow}:changed")
            return int(count)

        async def subscribed_again() -> bool:
            return await subscribed() == 2

        await until(subscribed)
        switch.freeze(newest=True)
        await until(subscribed_again)  # beside the silent one, whose end the server has not seen
    assert not waiting.done()
    other = RedisStore(first.url)
    await other.save(next_version(record))
    async with asyncio.timeout(PATIENCE):
        await waiting
    await other.aclose()


async def test_a_server_that_is_silent_at_the_first_opening_is_waited_for_once(
    impatient: RedisStore, switch: Switch
) -> None:
    switch.is_silent = True

    async def scan() -> None:
        async for _ in impatient.scan(Query(realm="default"), limit=9):
            pass

    async def calls() -> None:
        calls = [impatient.save(make_record()), impatient.load("any"), *(scan() for _ in range(4))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 6

    await takes_less_than(4 * SHORT.total_seconds(), calls)
    switch.is_silent = False
    await unhurried(lambda: impatient.save(make_record()))


async def test_a_password_that_was_changed_and_changed_back_locks_nobody_out(
    first: RedisServer, switch: Switch
) -> None:
    async with client(first.url) as admin:
        await admin.acl_setuser(
            "rotated", enabled=True, passwords=["+old"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        url = urlsplit(switch.url(first.url))
        store = RedisStore(url._replace(netloc=f"rotated:old@127.0.0.1:{switch.port}").geturl())
        record = make_record()
        await store.save(record)
        await admin.acl_setuser("rotated", enabled=True, reset_passwords=True, passwords=["+new"])
        await switch.cut()
        await refused(store.load(record.id), StoreUnavailable)
        await admin.acl_setuser("rotated", enabled=True, passwords=["+old"])
        assert await store.load(record.id) == record
        await admin.acl_deluser("rotated")  # which closes its connections
        await refused(store.load(record.id), StoreUnavailable)
        await store.aclose()


async def test_a_batch_that_is_broken_off_leaves_no_reply_to_the_next(store: RedisStore) -> None:
    records = [make_record() for _ in range(3)]
    for record in records:
        await store.save(record)
    for turns in range(2, 12):
        loading = [asyncio.create_task(store.load(records[0].id)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks():
            if "Batcher" in str(task):
                task.cancel()
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*loading, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) or outcome == records[0] for outcome in outcomes)
        assert [await store.load(record.id) for record in records] == records

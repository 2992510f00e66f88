"""A standby or replica is promoted under flows: as far as the server's durability goes, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from benchmarks import servers
from benchmarks.binaries import NoServerError
from benchmarks.servers import PostgresStandby, RedisServer
from reset_flow import State, StoreUnavailable
from tests.conftest import without
from tests.patience import REDIS_OPTIONS
from tests.switch import Switch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from reset_flow.domain.flow import Flow
    from tests.crash.conftest import Crash, Person

FLOWS = int(os.environ.get("RESET_FLOW_TEST_FLOWS", "150"))


@pytest.fixture
def times() -> tuple[float, float]:
    return 8.0, 12.0  # a flow whose last save was lost is waited for


class Failover:
    """A server behind a switch, with another one that has all that was acknowledged."""

    def __init__(self, url: str, switch: Switch, fail_over: Callable[[], None], port: int) -> None:
        self.url = url
        self.switch = switch
        self.fail_over = fail_over
        self.port = port


@pytest.fixture
async def postgres_failover() -> AsyncIterator[Failover]:
    asyncpg = pytest.importorskip("asyncpg")
    try:
        primary = servers.postgres({"shared_buffers": "32MB", "autovacuum": "off"})
    except NoServerError as error:
        without(str(error))
    standby: PostgresStandby | None = None
    try:
        await asyncio.to_thread(primary.start)
        standby = await asyncio.to_thread(PostgresStandby, primary)
        await asyncio.to_thread(standby.start)
        database = await asyncpg.connect(primary.url)
        await database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await database.execute("SELECT pg_reload_conf()")
        while not await database.fetchval("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await database.close()

        def fail_over() -> None:
            primary.kill()
            standby.promote()

        async with Switch(primary.port).running() as switch:
            yield Failover(switch.url(primary.url), switch, fail_over, standby.port)
    finally:
        for server in (standby, primary):
            if server is not None:
                await asyncio.to_thread(server.close)


@pytest.fixture
async def redis_failover() -> AsyncIterator[Failover]:
    redis = pytest.importorskip("redis")
    try:
        first = servers.redis({"repl-diskless-sync-delay": 0, "min-replicas-to-write": 0})
    except NoServerError as error:
        without(str(error))
    second = RedisServer(first.binary, None, first.settings)
    second.password = first.password
    for server in (first, second):
        server.settings["masterauth"] = server.password
    try:
        for server in (first, second):
            await asyncio.to_thread(server.start)
        with redis.Redis.from_url(second.url, **REDIS_OPTIONS) as admin:
            admin.replicaof("127.0.0.1", first.port)
            while admin.info("replication")["master_link_status"] != "up":  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        def fail_over() -> None:
            # The way that loses nothing: the old master waits for its replica, and then follows it.
            old, new = (redis.Redis.from_url(server.url, **REDIS_OPTIONS) for server in (first, second))
            with old, new:
                old.execute_command("FAILOVER", "TO", "127.0.0.1", second.port)
                while new.info("replication")["role"] != "master":
                    pass

        async with Switch(first.port).running() as switch:
            yield Failover(switch.url(first.url), switch, fail_over, second.port)
    finally:
        for server in (second, first):
            await asyncio.to_thread(server.close)


@pytest.fixture(params=["postgres_failover", "redis_failover"])
def failover(request: pytest.FixtureRequest) -> Failover:
    failover: Failover = request.getfixturevalue(request.param)
    return failover


@pytest.fixture
def store_url(failover: Failover) -> str:
    return failover.url


@pytest.mark.server
async def test_flows_go_on_through_a_failover(failover: Failover, crash: Crash) -> None:
    people: list[Person] = []
    failed_over = asyncio.Event()

    async def go(number: int) -> Flow:
        person = crash.person(question=number % 3 > 0)
        people.append(person)
        await asyncio.sleep(number / FLOWS * 3)
        if number == FLOWS - 1:
            await failed_over.wait()  # it may have been too quick, or too slow, for all the others to miss the server
        return await person.finish()

    async def trouble() -> None:
        while len(people) < FLOWS / 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.to_thread(failover.fail_over)
        failed_over.set()
        while not any(told is StoreUnavailable for person in people for _, told in person.told):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        failover.switch.target = failover.port

    await crash.service.sweep()  # opens the store
    ends, _ = await asyncio.gather(asyncio.gather(*map(go, range(FLOWS))), trouble())
    for person, flow in zip(people, ends, strict=True):
        crash.check(person, flow)
        assert flow.state is State.PASSWORD_SET
    report = await crash.service.sweep()
    assert (report.settled, report.expired, report.unreadable) == (0, 0, 0)

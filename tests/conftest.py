"""
Real servers on loopback, each started for one test run and gone with it, however the run ends.

- `RESET_FLOW_TEST_POSTGRES`, `RESET_FLOW_TEST_REDIS`: the URL of a server of one's own, taken instead. PostgreSQL: of a
  user that may create databases. Redis: of an empty database, which is emptied after each test.
- `RESET_FLOW_TEST_INSTALL=0`: install no missing server (with `apt-get`, as root).
- `RESET_FLOW_TEST_REQUIRE_SERVERS=1`: fail where a test would be skipped for want of a server.

A test that needs one of them carries the mark `server`: `-m "not server"` runs the rest. One that needs Restate, or
DBOS on PostgreSQL, also carries the mark `engine`, as do others that take long: `make engines` runs those.
"""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

from benchmarks import servers
from benchmarks.binaries import NoServerError, find_program, provided
from reset_flow import AllauthTransport, CognitoTransport, EtnaTransport, PostgresStore, RedisStore
from tests.patience import PATIENCE, REDIS_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from benchmarks.servers import PostgresServer, RedisServer, RestateServer


# Neither says anything of the examples: on a machine that is busy with other things, both fail any test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TIME_OUTS: dict[type, tuple[str, ...]] = {
    PostgresStore: ("connect_timeout", "statement_timeout"),
    RedisStore: ("connect_timeout", "reply_timeout"),
    **dict.fromkeys((EtnaTransport, AllauthTransport, CognitoTransport), ("connect_deadline",)),
}
"""By default they are 5 or 10 seconds: a test whose process stalls for longer would find its servers away."""

SERVER_FIXTURES = {"postgres_server", "redis_server", "restate_server"}
SERVER_PARAMETERS = {"postgres", "redis"}
ENGINE_FIXTURES = {"restate_server", "engine_url"}
"""A test with one of them that needs a server is one for `make engines`: DBOS on SQLite is not."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that needs a server, before `-m` selects."""
    for item in items:
        if isinstance(item, pytest.Function) and needs_server(item):
            item.add_marker(pytest.mark.server)
            if not ENGINE_FIXTURES.isdisjoint(item.fixturenames):
                item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session", autouse=True)
def _time_for_servers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for kind, names in TIME_OUTS.items():
            for name in names:
                patch.setitem(vars(kind)["__init__"].__kwdefaults__, name, timedelta(seconds=PATIENCE))
        yield


def needs_server(test: pytest.Function) -> bool:
    """Return True if the test uses a server's fixture, or may ask for one by the name that is its parameter."""
    if not SERVER_FIXTURES.isdisjoint(test.fixturenames):
        return True
    parameters = test.callspec.params.values() if hasattr(test, "callspec") else ()
    return "request" in test.fixturenames and any(
        isinstance(parameter, str) and parameter in SERVER_PARAMETERS for parameter in parameters
    )


def require_mark(request: pytest.FixtureRequest) -> None:
    """Fail a test that got a server unmarked: `-m "not server"` would run it."""
    if request.node.get_closest_marker("server") is None:
        pytest.fail(
            "this test needs a server, and tests/conftest.py does not see that: see needs_server", pytrace=False
        )


def without(what: str) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if os.environ.get("RESET_FLOW_TEST_REQUIRE_SERVERS", "0") not in ("", "0"):
        pytest.fail(f"{what} (RESET_FLOW_TEST_REQUIRE_SERVERS is set)", pytrace=False)
    pytest.skip(what)


def program(name: str) -> Path:
    """Return a program of the system, which is installed where it is missing; else skip the test, or fail it."""
    try:
        return provided(name, partial(find_program, name))
    except NoServerError as error:
        without(str(error))


class OwnServer:
    """A server that somebody else runs: it is used, not touched."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self._name = name

    def _refuse(self) -> NoReturn:
        without(f"a server that is run by somebody else ({self._name}) is not stopped for a test")

    start = stop = kill = restart = _refuse

    def ensure(self) -> None:
        """It runs, or the test will say so."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer | OwnServer]:
    """One PostgreSQL for the run. A test that stops it need not start it again."""
    if url := os.environ.get("RESET_FLOW_TEST_POSTGRES"):
        yield OwnServer(url, "RESET_FLOW_TEST_POSTGRES")
        return
    try:
        server = servers.postgres(
            {
                "shared_buffers": "32MB",
                "timezone": "Pacific/Chatham",  # whoever takes local time for UTC is found out, by 45 minutes at least
                "autovacuum": "off",  # it wakes up in the middle of what is measured
            }
        )
    except NoServerError as error:
        without(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def postgres_url(
    request: pytest.FixtureRequest, postgres_server: PostgresServer | OwnServer
) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped after the test, whoever is still connected."""
    require_mark(request)
    try:
        import asyncpg  # noqa: PLC0415 - not installed with every set of extras
    except ImportError:
        without("asyncpg is not installed: pip install 'reset-flow[postgres]'")
    postgres_server.ensure()
    name = f"reset_flow_test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    finally:
        await connection.close()
    yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
    postgres_server.ensure()
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer | OwnServer]:
    """One Redis for the run. A test that stops it need not start it again."""
    if url := os.environ.get("RESET_FLOW_TEST_REDIS"):
        yield OwnServer(url, "RESET_FLOW_TEST_REDIS")
        return
    try:
        server = servers.redis()
    except NoServerError as error:
        without(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, redis_server: RedisServer | OwnServer) -> Iterator[str]:
    """The URL of an empty Redis database, emptied again after the test; scripts are forgotten as well."""
    require_mark(request)
    try:
        import redis  # noqa: PLC0415 - not installed with every set of extras
    except ImportError:
        without("redis is not installed: pip install 'reset-flow[redis]'")
    redis_server.ensure()
    with redis.Redis.from_url(redis_server.url, **REDIS_OPTIONS) as client:
        if client.dbsize():
            pytest.fail("the Redis database is not empty: give the tests one that is", pytrace=False)
    yield redis_server.url
    redis_server.ensure()
    with redis.Redis.from_url(redis_server.url, **REDIS_OPTIONS) as client:
        client.flushdb()
        client.script_flush()


@pytest.fixture(scope="session")
def restate_server() -> Iterator[RestateServer]:
    """One Restate for the run. A test that stops it starts it again, and names its services as no other test does."""
    try:
        server = servers.restate()
    except NoServerError as error:
        without(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()

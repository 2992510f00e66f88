"""The password in the address of a store or a broker shows nowhere, whatever becomes of the address."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

import pytest

from reset_flow import (
    ConfigurationError,
    EtnaTransport,
    Keyring,
    PostgresStore,
    Query,
    RedisStore,
    ResetFlowError,
    ResetService,
    Secret,
    StoreUnavailable,
    from_env,
    open_store,
    open_transport,
)
from reset_flow.testing import LeakScanner, ScriptedTransport, make_record, shown_by, shown_by_error
from reset_flow.transports.breaches import BreachCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from reset_flow.ports import Record, Store
    from tests.leaks.conftest import Raised

    Clean: TypeAlias = Callable[[BaseException], None]
    """Assert that an error shows no part of the address."""

PASSWORD = "hünter2+with/sl@sh&more"
QUOTED = quote(PASSWORD, safe="")
TESTS = Path(__file__).parents[1]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
IN_AN_INSTANT = timedelta(seconds=0.3)


@pytest.fixture
def scanner() -> LeakScanner:
    return LeakScanner(
        {"password": PASSWORD, "address": f"me:{QUOTED}", "a part of it": "sl@sh&more", "another": "hünter2"}
    )


@pytest.fixture
def clean(scanner: LeakScanner) -> Clean:
    def clean(error: BaseException) -> None:
        assert scanner.find(shown_by_error(error, callers=[TESTS])) == []

    return clean


MALFORMED = [
    f"postgres:/{PASSWORD}",
    f"{PASSWORD}@host/db",
    f"postgresql://me:{PASSWORD}@host/db",
    f"postgresql://me:{QUOTED}@[::1/db",
    f"postgresql://me:{QUOTED}@host:port/db",
    f"postgresql://me:{QUOTED}@127.0.0.1:1/db?sslmode=nonsense",
    f"postgresql://me:{QUOTED}@127.0.0.1:1/db?sslrootcert=/nowhere&sslmode=verify-full",
    f"postgresql://127.0.0.1:1/db?user=me&password={QUOTED}",
    f"postgresql://me:{QUOTED}@\u2100host/db",
    f"redis:/{PASSWORD}",
    f"redis://me:{PASSWORD}@host:6379/0",
    f"redis://me:{QUOTED}@host:port/0",
    f"redis://me:{QUOTED}@[::1/0",
    f"redis://me:{QUOTED}@127.0.0.1:1/zero?db=one",
    f"redis://me:{QUOTED}@127.0.0.1:1/0?socket_timeout=never",
    f"redis://me:{QUOTED}@127.0.0.1:1/0?no_such_option=1",
    f"redis://me:{QUOTED}@127.0.0.1:1/0?decode_responses=True",
    f"rediss://me:{QUOTED}@127.0.0.1:1/0?ssl_cert_reqs=nonsense",
    f"sqlite:{PASSWORD}",
    f"mysql://me:{QUOTED}@host/db",
]


@pytest.mark.parametrize("number", range(len(MALFORMED)))
async def test_an_address_that_leads_nowhere(number: int, clean: Clean, raised: Raised) -> None:
    async def use() -> None:
        store = open_store(MALFORMED[number])
        try:
            await store.load("nobody")
        finally:
            await store.aclose()

    error = await raised(use())
    assert isinstance(error, ConfigurationError | StoreUnavailable), error
    clean(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PostgresStore(f"postgresql://me:{QUOTED}@host/db", prefix="a b"),
        lambda: PostgresStore(f"postgresql://me:{QUOTED}@host/db", connections=0),
        lambda: PostgresStore(f"mysql://me:{QUOTED}@host/db"),
        lambda: RedisStore(f"redis://me:{QUOTED}@host/0", prefix="{}"),
        lambda: RedisStore(f"http://me:{QUOTED}@host/0"),
        lambda: RedisStore(f"redis://me:{PASSWORD}@host/0"),
        lambda: EtnaTransport(f"https://me:{QUOTED}@host/api", "key"),
        lambda: EtnaTransport(f"https://me:{PASSWORD}@host/api", "key"),
        lambda: EtnaTransport(f"https://host/api?password={QUOTED}", "key"),
        lambda: EtnaTransport(f"ftp://me:{QUOTED}@host/api", "key"),
        lambda: EtnaTransport(f"https://me:{QUOTED}@[host/api", "key"),
        lambda: EtnaTransport(f"https://me:{PASSWORD} @host/api", "key"),
        lambda: EtnaTransport("https://host/api", PASSWORD),
        lambda: EtnaTransport("https://host/api", f"key {PASSWORD} \N{SNOWMAN}"),
        lambda: BreachCheck(f"https://me:{QUOTED}@host/range/"),
        lambda: from_env({"STORE": f"mysql://me:{QUOTED}@host/db", "BROKER_URL": "https://h/api", "APP_KEY": "k"}),
        lambda: from_env({"BROKER_URL": f"https://me:{QUOTED}@host/db", "APP_KEY": "k"}),
        lambda: from_env({"BROKER_URL": "https://h/api", "APP_KEY": PASSWORD + "\n", "REVISION": "no"}),
        lambda: from_env({"APP_KEY": PASSWORD}),
        lambda: from_env({"BROKER_URL": "https://h/api", "APP_KEY": "k", "PROXY": f"socks5://me:{QUOTED}@host"}),
        lambda: from_env({"BROKER_URL": "https://h/api", "APP_KEY": "k", "PROXY": f"http://me:{PASSWORD}@[host"}),
        lambda: open_transport(f"acme+https://me:{QUOTED}@host/api", "key"),
        lambda: open_transport(f"etna+https://me:{PASSWORD}@host/api", "key"),
        lambda: open_transport(f"allauth+https://host/_allauth?code={QUOTED}"),
        lambda: open_transport("https://host/api", "key", proxy=f"http://me:{QUOTED}@host/{QUOTED}"),
        lambda: open_transport("https://host/api", f"key {PASSWORD} \N{SNOWMAN}"),
        lambda: EtnaTransport("https://host/api", "key", proxy=f"http://me:{QUOTED}@host/{QUOTED}"),
        lambda: EtnaTransport("https://host/api", "key", proxy=f"http://me:{QUOTED}@host:3128"),
    ],
)
def test_what_can_not_be_made_of_it(make: Callable[[], object], clean: Clean, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESET_FLOW_BROKER_URL", raising=False)
    try:
        made = make()
    except ConfigurationError as error:
        clean(error)
    else:
        # An app key with such letters can be sent: it only must not show.
        assert isinstance(made, EtnaTransport)
        assert LeakScanner({"key": PASSWORD}).find(shown_by(made, vars(made))) == []


def test_an_environment_that_can_not_be_used(clean: Clean, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESET_FLOW_BROKER_URL", "https://host/api")
    monkeypatch.setenv("RESET_FLOW_APP_KEY", "key")
    monkeypatch.setenv("RESET_FLOW_KEYS", str(tmp_path / "keys"))
    for name, value in (("STORE", f"mysql://me:{QUOTED}@host/db"), ("BROKER_URL", f"http://me:{QUOTED}@host/")):
        monkeypatch.setenv(f"RESET_FLOW_{name}", value)
        with pytest.raises(ConfigurationError) as caught:
            from_env()
        clean(caught.value)


@pytest.mark.parametrize("store_url", ["postgres", "redis"], indirect=True)
async def test_a_store_shows_no_address(store_url: str) -> None:
    scanner = LeakScanner({"password": urlsplit(store_url).password or ""})
    addresses: list[str | Secret] = [store_url, Secret(store_url)]
    for number, given in enumerate(addresses):
        store = open_store(given)
        await store.save(make_record(id=f"{number:026}"))
        parts: list[object] = [store]
        for part in parts:  # which grows
            if type(part).__module__.startswith("reset_flow.stores.") and hasattr(part, "__dict__"):
                parts += [vars(part), *(each for each in vars(part).values() if not any(each is old for old in parts))]
        assert len(parts) > len(vars(store))
        assert scanner.find(shown_by(*parts)) == []
        await store.aclose()


@pytest.mark.parametrize("store_url", ["postgres", "redis"], indirect=True)
async def test_a_password_that_is_wrong(store_url: str, clean: Clean, raised: Raised) -> None:
    right = urlsplit(store_url)
    user = right.username or "default"
    url = right._replace(netloc=f"{user}:{QUOTED}@{right.hostname}:{right.port}").geturl()
    for use in USES:
        store = open_store(url)
        error = await raised(use(store))
        assert isinstance(error, StoreUnavailable)
        assert error.__cause__ is not None, "its words are worth something"
        clean(error)
        await store.aclose()


async def all_of(store: Store) -> list[Record]:
    return [record async for record in store.scan(Query(realm="r"), limit=5)]


USES: list[Callable[[Store], Awaitable[object]]] = [
    lambda store: store.load("nobody"),
    lambda store: store.save(make_record()),
    lambda store: store.changed("nobody", 1, timedelta(seconds=5)),
    lambda store: store.purge("r", LONG_AGO, 5),
    all_of,
]


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """Return the port of a server that takes connections, and says nothing."""
    held = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await asyncio.sleep(30)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in held:
        writer.transport.abort()


@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
@pytest.mark.parametrize("use", range(len(USES)))
async def test_who_gives_up_on_a_server_that_is_silent(
    silent: int, scheme: str, use: int, clean: Clean, raised: Raised
) -> None:
    async def impatient(store: Store, patience: float) -> None:
        async with asyncio.timeout(patience):
            await USES[use](store)

    address = f"{scheme}://me:{QUOTED}@127.0.0.1:{silent}/0"
    for patience, limit, kind in ((0.1, timedelta(minutes=1), TimeoutError), (60, IN_AN_INSTANT, StoreUnavailable)):
        if scheme == "redis":
            store: Store = RedisStore(address, connect_timeout=limit, reply_timeout=limit)
        else:
            store = PostgresStore(address, connect_timeout=limit)
        error = await raised(impatient(store, patience))
        assert isinstance(error, kind), error
        clean(error)
        await store.aclose()


class Relay:
    """Stands before a server, until it breaks all connections and says nothing on those that come next."""

    def __init__(self, server: SplitResult) -> None:
        self._server = server
        self._writers: list[asyncio.StreamWriter] = []
        self._silent = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._silent:
            return
        there, back = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._writers.append(back)
        with suppress(ConnectionError):
            await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    def fall_silent(self) -> None:
        self._silent = True
        self.abort()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    @staticmethod
    async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)


async def test_who_gives_up_on_a_database_that_has_gone_silent(postgres_url: str, raised: Raised) -> None:
    # The store is open; what it needs now is another connection, made in the task of whoever asks.
    right = urlsplit(postgres_url)
    scanner = LeakScanner({"password": right.password or ""})
    relay = Relay(right)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = PostgresStore(right._replace(netloc=f"{right.username}:{right.password}@127.0.0.1:{port}").geturl())
    await store.save(make_record())
    relay.fall_silent()

    async def impatient(use: Callable[[Store], Awaitable[object]]) -> None:
        while True:
            with suppress(StoreUnavailable):  # as long as it finds a connection that is broken
                async with asyncio.timeout(0.2):
                    await use(store)

    for use in (USES[3], USES[4]):
        error = await raised(impatient(use))
        assert isinstance(error, TimeoutError)
        assert scanner.find(shown_by_error(error, callers=[TESTS])) == []
    await store.aclose()
    server.close()
    relay.abort()


@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
async def test_a_service_whose_store_is_away(scheme: str, clean: Clean, raised: Raised, tmp_path: Path) -> None:
    store = open_store(f"{scheme}://me:{QUOTED}@127.0.0.1:1/0")
    keyring = Keyring.load_or_create(tmp_path / "keys")
    async with ResetService(ScriptedTransport(), store, keyring, sweep=False) as service:
        for call in (
            service.start("somebody"),
            service.get("a"),
            service.find("t"),
            service.wait("a"),
            service.reseal(),
        ):
            error = await raised(call)
            assert isinstance(error, ResetFlowError)
            clean(error)

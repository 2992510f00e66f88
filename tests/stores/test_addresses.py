"""Options in addresses: each is honoured, ignored where that does no harm, or refused by its name at construction."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reset_flow import EtnaTransport, open_store
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, StoreUnavailable
from reset_flow.stores.postgres import PostgresStore
from reset_flow.stores.redis import RedisStore
from reset_flow.testing import make_record, refused
from tests.patience import PATIENCE, REDIS_OPTIONS
from tests.switch import Switch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


def refusal(address: str) -> str:
    """What is said of an address; nothing in it shows a value."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(address)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))
    return str(caught.value)


# PostgreSQL


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=prefer&connect_timeout=10&application_name=resets&target_session_attrs=read-write",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=10000",
        "channel_binding=prefer&gssencmode=disable&sslsni=1&sslcompression=0&client_encoding=utf8",
        "options=-c%20statement_timeout%3D5s%20-c%20search_path%3Dpublic&fallback_application_name=x",
        "search_path=public&load_balance_hosts=disable&pgbouncer=false&connect_timeout=0",
        "pgbouncer=true",
        "target_session_attrs=any",
    ],
)
async def test_postgresql_takes_the_options_of_hosted_databases(postgres_url: str, query: str) -> None:
    store = open_store(f"{postgres_url}?{query}")
    record = make_record()
    await store.save(record)
    assert await store.load(record.id) == record
    await store.aclose()


@pytest.mark.parametrize(
    "option",
    [
        "sslmode=hunter2", "target_session_attrs=standby", "target_session_attrs=prefer-standby", "sslmode=",
        "target_session_attrs=read-only", "channel_binding=require", "gssencmode=require", "connect_timeout=hunter2",
        "connect_timeout=-1", "keepalives=maybe", "pgbouncer=perhaps", "connection_limit=1", "pool_timeout=5",
        "schema=hunter2", "statement_timeout=5s", "hostaddr=127.0.0.1", "requirepeer=root", "require_auth=none",
        "replication=database", "sslcrldir=x", "prepareThreshold=0", "client_encoding=latin1", "sslsni=0", "port=x",
    ],
)  # fmt: skip
def test_postgresql_refuses_an_option_by_its_name(option: str) -> None:
    name = option.partition("=")[0]
    for other in ("", "&sslmode=require", "&user=hunter2&password=hunter2"):
        assert name in refusal(f"postgresql://localhost/flows?{option}{other}")


async def test_postgresql_honours_what_it_is_told(postgres_url: str, tmp_path: Path) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    parts = urlsplit(postgres_url)
    service = tmp_path / "passwords"
    service.write_text(f"*:*:*:postgres:{parts.password}\n")
    service.chmod(0o600)
    name = f"resets of {parts.path[1:]}"
    query = f"application_name={quote(name)}&passfile={quote(str(service), safe='')}&host=127.0.0.1&port={parts.port}"
    store = PostgresStore(f"postgresql://postgres@{parts.path}?{query}&connect_timeout=300")
    await refused(store.load("any"), FlowNotFound)
    database = await asyncpg.connect(postgres_url)
    assert await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name) == 1
    await database.close()
    await store.aclose()


async def test_the_time_to_connect_of_an_address_goes_before_the_stores(postgres_url: str) -> None:
    port = urlsplit(postgres_url).port
    assert port
    async with Switch(port).running() as switch:
        switch.is_silent = True
        store = PostgresStore(f"{switch.url(postgres_url)}?connect_timeout=1", connect_timeout=timedelta(hours=1))
        async with asyncio.timeout(PATIENCE):
            await refused(store.load("any"), StoreUnavailable)
        await store.aclose()


def test_channel_binding_may_be_asked_for_where_the_host_is_verified() -> None:
    for query in ("sslmode=verify-full", "sslrootcert=system", "sslmode=verify-full&sslrootcert=system"):
        PostgresStore(f"postgresql://localhost/flows?channel_binding=require&{query}")
    assert "sslrootcert" in refusal("postgresql://localhost/flows?sslmode=require&sslrootcert=system")
    assert "verify-full" in refusal("postgresql://localhost/flows?sslmode=require&channel_binding=require")


async def test_a_setting_that_the_server_does_not_know_is_told(postgres_url: str) -> None:
    for setting in ("nonsense%3D1", "work_mem%3Dmuch"):
        store = PostgresStore(f"{postgres_url}?options=-c%20{setting}")
        assert setting.partition("%")[0] in str(await refused(store.load("any"), ConfigurationError))
        await store.aclose()


async def test_a_server_without_tls_is_told_as_such(postgres_url: str) -> None:
    store = PostgresStore(f"{postgres_url}?sslmode=require")
    assert "takes no TLS" in str(await refused(store.load("any"), StoreUnavailable))
    await store.aclose()


async def test_who_has_no_certificate_to_verify_a_server_by_is_told_what_to_add(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    store = PostgresStore(f"{postgres_url}?sslmode=verify-full")
    assert "sslrootcert" in str(await refused(store.load("any"), ConfigurationError))
    await store.aclose()


@pytest.mark.parametrize(
    "rest", ["@localhost:99999/flows", "@[::1]:1,other:65536", "@/flows?host=localhost&port=99999"]
)
def test_a_port_that_can_not_be_is_refused(rest: str) -> None:
    PostgresStore("postgresql://zak:hunter2@localhost:65535,[::1]:1,[::1]/flows")
    assert "65535" in refusal(f"postgresql://zak:hunter2{rest}")


async def test_a_certificate_that_is_not_trusted_is_told_as_such(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # the request for TLS
        writer.write(b"S")
        with suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for query in ("sslrootcert=system&channel_binding=require", "sslmode=verify-full&sslrootcert=system"):
        store = PostgresStore(f"postgresql://user:hunter2@127.0.0.1:{port}/flows?{query}")
        assert "certificate" in str(await refused(store.load("any"), StoreUnavailable))
        await store.aclose()
    server.close()


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "certificate").write_bytes(private + certificate.public_bytes(pem))
    return folder / "certificate"


# Redis


@pytest.fixture
async def redis_store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        f"{redis_url}?db=1&client_name=resets&socket_timeout=2.5&socket_connect_timeout=2&health_check_interval=30"
        "&socket_keepalive=yes&socket_read_size=4096&protocol=3&retry_on_timeout=true&max_connections=10"
        "&decode_responses=false&encoding=utf-8"
    )
    yield store
    await store.aclose()


async def test_redis_takes_the_options_of_hosted_servers(redis_store: RedisStore, redis_url: str) -> None:
    redis = pytest.importorskip("redis")
    record = make_record()
    await redis_store.save(record)
    assert await redis_store.load(record.id) == record
    with redis.Redis.from_url(f"{redis_url}?db=1", **REDIS_OPTIONS) as admin:
        try:
            assert admin.exists("{reset_flow}:schema")
            named: list[dict[str, Any]] = [each for each in admin.client_list() if each["name"] == "resets"]
            assert len(named) == 1
        finally:
            admin.flushdb()


@pytest.mark.parametrize(
    "option",
    [
        "ssl_cert_reqs=none", "ssl=true", "decode_responses=true", "encoding=utf-16", "protocol=4", "protocol=x",
        "socket_timeout=0", "socket_timeout=-1", "socket_timeout=nan", "socket_timeout=hunter2", "db=x", "db=-1",
        "health_check_interval=-5", "max_connections=1", "max_connections=x", "timeout=20", "lib_name=x", "db=",
        "socket_keepalive=perhaps", "name=resets", "host=elsewhere", "sentinel=mymaster", "retry=3", "hunter=2",
    ],
)  # fmt: skip
def test_redis_refuses_an_option_by_its_name(option: str) -> None:
    name = option.partition("=")[0]
    for other in ("", "&db=1", "&password=hunter2"):
        assert name in refusal(f"redis://:hunter2@localhost/0?{option}{other}")


def test_redis_takes_options_of_tls_with_tls_alone() -> None:
    for query in ("ssl_cert_reqs=none", "ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=true", "ssl_min_version=771"):
        RedisStore(f"rediss://localhost/0?{query}")
    for option in ("ssl_cert_reqs=CERT_NONE", "ssl_keyfil=x", "ssl_min_version=TLSv1.2"):
        assert option.partition("=")[0] in refusal(f"rediss://localhost/0?{option}")


def test_the_path_of_a_redis_url_is_a_number() -> None:
    for url in ("redis://localhost", "redis://localhost/", "redis://localhost/3", "redis://localhost:1/3/"):
        RedisStore(url)
    for url in ("redis://localhost/flows", "redis://localhost/0/1", "redis://localhost/-1"):
        assert "number of a database" in refusal(url)


# Others


@pytest.mark.parametrize(
    "address", ["sqlite:///flows.db?mode=ro", "sqlite:///x.db?mode=rwc&cache=shared", "memory:?mode=x"]
)
def test_options_of_addresses_that_take_none_are_named(address: str) -> None:
    assert "mode" in refusal(address)


@pytest.mark.parametrize(
    ("address", "option"),
    [
        ("postgresql://localhost/flows?dbname=others", "dbname"),
        ("postgresql://localhost/flows?database=others", "database"),
        ("postgresql:///?dbname=flows&database=others", "database"),
        ("postgresql://localhost/flows?host=elsewhere", "host"),
        ("postgresql://localhost/flows?port=6432", "port"),
        ("postgresql://zak@localhost/flows?user=robert", "user"),
        ("postgresql://zak:1@localhost/flows?password=hunter2", "password"),
        ("redis://zak:1@localhost?username=robert", "username"),
        ("redis://:1@localhost?password=hunter2", "password"),
    ],
)
def test_an_option_is_refused_that_says_anew_what_the_address_says(address: str, option: str) -> None:
    assert option in refusal(address)


def test_what_the_address_leaves_out_may_be_an_option() -> None:
    PostgresStore("postgresql:///?host=localhost&port=6432&dbname=flows&user=zak&password=hunter2")
    RedisStore("redis://localhost/0?db=2&username=zak&password=hunter2")
    RedisStore("unix:///run/redis.sock?db=2&password=hunter2")


@pytest.mark.parametrize("address", ["postgresql://zak:hunter@2@localhost/flows", "redis://zak:hunter@2@localhost"])
def test_a_password_with_a_sign_that_parts_an_address_is_to_be_encoded(address: str) -> None:
    assert "percent-encode" in refusal(address)


@pytest.mark.parametrize("made", [open_store, PostgresStore, RedisStore])
@pytest.mark.parametrize("address", [None, b"postgresql://zak:hunter2@localhost/flows", 5432])
def test_an_address_that_is_no_text_is_refused(made: Callable[[Any], object], address: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be text") as caught:
        made(address)
    assert "hunter2" not in str(caught.value)


async def test_a_question_mark_without_an_option_is_no_part_of_a_path(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/flows.db?")
    await store.save(make_record())
    await store.aclose()
    assert (tmp_path / "flows.db").exists()
    assert not (tmp_path / "flows.db?").exists()


async def test_a_question_mark_in_a_path_is_percent_encoded(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/odd%3Fmode=ro@home#1.db")
    await store.save(make_record())
    await store.aclose()
    assert (tmp_path / "odd?mode=ro@home#1.db").exists()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:hunter2#x@localhost/flows", "postgresql://user:1/hunter2@localhost/flows",
        "postgresql://user:1?hunter2@localhost/flows", "postgresql://user:1@localhost/flows?password=hunter2@x",
        "postgresql://user:1@localhost/flows#hunter2", "redis://:hunter2#@localhost/0", "redis://localhost/0#hunter2",
        "redis://localhost/0?hunter2", "postgresql://localhost/flows?hunter2", "postgresql://localhost/flows?=hunter2",
    ],
)  # fmt: skip
def test_what_is_taken_for_an_option_by_mistake_is_not_shown(address: str) -> None:
    try:
        refusal(address)
    except AssertionError:
        assert "?hunter2" in address  # the name of an option that nobody could know for a password


def test_the_brokers_address_takes_no_options() -> None:
    for address in ("https://broker.test/api?tenant=hunter2", "https://broker.test/api#hunter2"):
        with pytest.raises(ConfigurationError, match="no query"):
            EtnaTransport(address, "key")

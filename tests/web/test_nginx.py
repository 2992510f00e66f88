"""Behind a real nginx, with the configuration of docs/web.md."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from signal import SIGQUIT, SIGTERM
from socket import create_connection
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, CookieJar, TCPConnector
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.binaries import unprivileged
from benchmarks.servers import Server, free_port
from reset_flow import Keyring, ResetService, open_store, open_transport
from reset_flow.sandbox import Sandbox
from reset_flow.web import Links
from tests.conftest import program
from tests.web.programs import PASSWORD, ROOT, Browser, Program, running, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.server

AROUND = """
pid nginx.pid;
events {}
http {
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include reset.conf;
}
"""
"""What Debian's own file has around the one of docs/web.md, in a folder of the test's."""

PERSON, ANOTHER, FLOODER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""Addresses of clients: nginx alone is at 127.0.0.1."""


class Nginx(Server):
    name = "nginx"
    gentle = SIGQUIT
    rough = SIGTERM

    def __init__(self, binary: Path, upstream: int) -> None:
        super().__init__(binary, unprivileged())
        (self.folder / "nginx.conf").write_text(AROUND)
        documented = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", (ROOT / "docs" / "web.md").read_text(), re.DOTALL)
        assert documented
        config = documented[1]
        for there, here in (
            ("listen              443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("server            127.0.0.1:8080;", f"server 127.0.0.1:{upstream};"),
            ("/etc/nginx/", f"{self.folder}/"),
            ("/var/log/nginx/", f"{self.folder}/"),
        ):
            assert there in config
            config = config.replace(there, here)
        (self.folder / "reset.conf").write_text(config)
        self._certify()

    def _certify(self) -> None:
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
        today = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(today - timedelta(days=1))
            .not_valid_after(today + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True)
            .sign(key, hashes.SHA256())
        )
        (self.folder / "reset.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.folder / "reset.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/reset/"

    def command(self) -> list[str]:
        return [
            str(self.binary), "-p", f"{self.folder}/", "-e", "errors", "-c", "nginx.conf", "-g", "daemon off;",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        with suppress(OSError), create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    @property
    def logs(self) -> str:
        """All that it has written."""
        return "".join((self.folder / name).read_text() for name in ("log", "errors", "reset.log", "reset-errors.log"))

    def client(self, address: str) -> ClientSession:
        """Return a client at this address."""
        trusted = ssl.create_default_context(cafile=self.folder / "reset.crt")
        connector = TCPConnector(ssl=trusted, local_addr=(address, 0))
        return ClientSession(self.url, connector=connector, cookie_jar=CookieJar(unsafe=True))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def port() -> int:
    """Where `reset-flow serve` listens."""
    return free_port()


@pytest.fixture
def nginx(port: int) -> Iterator[Nginx]:
    server = Nginx(program("nginx"), port)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def settings(nginx: Nginx, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    ours = {"RESET_FLOW_PUBLIC_URL": nginx.url, "RESET_FLOW_TRUSTED_PROXIES": "127.0.0.1"}
    return settings_for(sandbox, tmp_path) | ours


@pytest.fixture
def page(settings: dict[str, str], port: int) -> Iterator[Program]:
    command = ["-m", "reset_flow.cli", "serve", "--port", str(port)]
    with running(command, settings, r"serving (https://\S+)") as program:
        yield program


@pytest.fixture
async def link(page: Program, settings: dict[str, str]) -> str:
    """Return a link to a reset of robert.zak, made by another process than the one that serves."""
    transport = open_transport(settings["RESET_FLOW_BROKER_URL"], "sandbox")
    store, keys = open_store(settings["RESET_FLOW_STORE"]), Keyring.load_or_create(settings["RESET_FLOW_KEYS"])
    async with ResetService(transport, store, keys) as service:
        return await Links(service, page.url).create((await service.start("robert.zak")).id)


async def test_a_whole_reset_over_https_with_a_cookie_of_this_host_alone(
    nginx: Nginx, page: Program, sandbox: Sandbox
) -> None:
    async with nginx.client(PERSON) as client:
        async with client.get(page.url) as reply:
            cookie = reply.headers["Set-Cookie"]
            assert reply.headers["Strict-Transport-Security"]
        assert cookie.startswith("__Host-reset=")
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        browser = Browser(client)
        await browser.open(page.url)
        await browser.send("start", user="robert.zak")
        await browser.reset(sandbox)
    assert browser.status == 200
    assert sandbox.password_of("robert.zak") == PASSWORD
    assert f"{PERSON} " in nginx.logs


async def test_no_log_has_the_secret_of_a_link_and_neither_if_the_page_is_down(
    nginx: Nginx, page: Program, link: str, sandbox: Sandbox
) -> None:
    async with nginx.client(PERSON) as client:
        browser = Browser(client)
        await browser.open(link)
        await browser.send(link.removeprefix(f"https://127.0.0.1:{nginx.port}"))
        await browser.reset(sandbox)
        assert sandbox.password_of("robert.zak") == PASSWORD
        assert page.end() == 0
        await browser.open(link)
        assert browser.status == 502
    nginx.stop()
    written = nginx.logs + page.printed
    assert "GET /reset/link/... 200" in written
    assert "GET /reset/link/... 502" in written
    assert link.rpartition("/")[2] not in written


async def pieces(size: int) -> AsyncIterator[bytes]:
    """Yield a body whose length nobody says before."""
    yield b"x" * (size // 2)
    yield b"x" * (size - size // 2)


@pytest.mark.parametrize("body", [lambda size: b"x" * size, pieces], ids=["of a known length", "in pieces"])
async def test_nginx_turns_a_large_body_away_before_the_page_sees_it(
    nginx: Nginx, page: Program, body: Callable[[int], bytes | AsyncIterator[bytes]]
) -> None:
    async with nginx.client(PERSON) as client:
        for size, status in ((16 * 1024, 415), (16 * 1024 + 1, 413)):
            async with client.post("api/flows", data=body(size)) as reply:
                assert reply.status == status
    assert page.end() == 0
    assert page.printed.count("POST '/reset/api/flows'") == 1


@pytest.mark.usefixtures("page")
async def test_each_client_has_limits_of_its_own_whatever_it_says_of_its_address(nginx: Nginx) -> None:
    statuses = []
    async with nginx.client(FLOODER) as flooder, nginx.client(ANOTHER) as another:
        for number in range(241):
            spoofed = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": ANOTHER, "Forwarded": f"for={ANOTHER}"}
            async with flooder.get("healthz", headers=spoofed) as reply:
                statuses.append(reply.status)
        assert statuses == [200] * 240 + [429]
        async with another.get("healthz", headers={"X-Forwarded-For": FLOODER}) as reply:
            assert reply.status == 200

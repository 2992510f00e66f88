"""Brokers for the transport: aioresponses for the meaning of replies, raw servers on loopback for their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, Unpack, cast

import aiohttp
import attrs
import pytest
from aioresponses import aioresponses
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reset_flow.domain.secret import Secret
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from reset_flow.transports.etna import Revision

BASE = "https://broker.test/api"
APP_KEY = "app-key-of-nobody"
ANYTHING = re.compile(".*")
METHODS = ("GET", "PATCH", "POST", "PUT")

Script: TypeAlias = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
"""Serves one connection."""


class Serve(Protocol):
    """Start a scripted server, over TLS if it is given a context."""

    def __call__(self, script: Script, tls: ssl.SSLContext | None = None) -> Awaitable[Server]: ...


class EtnaOptions(TypedDict, total=False):
    """The keyword arguments of `EtnaTransport`."""

    deadline: timedelta
    connect_deadline: timedelta
    session: aiohttp.ClientSession | None
    trust_env: bool
    ssl: ssl.SSLContext | None
    pin_method: str
    name: str | None


class MakeEtna(Protocol):
    """Make a transport, which is closed after the test."""

    def __call__(
        self, base_url: str = BASE, revision: Revision = "identifiers", **options: Unpack[EtnaOptions]
    ) -> EtnaTransport: ...


@attrs.frozen
class Contexts:
    """
    TLS contexts.

    Attributes:
        server: Has a self-signed certificate of 127.0.0.1.

        client: Trusts it.

        careless: Trusts any certificate.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    careless: ssl.SSLContext


class PatchedResponse(aiohttp.ClientResponse):
    """A response with the argument that aioresponses 0.7.9 leaves out and aiohttp 3.14 requires."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        writer: Any = SimpleNamespace(output_size=0)
        super().__init__(*args, stream_writer=writer, **kwargs)


@attrs.frozen
class Call:
    """One request as it was passed to aiohttp."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout: aiohttp.ClientTimeout | None = None
    """None: that of the session."""

    @property
    def json(self) -> Any:
        return None if self.body is None else json.loads(self.body)


class Broker:
    """Give the same reply to every request, until the test sets another, and record the requests."""

    def __init__(self, responses: aioresponses) -> None:
        self._responses = responses
        self.calls: list[Call] = []

    def says(self, body: object = b"", status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Set the reply. `body`: bytes as they are, text as UTF-8, anything else as JSON."""
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        self._responses.clear()
        for method in METHODS:
            self._responses.add(
                ANYTHING,
                method=method,
                status=status,
                body=content,
                headers=headers,
                response_class=PatchedResponse,
                callback=partial(self._record, method),
                repeat=True,
            )

    def fails(self, error: BaseException) -> None:
        self._responses.clear()
        for method in METHODS:
            self._responses.add(
                ANYTHING,
                method=method,
                exception=cast("Exception", error),
                callback=partial(self._record, method),
                repeat=True,
            )

    @property
    def call(self) -> Call:
        """The only request."""
        (call,) = self.calls
        return call

    def _record(self, method: str, url: Any, **options: Any) -> None:
        data = options["data"]
        body = None if data is None else data.decode().encode()
        headers = dict(options["headers"])
        if data is not None and "Content-Type" not in (options["skip_auto_headers"] or ()):
            headers.setdefault("Content-Type", data.content_type)  # as aiohttp does below this point
        self.calls.append(Call(method, str(url), headers, body, options.get("timeout")))


class Server:
    """A server on loopback whose bytes are scripted by the test."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.scheme = "http"

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return self.url_of(self.port)

    def url_of(self, port: int) -> str:
        return f"{self.scheme}://127.0.0.1:{port}"

    async def open(self, tls: ssl.SSLContext | None = None) -> None:
        self.scheme = "https" if tls else "http"
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """Read the next whole request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        request = head + await reader.readexactly(int(length[1]) if length else 0)
        self.requests.append(request)
        self.asked.set()
        return request

    @staticmethod
    def reply(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
        """Return the bytes of a reply; `length` is the length that it claims."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @staticmethod
    def reset(writer: asyncio.StreamWriter) -> None:
        """Send a TCP RST."""
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def start(script: Script, tls: ssl.SSLContext | None = None) -> Server:
        server = Server(script)
        await server.open(tls)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.aclose()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with aioresponses() as responses:
        yield Broker(responses)


@pytest.fixture
async def etna() -> AsyncIterator[MakeEtna]:
    transports: list[EtnaTransport] = []

    def make(base_url: str = BASE, revision: Revision = "identifiers", **options: Unpack[EtnaOptions]) -> EtnaTransport:
        transports.append(EtnaTransport(base_url, Secret(APP_KEY), revision=revision, **options))
        return transports[-1]

    yield make
    for transport in transports:
        await transport.aclose()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none) + signed.public_bytes(pem),
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    return Contexts(server=server, client=ssl.create_default_context(cafile=path), careless=careless)


@pytest.fixture(autouse=True)
async def _nothing_is_left_to_the_loop() -> AsyncIterator[None]:
    """The event loop logs errors that were never retrieved, with their messages: there must be none."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    yield
    assert left == []

"""A webhook leads to public addresses alone, whatever the name of its host leads to when it is connected to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reset_flow import ConfigurationError
from reset_flow.integrations.networks import is_public
from reset_flow.integrations.webhooks import WebhookListener
from tests.integrations.receiver import LOOPBACK, SECRET, Office, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PUBLIC = ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
PUBLIC += ["::ffff:1.1.1.1", "64:ff9b::101:101"]
NOT_PUBLIC = [
    *(
        str(ip_address(0)),
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.0.1",
        "168.63.129.16",
    ),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::101:101", "100::1", "2001::1", "2001:20::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:101:101::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_with_a_purpose_of_its_own_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Have the names of hosts lead to these addresses; return the names that are asked for."""
    asked, real = [], socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        return [found for each in addresses for found in real(each, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@asynccontextmanager
async def door() -> AsyncIterator[tuple[int, list[str]]]:
    """Give a port on loopback, and who has knocked there."""
    knocks: list[str] = []

    async def knock(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocks.append(writer.get_extra_info("peername")[0])
        writer.close()

    async with await asyncio.start_server(knock, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], knocks


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
async def test_a_public_name_that_leads_inside_when_it_is_connected_to_leads_nowhere(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as (port, knocks), Office(tmp_path) as office:
        asked = named(monkeypatch, address)
        url = f"https://hooks.example.com:{port}/"
        refused = await office.service(crm=await office.hook(url, allow_private=["10.0.0.0/8"]))
        await office.ends(refused)
        await refused.aclose()
        assert asked == ["hooks.example.com"]
        assert "which is not public: see allow_private" in caplog.text
        assert knocks == []
        office.later()
        allowed = await office.service(crm=await office.hook(url))
        await allowed.sweep()
        assert len(knocks) == 1


class Proxy:
    """
    A proxy on loopback, whatever name it is asked for: it connects to the receiver.

    Attributes:
        status: Of its answer.

        asked: The heads of all requests.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.status = 200
        self.asked: list[bytes] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d Whatever\r\n\r\n" % self.status)
        if self.status == 200:
            there, back = await asyncio.open_connection("127.0.0.1", self._receiver.port)
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer), return_exceptions=True)
        writer.close()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            target.write(piece)
        target.close()


async def test_a_proxy_looks_the_name_up_and_can_not_read_what_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = certified(tmp_path, "hooks.example.com")
    own, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=certificate)
    own.load_cert_chain(certificate)
    async with Receiver(ssl=own) as receiver, Office(tmp_path) as office:
        proxy = Proxy(receiver)
        async with await asyncio.start_server(proxy.accept, "127.0.0.1", 0) as server:
            address = f"http://us%20:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}"

            async def ended(name: str) -> None:
                url = f"https://{name}.example.com/"
                await office.ended(await office.hook(url, allow_private=(), proxy=address, ssl=trusting))

            asked = named(monkeypatch, "10.1.2.3")
            await ended("other")
            assert receiver.got == []
            proxy.status = 407
            await ended("hooks")
            assert receiver.got == []
            assert "wants a log-in" in caplog.text
            proxy.status = 200
            await ended("hooks")
            (got,) = receiver.got
    assert asked == []
    assert [each.split()[1] for each in proxy.asked] == [
        b"other.example.com:443",
        b"hooks.example.com:443",
        b"hooks.example.com:443",
    ]
    assert all(b"authorization: basic" in each.lower() for each in proxy.asked)
    assert "Proxy-Authorization" not in got.headers
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("url", "proxy", "what"),
    [
        ("http://127.0.0.1:8080/", "http://proxy.example:3128", "url must be https, as the proxy"),
        ("https://10.1.2.3/", "http://proxy.example:3128", "url leads to no public address"),
        ("https://crm.example/", "socks5://us:hunter2@proxy.example", "proxy must be like http://host:3128"),
        ("https://crm.example/", "", "proxy must be like http://host:3128"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_refused_and_not_repeated(url: str, proxy: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        WebhookListener(url, SECRET, allow_private=LOOPBACK, proxy=proxy)
    assert "hunter2" not in str(caught.value)
    good = WebhookListener("https://crm.example/", SECRET, proxy="http://us:hunter2@proxy.example:3128")
    assert "hunter2" not in repr(vars(good))


def certified(folder: Path, name: str) -> Path:
    """Write a certificate for this name that signs itself, and its key."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / name).write_bytes(private + certificate.public_bytes(pem))
    return folder / name


async def test_a_receiver_proves_by_its_certificate_that_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certified(tmp_path, "hooks.example.com")
    own, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=certificate)
    own.load_cert_chain(certificate)
    async with Receiver(ssl=own) as receiver, Office(tmp_path) as office:
        named(monkeypatch, "127.0.0.1")
        await office.ended(await office.hook(f"https://hooks.example.com:{receiver.port}/"))
        await office.ended(await office.hook(f"https://other.example.com:{receiver.port}/", ssl=trusting))
        assert receiver.got == []
        await office.ended(await office.hook(f"https://hooks.example.com:{receiver.port}/", ssl=trusting))
        (got,) = receiver.got
        assert got.headers["Host"] == f"hooks.example.com:{receiver.port}"


async def test_of_several_addresses_only_those_that_are_allowed_are_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiver() as receiver, Office(tmp_path) as office:
        named(monkeypatch, "127.0.0.2", "169.254.169.254", "127.0.0.1")
        url = f"http://localhost:{receiver.port}/"
        service = await office.service(crm=await office.hook(url, allow_private=["127.0.0.1/32"]))
        await office.ends(service)
        await receiver.came(1)
    refused = [record.args for record in caplog.records if "is not public" in record.getMessage()]
    assert set(refused) == {("127.0.0.2",), ("169.254.169.254",)}


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://127.0.0.1:8443/hooks", "https://[::1]/", "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data", "https://10.1.2.3/", "https://[fe80::1]/", "https://0.0.0.0/",
        "https://127。0。0。1/", "http://127.0.0.1/", "http://localhost/", "http://[::1]:80/",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="name its network in allow_private"):
        WebhookListener(url, SECRET)
    WebhookListener(url, SECRET, allow_private=["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_an_address_that_is_written_as_a_name_is_found_out(
    host: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with door() as (port, knocks), Office(tmp_path) as office:
        hook = await office.hook(f"https://{host}:{port}/", allow_private=())
        service = await office.service(crm=hook)
        await office.ends(service)
        await service.aclose()
        assert knocks == []
        assert "was not delivered" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks", "ftp://crm.example/", "http://crm.example/", "http://10.0.0.1/", "https://", "https:///hooks",
        "https://user:hunter2@crm.example/", "https://user@crm.example/", "https://crm.example/#hunter2",
        "https://crm.example/?a=1#hunter2", "https://crm.example/a b", "https://crm.example/?hunter2\udcff",
        "https://crm.example/\nhunter2",
        "https://crm.example:99999/", "https://crm.example:hunter2/", None, 7,
        b"https://crm.example/", 10_001 * "a",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_receiver_is_refused_and_not_repeated(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="url") as caught:
        WebhookListener(url, SECRET, allow_private=["10.0.0.0/8", *LOOPBACK])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://crm.example", "https://crm.example:8443/hooks/", "https://bücher.example/?key=a%2Fb", "https://1.1.1.1/"],
)  # fmt: skip
def test_what_is_the_address_of_a_receiver_is_taken(url: str) -> None:
    assert url not in repr(WebhookListener(url, SECRET))


@pytest.mark.parametrize("networks", [True, "10.0.0.0/8", ["10.0.0.0/33"], ["10.0.0.1/8"], [None], b"10.0.0.0/8"])
def test_networks_are_a_list_of_networks(networks: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow_private must be a list of networks"):
        WebhookListener("https://crm.example/", SECRET, allow_private=networks)


async def test_plain_http_leads_to_this_machine_alone_whatever_its_name_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    named(monkeypatch, "10.1.2.3", "1.1.1.1")
    async with Office(tmp_path) as office:
        hook = await office.hook("http://localhost:1/", allow_private=["10.0.0.0/8", *LOOPBACK])
        service = await office.service(crm=hook)
        await office.ends(service)
        await service.aclose()
    assert "10.1.2.3" in caplog.text
    assert "1.1.1.1" in caplog.text

"""A service of the environment, and the proxy that it names."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from reset_flow import BrokerUnavailable, ConfigurationError, State, from_env
from reset_flow.testing import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reset_flow.sandbox import Sandbox

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
LOGGED_IN = b"proxy-authorization: basic " + b64encode(b"me:a phrase").lower()


class Proxy:
    """A proxy on loopback to the sandbox alone; remembers what it was asked."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.asked = b""
        self.address = ""

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asks: bool) -> None:
            while piece := await source.read(65536):
                self.asked += piece.lower() if asks else b""
                target.write(piece.replace(b" http://127.0.0.1:%d/" % self._target, b" /"))
            target.close()

        await asyncio.gather(copy(reader, back, asks=True), copy(there, writer, asks=False), return_exceptions=True)


@pytest.fixture
async def proxy(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Proxy]:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login nobody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    settings = {"BROKER_URL": sandbox.api_url, "APP_KEY": "sandbox", "STORE": "memory:", "KEYS": str(tmp_path / "keys")}
    for setting, value in settings.items():
        monkeypatch.setenv(f"RESET_FLOW_{setting}", value)
    proxy = Proxy(int(sandbox.api_url.split(":")[2].split("/")[0]))
    server = await proxy.serve()
    yield proxy
    server.close()


async def starts() -> None:
    async with from_env(sweep=False) as service:
        assert (await service.start("robert.zak")).state is State.REQUESTED


@pytest.mark.parametrize("user", ["", "me:a%20phrase@"])
@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("http_proxy", "http://"),
        ("http_proxy", ""),
        ("HTTP_PROXY", "http://"),
        ("ALL_PROXY", "http://"),
        ("", "http://"),
    ],
)
async def test_a_service_uses_the_proxy_that_it_is_told_of(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str, user: str
) -> None:
    address = f"{scheme}{user}{proxy.address}"
    monkeypatch.setenv("RESET_FLOW_PROXY", "environment" if variable else address)
    if variable:
        monkeypatch.setenv(variable, address)
    await starts()
    assert proxy.asked.startswith(b"get http://127.0.0.1:")
    assert (LOGGED_IN in proxy.asked) is bool(user)
    assert b"\r\nauthorization" not in proxy.asked  # of .netrc there is nothing


@pytest.mark.parametrize("wanted", ["", "environment"])
async def test_a_service_uses_no_proxy_that_it_is_not_told_of(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("RESET_FLOW_PROXY", wanted)
    monkeypatch.setenv("https_proxy", f"http://{proxy.address}")  # for other addresses
    if wanted:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    await starts()
    assert proxy.asked == b""


async def test_a_proxy_that_is_not_there_is_said(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    monkeypatch.setenv("RESET_FLOW_PROXY", f"http://127.0.0.1:{port}")
    async with from_env(sweep=False) as service:
        error = await refused(service.start("robert.zak"), BrokerUnavailable)
    assert "Proxy" in str(error)
    assert proxy.asked == b""


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("setting", "variable", "value"),
    [
        ("RESET_FLOW_PROXY", "RESET_FLOW_PROXY", "socks5://me:phrase@host:1080"),
        ("RESET_FLOW_PROXY", "RESET_FLOW_PROXY", "env"),
        ("http_proxy", "http_proxy", "socks5://me:phrase@host:1080"),
        ("ALL_PROXY", "all_proxy", "socks5h://me:phrase@host:1080"),
        ("http_proxy", "http_proxy", "me:phrase@host:port"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, setting: str, variable: str, value: str
) -> None:
    monkeypatch.setenv("RESET_FLOW_PROXY", "environment")
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigurationError, match=f"{variable} must be like http://host:3128") as caught:
        from_env()
    assert "phrase" not in str(caught.value)

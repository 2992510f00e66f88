"""A sandbox on a free port, with a clock that the test sets, and a client."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

import aiohttp
import pytest

from reset_flow.sandbox import Sandbox

Advance: TypeAlias = Callable[[timedelta], None]
"""Sets the clock forward."""


class Ask(Protocol):
    """Make one call, and return the status and the JSON of the reply. Paths start at the root."""

    def __call__(
        self, verb: str, path: str, body: object = None, **headers: str
    ) -> Coroutine[object, object, tuple[int, Any]]: ...


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, by: timedelta) -> None:
        self.at += by


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if a fault shows as an unhandled exception of the server."""
    yield
    records = [record for phase in ("call", "teardown") for record in caplog.get_records(phase)]
    assert not [record.getMessage() for record in records if record.levelno >= logging.WARNING]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def advance(clock: Clock) -> Advance:
    return clock.advance


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, now=clock) as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)
    headers = {"Et-App-Key": "sandbox"}
    async with aiohttp.ClientSession(f"{sandbox.url}/", headers=headers, connector=connector) as client:
        yield client


@pytest.fixture
def ask(client: aiohttp.ClientSession) -> Ask:
    async def ask(verb: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with client.request(verb, path, json=body, headers=named, allow_redirects=False) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if text else None

    return ask

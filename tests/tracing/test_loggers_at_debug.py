"""Output of the loggers around the library at DEBUG, in asyncio's debug mode, during a reset."""

from __future__ import annotations

import asyncio
import functools
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.config import open_store
from reset_flow.observability.log_redaction import RedactingFilter
from reset_flow.persistence.keyring import Keyring
from reset_flow.sandbox import Sandbox
from reset_flow.service import ResetService
from reset_flow.testing import LeakScanner
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGIN, ANSWER, PASSWORD = "robert.zak", "Peterson", "v1olet tractor sings 5"
KNOWN = {"aiohttp.access", "asyncio", "redis.connection", "reset_flow", "reset_flow.audit", "transitions.core"}


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(0)
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.records.append(record)

    def holding(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Collect every record of every logger."""
    lines, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(1)
    yield lines
    root.setLevel(level)
    root.removeHandler(lines)


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store."""
    local = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path / 'flows.db'}"}
    found: str = local.get(request.param) or request.getfixturevalue(f"{request.param}_url")
    return found


async def test_a_whole_reset_shows_nothing(url: str, lines: Lines, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    async with Sandbox(port=0) as sandbox:
        transport = EtnaTransport(sandbox.api_url, "an-app-key", deadline=timedelta(seconds=5))
        sandbox.settings.app_key = "an-app-key"
        keyring = Keyring.load_or_create(tmp_path / "keys")
        async with ResetService(transport, open_store(url), keyring, sweep=False) as service:
            flow = await service.start(LOGIN, tags=["tag-of-nobody"])
            flow = await service.answer(flow.id, ANSWER)
            flow = await service.verify(flow.id, code := sandbox.newest_code(LOGIN))
            token = sandbox.calls_of("exchange")[0].reply["Model"]
            await service.set_password(flow.id, PASSWORD)
            await service.sweep()
    loop.set_debug(False)
    assert {record.name.partition(".")[0] for record in lines.records} >= {"asyncio", "reset_flow"}
    assert {record.name for record in lines.records} <= KNOWN
    secrets = (LOGIN, ANSWER, code, token, PASSWORD, "an-app-key", "tag-of-nobody", "username=")
    assert LeakScanner({secret: secret for secret in secrets}).find(*lines.lines) == []


async def test_asyncio_shows_results_and_arguments_of_callbacks(lines: Lines) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0

    async def command(argument: str) -> str:
        return f"result-of-{len(argument)}"

    def callback(_: str) -> None:
        pass

    await asyncio.create_task(command("an-argument"))
    loop.call_soon(callback, "of-a-callback")
    loop.call_soon(functools.partial(callback, "of-a-partial"))
    await asyncio.sleep(0)
    loop.set_debug(False)
    assert lines.holding("an-argument") == []
    assert lines.holding("result='result-of-11'")
    assert lines.holding("callback('of-a-callback')")
    assert lines.holding("'of-a-partial'")


@pytest.mark.parametrize("redacted", [False, True])
async def test_aiohttps_access_log_shows_queries(lines: Lines, *, redacted: bool) -> None:
    import aiohttp  # noqa: PLC0415 - for this test alone
    from aiohttp import web  # noqa: PLC0415

    if redacted:
        lines.addFilter(RedactingFilter())

    async def handle(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.router.add_post("/a", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        headers = {"Password": PASSWORD, "Username": "maria"}
        await session.post(
            f"http://127.0.0.1:{site.port}/a?username={LOGIN}", json={"Password": PASSWORD}, headers=headers
        )
    await runner.cleanup()
    (access,) = [record for record in lines.records if record.name == "aiohttp.access"]
    assert (LOGIN in repr(vars(access))) is not redacted
    assert bool(lines.holding(LOGIN)) is not redacted
    assert lines.holding(PASSWORD) == lines.holding("maria") == []
    assert {record.name for record in lines.records} <= KNOWN, "the client logs nothing"

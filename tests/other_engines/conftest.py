"""A broker, the settings that lead to it, and a person who carries resets to their end at a page of their own."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import attrs
import pytest

from examples.engines import resets
from reset_flow import ResetService, State, from_env
from reset_flow.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from reset_flow import Event

collect_ignore_glob = [] if find_spec("temporalio") else ["test_*.py"]
"""The SDKs are in an environment of their own: `make check-engines`."""

LOGIN, ANSWER, PASSWORD = "robert.zak", "Peterson", "violet tractor 5"


@attrs.define
class Page:
    """The process that has the page, with its listener."""

    service: ResetService
    sandbox: Sandbox
    events: list[Event] = attrs.field(factory=list)

    async def started(self, ref: str) -> None:
        """Wait until a worker has started it."""
        while not await self.service.find(ref=ref):  # noqa: ASYNC110 - a worker tells nobody
            await asyncio.sleep(0.01)

    async def reset(self, ref: str) -> None:
        """Do what the person does, to the end."""
        flow = (await self.service.find(ref=ref))[0]
        for text in (ANSWER, None, PASSWORD):
            flow = await self.service.submit(flow.id, text or self.sandbox.newest_code(LOGIN))
        assert flow.state is State.PASSWORD_SET

    async def ended(self, ref: str) -> Event:
        """Return what the listener was told of the end."""
        await self.service.sweep()
        return next(event for event in self.events if event.flow.ref == ref and event.transition.target.ended)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
async def page(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Page]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("RESET_FLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RESET_FLOW_BROKER_URL", sandbox.api_url)
    monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", "sandbox")
    monkeypatch.setitem(resets.PEOPLE, "employee-18", "maria")
    resets.service.cache_clear()
    events: list[Event] = []

    async def hear(event: Event) -> None:
        events.append(event)

    async with from_env(listeners={"engine": hear}) as service:
        yield Page(service, sandbox, events)

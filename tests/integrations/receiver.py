"""A receiver of webhooks on loopback, which answers as it is told; and services whose resets end."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import attrs
import pytest
from aiohttp import web

from reset_flow import Keyring, Policy, ResetService, SQLiteStore
from reset_flow.integrations.webhooks import WebhookListener
from reset_flow.testing import FrozenClock
from reset_flow.testing.transport import ScriptedTransport
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from pathlib import Path
    from ssl import SSLContext

    from multidict import CIMultiDictProxy

    from reset_flow import Flow, Listener

LONG = timedelta(seconds=10)
"""The longest time that a receiver may have."""
LOOPBACK = ("127.0.0.0/8", "::1/128")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="


@attrs.frozen
class Delivery:
    headers: CIMultiDictProxy[str]
    body: bytes
    query: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


class Receiver:
    """
    What gets webhooks.

    Attributes:
        answers: What the next deliveries get: a status, a response, or a function of the delivery that gives either.

        answer: What all others get.

        got: What came, answered or not.

        answered: How many got an answer.

        most: How many were under way at once, at most.
    """

    def __init__(self, port: int = 0, *, ssl: SSLContext | None = None) -> None:
        self._port = port
        self._ssl = ssl
        self.answers: deque[Any] = deque()
        self.answer: Any = 204
        self.got: list[Delivery] = []
        self.most = self.answered = 0
        self._now = 0
        self._came = asyncio.Event()
        self._runner = web.AppRunner(self._app(), shutdown_timeout=0.01)  # 0 would be none

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        return app

    async def _take(self, request: web.Request) -> web.StreamResponse:
        delivery = Delivery(request.headers, await request.read(), request.url.raw_query_string)
        self.got.append(delivery)
        self._came.set()
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            answer = self.answers.popleft() if self.answers else self.answer
            if callable(answer):
                answer = await answer(delivery)
            self.answered += 1
        finally:
            self._now -= 1
        return answer if isinstance(answer, web.StreamResponse) else web.Response(status=answer)

    async def came(self, number: int) -> list[Delivery]:
        """Wait until so many have come."""
        async with asyncio.timeout(120):
            while len(self.got) < number:
                self._came.clear()
                await self._came.wait()
        return self.got

    async def hang(self, _: Delivery) -> int:
        await asyncio.Event().wait()
        return 204

    async def hang_for_long(self, delivery: Delivery) -> int:
        let_time_pass(LONG)
        return await self.hang(delivery)

    @property
    def port(self) -> int:
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._ssl).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


class Office:
    """Services over one store, each with listeners of its own."""

    def __init__(self, path: Path) -> None:
        self.clock = FrozenClock()
        self.path = path
        self.policy = Policy()
        self._numbers = count()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        # A sweep counts whom it told soon: on a busy machine, a reply on loopback may take over a second.
        patch.setattr("reset_flow.engine.notifications.SOON", timedelta(seconds=30))
        patch.setattr("reset_flow.engine.notifications.PATIENCE", 2 * LONG)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def hook(self, url: str, secret: str | list[str] = SECRET, **options: Any) -> WebhookListener:
        settings: dict[str, Any] = {"allow_private": LOOPBACK, "clock": self.clock, "timeout": LONG} | options
        return await self._stack.enter_async_context(WebhookListener(url, secret, **settings))

    async def service(self, **listeners: Listener | None) -> ResetService:
        """Return a service that sweeps when it is told to; it is closed at the end, or before."""
        service = ResetService(
            ScriptedTransport(),
            SQLiteStore(self.path / "flows.db", clock=self.clock),
            Keyring.load_or_create(self.path / "keys"),
            policy=self.policy,
            listeners=listeners,
            clock=self.clock,
            sweep=False,
        )
        return await self._stack.enter_async_context(service)

    async def ends(self, service: ResetService, number: int = 1) -> list[Flow]:
        """Start resets, and give them up."""
        numbers = [next(self._numbers) for _ in range(number)]
        flows = [await service.start(f"robert.zak {each}", ref=f"ticket-{each}") for each in numbers]
        return [await service.cancel(flow.id) for flow in flows]

    async def owed(self, number: int, *names: str) -> list[Flow]:
        """End so many resets in a process that leaves it to others to tell it."""
        service = await self.service(**dict.fromkeys(names))
        flows = await self.ends(service, number)
        await service.aclose()
        return flows

    async def tells(self, listener: Listener) -> int:
        """Return how many ends a worker tells now that is just there for that."""
        service = await self.service(crm=listener)
        report = await service.sweep()
        await service.aclose()
        return report.delivered

    async def ended(self, listener: Listener, number: int = 1) -> list[Flow]:
        """End so many resets in a process that has the listener, and goes once it was told."""
        service = await self.service(crm=listener)
        flows = await self.ends(service, number)
        await service.aclose()
        return flows

    def later(self, **time: float) -> None:
        """Let time pass, and the leases with it."""
        self.clock.advance(self.policy.lease + timedelta(seconds=1, **time))

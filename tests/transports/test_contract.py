"""The contract of the port, over the transports of the library."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from reset_flow import EtnaTransport
from reset_flow.sandbox import Sandbox
from reset_flow.testing import Counts, TransportContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta


class EtnaProvider:
    """The sandbox, as the contract needs it."""

    def __init__(self, sandbox: Sandbox, answer: str) -> None:
        self.url = sandbox.api_url
        self._sandbox = sandbox
        self._answer = answer
        self._numbers = count(1)

    async def add_user(self) -> str:
        login = f"robert.zak.{next(self._numbers)}"
        self._sandbox.add_user(login, question="Which street was it?", answer=self._answer)
        return login

    async def newest_code(self, user: str) -> str:
        return self._sandbox.newest_code(user)

    async def counts(self, user: str) -> Counts:
        state = self._sandbox.user(user)
        attempts = len(self._sandbox.calls_of("exchange"))
        return Counts(mails=state.mails_sent, attempts=attempts, resets=state.password_changes)

    async def accepts(self, user: str, password: str) -> bool:
        return self._sandbox.password_of(user) == password


class TestEtnaTransport(TransportContract):
    weak_password = "abc123"
    answer = "Peterson"

    @pytest.fixture
    async def provider(self) -> AsyncIterator[EtnaProvider]:
        async with Sandbox() as sandbox:
            yield EtnaProvider(sandbox, self.answer)

    def make_transport(self, url: str, deadline: timedelta) -> EtnaTransport:
        return EtnaTransport(url, "sandbox", deadline=deadline)

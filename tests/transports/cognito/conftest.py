"""A user pool, and transports to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

import pytest

from reset_flow import CognitoTransport, Secret
from tests.transports.cognito.clients import PLAIN
from tests.transports.cognito.pool import UserPool, user_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import timedelta


class CognitoOptions(TypedDict, total=False):
    """The keyword arguments of `CognitoTransport` that tests change."""

    client_secret: str | Secret | None
    answers_alike: bool
    deadline: timedelta
    name: str | None


class MakeCognito(Protocol):
    """Make a transport, which is closed after the test."""

    def __call__(
        self, endpoint: str, client_id: str = PLAIN, **options: Unpack[CognitoOptions]
    ) -> CognitoTransport: ...


@pytest.fixture(scope="session")
def pool() -> Iterator[UserPool]:
    """One pool for the run: each test adds users of its own."""
    with user_pool() as running:
        yield running


@pytest.fixture
async def cognito() -> AsyncIterator[MakeCognito]:
    transports: list[CognitoTransport] = []

    def make(endpoint: str, client_id: str = PLAIN, **options: Unpack[CognitoOptions]) -> CognitoTransport:
        transports.append(CognitoTransport(endpoint, client_id, **options))
        return transports[-1]

    yield make
    for transport in transports:
        await transport.aclose()

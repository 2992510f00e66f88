"""A site with django-allauth in each of its modes, and transports to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from reset_flow import AllauthTransport
from tests.transports.allauth.site import MODES, Mode, Site, running_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class MakeAllauth(Protocol):
    """Make a transport, which is closed after the test."""

    def __call__(self, base_url: str | None = None, **options: Any) -> AllauthTransport: ...


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with running_site() as address:
        yield address


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    return MODES[request.param]


@pytest.fixture
async def site(address: str, mode: Mode) -> Site:
    site = Site(address, mode)
    await site.change()
    return site


@pytest.fixture
async def make(site: Site, mode: Mode) -> AsyncIterator[MakeAllauth]:
    transports: list[AllauthTransport] = []

    def make(base_url: str | None = None, **options: Any) -> AllauthTransport:
        transports.append(AllauthTransport(base_url or site.url, **{"code": mode.code, **options}))
        return transports[-1]

    yield make
    for transport in transports:
        await transport.aclose()


@pytest.fixture
async def allauth(make: MakeAllauth) -> AllauthTransport:
    return make()

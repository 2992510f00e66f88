"""The contract of a transport: for authors of transports."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from reset_flow.ports import Transport

__all__ = ["Counts", "Provider", "TransportContract"]


@attrs.frozen(kw_only=True)
class Counts:
    """
    What a provider has done so far about one user, by its own database or log.

    Attributes:
        mails: Codes or links sent.

        attempts: Codes judged, right ones and wrong ones.

        resets: New passwords set.
    """

    mails: int
    attempts: int
    resets: int


class Provider(Protocol):
    """
    A provider that serves on loopback, as the contract needs it. Limits on how often it may be asked are off.

    Attributes:
        url: As it is given to the transport.
    """

    url: str

    async def add_user(self) -> str:
        """Add a user with a login of at least four characters, and return the login."""
        ...

    async def newest_code(self, user: str) -> str:
        """Return the code, or the token of the link, in the newest e-mail to the user, as a transport takes it."""
        ...

    async def counts(self, user: str) -> Counts:
        """Return what was done about the user so far."""
        ...

    async def accepts(self, user: str, password: str) -> bool:
        """Return whether the password works. Ask the provider itself, not the transport."""
        ...


class TransportContract:
    """
    Tests for a transport of your own: one for each promise of the `Transport` port, over a provider on loopback.

    Needs pytest, and pytest-asyncio with `asyncio_mode = "auto"`. Subclass it, provide a `Provider` that serves (one
    for all tests will do: each test adds a user of its own), and make transports for an address::

        import pytest

        from my_package import MyTransport
        from my_package.tests import MyProvider
        from reset_flow.testing import TransportContract


        class TestMyTransport(TransportContract):
            weak_password = "short"

            @pytest.fixture
            async def provider(self):
                async with MyProvider() as provider:
                    yield provider

            def make_transport(self, url, deadline):
                return MyTransport(url, deadline=deadline)

    Attributes:
        weak_password: One that the provider refuses.

        good_password: One that it takes, with and without a letter behind it.

        answer: The answer to the secret question of each user; `None` where the provider asks none.

        deadline: Of the transports in the tests of calls that are never answered. Others get half a minute.
    """

    weak_password: str
    good_password = 'Violet "tractor" sings at 5'  # noqa: S105 - nobody's
    answer: str | None = None
    deadline = timedelta(seconds=1)

    def make_transport(self, url: str, deadline: timedelta) -> Transport:
        """Return a transport to this address, which is that of the provider or of the fault proxy before it."""
        raise NotImplementedError

    def wrong_code(self, code: str) -> str:
        """Return a code of the same form that is not the right one."""
        last = {"0": "1", "B": "C", "b": "c"}.get(code[-1], "0" if code[-1].isdigit() else "b")
        return code[:-1] + (last.upper() if code[-1].isupper() else last)

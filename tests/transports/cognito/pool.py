"""A user pool on loopback, as tests see it: `front.py` runs in a process of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from aiohttp import ClientSession

from reset_flow.testing import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


@attrs.frozen
class UserPool:
    """
    A pool with the app clients of `clients.py`.

    Attributes:
        url: The endpoint.
    """

    url: str
    _control: str
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count)

    async def add_user(self, user: str | None = None, *, mfa: bool = False) -> str:
        """Add a user with an e-mail, perhaps with a second factor by SMS. Return the login."""
        user = user or f"robert.zak.{next(self._numbers)}"
        await self._do("add", user=user, mfa=mfa)
        return user

    async def newest_code(self, user: str) -> str:
        """Return the code in the newest e-mail to the user."""
        return str((await self._seen(user))["code"])

    async def counts(self, user: str) -> Counts:
        seen = await self._seen(user)
        return Counts(mails=seen["mails"], attempts=len(seen["judged"]), resets=seen["resets"])

    async def codes_judged(self, user: str) -> set[str]:
        """Return the distinct codes that came with a password."""
        return set((await self._seen(user))["judged"])

    async def accepts(self, user: str, password: str) -> bool:
        """Return whether the password works, by moto itself."""
        return bool(await self._do("log-in", user=user, password=password))

    async def allow(self, user: str, attempts: int) -> None:
        """Let this many codes more be asked for and typed, and no others."""
        await self._do("change", user=user, to={"counted": 0, "limit": attempts})

    async def let_code_expire(self, user: str) -> None:
        await self._do("change", user=user, to={"code": None})

    async def _seen(self, user: str) -> dict[str, Any]:
        seen: dict[str, Any] = await self._do("see", user=user)
        return seen

    async def _do(self, what: str, **given: Any) -> Any:
        async with ClientSession() as session, session.post(f"{self._control}/{what}", json=given) as reply:
            reply.raise_for_status()
            return await reply.json()


@contextmanager
def user_pool() -> Iterator[UserPool]:
    """Run a pool."""
    program = [sys.executable, "-m", "tests.transports.cognito.front"]
    with subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield UserPool(*json.loads(process.stdout.readline()))
        process.communicate()

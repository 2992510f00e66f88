"""A real django-allauth on loopback, in each of the ways in which it lets people reset a password, as tests see it."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs

from reset_flow import CodeFormat
from reset_flow.testing import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
OLD_PASSWORD = "tractors were violet once"
NUMBERS = count(1)


@attrs.frozen(kw_only=True)
class Mode:
    """
    One way to reset a password.

    Attributes:
        settings: Of Django, beyond its defaults.

        pattern: Finds the code in an e-mail.

        wrong: A code of this form that is not right.
    """

    code: CodeFormat
    settings: dict[str, Any]
    pattern: str
    wrong: str


BY_CODE = {"ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED": True}
MODES = {
    "letters": Mode(code=CodeFormat.letters(8), settings=BY_CODE, pattern=r"\n(\w{4}-\w{4})\n", wrong="BBBBBBBB"),
    "digits": Mode(
        code=CodeFormat.digits(6),
        settings=BY_CODE | {"ALLAUTH_USER_CODE_FORMAT": {"numeric": True, "length": 6, "dashed": False}},
        pattern=r"\n(\d{6})\n",
        wrong="000000",
    ),
    "link": Mode(code=CodeFormat.token(), settings={}, pattern=r"/reset/(\S+)\n", wrong="zz-ditaqq-9638a9f5c6eb713a"),
}


def did(mails: int = 0, attempts: int = 0, resets: int = 0) -> Counts:
    """Return what the site did about a user: e-mails sent, codes or keys judged, passwords set."""
    return Counts(mails=mails, attempts=attempts, resets=resets)


class Site:
    """The site, and what its operator sees of it: a `Provider` for the contract of transports."""

    def __init__(self, address: str, mode: Mode) -> None:
        self.url = f"{address}/_allauth"
        self._address = address
        self._mode = mode

    async def change(self, **settings: Any) -> None:
        """Have these settings of Django, and otherwise those of the mode."""
        await self._ask("settings", self._mode.settings | settings)

    async def add_user(self, *, verified: bool = True) -> str:
        """Add a user, whose address is verified or not, and return the address."""
        email = f"robert.{next(NUMBERS)}@shop.test"
        await self._ask("users", {"email": email, "password": OLD_PASSWORD, "verified": verified})
        return email

    async def newest_code(self, user: str) -> str:
        """Return the code, or the key of the link, in the newest e-mail to the user."""
        mails = [each["text"] for each in await self._journal(user) if each["kind"] == "mail"]
        found = re.search(self._mode.pattern, mails[-1])
        assert found, "the newest e-mail has no code"
        return found[1]

    async def counts(self, user: str) -> Counts:
        kinds = [each["kind"] for each in await self._journal(user)]
        return did(mails=kinds.count("mail"), attempts=kinds.count("attempt"), resets=kinds.count("reset"))

    async def accepts(self, user: str, password: str) -> bool:
        """Return whether the user has this password."""
        return bool(await self._ask("password", {"email": user, "password": password}))

    async def _journal(self, user: str) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = await self._ask("journal", {"user": user})
        return entries

    async def _ask(self, route: str, body: dict[str, Any]) -> Any:
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{self._address}/test/{route}", json=body, raise_for_status=True) as reply,
        ):
            return await reply.json()


@contextmanager
def running_site() -> Iterator[str]:
    """Run a site, and yield its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.transports.allauth.serve"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdin
    assert server.stdout
    try:
        line = server.stdout.readline().strip()
        assert line, "the site did not start: python -m tests.transports.allauth.serve says why"
        yield line
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()

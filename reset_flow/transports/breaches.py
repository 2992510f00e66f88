"""
Asks a service of breached passwords whether it knows one, without telling it which.

The range API (k-anonymity, as Have I Been Pwned has it) is sent the first five of forty hex digits of a SHA-1, and
answers with the rest of every hash that it has under them. Padding (`Add-Padding: true`) evens out the lengths of the
replies with made-up hashes whose count is 0, so that nobody can read a range off a length either.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from yarl import URL

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import Secret
from reset_flow.transports.http import Reply, Sender, endpoint

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from reset_flow.transports.http import Result

__all__ = ["BreachCheck"]

logger = logging.getLogger("reset_flow")

BREACHED = "it must not be known from a data breach, as this one is: choose one that you use nowhere else"
PREFIX = 5
OK = 200

HEADERS = {"Accept": "text/plain", "Accept-Encoding": "identity", "Add-Padding": "true", "User-Agent": "reset-flow"}
LINE = re.compile(rb"([0-9A-Fa-f]{35}):([0-9]{1,15})")


class BreachCheck:
    """
    A check for `PasswordRules(checks=(BreachCheck(),))`: complains of passwords that are known from breaches.

    `url` is what the five digits are appended to: https, except to this machine. `deadline` is for the whole call; the
    rules wait five seconds for all their checks, whatever it is. Seen in breaches fewer than `threshold` times, a
    password passes. Of a `session` that is passed in, see `Sender`. May be made outside an event loop.

    No failure blocks anybody: without a reply that can be read as a whole, there is no complaint, and a debug message
    that says why, without any digit of a hash. Close it after the service that uses it.

    Raises:
        ConfigurationError: Of such settings no check can be made.
    """

    def __init__(
        self,
        url: str | Secret = "https://api.pwnedpasswords.com/range/",
        *,
        session: ClientSession | None = None,
        deadline: timedelta = timedelta(seconds=2),
        threshold: int = 1,
    ) -> None:
        url = Secret(url if isinstance(url, Secret) else str(url))
        self._base = _base(url)
        self._threshold = _times(threshold)
        self._sender = Sender(deadline=deadline, connect_deadline=deadline, session=session, headers=lambda: HEADERS)

    async def __call__(self, password: Secret, user: str, /) -> tuple[str, ...]:
        """One complaint where the password was breached often enough, else none. Raises nothing but cancellation."""
        del user  # the login is not asked for anywhere, and not kept in this frame
        digest = _digest(password)
        reply = await self._sender.send("GET", URL(f"{self._base}/{digest.reveal()[:PREFIX]}", encoded=True))
        known, flaw = _read(reply)
        if flaw:
            logger.debug("a password was not looked up in breaches: %s", flaw)
        return (BREACHED,) if known.get(digest.reveal()[PREFIX:], 0) >= self._threshold else ()

    async def aclose(self) -> None:
        """Close the session if it is our own. Idempotent. A check that is closed has no complaint."""
        await self._sender.aclose()


def _base(url: Secret) -> URL:
    try:
        return endpoint(url)
    except ConfigurationError as error:
        trouble = str(error).replace("base_url", "url", 1)
    raise ConfigurationError(trouble)


def _times(threshold: Any) -> int:
    if not isinstance(threshold, int) or isinstance(threshold, bool) or threshold < 1:
        raise ConfigurationError("threshold must be a whole number of at least 1")
    return threshold


def _digest(password: Secret) -> Secret:
    """Forty hex digits. That SHA-1 is broken does not matter here: it is the name of an entry."""
    text = password.reveal().encode("utf-8", "surrogatepass")  # never raises: the error would hold the password
    return Secret(hashlib.sha1(text, usedforsecurity=False).hexdigest().upper())


def _read(result: Result) -> tuple[dict[str, int], str]:
    """How often each rest of a hash was seen, or why that can't be said: a reply in part is worth nothing."""
    if not isinstance(result, Reply):
        return {}, result.detail or "no reply"
    if result.status != OK:
        return {}, f"status {result.status}"
    if result.body is None:
        return {}, result.flaw
    lines = [LINE.fullmatch(line) for line in result.body.split()]
    known = {line[1].decode().upper(): int(line[2]) for line in lines if line}
    return (known, "") if known and len(known) == len(lines) else ({}, "a body of another shape")

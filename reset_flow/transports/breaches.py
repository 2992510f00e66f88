"""
Ask a service of breached passwords about a password without revealing it.

The range API (k-anonymity, defined by Have I Been Pwned) receives the first five of the forty hex digits of a SHA-1. It
answers with the remaining digits of every hash that it knows under them. Padding (`Add-Padding: true`) evens out the
lengths of the replies with made-up hashes of count 0, so that the length of a reply does not reveal the range.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from yarl import URL

from reset_flow.domain.errors import ConfigurationError, Reason
from reset_flow.domain.secret import Secret
from reset_flow.transports.http import Reply, Sender, endpoint

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from reset_flow.transports.http import Result

logger = logging.getLogger("reset_flow")

BREACHED = Reason(
    "breached", "it must not be known from a data breach, as this one is: choose one that you use nowhere else"
)
PREFIX_LENGTH = 5
OK = 200

HEADERS = {"Accept": "text/plain", "Accept-Encoding": "identity", "Add-Padding": "true", "User-Agent": "reset-flow"}
LINE = re.compile(rb"([0-9A-Fa-f]{35}):([0-9]{1,15})")


class BreachCheck:
    """
    Complain of passwords that are known from breaches, as in `PasswordRules(checks=(BreachCheck(),))`.

    A failure blocks nobody: unless the whole reply can be read, there is no complaint, only a debug message with the
    reason and no digit of the hash. May be made outside an event loop. Close it after the service that uses it.

    Args:
        url: The address that the five digits are appended to. It must be https, except on the loopback interface.

        session: A session to use instead of one of its own; see `Sender` for its owner's duties.

        deadline: For the whole call. `PasswordRules` waits five seconds for all its checks, whatever this is.

        threshold: How often a password must have been seen in breaches to be refused.

    Raises:
        ConfigurationError: An argument is invalid.
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
        self._base = endpoint(url, "url")
        if type(threshold) is not int or threshold < 1:
            raise ConfigurationError("threshold must be a whole number of at least 1")
        self._threshold = threshold
        self._sender = Sender(deadline=deadline, connect_deadline=deadline, session=session, headers=HEADERS)

    async def __call__(self, password: Secret, user: str, /) -> tuple[Reason, ...]:
        """Return one complaint if the password was breached often enough, else none. Raise only cancellation."""
        del user  # the check does not need the login, so this frame does not keep it
        digest = sha1_hex(password)
        reply = await self._sender.send("GET", URL(f"{self._base}/{digest.reveal()[:PREFIX_LENGTH]}", encoded=True))
        counts, flaw = read_counts(reply)
        if flaw:
            logger.debug("a password was not looked up in breaches: %s", flaw)
        return (BREACHED,) if counts.get(digest.reveal()[PREFIX_LENGTH:], 0) >= self._threshold else ()

    async def aclose(self) -> None:
        """Close the session, unless it was passed in. A closed check has no complaints. Idempotent."""
        await self._sender.aclose()


def sha1_hex(password: Secret) -> Secret:
    """Return forty hex digits of SHA-1. Its weakness does not matter here: the digest is the name of an entry."""
    text = password.reveal().encode("utf-8", "surrogatepass")  # never raises: the error would hold the password
    return Secret(hashlib.sha1(text, usedforsecurity=False).hexdigest().upper())


def read_counts(result: Result) -> tuple[dict[str, int], str]:
    """Return the counts by the rest of the hash, or the reason why there are none. A partial reply is worth nothing."""
    if not isinstance(result, Reply):
        return {}, result.detail or "no reply"
    if result.status != OK:
        return {}, f"status {result.status}"
    if result.body is None:
        return {}, result.flaw
    lines = [LINE.fullmatch(line) for line in result.body.split()]
    counts = {line[1].decode().upper(): int(line[2]) for line in lines if line}
    return (counts, "") if counts and len(counts) == len(lines) else ({}, "a body of another shape")

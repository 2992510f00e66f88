"""The calls that the broker received, byte for byte, and its replies."""

import asyncio
import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Call:
    """
    One call of the API.

    Attributes:
        number: Counts from 1. Clearing the log does not reset it.

        target: Path and query as they were on the wire, neither decoded nor quoted again.

        headers: Names and values in the order and spelling of the wire.

        body: The exact bytes; empty if the body was too large.

        user: Login of the user whom the call concerns, if the broker knows.

        acted: Whether an e-mail was sent, a code spent, or a token spent and the password or PIN changed.

        status: HTTP status of the broker's own reply, before any fault; None while it is undecided.

        reply: JSON of that reply.

        fault: Name of the fault that was applied to the call.
    """

    number: int
    at: datetime
    method: str
    target: str = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    route: str
    user: str | None = attrs.field(default=None, repr=False)
    acted: bool = False
    status: int | None = None
    reply: Any = attrs.field(default=None, repr=False)
    fault: str | None = None

    @property
    def text(self) -> str:
        """The body as text, with a replacement character for invalid UTF-8."""
        return self.body.decode(errors="replace")

    def as_json(self) -> dict[str, Any]:
        """Return the call in the form of ``/sandbox/log``."""
        return {
            "number": self.number,
            "time": self.at.isoformat(),
            "method": self.method,
            "target": self.target,
            "headers": [list(pair) for pair in self.headers],
            "body": self.text,
            "body_base64": base64.b64encode(self.body).decode(),
            "route": self.route,
            "user": self.user,
            "acted": self.acted,
            "status": self.status,
            "reply": self.reply,
            "fault": self.fault,
        }


class CallLog:
    """The newest calls in order of arrival, bounded by their number and by the bytes of their bodies."""

    def __init__(self, limit: int = 100_000, byte_limit: int = 256 * 1024**2) -> None:
        self._limit = limit
        self._byte_limit = byte_limit
        self._calls: dict[int, Call] = {}
        self._bytes = 0
        self._last_number = 0
        self._waiters: list[asyncio.Future[None]] = []

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def __len__(self) -> int:
        return len(self._calls)

    def next_number(self) -> int:
        """Return the number for a new call."""
        self._last_number += 1
        return self._last_number

    def add(self, call: Call) -> None:
        """Add a call that has arrived."""
        self._calls[call.number] = call
        self._bytes += len(call.body)
        while len(self._calls) > self._limit or self._bytes > self._byte_limit:
            oldest = self._calls.pop(next(iter(self._calls)))
            self._bytes -= len(oldest.body)
        self._wake_waiters()

    def settle(self, call: Call, **changes: Any) -> None:
        """Record the result of a call, unless it has left the log."""
        if call.number in self._calls:
            self._calls[call.number] = attrs.evolve(call, **changes)
            self._wake_waiters()

    def clear(self) -> None:
        """Remove all calls. Numbers go on."""
        self._calls.clear()
        self._bytes = 0

    async def changed(self) -> None:
        """Wait until the next call arrives or is settled."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

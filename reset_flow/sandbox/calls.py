"""What the broker received, byte for byte, and what it made of it."""

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
        number: Counts up from 1, also across a cleared log.

        target: Path and query as they were on the wire, neither decoded nor quoted again.

        headers: Names and values in the order and spelling of the wire.

        body: The exact bytes; empty for a body that was too large to take.

        user: Login of whom the call is about, if the broker can tell.

        acted: Whether an e-mail was sent, a code spent, or a token spent and the password or PIN changed.

        status: HTTP status of the reply that the broker had, whatever a fault made of it; None while it is undecided.

        reply: JSON of that reply.

        fault: Name of the fault that the call met.
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
        """The body as text, with a mark in place of what is not UTF-8."""
        return self.body.decode(errors="replace")

    def as_json(self) -> dict[str, Any]:
        """The call as ``/sandbox/log`` gives it."""
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
    """The newest calls in the order of their arrival, bounded by number and by the bytes of their bodies."""

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
        """The number of the call that has just arrived."""
        self._last_number += 1
        return self._last_number

    def add(self, call: Call) -> None:
        """Keep a call that has just arrived."""
        self._calls[call.number] = call
        self._bytes += len(call.body)
        while len(self._calls) > self._limit or self._bytes > self._byte_limit:
            oldest = self._calls.pop(next(iter(self._calls)))
            self._bytes -= len(oldest.body)
        self._announce()

    def settle(self, call: Call, **changes: Any) -> None:
        """Note what came of a call, unless it has left the log."""
        if call.number in self._calls:
            self._calls[call.number] = attrs.evolve(call, **changes)
            self._announce()

    def clear(self) -> None:
        """Forget all calls; the numbers go on."""
        self._calls.clear()
        self._bytes = 0

    async def changed(self) -> None:
        """Return when the next call arrives or is settled."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _announce(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

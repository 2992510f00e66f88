"""
A broker of canned replies in a process of its own. It does as little as possible, so as not to slow its client.

`GET /counts` returns the number of calls of each kind.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CALLS", "Broker", "running"]

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
PREFIX = b"/api/v1.0/users/"
TOKEN = "5f0c8f8e-9d51-4d53-8a55-0f5a3c1e7b42"  # noqa: S105 - of no user

QUESTION, CODE, EXCHANGE, UPDATE = "question", "code", "exchange", "update"
CALLS = (QUESTION, CODE, EXCHANGE, UPDATE)
"""The calls of one flow."""


def _reply(document: dict[str, Any], status: str = "200 OK") -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status.encode(),
        len(body),
        body,
    )


DONE: dict[str, Any] = {"Errors": [], "IsSucceed": True}
REPLIES = {
    b"GET password/secret-question": (QUESTION, _reply({"Model": "What was the colour of your first door?", **DONE})),
    b"POST password/reset": (CODE, _reply(DONE)),
    b"POST identifiers/reset/code": (EXCHANGE, _reply({"Model": TOKEN, **DONE})),
    b"PUT passwords/reset/": (UPDATE, _reply(DONE)),
}
STRANGER = _reply({"error": "Application key is not defined or does not exist"}, "401 Unauthorized")


class _Connection(asyncio.Protocol):
    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._rest + data
        while (end := data.find(HEAD_END)) >= 0:
            head = data[:end]
            low = head.lower()
            at = low.find(LENGTH)
            length = int(low[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + len(HEAD_END) + length
            if len(data) < whole:
                break
            data = data[whole:]
            self._transport.write(self._answer(head, low))
        self._rest = data

    def _answer(self, head: bytes, low: bytes) -> bytes:
        method, target = head.split(b" ", 2)[:2]
        if target == b"/counts":
            return _reply(self._counts)
        name, reply = REPLIES.get(method + b" " + target.split(b"?", 1)[0].removeprefix(PREFIX), ("", STRANGER))
        if not name or b"\r\net-app-key:" not in low:
            return STRANGER
        self._counts[name] += 1
        return reply


async def _serve() -> None:
    counts = dict.fromkeys(CALLS, 0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(counts), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)  # until the parent process ends


@attrs.frozen
class Broker:
    """
    A running broker.

    Attributes:
        root: `http://host:port`; the API is below `/api`.
    """

    root: str

    @property
    def counts(self) -> dict[str, int]:
        """The number of calls of each kind so far."""
        with urlopen(f"{self.root}/counts", timeout=10) as reply:  # noqa: S310 - of our own process
            counts: dict[str, int] = json.load(reply)
        return counts


@contextmanager
def running() -> Iterator[Broker]:
    """Run a broker in a process of its own, which ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.broker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Broker(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.communicate()


if __name__ == "__main__":
    asyncio.run(_serve())

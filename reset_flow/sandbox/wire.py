"""Send a reply, or apply the fault that replaces it."""

import asyncio
import json
import socket
import struct
from typing import Any

from aiohttp import web

from reset_flow.sandbox.faults import Fault

POLL_SECONDS = 0.02
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST


def encoded(reply: Any) -> bytes:
    """Return the JSON of a reply as bytes."""
    return json.dumps(reply, ensure_ascii=False).encode(errors="backslashreplace")


def plain(status: int, reply: Any) -> web.Response:
    """Return the reply without a fault."""
    return web.Response(status=status, body=encoded(reply), content_type="application/json", charset="utf-8")


class Wire:
    """
    The replies of one sandbox, with their faults.

    Every wait ends when the sandbox closes.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._released = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait so many seconds, even if the client disconnects."""
        if seconds > 0 and not self.closing.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._released.wait()
            except TimeoutError:
                pass

    def release(self) -> None:
        """End the waits that are under way."""
        self._released.set()
        self._released = asyncio.Event()

    def close(self) -> None:
        """End all waits, those to come as well."""
        self.closing.set()
        self.release()

    async def spoil(self, request: web.Request, fault: Fault, status: int, reply: Any) -> web.StreamResponse:
        """Apply a fault to the reply. The broker has acted before, if the fault lets it."""
        match fault.name:
            case "status" | "raw" | "redirect":
                return _other_reply(fault)
            case "drop_before" | "drop_after":
                return drop(request)
            case "hang_before" | "hang_after":
                return await self._hang(request)
            case "cut_after":
                return await _cut(request, status, encoded(reply))
            case "reset":
                return _reset(request)
            case _:
                await self.wait(fault.seconds if fault.name == "latency_after" else 0)
                return plain(status, reply)

    async def _hang(self, request: web.Request) -> web.Response:
        # Polling: aiohttp can cancel the handler of a client that disconnects, but that would end latencies, too.
        while request.transport is not None and not request.transport.is_closing() and not self.closing.is_set():
            await self.wait(POLL_SECONDS)
        return drop(request)


def drop(request: web.Request) -> web.Response:
    """Close the connection. aiohttp requires a response in any case, and drops it."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, status: int, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json; charset=utf-8"})
    response.content_length = len(body)
    try:
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
    except ConnectionError:
        pass  # the client has disconnected
    drop(request)
    return response


def _other_reply(fault: Fault) -> web.Response:
    response = web.Response(status=fault.status, body=fault.body)
    if fault.body:
        response.headers["Content-Type"] = fault.content_type
    if fault.name == "redirect":
        response.headers["Location"] = fault.location
    for name, value in fault.headers:
        response.headers[name] = value
    return response

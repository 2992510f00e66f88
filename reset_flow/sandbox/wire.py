"""How a reply leaves, or fails to leave, the broker."""

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
    """The JSON of a reply as it goes over the wire."""
    return json.dumps(reply, ensure_ascii=False).encode(errors="backslashreplace")


def plain(status: int, reply: Any) -> web.Response:
    """The reply without a fault."""
    return web.Response(status=status, body=encoded(reply), content_type="application/json", charset="utf-8")


class Wire:
    """
    The connections of one sandbox.

    Every wait in it ends when the sandbox closes.
    """

    def __init__(self) -> None:
        self.closing = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return after so many seconds, also when the client has gone meanwhile."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self.closing.wait()
            except TimeoutError:
                pass

    async def spoil(self, request: web.Request, fault: Fault, status: int, reply: Any) -> web.StreamResponse:
        """Do to the reply what was ordered; the broker has acted, or not, by now."""
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
        # aiohttp tells a handler of a client that went away only by cancelling it, which would end latencies too.
        while request.transport is not None and not request.transport.is_closing() and not self.closing.is_set():
            await self.wait(POLL_SECONDS)
        return drop(request)


def drop(request: web.Request) -> web.Response:
    """Close the connection; the response that aiohttp wants all the same finds it closed."""
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
        pass  # the client has gone by itself
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

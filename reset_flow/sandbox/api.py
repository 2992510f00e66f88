"""Handle one call of the API over HTTP: read, log, rule, act and reply, with the fault that was ordered for it."""

from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from reset_flow.sandbox import shapes
from reset_flow.sandbox.calls import Call, CallLog
from reset_flow.sandbox.faults import FaultQueue
from reset_flow.sandbox.routes import TOO_LARGE, Incoming, Routes
from reset_flow.sandbox.wire import Wire, drop, plain

PREFIX = "/api"


class Api:
    """The handler of everything below ``/api``."""

    def __init__(
        self,
        routes: Routes,
        *,
        log: CallLog,
        faults: FaultQueue,
        wire: Wire,
        now: Callable[[], datetime],
    ) -> None:
        self._routes = routes
        self._log = log
        self._faults = faults
        self._wire = wire
        self._now = now

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Read one call and reply to it."""
        try:
            incoming = await _read(request)
        except web.HTTPRequestEntityTooLarge:
            call = self._log_arrival(request, b"")
            self._log.settle(call, status=TOO_LARGE, reply=shapes.TOO_LARGE)
            return plain(TOO_LARGE, shapes.TOO_LARGE)
        except OSError:
            return drop(request)  # the client disconnected in the middle of its body, so there is no call
        return await self._answer(request, incoming)

    async def _answer(self, request: web.Request, incoming: Incoming) -> web.StreamResponse:
        route = self._routes.name(incoming.method, incoming.path)
        user = self._routes.user(route, incoming)
        fault = self._faults.take(route, user)
        call = self._log_arrival(
            request, incoming.body, route=route, user=user, fault=None if fault is None else fault.name
        )
        if fault is not None and fault.name != "latency_after":
            await self._wire.wait(fault.seconds)
            if self._wire.closing.is_set():
                return drop(request)

        # No await until the log is settled, so that of two concurrent calls with one code only one acts.
        ruling = self._routes.rule(route, incoming)
        acted = ruling.act is not None and (fault is None or fault.acts)
        if acted and ruling.act is not None:
            ruling.act()
        self._log.settle(call, acted=acted, status=ruling.status, reply=ruling.reply)

        if fault is None:
            return plain(ruling.status, ruling.reply)
        return await self._wire.spoil(request, fault, ruling.status, ruling.reply)

    def _log_arrival(
        self,
        request: web.Request,
        body: bytes,
        *,
        route: str | None = None,
        user: str | None = None,
        fault: str | None = None,
    ) -> Call:
        path, _ = _path_and_query(request)
        call = Call(
            number=self._log.next_number(),
            at=self._now(),
            method=request.method,
            target=request.raw_path,
            headers=tuple((_text(name), _text(value)) for name, value in request.raw_headers),
            body=body,
            route=route or self._routes.name(request.method, path),
            user=user,
            fault=fault,
        )
        self._log.add(call)
        return call


async def _read(request: web.Request) -> Incoming:
    path, query = _path_and_query(request)
    return Incoming(
        method=request.method,
        path=path,
        query=query,
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await request.read(),
    )


def _path_and_query(request: web.Request) -> tuple[str, str]:
    path, _, query = request.raw_path.partition("?")
    return path.removeprefix(PREFIX), query


def _text(header: bytes) -> str:
    return header.decode("utf-8", "surrogateescape")

"""Serves the page alone, as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from reset_flow.domain.errors import ConfigurationError
from reset_flow.web.access import LINK_PATH, LOOPBACK, public_base
from reset_flow.web.app import create_app
from reset_flow.web.guarding import HEADERS, SERVER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.service import ResetService
    from reset_flow.web.clients import Limits
    from reset_flow.web.look import Look

access = logging.getLogger("reset_flow.web.access")
http = logging.getLogger("reset_flow.web.http")
http.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
"""What aiohttp logs, but for requests that it can't read: it would repeat them, secrets included."""

IDLE = 30.0
"""Seconds after which a connection is closed that sends nothing, or no whole request."""

FINISHING = 40.0
"""Seconds that requests under way have when the process is asked to end: a lease, and some more."""

DRAINING = 1.0
"""Seconds before that, in which what comes over open connections is still taken."""

BACKLOG = 2048
COLLECTED_AFTER = 10_000
"""New objects: after 700, the default, a worker with 500 people at once spent a tenth of the CPU of a reset on them."""

FILES = resource.RLIMIT_NOFILE
FEWEST_FILES, MOST_FILES = 4096, 65_536
"""Fewer are warned of; as many are asked for."""


class AccessLogger(AbstractAccessLogger):
    """Writes a line for each request, without what opens a flow: secrets of links, queries, and headers."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line."""
        before, link, _ = request.path.partition(f"/{LINK_PATH}")
        path = f"{before}{link}…" if link else request.path
        self.logger.info("%s %r %d %.3f s", request.method, path, response.status, time)

    @property
    def enabled(self) -> bool:
        """Whether anybody reads it."""
        return self.logger.isEnabledFor(logging.INFO)


class _Protocol(web.RequestHandler):
    """Answers a request that can't be read without repeating it: scripts would learn cookies that they can't see."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response."""
        response = super().handle_error(request, status, exc, message and HTTPStatus(status).phrase)
        response.headers.update(HEADERS | SERVER)
        return response


async def serve(
    service: ResetService,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    public_url: str | None = None,
    look: Look | None = None,
    limits: Limits | None = None,
    told: Callable[[str], object] = print,
) -> None:
    """
    Serve page and API until the process is asked to end (SIGTERM, SIGINT), and finish what is under way.

    Args:
        port: 0 picks a free one.

        public_url: Where people reach it, such as `https://example.com/reset/`. Default: this machine alone.

        told: Called with the address, once it is served.

    Raises:
        ConfigurationError: A setting can't be, or the address can't be listened on.
    """
    if public_url is None and host not in LOOPBACK:
        raise ConfigurationError("public_url: say by which address people come, such as https://example.com/")
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with _listening(host, port) as sock:
        async with service:
            named = f"[{host}]" if ":" in host else host
            base = public_base(public_url or f"http://{named}:{sock.getsockname()[1]}/")
            page = create_app(service, public_url=str(base), look=look, limits=limits)
            runner = web.AppRunner(_mounted(page, base.path, ended), shutdown_timeout=FINISHING)
            _allow_files()
            gc.set_threshold(COLLECTED_AFTER)
            gc.freeze()  # what is loaded by now stays: the collector took a tenth of the CPU to go through it
            await runner.setup()
            try:
                listener = await _listen(runner, sock)
                for each in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(each, ended.set)
                told(str(base))
                http.info("listening on %s:%d", named, sock.getsockname()[1])
                await ended.wait()
                loop.remove_reader(sock)
                for _ in range(2):  # turns: who was accepted just now would be lost if the listener were closed
                    await asyncio.sleep(0)
                listener.close()
                assert runner.server is not None
                if runner.server.connections:
                    await asyncio.sleep(DRAINING)
            finally:
                await runner.cleanup()


def _mounted(page: web.Application, path: str, ended: asyncio.Event) -> web.Application:
    """Return the application that has the page at its path; its own answers have the page's headers, too."""
    app = page
    if path := path.rstrip("/"):
        app = web.Application()
        app.add_subapp(path, page)
        app.on_response_prepare.extend(page.on_response_prepare)
    app.middlewares.insert(0, _closing_after(ended))
    return app


async def _listen(runner: web.AppRunner, sock: socket.socket) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    assert runner.server is not None
    protocol = partial(
        _Protocol,
        runner.server,
        loop=loop,
        logger=http,
        access_log=access,
        access_log_class=AccessLogger,
        auto_decompress=False,  # nobody sends us so much that it should be compressed
        keepalive_timeout=IDLE,
    )
    return await loop.create_server(protocol, sock=sock, backlog=BACKLOG)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # whose own words repeat the host
        number = getattr(error, "errno", 0)
        reason = os.strerror(number) if number > 0 else "there is no such host"
        raise ConfigurationError(f"port {port} of this host can't be listened on: {reason}") from None


def _allow_files() -> None:
    """Let the process have as many connections as the system allows it."""
    soft, hard = (math.inf if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(FILES))
    if soft < MOST_FILES:
        soft = min(hard, MOST_FILES)
        with suppress(OSError, ValueError):
            resource.setrlimit(FILES, (int(soft), resource.getrlimit(FILES)[1]))
    if soft < FEWEST_FILES:
        http.warning("%d files may be open, one for each connection: have the system allow %d", soft, FEWEST_FILES)


def _closing_after(ended: asyncio.Event) -> Any:
    """Return the middleware that has clients look for another process once this one is to end."""

    @web.middleware
    async def close(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        if ended.is_set():
            response.force_close()
        return response

    return close

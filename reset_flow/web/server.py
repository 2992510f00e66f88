"""Serves the page alone, as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from reset_flow.web.access import LINK_PATH, public_base
from reset_flow.web.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.service import ResetService
    from reset_flow.web.clients import Limits
    from reset_flow.web.look import Look

access = logging.getLogger("reset_flow.web.access")

IDLE = 30.0
"""Seconds after which a connection is closed that sends nothing, or no whole request."""

FINISHING = 40.0
"""Seconds that requests under way have when the process is asked to end: a lease, and some more."""

BACKLOG = 2048


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
        ConfigurationError: A setting can't be.
        OSError: The port can't be used.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    with socket.create_server((host, port), family=_family(host), backlog=BACKLOG) as sock:
        async with service:
            named = f"[{host}]" if ":" in host else host
            base = public_base(public_url or f"http://{named}:{sock.getsockname()[1]}/")
            app = create_app(service, public_url=str(base), look=look, limits=limits)
            if path := base.path.rstrip("/"):
                page, app = app, web.Application()
                app.add_subapp(path, page)
            runner = web.AppRunner(
                app,
                access_log=access,
                access_log_class=AccessLogger,
                keepalive_timeout=IDLE,
                shutdown_timeout=FINISHING,
            )
            await runner.setup()
            try:
                await web.SockSite(runner, sock, backlog=BACKLOG).start()
                told(str(base))
                await ended.wait()
            finally:
                await runner.cleanup()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET

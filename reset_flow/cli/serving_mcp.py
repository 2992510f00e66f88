"""Serves the tools of the Model Context Protocol by the environment."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reset_flow.cli.screen import say
from reset_flow.config import from_env
from reset_flow.domain.errors import ConfigurationError
from reset_flow.web import Links

try:
    import uvicorn
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.stdio import stdio_server
    from mcp.server.transport_security import TransportSecuritySettings

    from reset_flow.chat.mcp import create_server
except ModuleNotFoundError:
    raise ConfigurationError("these tools need more: pip install 'reset-flow[mcp]'") from None

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcp.server import Server

    from reset_flow.cli.session import Settings
    from reset_flow.service import ResetService

__all__ = ["serve"]

PATH = "/mcp"
CLIENT = re.compile(r"([\w.@-]{1,100})\s+([0-9a-f]{64})", re.ASCII)
BODY = 64 * 1024
FINISHING = 40
"""Seconds that calls under way have when the process is asked to end."""


class _Tokens:
    """
    Verifies bearer tokens against a list of clients.

    Args:
        listed: A line for each token: the name of its client, and its SHA-256 in hexadecimal. A client may have
            several, of which one is about to replace the other.
    """

    def __init__(self, listed: str) -> None:
        self._clients: dict[str, str] = {}
        for number, line in enumerate(listed.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            if (found := CLIENT.fullmatch(line.strip())) is None:
                raise ConfigurationError(
                    f"the tokens of MCP: line {number} must be a name and a SHA-256 in hexadecimal"
                )
            if self._clients.setdefault(found[2], found[1]) != found[1]:
                raise ConfigurationError(f"the tokens of MCP: line {number} has the token of another client")
        if not self._clients:
            raise ConfigurationError(
                "over HTTP, clients need tokens: name a file with their SHA-256 by RESET_FLOW_MCP_TOKENS_FILE"
            )

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return who has this token; `None` if nobody has."""
        client = self._clients.get(hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest())
        return None if client is None else AccessToken(token="", client_id=client, scopes=[])


class _Listener(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again, before the service is closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have a signal end it."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True


def serve(settings: Settings, *, listen: tuple[str, int] | None, public_url: str) -> None:
    """
    Serve on standard input and output until the client closes it; or, over HTTP, until the process is asked to end.

    Args:
        listen: An address and a port, for HTTP.

        public_url: Where people reach the page, which `reset-flow serve` serves.

    Raises:
        ConfigurationError: There is no page, or over HTTP no client could be told from another.
    """
    if not public_url:
        raise ConfigurationError(
            "public_url: say where `reset-flow serve` serves the page, such as https://example.com/"
        )
    tokens = _Tokens(settings.get("MCP_TOKENS", "")) if listen else None
    service = from_env({**settings.overrides, "STORE": settings.store})
    server = create_server(service, links=Links(service, public_url))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    for name in ("transitions", "mcp", "sse_starlette", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)  # below it, the SDK writes frames that it can't read
    asyncio.run(_over_http(service, server, listen, tokens) if listen and tokens else _over_stdio(service, server))


async def _over_stdio(service: ResetService, server: Server[Any]) -> None:
    async with service, stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def _over_http(service: ResetService, server: Server[Any], listen: tuple[str, int], tokens: _Tokens) -> None:
    host = listen[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server(listen, family=family)
    except OSError as error:
        raise ConfigurationError(f"port {listen[1]} can't be listened on: {error.strerror}") from None
    with sock:
        address = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
        app = server.streamable_http_app(
            streamable_http_path=PATH,
            max_request_body_size=BODY,
            auth=AuthSettings(issuer_url=address, resource_server_url=None),  # type: ignore[arg-type] # read as a URL
            token_verifier=tokens,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # a page has no token
        )
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=FINISHING
        )
        async with service:
            say(f"serving {address}{PATH}")
            await _Listener(config).serve(sockets=[sock])

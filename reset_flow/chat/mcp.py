"""
A server of the Model Context Protocol: tools by which a model starts a reset and sees it through, while whatever is
secret is typed by the person at a one-time link. Needs the extra `mcp`.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import mcp_types as types
import msgspec
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import principal_components
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from reset_flow.chat import tools
from reset_flow.domain.errors import FlowNotFound, InvalidInput, ResetFlowError, StoreError
from reset_flow.domain.flow import Step
from reset_flow.domain.secret import Secret
from reset_flow.messages import Texts

if TYPE_CHECKING:
    from reset_flow.chat.turns import LinkMaker
    from reset_flow.domain.flow import Flow
    from reset_flow.service import ResetService

__all__ = ["create_server"]

PATIENCE = timedelta(seconds=5)
HANDLE = re.compile(r"[A-Za-z0-9_-]{43}")
PAGE = "page"
CHOSEN = "reset-flow/flow"
"""In the `_meta` of a start: the handle that the client has chosen, so that the same call again is the same reset."""

NO_TOKEN = "over HTTP, this server needs a token verifier"  # noqa: S105 - a message

logger = logging.getLogger("reset_flow")

Reply = types.CallToolResult | types.InputRequiredResult
Context = ServerRequestContext[Any, Any]


def create_server(service: ResetService, *, links: LinkMaker, texts: Texts | None = None) -> Server[Any]:
    """
    Return a server for any transport of the SDK.

    A flow belongs to who started it: over HTTP to the client and the subject of the access token, so a token verifier
    is needed there; over other transports to this server as an object, and so to its process. Nobody else can use the
    handle of a flow: the id is derived from both.

    Args:
        links: Where answers and passwords are typed: `reset_flow.web.Links`.

    Raises:
        ConfigurationError: Babel is missing.
    """
    own = _Tools(service, links, texts or Texts())
    return Server(
        "reset-flow",
        instructions="Resets forgotten passwords. Never ask for a password or the answer to a secret question.",
        on_list_tools=own.list,
        on_call_tool=own.call,
    )


class _Tools:
    def __init__(self, service: ResetService, links: LinkMaker, texts: Texts) -> None:
        self._service, self._links, self._texts = service, links, texts
        self._process = secrets.token_urlsafe()

    async def list(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """Return the tools with their schemas."""
        schema = tools.output_schema()
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=does, input_schema=tools.input_schema(name), output_schema=schema)
                for name, (_, does) in tools.TOOLS.items()
            ]
        )

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> Reply:
        """Run a tool. Whatever fails becomes a result that repeats nothing of the arguments."""
        handle = None
        try:
            given = tools.checked(params.name, params.arguments or {})
            answers = params.input_responses or {}
            asked_at = params.request_state  # the same call again, once the person was asked
            handle = given.get("flow") or _chosen(params) if asked_at is None else asked_at
            secret, origin = self._names(ctx, handle)
            flow = await self._run(params.name if asked_at is None else "reset_status", given, secret, origin)
            opened = None if asked_at is None else getattr(answers.get(PAGE), "action", None) == "accept"
            return await self._tell(ctx, flow, handle, secret, opened=opened)
        except MCPError:
            raise
        except ResetFlowError as error:
            return _reply(tools.refused(error, handle, self._texts))
        except Exception as error:  # noqa: BLE001 - the SDK would send and log its words
            logger.error("a tool failed: %s", type(error).__name__)  # noqa: TRY400 - its frames hold secrets
            return _reply(tools.refused(ResetFlowError(), None, self._texts))

    def _names(self, ctx: Context, handle: str) -> tuple[str, str]:
        """Return the secret that names a flow of this client, and the origin of its starts."""
        token = get_access_token()
        if token is None and ctx.request is not None:
            raise MCPError(types.INVALID_REQUEST, NO_TOKEN)
        if not HANDLE.fullmatch(handle):
            raise FlowNotFound("")
        owner = json.dumps(principal_components(token)) if token else self._process
        origin = self._service.digest("mcp client", owner if token else "stdio")  # processes are cheap
        return self._service.digest("mcp flow", f"{handle} {owner}").hex(), f"mcp {origin.hex()}"

    async def _run(self, tool: str, given: dict[str, str], secret: str, origin: str) -> Flow:
        service, who = self._service, {"holder": Secret(f"mcp {secret}")}
        if tool == "start_reset":
            flow = await service.start(given["user"], secret=secret, origin=origin, patience=PATIENCE)
            if flow.expects in (Step.ANSWER, Step.CODE):
                return flow
            tool = "reset_status"  # it was started before, and may be held elsewhere by now
        flow_id = service.id_of(secret)
        if tool == "enter_code":
            code = given["code"]
            key = f"mcp {service.digest('mcp code', code).hex()}"  # the same code again costs no other try
            return await service.verify(flow_id, code, key=key, patience=PATIENCE, **who)
        if tool == "cancel_reset":
            return await service.cancel(flow_id, patience=PATIENCE, **who)
        flow = await service.get(flow_id, **who)
        if tool == "reset_status":
            return flow
        again = service.answer if flow.expects is Step.ANSWER and not flow.question else service.resend
        return await again(flow_id, patience=PATIENCE, **who)

    async def _tell(self, ctx: Context, flow: Flow, handle: str, secret: str, *, opened: bool | None) -> Reply:
        """Return where a flow stands; where the person has to type something secret, ask them to go to the page."""
        if opened is not None or not tools.typed_at_link(flow):
            return _reply(tools.result(flow, handle, self._texts, opened=opened))
        try:
            link = await self._links.create(flow.id, holder=f"mcp {secret}")
        except StoreError:  # the tool has done what it does
            return _reply(tools.result(flow, handle, self._texts))
        known = ctx.session.client_capabilities
        if known is None or known.elicitation is None or known.elicitation.url is None:
            return _reply(tools.result(flow, handle, self._texts, link=link))
        text = self._texts.say(tools.message_for(flow), "en")
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            page = types.ElicitRequest(params=types.ElicitRequestURLParams(message=text, url=link))
            return types.InputRequiredResult(input_requests={PAGE: page}, request_state=handle)
        try:
            answer = await ctx.session.elicit_url(text, link, secrets.token_urlsafe(), ctx.request_id)
        except MCPError:  # it can't ask after all
            return _reply(tools.result(flow, handle, self._texts, link=link))
        flow = await self._service.get(flow.id, holder=f"mcp {secret}")
        return _reply(tools.result(flow, handle, self._texts, opened=answer.action == "accept"))


def _chosen(params: types.CallToolRequestParams) -> str:
    """Return the handle that the client has chosen for a new flow, or another one that nobody can guess."""
    handle: Any = (params.meta or {}).get(CHOSEN, secrets.token_urlsafe())
    if not isinstance(handle, str) or not HANDLE.fullmatch(handle):
        raise InvalidInput(f"{CHOSEN}: it must be 43 random characters, such as secrets.token_urlsafe() gives")
    return handle


def _reply(result: tools.Result) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=msgspec.json.encode(result).decode())],
        structured_content=msgspec.to_builtins(result),
        is_error=result.error is not None,
    )

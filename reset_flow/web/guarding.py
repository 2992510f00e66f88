"""What every request goes through: limits, bodies, headers, and errors that have got here."""

from __future__ import annotations

import asyncio
import logging
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from reset_flow.domain.errors import ResetFlowError
from reset_flow.web.problems import HttpError, malformed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from reset_flow.web.clients import Clients, Limits

    Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Refuse: TypeAlias = Callable[[web.Request, ResetFlowError], web.StreamResponse]

logger = logging.getLogger("reset_flow.web")

CLIENT: web.RequestKey[str] = web.RequestKey("client", str)
"""The name of the client that a request comes from."""

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
MOST_FIELDS = 20

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
SERVER = {"Server": "reset-flow"}
"""In the place of names and versions."""

SECURE = {"Strict-Transport-Security": "max-age=31536000"}
"""Where the page is reached by https."""


def make_headers(*, secure: bool) -> Any:
    """Return the signal that gives every response its headers, also those that no middleware sees."""
    fixed = {**HEADERS, **(SECURE if secure else {})}

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in fixed.items():
            response.headers.setdefault(name, value)
        response.headers.update(SERVER)

    return add_headers


def make_guard(clients: Clients, limits: Limits, refuse: Refuse) -> Any:
    """Return the middleware; `refuse` makes the response for an error."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[CLIENT] = limits.client_of(request)
        try:
            clients.count_request(request[CLIENT])
            return await handler(request)
        except ResetFlowError as error:
            return refuse(request, error)
        except web.HTTPException as error:
            if error.status < HTTPStatus.BAD_REQUEST:
                raise
            return refuse(request, _of_aiohttp(error))
        except Exception as error:  # noqa: BLE001 - a defect
            # As text: reporters of crashes show the variables of frames, and here they hold what was typed.
            text = "".join(traceback.format_exception(error))
            logger.error("a request of %s failed: a defect, please report it\n%s", request.method, text)  # noqa: TRY400
            return refuse(request, ResetFlowError("a defect of ours, and nothing is lost: try again"))

    return guard


def _of_aiohttp(error: web.HTTPException) -> HttpError:
    status = HTTPStatus(error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    phrase = status.phrase.lower()
    return HttpError(status, phrase.replace(" ", "_"), f"{phrase}: api/openapi.json lists the calls", headers)


async def read_body(request: web.Request, limits: Limits) -> bytes:
    """
    Read a body.

    Raises:
        HttpError: It is too long, too slow or cut off.
    """
    too_long = HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"at most {limits.body} bytes are read")
    if request.content_length is not None and request.content_length > limits.body:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.slowness.total_seconds()):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limits.body:
                    raise too_long
    except TimeoutError:
        raise HttpError(
            HTTPStatus.REQUEST_TIMEOUT, "too_slow", "the request took too long to arrive", {"Connection": "close"}
        ) from None
    except (web.RequestPayloadError, ConnectionError, ValueError):
        raise malformed("the body is broken") from None
    return bytes(body)


def check_type(request: web.Request, expected: str) -> None:
    """Raise HttpError if a body is of another type, or in another encoding than UTF-8."""
    if request.content_type != expected or (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", f"send {expected}, in UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send it without an encoding")


async def read_form(request: web.Request, limits: Limits) -> dict[str, str]:
    """Read a form; of a field that is there twice, the last counts. Raises HttpError."""
    check_type(request, FORM)
    body = await read_body(request, limits)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise malformed("the form can't be read") from None
    return dict(fields)


async def read_json(request: web.Request, limits: Limits) -> bytes:
    """Read a body of JSON, which is not decoded yet. Raises HttpError."""
    check_type(request, JSON)
    return await read_body(request, limits)


def json_response(value: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> web.Response:
    """Return a response of JSON."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON, headers=headers)


def check_origin(request: web.Request, origins: Collection[str]) -> None:
    """
    Raise HttpError if a browser says that another site has sent this.

    Our own forms have the origin `null`, as they keep their referrer to themselves: that is no proof of another one.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    given = request.headers.get("Origin", "null")
    if site not in ("same-origin", "none") or given not in ("null", *origins):
        raise HttpError(HTTPStatus.FORBIDDEN, "forbidden", "another site has sent this")

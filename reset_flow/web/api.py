"""The JSON API: a program's way through a reset."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from reset_flow.domain.errors import FlowNotFound, KeyReused, ResetFlowError, StoreError
from reset_flow.domain.flow import Credential
from reset_flow.domain.secret import Secret
from reset_flow.messages import Message, message_of, message_of_error
from reset_flow.web import openapi
from reset_flow.web.access import new_secret
from reset_flow.web.guarding import CLIENT, check_origin, json_response, read_body, read_json
from reset_flow.web.problems import HttpError, malformed, problem

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.web.access import Opened
    from reset_flow.web.openapi import Operation
    from reset_flow.web.parts import Parts

PATIENCE = timedelta(seconds=5)
"""How long a call waits for another one of the same flow."""

KEY = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
RANDOM_BITS = 128
FEWEST_CHARACTERS = 8
READY_FOR = 1.0
"""Seconds for which an answer of the store is good."""


class Api:
    """The routes of the API."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._service = parts.service
        self._document = openapi.document(parts.base, parts.cookie_name)
        self._asking = asyncio.Lock()
        self._asked_at = -READY_FOR
        self._is_ready = False

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, relative to the page."""
        handlers = {"start": self._start, "get": self._get, "healthz": self._alive, "readyz": self._ready}
        found = [
            web.RouteDef(each.method, f"/{each.path}", handlers.get(each.name) or partial(self._command, each), {})
            for each in openapi.OPERATIONS
        ]
        return [*found, web.get(f"/{openapi.DOCUMENT_PATH}", self._openapi)]

    def refuse(self, request: web.Request, error: ResetFlowError) -> web.Response:
        """Return the response for an error."""
        told = problem(error)
        message = Message("request.rejected") if isinstance(error, HttpError) else message_of_error(error)
        told.body["message"] = self._said(message, self._parts.locale_of(request))
        return web.Response(body=told.encode(), status=told.status, headers=told.headers)

    async def _openapi(self, _: web.Request) -> web.Response:
        return json_response(self._document)

    async def _alive(self, _: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        """Ask the store, at most once a second, however many ask us."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= READY_FOR:
                try:
                    await self._service.side("web ready").load("ready")
                    self._is_ready = True
                except StoreError:
                    self._is_ready = False
                self._asked_at = time.monotonic()
        if self._is_ready:
            return json_response({"status": "ok"})
        return json_response({"status": "store_unavailable"}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def _start(self, request: web.Request) -> web.Response:
        key = _key(request)
        if key is not None and not _is_random(key):
            raise malformed(f"Idempotency-Key: a start needs one of {RANDOM_BITS} random bits, such as 32 hex digits")
        given = await self._read(request, openapi.START)
        user = Secret(given.user)
        secret = Secret(new_secret() if key is None else self._parts.access.secret_for(key, user.reveal()))
        await self._parts.clients.count_start(request[CLIENT])
        try:
            flow = await self._service.start(
                user,
                credential=Credential(given.credential),
                origin=self._parts.origin_of(request),
                secret=secret,
                patience=PATIENCE,
            )
        except ResetFlowError as error:
            if error.flow is None or isinstance(error, KeyReused):
                raise
            flow = error.flow  # it is there, and its first call is still to be made: the client needs its secret
        if key is not None:
            flow = await self._parts.access.look(secret.reveal())  # it may be another's to go on with by now
        document = self._flow(flow, request) | {"secret": secret.reveal()}
        return json_response(document, HTTPStatus.CREATED, {"Location": document["links"]["self"]["href"]})

    async def _get(self, request: web.Request) -> web.Response:
        opened = await self._opened(request)
        return json_response(self._flow(await opened.run(self._service.get), request))

    async def _command(self, operation: Operation, request: web.Request) -> web.Response:
        key = _key(request)
        opened = await self._opened(request)
        given = await self._read(request, operation)
        method = getattr(self._service, operation.name)
        arguments = [Secret(getattr(given, operation.field))] if operation.field else []
        options = {"key": f"api {key}"} if key else {}
        flow = await opened.run(method, *arguments, patience=PATIENCE, **options)
        return json_response(self._flow(flow, request))

    async def _opened(self, request: web.Request) -> Opened:
        """Return the flow of a call, which its secret opens. Raises FlowNotFound or HttpError."""
        flow_id = request.match_info["id"]
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            secret = secret.strip()
        elif cookie := self._parts.cookie_of(request):
            secret = cookie
            if request.method not in ("GET", "HEAD"):
                check_origin(request, self._parts.origins)
                token, right = request.headers.get("X-CSRF-Token", ""), self._parts.access.csrf_token(cookie)
                if not secrets.compare_digest(token.encode(errors="replace"), right.encode()):
                    raise HttpError(HTTPStatus.FORBIDDEN, "forbidden", "X-CSRF-Token: it goes with the page's cookie")
        else:
            raise FlowNotFound("")
        return await self._parts.access.open(secret, flow_id)

    async def _read(self, request: web.Request, operation: Operation) -> Any:
        """Read what an operation takes. What can't be read is not repeated: it may be a secret in a wrong place."""
        if operation.takes is None:
            await read_body(request, self._parts.limits)  # it says nothing
            return None
        body = await read_json(request, self._parts.limits)
        try:
            return msgspec.json.decode(body, type=operation.takes)
        except (msgspec.DecodeError, UnicodeDecodeError):
            fields = ", ".join(operation.takes.__struct_fields__)
        raise malformed(
            f"the body must be a JSON object as api/openapi.json has it, with no other fields than {fields}"
        )

    def _flow(self, flow: Flow, request: web.Request) -> dict[str, Any]:
        base = f"{self._parts.base}api/flows/{flow.id}"
        links = {"self": {"href": base, "method": "GET"}}
        for command in flow.allowed:
            method, path = openapi.path_of(command)
            links[command] = {"href": self._parts.base + path.format(id=flow.id), "method": method}
        message = self._said(message_of(flow), self._parts.locale_of(request))
        return {**flow.public(), "message": message, "links": links}

    def _said(self, message: Message, locale: str) -> dict[str, Any]:
        text = self._parts.texts.say(message, locale)
        return {"id": message.id, "text": text, "context": message.context}


def _key(request: web.Request) -> str | None:
    """Return the idempotency key. Raises HttpError if it can be none."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise malformed("Idempotency-Key: it must be 1 to 200 letters, digits, or any of _.:-")
    return key


def _is_random(key: str) -> bool:
    """Return whether a key may have 128 random bits, by its length and variety: more can't be seen."""
    letters = key.replace("-", "")
    bits = 4 if re.fullmatch(r"[0-9A-Fa-f]*", letters) else 6
    return len(letters) * bits >= RANDOM_BITS and len(set(letters)) >= FEWEST_CHARACTERS

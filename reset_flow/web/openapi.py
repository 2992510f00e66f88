"""The OpenAPI document, made of the table of operations and their types."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import attrs
import msgspec

from reset_flow.web.models import (
    AnswerRequest,
    CodeRequest,
    FlowDocument,
    HealthDocument,
    NewFlowDocument,
    PasswordRequest,
    PinRequest,
    ProblemDocument,
    StartRequest,
)

FLOW = "api/flows/{id}"
ID = "$response.body#/id"
"""Where a link finds the id of a flow."""

REFUSED = (400, 403, 404, 408, 409, 410, 413, 415, 422, 429, 500, 502, 503)
LOOKED = (400, 403, 404, 429, 500, 503)
SECURITY: list[dict[str, list[str]]] = [{"secret": []}, {"browser": [], "csrf": []}]


@attrs.frozen(kw_only=True)
class Operation:
    """
    One call of the API.

    Attributes:
        name: Its id in the document; of a command, that of the method of `ResetService`.

        takes, gives: The types of the bodies; `None`: there is none.

        field: Of `takes`: what is given to the command.

        refused: The statuses of problems that it may end in.
    """

    method: str
    path: str
    name: str
    summary: str
    takes: type[Any] | None = None
    gives: Any = FlowDocument
    field: str = ""
    status: int = 200
    refused: tuple[int, ...] = REFUSED
    is_open: bool = False


def _step(name: str, field: str, path: str, summary: str, takes: type[Any] | None = None) -> Operation:
    return Operation(method="POST", path=f"{FLOW}/{path}", name=name, summary=summary, takes=takes, field=field)


START = Operation(
    method="POST", path="api/flows", name="start", summary="Start a reset", takes=StartRequest, gives=NewFlowDocument,
    status=201, is_open=True,
)  # fmt: skip
GET = Operation(method="GET", path=FLOW, name="get", summary="Look at a reset", refused=LOOKED)
CANCEL = Operation(method="DELETE", path=FLOW, name="cancel", summary="Give a reset up")
COMMANDS = (
    _step("answer", "answer", "answer", "Answer the secret question", AnswerRequest),
    _step("verify", "code", "code", "Give the code from the e-mail", CodeRequest),
    _step("set_password", "password", "password", "Set the new password", PasswordRequest),
    _step("set_pin", "pin", "pin", "Set the new PIN", PinRequest),
    _step("resend", "", "resend", "Have another code sent"),
    CANCEL,
)
HEALTH = tuple(
    Operation(
        method="GET", path=path, name=path, summary=summary, gives=HealthDocument, refused=(429, *failing), is_open=True
    )
    for path, summary, failing in (
        ("healthz", "Whether the service is alive", ()),
        ("readyz", "Whether its store can be used", (503,)),
    )
)
DOCUMENT_PATH = "api/openapi.json"

OPERATIONS = (START, GET, *COMMANDS, *HEALTH)


def path_of(command: str) -> tuple[str, str]:
    """Return method and path of a command of `ResetService`."""
    found = next(each for each in COMMANDS if each.name == command)
    return found.method, found.path


def document(base: str, cookie: str) -> dict[str, Any]:
    """
    Return the document of an API below this address.

    Args:
        cookie: The name of the page's.
    """
    types = {each for operation in OPERATIONS for each in (operation.takes, operation.gives) if each}
    order = sorted(types, key=lambda each: str(each.__name__))
    schemas, components = msgspec.json.schema_components(
        [*order, ProblemDocument], ref_template="#/components/schemas/{name}"
    )
    schema = dict(zip([*order, ProblemDocument], schemas, strict=True))
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(f"/{each.path}", {})[each.method.lower()] = _operation(each, schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Password reset", "version": version("reset-flow")},
        "servers": [{"url": base.rstrip("/") or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "links": {each.name: {"operationId": each.name, "parameters": {"id": ID}} for each in (GET, *COMMANDS)},
            "securitySchemes": {
                "secret": {"type": "http", "scheme": "bearer", "description": "The secret that the start gave once"},
                "browser": {"type": "apiKey", "in": "cookie", "name": cookie, "description": "Of the page"},
                "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token", "description": "With the cookie"},
            },
        },
    }


def _operation(each: Operation, schema: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "responses": {str(each.status): _response(each, schema)},
        "security": [] if each.is_open else SECURITY,
    }
    for status in each.refused:
        is_told = each.gives is HealthDocument and status == HTTPStatus.SERVICE_UNAVAILABLE
        described["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": _json(schema[HealthDocument])
            if is_told
            else {"application/problem+json": {"schema": schema[ProblemDocument]}},
        }
    parameters = []
    if "{id}" in each.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    if each.method != "GET":
        least = 22 if each is START else 1
        parameters.append({
            "name": "Idempotency-Key", "in": "header", "required": False,
            "schema": {"type": "string", "minLength": least, "maxLength": 200, "pattern": "^[A-Za-z0-9_.:-]+$"},
            "description": "The same again gives what came of the first."
            + (" It needs 128 random bits." if each is START else ""),
        })  # fmt: skip
    if parameters:
        described["parameters"] = parameters
    if each.takes:
        described["requestBody"] = {"required": True, "content": _json(schema[each.takes])}
    return described


def _response(each: Operation, schema: dict[Any, Any]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(each.status).phrase,
        "content": _json(schema[each.gives]),
    }
    if each is START:
        response["headers"] = {"Location": {"schema": {"type": "string"}, "required": True}}
    if each.gives in (FlowDocument, NewFlowDocument):
        response["links"] = {on.name: {"$ref": f"#/components/links/{on.name}"} for on in (GET, *COMMANDS)}
    return response


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}

"""Resets over Litestar: `uvicorn examples.litestar_app:app`, with the settings of `reset_flow.from_env`."""

from typing import Annotated, Any

from litestar import Litestar, Request, Response, get, post
from litestar.openapi import OpenAPIConfig
from litestar.params import Parameter
from msgspec import Struct

from reset_flow import PublicFlow, ResetFlowError, from_env
from reset_flow.web import problem

service = from_env()


class Start(Struct):
    user: str


class Input(Struct):
    text: str


Bearer = Annotated[str, Parameter(header="Authorization", pattern="^Bearer ")]
Key = Annotated[str, Parameter(header="Idempotency-Key", max_length=200)]


async def secret_of(bearer: Bearer) -> str:
    return bearer.removeprefix("Bearer ")  # made by the client, of 128 random bits or more: it opens one reset


def refuse(_: Request[Any, Any, Any], error: ResetFlowError) -> Response[bytes]:
    told = problem(error)
    return Response(told.encode(), status_code=told.status, headers=told.headers)


@post("/reset")
async def start(data: Start, secret: str, request: Request[Any, Any, Any]) -> PublicFlow:
    flow = await service.start(data.user, secret=secret, origin=request.client and request.client.host)
    return flow.public()


@get("/reset")
async def show(secret: str) -> PublicFlow:
    return (await service.get(service.id_of(secret), holder=secret)).public()


@post("/reset/next", status_code=200)
async def submit(data: Input, secret: str, key: Key) -> PublicFlow:
    flow = await service.submit(service.id_of(secret), data.text, key=key, holder=secret)
    return flow.public()


app = Litestar(
    [start, show, submit],
    dependencies={"secret": secret_of},
    exception_handlers={ResetFlowError: refuse},
    lifespan=[service],
    openapi_config=OpenAPIConfig(title="Password reset", version="1"),
)

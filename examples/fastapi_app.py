"""Resets over FastAPI: `uvicorn examples.fastapi_app:app`, with the settings of `reset_flow.from_env`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from reset_flow import PublicFlow, ResetFlowError, from_env
from reset_flow.web import problem

service = from_env()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with service:
        yield


class Start(BaseModel):
    user: str


class Input(BaseModel):
    text: str


async def bearer(given: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    return given.credentials


Secret = Annotated[str, Depends(bearer)]  # made by the client, of 128 random bits or more: it opens one reset
Key = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
app = FastAPI(title="Password reset", lifespan=lifespan)


@app.exception_handler(ResetFlowError)
async def refuse(_: Request, error: ResetFlowError) -> Response:
    told = problem(error)
    return Response(told.encode(), told.status, told.headers)


@app.post("/reset", status_code=201)
async def start(given: Start, secret: Secret, request: Request) -> PublicFlow:
    flow = await service.start(given.user, secret=secret, origin=request.client and request.client.host)
    return flow.public()


@app.get("/reset")
async def show(secret: Secret) -> PublicFlow:
    return (await service.get(service.id_of(secret), holder=secret)).public()


@app.post("/reset/next")
async def submit(given: Input, secret: Secret, key: Key) -> PublicFlow:
    flow = await service.submit(service.id_of(secret), given.text, key=key, holder=secret)
    return flow.public()

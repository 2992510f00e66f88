"""The subjects of the measurements: the floor (four calls with bare aiohttp, nothing stored), and the library."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, Self

import aiohttp

import reset_flow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reset_flow import Listener, Policy

__all__ = ["ANSWER", "APP_KEY", "CODE", "COMMANDS", "PASSWORD", "Floor", "Library", "Subject", "service"]

APP_KEY = "benchmark"
ANSWER, CODE, PASSWORD = "blue", "741175", "violet tractor sings at 5 am"
COMMANDS = ("start", "answer", "verify", "set_password")
CONNECTIONS = 256
"""The same limit as in the library's transport."""


class Subject(Protocol):
    """Carries out flows of four commands, one by one, like a person."""

    async def start(self, user: str) -> Any:
        """Start a flow, and return the argument of the other commands."""

    async def answer(self, flow: Any) -> None: ...

    async def verify(self, flow: Any) -> None: ...

    async def set_password(self, flow: Any) -> None: ...


class Floor:
    """The calls alone: the lower bound for every library."""

    def __init__(self, root: str) -> None:
        self._users = f"{root}/api/v1.0/users"
        self._flows: dict[int, dict[str, str]] = {}
        self._ids = itertools.count()
        self._session = aiohttp.ClientSession(
            headers={"Et-App-Key": APP_KEY}, connector=aiohttp.TCPConnector(limit=CONNECTIONS)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def _call(self, method: str, path: str, **content: Any) -> str:
        async with self._session.request(method, self._users + path, **content) as reply:
            document = await reply.json()
        if reply.status != 200 or not document["IsSucceed"]:
            raise AssertionError(document)
        return str(document.get("Model"))

    async def start(self, user: str) -> int:
        flow = next(self._ids)
        question = await self._call("GET", "/password/secret-question", params={"username": user})
        self._flows[flow] = {"user": user, "question": question}
        return flow

    async def answer(self, flow: int) -> None:
        content = {"User": self._flows[flow]["user"], "SecretQuestionAnswer": ANSWER}
        await self._call("POST", "/password/reset", json=content)

    async def verify(self, flow: int) -> None:
        content = {"Code": CODE, "Identifier": "ResetPassword"}
        self._flows[flow]["token"] = await self._call("POST", "/identifiers/reset/code", json=content)

    async def set_password(self, flow: int) -> None:
        token = self._flows[flow]["token"]
        content = {"Token": token, "Password": PASSWORD, "PasswordConfirmation": PASSWORD}
        await self._call("PUT", "/passwords/reset/", json=content)


class Library:
    """A `ResetService`. Its owner opens and closes it."""

    def __init__(self, service: reset_flow.ResetService) -> None:
        self._service = service

    async def start(self, user: str) -> str:
        return (await self._service.start(user)).id

    async def answer(self, flow: str) -> None:
        await self._service.answer(flow, ANSWER)

    async def verify(self, flow: str) -> None:
        await self._service.verify(flow, CODE)

    async def set_password(self, flow: str) -> None:
        await self._service.set_password(flow, PASSWORD)


@cache
def _own_keys() -> reset_flow.Keyring:
    return reset_flow.Keyring.generate()


def service(
    root: str,
    store: reset_flow.Store | str,
    *,
    keys: str | None = None,
    policy: Policy | None = None,
    sweep: bool = True,
    listeners: Mapping[str, Listener] | None = None,
) -> reset_flow.ResetService:
    """
    Return a service over this broker and this store.

    Args:
        keys: Path of a key file that several processes share. Default: keys of this process only.
    """
    # The name is sealed into flows, and a temporary broker has another port each time.
    transport = reset_flow.EtnaTransport(f"{root}/api", APP_KEY, name="benchmark")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these flows need no keys in a file: they are not used again
        return reset_flow.ResetService(
            transport,
            reset_flow.open_store(store) if isinstance(store, str) else store,
            reset_flow.Keyring.load_or_create(keys) if keys else _own_keys(),
            policy=policy,
            sweep=sweep,
            listeners=listeners,
        )

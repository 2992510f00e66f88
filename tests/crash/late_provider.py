"""A provider that judges a code only together with the new password, over HTTP, and its transport."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import attrs
from aiohttp import web

from reset_flow import (
    Accepted,
    Capabilities,
    Case,
    Cause,
    NewCredential,
    NotActed,
    Outcome,
    Rejected,
    Secret,
    Step,
    Unknown,
)
from reset_flow.transports.http import Reply, Sender, endpoint

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

OLD_PASSWORD = "old-Passw0rd"


class LateTransport:
    """Talks to a `LateProvider`."""

    name = "late"
    capabilities = Capabilities(verifies_code=False, probes=False)

    def __init__(self, url: str, *, deadline: timedelta) -> None:
        self.deadline = deadline
        self._url = endpoint(url)
        self._sender = Sender(deadline=deadline, connect_deadline=deadline, content_type="application/json")

    def canonical_user(self, user: str) -> str:
        return user

    async def challenge(self, case: Case) -> Outcome:
        return Accepted(value=Secret(""))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        return await self._post("request", user=case.user)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        return NotActed(cause=Cause.PROTOCOL)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        return await self._post("update", user=case.user, code=token.reveal(), password=new.secret.reveal())

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        return await self._post("log_in", user=case.user, password=password.reveal())

    async def probe(self, case: Case) -> Outcome:
        return NotActed(cause=Cause.PROTOCOL)

    async def aclose(self) -> None:
        await self._sender.aclose()

    async def _post(self, route: str, **fields: str) -> Outcome:
        reply = await self._sender.send("POST", self._url / route, json.dumps(fields).encode())
        if not isinstance(reply, Reply):
            return reply
        try:
            refusal = json.loads(reply.body or b"")["refused"]
        except (KeyError, ValueError):
            return Unknown(detail=f"HTTP {reply.status}")
        return Rejected(about=Step.CODE if refusal == "code" else None) if refusal else Accepted()


@attrs.define
class User:
    """
    Attributes:
        sent: How often each code, and each password with it, came.
    """

    password: str = OLD_PASSWORD
    code: str = ""
    mails: int = 0
    resets: int = 0
    log_ins: int = 0
    sent: Counter[str] = attrs.field(factory=Counter)


class LateProvider:
    """
    Serves on loopback.

    Attributes:
        faults: By user: whether the next update is dropped `before` or `after` it is acted upon.
    """

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.faults: dict[str, str] = {}
        self.url = ""
        application = web.Application()
        for route in (self._request, self._update, self._log_in):
            application.router.add_post(f"/{route.__name__[1:]}", route)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _request(self, request: web.Request) -> web.Response:
        user = self.users[(await request.json())["user"]]
        user.code = f"{secrets.randbelow(1_000_000):06}"
        user.mails += 1
        return web.json_response({"refused": ""})

    async def _update(self, request: web.Request) -> web.Response:
        said = await request.json()
        user, fault = self.users[said["user"]], self.faults.pop(said["user"], "")
        user.sent[said["code"]] += 1
        user.sent[said["password"]] += 1
        refused = "code" if not user.code or said["code"] != user.code else ""
        if not refused and fault != "before":
            user.password, user.code = said["password"], ""
            user.resets += 1
        if fault and request.transport:
            request.transport.close()
        return web.json_response({"refused": refused})

    async def _log_in(self, request: web.Request) -> web.Response:
        said: dict[str, Any] = await request.json()
        user = self.users[said["user"]]
        user.log_ins += 1
        return web.json_response({"refused": "" if said["password"] == user.password else "password"})

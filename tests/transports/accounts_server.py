"""The provider of docs/providers.md: an API of four routes, with its users in memory."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Self

import attrs
from aiohttp import web

from reset_flow.testing import Counts

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp.typedefs import Handler

KEY = "toy key"
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


@attrs.define
class User:
    password: str = "forgotten"
    code: str = ""
    mails: int = 0
    attempts: int = 0
    resets: int = 0


class AccountsServer:
    """Serves on loopback; it is also what the contract needs of a provider."""

    def __init__(self) -> None:
        self.url = ""
        self._users: dict[str, User] = {}
        self._recoveries: dict[str, str] = {}
        application = web.Application(middlewares=[wants_key])
        application.router.add_post("/api/recoveries", self._recover)
        application.router.add_put("/api/recoveries/{id}", self._reset)
        application.router.add_post("/api/sessions", self._log_in)
        application.router.add_get("/api/status", self._status)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/api"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def add_user(self) -> str:
        login = f"maria.{len(self._users)}"
        self._users[login] = User()
        return login

    async def newest_code(self, user: str) -> str:
        return self._users[user].code

    async def counts(self, user: str) -> Counts:
        found = self._users[user]
        return Counts(mails=found.mails, attempts=found.attempts, resets=found.resets)

    async def accepts(self, user: str, password: str) -> bool:
        return self._users[user].password == password

    async def _recover(self, request: web.Request) -> web.Response:
        login = (await request.json())["login"]
        if login not in self._users:
            return refusal("unknown_user", "Nobody here has that name.")
        user, recovery = self._users[login], secrets.token_hex(8)
        user.code = "".join(secrets.choice(LETTERS) for _ in range(8))
        user.mails += 1
        self._recoveries[recovery] = login
        return web.json_response({"recovery": recovery, "sent_to": f"{login[0]}***@example.com"}, status=202)

    async def _reset(self, request: web.Request) -> web.Response:
        user, said = self._users[self._recoveries[request.match_info["id"]]], await request.json()
        user.attempts += 1
        if not user.code or said["code"] != user.code:
            return refusal("wrong_code", "That is not the code in your newest e-mail.")
        if len(said["password"]) < 8:
            return refusal("weak_password", "Take at least eight characters.")
        user.password, user.code = said["password"], ""
        user.resets += 1
        return web.json_response({"changed": True})

    async def _log_in(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said["password"] != self._users[said["login"]].password:
            return refusal("wrong_password", "That is not your password.")
        return web.json_response({"session": secrets.token_hex(8)}, status=201)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"up": True})


@web.middleware
async def wants_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.headers.get("Api-Key") != KEY:
        return web.json_response({"error": "wrong_key"}, status=401)
    return await handler(request)


def refusal(error: str, message: str) -> web.Response:
    return web.json_response({"error": error, "message": message}, status=422)

"""The control interface of the sandbox, beside the API: ``/sandbox/…``, as JSON."""

import json
from typing import Any

from aiohttp import web

from reset_flow.sandbox.broker import Broker
from reset_flow.sandbox.calls import CallLog
from reset_flow.sandbox.faults import Fault, FaultQueue
from reset_flow.sandbox.users import SETTABLE, User


class Control:
    """The handlers below ``/sandbox``. They need no application key."""

    def __init__(self, broker: Broker, *, log: CallLog, faults: FaultQueue) -> None:
        self._broker = broker
        self._log = log
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the handlers."""
        return [
            web.get("/sandbox/inbox", self._inbox),
            web.get("/sandbox/log", self._calls),
            web.delete("/sandbox/log", self._clear_calls),
            web.get("/sandbox/faults", self._list_faults),
            web.post("/sandbox/faults", self._add_fault),
            web.delete("/sandbox/faults", self._clear_faults),
            web.post("/sandbox/users", self._add_user),
            web.get("/sandbox/state", self._state),
        ]

    async def _inbox(self, request: web.Request) -> web.Response:
        user = request.query.get("user")
        mails = [mail.as_json() for mail in self._broker.mails if user in {None, mail.user}]
        return web.json_response(mails)

    async def _calls(self, request: web.Request) -> web.Response:
        route = request.query.get("route")
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdigit()):
            return _problem("after is a number of a call")
        calls = [call.as_json() for call in self._log if call.number > int(after) and route in {None, call.route}]
        return web.json_response(calls)

    async def _clear_calls(self, _: web.Request) -> web.Response:
        self._log.clear()
        return web.Response(status=204)

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self._faults.as_json())

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault.from_json(await _document(request))
        except (TypeError, ValueError) as error:
            return _problem(_first_line(error))
        self._faults.add(fault)
        return web.json_response(fault.as_json(), status=201)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)

    async def _add_user(self, request: web.Request) -> web.Response:
        try:
            user = self._broker.users.add(_user(await _document(request)))
        except (TypeError, ValueError) as error:
            return _problem(_first_line(error))
        return web.json_response(user.as_json(), status=201)

    async def _state(self, request: web.Request) -> web.Response:
        user = self._broker.users.find(request.query.get("user", ""))
        if user is None:
            return _problem("no such user", status=404)
        return web.json_response(user.as_json())


def new_user(login: str, *, email: str | None = None, **attributes: Any) -> User:
    """Return a user, with an address made of the login unless one is given."""
    return User(login=login, email=email or f"{login}@example.com", **attributes)


def _user(document: Any) -> User:
    if not isinstance(document, dict) or not isinstance(document.get("login"), str):
        raise TypeError("a user is a JSON object with a login")
    if unknown := document.keys() - SETTABLE:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    return new_user(**document)


async def _document(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except RecursionError as error:
        raise ValueError("the body is nested too deep") from error


def _problem(message: str, *, status: int = 400) -> web.Response:
    return web.json_response({"error": message}, status=status)


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error)

"""The page: a person's way through a reset, by forms."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from reset_flow.domain.errors import (
    FlowEnded,
    FlowNotFound,
    HeldElsewhere,
    IllegalCommand,
    InvalidInput,
    KeyReused,
    LimitReached,
    ResetFlowError,
    StoreError,
)
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import one_line
from reset_flow.web.access import LINK_PATH, LINKED, new_secret, possible
from reset_flow.web.guarding import CLIENT, check_origin, read_form
from reset_flow.web.pages import Kind, Screen
from reset_flow.web.parts import LANGUAGE
from reset_flow.web.problems import HttpError, seconds_to_wait, status_of

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.web.guarding import Handler
    from reset_flow.web.pages import Pages
    from reset_flow.web.parts import Parts

PATIENCE = timedelta(seconds=10)
"""How long a form waits for another call of the same flow."""

STEPS = {"answer": "answer", "code": "verify", "password": "set_password", "pin": "set_pin"}
"""The command for a form, by the name of its only field."""

BARE = {"resend": "resend", "cancel": "cancel"}
"""The command for a form without a field."""

MOVED_ON = (IllegalCommand, FlowEnded, KeyReused)
"""What a form that is too old comes to: the person is shown where the flow stands."""

KINDS = {
    HTTPStatus.FORBIDDEN: Kind.FORBIDDEN,
    HTTPStatus.NOT_FOUND: Kind.MISSING,
    HTTPStatus.METHOD_NOT_ALLOWED: Kind.MISSING,
}
"""What is shown for a request that is none of ours; for any other, that it was not understood."""

DAY = 86_400
YEAR = 365 * DAY
FOR_EVER = {"Cache-Control": f"public, max-age={YEAR}, immutable"}


class Site:
    """The routes of the page."""

    def __init__(self, parts: Parts, pages: Pages) -> None:
        self._parts = parts
        self._service = parts.service
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, relative to the page."""
        posts: dict[str, Handler] = {
            **{name: partial(self._step, name, command) for name, command in {**STEPS, **BARE}.items()},
            "start": self._start,
            "again": self._again,
            "language": self._language,
        }
        return [
            web.get("/", self._look),
            web.get("/assets/{name}", self._asset),
            web.get(f"/{LINK_PATH}{{token}}", self._look_at_link),
            web.post(f"/{LINK_PATH}{{token}}", self._exchange),
            *[web.post(f"/{name}", handler) for name, handler in posts.items()],
        ]

    def refuse(self, request: web.Request, error: ResetFlowError) -> web.Response:
        """Return the page for an error that no form can show."""
        if isinstance(error, HttpError):
            kind = KINDS.get(error.status, Kind.REJECTED)
            return self._response(request, kind, status=error.status, headers=error.headers)
        if isinstance(error, HeldElsewhere):
            return self._response(request, Kind.HELD, status=HTTPStatus.FORBIDDEN)
        kind = Kind.LIMITED if isinstance(error, LimitReached) else Kind.UNAVAILABLE
        token = request.match_info.get("token", "")
        path = LINK_PATH + token if possible(token) else ""
        return self._response(request, kind, status=status_of(error), error=error, path=path)

    # --- looking, which changes nothing

    async def _asset(self, request: web.Request) -> web.Response:
        asset = self._pages.assets.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        return web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=FOR_EVER)

    async def _look(self, request: web.Request) -> web.Response:
        flow, back_url = await self._flow_of(request)
        return self._response(request, Kind.FLOW if flow else Kind.ACCOUNT, flow=flow, back_url=back_url)

    async def _look_at_link(self, request: web.Request) -> web.Response:
        token = request.match_info["token"]
        flow = await self._parts.links.look(token)
        if flow is None:
            return await self._link_is_used(request, token)
        return self._response(request, Kind.LINK, flow=flow, path=LINK_PATH + token)

    async def _link_is_used(self, request: web.Request, token: str) -> web.Response:
        back_url = await self._parts.links.back_url(token)
        return self._response(request, Kind.LINK_USED, status=HTTPStatus.GONE, back_url=back_url)

    # --- forms

    async def _exchange(self, request: web.Request) -> web.Response:
        """Exchange a link for the cookie of this browser."""
        token = request.match_info["token"]
        form = await self._form(request)
        secret = await self._parts.links.exchange(token, form["once"])
        if secret is None:
            return await self._link_is_used(request, token)
        return self._onward(cookie=secret)

    async def _start(self, request: web.Request) -> web.Response:
        form = await self._form(request)
        user, cookie = Secret(form.get("user", "")), self._parts.cookie_of(request)
        secret = self._parts.access.secret_for(f"{cookie} {form['once']}", user.reveal())
        try:
            await self._parts.clients.count_start(request[CLIENT])
            await self._service.start(user, origin=self._parts.origin_of(request), secret=secret, patience=PATIENCE)
        except ResetFlowError as error:
            if isinstance(error, StoreError):
                raise
            if error.flow is None or isinstance(error, KeyReused):
                return self._failed(request, error, Kind.ACCOUNT, login=one_line(user.reveal())[:400])
            await self._parts.access.look(secret)  # it may be another's to go on with by now
            response = self._failed(request, error, Kind.FLOW, flow=error.flow, cookie=secret)
            self._set_cookie(response, secret)
            return response
        return self._onward(cookie=secret)

    async def _step(self, name: str, command: str, request: web.Request) -> web.Response:
        form = await self._form(request)
        cookie = self._parts.cookie_of(request)
        assert cookie is not None  # the form has shown it
        arguments = [Secret(form.get(name, ""))] if name in STEPS else []
        try:
            opened = await self._parts.access.open(cookie)
            method = getattr(self._service, command)
            await opened.run(method, *arguments, key=f"page {form['once']}", patience=PATIENCE)
        except (FlowNotFound, *MOVED_ON):
            return self._onward()
        except ResetFlowError as error:
            if error.flow is None:
                raise
            return self._failed(request, error, Kind.FLOW, flow=error.flow, back_url=opened.back_url)
        return self._onward()

    async def _again(self, request: web.Request) -> web.Response:
        """Begin anew, with the login where this browser has typed it."""
        form = await self._form(request)
        login = ""
        try:
            opened = await self._parts.access.open(self._parts.cookie_of(request) or "")
            flow = await opened.run(self._service.get)
            login = flow.user if self._reveals_login(request) else ""
            if not flow.ended:
                await opened.run(self._service.cancel, key=f"page {form['once']}", patience=PATIENCE)
        except StoreError:
            raise
        except ResetFlowError:
            pass  # it ends by itself when its time is up
        cookie = new_secret()
        response = self._response(request, Kind.ACCOUNT, login=login, cookie=cookie)
        self._set_cookie(response, cookie)
        return response

    async def _language(self, request: web.Request) -> web.Response:
        form = await self._form(request)
        path = form.get("next", "")
        response = self._onward(path if path.startswith(LINK_PATH) and possible(path) else "")
        if (locale := form.get("locale")) in self._parts.texts.locales:
            response.set_cookie(
                LANGUAGE, str(locale), max_age=YEAR, path=self._parts.base, samesite="Lax", httponly=True,
                secure=self._parts.is_secure,
            )  # fmt: skip
        return response

    async def _form(self, request: web.Request) -> dict[str, str]:
        """
        Read a form of ours.

        Raises:
            HttpError: Another site has sent it, or another browser, or it is too old.
        """
        check_origin(request, self._parts.origins)
        form = await read_form(request, self._parts.limits)
        cookie, once = self._parts.cookie_of(request), form.get("once", "")
        right = self._parts.access.csrf_token(cookie) if cookie else ""
        if (
            not cookie
            or not possible(once)
            or not secrets.compare_digest(form.get("csrf", "").encode(), right.encode())
        ):
            raise HttpError(HTTPStatus.FORBIDDEN, "forbidden", "this form is not of this browser, or is too old")
        return form

    # --- responses

    async def _flow_of(self, request: web.Request) -> tuple[Flow | None, str]:
        """Return the flow of this browser, if it has one, and where it came from. Raises HeldElsewhere."""
        cookie = self._parts.cookie_of(request)
        if cookie is None:
            return None, ""
        try:
            opened = await self._parts.access.open(cookie)
            return await opened.run(self._service.get), opened.back_url
        except FlowNotFound:
            return None, ""

    def _failed(self, request: web.Request, error: ResetFlowError, kind: Kind, **shown: Any) -> web.Response:
        """Return the form again, with what was wrong."""
        known = isinstance(error, InvalidInput) and kind is Kind.ACCOUNT
        status = HTTPStatus.UNPROCESSABLE_ENTITY if known else status_of(error)
        return self._response(request, kind, status=status, error=error, **shown)

    def _response(
        self,
        request: web.Request,
        kind: Kind,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        cookie: str | None = None,
        headers: dict[str, str] | None = None,
        **shown: Any,
    ) -> web.Response:
        given = cookie or self._parts.cookie_of(request)
        # Another site's form comes without the cookie that the browser has: that one must not be replaced.
        is_new = given is None and request.method == "GET"
        cookie = given or new_secret()
        locale = self._parts.locale_of(request)
        screen = Screen(
            kind=kind,
            base=self._parts.base,
            locale=locale,
            now=datetime.now(UTC),
            csrf=self._parts.access.csrf_token(cookie),
            once=new_secret(),
            reveals_login=not cookie.startswith(LINKED) and kind is not Kind.LINK,
            **shown,
        )
        headers = {**(headers or {}), "Content-Language": locale, "Vary": "Accept-Language, Cookie"}
        if screen.error and (seconds := seconds_to_wait(screen.error)) is not None:
            headers["Retry-After"] = str(seconds)
        text = self._pages.render(screen)
        response = web.Response(text=text, status=status, content_type="text/html", headers=headers)
        if is_new:
            self._set_cookie(response, cookie)
        return response

    def _reveals_login(self, request: web.Request) -> bool:
        return not (self._parts.cookie_of(request) or LINKED).startswith(LINKED)

    def _onward(self, path: str = "", *, cookie: str | None = None) -> web.Response:
        """Have the browser look at where things stand."""
        response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": self._parts.base + path})
        if cookie:
            self._set_cookie(response, cookie)
        return response

    def _set_cookie(self, response: web.Response, secret: str) -> None:
        response.set_cookie(
            self._parts.cookie_name,
            secret,
            max_age=DAY,
            path="/",  # as the prefix of its name wants
            secure=self._parts.is_secure,
            httponly=True,
            samesite="Lax",
        )

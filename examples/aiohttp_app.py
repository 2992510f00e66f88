"""A help desk over aiohttp that makes one-time links, beside the page of resets: `python -m examples.aiohttp_app`."""

import os
from collections.abc import AsyncIterator
from html import escape
from secrets import compare_digest

from aiohttp import encode_basic_auth, web

from reset_flow import ResetFlowError, ResetService, from_env
from reset_flow.web import Links, create_app

SERVICE, LINKS = web.AppKey("service", ResetService), web.AppKey("links", Links)
PAGE = "<!doctype html><html lang=en><title>Help desk</title><h1>Help desk</h1>"
FORM = "<form method=post><label>Login <input name=user></label> <button>Make a link</button></form>"


def check(request: web.Request) -> None:
    """Let the desk in. A middleware would ask for its password below `/reset/` too."""
    given, right = request.headers.get("Authorization", ""), encode_basic_auth("desk", os.environ["DESK_PASSWORD"])
    if not compare_digest(given.encode(errors="replace"), right.encode()):
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="help desk"'})
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise web.HTTPForbidden(text="another site has sent this")


async def look(request: web.Request) -> web.Response:
    check(request)
    return web.Response(text=PAGE + FORM, content_type="text/html")


async def make_link(request: web.Request) -> web.Response:
    check(request)
    user = str((await request.post()).get("user", ""))
    try:
        flow = await request.app[SERVICE].start(user, origin="help desk", tags=["help desk"])
        told = await request.app[LINKS].create(flow.id)
    except ResetFlowError as error:
        told = str(error)
    return web.Response(text=f"{PAGE}<p>{escape(told)}</p>{FORM}", content_type="text/html")


async def running(app: web.Application) -> AsyncIterator[None]:
    async with app[SERVICE]:
        yield


def make_app(service: ResetService, public_url: str) -> web.Application:
    app = web.Application()
    app[SERVICE], app[LINKS] = service, Links(service, public_url)
    app.cleanup_ctx.append(running)
    app.add_routes([web.get("/desk", look), web.post("/desk", make_link)])
    app.add_subapp("/reset/", create_app(service, public_url=public_url))
    return app


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8080"))
    web.run_app(make_app(from_env(), f"http://127.0.0.1:{port}/reset/"), host="127.0.0.1", port=port, access_log=None)

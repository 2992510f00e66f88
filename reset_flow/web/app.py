"""The sub-application: API and page behind one guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from reset_flow.web.access import Access, Links, public_base
from reset_flow.web.api import Api
from reset_flow.web.clients import Clients, Limits
from reset_flow.web.guarding import make_guard, make_headers
from reset_flow.web.look import Look
from reset_flow.web.pages import Pages
from reset_flow.web.parts import Parts
from reset_flow.web.site import Site

if TYPE_CHECKING:
    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.service import ResetService

API = "api/"
OF_PROGRAMS = ("healthz", "readyz")


def create_app(
    service: ResetService, *, public_url: str, look: Look | None = None, limits: Limits | None = None
) -> web.Application:
    """
    Return the page and its JSON API, to be mounted in an aiohttp application: `app.add_subapp("/reset/", …)`.

    The service stays the embedder's: it is neither opened nor closed.

    Args:
        public_url: The address under which people reach it, such as `https://example.com/reset/`. Its path is that of
            the mount. `http` only on this machine.

        look: How the page looks, and what it says.

        limits: What one client may do, and which proxies are trusted to say who that is.

    Raises:
        ConfigurationError: A setting can't be.
    """
    url = public_base(public_url)
    look, limits = look or Look(), limits or Limits()
    links, clients = Links(service, public_url), Clients(service, limits)
    parts = Parts(
        service=service,
        url=url,
        limits=limits,
        clients=clients,
        access=Access(service, links),
        links=links,
        texts=look.wording(),
    )
    pages = Pages(look, code=service.capabilities.code, rules=service.policy.password)
    api, site = Api(parts), Site(parts, pages)

    def refuse(request: web.Request, error: ResetFlowError) -> web.Response:
        path = request.rel_url.raw_path.removeprefix(parts.base)
        of_programs = path.startswith(API) or path in OF_PROGRAMS
        return api.refuse(request, error) if of_programs else site.refuse(request, error)

    app = web.Application(middlewares=[make_guard(clients, limits, refuse)])
    app.on_response_prepare.append(make_headers(secure=parts.is_secure))
    app.add_routes(api.routes() + site.routes())
    return app

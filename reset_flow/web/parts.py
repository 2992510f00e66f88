"""What the parts of one page share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from reset_flow.domain.secret import Secret
from reset_flow.web.access import LOOPBACK, possible
from reset_flow.web.guarding import CLIENT

if TYPE_CHECKING:
    from aiohttp import web
    from yarl import URL

    from reset_flow.messages import Texts
    from reset_flow.service import ResetService
    from reset_flow.web.access import Access, Links
    from reset_flow.web.clients import Clients, Limits

LANGUAGE = "reset-language"


@attrs.frozen(kw_only=True)
class Parts:
    """
    What API and page share.

    Attributes:
        url: The address under which people reach the page, ending in a slash.
    """

    service: ResetService
    url: URL
    limits: Limits
    clients: Clients
    access: Access
    links: Links
    texts: Texts

    @property
    def base(self) -> str:
        """The path of the page, ending in a slash."""
        return self.url.raw_path

    @cached_property
    def origins(self) -> frozenset[str]:
        """The page's origins, as browsers name them. Without https it is on this machine, which has several names."""
        origin = self.url.origin()
        return frozenset({str(origin)} if self.is_secure else {str(origin.with_host(host)) for host in LOOPBACK})

    @property
    def is_secure(self) -> bool:
        """Whether people come by https."""
        return self.url.scheme == "https"

    @cached_property
    def cookie_name(self) -> str:
        """The name of the cookie; over https, with the prefix that has browsers enforce its attributes."""
        name = quote(self.url.path.strip("/"), safe="") or "reset"  # each path its own: a host may have several pages
        return f"__Host-{name}" if self.is_secure else name

    def cookie_of(self, request: web.Request) -> str | None:
        """Return the secret of a browser."""
        cookie = request.cookies.get(self.cookie_name, "")
        return cookie if possible(cookie) else None

    def locale_of(self, request: web.Request) -> str:
        """Return the language for a person."""
        return self.texts.negotiate(request.headers.get("Accept-Language"), request.cookies.get(LANGUAGE))

    @staticmethod
    def origin_of(request: web.Request) -> Secret:
        """Return the `origin` of a start."""
        return Secret(f"web {request[CLIENT]}")

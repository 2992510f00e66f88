"""Secrets that open a flow: of programs, of browsers, and the links that are exchanged for one."""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from yarl import URL

from reset_flow.domain.errors import ConfigurationError, FlowNotFound, InvalidInput, StaleRecord
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.service import ResetService

LINKED = "link."
"""How the secret of a browser begins that came by a link. Others name the flow that they started."""

LINK_PATH = "link/"
LINK_LIFETIME = timedelta(minutes=10)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TRIES = 3
"""Of an exchange: each of its two saves may meet that of the same form, sent twice."""

POSSIBLE = re.compile(r"[!-~]{22,100}")


def text_of(digest: bytes) -> str:
    """Return a digest in URL-safe letters."""
    return urlsafe_b64encode(digest).decode().rstrip("=")


def new_secret() -> str:
    """Return a secret of 256 random bits."""
    return secrets.token_urlsafe()


def public_base(public_url: Any) -> URL:
    """
    Return the address under which people reach the page, ending in a slash.

    Raises:
        ConfigurationError: It is no address, has a query, is `http` and not on this machine, or has a path at which
            aiohttp mounts nothing.
    """
    try:
        url = URL(public_url)
        host = url.host
    except (TypeError, ValueError):
        url, host = URL(), None
    if not host or url.scheme not in ("http", "https") or url.query_string or url.fragment or url.user:
        raise ConfigurationError("public_url must be like https://example.com/reset/")
    if url.scheme == "http" and host not in LOOPBACK:
        raise ConfigurationError(f"public_url: {printable(host)} must be reached by https, as passwords go there")
    if "%" in url.raw_path or "//" in url.raw_path:
        raise ConfigurationError("public_url: its path must be of letters of ASCII, digits and signs, like /reset/")
    return url if url.path.endswith("/") else url.with_path(url.path + "/")


def _lifetime(given: Any) -> timedelta:
    if not isinstance(given, timedelta) or given <= timedelta(0):
        raise InvalidInput("lifetime: it must be a timedelta longer than zero")
    return given


class _Link(msgspec.Struct, array_like=True, frozen=True):
    """
    A one-time link.

    Attributes:
        used_by: The hash of the browser's secret that it was exchanged for; empty while it is unused.
    """

    flow_id: str
    used_by: bytes = b""


class Links:
    """
    One-time links, each of which opens one flow at the step that is due.

    The store has only hashes of them. To look at one uses nothing up: the person's click on its page does.

    Args:
        public_url: Where the page is, such as `https://example.com/reset/`: that of `create_app`.

    Raises:
        ConfigurationError: No page can be there.
    """

    def __init__(self, service: ResetService, public_url: str) -> None:
        self._service = service
        self._base = public_base(public_url)
        self._links = service.side("web link")
        self._browsers = service.side("web browser")

    async def create(self, flow_id: str, lifetime: timedelta = LINK_LIFETIME) -> str:
        """
        Return a new link to a flow.

        Raises:
            FlowNotFound, StoreUnavailable: As for `ResetService.get`.
            InvalidInput: The lifetime is no `timedelta`, or not longer than zero.
        """
        lifetime = _lifetime(lifetime)
        flow = await self._service.get(flow_id)
        token = new_secret()
        await self._links.save(token, msgspec.msgpack.encode(_Link(flow.id)), revision=b"", lifetime=lifetime)
        return str(self._base / (LINK_PATH + token))

    async def look(self, token: str) -> Flow | None:
        """Return the flow that a link opens; `None` if it is none, or is used up or too old."""
        link = (await self._load(token))[0]
        return None if link is None or link.used_by else await self._flow(link.flow_id)

    async def exchange(self, token: str, once: str) -> str | None:
        """
        Return the secret of the browser that a link is exchanged for; `None` if it is none, or is used up or too old.
        The same again, with the same `once` of its form, gives the same secret.
        """
        for _ in range(TRIES):
            link, revision = await self._load(token)
            if link is None:
                return None
            secret = LINKED + text_of(self._service.digest("web link", f"{len(token)} {token} {once}"))
            used_by = self._service.digest("web browser", secret)
            if link.used_by:
                return secret if secrets.compare_digest(link.used_by, used_by) else None
            if (flow := await self._flow(link.flow_id)) is None:
                return None
            lifetime = max(timedelta(minutes=1), flow.expires_at - flow.created_at)
            try:
                await self._keep(secret, link.flow_id, lifetime)
                used = msgspec.msgpack.encode(_Link(link.flow_id, used_by))
                await self._links.save(token, used, revision=revision, lifetime=lifetime)
            except StaleRecord:
                continue  # somebody else was faster, or the same form came twice
            return secret
        return None

    async def id_of(self, secret: str) -> str | None:
        """Return the id of the flow that a browser's secret opens."""
        if not secret.startswith(LINKED):
            return self._service.id_of(secret)
        found = (await self._browsers.load(secret)).value
        return found.decode() if found else None

    async def _keep(self, secret: str, flow_id: str, lifetime: timedelta) -> None:
        found = await self._browsers.load(secret)
        if found.value is None:
            await self._browsers.save(secret, flow_id.encode(), revision=found.revision, lifetime=lifetime)

    async def _load(self, token: str) -> tuple[_Link | None, bytes]:
        if not possible(token):
            return None, b""
        found = await self._links.load(token)
        return (msgspec.msgpack.decode(found.value, type=_Link) if found.value else None), found.revision

    async def _flow(self, flow_id: str) -> Flow | None:
        try:
            return await self._service.get(flow_id)
        except FlowNotFound:
            return None


class Access:
    """Opens flows by the secrets of programs and browsers."""

    def __init__(self, service: ResetService, links: Links) -> None:
        self._service = service
        self._links = links

    def secret_for(self, key: str, user: str) -> str:
        """Return the secret of a start, always the same for the same random key and login."""
        return text_of(self._service.digest("web start", f"{len(key)} {key} {user}"))

    def csrf_token(self, cookie: str) -> str:
        """Return what the forms of a browser carry."""
        return text_of(self._service.digest("web csrf", cookie))

    async def flow(self, secret: str, flow_id: str | None = None) -> Flow:
        """
        Return the flow that a secret opens. Takes and raises what `flow_id` does.

        Raises:
            HeldElsewhere: Its code was typed elsewhere.
        """
        return await self._service.get(await self.flow_id(secret, flow_id), holder=holder_of(secret))

    async def flow_id(self, secret: str, flow_id: str | None = None) -> str:
        """
        Return the id of the flow that a secret opens, for a command, which loads it.

        Args:
            flow_id: If it is given, it must be this one.

        Raises:
            FlowNotFound: There is none; whether the id or the secret is wrong is not told.
        """
        found = await self._links.id_of(secret) if possible(secret) else None
        if found is None or (flow_id is not None and found != flow_id):
            raise FlowNotFound("")
        return found


def possible(secret: str) -> bool:
    """Return whether a text could be a secret of ours: strangers send anything."""
    return bool(POSSIBLE.fullmatch(secret))


def holder_of(secret: str) -> Secret:
    """Return the holder that a secret stands for: a code that is typed with it binds the flow to it."""
    return Secret(f"web {secret}")

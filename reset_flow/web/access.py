"""Secrets that open a flow: of programs, of browsers, and the links that are exchanged for one."""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from yarl import URL

from reset_flow.domain import validation
from reset_flow.domain.errors import ConfigurationError, FlowNotFound, HeldElsewhere, InvalidInput, StaleRecord
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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


def _back(given: Any) -> str:
    try:
        url = URL(given) if given else None
    except (TypeError, ValueError):
        url = URL()
    if url is None:
        return ""
    is_safe = url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK)
    if not url.host or not is_safe or url.user or not given.isprintable():
        raise ConfigurationError("back_url must be like https://t.me/your_bot")
    return str(url)


def _lifetime(given: Any) -> timedelta:
    if not isinstance(given, timedelta) or given <= timedelta(0):
        raise InvalidInput("lifetime: it must be a timedelta longer than zero")
    return given


class _Link(msgspec.Struct, array_like=True, frozen=True):
    """
    A one-time link.

    Attributes:
        used_by: The hash of the browser's secret that it was exchanged for; empty while it is unused.

        holder: In whose place its browser may go on; empty for nobody's.

        back_url: Where the person came from; empty where that is not known.
    """

    flow_id: str
    used_by: bytes = b""
    holder: str = ""
    back_url: str = ""


@attrs.frozen
class Opened:
    """
    A flow that a secret opens.

    Attributes:
        holders: As whom its commands come: a browser's own first, then as who made its link.

        back_url: Where its browser came from, by a link that says so.
    """

    flow_id: str
    holders: tuple[Secret, ...]
    back_url: str = ""

    async def run(self, command: Callable[..., Awaitable[Flow]], *arguments: Any, **options: Any) -> Flow:
        """
        Run a command of the service, and return what it does.

        Raises:
            HeldElsewhere: The flow is bound to none of these holders.
        """
        for holder in self.holders[:-1]:
            with suppress(HeldElsewhere):  # nothing was sent
                return await command(self.flow_id, *arguments, holder=holder, **options)
        return await command(self.flow_id, *arguments, holder=self.holders[-1], **options)


class Links:
    """
    One-time links, each of which opens one flow at the step that is due.

    The store has only hashes of them. To look at one uses nothing up: the person's click on its page does.

    Args:
        public_url: Where the page is, such as `https://example.com/reset/`: that of `create_app`.

        back_url: Where those come from who get the links, such as `https://t.me/your_bot`: at the end, the page leads
            them back to that chat. It is kept with each link, and nothing that a browser sends changes it.

    Raises:
        ConfigurationError: No page can be there; or nobody can be led back there, as it is no https address.
    """

    def __init__(self, service: ResetService, public_url: str, *, back_url: str | None = None) -> None:
        self._service = service
        self._base = public_base(public_url)
        self._back_url = _back(back_url)
        self._links = service.side("web link")
        self._browsers = service.side("web browser")

    async def create(
        self, flow_id: str, lifetime: timedelta = LINK_LIFETIME, *, holder: str | Secret | None = None
    ) -> str:
        """
        Return a new link to a flow.

        Args:
            holder: Of the flow's commands so far, such as a conversation: where a code that was taken has bound the
                flow to this holder, the browser may go on in its place. A code typed in the browser binds the flow to
                the browser alone.

        Raises:
            FlowNotFound, StoreUnavailable: As for `ResetService.get`.
            InvalidInput: The lifetime is no `timedelta`, or not longer than zero, or the holder can be none.
        """
        lifetime, hidden = _lifetime(lifetime), validation.hidden(holder)
        flow = await self._service.get(flow_id)
        maker = "" if hidden is None else validation.name(hidden, "holder")
        link = _Link(flow.id, holder=maker, back_url=self._back_url)
        token = new_secret()
        await self._links.save(token, msgspec.msgpack.encode(link), revision=b"", lifetime=lifetime)
        return str(self._base / (LINK_PATH + token))

    async def look(self, token: str) -> Flow | None:
        """Return the flow that a link opens; `None` if it is none, or is used up or too old."""
        link = (await self._load(token))[0]
        return None if link is None or link.used_by else await self._flow(link.flow_id)

    async def back_url(self, token: str) -> str:
        """Return where the person came from who has this link, also if it is used up; empty where nobody knows."""
        link = (await self._load(token))[0]
        return link.back_url if link else ""

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
                await self._keep(secret, link, lifetime)
                used = msgspec.msgpack.encode(_Link(link.flow_id, used_by, back_url=link.back_url))
                await self._links.save(token, used, revision=revision, lifetime=lifetime)
            except StaleRecord:
                continue  # somebody else was faster, or the same form came twice
            return secret
        return None

    async def open(self, secret: str) -> Opened | None:
        """Return the flow that a browser's secret opens."""
        own = holder_of(secret)
        if not secret.startswith(LINKED):
            return Opened(self._service.id_of(secret), (own,))
        found = (await self._browsers.load(secret)).value
        if not found:
            return None
        names, _, back_url = found.decode().partition("\n")
        flow_id, _, maker = names.partition(" ")
        return Opened(flow_id, (own, Secret(maker)) if maker else (own,), back_url)

    async def _keep(self, secret: str, link: _Link, lifetime: timedelta) -> None:
        found = await self._browsers.load(secret)
        if found.value is None:
            value = f"{link.flow_id} {link.holder}" if link.holder else link.flow_id
            value += f"\n{link.back_url}" if link.back_url else ""
            await self._browsers.save(secret, value.encode(), revision=found.revision, lifetime=lifetime)

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

    async def open(self, secret: str, flow_id: str | None = None) -> Opened:
        """
        Return the flow that a secret opens, to look at and to run commands on.

        Args:
            flow_id: If it is given, it must be this one.

        Raises:
            FlowNotFound: There is none; whether the id or the secret is wrong is not told.
        """
        found = await self._links.open(secret) if possible(secret) else None
        if found is None or (flow_id is not None and found.flow_id != flow_id):
            raise FlowNotFound("")
        return found

    async def look(self, secret: str) -> Flow:
        """
        Return the flow that a secret opens.

        Raises:
            FlowNotFound: There is none.
            HeldElsewhere: Its code was typed elsewhere.
        """
        return await (await self.open(secret)).run(self._service.get)


def possible(secret: str) -> bool:
    """Return whether a text could be a secret of ours: strangers send anything."""
    return bool(POSSIBLE.fullmatch(secret))


def holder_of(secret: str) -> Secret:
    """Return the holder that a secret stands for: a code that is typed with it binds the flow to it."""
    return Secret(f"web {secret}")

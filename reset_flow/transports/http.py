"""
Send one HTTP request with aiohttp and return its result as a value. This module knows nothing of any broker.

It never sends a request twice: it does not follow redirects, and it switches off aiohttp's own second sending of GET
and PUT. It never raises, except for cancellation: errors become values outside the `except` block, and only the name of
their class is kept, because aiohttp's messages hold URLs and its frames hold request bodies.
"""

from __future__ import annotations

import asyncio
import os
import re
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from ssl import CERT_NONE, SSLContext
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER
from msgspec import Struct
from yarl import URL

from reset_flow.deadlines import Deadlines
from reset_flow.domain import validation
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.outcomes import Cause, NotActed, Unknown
from reset_flow.domain.secret import Secret, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_middlewares import ClientHandlerType
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

BODY_LIMIT = 256 * 1024
"""Bytes. A longer reply body is not read, or not unpacked, to its end."""
TOO_LONG = "a body that is too long"

READ_BUFFER = 64 * 1024
READ_SIZE = 16 * 1024
"""Bytes that a connection reads at once; most replies are far shorter. By default, asyncio allocates 256 KiB for each
read, which takes a tenth of the CPU of a call."""

NEVER_RESENT = frozenset({"PATCH", "POST"})
"""Methods that aiohttp never sends a second time."""

PROXY_LOG_IN, NETWORK_LOG_IN = 407, 511
NEVER_HANDLED = frozenset({401, 403, 404, 405, 406, PROXY_LOG_IN, 411, 413, 414, 415, NETWORK_LOG_IN})
"""Statuses with which a gateway in front of an API, or a proxy on the way, turns a request away."""

TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE = 429, 503
REDIRECTION = 3  # the first digit of a status

CONNECTIONS = 256
IDENTITY = "identity"
WINDOWS = {
    "gzip": (16 + zlib.MAX_WBITS,),
    "x-gzip": (16 + zlib.MAX_WBITS,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),  # by RFC 9110 with a header, which some leave out
}
"""What zlib calls the codings that it can unpack."""

OTHER_LOOP = "the session that was passed in belongs to another event loop: let the transport make its own"
PROXY_WANTS_LOG_IN = "HTTP 407, a proxy on the way wants a log-in: put it into the address of the proxy"
WANTS_LOG_IN = {
    PROXY_LOG_IN: PROXY_WANTS_LOG_IN,
    NETWORK_LOG_IN: "HTTP 511, the network of this machine wants a log-in",
}
"""What helps against a status that no provider sends (RFC 9110, 15.5.8; RFC 6585, 6)."""
MAX_RETRY_AFTER = timedelta(hours=1)

DOTS = frozenset({".", "..", "%2e", ".%2e", "%2e.", "%2e%2e"})
"""Segments of a path that servers take for a way up (RFC 3986, 5.2.4 and 6.2.2.2)."""
LEADS_ELSEWHERE = NotActed(cause=Cause.PROTOCOL, detail="dots in the path of a request would lead elsewhere")

KEEPALIVE = 4.0
"""Seconds that an idle connection is kept. Shorter than any common server keeps it (Node.js: 5), because a request on a
connection that the server is closing has an unknown outcome. A person takes longer than this for a step anyway."""

CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
UNSENDABLE_CHARACTER = re.compile(r"[^ -~\xa0-\xff]")


class Reply(Shown, Struct, frozen=True, kw_only=True, gc=False):
    """
    A reply of the server.

    Attributes:
        retry_after: The `Retry-After` header, from zero to one hour; `None` if it is missing or malformed.

        body: The whole body, or `None` if it was too long, cut off or can't be unpacked; then `flaw` names the reason.
            `None` without a flaw if it was not to be read.

        headers: Those that the sender was told to keep, under the names that it was told, if the reply has them.
    """

    hidden = frozenset({"body", "headers"})

    status: int
    retry_after: timedelta | None = None
    body: bytes | None = None
    flaw: str = ""
    headers: dict[str, str] = {}


Result: TypeAlias = Reply | NotActed | Unknown


class _ConnectionLost(aiohttp.ClientError):
    """A lost connection, as an error that does not make aiohttp send the request again. Its text is a class's name."""


class _Body(aiohttp.BytesPayload):
    """
    A request body that records whether its sending has begun.

    Until then no server can have acted: aiohttp writes the headers together with the first bytes of the body, and a
    server waits for the rest of a body in any case. This works in every session; a `TraceConfig` cannot be added to a
    session that somebody else made.
    """

    begun = False

    def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> Coroutine[Any, Any, None]:
        connection = writer.transport
        # On a closing connection, the coroutine raises before it writes.
        self.begun = connection is not None and not connection.is_closing()
        return super().write_with_length(writer, content_length)


class _Connector(aiohttp.TCPConnector):
    """
    A connector that discards connections on which the server has sent unsolicited bytes.

    aiohttp would take those bytes for the reply to the next request, which may belong to another person. It also limits
    the bytes that a connection reads at once.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                transport: Any = connection.transport
                if hasattr(transport, "max_size"):  # asyncio's transports have it; those of other loops need not
                    transport.max_size = READ_SIZE
                return connection
            connection.close()


async def prevent_resend(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide a lost connection from aiohttp, which would send GET and PUT again. This is a client middleware."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # a ClientOSError, too; but nothing was sent, so aiohttp does not send again
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        name = type(error).__name__
    raise _ConnectionLost(name)


class _OwnSession:
    """A session of ours in one event loop. A task keeps it, and closes it when told to or when the loop ends."""

    def __init__(self, session: aiohttp.ClientSession, ended: Callable[[], object]) -> None:
        self.session = session
        self.pid = os.getpid()
        self.closing = asyncio.Event()
        self.keeper = asyncio.get_running_loop().create_task(self._keep(ended))

    async def _keep(self, ended: Callable[[], object]) -> None:
        with suppress(asyncio.CancelledError):  # `asyncio.run` cancels it with the last tasks, and waits for it
            await self.closing.wait()
        ended()
        await self.session.close()


class Sender:
    """
    Send requests through sessions of its own, or through one that is passed in. May be made outside an event loop, and
    before a fork.

    Each event loop that sends gets a session of its own, which is closed when the loop ends. It keeps no cookies,
    verifies TLS, and reads proxies and .netrc from the environment only with `trust_env`. It has no tracing, not even
    the tracing that an instrumentation adds to all sessions of the process, because URLs may hold logins.

    A session that is passed in is never closed, and serves the first event loop that sends. Its owner stays responsible
    for its headers, cookies, proxies, tracing and connector: give it an `aiohttp.DummyCookieJar`, and no tracing that
    keeps URLs. Its client middlewares are not used, because a middleware that retries would spend codes and tokens
    twice.

    Args:
        deadline: For a whole request, from the wait for a connection to the last byte of the reply.

        connect_deadline: For the wait for a connection, as a part of that.

        content_type: Of every body that is not empty.

        reply_headers: The names of headers of replies that are kept, such as `Location`.

        read_bodies: Whether the bodies of replies are read.

        connections: How many there may be at once, in each event loop.

        socket_factory: Makes the socket for an address that is about to be connected to. An `OSError` refuses it.

    Raises:
        ConfigurationError: The arguments contradict each other, or one of them is invalid.
    """

    def __init__(
        self,
        *,
        deadline: timedelta,
        connect_deadline: timedelta,
        session: aiohttp.ClientSession | None = None,
        trust_env: bool = False,
        proxy: str | Secret | None = None,
        ssl: SSLContext | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        content_type: str = "application/octet-stream",
        reply_headers: Iterable[str] = (),
        read_bodies: bool = True,
        connections: int = CONNECTIONS,
        socket_factory: aiohttp.SocketFactoryType | None = None,
    ) -> None:
        proxy = None if proxy is None else proxy_address(proxy)
        if session is not None and (trust_env or proxy):
            raise ConfigurationError("trust_env and proxy are matters of the session that is passed in")
        self._deadline = _seconds("deadline", deadline)
        self._deadlines = Deadlines()
        self._trust_env = trust_env
        self._proxy = proxy
        self._headers = {name: Secret(value) for name, value in (headers or {}).items()}
        for name, value in self._headers.items():
            if value and not (value.encodable and fits_header(value.reveal())):
                raise ConfigurationError(f"{name} has characters that no header can carry")
        self._reply_headers = tuple(reply_headers)
        self._content_type = content_type
        self._read_bodies = read_bodies
        self._connections = connections
        self._socket_factory = socket_factory
        self._given = session
        self._given_to: asyncio.AbstractEventLoop | None = None
        self._own: dict[asyncio.AbstractEventLoop, _OwnSession] = {}
        self._closed = False
        self._ssl = _verified(ssl)
        # Of a session of our own. Through another session, each request states them, and aiohttp merges them each time.
        self._defaults: dict[str, Any] = {
            "auto_decompress": False,  # keeps a compression bomb packed; `Accept-Encoding: identity` asks for no coding
            "raise_for_status": False,
            "read_bufsize": READ_BUFFER,
            # aiohttp's own total leaves out the time that tracing hooks take. Without the threshold, aiohttp would
            # round longer timeouts up to whole seconds.
            "timeout": aiohttp.ClientTimeout(
                total=None,
                connect=min(self._deadline, _seconds("connect_deadline", connect_deadline)),
                ceil_threshold=float("inf"),
            ),
        }
        self._options = {} if session is None else {**self._defaults, "ssl": self._ssl}

    async def send(
        self, method: str, url: URL, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Result:
        """
        Send one request and return the reply; without a reply, return whether the server may have acted.

        A request with a body (`b""` is one) is `NotActed` until the first byte may have been sent. A request without
        one is `NotActed` only if no connection was made. Raise nothing, except for cancellation.
        """
        if not DOTS.isdisjoint(url.raw_path.lower().split("/")):
            return LEADS_ELSEWHERE
        payload = None if body is None else _Body(body, content_type=self._content_type)
        kept: dict[str, str] = {}
        reply_status, retry_after, sent_at, reply_body, flaw, not_connected = 0, None, None, None, "", False
        try:
            session = self._session()
            if isinstance(session, str):
                return NotActed(detail=session)
            with self._deadlines.within(self._deadline):
                response = await session.request(
                    method,
                    url,
                    headers=headers if self._given is None else self._all_headers(body, headers),
                    data=payload,
                    allow_redirects=False,
                    middlewares=() if method in NEVER_RESENT else (prevent_resend,),
                    skip_auto_headers=None if body else (CONTENT_TYPE,),
                    **self._options,
                )
                # Kept from here on: a body that is cut off does not take the status with it.
                reply_status, retry_after = response.status, response.headers.get(RETRY_AFTER)
                sent_at = response.headers.get(DATE)
                kept = {name: response.headers[name] for name in self._reply_headers if name in response.headers}
                try:
                    if self._read_bodies:
                        reply_body, flaw = await _read(response)
                finally:
                    if not response.closed:  # as it is once the body was read to its end
                        response.release()  # closes the connection
        except aiohttp.ClientHttpProxyError as error:  # the answer to CONNECT: nothing has passed the proxy
            return _refused_by_proxy(error.status)
        except Exception as error:  # noqa: BLE001 - callers must see no error of aiohttp's, of whatever class
            # The name of its class; its message may hold a URL.
            flaw = str(error) if isinstance(error, _ConnectionLost) else type(error).__name__
            not_connected = isinstance(error, CONNECT_ERRORS)
        if reply_status:
            wait = _retry_after(retry_after, sent_at)
            return Reply(status=reply_status, retry_after=wait, body=reply_body, flaw=flaw, headers=kept)
        never_sent = not_connected if payload is None else not payload.begun
        return NotActed(detail=flaw) if never_sent else Unknown(detail=flaw)

    async def aclose(self) -> None:
        """Close the sessions, unless one was passed in. Requests in flight end without a reply. Idempotent."""
        self._closed = True
        here = asyncio.get_running_loop()
        for loop, own in list(self._own.items()):
            if loop is here:
                own.closing.set()
                await asyncio.wait((own.keeper,))
            elif own.pid == os.getpid():  # a forked process shares its parent's loops, and must not wake them
                with suppress(RuntimeError):  # it was closed a moment ago
                    loop.call_soon_threadsafe(own.closing.set)

    def _all_headers(self, body: bytes | None = None, more: Mapping[str, str] | None = None) -> dict[str, str]:
        headers = {name: value.reveal() for name, value in self._headers.items()}
        if body:
            headers[CONTENT_TYPE] = self._content_type  # else a default of the given session would take its place
        return headers | dict(more or {})

    def _session(self) -> aiohttp.ClientSession | str:
        """Return the session to use in this event loop, or why there is none."""
        if self._closed:
            return "the transport is closed"
        loop = asyncio.get_running_loop()
        if self._given is not None:
            self._given_to = self._given_to or loop
            return self._given if self._given_to is loop else OTHER_LOOP
        own = self._own.get(loop)
        if own is None:
            for other in list(self._own):  # other threads change it meanwhile
                if other.is_closed() and (left := self._own.pop(other, None)):  # without a word to its tasks
                    left.session.detach()
            session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=self._connections,
                    keepalive_timeout=KEEPALIVE,
                    ssl=self._ssl,
                    socket_factory=self._socket_factory,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._all_headers(),
                trust_env=self._trust_env,
                proxy=self._proxy.reveal() if self._proxy else None,
                **self._defaults,
            )
            session.trace_configs.clear()
            own = self._own[loop] = _OwnSession(session, partial(self._own.pop, loop, None))
        return own.session


def turned_away(reply: Reply, *, recognized: bool) -> NotActed | None:
    """
    Return the outcome of a reply that throttles a request, or keeps it from an API; `None` for all others.

    Args:
        recognized: Whether the reply is in the API's own shape: then its status has a meaning of its own.
    """
    status = reply.status
    if status == TOO_MANY_REQUESTS or (status == SERVICE_UNAVAILABLE and reply.retry_after is not None):
        return NotActed(cause=Cause.THROTTLED, detail=f"HTTP {status}", retry_after=reply.retry_after)
    if not recognized and reply.body is not None and (status in NEVER_HANDLED or status // 100 == REDIRECTION):
        return NotActed(cause=Cause.PROTOCOL, detail=WANTS_LOG_IN.get(status, f"HTTP {status}"))
    return None


def endpoint(given: str | Secret, name: str = "base_url") -> URL:
    """
    Return the URL in its normal form, without a trailing slash. It must be https, except on the loopback interface.

    Raises:
        ConfigurationError: The URL is invalid. No message repeats it, because it may hold a password.
    """
    given = validation.address(given, name)  # keeps the text out of this frame
    if not all(char.isprintable() and not char.isspace() for char in given.reveal()):
        raise ConfigurationError(f"{name} has characters that no URL has")
    try:
        has_more = "@" in urlsplit(given.reveal()).netloc or any(char in given.reveal() for char in "?#")
        url = URL() if has_more else URL(given.reveal())
        host = url.host or ""
    except ValueError:
        has_more, url, host = False, URL(), ""
    if has_more:
        raise ConfigurationError(f"{name} must have no credentials, no query and no fragment")
    if url.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"{name} must be like https://host/api")
    if url.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(f"{name} must be https, except on this machine")
    return URL(str(url).rstrip("/"), encoded=True)


def below(base: URL, *segments: str) -> URL:
    """
    Return the URL with these segments behind its path. Each is quoted whole: a `/` or a `?` in a login or an id is a
    part of it. `Sender` sends nothing where one is `.` or `..`.
    """
    return URL("/".join([str(base), *(quote(each, safe="") for each in segments)]), encoded=True)


def proxy_address(given: str | Secret, name: str = "proxy") -> Secret:
    """
    Return the address of a proxy: `http://` or `https://`, perhaps a user and a password, the host, perhaps a port.

    Raises:
        ConfigurationError: It is no such address. No message repeats it, because it may hold a password.
    """
    given = Secret(given)  # keeps the text out of this frame
    if not _is_proxy(given):
        raise ConfigurationError(f"{name} must be like http://host:3128 or http://user:password@host:3128")
    return given


def _is_proxy(given: Secret) -> bool:
    try:
        url = URL(given.reveal())
    except (ValueError, TypeError):
        return False
    fits = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    return fits and url.path in ("", "/") and not url.query_string and not url.fragment


def fits_header(text: str) -> bool:
    """Return True if a header value carries the text unchanged: not empty, no controls, no spaces at its ends."""
    return bool(text) and text == text.strip() and not UNSENDABLE_CHARACTER.search(text)


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes | None, str]:
    """Return the whole body, unpacked, and `""`; or `None` and the reason."""
    content = response.content
    body = await content.readany()
    while not content.at_eof() and len(body) <= BODY_LIMIT:
        body += await content.readany()
    codings = ",".join(response.headers.getall(CONTENT_ENCODING, ())).lower().split(",")
    packed = [coding.strip() for coding in codings if coding.strip() not in ("", IDENTITY)]
    if len(body) > BODY_LIMIT:
        return None, TOO_LONG
    return _unpacked(body, packed) if body and packed else (body, "")


def _unpacked(body: bytes, codings: list[str]) -> tuple[bytes | None, str]:
    """Unpack a body that something on the way has packed, though it was asked not to; never more than the limit."""
    for window in WINDOWS.get(codings[0], ()) if len(codings) == 1 else ():
        unpacker = zlib.decompressobj(window)
        try:
            whole = unpacker.decompress(body, BODY_LIMIT + 1)
        except zlib.error:
            continue
        if len(whole) > BODY_LIMIT:
            return None, TOO_LONG
        if unpacker.eof and not unpacker.unused_data:
            return whole, ""
    return None, "an encoded body"


def _refused_by_proxy(status: int) -> NotActed:
    if status == PROXY_LOG_IN:
        return NotActed(cause=Cause.PROTOCOL, detail=PROXY_WANTS_LOG_IN)
    cause = Cause.PROTOCOL if 400 <= status < 500 else Cause.UNAVAILABLE  # noqa: PLR2004 - as HTTP counts
    return NotActed(cause=cause, detail=f"a proxy on the way refuses to connect: HTTP {status}")


def _seconds(name: str, value: Any) -> float:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ConfigurationError(f"{name} must be a timedelta longer than zero")
    return value.total_seconds()


def _verified(ssl: Any) -> SSLContext | bool:
    """Return the context, checked, or aiohttp's value for "verify, as the system does"."""
    if ssl is None:
        return True
    if not isinstance(ssl, SSLContext) or ssl.verify_mode is CERT_NONE:
        raise ConfigurationError("ssl must be an SSLContext that verifies certificates")
    return ssl


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(text: str | None, sent_at: str | None = None) -> timedelta | None:
    """
    Parse whole seconds or a date (RFC 9110, 10.2.3), bounded; return `None` for anything else.

    Args:
        sent_at: The date of the reply: a date is by the clock of the server, which may differ from this one.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = int(text.lstrip("0")[:7] or 0)  # seven digits are more than an hour
        return min(timedelta(seconds=seconds), MAX_RETRY_AFTER)
    if (until := _date(text)) is None:
        return None
    wait = until - (_date(sent_at or "") or datetime.now(UTC))
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)


def _date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

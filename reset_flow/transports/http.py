"""
Sends one request over aiohttp and says what came of it, as a value. Knows nothing of any broker.

Nothing is sent twice: redirects are not followed, and aiohttp's own second sending of GET and PUT is switched off.
Nothing is said by exceptions: they are turned into values outside the `except` block, and only the name of their class
is kept, because aiohttp's messages hold URLs, and its frames request bodies. Cancellation alone passes through.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from ssl import CERT_NONE, SSLContext
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict
from urllib.parse import urlsplit

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER
from msgspec import Struct
from yarl import URL

from reset_flow.deadlines import Deadlines
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.outcomes import NotActed, Unknown
from reset_flow.domain.secret import Secret, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["BODY_LIMIT", "Reply", "Result", "Sender", "carried", "endpoint"]

BODY_LIMIT = 256 * 1024
"""Bytes of a reply's body; a longer one is not read to its end."""

READ_BUFFER = 64 * 1024
READ_SIZE = 16 * 1024
"""Bytes that are read at once; replies are far shorter."""

SENT_ONCE = frozenset({"PATCH", "POST"})
"""The methods that aiohttp never sends a second time; all others, it may."""
CONNECTIONS = 256
IDENTITY = "identity"
NOT_CARRIED = re.compile(r"[^ -~\xa0-\xff]")
RETRY_AFTER_AT_MOST = timedelta(hours=1)

KEEPALIVE = 4.0
"""Seconds that an unused connection is kept. Shorter than any common server keeps it (Node.js: 5), because a request on
a connection that the server is just closing comes out as unknown, and a person takes longer than this for a step
anyway."""

CONNECTING_FAILED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Reply(Shown, Struct, frozen=True, kw_only=True, gc=False):
    """
    What came back.

    Attributes:
        retry_after: Between nothing and an hour; `None` where the header is missing or can't be read.

        body: The whole of it, or `None` where it was too long, encoded, or broke off; `flaw` says which.
    """

    hidden = frozenset({"body"})

    status: int
    retry_after: timedelta | None = None
    body: bytes | None = None
    flaw: str = ""


Result: TypeAlias = Reply | NotActed | Unknown


class _ConnectionLost(aiohttp.ClientError):
    """An error that aiohttp does not take for a reason to send again."""


class _Body(aiohttp.BytesPayload):
    """
    A request's body that knows whether its sending has begun.

    As long as it has not, no server can have acted on the request: aiohttp writes the headers together with the first
    bytes of the body, and even if it did not, a server would be waiting for the rest. This holds in anybody's session,
    where a `TraceConfig` could not be added after the fact.
    """

    begun = False

    def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> Coroutine[Any, Any, None]:
        connection = writer.transport
        # On a closing one what is returned raises before it writes.
        self.begun = connection is not None and not connection.is_closing()
        return super().write_with_length(writer, content_length)


class _Connector(aiohttp.TCPConnector):
    """
    Gives no connection on which the server has spoken unasked.

    aiohttp would take those bytes for the reply to the next request, which may be another person's.

    And none that makes room for 256 KiB at each read, as asyncio's do: so much may have to come from the
    system each time.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                transport: Any = None if protocol is None else protocol.transport  # it has a length, which is 0
                if getattr(transport, "max_size", 0) > READ_SIZE:  # other loops have no such setting
                    transport.max_size = READ_SIZE
                return connection
            connection.close()


async def _once(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
    """A client middleware: hide from aiohttp that a connection was lost, or it sends GET and PUT again."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # is a ClientOSError, but nothing was sent, and aiohttp knows it
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        lost = type(error).__name__
    raise _ConnectionLost(lost)


class _Options(TypedDict, total=False):
    """What requests are sent with."""

    allow_redirects: bool
    auto_decompress: bool
    middlewares: tuple[ClientMiddlewareType, ...]
    raise_for_status: bool
    read_bufsize: int
    skip_auto_headers: tuple[str, ...]
    ssl: SSLContext | bool
    timeout: aiohttp.ClientTimeout


class Sender:
    """
    Sends requests, through a session of its own unless it is given one. May be made outside an event loop.

    Its own session is made at the first request and belongs to the loop of that. It keeps no cookies, verifies TLS,
    reads proxies and .netrc from the environment only with `trust_env`, and has no tracing, not even what somebody adds
    to all sessions of the process: URLs may hold logins.

    Of a session that is passed in, headers, cookies, proxies, tracing and the connector stay its owner's business (give
    it an `aiohttp.DummyCookieJar` and no tracing that keeps URLs); its client middlewares are left out, because one
    that retries would spend things twice. It is never closed.

    Args:
        headers: Gives those to send with each request: a function, so that no frame of whoever makes this has them. A
            session of our own asks it once.

        content_type: Of each body that is not empty.
    """

    def __init__(
        self,
        *,
        deadline: timedelta,
        connect_deadline: timedelta,
        session: aiohttp.ClientSession | None = None,
        trust_env: bool = False,
        ssl: SSLContext | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
        content_type: str = "application/octet-stream",
    ) -> None:
        if session is not None and trust_env:
            raise ConfigurationError("trust_env is a matter of the session that is passed in")
        self._seconds = _seconds("deadline", deadline)
        self._deadlines = Deadlines()
        self._trust_env = trust_env
        self._headers = headers
        self._content_type = content_type
        self._foreign = session
        self._own: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._options: _Options = {
            "auto_decompress": False,  # a bomb stays packed, and `Accept-Encoding: identity` asks for none
            "raise_for_status": False,
            "read_bufsize": READ_BUFFER,
            "ssl": _verifying(ssl),
            # The deadline of the whole is not aiohttp's: that one leaves out what others do in its hooks. Without a
            # threshold, longer timeouts would be rounded up to whole seconds.
            "timeout": aiohttp.ClientTimeout(
                total=None,
                connect=min(self._seconds, _seconds("connect_deadline", connect_deadline)),
                ceil_threshold=float("inf"),
            ),
        }
        # Our own session has the others as its defaults: with each request they would have to be merged anew.
        said = _Options() if session is None else self._options
        self._plain: _Options = {**said, "allow_redirects": False, "middlewares": ()}
        self._guarded: _Options = {**self._plain, "middlewares": (_once,)}

    async def send(
        self, method: str, url: URL, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Result:
        """
        A reply, or whether none means that the server can't have acted.

        Without a body (an empty one is one), only a connection that could not be made is sure to have had no effect.
        Raises nothing, except for cancellation.
        """
        payload = None if body is None else _Body(body, content_type=self._content_type)
        options = self._plain if method in SENT_ONCE else self._guarded
        if not body and (payload is not None or method != "GET"):  # to a GET without one aiohttp gives no type anyway
            options = {**options, "skip_auto_headers": (CONTENT_TYPE,)}  # nothing is of no type
        status, again, whole, flaw, connecting = 0, None, None, "", False
        try:
            if self._foreign is not None:  # our own session has them
                kind = {str(CONTENT_TYPE): self._content_type} if body else {}
                headers = {**self._headers(), **kind, **(headers or {})}
            session = self._session()
            if session is None:
                return NotActed(detail="the transport is closed, or belongs to another event loop")
            with self._deadlines.within(self._seconds):
                response = await session.request(method, url, headers=headers, data=payload, **options)
                # Kept from here on: a body that breaks off does not take the status with it.
                status, again = response.status, response.headers.get(RETRY_AFTER)
                try:
                    whole, flaw = await _read(response)
                finally:
                    if not response.closed:  # as it is once the body was read to its end
                        response.release()  # which closes the connection
        except Exception as error:  # noqa: BLE001 - whatever aiohttp raises, nobody above may see
            flaw, connecting = _name(error), isinstance(error, CONNECTING_FAILED)
        if status:
            return Reply(status=status, retry_after=_retry_after(again), body=whole, flaw=flaw)
        never_sent = connecting if payload is None else not payload.begun
        return NotActed(detail=flaw) if never_sent else Unknown(detail=flaw)

    async def aclose(self) -> None:
        """Close the session if it is our own. Requests under way end without a reply. Idempotent."""
        self._closed = True
        session, self._own = self._own, None
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession | None:
        """The session to use now; `None` if there is none that could be used."""
        if self._closed:
            return None
        if self._foreign is not None:
            return self._foreign
        loop = asyncio.get_running_loop()
        if self._own is None:
            self._loop = loop
            self._own = aiohttp.ClientSession(
                auto_decompress=self._options["auto_decompress"],
                connector=_Connector(limit=CONNECTIONS, keepalive_timeout=KEEPALIVE, ssl=self._options["ssl"]),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers(),
                raise_for_status=self._options["raise_for_status"],
                read_bufsize=self._options["read_bufsize"],
                timeout=self._options["timeout"],
                trust_env=self._trust_env,
            )
            self._own.trace_configs.clear()
        return self._own if self._loop is loop else None


def endpoint(base_url: str | Secret) -> URL:
    """
    The URL in its normal form, without a slash at its end; https, except to this machine.

    Raises:
        ConfigurationError: It is no such URL. No message repeats it: it may hold a password.
    """
    base_url = Secret(base_url)  # nor does a frame
    if not all(char.isprintable() and not char.isspace() for char in base_url.reveal()):
        raise ConfigurationError("base_url has characters that no URL has")
    try:
        more = "@" in urlsplit(base_url.reveal()).netloc or any(char in base_url.reveal() for char in "?#")
        url = URL() if more else URL(base_url.reveal())
        host = url.host or ""
    except ValueError:
        more, url, host = False, URL(), ""
    if more:
        raise ConfigurationError("base_url must have no credentials, no query and no fragment")
    if url.scheme not in ("http", "https") or not host:
        raise ConfigurationError("base_url must be like https://host/api")
    if url.scheme == "http" and not _loopback(host):
        raise ConfigurationError("base_url must be https: what it carries are passwords")
    return URL(str(url).rstrip("/"), encoded=True)


def carried(text: str) -> bool:
    """Whether a header brings it over as it is: something, no controls, nothing at its ends that would be cut off."""
    return bool(text) and text == text.strip() and not NOT_CARRIED.search(text)


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes | None, str]:
    """The body, if all of it can be had; if not, what is wrong with it."""
    encoding = response.headers.get(CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() != IDENTITY:
        return None, "an encoded body"
    content = response.content
    if content.is_eof():  # it came with the head, as most do
        whole = content.read_nowait()
        return (whole, "") if len(whole) <= BODY_LIMIT else (None, "a body that is too long")
    body = bytearray(await content.readany())
    while len(body) <= BODY_LIMIT:
        if content.at_eof():
            return bytes(body), ""
        body += await content.readany()
    return None, "a body that is too long"


def _name(error: Exception) -> str:
    """What kind of error it was; its message may hold a URL."""
    return str(error) if isinstance(error, _ConnectionLost) else type(error).__name__


def _seconds(name: str, value: Any) -> float:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ConfigurationError(f"{name} must be a timedelta longer than zero")
    return value.total_seconds()


def _verifying(ssl: Any) -> SSLContext | bool:
    if ssl is None:
        return True  # aiohttp's word for "verify, as the system does"
    if not isinstance(ssl, SSLContext) or ssl.verify_mode is CERT_NONE:
        raise ConfigurationError("ssl must be an SSLContext that verifies certificates")
    return ssl


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(text: str | None) -> timedelta | None:
    """Whole seconds or a date (RFC 9110, 10.2.3), bounded; `None` for anything else."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = text.lstrip("0") or "0"
        return min(timedelta(seconds=int(seconds[:7])), RETRY_AFTER_AT_MOST)  # seven digits are more than an hour
    try:
        at = parsedate_to_datetime(text)
        wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), RETRY_AFTER_AT_MOST)

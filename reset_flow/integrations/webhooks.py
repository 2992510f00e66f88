"""
Tell a receiver of webhooks what a reset did, and verify what such a receiver gets: Standard Webhooks, with HMAC-SHA256.

The scheme is https://github.com/standard-webhooks/standard-webhooks, version 1.0.0.
"""

from __future__ import annotations

import hmac
import logging
import re
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Self

import attrs
import msgspec
from msgspec import Meta, Struct
from yarl import URL

from reset_flow.domain import validation
from reset_flow.domain.errors import ConfigurationError, InvalidInput, ResetFlowError
from reset_flow.domain.secret import Secret
from reset_flow.domain.times import NO_TIME
from reset_flow.engine.context import in_utc, system_clock
from reset_flow.engine.notifications import PATIENCE
from reset_flow.integrations.networks import carried, is_public, networks
from reset_flow.transports.http import Reply, Sender, endpoint, proxy_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ssl import SSLContext

    from aiohttp import AddrInfoType

    from reset_flow.domain.flow import Event
    from reset_flow.integrations.networks import Address
    from reset_flow.ports import Clock

__all__ = ["WebhookEvent", "WebhookListener", "WebhookNotDelivered", "WebhookRejected", "verify"]

logger = logging.getLogger("reset_flow")

PREFIX = "whsec_"
VERSION = "v1"
SHORTEST_KEY, LONGEST_KEY = 24, 64
"""Bytes, as the scheme has it."""
SECRETS_AT_MOST = 4
HEADER_LENGTH, TIMESTAMP_LENGTH = 4096, 11
TOLERANCE = timedelta(minutes=5)

QUERY = re.compile(r"[!$-~]*")
AT_ONCE = 16
GONE = 410
GONE_FOR = timedelta(hours=1)
"""How long nothing is sent to a receiver that wants no more."""


class WebhookNotDelivered(ResetFlowError):
    """The receiver did not take an event. The service tells an end again."""

    code = "webhook_not_delivered"
    retryable = True


class WebhookRejected(ResetFlowError):
    """A delivery that is forged, changed, late, or no event of this library. Answer it with a status of 400."""

    code = "webhook_rejected"


@attrs.frozen(kw_only=True)
class WebhookEvent:
    """
    What a verified delivery tells.

    Attributes:
        id: The same whenever the same transition is told again: act once on each.

        type: `reset.ended`, or `reset.moved`.

        at: When it happened, UTC.

        ref: The embedder's own name of the reset, where it was started with one.

        state: Where the reset stood after it: a value of `State`, such as `password_set`.

        failure: Why it ended without a new password that is known to work: a value of `Failure`, or `None`.
    """

    id: str
    type: str
    at: datetime
    flow_id: str
    ref: str | None = attrs.field(repr=False)
    state: str
    failure: str | None


class _Data(Struct, frozen=True, kw_only=True):
    event_id: str
    flow_id: str
    ref: str | None = None
    state: str
    failure: str | None = None


class _Payload(Struct, frozen=True, kw_only=True):
    type: str
    timestamp: Annotated[datetime, Meta(tz=True)]
    data: _Data


class WebhookListener:
    """
    A listener that tells one receiver. Give it to the service under a name, and close it after the service.

    Each event is a POST with `webhook-id` (the id of the event), `webhook-timestamp` and `webhook-signature`, signed
    anew whenever it is sent again. A status of 2xx is delivery; with any other, an end is told again by the service
    until its retention is over. A receiver that answers `Retry-After`, or 410, is sent nothing for that time, or for an
    hour.

    It connects to public addresses alone, whatever the name of the host leads to, follows no redirect, keeps no cookie,
    does not read the body of the reply, and uses no proxy but the one that it is given.

    Args:
        url: `https://…`, which may have a query; or `http://` to this machine, if `allow_private` has its address.

        secret: `whsec_` and 24 to 64 random bytes in base64. Of several, each signs: give the old one beside the new
            one until the receiver has it.

        events: `ends`, which are told at least once; or `all` transitions, of which the others are told at most once.

        allow_private: Networks that are not public and may be connected to all the same, such as `10.20.0.0/16`.

        proxy: `http://host:3128`, perhaps with a user and a password: the one way to the receiver, which must be https.
            The proxy looks the host up. So it alone can keep a name from leading to an address that is not public.

        timeout: For one delivery; ten seconds at most, as a service waits no longer for a listener.

        at_once: How many deliveries are under way at once, in each event loop.

        ssl: Verifies the certificate of the receiver; by default, as the system does.

    Raises:
        ConfigurationError: An argument can't be used. No message repeats the URL or the secret.
    """

    def __init__(
        self,
        url: str | Secret,
        secret: str | Secret | Iterable[str | Secret],
        *,
        events: Literal["ends", "all"] = "ends",
        allow_private: Iterable[str] = (),
        proxy: str | Secret | None = None,
        timeout: timedelta = PATIENCE,
        at_once: int = AT_ONCE,
        ssl: SSLContext | None = None,
        clock: Clock = system_clock,
    ) -> None:
        url, secret = validation.address(url, "url"), _hidden(secret)
        proxy = None if proxy is None else proxy_address(proxy)
        self._allowed = networks(allow_private, "allow_private")
        self._url = self._endpoint(url)
        if proxy and self._url.scheme == "http":
            raise ConfigurationError("url must be https, as the proxy would read all else")
        self._keys = _keys(secret)
        _check(events=events, timeout=timeout, at_once=at_once)
        self._all = events == "all"
        self._now = in_utc(clock)
        self._quiet_until = 0.0
        self._sender = Sender(
            deadline=timeout,
            connect_deadline=timeout,
            ssl=ssl,
            headers={"User-Agent": "reset-flow"},
            content_type="application/json",
            read_bodies=False,
            connections=at_once,
            proxy=proxy,
            socket_factory=None if proxy else self._socket,  # with one, it is asked for the proxy's address
        )

    async def __call__(self, event: Event) -> None:
        """
        Send an event.

        Raises:
            WebhookNotDelivered: The receiver did not take it.
        """
        move = event.transition
        if not (move.target.ended or self._all):
            return
        if time.monotonic() < self._quiet_until:
            raise WebhookNotDelivered("the receiver wants nothing for now")
        data = _Data(
            event_id=event.id, flow_id=event.flow.id, ref=event.flow.ref, state=move.target, failure=move.reason
        )
        kind = "reset.ended" if move.target.ended else "reset.moved"
        body = msgspec.json.encode(_Payload(type=kind, timestamp=move.at, data=data))
        sent_at = str(int(self._now().timestamp()))
        headers = {
            "webhook-id": event.id,
            "webhook-timestamp": sent_at,
            "webhook-signature": " ".join(_signatures(self._keys, event.id, sent_at, body)),
        }
        result = await self._sender.send("POST", self._url, body, headers)
        if not isinstance(result, Reply):
            self._miss(event, result.detail)
        if result.status // 100 != 2:  # noqa: PLR2004 - as HTTP counts
            wait = GONE_FOR if result.status == GONE else result.retry_after
            if wait is not None:
                self._quiet_until = time.monotonic() + wait.total_seconds()
            self._miss(event, f"HTTP {result.status}")

    @staticmethod
    def _miss(event: Event, why: str) -> NoReturn:
        logger.warning("the webhook of event %s was not delivered: %s", event.id, why)
        raise WebhookNotDelivered(f"the receiver did not take it: {why}")

    def _endpoint(self, given: Secret) -> URL:
        before, mark, query = map(Secret, given.reveal().partition("?"))
        base = endpoint(before, "url")
        if not QUERY.fullmatch(query.reveal()):
            raise ConfigurationError("url must have no fragment, and no characters in its query that no URL has")
        url = URL(f"{URL(before.reveal())}{mark.reveal()}{query.reveal()}", encoded=True)  # a query may be signed
        literal = None
        with suppress(ValueError):
            literal = ip_address("127.0.0.1" if base.host == "localhost" else base.host or "")
        if literal and not self._may_reach(url, literal):
            raise ConfigurationError("url leads to no public address: name its network in allow_private")
        return url

    def _may_reach(self, url: URL, address: Address) -> bool:
        inner = carried(address)
        if url.scheme == "http" and not inner.is_loopback:
            return False
        return is_public(address) or any(inner in network for network in self._allowed)

    def _socket(self, address: AddrInfoType) -> socket.socket:
        """Make the socket for an address that a name was just resolved to, and no later look can change."""
        family, kind, protocol, _, where = address
        if not self._may_reach(self._url, ip_address(where[0])):
            logger.warning("the host of a webhook leads to %s, which is not public: see allow_private", where[0])
            raise PermissionError
        return socket.socket(family, kind, protocol)

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._sender.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _check(*, events: Any, timeout: Any, at_once: Any) -> None:
    """Raise ConfigurationError if a setting is none."""
    for name, fits, what in (
        ("events", events in ("ends", "all"), "ends or all"),
        ("timeout", isinstance(timeout, timedelta) and NO_TIME < timeout <= PATIENCE, f"a timedelta up to {PATIENCE}"),
        ("at_once", type(at_once) is int and at_once >= 1, "a whole number of at least 1"),
    ):
        if not fits:
            raise ConfigurationError(f"{name} must be {what}")


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | Secret | Iterable[str | Secret],
    *,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> WebhookEvent:
    """
    Return what a delivery tells, if it comes from somebody who has the secret, and was sent just now.

    The same event may come again: act once for each `WebhookEvent.id`, and acknowledge the others.

    Args:
        headers: Of the request, their names in any case.

        body: As it came, before anything parses it.

        secret: Of several, any may have signed.

        tolerance: How old a delivery may be, and how far ahead the clock of the sender.

    Raises:
        WebhookRejected: Anything about the delivery is wrong.
        ConfigurationError: The secret can't be one.
        InvalidInput: An argument is of another kind.
    """
    secret = _hidden(secret)
    keys = _keys(secret)
    if not isinstance(body, bytes | bytearray | memoryview):
        raise InvalidInput("body: give its bytes as they came, before anything parses them")
    moment = datetime.now(UTC) if now is None else now
    if moment.tzinfo is None:
        raise InvalidInput("now: it must have a zone, like datetime.now(UTC)")
    event_id, sent_at, given = (_header(headers, f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= TIMESTAMP_LENGTH):
        raise WebhookRejected("webhook-timestamp is no number of seconds")
    if abs(moment - datetime.fromtimestamp(int(sent_at), UTC)) > tolerance:
        raise WebhookRejected("it was sent too long ago, or the clocks differ")
    pairs = [(mine, yours) for mine in _signatures(keys, event_id, sent_at, body) for yours in given.split(" ")]
    if not any(hmac.compare_digest(mine.encode(), yours.encode()) for mine, yours in pairs):
        raise WebhookRejected("nobody who has the secret has signed this")
    with suppress(msgspec.MsgspecError, UnicodeError, OverflowError, RecursionError):
        payload = msgspec.json.decode(body, type=_Payload)
        data = payload.data
        if data.event_id == event_id:
            return WebhookEvent(
                id=event_id,
                type=payload.type,
                at=payload.timestamp.astimezone(UTC),
                flow_id=data.flow_id,
                ref=data.ref,
                state=data.state,
                failure=data.failure,
            )
    raise WebhookRejected("it is signed, and tells no event of a reset")


def _header(headers: Mapping[str, str], name: str) -> str:
    """Return the value of a header that came once. Raises WebhookRejected if it did not."""
    found: list[Any] = [value for each, value in headers.items() if each.lower() == name]
    if len(found) == 1 and isinstance(found[0], str) and found[0].isascii() and 0 < len(found[0]) <= HEADER_LENGTH:
        return found[0]
    raise WebhookRejected(f"it has no {name}, several, or one that can't be used")


def _hidden(given: Any) -> tuple[Secret, ...]:
    """Keep secrets out of logged tracebacks. They are not checked."""
    if isinstance(given, str | Secret) or not isinstance(given, Iterable):
        return (Secret(given),)
    return tuple([Secret(each) for each in given])


def _keys(secrets: tuple[Secret, ...]) -> list[hmac.HMAC]:
    """Return what signs by each secret. Raises ConfigurationError if one is none."""
    keys = [key for secret in secrets if (key := _key(secret))]
    if not 1 <= len(keys) == len(secrets) <= SECRETS_AT_MOST:
        raise ConfigurationError(
            "secret must be whsec_ and 24 to 64 random bytes in base64, or a list of up to four of them: make one with "
            "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return keys


def _key(secret: Secret) -> hmac.HMAC | None:
    """Return the beginning of every signature by a secret; `None` if it is none."""
    with suppress(ValueError, TypeError, AttributeError):
        text = secret.reveal().strip().removeprefix(PREFIX).rstrip("=")
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
        if SHORTEST_KEY <= len(key) <= LONGEST_KEY:
            return hmac.new(key, digestmod="sha256")
    return None


def _signatures(keys: Iterable[hmac.HMAC], event_id: str, sent_at: str, body: bytes) -> Iterator[str]:
    for key in keys:
        signing = key.copy()
        signing.update(f"{event_id}.{sent_at}.".encode() + body)
        yield f"{VERSION},{b64encode(signing.digest()).decode()}"

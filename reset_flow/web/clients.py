"""Who calls, and how often."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import msgspec

from reset_flow.domain import settings
from reset_flow.domain.errors import ConfigurationError, LimitReached, StaleRecord
from reset_flow.domain.policy import Budget

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from reset_flow.service import ResetService

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

UNIX = "unix"
"""As a trusted proxy: whoever calls over a Unix socket."""

RACES = 20
LONGEST_ADDRESS = 100


def _whole(least: int, most: int) -> Any:
    return settings.must_be(
        f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most
    )


_budget = settings.must_be("like Budget(60, timedelta(hours=1))", lambda value: isinstance(value, Budget))
_time = settings.must_be(
    "a timedelta longer than zero", lambda value: type(value) is timedelta and value > timedelta(0)
)


def _networks(given: Iterable[str]) -> tuple[Network | str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    try:
        return tuple(UNIX if text == UNIX else ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError:
        raise ConfigurationError(
            f"trusted_proxies: each must be an address, a network such as 10.0.0.0/8, or {UNIX}"
        ) from None


@attrs.frozen(kw_only=True)
class Limits:
    """
    What one client may do, and how long it may take. A client is an address, of IPv6 a network of 64 bits.

    Attributes:
        requests: Of one client to one worker.

        starts: Of one client, for any users, over all workers and restarts.

        body: Bytes of a request.

        slowness: How long a request may take to arrive.

        trusted_proxies: Addresses and networks whose `X-Forwarded-For` is believed; `unix`: those over a Unix socket.
    """

    requests: Budget = attrs.field(default=Budget(240, timedelta(minutes=1)), validator=_budget)
    starts: Budget = attrs.field(default=Budget(60, timedelta(hours=1)), validator=_budget)
    body: int = attrs.field(default=16 * 1024, validator=_whole(1024, 1024**2))
    slowness: timedelta = attrs.field(default=timedelta(seconds=10), validator=_time)
    trusted_proxies: tuple[Network | str, ...] = attrs.field(default=(), converter=_networks)

    def client_of(self, request: web.BaseRequest) -> str:
        """Return the name of the client that a request comes from."""
        address = _address(request.remote or "")  # of when it connected: it may be gone by now
        for forwarded in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
            if not self._trusts(address):
                break
            if (before := _address(forwarded.strip()[:LONGEST_ADDRESS])) is None:
                break
            address = before
        return _name(address)

    def _trusts(self, address: Address | None) -> bool:
        if address is None:
            return UNIX in self.trusted_proxies
        networks = (each for each in self.trusted_proxies if not isinstance(each, str))
        return any(address.version == network.version and address in network for network in networks)


@lru_cache(1024)  # to read an address of IPv6 takes longer than all else that is done for the limits
def _address(text: str) -> Address | None:
    """Return an address as proxies write it, with a port or without; `None` if it is none."""
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(1024)
def _name(address: Address | None) -> str:
    if address is None:
        return UNIX
    return str(address) if address.version == 4 else f"{ipaddress.IPv6Address(int(address) >> 64 << 64)}/64"  # noqa: PLR2004


class Clients:
    """Counts what clients do: requests in this worker's memory, starts in the store."""

    def __init__(self, service: ResetService, limits: Limits) -> None:
        self._starts = service.side("web client")
        self._limits = limits
        self._counts: Counter[str] = Counter()
        self._ends = 0.0

    def count_request(self, client: str) -> None:
        """Count a request. Raises LimitReached if the client has made too many."""
        now, budget = time.monotonic(), self._limits.requests
        if now >= self._ends:
            self._counts.clear()
            self._ends = now + budget.window.total_seconds()
        self._counts[client] += 1
        if self._counts[client] > budget.limit:
            raise LimitReached("requests", timedelta(seconds=self._ends - now))

    async def count_start(self, client: str) -> None:
        """
        Count a start. It counts too where nothing comes of it: whom it is for is not known yet.

        Raises:
            LimitReached: The client has started too many.
        """
        budget = self._limits.starts
        for _ in range(RACES):
            found = await self._starts.load(client)
            now = time.time()
            started, ends = msgspec.msgpack.decode(found.value) if found.value else (0, 0.0)
            window = budget.window.total_seconds()
            if not now < ends <= now + window:  # over, or of a clock that was ahead
                started, ends = 0, now + window
            left = timedelta(seconds=ends - now)
            if started >= budget.limit:
                raise LimitReached("starts", left)
            try:
                value = msgspec.msgpack.encode((started + 1, ends))
                await self._starts.save(client, value, revision=found.revision, lifetime=left)
            except StaleRecord:
                continue
            return
        raise LimitReached("starts", timedelta(seconds=1))  # so many at once are no people

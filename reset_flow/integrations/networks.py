"""
Which addresses are public. A URL that somebody else names must not lead into the network that this process stands in.

The tables are IANA's registries of special-purpose addresses. The standard library's `is_global` is of no help: it
follows them, and so differs between releases of Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, TypeAlias

from reset_flow.domain.errors import ConfigurationError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # of carriers; a cloud has its metadata there
            "127.0.0.0/8",
            "168.63.129.16/32",  # public by its number; a cloud has its metadata there
            "169.254.0.0/16",  # link-local; most clouds have their metadata there
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "2001::/23",  # of protocols; Teredo, which carries IPv4, is one
            "2001:db8::/32",
            "2002::/16",  # 6to4, which carries IPv4
            "3fff::/20",
        ),
    )
)
GLOBAL_UNICAST = IPv6Network("2000::/3")
CARRYING_IPV4 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Mapped addresses, and those by which a network without IPv4 reaches it (RFC 6052): the last 32 bits are one."""


def carried(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if any(address in network for network in CARRYING_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Return whether anybody on the internet reaches the same host by this address."""
    address = carried(address)
    if address.version == 6 and address not in GLOBAL_UNICAST:  # noqa: PLR2004 - as it is called
        return False
    return not any(address in network for network in NOT_PUBLIC)


def networks(given: Any, what: str) -> tuple[Network, ...]:
    """Return networks by their texts, such as `10.20.0.0/16`. Raises ConfigurationError if they are none."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        try:
            return tuple(map(ip_network, given))
        except (ValueError, TypeError):
            pass
    raise ConfigurationError(f"{what} must be a list of networks, such as ['10.20.0.0/16', '::1/128']")

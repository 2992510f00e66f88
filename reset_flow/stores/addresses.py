"""Options in addresses: each is honoured, ignored because that does no harm, or refused by its name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the value of an option must match.
TEXT = r"[^\0]+"
WHOLE = r"[0-9]{1,9}"
SECONDS = r"(?!0*\.?0*$)[0-9]{1,9}(\.[0-9]{0,9})?"
FLAG = r"(?i:true|false|yes|no|1|0|t|f|y|n)"

SHOWABLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")
UNQUOTED = re.compile(r"[^:/?#]+://([^/?#]*[/?].*@|[^/?#]*@[^/?#]*@|.*#)", re.DOTALL)
"""A part of a password would be taken for a host, a path or an option."""

PARTS = re.compile(
    r"[^:/?#]+://((?P<user>[^:/?#@]+)?(:(?P<password>[^/?#@]+))?@)?(?P<host>[^/?#@]+)?(/(?P<database>[^/?#]+))?"
)
OPTIONS_OF_PARTS = {
    "user": ("user", "username"), "password": ("password",), "host": ("host", "port"),
    "database": ("database", "dbname"),
}  # fmt: skip
"""Options that say the same as a part of the address; which of the two counts differs by driver."""

LOCAL = ("sqlite:", "unix:")
"""Addresses that are paths, which may hold anything but a question mark."""


def read_options(url: Secret, what: str, known: Mapping[str, str] | None) -> dict[str, Secret]:
    """
    Return the options in the query of a URL, checked by the patterns of their values; `None` takes all names.

    Raises:
        ConfigurationError: An option is unknown, has a value that can't be, or is given twice, be it once as a part of
            the address.
    """
    if UNQUOTED.match(url.reveal()) and not url.reveal().startswith(LOCAL):
        raise ConfigurationError(f"percent-encode / ? # and @ in the password, and # and @ in the options, of {what}")
    options: dict[str, Secret] = {}
    said = _said(url) if known else frozenset()
    for name, value in _parse(url):
        shown = name if SHOWABLE.fullmatch(name) else "one that has no name"
        pattern = TEXT if known is None else known.get(name)
        if pattern is None or shown != name:
            raise ConfigurationError(f"{what} has an option that can't be honoured: {shown}; take it out of the url")
        if not re.fullmatch(pattern, value.reveal()):
            raise ConfigurationError(f"the option {name} of {what} has a value that can't be honoured")
        if name in options:
            raise ConfigurationError(f"the option {name} of {what} is given twice")
        if name in said:
            raise ConfigurationError(
                f"{what} says in front of the ? what its option {name} says: leave one of them out"
            )
        options[name] = value
    return options


def _said(url: Secret) -> frozenset[str]:
    """Return the options that would say what a part of the address says."""
    found = None if url.reveal().startswith(LOCAL) else PARTS.match(url.reveal())
    return frozenset([name for part, names in OPTIONS_OF_PARTS.items() if found and found[part] for name in names])


def with_options(url: Secret, options: Mapping[str, Secret]) -> Secret:
    """Return the URL with these options in place of its own."""
    query = Secret(urlencode({name: value.reveal() for name, value in options.items()}, quote_via=quote))
    return Secret(url.reveal().partition("?")[0] + ("?" if options else "") + query.reveal())


def _parse(url: Secret) -> list[tuple[str, Secret]]:
    """Return names and values. This is a frame of its own, because secrets may be in it."""
    query = url.reveal().partition("?")[2]
    return [(name, Secret(value)) for name, value in parse_qsl(query, keep_blank_values=True)]

"""The address of a PostgreSQL database, with libpq's options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.stores.addresses import FLAG, TEXT, WHOLE, read_options, with_options

if TYPE_CHECKING:
    from reset_flow.domain.secret import Secret

WHAT = "the dsn of a PostgresStore"

HOSTS = re.compile(r"[^:]+://([^/?@]*@)?(?P<hosts>[^/?]*)")
LARGEST_PORT = 65535
"""The system takes a larger number for another one."""

HONOURED = {
    **dict.fromkeys(("host", "user", "password", "dbname", "database", "passfile", "service"), TEXT),
    **dict.fromkeys(("sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "krbsrvname"), TEXT),
    **dict.fromkeys(("application_name", "options", "search_path"), TEXT),
    **dict.fromkeys(("ssl_min_protocol_version", "ssl_max_protocol_version"), r"TLSv1(\.[123])?"),
    "port": r"[0-9]{1,5}(,[0-9]{1,5})*",
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "sslnegotiation": "postgres|direct",
    "gsslib": "gssapi|sspi",
    "connect_timeout": WHOLE,
    "target_session_attrs": "any|read-write|primary",
    "pgbouncer": FLAG,
}

# What they ask for is done in another way, is done anyway, or makes no difference to what is promised.
IGNORED = {
    **dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"), WHOLE),
    "keepalives": "0|1",
    "channel_binding": "disable|prefer|require",
    "gssencmode": "disable|prefer",
    "sslcompression": "0|1",
    "sslsni": "1",
    "client_encoding": "(?i:auto|utf-?8|unicode)",
    "fallback_application_name": TEXT,
    "load_balance_hosts": "disable",
}

OURS = ("connect_timeout", "target_session_attrs", "pgbouncer")


@attrs.frozen
class Address:
    """
    An address as the driver takes it.

    Attributes:
        connect_timeout: Seconds, if the address gives any.

        pooled: Whether it says that a pooler is in between.

        system_roots: Whether to trust the certificate authorities of the system, and verify the host's name.
    """

    dsn: Secret
    connect_timeout: int | None
    pooled: bool
    system_roots: bool

    @property
    def several_hosts(self) -> bool:
        """Return True if there is a choice of servers."""
        return "," in self.dsn.reveal()


def read_address(dsn: Secret) -> Address:
    """
    Return what an address says.

    Raises:
        ConfigurationError: It is none, or has an option that can't be honoured.
    """
    if not dsn.reveal().startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"{WHAT} begins with postgresql://")
    options = read_options(dsn, WHAT, HONOURED | IGNORED)
    _check_ports(dsn, options.get("port"))
    if {"dbname", "database"} <= options.keys():
        raise ConfigurationError(f"the options dbname and database of {WHAT} say the same: leave one of them out")
    given = {name: value.reveal() for name, value in options.items() if name in (*OURS, *IGNORED, "sslmode")}
    mode = given.get("sslmode")
    # libpq's name for the authorities of the system; it takes no weaker mode with it.
    system_roots = "sslrootcert" in options and options["sslrootcert"].reveal() == "system"
    if system_roots and mode not in (None, "verify-full"):
        raise ConfigurationError(f"the option sslrootcert=system of {WHAT} goes with sslmode=verify-full alone")
    if given.get("channel_binding") == "require" and mode != "verify-full" and not system_roots:
        raise ConfigurationError(
            f"the option channel_binding=require of {WHAT} can't be honoured: its driver binds no channels. To be sure "
            "of the server, use sslmode=verify-full instead, with sslrootcert (system: what the system trusts)"
        )
    dropped = {*OURS, *IGNORED} | ({"sslmode", "sslrootcert"} if system_roots else set())
    kept = {name: value for name, value in options.items() if name not in dropped}
    return Address(
        with_options(dsn, kept),
        int(given.get("connect_timeout", "0")) or None,
        given.get("pgbouncer", "false").lower() in ("true", "yes", "1", "t", "y"),
        system_roots,
    )


def _check_ports(dsn: Secret, option: Secret | None) -> None:
    found = HOSTS.match(dsn.reveal())
    ports = re.findall(r":([0-9]+)(?:,|$)", found["hosts"]) if found else []
    if any(int(port) > LARGEST_PORT for port in ports + (option.reveal().split(",") if option else [])):
        raise ConfigurationError(f"a port of {WHAT} is above {LARGEST_PORT}")

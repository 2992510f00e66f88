"""Makes a service of the environment: the composition root, and the only file that reads the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import reset_flow  # which imports a store, and with it a driver, when it is first asked for
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import Secret
from reset_flow.persistence.keyring import Keyring
from reset_flow.service import ResetService
from reset_flow.stores.addresses import read_options
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reset_flow.ports import Store

PREFIX = "RESET_FLOW_"
SETTINGS = frozenset({"APP_KEY", "BROKER_URL", "KEYS", "REALM", "REVISION", "STORE"})

STORES = {"memory": "a store in memory", "sqlite": "a SQLite store (a ? in its path is written %3F)"}

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")


def open_store(url: str | Secret) -> Store:
    """
    Return a store by its address: `memory:`, `sqlite:///flows.db` (relative), `sqlite:////var/lib/flows.db` (absolute),
    `postgresql://…` or `redis://…`. It opens itself at its first use.

    Raises:
        ConfigurationError: No store has such an address.
    """
    url = Secret(url)
    found = SCHEME.match(url.reveal())
    scheme = found.group(0).lower() if found else ""
    if scheme in ("memory", "sqlite"):
        read_options(url, f"the address of {STORES[scheme]}", {})
    if url.reveal() == "memory:":
        return reset_flow.MemoryStore()
    if scheme == "sqlite":
        if not url.reveal().startswith("sqlite:///") or url.reveal() == "sqlite:///":
            raise ConfigurationError("a SQLite address is sqlite:/// and a path, such as sqlite:///flows.db")
        return reset_flow.SQLiteStore(unquote(url.reveal().removeprefix("sqlite:///")))
    if scheme in ("postgres", "postgresql"):
        return reset_flow.PostgresStore(url)
    if scheme in ("redis", "rediss"):
        return reset_flow.RedisStore(url)
    raise ConfigurationError(
        f"no store is addressed by {scheme or 'no scheme'}: use memory:, sqlite:///, postgresql:// or redis://"
    )


def setting(name: str, default: str | None = None, overrides: Mapping[str, str | Secret] | None = None) -> str:
    """
    Return an override or, from the environment, `RESET_FLOW_` and the name or the content of the file in `…_FILE`.

    Raises:
        ConfigurationError: Both are set, neither is and there is no default, or the file can't be used.
    """
    overrides = _hidden(overrides)
    if name in overrides:
        return overrides[name].reveal()
    variable = PREFIX + name
    given, file = Secret(os.environ.get(variable, "")), os.environ.get(f"{variable}_FILE")
    if given and file:
        raise ConfigurationError(f"{variable} and {variable}_FILE are both set: leave one of them")
    if file:
        return _content(file, f"{variable}_FILE")
    if not given and default is None:
        raise ConfigurationError(f"{variable} is not set, nor is {variable}_FILE")
    return given.reveal() or default or ""


def _hidden(overrides: Mapping[str, str | Secret] | None) -> Mapping[str, Secret]:
    """Keep settings out of logged tracebacks."""
    return {name: Secret(value) for name, value in (overrides or {}).items()}


def _content(path: str, variable: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigurationError(f"{variable}: {path} is open to others: `chmod 600` it")
            return file.read(1 << 20).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
    raise ConfigurationError(f"{variable}: {path} can't be read: {why}")


def from_env(
    overrides: Mapping[str, str | Secret] | None = None, *, create_keys: bool = True, **options: Any
) -> ResetService:
    """
    Return a service as the environment describes it.

    It reads `RESET_FLOW_BROKER_URL`, `RESET_FLOW_APP_KEY`, `RESET_FLOW_REVISION` (default: identifiers),
    `RESET_FLOW_STORE` (sqlite:///reset-flow.db), `RESET_FLOW_KEYS` (the path of a key file: reset-flow.keys) and
    `RESET_FLOW_REALM` (default), each of which may be given as `…_FILE`, too.

    Args:
        overrides: By their names without `RESET_FLOW_`, settings that go before the environment.

        create_keys: Whether a key file that is missing is made.

        options: Passed on to `ResetService`.

    Raises:
        ConfigurationError: Something is missing or can't be; the message names the variable.
        KeyringError: The key file can't be used.
    """
    overrides = _hidden(overrides)
    if unknown := sorted(set(overrides) - SETTINGS):
        raise ConfigurationError(f"there is no setting {unknown[0]}: there are {', '.join(sorted(SETTINGS))}")
    revision = setting("REVISION", "identifiers", overrides)
    if revision not in ("identifiers", "password"):
        raise ConfigurationError(f"{PREFIX}REVISION is {revision!r}: it must be identifiers or password")
    transport = EtnaTransport(
        setting("BROKER_URL", overrides=overrides),
        setting("APP_KEY", overrides=overrides),
        revision="identifiers" if revision == "identifiers" else "password",
    )
    keys = setting("KEYS", "reset-flow.keys", overrides)
    return ResetService(
        transport,
        open_store(setting("STORE", "sqlite:///reset-flow.db", overrides)),
        Keyring.load_or_create(keys) if create_keys else Keyring.from_file(keys),
        realm=setting("REALM", "default", overrides),
        **options,
    )

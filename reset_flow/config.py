"""Makes a service of the environment: the composition root, and the only file that reads the environment."""

from __future__ import annotations

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass

import reset_flow  # which imports a store, and with it a driver, when it is first asked for
from reset_flow.domain.errors import ConfigurationError, KeyringError
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable
from reset_flow.persistence import key_record, secret_file
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.secret_file import OpenToOthersError
from reset_flow.service import ResetService
from reset_flow.stores.addresses import read_options
from reset_flow.tracebacks import forget_frames
from reset_flow.transports.etna import EtnaTransport
from reset_flow.transports.http import endpoint, proxy_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reset_flow.ports import Store

PREFIX = "RESET_FLOW_"
SETTINGS = frozenset(
    {
        "APP_KEY",
        "BROKER_ALIASES",
        "BROKER_NAME",
        "BROKER_URL",
        "KEYS",
        "PROXY",
        "REALM",
        "REVISION",
        "SHARED_FILES",
        "STORE",
    }
)
OF_ENVIRONMENT = "environment"
"""As `RESET_FLOW_PROXY`: the proxy that the environment names for all programs."""

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
        return _content(file, f"{variable}_FILE", shared=shared_files(overrides))
    if not given and default is None:
        raise ConfigurationError(f"{variable} is not set, nor is {variable}_FILE")
    return given.reveal() or default or ""


def _hidden(overrides: Mapping[str, str | Secret] | None) -> Mapping[str, Secret]:
    """Keep settings out of logged tracebacks."""
    return {name: Secret(value) for name, value in (overrides or {}).items()}


def shared_files(overrides: Mapping[str, str | Secret] | None = None) -> bool:
    """
    Return whether files with secrets may be read by others: `RESET_FLOW_SHARED_FILES`, which is refuse or accept.

    Raises:
        ConfigurationError: It is something else.
    """
    given = _hidden(overrides).get("SHARED_FILES", Secret(os.environ.get(f"{PREFIX}SHARED_FILES", ""))).reveal()
    if given not in ("", "refuse", "accept"):
        raise ConfigurationError(f"{PREFIX}SHARED_FILES is {printable(given)!r}: it must be refuse or accept")
    return given == "accept"


def _content(path: str, variable: str, *, shared: bool) -> str:
    try:
        with secret_file.opened(Path(path), shared=shared) as handle:
            return b"".join(secret_file.read(handle)).decode().strip()
    except OpenToOthersError as error:
        why = str(error)
    except (OSError, ValueError) as error:
        forget_frames(error)
        why = f"can't be read: {getattr(error, 'strerror', None) or 'it is no text'}"
    raise ConfigurationError(f"{variable}: {path} {why}")


def _check_unused(address: Secret, realm: str, path: Path) -> None:
    """Raise KeyringError if the store knows keys of the realm: new ones would find nothing of what is there."""

    async def ask() -> None:
        async with aclosing(open_store(address)) as store:
            await key_record.check_unused(store, realm, path)

    with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop
        try:
            thread.submit(lambda: asyncio.run(ask())).result()
        except KeyringError:
            if not os.path.exists(path):  # noqa: PTH110 # else another process has just made it, and used it
                raise


def _names(setting_name: str, overrides: Mapping[str, Secret]) -> list[str]:
    """Return the names in a setting, which are separated by spaces or commas."""
    return setting(setting_name, "", overrides).replace(",", " ").split()


def _proxy(given: Secret, url: Secret) -> Secret | None:
    """Return the proxy to this address: as given, or as the environment names it for all programs."""
    name, address = f"{PREFIX}PROXY", given
    if given.reveal() == OF_ENVIRONMENT:
        broker = endpoint(url)
        proxies = {scheme: Secret(value) for scheme, value in getproxies_environment().items()}
        name = f"{broker.scheme}_proxy" if broker.scheme in proxies else "all_proxy"
        bypassed = proxy_bypass(f"{broker.host}:{broker.port}")
        address = Secret("") if bypassed else proxies.get(name.removesuffix("_proxy"), Secret(""))
        if address and "://" not in address.reveal():
            address = Secret(f"http://{address.reveal()}")
    return proxy_address(address, name) if address else None


def from_env(
    overrides: Mapping[str, str | Secret] | None = None, *, create_keys: bool = True, **options: Any
) -> ResetService:
    """
    Return a service as the environment describes it.

    It reads `RESET_FLOW_BROKER_URL`, `RESET_FLOW_APP_KEY`, `RESET_FLOW_REVISION` (default: identifiers),
    `RESET_FLOW_BROKER_NAME` (`etna:` and the URL), `RESET_FLOW_BROKER_ALIASES` (none), `RESET_FLOW_PROXY` (none),
    `RESET_FLOW_STORE` (sqlite:///reset-flow.db), `RESET_FLOW_KEYS` (the path of a key file: reset-flow.keys) and
    `RESET_FLOW_REALM` (default), each of which may be given as `…_FILE`, too; and `RESET_FLOW_SHARED_FILES` (refuse),
    which says whether others may read such files.

    Args:
        overrides: By their names without `RESET_FLOW_`, settings that go before the environment.

        create_keys: Whether a key file that is missing is made. The store is asked before, which may take a while:
            keys of the realm that it knows are lost.

        options: Passed on to `ResetService`.

    Raises:
        ConfigurationError: Something is missing or can't be; the message names the variable.
        KeyringError: The key file can't be used, or is missing, and the store knows keys of the realm.
        StoreUnavailable: The key file is missing, and the store can't be asked.
    """
    overrides = _hidden(overrides)
    if unknown := sorted(set(overrides) - SETTINGS):
        raise ConfigurationError(f"there is no setting {unknown[0]}: there are {', '.join(sorted(SETTINGS))}")
    revision = setting("REVISION", "identifiers", overrides)
    if revision not in ("identifiers", "password"):
        raise ConfigurationError(f"{PREFIX}REVISION must be identifiers or password")
    names = _names("BROKER_NAME", overrides)
    if len(names) > 1:
        raise ConfigurationError(f"{PREFIX}BROKER_NAME must be one name, without spaces and commas")
    url = Secret(setting("BROKER_URL", overrides=overrides))
    transport = EtnaTransport(
        url,
        setting("APP_KEY", overrides=overrides),
        revision="identifiers" if revision == "identifiers" else "password",
        proxy=_proxy(Secret(setting("PROXY", "", overrides)), url),
        name=names[0] if names else None,
        aliases=_names("BROKER_ALIASES", overrides),
    )
    keys = setting("KEYS", "reset-flow.keys", overrides)
    shared, realm = shared_files(overrides), setting("REALM", "default", overrides)
    address = Secret(setting("STORE", "sqlite:///reset-flow.db", overrides))
    if create_keys and not os.path.exists(keys):  # noqa: PTH110 - never raises
        _check_unused(address, realm, Path(keys))
    return ResetService(
        transport,
        open_store(address),
        Keyring.load_or_create(keys, shared=shared) if create_keys else Keyring.from_file(keys, shared=shared),
        realm=realm,
        **options,
    )

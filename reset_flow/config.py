"""Makes a service of the environment: the composition root, and the only file that reads the environment."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass

import reset_flow  # which imports a store, and with it a driver, when it is first asked for
from reset_flow.domain import validation
from reset_flow.domain.capabilities import CodeFormat
from reset_flow.domain.errors import ConfigurationError, KeyringError
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import printable
from reset_flow.persistence import key_record, secret_file
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.secret_file import OpenToOthersError
from reset_flow.service import ResetService
from reset_flow.stores.addresses import TEXT, read_options
from reset_flow.tracebacks import forget_frames
from reset_flow.transports.etna import EtnaTransport
from reset_flow.transports.http import endpoint, proxy_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reset_flow.ports import Store, Transport

    Factory: TypeAlias = Callable[..., Transport]

PREFIX = "RESET_FLOW_"
SETTINGS = frozenset(
    {
        "APP_KEY",
        "BROKER_ALIASES",
        "BROKER_NAME",
        "BROKER_SECRET",
        "BROKER_URL",
        "KEYS",
        "PROXY",
        "REALM",
        "REVISION",
        "SHARED_FILES",
        "STORE",
    }
)
SECRETS = ("BROKER_SECRET", "APP_KEY")
"""The names of our own secret at the provider: for every provider, and for ETNA."""

OF_ETNA = ("APP_KEY", "REVISION")

OF_ENVIRONMENT = "environment"
"""As `RESET_FLOW_PROXY`: the proxy that the environment names for all programs."""

SQLITE = "sqlite:///"
STORES = {"memory": "a store in memory", "sqlite": "a SQLite store (a ? in its path is written %3F)"}

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
TRANSPORTS = "reset_flow.transports"
"""The group of entry points of other packages."""

CODES = {"letters": CodeFormat.letters(), "digits": CodeFormat.digits(), "link": CodeFormat.token()}


def sqlite_path(address: str) -> str:
    """Return the path in the address of a SQLite store."""
    return unquote(address.partition("?")[0].removeprefix(SQLITE))


def open_store(url: str | Secret) -> Store:
    """
    Return a store by its address: `memory:`, `sqlite:///flows.db` (relative), `sqlite:////var/lib/flows.db` (absolute),
    `postgresql://…` or `redis://…`. It opens itself at its first use.

    Raises:
        ConfigurationError: No store has such an address.
    """
    url = validation.address(url, "the address of the store")
    scheme = _scheme(url)
    if scheme in ("memory", "sqlite"):
        read_options(url, f"the address of {STORES[scheme]}", {})
    if url.reveal() == "memory:":
        return reset_flow.MemoryStore()
    if scheme == "sqlite":
        if not url.reveal().startswith(SQLITE) or url.reveal() == SQLITE:
            raise ConfigurationError("a SQLite address is sqlite:/// and a path, such as sqlite:///flows.db")
        return reset_flow.SQLiteStore(sqlite_path(url.reveal()))
    if scheme in ("postgres", "postgresql"):
        return reset_flow.PostgresStore(url)
    if scheme in ("redis", "rediss"):
        return reset_flow.RedisStore(url)
    raise ConfigurationError(
        f"no store is addressed by {scheme or 'no scheme'}: use memory:, sqlite:///, postgresql:// or redis://"
    )


def open_transport(url: str | Secret, secret: str | Secret | None = None, **options: Any) -> Transport:
    """
    Return a transport by the address of the provider.

    `https://host/api` is ETNA's, with the app key as the secret. `allauth+https://host/_allauth?code=letters` (or
    `digits`, or `link`) is a site with django-allauth. `cognito+https://host?client_id=…` is a user pool of Amazon
    Cognito, with the secret of the client if it has one. `http://` and `…+http://` lead to this machine only.

    Any other scheme is the name of an entry point in the group `reset_flow.transports`: `acme+https://host/api?x=1`
    calls the factory `acme("https://host/api", secret, x="1", **options)`, which returns a `Transport`.

    Args:
        secret: Our own at the provider.

        options: Arguments of the transport: `name`, `aliases`, `proxy` and others. A factory gets the secret and the
            proxy each as a `Secret`, if they are set.

    Raises:
        ConfigurationError: No transport has such an address, or such options.
    """
    url, secret = validation.address(url, "the address of the provider"), validation.hidden(secret)
    name, address = _provider(url)
    factory, known = OWN[name] if name in OWN else (_registered(name), None)
    given = read_options(address, "the address of the provider", known)
    if twice := sorted(given.keys() & options.keys()):
        raise ConfigurationError(f"the option {twice[0]} of the provider is given twice")
    address = Secret(address.reveal().partition("?")[0])
    if _scheme(address) != name:
        endpoint(address, "the address of the provider")
    options |= {each: text.reveal() for each, text in given.items()}
    if options.get("proxy"):
        options["proxy"] = Secret(options["proxy"])
    _check_options(factory, "", secret, **options)
    return factory(address.reveal(), secret, **options)


def _scheme(url: Secret) -> str:
    found = SCHEME.match(url.reveal())
    return found.group(0).lower() if found else ""


def _provider(url: Secret) -> tuple[str, Secret]:
    """Return the name of the provider and its own address: `acme` and `https://host` of `acme+https://host`."""
    scheme = _scheme(url)
    name, plus, _ = scheme.partition("+")
    if scheme in ("http", "https", ""):
        return "etna", url
    return name, Secret(url.reveal()[len(name) + 1 :]) if plus else url


def _registered(name: str) -> Factory:
    """Return what an installed package has registered under a name."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - most embedders need none

    registered = entry_points(group=TRANSPORTS)
    found = {each.value: each for each in registered if each.name.lower() == name}
    if not found:
        others = sorted({*OWN, *(each.name for each in registered)} - {"etna"})
        raise ConfigurationError(
            f"no provider is addressed by {name}: use https:// for ETNA, {'+https://, '.join(others)}+https://, or "
            f"install a package that registers {name} in {TRANSPORTS}"
        )
    if len(found) > 1:
        raise ConfigurationError(f"several packages register the provider {name}: {', '.join(sorted(found))}")
    (entry_point,) = found.values()
    try:
        factory: Factory = entry_point.load()
    except Exception as error:
        flaw = printable(str(error)) if isinstance(error, (ImportError, AttributeError)) else type(error).__name__
        raise ConfigurationError(f"the provider {name} can't be loaded: {flaw}") from error
    return factory


def _check_options(factory: Factory, *arguments: Any, **options: Any) -> None:
    """Raise ConfigurationError if a factory does not have one of the options, or wants another one."""
    try:
        inspect.signature(factory).bind(*arguments, **options)
    except TypeError as error:
        flaw = str(error)  # it has the names of options, and no values
    else:
        return
    raise ConfigurationError(f"no transport can be made of these options: {flaw}")


def _etna(url: str, app_key: Secret | None, **options: Any) -> Transport:
    app_key = app_key or Secret("")
    _check_options(EtnaTransport, url, app_key, **options)
    return EtnaTransport(url, app_key, **options)


def _allauth(url: str, secret: Secret | None, *, code: str | CodeFormat = "letters", **options: Any) -> Transport:
    if secret:
        raise ConfigurationError(f"a site with django-allauth knows no secret of ours: leave {PREFIX}BROKER_SECRET out")
    options["code"] = CODES.get(code, code) if isinstance(code, str) else code
    _check_options(reset_flow.AllauthTransport, url, **options)
    return reset_flow.AllauthTransport(url, **options)


def _cognito(url: str, client_secret: Secret | None, **options: Any) -> Transport:
    _check_options(reset_flow.CognitoTransport, url, client_secret=client_secret, **options)
    return reset_flow.CognitoTransport(url, client_secret=client_secret, **options)


OWN: Mapping[str, tuple[Factory, Mapping[str, str]]] = {
    "etna": (_etna, {}),
    "allauth": (_allauth, {"code": "|".join(CODES)}),
    "cognito": (_cognito, {"client_id": TEXT}),
}
"""Our own transports: the factory, as in an entry point, and the patterns of what may stand in the query."""


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
            return b"".join(secret_file.read(handle)).decode("utf-8-sig").strip()
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
        broker = endpoint(Secret(url.reveal().partition("?")[0]))
        proxies = {scheme: Secret(value) for scheme, value in getproxies_environment().items()}
        name = f"{broker.scheme}_proxy" if broker.scheme in proxies else "all_proxy"
        bypassed = proxy_bypass(f"{broker.host}:{broker.port}")
        address = Secret("") if bypassed else proxies.get(name.removesuffix("_proxy"), Secret(""))
        if address and "://" not in address.reveal():
            address = Secret(f"http://{address.reveal()}")
    return proxy_address(address, name) if address else None


def broker_secret(default: str | None = None, overrides: Mapping[str, str | Secret] | None = None) -> str:
    """
    Return our own secret at the provider: `RESET_FLOW_BROKER_SECRET` or, as it is called at ETNA, `RESET_FLOW_APP_KEY`.

    Raises:
        ConfigurationError: Both are set, or neither is and there is no default.
    """
    names = [name for name in SECRETS if name in (overrides or ())] or SECRETS
    given = [secret for name in names if (secret := Secret(setting(name, "", overrides)))]
    if len(given) > 1:
        raise ConfigurationError(f"{' and '.join(PREFIX + name for name in names)} are both set: leave one of them")
    return given[0].reveal() if given else setting(names[0], default, overrides)


def _transport(overrides: Mapping[str, Secret]) -> Transport:
    url = Secret(setting("BROKER_URL", overrides=overrides))
    provider, address = _provider(url)
    if provider not in OWN:
        _registered(provider)  # that there is none comes before what is wrong with its settings
    for name in () if provider == "etna" else OF_ETNA:
        if setting(name, "", overrides):
            raise ConfigurationError(f"{PREFIX}{name} is a setting for ETNA: leave it out for {provider}")
    options: dict[str, Any] = {
        "revision": setting("REVISION", "", overrides),
        "name": _names("BROKER_NAME", overrides),
        "aliases": _names("BROKER_ALIASES", overrides),
        "proxy": _proxy(Secret(setting("PROXY", "", overrides)), address),
    }
    if options["revision"] not in ("", "identifiers", "password"):
        raise ConfigurationError(f"{PREFIX}REVISION must be identifiers or password")
    if len(options["name"]) > 1:
        raise ConfigurationError(f"{PREFIX}BROKER_NAME must be one name, without spaces and commas")
    options["name"] = "".join(options["name"])
    secret = Secret(broker_secret(None if provider == "etna" else "", overrides))
    return open_transport(url, secret or None, **{name: value for name, value in options.items() if value})


def from_env(
    overrides: Mapping[str, str | Secret] | None = None, *, create_keys: bool = True, **options: Any
) -> ResetService:
    """
    Return a service as the environment describes it.

    It reads `RESET_FLOW_BROKER_URL` (as `open_transport` takes it), `RESET_FLOW_BROKER_SECRET` (for ETNA, the app key,
    also `RESET_FLOW_APP_KEY`), `RESET_FLOW_REVISION` (of ETNA's API: identifiers), `RESET_FLOW_BROKER_NAME` (made of
    the URL), `RESET_FLOW_BROKER_ALIASES` (none), `RESET_FLOW_PROXY` (none),
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
        InvalidInput: The realm can't be one.
        KeyringError: The key file can't be used, or is missing, and the store knows keys of the realm.
        StoreUnavailable: The key file is missing, and the store can't be asked.
    """
    overrides = _hidden(overrides)
    if unknown := sorted(set(overrides) - SETTINGS):
        raise ConfigurationError(f"there is no setting {unknown[0]}: there are {', '.join(sorted(SETTINGS))}")
    transport = _transport(overrides)
    keys = setting("KEYS", "reset-flow.keys", overrides)
    shared, realm = shared_files(overrides), validation.name(setting("REALM", "default", overrides), "realm")
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

"""What one command works with: made of the environment and the options, on an event loop of its own."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from reset_flow import Keyring
from reset_flow.admin import Admin
from reset_flow.config import SQLITE, from_env, open_store, setting, shared_files, sqlite_path
from reset_flow.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from reset_flow.domain.flow import Flow
    from reset_flow.service import ResetService

__all__ = ["AdminSession", "CliSession", "Settings"]

T = TypeVar("T")
Input = TypeVar("Input")
PREFIX = "RESET_FLOW_"
PASSWORD = re.compile(r"://[^@]*:[^@]*@|passw(or)?d=", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Settings:
    """
    The settings of a command: its options, then the environment.

    Attributes:
        options: By the name of the setting that each overrides: `STORE` and so on.
    """

    options: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def overrides(self) -> Mapping[str, str]:
        """
        The options, checked.

        Raises:
            ConfigurationError: An address with a password came as an argument, where all users of the machine see it.
        """
        for name, value in self.options.items():
            if _has_password(value):
                raise ConfigurationError(f"an address with a password is no argument: put it into {PREFIX}{name}")
        return self.options

    def get(self, name: str, default: str) -> str:
        """Return the value of one setting."""
        return setting(name, default, self.overrides)

    @property
    def keys(self) -> str:
        """The path of the key file."""
        return self.get("KEYS", "reset-flow.keys")

    @property
    def realm(self) -> str:
        """The realm of the flows."""
        return self.get("REALM", "default")

    @property
    def store(self) -> str:
        """
        The address of the store.

        Raises:
            ConfigurationError: It would forget everything when the command ends.
        """
        address = self.get("STORE", f"{SQLITE}reset-flow.db")
        if address == "memory:":
            raise ConfigurationError("memory: forgets each flow when the command ends: use sqlite:/// and a path")
        return address


def _has_password(value: str) -> bool:
    """Return True if an address may hold a password; one that is not percent-encoded is none to a parser of URLs."""
    return not value.startswith(SQLITE) and PASSWORD.search(value) is not None


def _check_exists(address: str) -> None:
    """
    Return if the store is there already: a new one would say that it has no flows, and needs no keys.

    Raises:
        ConfigurationError: It is not.
    """
    path = Path(sqlite_path(address))
    if address.startswith(SQLITE) and not path.exists():
        raise ConfigurationError(f"there is no database at {path}: check {PREFIX}STORE")


class CliSession:
    """
    A service and its event loop, while the `with` lasts.

    Coroutines run one by one, so that a person can be asked between two of them: a prompt inside a running loop can't
    be interrupted. At the end and at Ctrl-C, the session waits for calls that are under way.

    Args:
        create: Whether the database and the key file are made where they are missing.
    """

    def __init__(self, settings: Settings, *, create: bool = False) -> None:
        self._overrides = {**settings.overrides, "STORE": settings.store}
        self._create = create

    def __enter__(self) -> Self:
        self.service: ResetService = from_env(self._overrides, create_keys=self._create, sweep=False)
        if not self._create:
            _check_exists(self._overrides["STORE"])
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self.service.aclose())
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        return self._runner.run(work)

    def step(
        self,
        flow_id: str,
        command: str,
        ask: Callable[[Flow], Input],
        send: Callable[[Input | None], Coroutine[Any, Any, Flow]],
    ) -> Flow:
        """
        Run a command that a person gives something with, and return the flow after it.

        Where the command can't come, nobody is asked: `send` gets `None`, for the service to say why. What a dead
        process left is settled only by the command, which may come then.
        """
        flow = self.run(self.service.get(flow_id))
        may_come = command in flow.allowed or bool((flow.in_doubt or flow.busy_until) and not flow.ended)
        return self.run(send(ask(flow) if may_come else None))


class AdminSession:
    """
    An `Admin` for each realm and their event loop, while the `with` lasts: no broker is needed.

    Args:
        keyring, realms: Those of the settings unless given.
    """

    def __init__(self, settings: Settings, keyring: Keyring | None = None, realms: Sequence[str] | None = None) -> None:
        self._settings = settings
        self._keyring = keyring
        self._realms = realms

    def __enter__(self) -> Self:
        settings, address = self._settings, self._settings.store
        keyring = self._keyring or Keyring.from_file(settings.keys, shared=shared_files())
        _check_exists(address)
        store = open_store(address)
        realms = dict.fromkeys(self._realms or [settings.realm])
        self.admins = [Admin(store, keyring, realm=realm) for realm in realms]
        self.admin = self.admins[0]
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self.admin.aclose())
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        return self._runner.run(work)

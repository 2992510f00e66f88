"""The service of one command: made of the environment and the options, on an event loop of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import attrs

from reset_flow.config import from_env, setting
from reset_flow.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from reset_flow.domain.flow import Flow
    from reset_flow.service import ResetService

__all__ = ["CliSession", "Place"]

T = TypeVar("T")
Step = TypeVar("Step")
PREFIX = "RESET_FLOW_"


@attrs.frozen(kw_only=True)
class Place:
    """
    What the options say of where flows, keys and the broker are.

    Attributes:
        options: By the name of the setting that each goes before: `STORE` and so on.
    """

    options: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def overrides(self) -> Mapping[str, str]:
        """
        What goes before the environment.

        Raises:
            ConfigurationError: An address with a password came as an argument, where all users of the machine see it.
        """
        for name, value in self.options.items():
            if _password_in(value):
                raise ConfigurationError(f"an address with a password is no argument: put it into {PREFIX}{name}")
        return self.options

    def setting(self, name: str, default: str) -> str:
        """What holds of one setting."""
        return setting(name, default, self.overrides)

    @property
    def store(self) -> str:
        """
        The address of the store.

        Raises:
            ConfigurationError: It would forget everything when the command ends.
        """
        address = self.setting("STORE", "sqlite:///reset-flow.db")
        if address == "memory:":
            raise ConfigurationError("memory: forgets each flow when the command ends: use sqlite:/// and a path")
        return address


def _password_in(value: str) -> bool:
    try:
        return urlsplit(value).password is not None
    except ValueError:
        return False


class CliSession:
    """
    A service and its event loop, while the `with` lasts.

    Coroutines run one by one, so that a person can be asked between two of them: whoever waits for a key inside a
    running loop can't be interrupted. What is under way at the end, or at Ctrl-C, is waited for.
    """

    def __init__(self, place: Place, *, create_keys: bool = False) -> None:
        self._overrides = {**place.overrides, "STORE": place.store}
        self._create_keys = create_keys

    def __enter__(self) -> Self:
        self.service: ResetService = from_env(self._overrides, create_keys=self._create_keys, sweep=False)
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self.service.aclose())
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of it."""
        return self._runner.run(work)

    def step(
        self,
        flow_id: str,
        command: str,
        ask: Callable[[Flow], Step],
        send: Callable[[Step | None], Coroutine[Any, Any, Flow]],
    ) -> Flow:
        """
        The flow after a command that a person gives something with.

        Where the command can't come, nobody is asked: `send` gets `None`, for the service to say why. But what a dead
        process left in doubt is settled only by the command, which may come then.
        """
        flow = self.run(self.service.get(flow_id))
        may_come = command in flow.allowed or (flow.in_doubt is not None and not flow.ended)
        return self.run(send(ask(flow) if may_come else None))

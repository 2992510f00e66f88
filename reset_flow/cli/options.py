"""The options that commands share, written once."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from reset_flow.cli.session import Settings
from reset_flow.domain.flow import Credential

__all__ = ["PANEL", "Credentials", "FlowId", "Json", "Ref", "Tags", "User", "with_settings"]

PANEL = "Settings (instead of the environment's)"

FlowId = Annotated[str, typer.Argument(metavar="ID", help="The flow, by the id that `start` printed.")]
User = Annotated[str, typer.Argument(metavar="USER", help="Login or e-mail address, as the broker takes it.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead.")]
Ref = Annotated[
    str | None, typer.Option("--ref", help="Your own name of this reset: the same one again gives the same flow.")
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="A name under which `list --tag` finds the flow; may come repeatedly.")
]
Credentials = Annotated[Credential, typer.Option("--credential", case_sensitive=False, help="What to reset.")]

SETTINGS = {
    "broker_url": typer.Option("--broker-url", metavar="URL", rich_help_panel=PANEL, help="RESET_FLOW_BROKER_URL"),
    "broker_name": typer.Option(
        "--broker-name", metavar="NAME", rich_help_panel=PANEL, help="RESET_FLOW_BROKER_NAME: flows are bound to it"
    ),
    "broker_aliases": typer.Option(
        "--broker-aliases", metavar="NAMES", rich_help_panel=PANEL, help="RESET_FLOW_BROKER_ALIASES: its other names"
    ),
    "proxy": typer.Option(
        "--proxy", metavar="ADDRESS", rich_help_panel=PANEL, help="RESET_FLOW_PROXY: an address, or environment"
    ),
    "store": typer.Option("--store", metavar="ADDRESS", rich_help_panel=PANEL, help="RESET_FLOW_STORE"),
    "keys": typer.Option("--keys", metavar="PATH", rich_help_panel=PANEL, help="RESET_FLOW_KEYS"),
    "realm": typer.Option("--realm", metavar="NAME", rich_help_panel=PANEL, help="RESET_FLOW_REALM"),
    "revision": typer.Option(
        "--revision", metavar="NAME", rich_help_panel=PANEL, help="RESET_FLOW_REVISION: identifiers or password"
    ),
}


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options for these settings (all unless named), which it gets as one argument, `settings`."""
    chosen = names or tuple(SETTINGS)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            options = {name: given.pop(name) for name in chosen}
            set_ones = {name.upper(): value for name, value in options.items() if value is not None}
            command(settings=Settings(options=set_ones), **given)

        parameters = list(_parameters(command, chosen))
        signature = inspect.Signature(parameters)
        wrapper.__signature__ = signature  # type: ignore[attr-defined] # typer reads the options from it
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapper

    return decorate


def _parameters(command: Callable[..., None], chosen: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "settings":
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for name in chosen:
        annotation = Annotated[str | None, SETTINGS[name]]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

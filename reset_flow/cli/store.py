"""The commands on a store as a whole: they need neither broker nor keys."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from reset_flow.admin import backup, restore
from reset_flow.cli import prompts
from reset_flow.cli.options import Json, with_settings
from reset_flow.cli.screen import say, say_json
from reset_flow.cli.session import Settings
from reset_flow.config import open_store

__all__ = ["store_app"]

store_app = typer.Typer(help="The store as a whole: copies of a SQLite file, and back.", no_args_is_help=False)


@store_app.command("backup")
@with_settings("store")
def back_up(
    *,
    settings: Settings,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that does not exist yet.")],
    as_json: Json = False,
) -> None:
    """Copy a SQLite store to a new file. Workers may go on meanwhile."""
    _run(backup, settings, file)
    if as_json:
        say_json({"path": str(file)})
    else:
        say(f"{file} holds a copy of the store: it can be read with the keys alone, so keep a copy of those elsewhere")


@store_app.command("restore")
@with_settings("store")
def restore_store(
    *,
    settings: Settings,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `store backup` made.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Replace all that is in a SQLite store by a backup. End the workers before."""
    if not yes:
        prompts.confirm("Replace all that is in the store, of every realm, by this backup?")
    _run(restore, settings, file)
    if as_json:
        say_json({"path": str(file)})
    else:
        say(f"the store holds what {file} does: what people did since is unknown to it, see docs/backup.md")


def _run(copy: Callable[..., Awaitable[None]], settings: Settings, file: Path) -> None:
    async def run() -> None:
        store = open_store(settings.store)
        try:
            await copy(store, file)
        finally:
            await store.aclose()

    asyncio.run(run())

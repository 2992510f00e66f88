"""Runs a command, and turns whatever comes of it into an exit status and at most one line on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from reset_flow.cli import exits
from reset_flow.cli.app import app
from reset_flow.cli.demo import DemoFailed
from reset_flow.cli.prompts import NoSecret
from reset_flow.cli.screen import ReaderGone, complain, hush, lenient
from reset_flow.domain.errors import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

NAME = "reset-flow"


def _usage_error() -> type[Exception]:
    """What every complaint about arguments is made of; releases of typer keep it in different places."""
    found: type[Exception] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
    return found


UsageError = _usage_error()


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status of one command line, the process's own unless given."""
    lenient()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _called(arguments or ["--help"])
    except (ResetFlowError, NoSecret, DemoFailed, UsageError) as error:
        status, line = _told(error)
        complain(line)
        return status
    except ReaderGone:
        hush()
        return exits.BROKEN_PIPE
    except OSError as error:
        hush()
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        complain(f"{where}{error.strerror or type(error).__name__}: check its path, its rights and the space left")
        return exits.SYSTEM
    if status == exits.INTERRUPTED:
        complain("interrupted, and nothing is lost: `reset-flow list` says where the flows stand")
    return status if arguments else exits.USAGE


def _told(error: Any) -> tuple[int, str]:
    match error:
        case ResetFlowError():
            return exits.status_of(error), exits.line_of(error)
        case NoSecret():
            return exits.NO_SECRET, str(error)
        case DemoFailed():
            return exits.DEMO_FAILED, f"the demo failed: {error}"
        case _:
            context = getattr(error, "ctx", None)
            name = context.command_path if context else NAME
            return exits.USAGE, f"{error.format_message()} (see `{name} --help`)"


def _called(arguments: list[str]) -> int:
    try:
        status: Any = app(arguments, prog_name=NAME, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except SystemExit:
        raise ReaderGone from None  # with standalone_mode off, that alone is left to make typer and rich exit
    return status if isinstance(status, int) else 0

"""Runs a command, and turns its result into an exit status and at most one line on stderr."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from reset_flow.cli import exits
from reset_flow.cli.app import app
from reset_flow.cli.demo import DemoFailed
from reset_flow.cli.prompts import NoSecret, NotConfirmed
from reset_flow.cli.screen import ReaderGone, complain, hush, lenient
from reset_flow.config import setting
from reset_flow.domain.errors import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["run"]

NAME = "reset-flow"


def _usage_error() -> type[Exception]:
    """Return the class of all errors about arguments; releases of typer keep it in different places."""
    found: type[Exception] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
    return found


UsageError = _usage_error()
VALUE_FREE = ("MissingParameter", "BadOptionUsage")
"""Errors whose own words name a parameter of ours, and nothing that was typed."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, the process's own unless given, and return its exit status."""
    lenient()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _audit_log():
            status = _called(arguments or ["--help"])
    except (ResetFlowError, NoSecret, NotConfirmed, DemoFailed, UsageError) as error:
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


@contextmanager
def _audit_log() -> Iterator[None]:
    """Append the audit log to the file that RESET_FLOW_AUDIT_LOG names, if it names one."""
    path = setting("AUDIT_LOG", "")
    if not path:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    audit = logging.getLogger("reset_flow.audit")
    before = audit.level
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    try:
        yield
    finally:
        audit.setLevel(before)
        audit.removeHandler(handler)
        handler.close()


def _told(error: Any) -> tuple[int, str]:
    match error:
        case ResetFlowError():
            return exits.status_of(error), exits.line_of(error)
        case NoSecret():
            return exits.NO_SECRET, str(error)
        case NotConfirmed():
            return exits.USAGE, str(error)
        case DemoFailed():
            return exits.DEMO_FAILED, f"the demo failed: {error}"
        case _:
            context = getattr(error, "ctx", None)
            name = context.command_path if context else NAME
            return exits.USAGE, f"{_what_is_wrong(error, context)} (see `{name} --help`)"


def _what_is_wrong(error: Any, context: Any) -> str:
    """Say what is wrong with the arguments without repeating any: a password may be among them, and lands in logs."""
    kind = type(error).__name__
    if kind in VALUE_FREE:
        said: str = error.format_message()
        return said
    if kind == "NoSuchOption":
        similar = " or ".join(sorted(error.possibilities or ()))
        return "there is no such option" + (f"; there is {similar}" if similar else "")
    if parameter := getattr(error, "param", None):
        option = parameter.opts[0]
        name = option if option.startswith("-") else parameter.human_readable_name
        return f"the value of {name} can't be used"
    if hasattr(context and context.command, "commands"):
        return "there is no such command, or none was given"
    return "there are too many arguments: a secret is none, it is asked for or read from standard input"


def _called(arguments: list[str]) -> int:
    try:
        status: Any = app(arguments, prog_name=NAME, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except SystemExit:
        raise ReaderGone from None  # with standalone_mode off, that alone is left to make typer and rich exit
    return status if isinstance(status, int) else 0

"""Output: rich at a terminal, plain on a pipe, and nothing from a broker that could steer a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from reset_flow.domain.text import duration, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

__all__ = [
    "ReaderGone",
    "at_terminal",
    "clock_time",
    "complain",
    "console",
    "counting",
    "hush",
    "lenient",
    "say",
    "say_json",
    "span",
]

MINUTE, HOUR, DAY = 60, 3600, 86400
TWICE = 2


class ReaderGone(Exception):
    """The reader of the output has closed it."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise ReaderGone


def console() -> Console:
    """Return standard output as it is now; nothing that is printed to it is markup."""
    return _Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def lenient() -> None:
    """Let no character that the locale lacks be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print one or more plain lines on standard output."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def say_json(document: Any) -> None:
    """Print one line of JSON, in ASCII."""
    say(json.dumps(document))


def complain(text: str) -> None:
    """Print one line on standard error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, none: nobody is left to tell
        sys.stderr.write(f"reset-flow: {one_line(text)}\n")
        sys.stderr.flush()


def at_terminal(stream: TextIO | None) -> bool:
    """Return True if a person is at this stream."""
    return stream is not None and not stream.closed and stream.isatty()


@contextlib.contextmanager
def counting(done: str) -> Iterator[Callable[[int], None]]:
    """Show how many records are done, while the `with` lasts: on standard error, if that is a terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn(f"{{task.completed:,.0f}} records {done}"),
        console=Console(stderr=True),
        transient=True,
        disable=not at_terminal(sys.stderr),
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda records: progress.advance(task, records)


def hush() -> None:
    """Send what is still in the buffer of standard output nowhere, so that the interpreter's last flush succeeds."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def span(length: timedelta) -> str:
    """Return a length of time, in the largest unit of which it has two: `45 s`, `12 min`, `3 h`, `4 d`."""
    seconds = math.ceil(length.total_seconds())
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= TWICE * size:
            return f"{seconds // size} {unit}"
    return duration(length)


def clock_time(at: datetime, now: datetime | None = None) -> str:
    """Return a time as a clock on the wall here shows it, with its day unless that is today."""
    here, today = at.astimezone(), (now or datetime.now(UTC)).astimezone().date()
    return f"{here:%H:%M:%S}" if here.date() == today else f"{here:%Y-%m-%d %H:%M:%S}"

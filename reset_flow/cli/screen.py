"""What is written where: rich on a terminal, plain on a pipe, and nothing of a broker's that could steer a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["ReaderGone", "clock_time", "complain", "console", "hush", "lenient", "one_line", "say", "say_json", "span"]

MINUTE, HOUR, DAY = 60, 3600, 86400
TWICE = 2


class ReaderGone(Exception):
    """Whoever read the output has closed it."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise ReaderGone


def console() -> Console:
    """Standard output as it is now; nothing that is printed to it is markup."""
    return _Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def lenient() -> None:
    """Let no character that the locale lacks be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """One or more plain lines on standard output."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def say_json(document: Any) -> None:
    """One line of JSON, in ASCII."""
    say(json.dumps(document))


def complain(text: str) -> None:
    """One line on standard error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, none: nobody is left to tell
        sys.stderr.write(f"reset-flow: {one_line(text)}\n")
        sys.stderr.flush()


def hush() -> None:
    """Send what is still in the buffer of standard output nowhere, so that the interpreter's last flush succeeds."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def one_line(text: str) -> str:
    """The same words in one line, without control characters."""
    return " ".join("".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text).split())


def span(length: timedelta) -> str:
    """A length of time, in the largest unit of which it has two: `45 s`, `12 min`, `3 h`, `4 d`."""
    seconds = max(0, round(length.total_seconds()))
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= TWICE * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def clock_time(at: datetime, now: datetime | None = None) -> str:
    """A time as a clock on the wall here shows it, with its day unless that is today."""
    here, today = at.astimezone(), (now or datetime.now(UTC)).astimezone().date()
    return f"{here:%H:%M:%S}" if here.date() == today else f"{here:%Y-%m-%d %H:%M:%S}"

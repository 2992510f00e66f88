"""Secrets, from a person without an echo or as one line from standard input. They are never arguments."""

from __future__ import annotations

import getpass
import sys
import warnings

from reset_flow.cli.screen import complain, one_line
from reset_flow.domain.secret import Secret

__all__ = ["NoSecret", "ask", "ask_twice"]

LONGEST = 64 * 1024
"""Bytes of a line; whatever is a secret is far shorter."""

TRIES = 3


class NoSecret(Exception):
    """There is no way to get at a secret; the message says what to do."""


def ask(prompt: str) -> Secret:
    """
    What the person types, or the next line of standard input: its line end is left out, all else is kept.

    Raises:
        NoSecret: There is none, or it is no text.
    """
    return _typed(prompt) if _at_terminal() else _line()


def ask_twice(prompt: str) -> Secret:
    """The same, typed twice by a person, because nobody sees a slip of the fingers; a pipe gives it once."""
    if not _at_terminal():
        return _line()
    for _ in range(TRIES):
        first = _typed(prompt)
        if first == _typed("The same again"):
            return first
        complain("the two differ: type it again")
    raise NoSecret("the two differed three times: start the command again")


def _at_terminal() -> bool:
    if sys.stdin is None or sys.stdin.closed:
        raise NoSecret("standard input is closed: run the command at a terminal, or pipe the secret in")
    return sys.stdin.isatty()


def _typed(prompt: str) -> Secret:
    trouble = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return Secret(getpass.getpass(f"{one_line(prompt)}: "))
    except EOFError:
        trouble = "nothing was typed: start the command again"
    except UnicodeDecodeError:
        trouble = "what was typed is no text in this terminal's encoding: set LANG to what the terminal sends"
    except getpass.GetPassWarning:
        trouble = "the echo of this terminal can't be switched off: pipe the secret in"
    raise NoSecret(trouble)  # outside the blocks: the errors above may hold what was typed


def _line() -> Secret:
    line = sys.stdin.buffer.readline(LONGEST + 1)
    if not line:
        raise NoSecret("standard input has ended: it must have a line for each secret")
    if len(line) > LONGEST:
        raise NoSecret("the line on standard input is too long for a secret: give it the secret alone")
    text = line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line
    try:
        return Secret(text.decode())
    except UnicodeDecodeError:
        pass
    raise NoSecret("standard input is not UTF-8: write the secret in UTF-8")

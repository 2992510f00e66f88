"""Input: secrets, from a person without an echo or as one line of standard input, never as arguments; and a yes."""

from __future__ import annotations

import getpass
import sys
import warnings
from contextlib import suppress

from reset_flow.cli.screen import at_terminal, complain
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import one_line

__all__ = ["NoSecret", "NotConfirmed", "ask", "ask_twice", "confirm"]

LONGEST = 64 * 1024
"""Bytes of a line; every secret is far shorter."""

TRIES = 3


class NoSecret(Exception):
    """A secret can't be read; the message says what to do."""


class NotConfirmed(Exception):
    """A person did not say yes."""


def ask(prompt: str) -> Secret:
    """
    Return what the person types, or the next line of standard input: its line end and a byte order mark are left out,
    all else is kept.

    Raises:
        NoSecret: There is none, or it is no text.
    """
    return _typed(prompt) if _at_terminal() else _line()


def ask_twice(prompt: str) -> Secret:
    """Do as `ask`, but let a person type it twice, because nobody sees a slip of the fingers; a pipe gives it once."""
    if not _at_terminal():
        return _line()
    for _ in range(TRIES):
        first = _typed(prompt)
        if first == _typed("The same again"):
            return first
        complain("the two differ: type it again")
    raise NoSecret("the two differed three times: start the command again")


def confirm(question: str) -> None:
    """
    Return once a person has said yes.

    Raises:
        NotConfirmed: They did not, or nobody is at a terminal.
    """
    if at_terminal(sys.stdin):
        sys.stderr.write(f"{one_line(question)} [y/N] ")
        sys.stderr.flush()
        with suppress(UnicodeDecodeError):
            if sys.stdin.readline().strip().lower() in ("y", "yes"):
                return
    raise NotConfirmed("it was not confirmed, and nothing was done: answer y at a terminal, or give --yes")


def _at_terminal() -> bool:
    if sys.stdin is None or sys.stdin.closed:
        raise NoSecret("standard input is closed: run the command at a terminal, or pipe the secret in")
    return at_terminal(sys.stdin)


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
        return Secret(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    raise NoSecret("standard input is not UTF-8: write the secret in UTF-8")

"""Text from outside, made plain and fit to print."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import timedelta

REASON_LENGTH = 200

MIN_REPEATED = 4
"""Characters. Anything shorter may stand in any sentence."""


def plain(text: Any) -> Any:
    """Return the plain `str` of a text of any subclass, which encoders refuse; anything else as it is."""
    return str.__str__(text) if isinstance(text, str) else text


def canonical(text: str) -> str:
    """Return the form in which passwords, names and tags are compared: NFKC, case-folded."""
    if text.isascii():
        return text.lower()  # same result
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # folding can decompose


def repeats(text: str, *hidden: str) -> bool:
    """Return whether a text repeats one of these, in any spelling. Those of fewer than four characters do not count."""
    spaced, joined = canonical(one_line(text)), canonical(text)
    long = [each for each in hidden if len(each) >= MIN_REPEATED]
    return any(canonical(each) in joined or canonical(one_line(each)) in spaced for each in long)


def one_line(text: str) -> str:
    """Return the text with one space for each run of spaces, control characters and unassigned characters."""
    if not text.isprintable():  # which it is if it has nothing of that but plain spaces
        text = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return " ".join(text.split())


def text_of(given: object) -> str:
    """Return a text as it is, and the name of its type for anything else."""
    return given if isinstance(given, str) else type(given).__name__


def printable(given: object) -> str:
    """Make a text from outside fit for people and logs: one line, no control characters, at most 200 characters."""
    return one_line(text_of(given)[: 2 * REASON_LENGTH])[:REASON_LENGTH]


def duration(length: timedelta) -> str:
    """Return a waiting time in whole seconds, rounded up: who waits that long has waited long enough."""
    return f"{max(0, math.ceil(length.total_seconds()))} s"

"""Text from outside, made plain and fit to print."""

from __future__ import annotations

import binascii
import html
import math
import re
import unicodedata
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

REASON_LENGTH = 200

MIN_REPEATED = 4
"""Characters. Anything shorter may stand in any sentence."""
MIN_JOINED = 6
"""Letters and digits that are searched for with others between them, or in a text that was cut off."""

ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))")
CODED = re.compile(r"[A-Za-z0-9+/_-]{6,}")
"""What may be base64 or hexadecimal."""
FOR_URLS = str.maketrans("-_", "+/")


def plain(text: Any) -> Any:
    """Return the plain `str` of a text of any subclass, which encoders refuse; anything else as it is."""
    return str.__str__(text) if isinstance(text, str) else text


def canonical(text: str) -> str:
    """Return the form in which passwords, names and tags are compared: NFKC, case-folded."""
    if text.isascii():
        return text.lower()  # same result
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # folding can decompose


def repeats(text: str, *hidden: str) -> bool:
    """
    Return whether a text repeats one of these, in any spelling, or begins to where it was cut off. Those of fewer than
    four characters do not count.
    """
    long = [each for each in hidden if len(each) >= MIN_REPEATED]
    if len(text) >= REASON_LENGTH:
        long += [each[:MIN_JOINED] for each in long]
    searched = [_forms(each) for each in long]
    return bool(searched) and any(_stand_in(searched, spelled) for spelled in {*_spellings(text)})


def _forms(text: str) -> tuple[str, str, str]:
    """Return the text as it is compared: as it is, as one line, and of letters and digits alone."""
    form = canonical(text)
    return form, canonical(one_line(text)), "".join([char for char in form if char.isalnum()])


def _stand_in(searched: list[tuple[str, str, str]], text: str) -> bool:
    form, line, joined = _forms(text)
    return any(
        hidden in form or hidden_line in line or (len(hidden_joined) >= MIN_JOINED and hidden_joined in joined)
        for hidden, hidden_line, hidden_joined in searched
    )


def _spellings(text: str) -> Iterator[str]:
    """Yield the text, and what it says where it is base64, hexadecimal, a URL, HTML, JSON or a `repr`, or twice so."""
    yield text
    words = CODED.findall(text)
    yield " ".join([_decoded(bytes.fromhex, word) for word in words])
    for start in range(4):  # base64 may stand behind a path
        yield " ".join([_decoded(binascii.a2b_base64, word[start:].translate(FOR_URLS) + "===") for word in words])
    for decode in (unquote_plus, html.unescape, _unescaped) * 2:
        text = decode(text)
        yield text
    yield text.encode("latin-1", "ignore").decode(errors="ignore")  # the `repr` of bytes


def _decoded(decode: Callable[[str], bytes], word: str) -> str:
    try:
        return decode(word).decode(errors="ignore")
    except ValueError:
        return ""


def _unescaped(text: str) -> str:
    return ESCAPE.sub(lambda found: found[3] or chr(int(found[1] or found[2], 16)), text)


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
    return one_line(text_of(given)[: 10 * REASON_LENGTH])[:REASON_LENGTH]


def duration(length: timedelta) -> str:
    """Return a waiting time in whole seconds, rounded up: who waits that long has waited long enough."""
    return f"{max(0, math.ceil(length.total_seconds()))} s"

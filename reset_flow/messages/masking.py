"""Shows enough of a login to know it again, and not enough to learn it."""

from __future__ import annotations

import unicodedata

from reset_flow.domain.text import one_line

DOTS = "…"
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
SHOWN_AT_BOTH_ENDS = 4
"""Characters from which on the last one is shown, too: of a shorter login it would be too much."""


def masked(login: str) -> str:
    """Return `r…k` for `robert.zak`, `r…k@e….com` for `robert.zak@example.com`."""
    local, at, domain = one_line(login).rpartition("@")
    if not local:
        return _ends(local + at + domain)
    name, dot, top = domain.rpartition(".")
    return f"{_ends(local)}@{_first(name or top)}{DOTS}{dot and dot + top}"


def _ends(text: str) -> str:
    characters = _characters(text)
    last = characters[-1] if len(characters) >= SHOWN_AT_BOTH_ENDS else ""
    return f"{_first(text)}{DOTS}{last}"


def _first(text: str) -> str:
    return next(iter(_characters(text)), "")


def _characters(text: str) -> list[str]:
    """Return what a reader takes for characters: letters with their accents, flags, pictograms with a skin tone."""
    found: list[str] = []
    for char in text:
        if found and (unicodedata.category(char)[0] == "M" or _extends(found[-1], char)):
            found[-1] += char
        else:
            found.append(char)
    return found


def _extends(before: str, char: str) -> bool:
    return char in SKIN_TONES or (len(before) == 1 and {before, char} <= FLAG_LETTERS)

"""Contrast, as WCAG 2.2 computes it, and colours that have enough of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WHITE, BLACK = "#ffffff", "#000000"
LIGHT = ("#ffffff", "#f4f5f7", "#fdf6e3")
"""What links stand on in the light scheme: `--surface`, `--ground` and `--notice-ground` of page.css."""

DARK = ("#1b2027", "#12161b", "#322a18")
TEXT = 4.5
"""The least contrast of a text (WCAG 2.2, 1.4.3)."""

STEPS = 50
LINEAR = 0.04045
"""Up to this, sRGB is linear."""


def contrast(one: str, other: str) -> float:
    """Return a ratio from 1 to 21."""
    darker, lighter = sorted([_luminance(one), _luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def readable_on(colour: str) -> str:
    """Return black or white: one of them has a contrast of at least 4.58 with any colour."""
    return max(WHITE, BLACK, key=lambda text: contrast(text, colour))


def shade(colour: str, surfaces: Iterable[str], towards: str) -> str:
    """Return the colour, mixed with as little black or white as makes it readable on the surfaces."""
    backgrounds = tuple(surfaces)
    mixes = (_mixed(colour, towards, step / STEPS) for step in range(STEPS))
    return next((mix for mix in mixes if all(contrast(mix, each) >= TEXT for each in backgrounds)), towards)


def _channels(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def _luminance(colour: str) -> float:
    parts = [channel / 255 for channel in _channels(colour)]
    red, green, blue = (part / 12.92 if part <= LINEAR else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mixed(colour: str, other: str, share: float) -> str:
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(mine + (its - mine) * share):02x}" for mine, its in pairs)

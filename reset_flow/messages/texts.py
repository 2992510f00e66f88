"""The texts in each language, with the tenant's own in their place."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from gettext import GNUTranslations
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from reset_flow.messages.message import Message

LOCALES = ("en", "de", "es")
PLACEHOLDER = re.compile(r"\{(\w+)\}")
WISH = re.compile(r"([a-z]{1,8})(?:-[a-z0-9-]{1,64})?\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?", re.IGNORECASE)
LONGEST_HEADER = 1_000
UNITS = (86_400, 3_600, 60)
ROUNDED = 0.85
"""From 85 % of an hour on, a time is told in hours; likewise for days and minutes."""


@attrs.frozen
class Catalogue:
    """The texts of one language: `plurals` are the ids of those that have forms."""

    translations: GNUTranslations
    ids: frozenset[str]
    plurals: frozenset[str]


@cache
def catalogue(locale: str) -> Catalogue:
    """Return the shipped texts of a language. Raises ConfigurationError where Babel is missing."""
    try:
        from babel.messages.mofile import write_mo  # noqa: PLC0415 - an extra brings it
        from babel.messages.pofile import read_po  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        raise ConfigurationError(
            "texts need Babel: pip install 'reset-flow[web]', or 'reset-flow[chat]' for chats alone"
        ) from None
    source = files("reset_flow.messages").joinpath("locale", locale, "LC_MESSAGES", "reset_flow.po").read_bytes()
    texts = read_po(BytesIO(source), locale=locale, abort_invalid=True)
    binary = BytesIO()
    write_mo(binary, texts)
    binary.seek(0)
    plurals = frozenset(text.id[0] for text in texts if isinstance(text.id, tuple))
    singulars = frozenset(text.id for text in texts if isinstance(text.id, str) and text.id)
    return Catalogue(GNUTranslations(binary), plurals | singulars, plurals)


def fill(pattern: str, show: Callable[[str], str]) -> str:
    """Put what `show` returns for the name of each placeholder in its place."""
    return PLACEHOLDER.sub(lambda found: show(found[1]), pattern)


def time_of_day(at: datetime, locale: str) -> str:
    """Return `14:32 UTC`, as the language writes it."""
    from babel.dates import format_time  # noqa: PLC0415 - an extra brings it

    return f"{format_time(at.astimezone(UTC), 'short', locale=locale)} UTC"


def relative(length: timedelta, locale: str) -> str:
    """Return `in 3 minutes`, rounded up, so that it is never too soon; or `3 minutes ago`, rounded down."""
    from babel.dates import format_timedelta  # noqa: PLC0415 - an extra brings it

    seconds = length.total_seconds()
    unit = next((unit for unit in UNITS if abs(seconds) >= ROUNDED * unit), 1)
    told = timedelta(seconds=(math.ceil(seconds / unit) or 1) * unit)
    return format_timedelta(told, add_direction=True, threshold=ROUNDED, locale=locale)


class Texts:
    """
    The texts of a tenant.

    Args:
        overrides: Texts of the tenant's own, by language and id. A plural has one text for all numbers.

        locales: The languages to choose from; the first one is for those who want none of them.

    Raises:
        ConfigurationError: An override has an unknown language, id or placeholder, or Babel is missing.
    """

    def __init__(
        self, overrides: Mapping[str, Mapping[str, str]] | None = None, *, locales: Iterable[str] = LOCALES
    ) -> None:
        self.locales = tuple(locales)
        if not self.locales or not set(self.locales) <= set(LOCALES):
            raise ConfigurationError(f"languages must be some of {', '.join(LOCALES)}")
        self._overrides = {locale: dict(texts) for locale, texts in (overrides or {}).items()}
        for locale, texts in self._overrides.items():
            if locale not in LOCALES:
                raise ConfigurationError(f"texts: {locale!r} is no language that is known: use {', '.join(LOCALES)}")
            for id_, text in texts.items():
                _check(locale, id_, text)

    def negotiate(self, accept_language: str | None, chosen: str | None) -> str:
        """Return the language that the person chose, or the first that the browser wants and that there is."""
        if chosen in self.locales:
            return str(chosen)
        wishes = [WISH.fullmatch(part.strip()) for part in (accept_language or "")[:LONGEST_HEADER].split(",")]
        ranked = sorted([(-float(wish[2] or 1), wish[1].lower()) for wish in wishes if wish], key=lambda each: each[0])
        return next((name for rank, name in ranked if rank and name in self.locales), self.locales[0])

    def pattern(self, id_: str, locale: str, count: int = 1) -> str:
        """Return a text with its placeholders. Raises KeyError if there is none of that id: a defect."""
        if (own := self._overrides.get(locale, {}).get(id_)) is not None:
            return own
        return _shipped(id_, locale, count)

    def say(self, message: Message | str, locale: str, **context: str | int) -> str:
        """Return a text with what belongs in its places, in plain text."""
        id_, known = (message, {}) if isinstance(message, str) else (message.id, message.context)
        values = {**known, **context}
        pattern = self.pattern(id_, locale, int(values.get("count", 1)))
        return fill(pattern, lambda name: shown(name, values[name], locale))


def shown(name: str, value: str | int, locale: str) -> str:
    """Return a value of a message's context as people read it."""
    if name == "retry_after":
        return relative(timedelta(seconds=int(value)), locale)
    if name.endswith("_at"):
        return time_of_day(datetime.fromisoformat(str(value)), locale)
    if isinstance(value, int):
        from babel.numbers import format_decimal  # noqa: PLC0415 - an extra brings it

        return format_decimal(value, locale=locale)
    return value


def _shipped(id_: str, locale: str, count: int) -> str:
    texts = catalogue(locale)
    if id_ not in texts.ids:
        raise KeyError(id_)
    return texts.translations.ngettext(id_, id_, count) if id_ in texts.plurals else texts.translations.gettext(id_)


def _check(locale: str, id_: str, text: Any) -> None:
    if id_ not in catalogue(locale).ids:
        raise ConfigurationError(f"texts: there is no text {printable(id_)!r}: the ids are in messages/locale/")
    if not isinstance(text, str) or not text.strip():
        raise ConfigurationError(f"texts: {id_} must be text that is not empty")
    known = set(PLACEHOLDER.findall(_shipped(id_, locale, 2)))
    if unknown := set(PLACEHOLDER.findall(text)) - known:
        places = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise ConfigurationError(f"texts: {id_} has no place {', '.join(sorted(unknown))}: {places}")

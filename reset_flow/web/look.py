"""What a tenant sets of the page, without writing HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.settings import must_be
from reset_flow.messages import LOCALES, Texts

COLOUR = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)
ADDRESS = re.compile(r"https?://[^\s/]+\S*|/(?!/)\S*|(?:mailto|tel):\S+", re.IGNORECASE)
LOGOS = {".svg": "image/svg+xml", ".png": "image/png"}

_text = must_be("text", lambda value: isinstance(value, str))
_address = must_be(
    "an address such as https://broker.example/login, or a path such as /login",
    lambda value: value is None or (isinstance(value, str) and bool(ADDRESS.fullmatch(value))),
)
_logo = must_be(
    "the path of an SVG or PNG file",
    lambda value: value is None or (value.suffix.lower() in LOGOS and value.is_file()),
)
_texts = must_be(
    "a table for each language, of texts by their ids",
    lambda value: isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values()),
)
_templates = must_be("the path of a folder with templates", lambda value: value is None or value.is_dir())


def _accent(given: Any) -> str:
    if not isinstance(given, str) or not COLOUR.fullmatch(given):
        raise ConfigurationError("accent must be a colour such as #1f4fd8")
    digits = given[1:].lower()
    return "#" + (digits if len(digits) == len("rrggbb") else "".join(2 * digit for digit in digits))


def _path(given: Any) -> Path | None:
    return given if given is None else Path(given)


def _languages(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"languages must be a tuple such as {LOCALES}")
    return tuple(given)


@attrs.frozen(kw_only=True)
class Look:
    """
    How the page looks, and what it says.

    Attributes:
        name: Of the tenant, in the header and in titles; `""`: the page says what it is for.

        logo: An SVG or PNG file, shown 32 pixels high in the place of the name.

        accent: The colour of the main button. Its text is black or white, whichever can be read; links and focus have a
            lighter or darker shade of it where it can't be told from the background.

        texts: Own texts, by language and id; the ids are those in `reset_flow/messages/locale/`.

        finish_url: Where the person logs in at the end.

        support_url, support_text: Whom to ask. A text without an address is shown as it is.

        languages: The first one is for browsers that want none of them.

        templates: A folder whose files are taken in the place of ours of the same names.

    Raises:
        ConfigurationError: A setting can't be used.
    """

    name: str = attrs.field(default="", validator=_text)
    logo: Path | None = attrs.field(default=None, converter=_path, validator=_logo)
    accent: str = attrs.field(default="#1f4fd8", converter=_accent)
    texts: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, validator=_texts)
    finish_url: str | None = attrs.field(default=None, validator=_address)
    support_url: str | None = attrs.field(default=None, validator=_address)
    support_text: str = attrs.field(default="", validator=_text)
    languages: tuple[str, ...] = attrs.field(default=LOCALES, converter=_languages)
    templates: Path | None = attrs.field(default=None, converter=_path, validator=_templates)

    def __attrs_post_init__(self) -> None:
        self.wording()

    def wording(self) -> Texts:
        """Return the texts in these languages."""
        return Texts(self.texts, locales=self.languages)

"""The files of the page: style, script, colours of the tenant, logo."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

import attrs

from reset_flow.web.colours import BLACK, DARK, LIGHT, WHITE, readable_on, shade
from reset_flow.web.look import LOGOS

if TYPE_CHECKING:
    from reset_flow.web.look import Look

HASH_LENGTH = 12


@attrs.frozen
class Asset:
    """A file of the page. Its name changes with it, so that browsers may keep it for ever."""

    name: str
    body: bytes = attrs.field(repr=False)
    content_type: str


def assets_of(look: Look) -> dict[str, Asset]:
    """Return the files of the page by what templates call them: `page.css`, `page.js`, `look.css`, `icon`, `logo`."""
    static = files("reset_flow.web").joinpath("static")
    found = {
        "page.css": _asset("page.css", static.joinpath("page.css").read_bytes(), "text/css"),
        "page.js": _asset("page.js", static.joinpath("page.js").read_bytes(), "text/javascript"),
        "look.css": _asset("look.css", _tokens(look.accent).encode(), "text/css"),
        "icon": _asset("icon.svg", _icon(look.accent).encode(), LOGOS[".svg"]),
    }
    if look.logo:
        suffix = look.logo.suffix.lower()
        found["logo"] = _asset(f"logo{suffix}", look.logo.read_bytes(), LOGOS[suffix])
    return found


def _asset(name: str, body: bytes, content_type: str) -> Asset:
    path = PurePath(name)
    digest = hashlib.sha256(body).hexdigest()[:HASH_LENGTH]
    return Asset(f"{path.stem}.{digest}{path.suffix}", body, content_type)


def _tokens(accent: str) -> str:
    return (
        f":root{{--accent:{accent};--on-accent:{readable_on(accent)};--link:{shade(accent, LIGHT, BLACK)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{--link:{shade(accent, DARK, WHITE)}}}}}\n"
    )


def _icon(accent: str) -> str:
    """Return a padlock."""
    ink = readable_on(accent)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" rx="8" fill="{accent}"/>'
        f'<path d="M11 15v-3a5 5 0 0 1 10 0v3" fill="none" stroke="{ink}" stroke-width="2.5"/>'
        f'<rect x="8.5" y="14.5" width="15" height="10.5" rx="2" fill="{ink}"/></svg>\n'
    )

"""What a tenant may set of the page, and what is refused with words on what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import CodeFormat, ConfigurationError, PasswordRules
from reset_flow.web import Look
from reset_flow.web.colours import DARK, LIGHT, contrast, readable_on
from reset_flow.web.pages import Pages
from tests.web.screens import SCREENS

if TYPE_CHECKING:
    from pathlib import Path

PIXEL = b"\x89PNG\r\n\x1a\n"


def pages(look: Look) -> Pages:
    return Pages(look, code=CodeFormat.digits(6), rules=PasswordRules())


def tokens(accent: str) -> list[str]:
    """Return the colours of a tenant: accent, text on it, links on light, links on dark."""
    (style,) = (asset for name, asset in pages(Look(accent=accent)).assets.items() if name.startswith("look."))
    return re.findall(r":(#\w{6})", style.body.decode())


@pytest.mark.parametrize("accent", ["#1f4fd8", "#ffe600", "#fff", "#000000", "#7f7f7f", "#0a0", "#ff5a5f"])
def test_text_on_the_accent_and_links_can_be_read_whatever_the_accent(accent: str) -> None:
    own, on_accent, on_light, on_dark = tokens(accent)
    assert contrast(own, on_accent) >= 4.5
    assert min(contrast(on_light, surface) for surface in LIGHT) >= 4.5
    assert min(contrast(on_dark, surface) for surface in DARK) >= 4.5


def test_an_accent_that_can_be_read_is_left_alone() -> None:
    assert tokens("#1f4fd8")[:3] == ["#1f4fd8", "#ffffff", "#1f4fd8"]
    assert readable_on("#ffe600") == "#000000"


def test_the_style_has_the_surfaces_that_links_are_made_for() -> None:
    (style,) = (
        asset.body.decode()
        for name, asset in pages(Look()).assets.items()
        if name.startswith("page.") and "css" in name
    )
    for tokens_of, surfaces in zip(style.split("prefers-color-scheme: dark")[:2], (LIGHT, DARK), strict=True):
        found = [re.findall(rf"--{name}: (#\w{{6}})", tokens_of)[0] for name in ("surface", "ground", "notice-ground")]
        assert tuple(found) == surfaces


def test_the_contrast_is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


def test_the_page_shows_what_the_tenant_set(tmp_path: Path) -> None:
    logo = tmp_path / "logo.PNG"
    logo.write_bytes(PIXEL)
    look = Look(
        name="Nordbank",
        logo=logo,
        finish_url="https://nordbank.example/login",
        support_url="mailto:help@nordbank.example",
        support_text="Ask Nordbank",
        languages=("de",),
        texts={"en": {"done": "All well."}},
    )
    mine = pages(look)
    html = mine.render(SCREENS["done"])
    assert 'alt="Nordbank"' in html
    assert 'href="https://nordbank.example/login"' in html
    assert '<a href="mailto:help@nordbank.example">Ask Nordbank</a>' in html
    assert "All well." in html
    assert "<details" not in html
    (served,) = (asset for name, asset in mine.assets.items() if name.startswith("logo."))
    assert (served.body, served.content_type) == (PIXEL, "image/png")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accent": "red"}, "accent must be a colour such as #1f4fd8"),
        ({"accent": "#12345"}, "accent must be a colour"),
        ({"accent": "#000;}body{"}, "accent must be a colour"),
        ({"finish_url": "javascript:alert(1)"}, "finish_url must be an address such as https://"),
        ({"finish_url": "//elsewhere.example"}, "finish_url must be an address"),
        ({"support_url": "data:text/html,x"}, "support_url must be an address"),
        ({"logo": "missing.svg"}, "logo must be the path of an SVG or PNG file"),
        ({"logo": __file__}, "logo must be the path of an SVG or PNG file"),
        ({"templates": __file__}, "templates must be the path of a folder"),
        ({"texts": {"en": {"no.such": "x"}}}, "there is no text 'no.such'"),
        ({"languages": ("fr",)}, "languages must be some of"),
        ({"languages": "en"}, "languages must be a tuple"),
        ({"name": None}, "name must be text"),
    ],
)
def test_a_setting_that_can_not_be_used_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Look(**settings)
    assert Look(finish_url="/login", support_url="tel:+4930123456").finish_url == "/login"

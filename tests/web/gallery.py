"""
Photograph every state of the page, and let axe-core look for barriers: `python -m tests.web.gallery FOLDER`.

Needs Debian's chromium; axe-core from npm where `--axe` names its `axe.min.js`. Look at the pictures.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from playwright.sync_api import sync_playwright

from reset_flow import CodeFormat, PasswordRules
from reset_flow.web import Look
from reset_flow.web.pages import Pages
from tests.web.screens import SCREENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Route

    from reset_flow.web.pages import Screen

CHROMIUM = Path("/usr/bin/chromium")
ORIGIN = "https://reset.example"
LOOK = Look(name="Nordbank", finish_url="https://nordbank.example/login", support_url="https://nordbank.example/help")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; connect-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SIZES: dict[str, dict[str, Any]] = {
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "small": {"viewport": {"width": 320, "height": 568}, "device_scale_factor": 2},
    "desk": {"viewport": {"width": 1280, "height": 900}},
    "zoom": {"viewport": {"width": 320, "height": 225}, "device_scale_factor": 4},  # 1280 by 900 pixels at 400 %
}
SCHEMES = ("light", "dark")
LOCALES = ("en", "de", "es")


def serve(pages: Pages, screen: Screen, route: Route) -> None:
    """Answer a request for the page or one of its files."""
    path = route.request.url.removeprefix(ORIGIN)
    if path.startswith("/reset/assets/"):
        asset = pages.assets[path.removeprefix("/reset/assets/")]
        route.fulfill(body=asset.body, content_type=asset.content_type)
    else:
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        route.fulfill(body=pages.render(screen), content_type="text/html; charset=utf-8", headers=headers)


@contextmanager
def chromium(path: Path = CHROMIUM) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


def visit(context: BrowserContext, picture: Path, axe: str) -> list[str]:
    """Photograph a page, and return what is wrong with it."""
    problems: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{ORIGIN}/reset/")
    page.screenshot(path=picture, full_page=True)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        problems.append("it is wider than the screen")
    if axe:
        page.evaluate(axe)
        problems += [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in page.evaluate("axe.run()")["violations"]
            for node in each["nodes"]
        ]
    page.close()
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of screens")
    parser.add_argument("--sizes", nargs="*", default=["phone"], choices=SIZES)
    parser.add_argument("--schemes", nargs="*", default=SCHEMES, choices=SCHEMES)
    parser.add_argument("--locales", nargs="*", default=["en"], choices=LOCALES)
    parser.add_argument("--accent", default=LOOK.accent)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--without-script", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    look = attrs.evolve(LOOK, accent=given.accent)
    pages = Pages(look, code=CodeFormat.digits(6), rules=PasswordRules(words=("Nordbank",)))
    axe = given.axe.read_text() if given.axe else ""
    found = []
    with chromium() as browser:
        for size, scheme, locale in product(given.sizes, given.schemes, given.locales):
            settings: dict[str, Any] = {
                **SIZES[size],
                "color_scheme": scheme,
                "locale": locale,
                "timezone_id": "Europe/Berlin",
            }
            context = browser.new_context(**settings, java_script_enabled=not given.without_script)
            for name in given.only or SCREENS:
                screen = attrs.evolve(SCREENS[name], locale=locale)
                context.unroute_all()
                context.route("**", partial(serve, pages, screen))
                label = f"{name}-{size}-{scheme}-{locale}"
                found += [f"{label}: {problem}" for problem in visit(context, given.folder / f"{label}.png", axe)]
            context.close()
    print(*found, sep="\n")  # noqa: T201 - that is what it is for
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

"""Each state of the page: valid HTML with labels, what it says, and nothing that came from outside as markup."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import attrs
import html5lib
import pytest

from reset_flow import CodeFormat, ConfigurationError, PasswordRules, Step
from reset_flow.web import Look
from reset_flow.web.pages import Kind, Pages
from tests.web.screens import NOW, SCREENS, flow_at, on, screen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from xml.etree.ElementTree import Element


LOCALES = ("en", "de", "es")


def pages(look: Look | None = None, code: CodeFormat | None = None) -> Pages:
    return Pages(look or Look(), code=code or CodeFormat.digits(6), rules=PasswordRules(words=("autoshares",)))


@pytest.fixture(scope="module")
def plain() -> Pages:
    """The pages of a tenant who sets nothing."""
    return pages()


def parsed(html: str) -> Element:
    """Return the document; HTML that a browser would have to mend raises ParseError."""
    document: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    return document


def words(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def every(root: Element, *tags: str) -> Iterator[Element]:
    return (each for each in root.iter() if each.tag in tags)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("name", SCREENS)
def test_every_screen_is_valid_with_unique_ids_and_a_label_for_each_field(name: str, locale: str, plain: Pages) -> None:
    document = parsed(plain.render(attrs.evolve(SCREENS[name], locale=locale)))
    ids = [each.attrib["id"] for each in document.iter() if "id" in each.attrib]
    assert len(set(ids)) == len(ids)
    labels = {each.attrib["for"] for each in every(document, "label")}
    for field in every(document, "input"):
        if field.attrib.get("type") != "hidden" and "hidden" not in field.attrib:
            assert field.attrib["id"] in labels
        for described in field.attrib.get("aria-describedby", "").split():
            assert described in ids
    assert len(list(every(document, "h1"))) == 1
    assert [each.attrib["lang"] for each in every(document, "html")] == [locale]


@pytest.mark.parametrize("name", SCREENS)
def test_every_form_carries_its_token_and_its_key(name: str, plain: Pages) -> None:
    document = parsed(plain.render(SCREENS[name]))
    forms = list(every(document, "form"))
    assert forms
    for form in forms:
        fields = {
            each.attrib["name"]: each.attrib.get("value") for each in every(form, "input") if "name" in each.attrib
        }
        assert (form.attrib["method"], fields["csrf"], fields["once"]) == ("post", "c" * 43, "o" * 22)
        assert form.attrib["action"].startswith("/reset/")


@pytest.mark.parametrize("name", SCREENS)
def test_no_page_has_code_or_style_in_it(name: str, plain: Pages) -> None:
    document = parsed(plain.render(SCREENS[name]))
    assert not list(every(document, "style"))
    for each in document.iter():
        assert not [attribute for attribute in each.attrib if attribute.startswith("on") or attribute == "style"]
    assert [words(each) for each in every(document, "script")] == [""]


@pytest.mark.parametrize("name", SCREENS)
def test_a_page_with_an_error_says_so_in_its_title(name: str, plain: Pages) -> None:
    document = parsed(plain.render(SCREENS[name]))
    (title,) = (words(each) for each in every(document, "title"))
    told = [each for each in document.iter() if each.attrib.get("class") in ("alert", "error")]
    assert title.startswith("Error: ") is bool(told)
    assert (SCREENS[name].error is not None) is bool(told)


def test_all_that_a_step_loads_is_below_30_kb(plain: Pages) -> None:
    own = sum(len(asset.body) for asset in plain.assets.values())
    for each in SCREENS.values():
        assert own + len(plain.render(each).encode()) < 30_000


def test_an_asset_is_there_under_the_name_that_the_pages_use(plain: Pages) -> None:
    document = parsed(plain.render(SCREENS["code"]))
    used = {each.attrib["href"] for each in every(document, "link")} | {
        each.attrib["src"] for each in every(document, "script")
    }
    assert used == {f"/reset/assets/{name}" for name in plain.assets}


HOSTILE = "<script>alert(1)</script>\"'\N{RIGHT-TO-LEFT OVERRIDE}{{ 123 * 9 }} {count}"


def test_what_comes_from_outside_is_text(plain: Pages) -> None:
    for given in (
        on(Step.ANSWER, question=HOSTILE),
        on(Step.CODE, sent_to=HOSTILE),
        on(Step.PASSWORD, user=HOSTILE),
        screen(Kind.ACCOUNT, login=HOSTILE),
    ):
        document = parsed(plain.render(given))
        assert len(list(every(document, "script"))) == 1
        assert "1107" not in words(document)
    (field,) = (each for each in every(document, "input") if each.attrib.get("id") == "user")
    assert field.attrib["value"] == HOSTILE


def test_the_login_is_masked_and_told_in_full_only_to_the_browser_that_typed_it(plain: Pages) -> None:
    flow = flow_at(Step.PASSWORD, user="robert.zak@example.com")
    stranger, owner = (plain.render(screen(flow=flow, reveals_login=reveals)) for reveals in (False, True))
    assert "r…k@e….com" in stranger
    assert "robert.zak" not in stranger
    (field,) = (each for each in every(parsed(owner), "input") if each.attrib.get("autocomplete") == "username")
    assert (field.attrib["value"], "hidden" in field.attrib) == ("robert.zak@example.com", True)


@pytest.mark.parametrize(
    ("code", "hint", "mode"),
    [
        (CodeFormat.digits(6), "6 digits", "numeric"),
        (CodeFormat.letters(8), "8 letters and digits", None),
        (CodeFormat.token(), "The email has a link. Copy its last part, and paste it here.", None),
    ],
)
def test_a_code_is_asked_for_as_the_provider_writes_it(code: CodeFormat, hint: str, mode: str | None) -> None:
    document = parsed(pages(code=code).render(SCREENS["code"]))
    (field,) = (each for each in every(document, "input") if each.attrib.get("id") == "code")
    assert field.attrib.get("inputmode") == mode
    assert field.attrib["autocomplete"] == "one-time-code"
    assert [words(each) for each in document.iter() if each.attrib.get("id") == "code-hint"] == [hint]


def test_a_wrong_code_is_told_at_the_field_with_what_is_left(plain: Pages) -> None:
    document = parsed(plain.render(SCREENS["code-rejected"]))
    told = [words(each) for each in document.iter() if each.attrib.get("id") == "code-error"]
    assert told == ["That code is not right.Only the code from the newest email counts.One try left."]


def test_times_are_told_for_the_script_and_for_those_without_it(plain: Pages) -> None:
    times = {
        each.attrib["datetime"]: words(each) for each in every(parsed(plain.render(SCREENS["code-limit"])), "time")
    }
    assert times[(NOW + timedelta(hours=20)).isoformat()] == "in 20 hours (10:00 AM UTC)"
    assert times[(NOW + timedelta(minutes=57)).isoformat()] == "2:57 PM UTC"
    assert times[(NOW - timedelta(minutes=3)).isoformat()] == "3 minutes ago"


def test_a_tenants_template_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "missing.html").write_text("never used")
    (tmp_path / "done.html").write_text('{% extends "base.html" %}{% block body %}<p>Well done.</p>{% endblock %}')
    look = Look(templates=tmp_path)
    mine = pages(look)
    assert "Well done." in words(parsed(mine.render(SCREENS["done"])))
    assert "Choose a new password" in words(parsed(mine.render(SCREENS["password"])))


def test_a_template_that_can_not_be_read_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "done.html").write_text("{% if %}")
    with pytest.raises(ConfigurationError, match=r"done\.html is no template"):
        pages(Look(templates=tmp_path))

"""Whole conversations, as they are written down in transcripts/. golden.py writes them anew."""

from __future__ import annotations

import re

import pytest

from tests.chat.golden import CODES, LANGUAGES, SCENARIOS, played, read, staged
from tests.web.houses import NOBODY, UNASKED

ID = re.compile(r"[a-z._]+(?=: )|  \(.+?\)")


@pytest.mark.parametrize("title", SCENARIOS)
@pytest.mark.parametrize("locale", LANGUAGES)
async def test_a_conversation_goes_as_it_is_written_down(locale: str, title: str) -> None:
    assert await played(title, locale) == read(locale)[title]


@pytest.mark.parametrize("title", SCENARIOS)
@pytest.mark.parametrize("locale", LANGUAGES)
async def test_a_restart_between_any_two_messages_changes_nothing(locale: str, title: str) -> None:
    assert await played(title, locale, restarts=True) == read(locale)[title]


@pytest.mark.parametrize("locale", LANGUAGES)
def test_the_same_is_written_down_in_each_language(locale: str) -> None:
    scenes = read(locale)
    assert list(scenes) == list(SCENARIOS)
    assert {title: shape(lines) for title, lines in scenes.items()} == {
        title: shape(lines) for title, lines in read("en").items()
    }


def shape(lines: list[str]) -> list[str]:
    """Return what is left of a transcript where languages do not matter."""
    said = [line.replace("(link until ", "(link ") for line in lines if not line.startswith(">")]
    return [found[0].partition(": ")[0] if (found := ID.match(line)) else line for line in said]


async def test_a_stranger_hears_the_same_of_a_login_that_nobody_has() -> None:
    heard = []
    for login in (UNASKED, NOBODY):
        async with staged("cancel", "en", restarts=False) as (stage, _):
            await stage.to_code(login)
            await stage.says("74117", "sentence", "resend", "123456", "123457", "help")
            stage.time(seconds=61)
            await stage.says("resend", "123458", "123459", "123450", "hello")
            heard.append("\n".join(stage.lines))
    masked = [f"{login[0]}…{login[-1]}" for login in (UNASKED, NOBODY)]
    assert heard[1].replace(NOBODY, UNASKED).replace(masked[1], masked[0]) == heard[0]
    assert "failed.too_many_attempts" in heard[0]


async def test_the_right_code_opens_no_reset_of_a_login_that_nobody_has() -> None:
    async with staged("cancel", "en", restarts=False) as (stage, _):
        await stage.says("hello", NOBODY, CODES[0])
        assert stage.sandbox.calls_of("exchange") == []
        assert any(line.startswith("code.rejected") for line in stage.lines)

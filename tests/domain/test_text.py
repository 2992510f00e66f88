"""Texts of others are fit to be shown."""

from __future__ import annotations

import sys
import unicodedata
from base64 import b64encode

import pytest

from reset_flow.domain.text import one_line, printable, repeats
from reset_flow.testing.leaks import spellings

IN_NO_TEXT = ("hex, apart", "a list of numbers", "UTF-16", "UTF-16, the other way round", "Latin-1", " before")
"""The spellings that are those of memory dumps and tables, or a piece of one."""
CANARIES = ['Violet "träctor" & 5', "Robért+zak@exämple.com", "00415812", "b5f1c2d0-\\x41-%26"]


def test_one_line_keeps_every_character_but_spaces_and_what_is_none() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        gone = unicodedata.category(char)[0] in "CZ"
        assert char.isprintable() is (not gone or char == " ")  # by which it tells a text that it need not look through


def test_one_line_has_single_spaces_and_none_at_its_ends() -> None:
    assert one_line(" a  b\t\n\x00c\u2028\u202ed ") == "a b c d"
    assert one_line("  a  b ") == "a b"
    assert one_line("żółć\u00a0🦊") == "żółć 🦊"
    assert one_line("") == ""


def test_what_is_printable_is_cut_and_no_other_thing_is_shown() -> None:
    assert printable("x" * 1000) == "x" * 200
    assert printable("\n" * 150 + "x" * 1000) == "x" * 200
    assert printable(7) == "int"


@pytest.mark.parametrize("canary", CANARIES)
def test_what_repeats_a_secret_does_so_in_every_spelling_that_a_text_may_have(canary: str) -> None:
    for spelling, written in spellings(canary):
        if not spelling.endswith(IN_NO_TEXT):
            text = f"no good: {written.decode('utf-8', 'replace')}."
            assert repeats(text, canary), f"{spelling}: {text}"
    for before in ("", "a", "ab", "abc"):
        inside = b64encode(f"{before}{canary} and more".encode()).decode()
        assert repeats(f"no good: /log-in/{inside}", canary), inside
    assert not repeats("no good: it must have at least eight characters, and a digit.", *CANARIES)


def test_what_was_cut_off_repeats_what_it_begins() -> None:
    secret = "violet tractor 5"
    assert repeats(printable("x" * 190 + secret), secret)
    assert not repeats("x" * 50 + " violet t", secret), "a short text is whole"
    assert not repeats(printable("x" * 198 + secret), secret), "two letters may stand in any text"

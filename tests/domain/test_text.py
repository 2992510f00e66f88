"""Texts of others are fit to be shown."""

from __future__ import annotations

import sys
import unicodedata

from reset_flow.domain.text import one_line, printable


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

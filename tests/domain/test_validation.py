"""What people type is taken in every spelling that can be meant, or refused without being repeated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from reset_flow.domain import validation
from reset_flow.domain.capabilities import CodeFormat
from reset_flow.domain.errors import AnswerRejected, CodeRejected, InvalidInput, PasswordRejected
from reset_flow.domain.secret import Secret


@pytest.mark.parametrize(
    "typed",
    [
        "004158",
        " 004 158 ",
        "004-158",
        "00–41–58",
        "００４１５８",
        "٠٠٤١٥٨",
        "0\u200b04158",
        "\u00a0004158\u3000",
        "004158\n",
        "\r\n\t004\r\n158\r\n",
        "004\v158\f\x85",
        "004\u2028158\u2029",
        "\u2007004\u202f158\u2060\ufeff",
        "\u200e004\u00ad158\u200f\u200d",
        "004\u2010158",
        "004\u2212158",
        "0\ufe0f04\u034f158\ufe0e",
        "०0४158",
    ],
)
def test_a_code_is_the_same_however_it_is_typed(typed: str) -> None:
    assert validation.code(Secret(typed)) == Secret("004158")


@pytest.mark.parametrize(
    "typed",
    ["", " ", "4158", "0041580", "00415a", "²04158", "004.158", "0x4158", "-", "½04158", "1" * 65, "00\x004158",
     b"004158", None, 4158, "004158\n1", "\n", "\ud800", "004158\x1b[0m"],
)  # fmt: skip
def test_what_can_not_be_a_code_is_refused(typed: Any) -> None:
    with pytest.raises(CodeRejected) as caught:
        validation.code(Secret(typed))
    assert not caught.value.sent


@given(st.text(max_size=80))
def test_whatever_is_typed_is_six_digits_or_refused(typed: str) -> None:
    try:
        code = validation.code(Secret(typed)).reveal()
    except CodeRejected:
        return
    assert len(code) == 6
    assert set(code) <= set("0123456789")


@pytest.mark.parametrize(
    "typed",
    ["AbC12xYz", " AbC1 2xYz\n", "AbC1-2xYz", "ＡｂＣ１２ｘＹｚ", "AbC١٢xYz", "\u200bAbC12xYz\ufeff"],
)
def test_letters_keep_their_case_and_lose_what_only_separates_them(typed: str) -> None:
    assert validation.code(Secret(typed), CodeFormat.letters(8)) == Secret("AbC12xYz")


@pytest.mark.parametrize(
    "typed", ["AbC12xY", "AbC12xYzz", "AbC12xY!", "АbC12xYz", "AbC12xß", "①bC12xYz", "", b"AbC12xYz"]
)
def test_what_can_not_be_such_letters_is_refused(typed: Any) -> None:
    with pytest.raises(CodeRejected) as caught:
        validation.code(Secret(typed), CodeFormat.letters(8))
    assert not caught.value.sent


@pytest.mark.parametrize("typed", ["1-cq2x4:AbC_~ d/+=", "x" * 4000])
def test_a_token_from_a_link_stays_as_it_is_but_for_outer_spaces(typed: str) -> None:
    for pasted in (f" \r\n{typed}\t ", f"\ufeff{typed}\u200b", f"\u200e {typed}\xad\n"):
        assert validation.code(Secret(pasted), CodeFormat.token()) == Secret(typed)


@pytest.mark.parametrize("typed", ["", " \n", "x" * 4097, "a\nb", "a\x00b", "\ud800", b"token", None])
def test_what_can_not_be_a_token_from_a_link_is_refused(typed: Any) -> None:
    with pytest.raises(CodeRejected) as caught:
        validation.code(Secret(typed), CodeFormat.token())
    assert not caught.value.sent


def test_codes_may_have_any_length_where_the_provider_does_not_say() -> None:
    for form, typed in (
        (CodeFormat.digits(0), "0041 5"),
        (CodeFormat.digits(8), "00415 812"),
        (CodeFormat.letters(0), "aB-1"),
    ):
        assert validation.code(Secret(typed), form).reveal() == typed.replace(" ", "").replace("-", "")
        with pytest.raises(CodeRejected, match="it must have"):
            validation.code(Secret(" - "), form)


@pytest.mark.parametrize("typed", ["Peterson", " Peterson ", "Größe 大", "👩‍👩‍👧", "x" * 1000])
def test_an_answer_stays_exactly_as_it_was_typed(typed: str) -> None:
    assert validation.answer(Secret(typed)).reveal() == typed


@pytest.mark.parametrize("typed", ["", "  ", "x" * 1001, "a\x00b", "a\nb", "\ud800", b"Peterson", 7])
def test_an_answer_that_is_empty_huge_or_binary_is_refused(typed: Any) -> None:
    with pytest.raises(AnswerRejected) as caught:
        validation.answer(Secret(typed))
    assert not caught.value.sent


@pytest.mark.parametrize("typed", ["violet tractor", " eight  ch", "pässwört", "🦊" * 8])
def test_a_password_stays_exactly_as_it_was_typed(typed: str) -> None:
    assert validation.password(Secret(typed)).reveal() == typed


@pytest.mark.parametrize("typed", ["x" * 10**6, "line\nbreak", "\x00" * 9, "a\ud800b", b"bytes bytes", None])
def test_a_password_that_is_huge_or_binary_is_refused(typed: Any) -> None:
    with pytest.raises(PasswordRejected) as caught:
        validation.password(Secret(typed))
    assert not caught.value.sent


@pytest.mark.parametrize("typed", ["", "\t", "x" * 321, "a\x1bb", "\udfff", b"robert", None])
def test_a_name_that_is_empty_huge_or_binary_is_refused(typed: Any) -> None:
    with pytest.raises(InvalidInput, match="ref: it must"):
        validation.name(typed, "ref")
    assert validation.name(" robert.zak", "ref") == " robert.zak"


@pytest.mark.parametrize(
    "typed", [" robert zak", "robert zak\r\n", "\ufeffrobert zak\xa0", "\u200e\trobert zak\u200b "]
)
def test_a_login_is_the_same_however_it_is_pasted(typed: str) -> None:
    assert validation.user(Secret(typed)) == "robert zak"


@pytest.mark.parametrize("typed", ["", " \ufeff", "x" * 321, "robert\nzak", "\udfff", b"robert", None])
def test_a_login_that_is_empty_huge_or_binary_is_refused(typed: Any) -> None:
    with pytest.raises(InvalidInput, match="user: it must"):
        validation.user(typed)


def test_no_error_repeats_what_was_typed() -> None:
    for check, secret in ((validation.code, "sesame"), (validation.answer, "sesame\n"), (validation.pin, "sesame\x00")):
        with pytest.raises((CodeRejected, AnswerRejected, PasswordRejected)) as caught:
            check(Secret(secret))
        assert "sesame" not in str(caught.value)

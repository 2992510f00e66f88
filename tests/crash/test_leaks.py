"""The search for leaks finds what is planted, in each store and each disguise."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from reset_flow import State
from reset_flow.testing import make_record

if TYPE_CHECKING:
    from collections.abc import Callable

WORD = "violet tractor 5"


@pytest.mark.parametrize("pad", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: text.decode().encode("utf-16-le"),
        lambda text: text.hex().encode(),
        lambda text: text.hex().upper().encode(),
        b64encode,
        lambda text: quote(text.decode(), safe="").encode(),
    ],
)
def test_a_word_is_found_in_every_disguise(
    find_leaks: Callable[[bytes, set[str]], set[str]], disguise: Callable[[bytes], bytes], pad: bytes
) -> None:
    kept = b"\x00\xff" * 50 + disguise(pad + WORD.encode() + b"tail") + b"\x01" * 50
    assert find_leaks(kept, {WORD, "another word"}) == {WORD}


async def test_what_is_planted_in_a_store_is_found(crash: Any) -> None:
    person = crash.person()
    await person.reach(State.TOKEN_ISSUED)
    await crash.check_nothing_shows(person)
    planted = make_record(body=f"the login is {person.user}".encode())
    await crash.service._store.save(planted)
    with pytest.raises(AssertionError, match="readable in the store"):
        await crash.check_nothing_shows(person)


async def test_the_words_of_a_flow_are_those_that_were_typed_and_given(crash: Any) -> None:
    person = crash.person()
    await person.reach(State.PASSWORD_SET)
    codes = {mail.code for mail in crash.sandbox.mails}
    given = crash.given(person)
    assert codes <= given
    assert f"violet tractor {person.passwords}" in given
    assert any(len(word) == 36 for word in given), "a token"

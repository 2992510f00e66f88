"""What is searched after each kill is what was written down, and the search finds what is planted there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reset_flow import State, open_store
from reset_flow.testing import make_record

if TYPE_CHECKING:
    from tests.crash.conftest import Crash


async def test_what_is_planted_in_a_store_is_found(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.TOKEN_ISSUED)
    await crash.check_nothing_shows(person)
    planted = make_record(body=f"the login is {person.user}".encode())
    store = open_store(crash.store)
    await store.save(planted)
    await store.aclose()
    with pytest.raises(AssertionError, match="readable in the store"):
        await crash.check_nothing_shows(person)


async def test_what_is_planted_in_the_process_that_lives_is_found(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    await person.do("verify")
    crash.check_the_living_shows_nothing()
    crash.witness.write(f"another person's: {person.user.replace('00', '01')}")
    crash.check_the_living_shows_nothing()
    crash.witness.write(f"the code is {crash.sandbox.newest_code(person.user)}")
    with pytest.raises(AssertionError, match="by the process that lives"):
        crash.check_the_living_shows_nothing()


async def test_what_is_planted_in_the_process_that_died_is_found(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.TOKEN_ISSUED)
    await crash.doom(person, "set_password", "after save 2")
    await crash.check_nothing_shows(person)
    (witness,) = person.witnesses
    witness.write_bytes(witness.read_bytes() + next(iter(crash.given(person))).encode().hex().encode())
    with pytest.raises(AssertionError, match="by the process that died"):
        await crash.check_nothing_shows(person)


async def test_a_process_that_dies_has_told_of_what_it_did(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.TOKEN_ISSUED)
    await crash.doom(person, "set_password", "before save 3")  # which notes that the listener has heard of the end
    shown = person.witnesses[0].read_bytes()
    for part in ("reset_flow.audit", "transitions.core", "Event(id=", '"name": "reset_flow.call"', "<Keyring "):
        assert part.encode() in shown, part
    await crash.doom(crash.person(), "start", None)
    assert b"asyncio" in crash.people[-1].witnesses[0].read_bytes(), "it lived, in debug mode"


async def test_the_words_of_a_flow_are_those_that_were_typed_and_given(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.PASSWORD_SET)
    codes = {mail.code for mail in crash.sandbox.mails}
    given = crash.given(person)
    assert codes <= given
    assert crash.sandbox.password_of(person.user) in given
    assert any(len(word) == 36 for word in given), "a token"

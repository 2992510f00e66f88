"""
Random conversations: whatever people say, in whatever order it comes, whoever dies in the middle.

Nothing is raised, nothing that is secret is said, logged or stored, and each conversation can be finished or cancelled.
RESET_FLOW_TEST_CONVERSATIONS says how many there are, 1,000 by default. 10,000 take twenty minutes on one core.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from reset_flow import Accepted, Capabilities, Cause, CodeFormat, Credential, NotActed, Rejected, Unknown
from reset_flow.chat import Turn
from reset_flow.testing import LeakScanner
from tests.chat.chats import ANSWER, CODE, LOGIN, PASSWORD, PIN, SECRETS, Chat, Desk, Provider, ids

CONVERSATIONS = int(os.environ.get("RESET_FLOW_TEST_CONVERSATIONS", "1000"))
CHUNKS = 4
"""Each is a test of its own, so that they share the cores."""

LETTERS, JUNK = "QX7T93KM", "träctör Ω <b>&amp;"
CODES_AS_TYPED = {CODE: {CODE, "741 175", "code: 741175."}, LETTERS: {LETTERS, "qx7t-93km"}}
SCANNER = LeakScanner({**SECRETS, "letters": LETTERS, "junk": JUNK})
WORDS = (
    "/cancel", "Abbrechen, bitte!", "¡Cancelar!", "/resend", "another code", "neuer Link", "/restart", "von vorn",
    "empezar de nuevo", "/help", "ayuda", "/human", "Mitarbeiter", "/start", "/start x", "please",
)  # fmt: skip
ENTRIES = (
    LOGIN, ANSWER, CODE, "741 175", "code: 741175.", LETTERS, "qx7t-93km", PASSWORD, PIN, "123456", "123456 or 654321",
    "74117", "wrong", f"answer: {ANSWER}", f"password: {PASSWORD}", "what is my balance?", "nobody@example.com",
)  # fmt: skip
ODD = (
    "", " ", "\n", "\0", "😀", "👨‍👩‍👧‍👦 741175", "مرحبا ٧٤١١٧٥", "\u202e571147", "\ud800", "a\ud83d", "\u200b", JUNK,
    "x" * 200, "y" * 50_000, "7" * 4_096, "z " * 60_000, "../../etc/passwd", "' OR 1=1 --", "{login}", "%s%n", "/@",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(ENTRIES),
    st.sampled_from(ODD),
    st.text(max_size=40),
    st.text("0123456789 -."),
)
OUTCOMES = (
    Accepted(), Rejected(reasons=["no"]), Unknown(), NotActed(), NotActed(cause=Cause.THROTTLED), OSError("gone"),
    NotActed(cause=Cause.FORBIDDEN), NotActed(cause=Cause.PROTOCOL),
)  # fmt: skip
CALLS = ("challenge", "request", "exchange", "update", "log_in")

Step: TypeAlias = tuple[Any, ...]
calls = st.integers(1, 40)
steps: st.SearchStrategy[Step] = st.one_of(
    st.just(("goes on",)),
    st.just(("goes on",)),
    st.tuples(st.just("says"), texts),
    st.tuples(st.just("says"), texts),
    st.tuples(st.just("repeats"), st.integers(1, 5)),
    st.tuples(st.just("says at once"), texts, texts),
    st.tuples(st.just("says in a group"), texts),
    st.tuples(st.just("is told"), st.sampled_from(["de", "es", "en-GB", "pt_BR", "", "x" * 300, "\0"])),
    st.just(("restarts",)),
    st.tuples(st.just("is killed"), calls, st.booleans(), st.booleans()),
    st.tuples(st.just("is cancelled"), st.integers(0, 60), texts),
    st.tuples(st.just("fails"), calls),
    st.tuples(st.just("meets"), st.sampled_from(CALLS), st.sampled_from(OUTCOMES)),
    st.tuples(st.just("waits"), st.sampled_from([1, 11, 61, 1000, 4000])),
    st.tuples(st.just("deletes"), st.sampled_from([True, False, None, OSError("no")])),
    st.just(("sweeps",)),
)
PIN_KIND: dict[str, Any] = {"capabilities": Capabilities(credentials=frozenset(Credential))}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"question": False},
    {"capabilities": Capabilities(code=CodeFormat.letters(8))},
    {"capabilities": Capabilities(verifies_code=False)},
    PIN_KIND,
)
ROADS: tuple[dict[str, Any], ...] = (
    {"in_chat": True, "by_link": False}, {"in_chat": True, "by_link": True}, {"in_chat": False, "by_link": True}
)  # fmt: skip


class Conversation:
    """One conversation, and what befalls it."""

    def __init__(self, kind: dict[str, Any], road: dict[str, Any]) -> None:
        self.provider = Provider(**kind)
        if self.provider.capabilities.code != CodeFormat.digits(6):
            self.provider.code = LETTERS
        self.is_pin = kind == PIN_KIND
        credential = Credential.PIN if self.is_pin else Credential.PASSWORD
        self.desk = Desk(self.provider, credential=credential, patience=timedelta(milliseconds=1), **road)
        self.chat = Chat(self.desk)
        self.turn = Turn()

    async def takes(self, step: Step) -> None:
        name, *arguments = step
        await getattr(self, f"_{name.replace(' ', '_')}")(*arguments)

    async def say(self, text: str, message: str = "") -> Turn:
        self.turn = await self.chat.say(text, message)
        assert self.turn.messages
        return self.turn

    async def _goes_on(self) -> None:
        await self.say(self.chat.next(self.turn, self.provider.code, self.new))

    async def _says(self, text: str) -> None:
        await self.say(text)

    async def _repeats(self, back: int) -> None:
        if len(self.chat.said) >= back:
            message, text = self.chat.said[-back]
            first = await self.say(text, message)
            sent = len(self.provider.calls)
            second = await self.say(text, message)
            assert first == second or is_trouble(first) or is_trouble(second), (first, second)
            assert len(self.provider.calls) == sent or is_trouble(first)

    async def _says_at_once(self, *texts: str) -> None:
        turns = await asyncio.gather(*map(self.say, texts))
        assert all(turn.messages for turn in turns)

    async def _says_in_a_group(self, text: str) -> None:
        turn = await self.chat.say(text, private=False)
        assert (ids(turn), turn.effects, turn.done) == (["chat.private"], (), True)

    async def _is_told(self, locale: str) -> None:
        self.chat.locale = locale

    async def _restarts(self) -> None:
        self.chat.bot = self.desk.bot()

    async def _is_killed(self, call: int, is_later: bool, comes_again: bool) -> None:  # noqa: FBT001
        text = self.chat.next(self.turn, self.provider.code, self.new)
        doomed = self.chat.bot = self.desk.bot(dies_at=call)
        await self._until(doomed.process.dead.wait(), text)
        await doomed.dies()
        if is_later:
            self.desk.later()
        self.chat.bot = self.desk.bot()
        if comes_again:
            await self.say(text, self.chat.said[-1][0])
        elif is_later:
            await self.chat.bot.dialogue.recover()

    async def _is_cancelled(self, turns: int, text: str) -> None:
        async def some_turns() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        await self._until(some_turns(), text)

    async def _until(self, event: Any, text: str) -> None:
        """Say something, and be cut off by an event."""
        either = [asyncio.create_task(self.say(text)), asyncio.ensure_future(event)]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()
        await asyncio.wait(either)
        if not either[0].cancelled():
            either[0].result()

    async def _fails(self, call: int) -> None:
        self.chat.bot.process.fail(call)

    async def _meets(self, call: str, outcome: Any) -> None:
        self.provider.script(**{call: [outcome]})

    async def _waits(self, seconds: int) -> None:
        self.desk.clock.advance(timedelta(seconds=seconds))

    async def _deletes(self, outcome: Any) -> None:
        self.chat.can_delete = outcome

    async def _sweeps(self) -> None:
        with suppress(Exception):  # as the service does, which sweeps again
            await self.desk.bot().service.sweep()

    @property
    def new(self) -> str:
        return PIN if self.is_pin else PASSWORD

    async def ends(self, *, cancelled: bool) -> None:
        """All is well again, and the person finishes or cancels."""
        self.provider.unscript(*CALLS)
        self.desk.later()
        self.chat.bot = self.desk.bot()
        await self.chat.bot.dialogue.recover()
        if cancelled:
            turn = await self.say("/cancel")
            assert turn.done, ids(turn)
            assert not await self.chat.bot.dialogue.active(self.chat.name)
        else:
            turn = await self.say("help")
            turn = await self.chat.finishes(turn, code=self.provider.code, new=self.new)
            assert turn.done, ids(turn)
            assert self.provider.given("update")[-1] == self.new
        await self.desk.settle()
        assert await self.chat.bot.dialogue.recover() == 0
        sent = set(self.provider.given("update"))
        assert not sent & CODES_AS_TYPED[self.provider.code], "taken for a new password"


def is_trouble(turn: Turn) -> bool:
    return ids(turn)[0].startswith(("store.", "busy"))


async def play(kind: int, road: int, taken: list[Step], *, cancelled: bool) -> None:
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    conversation = Conversation(KINDS[kind], ROADS[road])
    root = logging.getLogger()
    root.addHandler(conversation.desk.witness)
    try:
        for step in taken:
            await conversation.takes(step)
        await conversation.ends(cancelled=cancelled)
    finally:
        await conversation.desk.aclose()
        root.removeHandler(conversation.desk.witness)
    assert errors == []
    assert b"broke off" not in conversation.desk.witness.heard
    assert SCANNER.find(bytes(conversation.desk.witness.heard), bytes(conversation.desk.saved)) == []


@pytest.fixture(autouse=True)
def _all_is_logged() -> Any:
    loggers = [logging.getLogger(name) for name in ("reset_flow", "reset_flow.audit", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.timeout(CONVERSATIONS)  # a second for each
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_conversation_stays_alive_and_keeps_its_secrets(chunk: int) -> None:  # noqa: ARG001 - each draws its own
    @settings(
        max_examples=CONVERSATIONS // CHUNKS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(KINDS) - 1), st.integers(0, len(ROADS) - 1), st.lists(steps, max_size=25), st.booleans())
    def run(kind: int, road: int, taken: list[Step], cancelled: bool) -> None:  # noqa: FBT001
        asyncio.run(play(kind, road, taken, cancelled=cancelled))

    run()

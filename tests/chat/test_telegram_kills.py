"""A bot for Telegram is killed by SIGKILL wherever it waits for something; another process goes on."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import TYPE_CHECKING

import attrs
import pytest

from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.chat.bot_api import TOKEN, BotApi
from tests.chat.kills import APP_KEY, PATIENCE, Zygote, leaks_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.chat.bot_api import Update

ANSWER, PASSWORD, QUESTION = "Königsallee 7", "violet-tractor-sings-at-5", "Where did you live?"
STEPS = ("login", "answer", "code", "password")
MOST_MESSAGES = 20
END = "Your new password is set"
FIRST = "before save 1"
"""Up to there, nobody but Telegram knows of a message."""


WANTED = {
    "What is your login": "login",
    QUESTION: "answer",
    "another": "another code",
    "hoose a new password": "password",
    "set it again here": "password",
    "code": "code",
}
"""What a person does, by what they are told."""


@attrs.define(eq=False)
class Person:
    """
    Somebody who resets their password.

    Attributes:
        typed: At which steps they wrote something.
    """

    api: BotApi
    sandbox: Sandbox
    chat: int
    typed: list[str] = attrs.field(factory=list)
    _read: int = 0

    @property
    def login(self) -> str:
        return f"robert.zak{self.chat}"

    @property
    def codes(self) -> list[str]:
        return [mail.code for mail in self.sandbox.mails if mail.user == self.login]

    @property
    def said(self) -> list[str]:
        """Return the last message of each turn: the one with buttons, or about the end."""
        calls = [call for call in self.api.of("sendMessage") if call.fields["chat_id"] == str(self.chat)]
        return [call.fields["text"] for call in calls if call.keyboard or END in call.fields["text"]]

    def writes(self, step: str) -> Update:
        if step == "code" and not self.codes:
            step = "another code"
        texts = {"begin": "I forgot my password", "login": self.login, "answer": ANSWER, "password": PASSWORD}
        text = self.codes[-1] if step == "code" else texts.get(step, step)
        self.typed.append(step)
        self._read = len(self.said)
        return self.api.wrote(text, chat=self.chat)

    async def is_told(self) -> None:
        """Wait for something that was not said before they wrote."""
        async with asyncio.timeout(PATIENCE):
            while len(self.said) <= self._read:
                await self.api.called("sendMessage", len(self.api.of("sendMessage")) + 1)

    async def does(self, step: str) -> None:
        await self.api.deliver(self.writes(step))
        await self.is_told()

    async def goes_on(self) -> None:
        """Do what is wanted until the password is set."""
        while END not in self.said[-1]:
            assert len(self.typed) < MOST_MESSAGES, self.said
            await self.does(next((step for text, step in WANTED.items() if text in self.said[-1]), "help"))

    def check(self) -> None:
        """Hold what the broker got to what was written: one sending for each, and one more for what was in doubt."""
        assert self.sandbox.password_of(self.login) == PASSWORD
        calls = [call for call in self.sandbox.calls if call.user == self.login]
        wrote = {step: self.typed.count(step) for step in (*STEPS, "another code")}
        assert len(self.codes) <= wrote["answer"] + wrote["another code"], (wrote, self.said)
        for route, step in (("exchange", "code"), ("update", "password")):
            assert sum(call.route == route for call in calls) <= wrote[step] + 1, (wrote, self.said)


class World:
    """Telegram, a broker, bots and the people who write to them."""

    def __init__(self, api: BotApi, sandbox: Sandbox, bots: Zygote, folder: Path) -> None:
        self._api, self._sandbox, self.bots, self._folder = api, sandbox, bots, folder
        self._numbers = count(42)

    def person(self) -> Person:
        person = Person(self._api, self._sandbox, next(self._numbers))
        self._sandbox.add_user(person.login, question=QUESTION, answer=ANSWER)
        return person

    async def start(self, point: str | None = None) -> None:
        """Start a bot, and wait until it has called: what a dead one waited for is over then."""
        started = len(self._api.of("getMe"))
        await self.bots.start(point)
        await self._api.called("getMe", started + 1)

    async def points(self) -> list[tuple[str, str]]:
        """Return the steps of a reset, and of each the points before which something was done, and the last one."""
        person, found = self.person(), list[tuple[str, str]]()
        await self.start()
        await person.does("begin")
        await self.bots.stop()
        for step in STEPS:
            await self.start()
            await person.does(step)
            await person.does("/reset")
            passed = self.bots.passed()
            done = passed[passed.index(FIRST) : passed.index("before sendMessage 2") - 2]
            found += [(step, point) for point in done if point.startswith("before")] + [(step, done[-1])]
            await self.bots.stop()
        return found

    async def bring(self, person: Person, to: str) -> None:
        """Have a person stand before a step."""
        for step in ("begin", *STEPS[: STEPS.index(to)]):
            await person.does(step)

    async def kill(self, person: Person, step: str, point: str) -> Update:
        """Have a bot die at this point of what a person writes, or once it is idle if it does not come by there."""
        update = person.writes(step)
        await self.start(point)
        await self._api.deliver(update)
        either = [asyncio.create_task(self.bots.dead()), asyncio.create_task(self._is_idle(person))]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if either[1].done():
            self.bots.kill()
        either[1].cancel()
        await either[0]
        return update

    async def _is_idle(self, person: Person) -> None:
        await person.is_told()
        await self._api.deliver(self._api.wrote("/reset", chat=person.chat))
        await self._api.called("sendMessage", len(self._api.of("sendMessage")) + 1)

    async def deliver(self, update: Update) -> None:
        await self._api.deliver(update)

    def check(self, people: list[Person]) -> None:
        for person in people:
            person.check()
        codes = {f"code {person.chat} {code}": code for person in people for code in person.codes}
        logins = {person.login: person.login for person in people}
        assert leaks_in(self._folder, answer=ANSWER, password=PASSWORD, **codes, **logins) == []
        said = json.dumps([call.fields for call in self._api.calls])
        assert LeakScanner({"answer": ANSWER, "password": PASSWORD, **codes}).find(said) == []


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        BotApi() as api,
        Sandbox(app_key=APP_KEY) as sandbox,
        Zygote(sandbox, tmp_path, kind="bot", api=api.url, token=TOKEN) as bots,
    ):
        yield World(api, sandbox, bots, tmp_path)


@pytest.mark.parametrize("comes_again", [True, False])
async def test_wherever_a_bot_is_killed_its_conversation_goes_on_and_nothing_is_doubled(
    world: World, *, comes_again: bool
) -> None:
    points = (await world.points())[comes_again::2]  # the other half of them is left to the other test
    killed = [(world.person(), step, point) for step, point in points]
    people = [person for person, _, _ in killed]
    await world.start()
    await asyncio.gather(*[world.bring(person, step) for person, step, _ in killed])
    await world.bots.stop()
    updates = [await world.kill(person, step, point) for person, step, point in killed]
    world.bots.later()
    await world.start()
    for (_, _, point), update in zip(killed, updates, strict=True):
        if comes_again or point == FIRST:
            await world.deliver(update)
    for person in people:
        await person.is_told()
    await asyncio.gather(*[person.goes_on() for person in people])
    await world.bots.stop()
    world.check(people)

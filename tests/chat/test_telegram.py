"""Resets in Telegram: aiogram's own dispatcher, a Bot API on loopback, and the sandbox as the broker."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore
from reset_flow.chat import Button, Message as ChatMessage, News, Reason, ResetDialogue, Turn
from reset_flow.chat.telegram import reset_router, tell
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.chat.bot_api import (
    BLOCKED,
    BOT_ID,
    GONE,
    INVALID_URL,
    SLOW_DOWN,
    TOKEN,
    UNDELETABLE,
    USERNAME,
    BotApi,
    Refusal,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import timedelta

    from aiogram.types import Message, TelegramObject

    from tests.chat.bot_api import Call, Update

APP_KEY = "an-app-key"
ASKED, UNASKED = "robert.zak", "maria.noquestion"
ANSWER, PASSWORD = "Peterson", "violet-tractor-sings-at-5"
CONVERSATION = f"telegram:{BOT_ID}:42"
URL = "https://example.com/reset/link/s3cret-of-the-link"


class OneLink:
    """Makes the same link each time, and keeps for which flow."""

    def __init__(self) -> None:
        self.flows: list[str] = []

    async def create(self, flow_id: str, lifetime: timedelta = ..., *, holder: str | None = None) -> str:  # type: ignore[assignment]
        self.flows.append(flow_id)
        return URL


class Process:
    """A bot's process: it polls, as `run_polling` does, until it is closed."""

    def __init__(self, world: World, *, links: OneLink | None, default: DefaultBotProperties | None) -> None:
        self.elsewhere: list[str | None] = []
        self.escalations: list[tuple[str, Reason]] = []
        self._handled = 0
        self._changed = asyncio.Condition()
        self._closing = AsyncExitStack()
        self._links = links
        self._default = default
        self._world = world

    async def start(self) -> None:
        world, closing = self._world, self._closing
        bot = telegram_bot(world, self._default)
        closing.push_async_callback(bot.session.close)
        news = News()
        self.tell = tell(bot, escalate=self._escalate)
        transport = EtnaTransport(world.sandbox.api_url, APP_KEY, name="broker")
        keyring, store = Keyring.load_or_create(world.folder / "keys"), SQLiteStore(world.folder / "flows.db")
        self.service = await closing.enter_async_context(
            ResetService(transport, store, keyring, listeners={"chat": news}, sweep=False)
        )
        dialogue = ResetDialogue(
            self.service,
            links=self._links,
            passwords_in_chat=self._links is None,
            news=news,
            tell=self.tell,
        )
        await closing.enter_async_context(dialogue)
        others = Router()
        others.message()(self._keep)
        dispatcher = Dispatcher()
        dispatcher.include_routers(reset_router(dialogue, F.text.contains("forgot"), escalate=self._escalate), others)
        dispatcher.update.outer_middleware(self._count)
        polling = asyncio.create_task(
            dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False, polling_timeout=5)
        )

        async def stop() -> None:
            await dispatcher.stop_polling()  # to cancel the task would leave the one below it, which takes updates
            await polling

        closing.push_async_callback(stop)

    async def aclose(self) -> None:
        await self._closing.aclose()

    async def takes(self, *updates: Update) -> list[Call]:
        """Deliver updates, and return what the bot said until all of them were handled."""
        said, handled = len(self._world.api.of("sendMessage")), self._handled + len(updates)
        await self._world.api.deliver(*updates)
        async with self._changed:
            await self._changed.wait_for(lambda: self._handled >= handled)
        return self._world.api.of("sendMessage")[said:]

    async def _keep(self, message: Message) -> None:
        self.elsewhere.append(message.text)

    async def _escalate(self, conversation: str, reason: Reason) -> None:
        self.escalations.append((conversation, reason))

    async def _count(self, handler: Callable[..., Awaitable[Any]], update: TelegramObject, data: dict[str, Any]) -> Any:
        try:
            return await handler(update, data)
        finally:
            async with self._changed:
                self._handled += 1
                self._changed.notify_all()


@attrs.define
class World:
    """Telegram, a broker, and what a bot's processes leave on disk."""

    api: BotApi
    sandbox: Sandbox
    folder: Path
    closing: AsyncExitStack

    async def process(self, *, links: OneLink | None = None, default: DefaultBotProperties | None = None) -> Process:
        process = Process(self, links=links, default=default)
        self.closing.push_async_callback(process.aclose)
        await process.start()
        return process


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with BotApi() as api, Sandbox(app_key=APP_KEY) as sandbox, AsyncExitStack() as closing:
        yield World(api, sandbox, tmp_path, closing)


@pytest.fixture
async def bot(world: World) -> Process:
    return await world.process()


def telegram_bot(world: World, default: DefaultBotProperties | None = None) -> Bot:
    server = TelegramAPIServer.from_base(world.api.url)
    return Bot(TOKEN, session=AiohttpSession(api=server), default=default)


def text_of(said: list[Call]) -> str:
    return "\n".join(call.fields["text"] for call in said)


def button(said: list[Call], text: str) -> str:
    return next(each["callback_data"] for each in said[-1].keyboard if each["text"] == text)


async def until_asked(bot: Process, world: World, login: str = ASKED) -> list[Call]:
    await bot.takes(world.api.wrote("/reset"))
    return await bot.takes(world.api.wrote(login))


async def until_verified(bot: Process, world: World) -> list[Call]:
    """A code is wanted of somebody who is asked no question; they type it."""
    await until_asked(bot, world, UNASKED)
    return await bot.takes(world.api.wrote(world.sandbox.newest_code(UNASKED)))


async def test_a_reset_goes_from_a_command_to_a_password_that_works_and_no_secret_is_said_or_logged(
    world: World, bot: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api = world.api
    assert "What is your login" in text_of(await bot.takes(api.wrote("/reset")))
    said = await bot.takes(api.wrote(ASKED))
    assert (world.sandbox.user(ASKED).question or "?") in text_of(said)
    assert "is on its way" in text_of(await bot.takes(api.wrote(ANSWER)))
    code = world.sandbox.newest_code(ASKED)
    await bot.takes(api.wrote(f"code: {code[:3]} {code[3:]}"))
    said = await bot.takes(api.wrote(PASSWORD))
    assert world.sandbox.password_of(ASKED) == PASSWORD
    assert text_of(said)
    assert len(api.of("deleteMessage")) == 3
    scanner = LeakScanner({"answer": ANSWER, "code": code, "password": PASSWORD, "login": ASKED})
    asked_for = [json.dumps(call.fields) for call in api.calls]
    assert scanner.find(*asked_for, caplog.text, *map(repr, caplog.records)) == []
    assert "is handled" in caplog.text, "aiogram logs what it does"


async def test_a_message_with_an_answer_is_deleted_before_the_broker_is_called(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    world.api.held["deleteMessage"] = allowed = asyncio.Event()
    before = len(world.sandbox.calls)
    typed = world.api.wrote(ANSWER)
    answered = asyncio.create_task(bot.takes(typed))
    [deletion] = await world.api.called("deleteMessage")
    assert deletion.fields == {"chat_id": "42", "message_id": str(typed["message"]["message_id"])}
    assert len(world.sandbox.calls) == before
    allowed.set()
    await world.sandbox.wait_for_calls("request", acted=True)
    assert "is on its way" in text_of(await answered)


@pytest.mark.parametrize(
    ("refusals", "is_told"),
    [
        pytest.param([UNDELETABLE], True, id="not permitted"),
        pytest.param([GONE], False, id="gone before"),
        pytest.param([SLOW_DOWN], False, id="a second later"),
        pytest.param([], False, id="deleted"),
    ],
)
async def test_a_person_is_told_if_their_message_is_still_there(
    world: World, bot: Process, refusals: list[Refusal], *, is_told: bool
) -> None:
    await until_asked(bot, world)
    world.api.refusals["deleteMessage"] = [*refusals]
    said = text_of(await bot.takes(world.api.wrote(ANSWER)))
    assert ("could not delete" in said) is is_told
    assert "is on its way" in said


async def test_a_deletion_that_hangs_is_given_up_and_the_person_is_told(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    world.api.held["deleteMessage"] = asyncio.Event()
    said = text_of(await bot.takes(world.api.wrote(ANSWER)))
    assert "could not delete" in said
    assert "is on its way" in said
    world.api.held["deleteMessage"].set()


async def test_an_update_that_is_delivered_twice_is_answered_twice_and_done_once(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    typed = world.api.wrote(ANSWER)
    first = await bot.takes(typed)
    calls = len(world.sandbox.calls)
    assert text_of(await bot.takes(typed)) == text_of(first)
    assert len(world.sandbox.calls) == calls


async def test_the_last_message_delivered_again_after_the_end_reaches_no_other_router(
    world: World, bot: Process
) -> None:
    await until_verified(bot, world)
    typed = world.api.wrote(PASSWORD)
    first = await bot.takes(typed)
    assert text_of(await bot.takes(typed)) == text_of(first)
    assert bot.elsewhere == []
    await bot.takes(world.api.wrote("What is my balance?"))
    assert bot.elsewhere == ["What is my balance?"]


async def test_two_updates_at_once_are_taken_in_their_order(world: World, bot: Process) -> None:
    said = await bot.takes(world.api.wrote("/reset"), world.api.wrote(ASKED), world.api.wrote(ANSWER))
    assert [call.fields["text"].split()[0] for call in said[:1]] == ["I"]
    assert "is on its way" in said[-1].fields["text"]
    assert [call.user for call in world.sandbox.calls_of("request") if call.acted] == [ASKED]


async def test_two_people_do_not_wait_for_each_other(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    world.api.held["deleteMessage"] = allowed = asyncio.Event()
    answered = asyncio.create_task(bot.takes(world.api.wrote(ANSWER)))
    await world.api.called("deleteMessage")
    await world.api.deliver(world.api.wrote("/reset", chat=43))
    count = len(world.api.of("sendMessage"))
    said = await world.api.called("sendMessage", count + 1)
    assert said[-1].fields["chat_id"] == "43"
    allowed.set()
    await answered


@pytest.mark.parametrize("text", ["/reset", f"/reset@{USERNAME}", "I forgot my password"])
async def test_in_a_group_the_bot_only_hands_over_to_a_private_chat(world: World, bot: Process, text: str) -> None:
    [said] = await bot.takes(world.api.wrote(text, chat=-1001))
    assert "private" in said.fields["text"]
    assert said.keyboard == [{"text": f"@{USERNAME}", "url": f"https://t.me/{USERNAME}?start=reset"}]
    assert await bot.takes(world.api.wrote(ASKED, chat=-1001)) == []
    assert world.sandbox.calls == []
    assert "What is your login" in text_of(await bot.takes(world.api.wrote("/start reset")))


async def test_each_message_may_be_taken_by_another_process(world: World) -> None:
    for text in ("/reset", ASKED, ANSWER, None, PASSWORD):
        process = await world.process()
        said = await process.takes(world.api.wrote(text or world.sandbox.newest_code(ASKED)))
        assert said
        await process.aclose()
    assert world.sandbox.password_of(ASKED) == PASSWORD


async def test_what_is_no_reset_is_left_to_other_routers(world: World, bot: Process) -> None:
    assert await bot.takes(world.api.wrote("What is my balance?")) == []
    assert bot.elsewhere == ["What is my balance?"]
    assert "What is your login" in text_of(await bot.takes(world.api.wrote("I forgot my password")))
    assert await bot.takes(world.api.wrote("What is my balance?"))
    assert len(bot.elsewhere) == 1


async def test_buttons_do_what_they_say_also_when_they_are_old(world: World, bot: Process) -> None:
    said = await until_asked(bot, world)
    cancel = button(said, "Cancel")
    assert "Nothing was changed" in text_of(await bot.takes(world.api.pressed(cancel)))
    assert len(world.api.of("answerCallbackQuery")) == 1
    world.api.refusals["answerCallbackQuery"] = [UNDELETABLE]
    assert "no reset under way" in text_of(await bot.takes(world.api.pressed(cancel)))
    assert await bot.takes(world.api.pressed("another bot's button")) == []


async def test_a_command_and_an_edit_say_where_we_stand_and_are_never_an_answer(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    question = world.sandbox.user(ASKED).question or ""
    edited = world.api.wrote("robert.zack", kind="edited_message", edit_date=1_790_000_009)
    for update in (world.api.wrote("/reset"), world.api.wrote("/start"), world.api.wrote("/start reset"), edited):
        assert question in text_of(await bot.takes(update))
    assert not [call for call in world.sandbox.calls_of("request") if call.acted]
    assert world.api.of("deleteMessage") == []


async def test_a_caption_is_a_text_and_a_sticker_is_none(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    sticker = {"file_id": "1", "file_unique_id": "1", "type": "regular", "width": 1, "height": 1}
    said = await bot.takes(world.api.wrote(sticker={**sticker, "is_animated": False, "is_video": False}))
    assert (world.sandbox.user(ASKED).question or "?") in text_of(said)
    photo = [{"file_id": "1", "file_unique_id": "1", "width": 1, "height": 1}]
    assert "is on its way" in text_of(await bot.takes(world.api.wrote(photo=photo, caption=ANSWER)))
    assert len(world.api.of("deleteMessage")) == 1


async def test_a_payment_during_a_reset_is_left_to_other_routers(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    paid = {"currency": "XTR", "total_amount": 1, "invoice_payload": "1"}
    charge = {"telegram_payment_charge_id": "1", "provider_payment_charge_id": "1"}
    assert await bot.takes(world.api.wrote(successful_payment=paid | charge)) == []
    assert bot.elsewhere == [None]


async def test_a_link_is_a_button_of_a_message_that_can_not_be_forwarded_and_the_end_is_told(world: World) -> None:
    links = OneLink()
    bot = await world.process(links=links)
    said = await until_verified(bot, world)
    assert said[-1].keyboard[0] == {"text": "Choose a new password", "url": URL}
    assert said[-1].fields["protect_content"] == "true"
    assert not said[-1].previews_links
    assert URL not in text_of(said)
    count = len(world.api.of("sendMessage"))
    await bot.service.set_password(links.flows[0], PASSWORD, holder=f"chat {CONVERSATION}")
    news = (await world.api.called("sendMessage", count + 1))[-1]
    assert news.fields["chat_id"] == "42"
    await bot.takes(world.api.wrote("thanks"))
    assert bot.elsewhere == ["thanks"]


async def test_what_telegram_refuses_for_good_is_not_sent_again_and_its_words_are_not_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    bot = await world.process(links=OneLink())
    await until_asked(bot, world, UNASKED)
    code = world.sandbox.newest_code(UNASKED)
    world.api.refusals["sendMessage"] = [attrs.evolve(INVALID_URL, description=f"Bad Request: URL {URL} is invalid")]
    count = len(world.api.of("sendMessage"))
    await bot.takes(world.api.wrote(code))
    assert len(world.api.of("sendMessage")) == count + 1
    assert "TelegramBadRequest" in caplog.text
    assert URL not in caplog.text
    world.api.refusals["sendMessage"] = [BLOCKED]
    await bot.takes(world.api.wrote("/help"))
    assert "TelegramForbiddenError" in caplog.text


async def test_a_bot_that_sends_too_much_says_it_later(world: World, bot: Process) -> None:
    world.api.refusals["sendMessage"] = [SLOW_DOWN]
    assert len(await bot.takes(world.api.wrote("/reset"))) == 2


async def test_a_long_text_comes_in_pieces(world: World, bot: Process) -> None:
    long = "🙂 " * 3000
    await bot.tell(CONVERSATION, Turn((ChatMessage("long", long, (Button("cancel", "Cancel", "/cancel"),)),)))
    said = world.api.of("sendMessage")
    assert "".join(call.fields["text"] for call in said) == long
    assert all(len(call.fields["text"].encode("utf-16-le")) <= 2 * 4096 for call in said)
    assert [len(call.keyboard) for call in said] == [0] * (len(said) - 1) + [1]


async def test_signs_in_a_question_are_no_markup(world: World) -> None:
    bot = await world.process(default=DefaultBotProperties(parse_mode="HTML", link_preview_is_disabled=False))
    question = "Is 1 < 2 & *what* is <b>your</b> pet's name?"
    world.sandbox.add_user("sly", question=question, answer=ANSWER)
    said = await until_asked(bot, world, "sly")
    assert question in text_of(said)
    assert not any("parse_mode" in call.fields or call.previews_links for call in said)


async def test_who_asks_for_a_human_is_heard_by_the_embedder(world: World, bot: Process) -> None:
    await until_asked(bot, world)
    await bot.takes(world.api.wrote("/human"))
    assert bot.escalations == [(CONVERSATION, Reason.ASKED)]


async def test_the_bot_of_the_document_begins_a_reset_and_asks_for_what_is_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "telegram.md").read_text()
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)  # noqa: S102 - it is ours
    monkeypatch.chdir(world.folder)
    monkeypatch.setenv("RESET_FLOW_BROKER_URL", world.sandbox.api_url)
    monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", APP_KEY)
    running = asyncio.create_task(names["run"](telegram_bot(world)))
    await world.api.deliver(world.api.wrote("hello"))
    [hint] = await world.api.called("sendMessage")
    assert hint.fields["text"] == "I can reset your password: /reset"
    for number, text in enumerate(("I forgot my password", UNASKED, None), 2):
        await world.api.deliver(world.api.wrote(text or world.sandbox.newest_code(UNASKED)))
        said = (await world.api.called("sendMessage", number))[-1]
    assert said.keyboard[0]["url"].startswith("https://example.com/reset/link/")
    os.kill(os.getpid(), signal.SIGTERM)
    await running

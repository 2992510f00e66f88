"""Resets in Telegram: a router for aiogram, and what shows news. Needs aiogram, of the extra `telegram`."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from aiogram import BaseMiddleware, Bot, F, Router, exceptions
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandStart, or_f
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, LinkPreviewOptions, Message, User
from aiogram.utils.deep_linking import create_start_link

from reset_flow.chat.turns import DeleteMessage, Escalate, Inbound, OpenLink, Reason, Show, Tell, Turn
from reset_flow.domain.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from reset_flow.chat.dialogue import ResetDialogue

T = TypeVar("T")
Escalation: TypeAlias = "Callable[[str, Reason], Awaitable[None]]"
Row: TypeAlias = list[InlineKeyboardButton]

logger = logging.getLogger("reset_flow")

NAME = "reset"
"""Of the command, of the deep link to a private chat, and of the data of our buttons."""

LONGEST_TEXT = 2048
"""Code points: at most the 4096 UTF-16 units that a message may have."""

PATIENCE, PAUSE = 30.0, 1.0
"""Seconds."""

WRITTEN = F.text | F.caption | F.photo | F.sticker | F.voice | F.video | F.document | F.audio
"""What people send. Payments and the like are never ours."""


def reset_router(dialogue: ResetDialogue, *triggers: Any, escalate: Escalation | None = None) -> Router:
    """
    Return a router that carries resets through private chats. Include it before every router that takes any text: what
    is written during a reset may be a secret.

    Args:
        triggers: Filters for messages that begin a reset, beside the command `/reset`.

        escalate: Called with the conversation and the reason when a human is wanted, at least once.
    """
    chats = _Chats(dialogue, escalate)
    router = Router(name="reset_flow")
    for observer in (router.message, router.edited_message, router.callback_query):
        observer.outer_middleware(_InOrder())
    router.message(or_f(Command(NAME), CommandStart(deep_link=True, magic=F.args == NAME)))(chats.stand)
    router.message(CommandStart(), chats.own)(chats.stand)
    router.message(WRITTEN, chats.own)(chats.take)
    for trigger in triggers:
        router.message(trigger)(chats.stand)
    # As an entry, a login that is corrected too late would count as a wrong answer.
    router.edited_message(WRITTEN, chats.own)(chats.stand)
    router.callback_query(F.data.startswith(f"{NAME}:"))(chats.press)
    return router


def tell(*bots: Bot, escalate: Escalation | None = None) -> Tell:
    """Return what shows news in the chats of these bots: `ResetDialogue(…, tell=tell(bot))`."""

    async def show(conversation: str, turn: Turn) -> None:
        bot = next(bot for bot in bots if conversation.startswith(_conversation(bot, "")))
        await _show(bot, conversation, turn, escalate)

    return show


class _Chats:
    """The handlers."""

    def __init__(self, dialogue: ResetDialogue, escalate: Escalation | None) -> None:
        self._dialogue = dialogue
        self._escalate = escalate

    async def own(self, message: Message, bot: Bot) -> bool:
        """Return whether a message is the dialogue's."""
        try:
            return _is_private(message) and await self._dialogue.active(
                _conversation(bot, message.chat.id), _name(message)
            )
        except StoreError:
            return True  # the dialogue says so; another router might log a secret

    async def take(self, message: Message, bot: Bot) -> None:
        """Take what was written."""
        await self._answer(message, bot, message.text or message.caption or "")

    async def stand(self, message: Message, bot: Bot) -> None:
        """Begin, or say where we stand."""
        await self._answer(message, bot, "")

    async def press(self, query: CallbackQuery, bot: Bot) -> None:
        """Take a button."""
        with suppress(exceptions.TelegramAPIError):  # too late, or the second time
            await query.answer()
        user, text = query.from_user, (query.data or "").removeprefix(f"{NAME}:")
        if query.message and query.message.chat.id == user.id:
            inbound = _inbound(bot, user.id, f"press {query.id}", text, user, private=True)
            await self._dialogue.handle(inbound, show=self._shows(bot, inbound))

    async def _answer(self, message: Message, bot: Bot, text: str) -> None:
        private = _is_private(message)
        inbound = _inbound(bot, message.chat.id, _name(message), text, message.from_user, private=private)
        links: list[Row] = []
        if not private:
            url = await create_start_link(bot, NAME)
            links = [[InlineKeyboardButton(text=f"@{(await bot.me()).username}", url=url)]]
        await self._dialogue.handle(inbound, partial(_delete, bot, message), self._shows(bot, inbound, links))

    def _shows(self, bot: Bot, inbound: Inbound, links: Sequence[Row] = ()) -> Show:
        return lambda turn: _show(bot, inbound.conversation, turn, self._escalate, links)


class _InOrder(BaseMiddleware):
    """Takes the updates of a chat one after another: aiogram handles all at once."""

    def __init__(self) -> None:
        self._queues: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, handler: Callable[..., Awaitable[Any]], event: Any, data: dict[str, Any]) -> Any:
        chat = event.chat.id if isinstance(event, Message) else event.from_user.id
        async with self._queues.setdefault(chat, asyncio.Lock()):
            return await handler(event, data)


def _conversation(bot: Bot, chat: int | str) -> str:
    return f"telegram:{bot.id}:{chat}"


def _name(message: Message) -> str:
    return f"{message.message_id}.{message.edit_date}" if message.edit_date else str(message.message_id)


def _is_private(message: Message) -> bool:
    return message.chat.type == ChatType.PRIVATE and message.from_user is not None


def _inbound(bot: Bot, chat: int, name: str, text: str, user: User | None, *, private: bool) -> Inbound:
    locale = (user and user.language_code) or "en"
    return Inbound(conversation=_conversation(bot, chat), message=name, text=text, locale=locale, private=private)


async def _delete(bot: Bot, message: Message, _: DeleteMessage) -> bool:
    try:
        return await _patiently(partial(bot.delete_message, message.chat.id, message.message_id))
    except exceptions.TelegramBadRequest as error:
        return "not found" in error.message  # it was gone before


async def _show(
    bot: Bot, conversation: str, turn: Turn, escalate: Escalation | None, links: Sequence[Row] = ()
) -> None:
    opens = [
        [InlineKeyboardButton(text=each.text, url=each.url)] for each in turn.effects if isinstance(each, OpenLink)
    ]
    try:
        for message in turn.messages:
            rows = [*opens, *links] if message is turn.messages[-1] else []
            rows += [
                [InlineKeyboardButton(text=each.text, callback_data=f"{NAME}:{each.sends}")] for each in message.buttons
            ]
            texts = [message.text[at : at + LONGEST_TEXT] for at in range(0, len(message.text), LONGEST_TEXT)]
            for text in texts:
                send = partial(
                    bot.send_message,
                    conversation.rpartition(":")[2],
                    text,
                    parse_mode=None,  # the bot's own default would read signs of a provider's question
                    link_preview_options=LinkPreviewOptions(is_disabled=True),
                    protect_content=bool(opens),
                    reply_markup=InlineKeyboardMarkup(inline_keyboard=rows) if rows and text is texts[-1] else None,
                )
                await _patiently(send)
    except (exceptions.TelegramForbiddenError, exceptions.TelegramBadRequest) as error:
        # Another try would change nothing. Telegram's words may hold the link.
        logger.warning("Telegram took no message for a chat: %s", type(error).__name__)
    for effect in turn.effects:
        if escalate and isinstance(effect, Escalate):
            await escalate(conversation, effect.reason)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until Telegram can be reached and takes it, for some time."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except (
            exceptions.TelegramRetryAfter,
            exceptions.TelegramNetworkError,
            exceptions.TelegramServerError,
        ) as error:
            pause = getattr(error, "retry_after", PAUSE)
            if time.monotonic() + pause > give_up_at:
                raise
        await asyncio.sleep(pause)

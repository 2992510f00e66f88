"""Telegram's Bot API on loopback: one bot, its updates by long polling, and refusals on demand."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import attrs
from aiohttp import web

if TYPE_CHECKING:
    from types import TracebackType

BOT_ID, USERNAME = 4711, "helpful_bot"
TOKEN = f"{BOT_ID}:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
BOT = {"id": BOT_ID, "is_bot": True, "first_name": "Helpful", "username": USERNAME}
DATE = 1_790_000_000

Update: TypeAlias = dict[str, Any]


@attrs.frozen
class Call:
    """What the bot asked for."""

    method: str
    fields: dict[str, str]

    @property
    def keyboard(self) -> list[dict[str, str]]:
        """Its buttons."""
        return [button for row in self._json("reply_markup").get("inline_keyboard", []) for button in row]

    @property
    def previews_links(self) -> bool:
        return not self._json("link_preview_options").get("is_disabled", False)

    def _json(self, field: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fields.get(field, "{}"))
        return found


@attrs.frozen
class Refusal:
    """A reply that Telegram gives in the place of doing what it was asked for."""

    status: int
    description: str
    parameters: dict[str, int] | None = None


UNDELETABLE = Refusal(400, "Bad Request: message can't be deleted")
GONE = Refusal(400, "Bad Request: message to delete not found")
BLOCKED = Refusal(403, "Forbidden: bot was blocked by the user")
INVALID_URL = Refusal(400, "Bad Request: inline keyboard button URL is invalid: Wrong HTTP URL")
SLOW_DOWN = Refusal(429, "Too Many Requests: retry after 1", {"retry_after": 1})


class BotApi:
    """
    Telegram, for the duration of an `async with`.

    Attributes:
        calls: Of the bot, in their order, but for `getUpdates`.

        refusals: By method: what is replied to the next calls of it, one after another.

        held: By method: what its calls wait for.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refusals: dict[str, list[Refusal]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self._updates: list[Update] = []
        self._last_update = 900
        self._last_message = 100
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(f"/bot{TOKEN}/{{method}}", self._serve)
        # A poll of a bot that has gone must take nothing along.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        assert self._runner
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def of(self, method: str) -> list[Call]:
        """Return the calls of a method."""
        return [call for call in self.calls if call.method == method]

    async def called(self, method: str, count: int = 1) -> list[Call]:
        """Wait for so many calls of a method."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.of(method)) >= count)
        return self.of(method)

    def wrote(self, text: str | None = None, *, chat: int = 42, kind: str = "message", **fields: Any) -> Update:
        """Return the update for a new message of a person."""
        return self._update({kind: self._message(text, chat, **fields)})

    def pressed(self, data: str, *, chat: int = 42) -> Update:
        """Return the update for a press of a button."""
        shown = self._message("a text with buttons", chat) | {"from": BOT}
        press = {"id": f"8{shown['message_id']}", "from": _person(chat), "message": shown, "chat_instance": "1"}
        return self._update({"callback_query": {**press, "data": data}})

    def _update(self, event: dict[str, Any]) -> Update:
        self._last_update += 1
        return {"update_id": self._last_update, **event}

    def _message(self, text: str | None, chat: int, **fields: Any) -> dict[str, Any]:
        self._last_message += 1
        what = {"type": "private", "first_name": "Robert"} if chat > 0 else {"type": "supergroup", "title": "Our group"}
        written = {} if text is None else {"text": text}
        head = {"message_id": self._last_message, "date": DATE, "chat": {"id": chat, **what}, "from": _person(chat)}
        return {**head, **written, **fields}

    async def deliver(self, *updates: Update) -> None:
        """Hand out updates, all in one reply."""
        async with self._changed:
            self._updates += updates
            self._changed.notify_all()

    async def _serve(self, request: web.Request) -> web.Response:
        method, form = request.match_info["method"], await request.post()
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        if method == "getUpdates":
            return _accepted(await self._poll(int(fields.get("timeout", "0"))))
        async with self._changed:
            self.calls.append(Call(method, fields))
            self._changed.notify_all()
        if held := self.held.get(method):
            await held.wait()
        if waiting := self.refusals.get(method):
            return _refused(waiting.pop(0))
        if method == "sendMessage":
            self._last_message += 1
            chat = {"id": int(fields["chat_id"]), "type": "private", "first_name": "Robert"}
            sent = {"message_id": self._last_message, "date": DATE, "chat": chat, "from": BOT, "text": fields["text"]}
            return _accepted(sent)
        return _accepted(BOT if method == "getMe" else True)

    async def _poll(self, timeout: float) -> list[Update]:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._updates), timeout)
            except TimeoutError:
                return []
            updates, self._updates = self._updates, []
            return updates


def _person(chat: int) -> dict[str, Any]:
    return {"id": abs(chat), "is_bot": False, "first_name": "Robert", "language_code": "en"}


def _accepted(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refused(refusal: Refusal) -> web.Response:
    body = {"ok": False, "error_code": refusal.status, "description": refusal.description}
    more = {"parameters": refusal.parameters} if refusal.parameters else {}
    return web.json_response({**body, **more}, status=refusal.status)

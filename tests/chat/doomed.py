"""
Bots for Telegram and servers of tools that die by SIGKILL at one named point.

Each line on standard input is a job, as JSON, for a process of its own, forked from this one to save it the imports.
Lines on standard output tell its process id, and how it ended. The points are `before` and `after` each save of the
store, each call of the broker and each call of Telegram, numbered as they come: `after save 2`. Each process writes the
points that it passes, and all that any library logs, into files. Its clock may be ahead, as one that starts much later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import DeleteMessage, GetMe, GetUpdates, Response, SendMessage

from reset_flow import EtnaTransport, Keyring, Policy, ResetService, SQLiteStore
from reset_flow.chat import News, ResetDialogue
from reset_flow.chat.telegram import reset_router, tell
from reset_flow.cli import serving_mcp
from reset_flow.cli.session import Settings
from reset_flow.messages import LOCALES, Texts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.ports import Store, Transport

SESSION = AiohttpSession()
WATCHED = ("save", "challenge", "request", "exchange", "update")


class Fate:
    """Notes the points that a process passes, and kills it at one of them."""

    def __init__(self, point: str | None, passed: str) -> None:
        self._point = point
        self._passed = Path(passed)
        self._counts: Counter[str] = Counter()

    def watched(self, inner: Any) -> Any:
        """Return a store or a transport of which each save and call passes here."""
        return _Watched(inner, self)

    async def call(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await a call between two points."""
        self._counts[name] += 1
        number = self._counts[name]
        self._reach(f"before {name} {number}")
        result = await call()
        self._reach(f"after {name} {number}")
        return result

    def _reach(self, point: str) -> None:
        with self._passed.open("a") as passed:
            passed.write(f"{point}\n")
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


class _Watched:
    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name not in WATCHED:
            return inner

        async def call(*args: Any, **options: Any) -> Any:
            return await self._fate.call(name, lambda: inner(*args, **options))

        return call


def make_service(job: dict[str, Any], fate: Fate, **options: Any) -> ResetService:
    ahead = timedelta(seconds=job["ahead"])
    store = SQLiteStore(job["store"], clock=lambda: datetime.now(UTC) + ahead)
    transport = EtnaTransport(job["broker"], job["app_key"], name="broker")
    return ResetService(
        cast("Transport", fate.watched(transport)),
        cast("Store", fate.watched(store)),
        Keyring.from_file(job["keys"]),
        policy=Policy(resend_cooldown=timedelta(0), flow_lifetime=timedelta(days=1)),
        clock=lambda: datetime.now(UTC) + ahead,
        sweep=False,
        **options,
    )


async def run_bot(job: dict[str, Any], fate: Fate) -> None:
    SESSION.api = TelegramAPIServer.from_base(job["api"])
    bot = Bot(job["token"], session=SESSION)

    async def watch(make_request: Any, bot: Bot, method: Any) -> Any:
        if method.__api_method__ == "getUpdates":
            return await make_request(bot, method)
        return await fate.call(method.__api_method__, lambda: make_request(bot, method))

    bot.session.middleware(watch)
    news, ahead = News(), timedelta(seconds=job["ahead"])
    async with make_service(job, fate, listeners={"chat": news}) as service:
        dialogue = ResetDialogue(
            service,
            passwords_in_chat=True,
            news=news,
            tell=tell(bot),
            patience=timedelta(seconds=job["patience"]),
            clock=lambda: datetime.now(UTC) + ahead,
        )
        async with dialogue:
            dispatcher = Dispatcher()
            dispatcher.include_router(reset_router(dialogue, F.text == "I forgot my password"))
            await dispatcher.start_polling(bot, polling_timeout=5)


def serve_tools(job: dict[str, Any], fate: Fate) -> None:
    """Do as `reset-flow mcp --http` does, with a store and a broker that are watched."""
    vars(serving_mcp)["from_env"] = lambda *_, **__: make_service(job, fate)
    os.environ["RESET_FLOW_MCP_TOKENS_FILE"] = job["tokens"]
    settings = Settings(options={"STORE": f"sqlite:///{job['store']}"})
    serving_mcp.serve(settings, listen=("127.0.0.1", 0), public_url="https://example.com/reset/")


def live(job: dict[str, Any]) -> None:
    logging.basicConfig(filename=job["logged"], level=logging.DEBUG, force=True)
    fate = Fate(job["point"], job["passed"])
    if job["kind"] == "bot":
        asyncio.run(run_bot(job, fate))
    else:
        serve_tools(job, fate)


def main() -> None:
    for method in (DeleteMessage, GetMe, GetUpdates, SendMessage):  # what takes long is done once for all
        Response[method.__returning__]  # type: ignore[name-defined]
    for locale in LOCALES:
        Texts().say("done", locale)
    for line in sys.stdin:
        job = json.loads(line)
        if (child := os.fork()) == 0:
            status = 1
            try:
                live(job)
                status = 0
            except BaseException:
                logging.getLogger(__name__).exception("it broke off")
            os._exit(status)
        tell_parent({"pid": child})
        tell_parent({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def tell_parent(news: dict[str, Any]) -> None:
    os.write(1, (json.dumps(news) + "\n").encode())


if __name__ == "__main__":
    main()

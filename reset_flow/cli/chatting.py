"""The dialogue at a terminal: lines in, bubbles out."""

from __future__ import annotations

import asyncio
import locale
import secrets
import signal
import sys
import termios
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from rich.box import ROUNDED
from rich.panel import Panel
from rich.text import Text

from reset_flow.chat import Escalate, Inbound, News, OpenLink, ResetDialogue
from reset_flow.cli.prompts import NoSecret
from reset_flow.cli.screen import at_terminal, clock_time, complain, console
from reset_flow.config import from_env
from reset_flow.domain.text import one_line
from reset_flow.messages import Texts
from reset_flow.web import Links

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.chat import DeleteMessage, Message, Turn
    from reset_flow.cli.session import Settings
    from reset_flow.service import ResetService

__all__ = ["PROMPT", "chat"]

PROMPT = "> "
"""What ends the output while a line is awaited."""

PLAIN = frozenset({"chat.login", "chat.free"})
"""Texts after which nothing secret is typed."""

WIDTH = 72
LONGEST = 64 * 1024
"""Bytes of a line."""


def chat(settings: Settings, *, conversation: str, language: str | None, public_url: str | None) -> None:
    """Carry on a conversation until the input ends. What is open then stays open."""
    news = News()
    service = from_env({**settings.overrides, "STORE": settings.store}, listeners={"chat": news})
    links = Links(service, public_url) if public_url else None
    asyncio.run(_Chat(conversation, language or locale.getlocale()[0] or "en").run(service, links, news))


class _Chat:
    """One conversation, and who sits at it."""

    def __init__(self, name: str, language: str) -> None:
        self._name = name
        self._conversation = f"terminal:{name}"
        self._texts = Texts()
        self._language = self._texts.negotiate(language.replace("_", "-"), None)
        self._console = console()
        self._hides = False
        self._waits = False

    async def run(self, service: ResetService, links: Links | None, news: News) -> None:
        dialogue = ResetDialogue(service, links=links, passwords_in_chat=links is None, news=news, tell=self._tell)
        with _Keyboard() as self._keyboard:
            async with service, dialogue:
                try:
                    await self._talk(dialogue)
                finally:
                    if self._waits:
                        self._console.print()
                    if await dialogue.active(self._conversation):
                        self._aside(self._said("chat.terminal.stays", name=self._name))

    async def _talk(self, dialogue: ResetDialogue) -> None:
        self._aside(self._said("chat.terminal.leave"))
        text: str | None = "/help"
        while text is not None:
            inbound = Inbound(
                conversation=self._conversation,
                message=secrets.token_hex(8),
                text=text,
                locale=self._language,
                private=True,
            )
            was_hidden = self._hides and self._keyboard.at_terminal
            self._show(await dialogue.handle(inbound, partial(_deleted, was_hidden)))
            text = await self._ask()

    async def _ask(self) -> str | None:
        """Return the next line that is not empty; `None` at the end of the input."""
        while True:
            self._prompt()
            self._waits = True
            if not (line := await self._keyboard.line()):
                return None
            self._waits = False
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                text = ""
                complain(self._said("chat.terminal.no_text"))
            if self._hides:
                self._console.print(6 * "*" if text else "")
            elif not self._keyboard.at_terminal:
                self._console.print(text)
            if text.strip():
                return text

    async def _tell(self, conversation: str, turn: Turn) -> None:
        """Show news, also while a line is awaited."""
        if conversation != self._conversation:
            raise LookupError("that conversation is somewhere else")
        if self._waits:
            self._console.print()
        self._show(turn)
        if self._waits:
            self._prompt()

    # --- what is shown

    def _show(self, turn: Turn) -> None:
        self._hides = not turn.done and not any(each.id in PLAIN for each in turn.messages)
        if turn.messages:
            self._bubble(turn.messages)
        for effect in turn.effects:
            match effect:
                case OpenLink():
                    self._console.print(Text.assemble((f"  {one_line(effect.text)}: ", "bold"), effect.url))
                    self._aside(self._said("chat.terminal.link", time=clock_time(effect.expires_at)))
                case Escalate():
                    self._aside(self._said(f"chat.terminal.{effect.reason}"))

    def _bubble(self, messages: Sequence[Message]) -> None:
        buttons = Text("   ").join(
            Text.assemble((button.sends, "cyan"), f" {one_line(button.text)}")
            for message in messages
            for button in message.buttons
        )
        parts = [*(Text(message.text) for message in messages), *([buttons] if buttons else [])]
        panel = Panel(Text("\n\n").join(parts), box=ROUNDED, border_style="blue", padding=(0, 1), expand=False)
        self._console.print(panel, soft_wrap=False, width=min(WIDTH, self._console.width))

    def _aside(self, text: str) -> None:
        self._console.print(Text(f"  {text}", "dim"))

    def _prompt(self) -> None:
        self._keyboard.echo(on=not self._hides)
        you = f"  {self._said('chat.terminal.you')}"
        hidden = (f" {self._said('chat.terminal.hidden')}", "dim") if self._hides else ""
        self._console.print(Text.assemble((you, "bold green"), hidden, f" {PROMPT}"), end="")

    def _said(self, id_: str, **context: str) -> str:
        return self._texts.say(id_, self._language, **context)


async def _deleted(was_hidden: bool, _: DeleteMessage) -> bool:  # noqa: FBT001
    """Return whether nobody can read the line any more: a terminal that did not show it has none."""
    return was_hidden


class _Keyboard:
    """The lines of standard input. A thread reads them, as news come meanwhile."""

    def __init__(self) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise NoSecret("standard input is closed: run the command at a terminal, or pipe the lines in")
        self.at_terminal = at_terminal(sys.stdin)
        self._input = sys.stdin.fileno()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        if self.at_terminal:
            self._before = termios.tcgetattr(self._input)
            self.echo(on=False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._lines.put_nowait, b"")
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.at_terminal:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    async def line(self) -> bytes:
        """Return the next line; nothing at the end. From then on nothing is echoed."""
        try:
            return await self._lines.get()
        finally:
            self.echo(on=False)

    def echo(self, *, on: bool) -> None:
        """Have the terminal show what is typed, or not."""
        if self.at_terminal:
            modes = termios.tcgetattr(self._input)
            modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
            termios.tcsetattr(self._input, termios.TCSADRAIN, modes)

    def _read(self) -> None:
        """Pass the lines on. The file is one without a lock, for which an exit would wait."""
        line = b"-"
        with open(self._input, "rb", buffering=0, closefd=False) as lines:
            while line:
                try:
                    line = lines.readline(LONGEST)
                except OSError:  # the terminal is gone
                    line = b""
                with suppress(RuntimeError):  # the loop is over
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

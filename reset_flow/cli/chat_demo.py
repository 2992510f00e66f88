"""
One reset in a chat, killed half-way: `reset-flow demo --chat`.

`reset-flow chat` runs at a terminal of its own, at which this types. What it shows is passed on as it is; then it is
killed with SIGKILL, and another process goes on with the conversation.
"""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING

from rich.text import Text

from reset_flow.cli import disk_inspection
from reset_flow.cli.demo import ANSWER, APP_KEY, DATABASE, KEYS, USER, Demo
from reset_flow.cli.processes import DemoFailed, Typist
from reset_flow.cli.screen import console

if TYPE_CHECKING:
    from reset_flow.cli.processes import Sandbox

__all__ = ["ChatDemo"]

PROMPT = "> "
END_OF_INPUT = "\x04"
WIDTH = 80


class ChatDemo(Demo):
    """The demo in a chat."""

    async def play(self) -> None:
        """Play from a forgotten password to one that works."""
        line = self._timeline
        line.title("reset-flow chat", "One password reset in a chat, whose process is killed half-way.")
        self._shown: list[str] = []
        async with self._processes:
            sandbox = await self._open_sandbox()
            old_password = (await sandbox.ask("state", user=USER))["password"]
            chat = await self._open_chat(sandbox, 1)
            await self._say(chat, USER, "What street")
            await self._say(chat, "What is my balance?", "What street", "a question about something else")
            self._words["answer"] = ANSWER
            await self._say(chat, ANSWER, "a code is on its way", "the answer")
            self._words["code"] = (await sandbox.ask("inbox", user=USER))[-1]["code"]
            typed = f"Code: {self._words['code'][:3]} {self._words['code'][3:]}."
            await self._say(chat, typed, "Choose a new password", "Code: xxx xxx., as it stands in the e-mail")
            self._words["token"] = await self._token(sandbox)
            line.gap("\n")
            await self._kill(chat)
            chat = await self._open_chat(sandbox, 2, "Choose a new password")
            self._words["password"] = f"violet-tractor-{secrets.token_hex(4)}"
            await self._say(chat, self._words["password"], "is set", "a new password")
            chat.type(END_OF_INPUT)
            if (status := await chat.ended()) != 0:
                raise DemoFailed(f"{chat.name} ended with {status}, not with 0")
            line.gap("\n")
            await self._log_in(sandbox, old_password)
            line.gap("")
            await self._check_broker(sandbox)
            self._check_search()
            size = sum(map(len, self._shown))
            line.check(f"the terminal showed no answer, code, token or password, in {size:,} characters")
        line.gap("")
        line.title("Done", f"in {line.seconds:.1f} s: nothing lost, nothing doubled, nothing leaked.")

    async def _open_chat(self, sandbox: Sandbox, number: int, expected: str = "What is your login") -> Typist:
        settings = {
            "RESET_FLOW_BROKER_URL": sandbox.api_url,
            "RESET_FLOW_BROKER_SECRET": APP_KEY,
            "RESET_FLOW_STORE": f"sqlite:///{(self._folder / DATABASE).resolve()}",
            "RESET_FLOW_KEYS": str((self._folder / KEYS).resolve()),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("RESET_FLOW_")}
        looks = {} if console().is_terminal else {"TERM": "dumb"}
        chat = await Typist.open(
            f"chat {number}",
            self._staging.chat,
            self._folder / f"chat-{number}.log",
            width=min(console().width, WIDTH),
            settings={"TERM": "xterm-256color", **others, **settings, **looks},
        )
        self._processes.push_async_callback(chat.aclose)
        where = "" if number == 1 else ", and goes on with the conversation"
        self._timeline.aside(chat.name, f"`reset-flow chat` starts{where} (process {chat.pid})")
        self._timeline.gap("")
        await self._read(chat, expected)
        return chat

    async def _say(self, chat: Typist, text: str, expected: str, hidden: str = "") -> None:
        """Type a line. What the terminal hides is named."""
        console().print(Text(hidden and f"({hidden}) ", "italic"), end="")
        chat.type(text)
        await self._read(chat, expected)

    async def _read(self, chat: Typist, expected: str) -> None:
        """Pass on what it shows, up to the next prompt."""
        shown = await chat.read_until(PROMPT)
        sys.stdout.write(shown)
        sys.stdout.flush()
        self._shown.append(shown)
        if expected not in shown:
            raise DemoFailed(f"{chat.name} did not say {expected!r}")
        self._search(chat.name, shown)

    def _search(self, name: str, shown: str) -> None:
        text = "".join(shown.split())
        if found := [key for key, word in self._words.items() if key != "login" and "".join(word.split()) in text]:
            raise DemoFailed(f"{name} shows the {', the '.join(found)}")
        database = self._folder / DATABASE
        self._searches += 1
        if found := disk_inspection.find_words(database, self._words):
            raise DemoFailed(f"{DATABASE} can be read: it holds the {', the '.join(found)}")

"""docs/chat.md says what is so: its transcript is played, its table is the code's, its adapter works."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import pytest

from reset_flow.chat import DeleteMessage, Escalate, Inbound, News, OpenLink, ResetDialogue, Turn
from reset_flow.chat.table import Kind, Phase, act_for
from tests.web.houses import ANSWER, ASKED, PASSWORD, House

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.web.houses import Worker

PAGE = (Path(__file__).parents[2] / "docs" / "chat.md").read_text()
CODE = "741 175"


def between(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", PAGE, re.DOTALL)
    assert found, f"there is no place for the {mark}"
    return found[1]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House("memory", tmp_path) as house:
        yield house


async def open_link(house: House, worker: Worker, url: str) -> None:
    """Set the password in a browser that comes by a link."""
    browser = await house.browser(worker)
    page = await browser.get(urlsplit(url).path)
    await browser.send(page.forms[-1])
    await browser.do("password", password=PASSWORD)


@attrs.define
class Transcript:
    """What a chat shows, in the way of the document."""

    lines: list[str] = attrs.field(factory=list)
    links: list[str] = attrs.field(factory=list)
    told: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def delete(self, _: DeleteMessage) -> bool:
        self.lines.append("  (deletes the message)")
        return True

    async def tell(self, _: str, turn: Turn) -> None:
        self.show(turn)
        self.told.set()

    def show(self, turn: Turn) -> None:
        for message in turn.messages:
            self.lines.append(f"  {message.text}")
            if message.buttons:
                self.lines.append("  " + " ".join(f"[{button.text}]" for button in message.buttons))
        for effect in turn.effects:
            match effect:
                case OpenLink():
                    self.lines.append(f"  (shows the link “{effect.text}”, good for ten minutes)")
                    self.links.append(effect.url)
                case Escalate():
                    self.lines.append("  (calls a colleague)")
        self.lines.append("")


async def test_the_transcript_is_what_happens(house: House) -> None:
    seen, news = Transcript(), News()
    worker = await house.worker(listeners={"chat": news})
    dialogue = ResetDialogue(worker.service, links=worker.links, news=news, tell=seen.tell, clock=house.clock)

    async def say(text: str) -> None:
        shown = text.replace(house.sandbox.newest_code(ASKED), CODE) if "code" in text else text
        seen.lines.append(f"> {shown}")
        message = str(len(seen.lines))
        inbound = Inbound(conversation="acme:4711", message=message, text=text, private=True)
        seen.show(await dialogue.handle(inbound, seen.delete))

    for text in ("I forgot my password", ASKED, "What is my balance?", "Petersen", ANSWER):
        await say(text)
    await say(f"the code is {house.sandbox.newest_code(ASKED)}.")
    seen.lines += ["(in the browser, at the link: a new password)", ""]
    await open_link(house, worker, seen.links[-1])
    await asyncio.wait_for(seen.told.wait(), 60)
    assert house.sandbox.password_of(ASKED) == PASSWORD
    assert between("transcript") == "```text\n" + "\n".join(seen.lines[:-1]) + "\n```\n"
    assert len(house.sandbox.calls_of("exchange")) == 1


def table() -> str:
    rows = [
        f"| | {' | '.join(f'`{kind}`' for kind in Kind)} |",
        f"| --- |{' --- |' * len(Kind)}",
        *(
            f"| `{phase}` | {' | '.join(act_for(phase, kind) for kind in Kind)} |"
            for phase in Phase
            if phase is not Phase.ENDED
        ),
    ]
    return "\n".join(rows) + "\n"


def test_the_table_is_the_code_s() -> None:
    assert between("table") == table()


def test_the_drawing_has_each_phase_and_only_acts_of_the_table() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+)(?:: (\w+))?$", PAGE, re.MULTILINE)
    assert {phase for edge in drawn for phase in edge[:2]} == set(Phase) - {Phase.ELSEWHERE}
    for source, _, act in drawn:
        assert not act or act in {act_for(Phase(source), kind) for kind in Kind}


@attrs.define
class Platform:
    """One that delivers, shows, and keeps what nobody deletes."""

    kept: dict[str, str] = attrs.field(factory=dict)
    shown: list[str] = attrs.field(factory=list)
    links: list[str] = attrs.field(factory=list)
    buttons: dict[str, str] = attrs.field(factory=dict)
    news: asyncio.Queue[str] = attrs.field(factory=asyncio.Queue)

    async def send(self, chat: str, text: str, buttons: dict[str, str]) -> None:
        assert chat == "4711"
        self.shown.append(text)
        self.buttons = buttons
        self.news.put_nowait(text)

    async def send_link(self, _: str, __: str, url: str) -> None:
        self.links.append(url)

    async def call_colleague(self, _: str, reason: str) -> None:
        self.shown.append(reason)

    async def delete(self, _: str, message: str) -> bool:
        return self.kept.pop(message, None) is not None


async def test_the_adapter_of_one_s_own_carries_a_reset(house: House) -> None:
    found = re.search(r"<!-- adapter -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    source = [line for line in found[1].splitlines() if line.strip()]
    assert len(source) <= 40
    names: dict[str, Any] = {"__name__": "adapter"}
    exec(found[1], names)  # noqa: S102 - a snippet of the document
    news, platform = News(), Platform()
    worker = await house.worker(listeners={"chat": news})
    adapter = names["Adapter"](worker.service, news, worker.links, platform)

    async def write(text: str, kind: str = "direct") -> None:
        message = str(len(platform.shown))
        platform.kept[message] = text
        await adapter.on_message({"chat": "4711", "id": message, "text": text, "language": "en", "kind": kind})

    await write("hello", kind="group")
    assert platform.shown == ["Let's do that in private. Write to me directly."]
    for text in ("hello", "/human", ASKED, ANSWER):
        await write(text)
    assert "asked" in platform.shown
    assert platform.buttons["/cancel"] == "Cancel"
    code = house.sandbox.newest_code(ASKED)
    await write(code)
    assert not {ANSWER, code} & set(platform.kept.values())
    platform.news = asyncio.Queue()
    await open_link(house, worker, platform.links[-1])
    assert (await asyncio.wait_for(platform.news.get(), 60)).startswith("Your new password is set")
    assert house.sandbox.password_of(ASKED) == PASSWORD

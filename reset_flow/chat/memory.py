"""What is remembered of conversations, in side records: sealed, good on any worker and after any restart."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import msgspec
from msgspec import Struct

from reset_flow.chat.turns import OpenLink, Turn
from reset_flow.domain.errors import StaleRecord, StoreUnavailable
from reset_flow.engine.background_tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.persistence.side_records import SideRecords
    from reset_flow.service import ResetService

REMEMBERED = 8
"""Messages of which the turn is kept: platforms deliver the newest ones twice."""

SHARDS = 32
MOST_IN_SHARD, LARGEST_SHARD = 500, 60_000
"""Messages under way, and their bytes. Beyond that, the process that dies has those asked again that write again."""

DAY = timedelta(days=1)
TRIES = 10
"""To change a record that others change, too: with their pauses, about ten seconds."""

_T = TypeVar("_T", bound=Struct)


class Taken(Struct, frozen=True, array_like=True):
    """
    A message that is being worked on.

    Attributes:
        phase, kind: What it was taken for. The same, delivered again after a crash, is taken for the same.

        worker: The dialogue that does so.
    """

    message: str
    phase: str
    kind: str
    worker: str
    at: datetime


class Talk(Struct, frozen=True, array_like=True):
    """
    One conversation.

    Attributes:
        locale: In which the person last wrote, for what is told without being asked.

        asked: Whether the login was asked for.

        secret: Of the flow that is under way.

        link: The last one, while it is good.

        last_code, last_answer: The hashes of those that were typed last: if they come once more, they are nothing new.

        recent: The last messages and the turns that they got.

        last_refused: The hash of the answer or code that the broker refused last: the same again would be refused, too.
    """

    locale: str = "en"
    asked: bool = False
    secret: str = ""
    taken: Taken | None = None
    link: OpenLink | None = None
    last_code: bytes = b""
    recent: tuple[tuple[str, Turn], ...] = ()
    last_answer: bytes = b""
    last_refused: bytes = b""

    def turn_of(self, message: str) -> Turn | None:
        """Return the turn that a message got."""
        return next((turn for name, turn in self.recent if name == message), None)

    @property
    def was_asked_for_code(self) -> bool:
        """Whether one of the last turns asked for a code: it may come when another worker has started over."""
        return any(said.id.startswith(("chat.code", "code.")) for _, turn in self.recent for said in turn.messages)

    @property
    def waits(self) -> bool:
        """Whether the person was told last that a call is under way."""
        said = self.recent[-1][1].messages if self.recent else ()
        return bool(said) and said[-1].id == "busy"

    def with_turn(self, message: str, turn: Turn) -> Talk:
        """Return it with what a message got, which is done with."""
        kept = [each for each in self.recent if each[0] != message]
        taken = None if self.taken and self.taken.message == message else self.taken
        return msgspec.structs.replace(self, taken=taken, recent=(*kept, (message, turn))[-REMEMBERED:])


class Route(Struct, frozen=True, array_like=True):
    """
    Where the end of a flow is to be told.

    Attributes:
        told: Whether it was.
    """

    conversation: str
    told: bool = False


class Mark(Struct, frozen=True, array_like=True):
    """A message that was begun: what is left of it after a crash is found here."""

    conversation: str
    message: str
    at: datetime


class Shard(Struct, frozen=True, array_like=True):
    """Some of the marks."""

    marks: tuple[Mark, ...] = ()


class Memory:
    """The side records of the dialogue. All methods raise StoreUnavailable as the store does."""

    def __init__(self, service: ResetService) -> None:
        self._talks = service.side("chat conversation")
        self._routes = service.side("chat flow")
        self._shards = service.side("chat marks")
        self._lifetime = service.policy.flow_lifetime + DAY

    async def load(self, conversation: str) -> Talk:
        """Return what is known of a conversation."""
        return (await self._load(self._talks, conversation, Talk()))[0]

    async def change(self, conversation: str, change: Callable[[Talk], Talk]) -> Talk:
        """Change it, whoever else does at the same time. Return what is saved."""
        return await self._change(self._talks, conversation, Talk(), change)

    async def swap(self, conversation: str, before: Talk, after: Talk) -> bool:
        """Change it if it is still as it was (compare-and-swap). Return whether it is changed."""
        return await self.change(conversation, lambda now: after if now == before else now) == after

    async def finish(self, conversation: str, before: Talk, after: Talk, message: str, turn: Turn) -> None:
        """Keep what a message got, and what became of the conversation, unless somebody else has changed it since."""
        await self.change(conversation, lambda now: (after if now == before else now).with_turn(message, turn))

    async def route(self, flow_id: str) -> Route | None:
        """Return where the end of a flow is to be told."""
        found, _ = await self._load(self._routes, flow_id, Route(""))
        return found if found.conversation else None

    async def set_route(self, flow_id: str, route: Route) -> None:
        """Say where the end of a flow is to be told, and whether it was."""
        await self._change(self._routes, flow_id, Route(""), lambda _: route)

    async def mark(self, mark: Mark) -> None:
        """Note that a message is begun, before anything is done that a crash would hide from the person."""
        await self._change(self._shards, _shard(mark), Shard(), lambda shard: Shard((*_others(shard, mark), mark)))

    async def unmark(self, mark: Mark) -> None:
        """Note that its turn is kept."""
        await self._change(self._shards, _shard(mark), Shard(), lambda shard: Shard(_others(shard, mark)))

    async def marks(self) -> list[Mark]:
        """Return the messages that are begun."""
        shards = [await self._load(self._shards, str(number), Shard()) for number in range(SHARDS)]
        return [mark for shard, _ in shards for mark in shard.marks]

    async def _load(self, records: SideRecords, name: str, default: _T) -> tuple[_T, bytes]:
        found = await records.load(name)
        value = msgspec.msgpack.decode(found.value, type=type(default)) if found.value else default
        return value, found.revision

    async def _change(self, records: SideRecords, name: str, default: _T, change: Callable[[_T], _T]) -> _T:
        backoff = Backoff()
        for _ in range(TRIES):
            before, revision = await self._load(records, name, default)
            after = change(before)
            if after == before:
                return after
            with suppress(StaleRecord):
                await records.save(name, msgspec.msgpack.encode(after), revision=revision, lifetime=self._lifetime)
                return after
            await backoff.pause()
        raise StoreUnavailable("too many messages change the same record of the chat at once")


def _shard(mark: Mark) -> str:
    return str(crc32(mark.conversation.encode()) % SHARDS)


def _others(shard: Shard, mark: Mark) -> tuple[Mark, ...]:
    others = [each for each in shard.marks if (each.conversation, each.message) != (mark.conversation, mark.message)]
    while len(others) > MOST_IN_SHARD or len(msgspec.msgpack.encode(others)) > LARGEST_SHARD:
        del others[0]
    return tuple(others)

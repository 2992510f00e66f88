"""Bots over one store and one broker, processes that die, and people who write to them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from reset_flow import (
    Accepted,
    CodeRejected,
    Keyring,
    MemoryStore,
    PasswordRejected,
    Policy,
    Rejected,
    ResetService,
    Secret,
    StoreUnavailable,
)
from reset_flow.chat import DeleteMessage, Inbound, News, OpenLink, ResetDialogue, Turn
from reset_flow.ports import Store
from reset_flow.testing import FrozenClock, ScriptedTransport, Witness
from reset_flow.web import Links
from tests.patience import let_time_pass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from reset_flow import Case, Event, Outcome, Query, Record, Transport
    from reset_flow.ports import Use, UseName

LOGIN, QUESTION, ANSWER = "Zoë+Maßmann", "Wo wohnten Sie 1987?", 'Königsallee 7 "½"'
CODE, PASSWORD, PIN, TOKEN = "741175", "violet-träctor&5", "90817263", "tok-ß-5c1f2b9d"
SECRETS = {"login": LOGIN, "answer": ANSWER, "code": CODE, "password": PASSWORD, "pin": PIN, "token": TOKEN}
CHAT = "telegram:4711"
PUBLIC_URL = "https://example.com/reset/"
PATIENCE = timedelta(seconds=10)
LEASE = timedelta(seconds=30)
HANGS = timedelta(minutes=1)
"""How long a call of the platform hangs, at least."""
POLICY = Policy(lease=LEASE)
TURNS = 300
"""Of the event loop."""

MOST_MESSAGES = 40
"""To the end of a reset, whatever went wrong before."""

WAITS = ("limit.", "busy", "broker.", "store.")
"""Texts after which a person comes back the next day."""

TESTS = Path(__file__).parents[1]
"""The frames of callers, who have their own secrets in them."""


class Provider(ScriptedTransport):
    """A broker that knows the right answer and code, unless its script says otherwise."""

    def __init__(self, *, question: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.question = QUESTION if question else ""
        self.answer = ANSWER
        self.code = CODE

    async def challenge(self, case: Case) -> Outcome:
        outcome = await super().challenge(case)
        return Accepted(value=Secret(self.question)) if isinstance(outcome, Accepted) else outcome

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        is_wrong = self.question and (answer is None or answer.reveal() != self.answer)
        return Rejected(reasons=["no"]) if isinstance(outcome, Accepted) and is_wrong else outcome

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        outcome = await super().exchange(case, code)
        if isinstance(outcome, Accepted):
            return Accepted(value=Secret(TOKEN)) if code.reveal() == self.code else Rejected(reasons=["no"])
        return outcome

    def given(self, name: str) -> list[str]:
        """Return what came with the calls of one name."""
        given = [call.given for call in self.calls_of(name) if call.given is not None]
        return [(each if isinstance(each, Secret) else each.secret).reveal() for each in given]


class Process:
    """
    A process that dies at a call of its store or its broker: from then on, each of its calls stays where it is.

    Attributes:
        dies_at: The number of the call; each has two, before and after it. 0: it lives.
    """

    def __init__(self, dies_at: int = 0) -> None:
        self.dies_at = dies_at
        self.dead = asyncio.Event()
        self.store_is_down = False
        self._calls = self._fails_at = 0
        self._buried = False

    async def passes(self) -> None:
        self._calls += 1
        if self._buried:
            raise StoreUnavailable("this process is gone")
        if self._calls == self.dies_at:
            self.dead.set()
        if self.dead.is_set():
            await asyncio.Event().wait()
        if self._calls == self._fails_at:
            raise StoreUnavailable("nothing is known of it")

    def fail(self, call: int) -> None:
        """Let one of the next calls fail: before it is done, or after."""
        self._fails_at = self._calls + call

    def bury(self) -> None:
        """Let nothing of it be waited for any more."""
        self._buried = True


class OfProcess(Store):
    """The store, as one process reaches it."""

    durable = False

    def __init__(self, store: Store, process: Process, saved: bytearray) -> None:
        self._store = store
        self._process = process
        self._saved = saved

    async def _passes(self) -> None:
        await self._process.passes()
        if self._process.store_is_down:
            raise StoreUnavailable("the store is down")

    async def save(self, record: Record, *, add: Sequence[Use] = (), drop: Sequence[UseName] = ()) -> None:
        await self._passes()
        await self._store.save(record, add=add, drop=drop)
        self._saved += record.body + repr(record).encode() + b"\n"
        await self._process.passes()

    async def load(self, flow_id: str) -> Record:
        await self._passes()
        return await self._store.load(flow_id)

    async def scan(self, query: Query, *, limit: int) -> AsyncIterator[Record]:
        await self._passes()
        async for record in self._store.scan(query, limit=limit):
            yield record

    async def changed(self, flow_id: str, version: int, timeout: timedelta) -> None:
        await self._passes()
        await self._store.changed(flow_id, version, timeout)

    async def purge(self, realm: str, before: Any, limit: int) -> int:
        await self._passes()
        return await self._store.purge(realm, before, limit)

    async def aclose(self) -> None:
        """It is for the next process."""


class Wire:
    """The broker, as one process reaches it."""

    def __init__(self, transport: Transport, process: Process, events: list[str]) -> None:
        self._transport = transport
        self._process = process
        self._events = events

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transport, name)
        return self._wrapped(name, found) if asyncio.iscoroutinefunction(found) and name != "aclose" else found

    def _wrapped(self, name: str, call: Callable[..., Awaitable[Outcome]]) -> Callable[..., Awaitable[Outcome]]:
        async def wrapped(*args: Any) -> Outcome:
            await self._process.passes()
            self._events.append(name)
            outcome = await call(*args)
            await self._process.passes()
            return outcome

        return wrapped

    async def aclose(self) -> None:
        """It is for the next process."""


@attrs.define(eq=False)
class Bot:
    """One process with a service and a dialogue."""

    process: Process
    service: ResetService
    dialogue: ResetDialogue

    async def dies(self) -> None:
        """Stop where it is, and leave nothing behind but what is stored."""
        self.process.dead.set()
        self.process.bury()
        await self.service.aclose(timedelta(0))


class Desk:
    """
    A store and a broker, the bots over them, and what they say.

    Attributes:
        events: Deletions, calls of the broker and what is told unasked, in their order.

        flows: The ids of those that have moved.

        told: The conversations that were told something unasked, and what.

        tell_fails: How many times it can't be shown.

        tell_failure: What is raised then; or it hangs.

        witness: What has been written down, of which no turn, log or record may show a secret.
    """

    def __init__(
        self,
        transport: Transport | None = None,
        *,
        store: Callable[[], Store] | None = None,
        keyring: Keyring | None = None,
        policy: Policy = POLICY,
        clock: FrozenClock | None = None,
        in_chat: bool = False,
        by_link: bool = True,
        patience: timedelta = PATIENCE,
        **options: Any,
    ) -> None:
        self.clock = clock or FrozenClock()
        self.transport = transport or Provider()
        self.keyring = keyring or Keyring.generate()
        self.events: list[str] = []
        self.told: list[tuple[str, Turn]] = []
        self.flows: list[str] = []
        self.tell_fails = 0
        self.tell_failure: Any = OSError("the platform is away")
        self.witness = Witness(callers=[TESTS])
        self.saved = bytearray()
        self._policy = policy
        self._in_chat, self._by_link, self._options = in_chat, by_link, {"patience": patience, **options}
        memory = MemoryStore(clock=self.clock)
        self._store = store or (lambda: memory)
        self._bots: list[Bot] = []

    def bot(self, *, dies_at: int = 0) -> Bot:
        """Start another process."""
        process, news = Process(dies_at), News()
        wire = cast("Transport", Wire(self.transport, process, self.events))
        store = OfProcess(self._store(), process, self.saved)
        service = ResetService(
            wire, store, self.keyring,
            policy=self._policy, listeners={"chat": news, "desk": self._hears}, clock=self.clock, sweep=False,
        )  # fmt: skip
        dialogue = ResetDialogue(
            service,
            links=Links(service, PUBLIC_URL) if self._by_link else None,
            passwords_in_chat=self._in_chat,
            news=news,
            tell=self.tell,
            clock=self.clock,
            **self._options,
        )
        self._bots.append(bot := Bot(process, service, dialogue))
        return bot

    async def tell(self, conversation: str, turn: Turn) -> None:
        if self.tell_fails:
            self.tell_fails -= 1
            if self.tell_failure == "hangs":
                let_time_pass(HANGS)
                await asyncio.Event().wait()
            raise self.tell_failure
        self.events.append(f"tell {conversation}")
        self.told.append((conversation, turn))
        self.witness.see(turn)

    async def _hears(self, event: Event) -> None:
        self.flows.append(event.flow.id)
        await self.witness.listen(event)

    async def settle(self) -> None:
        """Let what is under way come to its end: nothing here waits for anything but its turn."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def later(self) -> None:
        """Let so much time pass that everything a dead process left is over."""
        self.clock.advance(PATIENCE + LEASE + timedelta(seconds=1))

    async def aclose(self) -> None:
        for bot in self._bots:
            await bot.dies()


class Chat:
    """
    Somebody's conversation.

    Attributes:
        bot: The one that their messages reach.

        said: The names of their messages, and their texts.

        can_delete: What becomes of a deletion: what it returns, or what it raises.
    """

    def __init__(self, desk: Desk, bot: Bot | None = None, name: str = CHAT, *, locale: str = "en") -> None:
        self.desk = desk
        self.bot = bot or desk.bot()
        self.name = name
        self.locale = locale
        self.can_delete: Any = True
        self.deleted: list[str] = []
        self.said: list[tuple[str, str]] = []

    async def say(self, text: str, message: str = "", *, private: bool = True) -> Turn:
        """Write a message, and return what is shown."""
        message = message or str(len(self.said) + 1)
        self.said.append((message, text))
        inbound = Inbound(
            conversation=self.name,
            message=message,
            text=text,
            locale=self.locale,
            private=private,
        )
        turn = await self.bot.dialogue.handle(inbound, self._delete)
        self.desk.witness.see(turn.messages, turn.done)
        return turn

    async def says(self, *texts: str) -> Turn:
        """Write several messages, one after another."""
        turn = Turn()
        for text in texts:
            turn = await self.say(text)
        return turn

    async def sets_in_browser(self, turn: Turn, password: str = PASSWORD) -> None:
        """Set the password as the browser does that came by the link."""
        service = self.desk.bot().service
        flow = await Links(service, PUBLIC_URL).look(link_of(turn).url.rpartition("/")[2])
        assert flow is not None
        await getattr(service, flow.credential.step.command)(flow.id, password, holder=f"chat {self.name}")

    async def finishes(self, turn: Turn, *, code: str = CODE, new: str = PASSWORD) -> Turn:
        """Do what is wanted, until the reset is done; return the turn that says so."""
        for _ in range(MOST_MESSAGES):
            last = ids(turn)[-1]
            if turn.done and last.startswith("done"):
                return turn
            if any(isinstance(effect, OpenLink) for effect in turn.effects):
                try:
                    await self.sets_in_browser(turn, new)
                except (
                    CodeRejected,
                    PasswordRejected,
                ):  # the login is not known, and no code was sent; or is the password
                    turn = await self.say("start over")
                    continue
                await self.desk.settle()
                return self.desk.told[-1][1]
            if any(each.startswith(WAITS) for each in ids(turn)):
                self.desk.clock.advance(timedelta(hours=25))
            is_the_login = "reason.login" in ids(turn)  # they had sent the password where the login was asked for
            turn = await self.say("start over" if is_the_login else self.next(turn, code, new))
        raise AssertionError(f"never done: {ids(turn)}")

    @staticmethod
    def next(turn: Turn, code: str = CODE, new: str = PASSWORD) -> str:
        """Return what a person says who is told this, and does what is wanted."""
        last = ids(turn)[-1].removesuffix("_pin") if turn.messages else ""
        if last in ("chat.code", "chat.code.again", "code.wanted", "code.in_doubt", "answer.in_doubt"):
            return code
        if last.startswith(("chat.new", "password.", "pin.")) and last not in (
            "password.in_doubt_code",
            "pin.in_doubt_code",
        ):
            return new
        other = {"chat.login": LOGIN, "answer.wanted": ANSWER, "held": "start over"}
        return other.get(
            last, "another code" if last.startswith(("code.", "request.", "password.", "pin.")) else "hello"
        )

    async def _delete(self, asked: DeleteMessage) -> bool:
        self.desk.events.append("delete")
        self.deleted.append(asked.message)
        if isinstance(self.can_delete, BaseException):
            raise self.can_delete
        if self.can_delete == "hangs":
            await asyncio.Event().wait()
        return cast("bool", self.can_delete)


def ids(turn: Turn) -> list[str]:
    """Return the names of what is said."""
    return [message.id for message in turn.messages]


def link_of(turn: Turn) -> OpenLink:
    """Return the link that is shown."""
    return next(effect for effect in turn.effects if isinstance(effect, OpenLink))

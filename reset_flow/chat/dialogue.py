"""The dialogue: one message in, one turn out."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import attrs
from msgspec.structs import replace

from reset_flow.chat.memory import Mark, Memory, Route, Taken, Talk
from reset_flow.chat.reading import Reader
from reset_flow.chat.sayings import Sayings
from reset_flow.chat.table import ASKS_SERVICE, ONLY_BY_LINK, SAYS, Act, Kind, Phase, act_for, is_secret, phase_of
from reset_flow.chat.turns import DeleteMessage, Escalate, Inbound, OpenLink, Reason, Turn
from reset_flow.deadlines import Deadlines
from reset_flow.domain.errors import (
    ConfigurationError,
    FlowEnded,
    FlowNotFound,
    HeldElsewhere,
    InputRejected,
    InvalidInput,
    ResetFlowError,
    StoreError,
)
from reset_flow.domain.flow import Credential, Failure, State
from reset_flow.domain.secret import Secret
from reset_flow.domain.validation import trimmed
from reset_flow.engine.background_tasks import attempt
from reset_flow.engine.context import in_utc, system_clock
from reset_flow.messages import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reset_flow.chat.turns import Delete, Effect, LinkMaker, Message, Show, Tell
    from reset_flow.domain.flow import Event, Flow
    from reset_flow.ports import Clock
    from reset_flow.service import ResetService

logger = logging.getLogger("reset_flow")

DELETION_DEADLINE = 5.0
"""Seconds."""

SHOWING_DEADLINE = 60.0
"""Seconds: messages of the conversation wait for it."""

ASKING_DEADLINE = 60.0
"""Seconds for each conversation in which a process died."""

PATIENCE = timedelta(seconds=10)
LINK_LIFETIME = timedelta(minutes=10)
LEAST_OF_A_LINK = timedelta(minutes=2)
"""A link that is good for less is not shown again."""

RECOVERY_PAUSE = 30.0
POLL = 0.05
LONGEST_NAME = 200
LONGEST_TEXT = 100_000
WANTS_A_HUMAN = frozenset({Failure.BROKER_REFUSED, Failure.OUTCOME_UNKNOWN, Failure.TOO_MANY_ATTEMPTS})
TROUBLE = frozenset({"broker_protocol", "app_key_rejected", "wrong_broker", "command_vetoed"})


class News:
    """
    A listener of the service, by which the dialogue learns of ends that no message brought about. Make it before the
    service: `ResetService(…, listeners={"chat": news})`, then `ResetDialogue(service, news=news, …)`.
    """

    def __init__(self) -> None:
        self.take: Callable[[Flow], Coroutine[Any, Any, None]] | None = None

    async def __call__(self, event: Event) -> None:
        """Pass an end on. Where that fails, the service tells it again."""
        if event.flow.ended:
            if self.take is None:
                logger.error(
                    "nobody is told of the end of a reset: ResetDialogue(…, news=news, tell=…) wants the News, too"
                )
                raise ConfigurationError("news: give it to a ResetDialogue, too")
            await self.take(event.flow)


@attrs.frozen
class _Task:
    """
    What a message does.

    Attributes:
        phase, kind: What it is taken for.

        entry: What of it goes to the broker.

        again: Whether a process died in it before.

        is_secret: Whether it is to be deleted.

        interrupted: Whether a process died in the message before, after which nothing is as it was.

        says: The id of a text that comes with it.
    """

    phase: Phase
    kind: Kind
    act: Act
    entry: Secret
    again: bool
    is_secret: bool
    interrupted: bool
    says: str | None


@attrs.frozen
class _Done:
    """What came of an act: the conversation as it is to be kept, its flow, and what is said before where we stand."""

    talk: Talk
    flow: Flow | None = None
    said: tuple[Message, ...] = ()
    effects: tuple[Escalate, ...] = ()
    leaves: bool = False
    elsewhere: bool = False


class ResetDialogue:
    """
    Carries resets through conversations, one message after another, on any number of workers at once.

    Use it as an async context manager: then it also tells what nobody asked for, and asks again where a process died in
    the middle of a message.

    Args:
        links: Makes the links at which a new password is typed: `reset_flow.web.Links`. `None`: there is no page.

        passwords_in_chat: Whether new passwords may be typed in the chat, too.

        news: The listener that the service was made with.

        tell: Shows a turn in a conversation without a message that it answers.

        patience: How long a message waits for what is under way before it, in this conversation or of its flow.

    Raises:
        ConfigurationError: There is neither a link nor the chat for a new password; or Babel is missing.
    """

    def __init__(
        self,
        service: ResetService,
        *,
        links: LinkMaker | None = None,
        passwords_in_chat: bool = False,
        news: News | None = None,
        tell: Tell | None = None,
        texts: Texts | None = None,
        credential: Credential = Credential.PASSWORD,
        patience: timedelta = PATIENCE,
        clock: Clock = system_clock,
    ) -> None:
        if links is None and not passwords_in_chat:
            raise ConfigurationError("a new password needs a road: give links=Links(…), or passwords_in_chat=True")
        if links is not None and not callable(getattr(links, "create", None)):
            raise ConfigurationError("links: give Links(service, public_url), which makes them")
        if (news is None) is not (tell is None):
            raise ConfigurationError("give news and tell together: one hears of an end, the other one shows it")
        self._service = service
        self._links = links
        self._in_chat = passwords_in_chat
        self._tell = tell
        self._texts = texts or Texts()
        self._credential = credential
        self._patience = patience
        self._now = in_utc(clock)
        self._reader = Reader(self._texts, service.capabilities.code)
        self._memory = Memory(service)
        self._worker = secrets.token_hex(8)
        self._deadlines = Deadlines()
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loop: asyncio.Task[None] | None = None
        self._acts: dict[Act, Callable[[Inbound, Talk, Flow | None, Secret], Coroutine[Any, Any, _Done]]] = {
            Act.ASK_LOGIN: self._ask_login,
            Act.START: self._start,
            Act.SUBMIT: self._submit,
            Act.REQUEST: partial(self._command, "answer"),
            Act.RESEND: partial(self._command, "resend"),
            Act.NEW_LINK: self._new_link,
            Act.ASK_ONE: self._ask_one,
            Act.ASK_CODE: partial(self._say, "reason.malformed"),
            Act.LEAVE: self._leave,
            Act.RESTART: self._restart,
            Act.HELP: self._help,
            Act.HUMAN: self._human,
            Act.STAND: self._stand,
        }
        if news is not None:
            news.take = self._ended

    async def __aenter__(self) -> Self:
        if self._tell:
            self._loop = asyncio.create_task(self._recover_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    async def active(self, conversation: str, message: str = "") -> bool:
        """
        Return whether a reset is under way there: its messages are the dialogue's. So is a message that was taken
        before, and comes again after the end. Raises StoreUnavailable.
        """
        async with self._queues.setdefault(conversation, asyncio.Lock()):  # what is just being told may be the end
            talk = await self._memory.load(conversation)
        is_known = talk.turn_of(message) is not None or (talk.taken is not None and talk.taken.message == message)
        return bool(talk.asked or talk.secret) or is_known

    async def handle(self, inbound: Inbound, delete: Delete | None = None, show: Show | None = None) -> Turn:
        """
        Take a message, and return what is to be shown. The same message again gives the same turn, and does nothing.

        Args:
            delete: Deletes the message, called before what was in it goes to the broker. It may take five seconds. A
                callback, and no second call, as so a secret is in this one call alone: nobody has to park it. `None`:
                the platform can't.

            show: Shows the turn, before it is returned. A turn that a process dies in before that, or that it can't
                show, is told later, by `tell`. `None`: the caller shows what is returned.

        Raises:
            InvalidInput: The conversation or the message has no name, or one that is too long.
            TimeoutError: `show` took longer than a minute.
            Exception: Whatever `show` raises.
        """
        _check(inbound)
        say = self._sayings(inbound.locale)
        async with self._queues.setdefault(inbound.conversation, asyncio.Lock()):
            turn, mark = await self._answer(inbound, say, delete)
            if show:
                with self._deadlines.within(SHOWING_DEADLINE):
                    await show(turn)
            if mark:
                with suppress(StoreError):  # then it may be told once more
                    await self._memory.unmark(mark)
        return turn

    # --- one message

    async def _answer(self, inbound: Inbound, say: Sayings, delete: Delete | None) -> tuple[Turn, Mark | None]:
        """Return the turn; and the mark of the message, which may have one, if it is answered for good."""
        if not inbound.private:
            return Turn((say("chat.private"),), done=True), None
        turn: Turn | None = None
        try:
            while turn is None:
                talk = await self._settled(inbound)
                mark = Mark(inbound.conversation, inbound.message, self._now())
                turn = talk.turn_of(inbound.message) or await self._take(inbound, talk, mark, say, delete)
        except Exception as error:  # noqa: BLE001 - the person is to get an answer
            if not isinstance(error, ResetFlowError):
                logger.error("a message broke off: %s", type(error).__name__)  # noqa: TRY400 - its frames hold secrets
                error = ResetFlowError()
            effects = () if isinstance(error, StoreError) and error.retryable else (Escalate(Reason.TROUBLE),)
            return Turn(say.error(error), effects), None
        return turn, mark

    async def _take(self, inbound: Inbound, talk: Talk, mark: Mark, say: Sayings, delete: Delete | None) -> Turn | None:
        """Return the turn; `None` if another worker has changed the conversation since it was loaded."""
        flow, phase = await self._look(talk, inbound.conversation)
        task = self._task(inbound, talk, flow, phase)
        said: tuple[Message, ...] = (say("chat.interrupted"),) if task.interrupted else ()
        begun = replace(
            talk,
            locale=say.locale,
            taken=Taken(inbound.message, task.phase, task.kind, self._worker, mark.at),
            **self._to_remember(task),
        )
        if task.act is Act.START and not (task.again and talk.secret):
            begun = replace(begun, secret=secrets.token_urlsafe(), asked=False, last_refused=b"")
        if is_marked := task.is_secret or task.act in ASKS_SERVICE:
            await self._memory.mark(mark)
            if not await self._memory.swap(inbound.conversation, talk, begun):
                return None
            talk = begun
        if task.is_secret:
            said += () if await self._deleted(inbound.message, delete) else (say("chat.not_deleted"),)
        try:
            done = await self._acts[task.act](inbound, talk, flow, task.entry)
        except ResetFlowError as error:
            done = await self._refused(talk, inbound, task, error, say)
        done = attrs.evolve(done, said=(*([say(task.says)] if task.says else []), *done.said))
        turn, kept = await self._turn(done, inbound.conversation, say, said)
        kept = replace(kept, taken=None, locale=say.locale)
        if task.kind is Kind.REFUSED:  # who insists is heard: a broker may be in two minds
            kept = replace(kept, last_refused=b"")
        if is_marked:
            await self._memory.finish(inbound.conversation, talk, kept, inbound.message, turn)
        elif not await self._memory.swap(inbound.conversation, talk, kept.with_turn(inbound.message, turn)):
            return None
        if done.flow and turn.done:
            await self._memory.set_route(done.flow.id, Route(inbound.conversation, told=not done.elsewhere))
        return turn

    def _task(self, inbound: Inbound, talk: Talk, flow: Flow | None, phase: Phase) -> _Task:
        """Decide what a message does."""
        before, text = talk.taken, inbound.text
        again = before is not None and before.message == inbound.message
        if before and again:
            again = self._read(text, Phase(before.phase), talk, flow)[0] == before.kind
        read_as = Phase(before.phase) if before and again else phase
        kind, entry = self._read(text, read_as, talk, flow)
        act, says, secret = act_for(read_as, kind), self._says(text, read_as, kind, flow), is_secret(read_as, kind)
        interrupted = before is not None and not again and before.phase != phase
        if secret and interrupted:
            act, says = Act.STAND, None  # it answers a question that is over
        return _Task(read_as, kind, act, entry, again, secret, interrupted, says)

    def _says(self, text: str, phase: Phase, kind: Kind, flow: Flow | None) -> str | None:
        """Return what is said before where we stand: nothing of a message without a text, such as a sticker."""
        if not text.strip():
            return None
        if phase is Phase.ANSWER and kind is Kind.HUMAN and self._reader.may_be_answer(text):
            return "chat.labelled"
        if _waits(flow) and kind is Kind.OTHER and self._reader.names_code(text):
            return "chat.mailbox"
        return (ONLY_BY_LINK if phase is Phase.NEW and not self._in_chat else SAYS.get(phase, {})).get(kind)

    def _to_remember(self, task: _Task) -> dict[str, bytes]:
        """Return the hash of an answer or a code, by the name that it is remembered by."""
        name = {Phase.ANSWER: "answer", Phase.CODE: "code"}.get(task.phase) if task.kind is Kind.ENTRY else None
        return {f"last_{name}": self._digest(name, task.entry.reveal().casefold())} if name else {}

    async def _settled(self, inbound: Inbound) -> Talk:
        """Return the conversation, once no other worker is at a message of it any more, or has died in one."""
        give_up_at = time.monotonic() + self._patience.total_seconds()
        while True:
            talk = await self._memory.load(inbound.conversation)
            taken = talk.taken
            is_over = taken is None or taken.worker == self._worker or self._now() - taken.at > self._patience
            if is_over or talk.turn_of(inbound.message) or time.monotonic() > give_up_at:
                return talk
            await asyncio.sleep(POLL)

    async def _look(self, talk: Talk, conversation: str) -> tuple[Flow | None, Phase]:
        if not talk.secret:
            return None, Phase.LOGIN if talk.asked else Phase.FREE
        try:
            flow = await self._service.get(self._service.id_of(talk.secret), holder=_holder(conversation))
        except FlowNotFound:
            return None, Phase.LOGIN  # its start never came about
        except HeldElsewhere:
            return None, Phase.ELSEWHERE
        return flow, phase_of(flow)

    def _read(self, text: str, phase: Phase, talk: Talk, flow: Flow | None) -> tuple[Kind, Secret]:
        """Return what kind of message this is there, and what of it goes to the broker."""
        if len(text) > LONGEST_TEXT:
            return Kind.OTHER, Secret("")
        if word := self._reader.word(text):
            return Kind(word.value), Secret("")
        entry = self._entry(text, phase, talk)
        kind = self._kind(text, entry, phase, talk, flow)
        return kind, Secret(entry if entry and kind is Kind.ENTRY else "")

    def _kind(self, text: str, entry: str | None, phase: Phase, talk: Talk, flow: Flow | None) -> Kind:
        if self._is_repeated(text, phase, talk):
            return Kind.REPEATED
        if phase is Phase.ANSWER and flow and trimmed(text).casefold() == flow.user.casefold():
            return Kind.OTHER  # the login was sent twice
        if entry is None:
            return _kind_without_entry(self._reader, text, phase)
        if phase in (Phase.ANSWER, Phase.CODE) and self._digest(phase, entry) == talk.last_refused:
            return Kind.REFUSED
        return Kind.UNSURE if phase is Phase.NEW and not self._in_chat else Kind.ENTRY

    def _entry(self, text: str, phase: Phase, talk: Talk) -> str | None:
        """Return what is wanted, if it is in a text."""
        match phase:
            case Phase.FREE | Phase.REQUEST:
                return None
            case Phase.LOGIN:
                return self._reader.login(text, may_be_code=talk.was_asked_for_code)
            case Phase.CODE | Phase.ANOTHER:
                found = self._reader.codes(text)
                return found[0] if len(found) == 1 else None
            case Phase.NEW:
                return self._reader.password(text)
        return self._reader.answer(text)

    def _is_repeated(self, text: str, phase: Phase, talk: Talk) -> bool:
        """Return whether a text is an answer or a code that was taken before."""
        if phase not in (Phase.CODE, Phase.ANOTHER, Phase.NEW):
            return False
        codes = self._reader.codes(text)
        if codes and phase is not Phase.NEW:
            return False  # it is read as a code
        if talk.last_code in [self._digest("code", code.casefold()) for code in codes]:
            return True
        answer = self._reader.answer(text)
        return answer is not None and self._digest("answer", answer.casefold()) == talk.last_answer

    async def _deleted(self, message: str, delete: Delete | None) -> bool:
        """Have a message deleted. Return whether it is gone."""
        if delete is None:
            return False
        call = partial(delete, DeleteMessage(message))
        gone, failure = await attempt(call, self._deadlines.within(DELETION_DEADLINE))
        if failure:
            logger.warning("a message was not deleted: %s", failure)
        return gone is True

    def _digest(self, name: str, typed: str) -> bytes:
        return self._service.digest(f"chat {name}", ascii(typed))  # a code from a link may be anything

    # --- what is done

    async def _ask_login(self, _: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        return _Done(replace(talk, asked=True, secret=""), flow)

    async def _start(self, inbound: Inbound, talk: Talk, _: Flow | None, login: Secret) -> _Done:
        await self._memory.set_route(self._service.id_of(talk.secret), Route(inbound.conversation))
        flow = await self._service.start(
            login,
            credential=self._credential,
            secret=talk.secret,
            origin=Secret(f"chat {inbound.conversation}"),
            patience=self._patience,
        )
        return _Done(talk, flow)

    async def _submit(self, inbound: Inbound, talk: Talk, flow: Flow | None, entry: Secret) -> _Done:
        assert talk.taken is not None
        command = {Phase.ANSWER: "answer", Phase.CODE: "verify"}.get(
            Phase(talk.taken.phase), self._credential.step.command
        )
        return await self._command(command, inbound, talk, flow, entry)

    async def _command(self, command: str, inbound: Inbound, talk: Talk, _: Flow | None, entry: Secret) -> _Done:
        moved = await getattr(self._service, command)(
            self._service.id_of(talk.secret),
            *([entry] if entry.reveal() else []),
            key=Secret(f"chat {inbound.message}"),
            holder=_holder(inbound.conversation),
            patience=self._patience,
        )
        return _Done(talk, moved)

    async def _new_link(self, _: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        return _Done(replace(talk, link=None), flow)

    async def _say(self, id_: str, inbound: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        return _Done(talk, flow, (self._sayings(inbound.locale)(id_),))

    async def _ask_one(self, inbound: Inbound, talk: Talk, flow: Flow | None, nothing: Secret) -> _Done:
        return await self._say("chat.several" if flow else "chat.login.several", inbound, talk, flow, nothing)

    async def _help(self, inbound: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        said = ("chat.help", "chat.mailbox") if _waits(flow) else ("chat.help",)
        return _Done(talk, flow, tuple(map(self._sayings(inbound.locale), said)))

    async def _human(self, inbound: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        return _Done(talk, flow, (self._sayings(inbound.locale)("chat.human"),), (Escalate(Reason.ASKED),))

    async def _stand(self, _: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        return _Done(talk, flow)

    async def _leave(self, inbound: Inbound, talk: Talk, flow: Flow | None, __: Secret) -> _Done:
        free = replace(talk, secret="", asked=False, link=None)
        if not talk.secret or flow is None:
            said = (self._sayings(inbound.locale)("chat.stopped"),) if talk.asked else ()
            return _Done(free, said=said, leaves=True, elsewhere=bool(talk.secret))
        try:
            flow = (await self._command("cancel", inbound, talk, flow, Secret(""))).flow
        except StoreError:
            raise
        except FlowEnded as error:
            flow = error.flow
        except ResetFlowError:
            return _Done(free, flow, (self._sayings(inbound.locale)("chat.left"),), leaves=True, elsewhere=True)
        return _Done(free, flow, leaves=True)

    async def _restart(self, inbound: Inbound, talk: Talk, flow: Flow | None, nothing: Secret) -> _Done:
        left = await self._leave(inbound, talk, flow, nothing)
        if left.flow and left.flow.ended:
            await self._memory.set_route(left.flow.id, Route(inbound.conversation, told=True))
        return _Done(replace(left.talk, asked=True), None, left.said if left.elsewhere and left.flow else ())

    async def _refused(self, talk: Talk, inbound: Inbound, task: _Task, error: ResetFlowError, say: Sayings) -> _Done:
        """Say what was wrong, and where we stand."""
        if isinstance(error, StoreError):
            raise error
        flow = error.flow
        if flow is None:
            flow, _ = await self._look(talk, inbound.conversation)
        effects = (Escalate(Reason.TROUBLE),) if error.code in TROUBLE else ()
        if isinstance(error, InputRejected) and error.sent and flow and flow.in_doubt is None:
            talk = replace(talk, last_refused=self._digest(task.phase, task.entry.reveal()))
        is_said = isinstance(error, HeldElsewhere | FlowEnded)
        return _Done(talk, flow, () if is_said else say.error(error), effects)

    # --- what is said

    async def _turn(self, done: _Done, conversation: str, say: Sayings, said: tuple[Message, ...]) -> tuple[Turn, Talk]:
        """Return the turn, and the conversation as it is to be kept."""
        talk, flow, said = done.talk, done.flow, (*said, *done.said)
        if done.leaves or (flow and flow.ended):
            return self._end(done, say, said), replace(talk, secret="", asked=False, link=None)
        if talk.secret and flow is None:
            flow, phase = await self._look(talk, conversation)
            if phase is Phase.ELSEWHERE:
                return Turn((*said, say("held", "restart", "cancel")), done.effects), talk
            talk = talk if flow else replace(talk, secret="", asked=True)
        if flow is None:
            told = (say("chat.login", "help", "cancel"),) if talk.asked else () if said else (say("chat.free"),)
            return Turn((*said, *told), done.effects, done=not talk.asked), talk
        effects: tuple[Effect, ...] = done.effects
        by_link = self._links is not None and phase_of(flow) is Phase.NEW and not flow.busy_until
        if by_link:
            talk, link = await self._link(talk, flow, conversation, say)
            effects = (*effects, link)
        wanted = say.flow(flow, in_chat=self._in_chat, by_link=by_link, again=bool(done.said))
        return Turn((*[each for each in said if each.id != wanted[0].id], *wanted), effects), talk

    @staticmethod
    def _end(done: _Done, say: Sayings, said: tuple[Message, ...]) -> Turn:
        flow = done.flow
        if flow is None or done.elsewhere:
            return Turn(said or (say("chat.left" if done.elsewhere else "chat.free"),), done.effects, done=True)
        effects = (Escalate(Reason.FAILED),) if flow.failure in WANTS_A_HUMAN else ()
        return Turn((*said, *say.flow(flow)), (*done.effects, *effects), done=True)

    async def _link(self, talk: Talk, flow: Flow, conversation: str, say: Sayings) -> tuple[Talk, OpenLink]:
        assert self._links is not None
        now = self._now()
        link = talk.link
        if link is None or link.expires_at - now < LEAST_OF_A_LINK:
            ends_at = min(now + LINK_LIFETIME, max(flow.expires_at, now + timedelta(seconds=1)))
            url = await self._links.create(flow.id, ends_at - now, holder=_holder(conversation).reveal())
            link = OpenLink(url, ends_at, say("chat.link").text)
        return replace(talk, link=link), link

    def _sayings(self, locale: str) -> Sayings:
        return Sayings(self._texts, self._texts.negotiate(locale.replace("_", "-"), None), self._credential)

    # --- what nobody asked for

    async def _ended(self, flow: Flow) -> None:
        """Tell the end of a flow that no message brought about, at least once."""
        assert self._tell is not None
        route = await self._memory.route(flow.id)
        if route is None or route.told:
            return
        async with self._queues.setdefault(route.conversation, asyncio.Lock()):
            if (route := await self._memory.route(flow.id)) is None or route.told:
                return
            talk = await self._memory.load(route.conversation)
            is_current = bool(talk.secret) and self._service.id_of(talk.secret) == flow.id
            if is_current or flow.state is State.PASSWORD_SET or flow.failure is Failure.OUTCOME_UNKNOWN:
                effects = (Escalate(Reason.FAILED),) if flow.failure in WANTS_A_HUMAN else ()
                turn = Turn(self._sayings(talk.locale).flow(flow), effects, done=is_current)
                await self._tell(route.conversation, turn)
            if is_current:
                await self._memory.change(
                    route.conversation,
                    lambda now: replace(now, secret="", link=None) if now.secret == talk.secret else now,
                )
            await self._memory.set_route(flow.id, replace(route, told=True))

    async def recover(self) -> int:
        """
        Ask again where a process died in the middle of a message, and nobody has delivered it again. Return how often.
        The context manager does it all the time.
        """
        asked, failures = 0, set[str]()
        for mark in await self._memory.marks():
            if self._now() - mark.at > self._patience + self._service.policy.lease:
                # One whom nothing can be shown must not keep others waiting.
                again, failure = await attempt(partial(self._ask_again, mark), self._deadlines.within(ASKING_DEADLINE))
                asked += bool(again)
                failures.update([failure] if failure else [])
        if failures:
            logger.warning("some conversations were not asked again: %s", ", ".join(sorted(failures)))
        return asked

    async def _ask_again(self, mark: Mark) -> bool:
        """Tell the turn that was not shown, or where we stand if there is none. Return whether it was needed."""
        async with self._queues.setdefault(mark.conversation, asyncio.Lock()):
            return await self._ask(mark)

    async def _ask(self, mark: Mark) -> bool:
        talk = await self._memory.load(mark.conversation)
        turn = talk.turn_of(mark.message)
        if turn:
            is_open = talk.recent[-1][0] == mark.message
        else:
            is_open = talk.taken is None or talk.taken.message == mark.message
            is_open = is_open or talk.waits  # they wrote again meanwhile, and heard that it takes a moment
        if is_open and self._tell:
            kept = talk
            if turn is None:
                say = self._sayings(talk.locale)
                flow, _ = await self._look(talk, mark.conversation)
                turn, kept = await self._turn(_Done(talk, flow), mark.conversation, say, (say("chat.interrupted"),))
            await self._tell(mark.conversation, turn)
            await self._memory.finish(mark.conversation, talk, kept, mark.message, turn)
        await self._memory.unmark(mark)
        return is_open

    async def _recover_forever(self) -> None:
        while True:
            try:
                await self.recover()
            except Exception as error:  # noqa: BLE001 - it goes on
                logger.warning("no conversation was asked again: %s", type(error).__name__)
            await asyncio.sleep(RECOVERY_PAUSE)


def _waits(flow: Flow | None) -> bool:
    """Return whether an e-mail with a code is surely on its way."""
    return flow is not None and phase_of(flow) is Phase.CODE and flow.in_doubt is None


def _kind_without_entry(reader: Reader, text: str, phase: Phase) -> Kind:
    """Return what kind of message a text is in which nothing was found that is wanted: the first that it may be."""
    if phase in (Phase.FREE, Phase.REQUEST):
        return Kind.OTHER
    if phase is Phase.LOGIN:
        kinds = {
            Kind.NO_CODE: reader.looks_like_code(text),
            Kind.UNSURE: reader.names_password(text),
            Kind.SEVERAL: len(reader.addresses(text)) > 1,
        }
    elif phase in (Phase.CODE, Phase.ANOTHER):
        kinds = {
            Kind.SEVERAL: bool(reader.codes(text)),
            Kind.NO_CODE: reader.attempts_code(text),
            Kind.UNSURE: reader.may_be_secret(text, awaited=False),
        }
    else:
        kinds = {Kind.UNSURE: reader.may_be_secret(text, awaited=True)}
    return next((kind for kind, is_one in kinds.items() if is_one), Kind.OTHER)


def _holder(conversation: str) -> Secret:
    return Secret(f"chat {conversation}")


def _check(inbound: Any) -> None:
    if not isinstance(inbound, Inbound):
        raise InvalidInput("give handle() an Inbound")
    for what in ("conversation", "message"):
        name = getattr(inbound, what)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise InvalidInput(f"{what}: it must be printable text of 1 to {LONGEST_NAME} characters")
    texts: tuple[Any, ...] = (inbound.text, inbound.locale)
    if not all(isinstance(each, str) for each in texts):
        raise InvalidInput("text and locale must be text")
    if type(inbound.private) is not bool:
        raise InvalidInput("private must be True or False")

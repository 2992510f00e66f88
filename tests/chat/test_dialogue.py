"""The dialogue keeps its word: nothing twice, nothing out of order, nothing silently lost, whoever dies when."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from reset_flow import (
    Capabilities,
    CodeFormat,
    ConfigurationError,
    Credential,
    InvalidInput,
    Keyring,
    MemoryStore,
    NotActed,
    Rejected,
    ResetService,
    SQLiteStore,
    Unknown as Lost,
)
from reset_flow.chat import DeleteMessage, Escalate, Inbound, News, Reason, ResetDialogue, Turn, dialogue
from reset_flow.chat.memory import Mark, Memory
from reset_flow.testing import FrozenClock, ScriptedTransport
from reset_flow.web import Links
from tests.chat.chats import (
    ANSWER,
    CHAT,
    CODE,
    HANGS,
    LOGIN,
    PASSWORD,
    PATIENCE,
    PIN,
    PUBLIC_URL,
    Chat,
    Desk,
    Provider,
    ids,
    link_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chat.conftest import MakeDesk


class Unreliable:
    """Makes links, unless it is broken."""

    def __init__(self, service: ResetService) -> None:
        self._links = Links(service, PUBLIC_URL)
        self.broken: Exception | None = None

    async def create(
        self, flow_id: str, lifetime: timedelta = timedelta(minutes=1), *, holder: str | None = None
    ) -> str:
        if self.broken:
            raise self.broken
        return await self._links.create(flow_id, lifetime, holder=holder)


TO_CODE = ("hello", LOGIN, ANSWER)
TO_PASSWORD = (*TO_CODE, CODE)


# --- the same message again


@pytest.mark.parametrize("step", range(5))
async def test_a_message_delivered_twice_gets_the_same_turn_and_one_call(make_desk: MakeDesk, step: int) -> None:
    desk = make_desk(in_chat=True, by_link=False)
    chat = Chat(desk)
    texts = (*TO_PASSWORD, PASSWORD)
    await chat.says(*texts[:step])
    first = await chat.say(texts[step])
    events = list(desk.events)
    assert await chat.say(texts[step], str(step + 1)) == first
    chat.bot = desk.bot()
    assert await chat.say(texts[step], str(step + 1)) == first
    assert desk.events == events
    last = await chat.says(*texts[step + 1 :]) if texts[step + 1 :] else first
    assert (ids(last), last.done) == (["done"], True)
    calls = [event for event in desk.events if not event.startswith(("delete", "tell"))]
    assert calls == ["challenge", "request", "exchange", "update"]


async def test_both_deliveries_at_once_get_the_same_turn_and_one_call(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    first, second = await asyncio.gather(chat.say(ANSWER, "3"), chat.say(ANSWER, "3"))
    assert first == second
    assert ids(first) == ["chat.code"]
    assert desk.events == ["challenge", "delete", "request"]


# --- what is never taken for the login


MAIL = """From: Accounts <no-reply@example.com>
Subject: Your code

Do not share it."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MAIL, "chat.login.again"),
        (f"To: zoe@example.org\n{MAIL}", "chat.login.several"),
        ("zoe@example.org or zoe@example.com", "chat.login.several"),
    ],
)
async def test_whose_address_is_meant_is_asked_before_the_broker_is(desk: Desk, text: str, said: str) -> None:
    chat = Chat(desk)
    assert ids(await chat.says("hello", text)) == [said, "chat.login"]
    assert desk.events == []
    assert ids(await chat.say("it is zoe@example.org")) == ["answer.wanted"]


@pytest.mark.parametrize("code", [CODE, "741 175", f"code: {CODE}", f"{MAIL}\nIt is {CODE}."])
async def test_a_code_that_comes_once_another_worker_has_started_over_is_deleted_and_no_login(
    make_desk: MakeDesk, code: str
) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.says("hello", LOGIN, "start over")
    desk.events.clear()
    chat.bot = desk.bot()
    assert ids(await chat.say(code)) == ["chat.login.code", "chat.login"]
    assert desk.events == ["delete"]
    assert ids(await chat.say(f"login: {CODE}")) == ["chat.code"]
    assert [call.case.user for call in provider.calls_of("challenge")] == [LOGIN, CODE]


async def test_a_number_as_long_as_a_code_is_a_login_where_no_code_was_asked_for(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    chat = Chat(make_desk(provider))
    await chat.says("hello")
    assert ids(await chat.say(CODE)) == ["chat.code"]
    assert [call.case.user for call in provider.calls_of("challenge")] == [CODE]


@pytest.mark.parametrize("word", ["agent", "Operator!", "human", "Mitarbeiter", "agente"])
async def test_a_word_that_may_be_the_answer_calls_a_human_and_with_a_label_it_is_the_answer(
    make_desk: MakeDesk, word: str
) -> None:
    provider = Provider()
    provider.answer = word
    desk = make_desk(provider)
    chat = Chat(desk)
    turn = await chat.says("hello", LOGIN, word)
    assert ids(turn) == ["chat.labelled", "chat.human", "answer.wanted"]
    assert turn.effects == (Escalate(Reason.ASKED),)
    assert provider.calls_of("request") == []
    assert ids(await chat.say(f"answer: {word}")) == ["chat.code"]
    assert provider.given("request") == [word]


@pytest.mark.parametrize("text", ["/human", "talk to a human", "agent, please"])
async def test_what_is_surely_no_answer_calls_a_human_and_no_more(desk: Desk, text: str) -> None:
    turn = await Chat(desk).says("hello", LOGIN, text)
    assert (ids(turn), turn.effects) == (["chat.human", "answer.wanted"], (Escalate(Reason.ASKED),))


async def test_a_word_that_cancels_does_so_where_an_answer_is_awaited(desk: Desk) -> None:
    turn = await Chat(desk).says("hello", LOGIN, "stop")
    assert (ids(turn), turn.done) == (["failed.cancelled"], True)


# --- order


async def test_two_quick_messages_are_taken_in_order(make_desk: MakeDesk) -> None:
    provider = Provider()
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    held = provider.hold("request")
    answered = asyncio.create_task(chat.say(ANSWER))
    await held.arrived.wait()
    verified = asyncio.create_task(chat.say(CODE))
    held.released.set()
    assert ids(await answered) == ["chat.code"]
    assert ids(await verified) == ["chat.open"]
    assert desk.events == ["challenge", "delete", "request", "delete", "exchange"]


async def test_two_workers_take_the_messages_of_a_conversation_one_after_another(
    make_desk: MakeDesk, tmp_path: Path
) -> None:
    provider, clock = Provider(), FrozenClock()
    keyring = Keyring.load_or_create(tmp_path / "keys")
    desk = make_desk(
        provider, clock=clock, keyring=keyring, store=lambda: SQLiteStore(tmp_path / "flows.db", clock=clock)
    )
    chat, other = Chat(desk), Chat(desk)
    await chat.says("hello", LOGIN)
    held = provider.hold("request")
    answered = asyncio.create_task(chat.say(ANSWER))
    await held.arrived.wait()
    again, verified = asyncio.create_task(other.say(ANSWER, "3")), asyncio.create_task(other.say(CODE, "4"))
    held.released.set()
    assert await again == await answered
    assert ids(await verified) == ["chat.open"]
    assert desk.events == ["challenge", "delete", "request", "delete", "exchange"]


async def test_what_somebody_else_does_with_the_flow_is_waited_for(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider, in_chat=True)
    chat = Chat(desk)
    await chat.says("hello", LOGIN, CODE)
    await desk.settle()
    held = provider.hold("update")
    flow_id, holder = desk.flows[-1], f"chat {CHAT}"
    elsewhere = asyncio.create_task(chat.bot.service.set_password(flow_id, PASSWORD, holder=holder))
    await held.arrived.wait()
    said = asyncio.create_task(chat.say("cancel"))
    await desk.settle()
    assert not said.done()
    held.released.set()
    assert (await elsewhere).ended
    turn = await said
    assert (ids(turn), turn.done) == (["done"], True)


# --- secrets


@pytest.mark.parametrize(
    "says", [(ANSWER,), (ANSWER, "123 456"), (ANSWER, CODE), (*TO_PASSWORD[2:], "weak"), ("wrong",)]
)
async def test_a_message_is_deleted_before_the_broker_is_called(make_desk: MakeDesk, says: tuple[str, ...]) -> None:
    desk = make_desk(in_chat=True)
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    desk.events.clear()
    await chat.says(*says)
    called = [event for event in desk.events if event != "delete"]
    assert desk.events[::2] == ["delete"] * len(says)
    assert called == ["request", "exchange", "update"][: len(called)]
    assert chat.deleted == [str(number) for number in range(3, 3 + len(says))]


@pytest.mark.parametrize("outcome", [False, None, OSError("not allowed"), "hangs", 1])
async def test_a_deletion_that_fails_is_told_and_the_reset_goes_on(
    desk: Desk, outcome: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.chat.dialogue.DELETION_DEADLINE", 0.05)
    chat = Chat(desk)
    chat.can_delete = outcome
    turn = await chat.says("hello", LOGIN, ANSWER)
    assert ids(turn) == ["chat.not_deleted", "chat.code"]
    chat.can_delete = True
    assert ids(await chat.say(CODE)) == ["chat.open"]
    assert desk.events == ["challenge", "delete", "request", "delete", "exchange"]


async def test_where_the_platform_deletes_nothing_that_is_told_at_each_secret(desk: Desk) -> None:
    bot = desk.bot()
    told = []
    for number, text in enumerate(TO_PASSWORD):
        inbound = Inbound(conversation=CHAT, message=str(number), text=text, private=True)
        told.append(ids(await bot.dialogue.handle(inbound)))
    assert told == [
        ["chat.login"],
        ["answer.wanted"],
        ["chat.not_deleted", "chat.code"],
        ["chat.not_deleted", "chat.open"],
    ]


@pytest.mark.parametrize("text", ["hello", LOGIN, "/cancel", "help", "what is my balance?"])
async def test_what_holds_no_secret_is_not_deleted(desk: Desk, text: str) -> None:
    chat = Chat(desk)
    await chat.say("hello")
    await chat.say(text)
    assert "delete" not in desk.events


@pytest.mark.parametrize(("says", "said"), [((), "chat.labelled"), ((ANSWER, CODE), "chat.labelled_new")])
async def test_a_question_of_one_long_word_is_deleted_as_it_may_have_been_a_secret(
    make_desk: MakeDesk, says: tuple[str, ...], said: str
) -> None:
    provider = Provider()
    chat = Chat(make_desk(provider, in_chat=True))
    await chat.says("hello", LOGIN, *says)
    called = len(provider.calls)
    turn = await chat.say("Maiden-Name-1970?", "odd")
    assert chat.deleted[-1] == "odd"
    assert said in ids(turn)
    assert len(provider.calls) == called
    await chat.say("Really?", "short")
    assert chat.deleted[-1] == "odd"


async def test_a_turn_whose_showing_hangs_keeps_no_later_message_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reset_flow.chat.dialogue.SHOWING_DEADLINE", 0.05)

    async def hangs(_: Turn) -> None:
        await asyncio.Event().wait()

    dialogue = desk.bot().dialogue
    with pytest.raises(TimeoutError):
        await dialogue.handle(Inbound(conversation=CHAT, message="1", text="hello", private=True), show=hangs)
    turn = await dialogue.handle(Inbound(conversation=CHAT, message="2", text=LOGIN, private=True))
    assert ids(turn) == ["answer.wanted"]


async def test_in_a_group_nothing_happens_but_the_hand_over(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    desk.events.clear()
    for text in ("hello", ANSWER, "/cancel"):
        turn = await chat.say(text, private=False)
        assert (ids(turn), turn.done, turn.effects) == (["chat.private"], True, ())
    assert desk.events == []
    assert ids(await chat.say(ANSWER)) == ["chat.code"]


# --- what is never taken for the new password


@pytest.mark.parametrize("credential", Credential)
@pytest.mark.parametrize("again", [CODE, "741 175", "code: 741175.", "７４１１７５"])
async def test_a_code_that_is_typed_again_is_never_the_new_password(
    make_desk: MakeDesk, credential: Credential, again: str
) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider, in_chat=True, by_link=False, credential=credential)
    chat = Chat(desk)
    wanted = ids(await chat.says("hello", LOGIN, "741-175"))
    assert ids(await chat.say(again)) == wanted
    assert provider.calls_of("update") == []
    new = PIN if credential is Credential.PIN else PASSWORD
    assert (await chat.say(new)).done
    assert provider.given("update") == [new]


SENTENCES = (
    "the link does not open", "it says the link was used", "I'd rather talk to my bank", "what are the rules",
    "ich hab das Passwort gesetzt", "Das verstehe ich jetzt nicht ganz", "no puedo abrir la página",
    "my new password is violet5tractor", "mein neues Passwort ist violet5tractor", "violet tractor 5",
)  # fmt: skip


@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.parametrize("by_link", [True, False])
async def test_no_sentence_becomes_the_password_unless_it_is_said_to_be_one(
    make_desk: MakeDesk,
    text: str,
    by_link: bool,  # noqa: FBT001
) -> None:
    provider = Provider(question=False)
    chat = Chat(make_desk(provider, in_chat=True, by_link=by_link))
    wanted = ids(await chat.says("hello", LOGIN, CODE))
    assert ids(await chat.say(text, "typed")) == ["chat.labelled_new", *wanted]
    assert chat.deleted[-1] == "typed"
    assert provider.calls_of("update") == []
    assert ids(await chat.say(f"password: {text}")) == ["done"]
    assert provider.given("update") == [text]


@pytest.mark.parametrize("text", ["erledigt", "moment bitte", "un momento", "I did it", "no lo sé", "👍", "ya está"])
async def test_what_people_say_while_they_think_is_no_password_and_not_deleted(make_desk: MakeDesk, text: str) -> None:
    provider = Provider(question=False)
    chat = Chat(make_desk(provider, in_chat=True))
    await chat.says("hello", LOGIN, CODE)
    deleted = list(chat.deleted)
    assert ids(await chat.say(text)) == ["chat.labelled_new", "chat.either"]
    assert provider.calls_of("update") == []
    assert chat.deleted == deleted


async def test_where_a_pin_is_chosen_its_label_is_named(make_desk: MakeDesk) -> None:
    desk = make_desk(Provider(question=False), in_chat=True, by_link=False, credential=Credential.PIN)
    turn = await Chat(desk).says("hello", LOGIN, CODE, "which one would you take")
    assert ids(turn) == ["chat.labelled_new_pin", "chat.new_pin"]
    assert "“PIN:”" in turn.messages[0].text


@pytest.mark.parametrize(
    ("text", "said", "deleted"),
    [
        (PASSWORD, "chat.use_link", True),
        ("the page shows an error", "chat.use_link", True),
        ("/Xy77pass", "chat.use_link", True),
        ("fertig", "chat.aside", False),
        ("thanks!", "chat.aside", False),
    ],
)
async def test_where_passwords_are_set_by_link_what_may_be_one_is_deleted(
    desk: Desk,
    text: str,
    said: str,
    deleted: bool,  # noqa: FBT001
) -> None:
    chat = Chat(desk)
    await chat.says(*TO_PASSWORD)
    assert ids(await chat.say(text, "typed")) == [said, "chat.open"]
    assert ("typed" in chat.deleted) is deleted


# --- what costs no try


NO_ANSWERS = (
    "I don't know", "idk", "no idea", "I forgot", "I already told you", "wait", "hm", "👍", "...", "!", "/menu",
    "weiß nicht", "Keine Ahnung!!", "hab ich vergessen", "moment bitte", "Guten Tag", "hab ich doch schon gesagt",
    "no sé", "no me acuerdo", "ya se lo he dicho", "un momento, por favor", "buenos días", "joder",
    LOGIN, LOGIN.upper(),
)  # fmt: skip


@pytest.mark.parametrize("text", NO_ANSWERS)
async def test_what_is_no_answer_costs_no_try_and_with_a_label_it_is_the_answer(make_desk: MakeDesk, text: str) -> None:
    provider = Provider()
    provider.answer = text
    chat = Chat(make_desk(provider))
    assert ids(await chat.says("hello", LOGIN, text)) == ["chat.labelled", "answer.wanted"]
    assert chat.deleted == []
    assert provider.calls_of("request") == []
    assert ids(await chat.say(f"answer: {text}")) == ["chat.code"]


async def test_an_answer_that_comes_as_a_command_is_deleted_and_costs_no_try(make_desk: MakeDesk) -> None:
    provider = Provider()
    chat = Chat(make_desk(provider))
    assert ids(await chat.says("hello", LOGIN, f"/answer {ANSWER}")) == ["chat.labelled", "answer.wanted"]
    assert chat.deleted == ["3"]
    assert provider.calls_of("request") == []


async def test_the_same_wrong_answer_or_code_at_once_again_costs_one_try(make_desk: MakeDesk) -> None:
    provider = Provider()
    chat = Chat(make_desk(provider))
    await chat.says("hello", LOGIN)
    assert ids(await chat.say("wrong")) == ["answer.rejected", "tries_left", "answer.wanted"]
    assert ids(await chat.say("wrong")) == ["answer.rejected", "answer.wanted"]
    assert provider.given("request") == ["wrong"]
    assert ids(await chat.say("Wrong")) == ["answer.rejected", "tries_left", "answer.wanted"]
    await chat.say(ANSWER)
    assert ids(await chat.say("123456")) == ["code.rejected", "tries_left", "chat.code.again"]
    assert ids(await chat.say("123 456")) == ["code.rejected", "chat.code.again"]
    assert provider.given("exchange") == ["123456"]
    assert chat.deleted == ["3", "4", "5", "6", "7", "8"]
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_who_insists_on_what_was_refused_is_heard(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    provider.script(exchange=[Rejected(reasons=["no"])])
    chat = Chat(make_desk(provider))
    await chat.says("hello", LOGIN, CODE)
    assert ids(await chat.say(CODE)) == ["code.rejected", "chat.code.again"]
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_an_answer_that_looks_like_the_code_does_not_keep_the_code_away(make_desk: MakeDesk) -> None:
    provider = Provider()
    provider.answer = CODE
    turn = await Chat(make_desk(provider)).says("hello", LOGIN, CODE, CODE)
    assert ids(turn) == ["chat.open"]


async def test_what_was_not_refused_may_come_again(make_desk: MakeDesk) -> None:
    provider = Provider()
    provider.script(request=[NotActed()], exchange=[NotActed()])
    chat = Chat(make_desk(provider))
    assert ids(await chat.says("hello", LOGIN, ANSWER)) == ["broker.unavailable", "answer.wanted"]
    assert ids(await chat.say(ANSWER)) == ["chat.code"]
    assert ids(await chat.say(CODE)) == ["broker.unavailable", "chat.code.again"]
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_an_answer_that_was_refused_may_be_right_in_the_next_reset(make_desk: MakeDesk) -> None:
    chat = Chat(make_desk(Provider()))
    await chat.says("hello", "somebody.else", "wrong", "start over", LOGIN)
    assert ids(await chat.say("wrong")) == ["answer.rejected", "tries_left", "answer.wanted"]


@pytest.mark.parametrize("then", [(), (CODE,)])
async def test_an_answer_that_comes_twice_is_deleted_twice_and_is_nothing_new(
    make_desk: MakeDesk, then: tuple[str, ...]
) -> None:
    provider = Provider()
    provider.answer = "Peterson"
    chat = Chat(make_desk(provider, in_chat=True))
    wanted = ids(await chat.says("hello", LOGIN, "Peterson", *then))
    assert ids(await chat.say("peterson", "twice")) == wanted
    assert chat.deleted[-1] == "twice"
    assert provider.calls_of("update") == []


@pytest.mark.parametrize(
    "text", ["Where is my code?", "der Code funktioniert nicht", "¿Dónde está el correo?", "wrong email"]
)
async def test_who_asks_for_the_code_is_told_where_it_may_be(desk: Desk, text: str) -> None:
    turn = await Chat(desk).says(*TO_CODE, text)
    assert ids(turn) == ["chat.mailbox", "chat.code.again"]


async def test_a_password_that_comes_with_the_login_is_deleted_and_asked_for_nowhere(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.say("hello")
    assert ids(await chat.say(f"login: {LOGIN}\npassword: {PASSWORD}", "both")) == ["chat.login.again", "chat.login"]
    assert chat.deleted == ["both"]
    assert desk.events == ["delete"]


async def test_where_passwords_are_set_by_link_none_that_is_typed_is_sent(desk: Desk) -> None:
    chat = Chat(desk)
    turn = await chat.says(*TO_PASSWORD, PASSWORD)
    assert ids(turn) == ["chat.use_link", "chat.open"]
    assert link_of(turn).url.startswith(PUBLIC_URL)
    assert desk.events[-2:] == ["exchange", "delete"]
    assert "update" not in desk.events


async def test_the_same_password_again_after_a_doubt_is_sent_again(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    provider.script(update=[Lost(), Lost()], log_in=[Lost()])
    chat = Chat(make_desk(provider, in_chat=True, by_link=False))
    turn = await chat.says("hello", LOGIN, CODE, PASSWORD)
    assert ids(turn)[-1] == "password.in_doubt"
    assert ids(await chat.say(PASSWORD)) == ["done"]


@pytest.mark.parametrize(
    ("credential", "new", "wanted", "done"),
    [
        (Credential.PASSWORD, PASSWORD, "chat.new", "done"),
        (Credential.PASSWORD, f"password: {PASSWORD}", "chat.new", "done"),
        (Credential.PIN, PIN, "chat.new_pin", "done.pin"),
    ],
)
async def test_passwords_and_pins_may_be_typed_where_that_is_switched_on(
    make_desk: MakeDesk, credential: Credential, new: str, wanted: str, done: str
) -> None:
    provider = Provider()
    desk = make_desk(provider, in_chat=True, by_link=False, credential=credential)
    chat = Chat(desk)
    assert ids(await chat.says(*TO_PASSWORD)) == [wanted]
    turn = await chat.say(new)
    assert (ids(turn), turn.done) == ([done], True)
    assert provider.given("update") == [new.removeprefix("password: ")]
    assert desk.events[-2:] == ["delete", "update"]


async def test_a_pin_is_set_by_link_where_it_is_not_to_be_typed(make_desk: MakeDesk) -> None:
    chat = Chat(make_desk(credential=Credential.PIN))
    turn = await chat.says(*TO_PASSWORD)
    assert ids(turn) == ["chat.open_pin"]
    assert link_of(turn).url.startswith(PUBLIC_URL)


# --- news


async def told(desk: Desk) -> list[tuple[str, list[str], bool]]:
    """Return what was told unasked, once the workers have nothing under way any more."""
    await desk.settle()
    return [(name, ids(turn), turn.done) for name, turn in desk.told]


async def test_a_password_that_is_set_in_the_browser_is_told_once(desk: Desk) -> None:
    chat = Chat(desk)
    turn = await chat.says(*TO_PASSWORD)
    await chat.sets_in_browser(turn)
    assert await told(desk) == [(CHAT, ["done"], True)]
    desk.later()
    await chat.bot.service.sweep()
    assert len(await told(desk)) == 1
    assert ids(await chat.say("hello")) == ["chat.login"]


@pytest.mark.parametrize("texts", [TO_CODE[:2], TO_CODE, TO_PASSWORD])
async def test_an_expired_reset_is_told_once(desk: Desk, texts: tuple[str, ...]) -> None:
    chat = Chat(desk)
    await chat.says(*texts)
    desk.clock.advance(timedelta(hours=2))
    await desk.bot().service.sweep()
    assert await told(desk) == [(CHAT, ["failed.expired"], True)]
    desk.later()
    await chat.bot.service.sweep()
    assert len(await told(desk)) == 1
    assert ids(await chat.say("hello")) == ["chat.login"]


async def test_the_end_that_a_message_brings_is_told_by_its_turn_alone(make_desk: MakeDesk) -> None:
    desk = make_desk(in_chat=True, by_link=False)
    chat = Chat(desk)
    assert (await chat.says(*TO_PASSWORD, PASSWORD)).done
    desk.later()
    await chat.bot.service.sweep()
    assert await told(desk) == []


async def test_news_that_could_not_be_shown_are_told_again_also_after_a_restart(desk: Desk) -> None:
    chat = Chat(desk)
    turn = await chat.says(*TO_PASSWORD)
    desk.tell_fails = 2
    await chat.sets_in_browser(turn)
    assert await told(desk) == []
    await chat.bot.dies()
    desk.later()
    await desk.bot().service.sweep()
    assert await told(desk) == []
    desk.later()
    await desk.bot().service.sweep()
    assert await told(desk) == [(CHAT, ["done"], True)]


async def test_news_of_a_reset_that_was_given_up_are_told_only_if_it_came_to_be(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    turn = await chat.say("start over")
    assert ids(turn) == ["chat.login"]
    desk.clock.advance(timedelta(hours=2))
    await desk.bot().service.sweep()
    assert await told(desk) == []


# --- killed


async def killed_in(chat: Chat, text: str) -> bool:
    """Say something to a process that may die of it, and bury it. Return whether it died."""
    doomed = asyncio.create_task(chat.say(text, "doomed"))
    dead = asyncio.create_task(chat.bot.process.dead.wait())
    await asyncio.wait([doomed, dead], return_when=asyncio.FIRST_COMPLETED)
    was_killed = not doomed.done()
    for task in (doomed, dead):
        task.cancel()
    await chat.bot.dies()
    return was_killed


@pytest.mark.parametrize("text", [ANSWER, CODE, PASSWORD])
async def test_killed_between_deletion_and_call_the_person_is_asked_again(make_desk: MakeDesk, text: str) -> None:
    desk = make_desk(in_chat=True, by_link=False)
    chat = Chat(desk)
    texts = (*TO_PASSWORD, PASSWORD)
    await chat.says(*texts[: texts.index(text)])
    desk.events.clear()
    deleted = asyncio.Event()

    async def delete(_: DeleteMessage) -> bool:
        deleted.set()
        return await asyncio.Event().wait()

    inbound = Inbound(conversation=CHAT, message="doomed", text=text, private=True)
    doomed = asyncio.create_task(chat.bot.dialogue.handle(inbound, delete))
    await deleted.wait()
    doomed.cancel()
    await asyncio.wait([doomed])
    await chat.bot.dies()
    desk.later()
    chat.bot = desk.bot()
    assert await chat.bot.dialogue.recover() == 1
    assert await chat.bot.dialogue.recover() == 0
    wanted = {ANSWER: "answer.wanted", CODE: "chat.code", PASSWORD: "chat.new"}[text]
    assert await told(desk) == [(CHAT, ["chat.interrupted", wanted], False)]
    assert desk.events == [f"tell {CHAT}"]
    assert ids(await chat.says(*texts[texts.index(text) :])) == ["done"]


async def test_a_turn_that_could_not_be_shown_is_told_later_and_nothing_is_done_again(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    shown: list[Turn] = []

    async def show(turn: Turn) -> None:
        shown.append(turn)
        raise OSError("the platform is away")

    inbound = Inbound(conversation=CHAT, message="3", text=ANSWER, private=True)
    with pytest.raises(OSError, match="away"):
        await chat.bot.dialogue.handle(inbound, show=show)
    await chat.bot.dies()
    desk.later()
    chat.bot = desk.bot()
    assert await chat.bot.dialogue.recover() == 1
    assert [turn for _, turn in desk.told] == shown
    assert await chat.bot.dialogue.recover() == 0
    assert desk.events == ["challenge", "request", f"tell {CHAT}"]


async def test_a_turn_that_was_not_shown_is_not_told_after_a_later_one(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.says("hello", LOGIN)

    async def show(_: Turn) -> None:
        raise OSError("the platform is away")

    with pytest.raises(OSError, match="away"):
        await chat.bot.dialogue.handle(Inbound(conversation=CHAT, message="3", text=ANSWER, private=True), show=show)
    assert ids(await chat.say(CODE, "4")) == ["chat.open"]
    desk.later()
    assert await chat.bot.dialogue.recover() == 0
    assert await told(desk) == []


async def test_a_turn_is_shown_before_the_next_message_is_taken(desk: Desk) -> None:
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    showing, may_be_shown = asyncio.Event(), asyncio.Event()

    async def show(_: Turn) -> None:
        showing.set()
        await may_be_shown.wait()

    inbound = Inbound(conversation=CHAT, message="3", text=ANSWER, private=True)
    answered = asyncio.create_task(chat.bot.dialogue.handle(inbound, show=show))
    await showing.wait()
    verified = asyncio.create_task(chat.say(CODE, "4"))
    await desk.settle()
    assert desk.events == ["challenge", "request"]
    may_be_shown.set()
    assert ids(await answered) == ["chat.not_deleted", "chat.code"]
    assert ids(await verified) == ["chat.open"]


@pytest.mark.parametrize("text", [ANSWER, CODE, PASSWORD])
async def test_killed_at_any_call_the_person_is_told_once_something_is_known_of_the_message(
    make_desk: MakeDesk, text: str
) -> None:
    texts = (*TO_PASSWORD, PASSWORD)
    told_after, was_killed = list[bool](), True
    while was_killed:
        desk = make_desk(in_chat=True, by_link=False)
        chat = Chat(desk)
        await chat.says(*texts[: texts.index(text)])
        await chat.bot.dies()
        known_before = len(desk.saved)
        chat.bot = desk.bot(dies_at=len(told_after) + 1)
        was_killed = await killed_in(chat, text)
        is_known = len(desk.saved) > known_before
        desk.later()
        asked = await desk.bot().dialogue.recover()
        assert asked == len(desk.told)
        assert asked or not is_known or any(told_after)
        told_after.append(asked == 1)
    assert all(told_after[told_after.index(True) : -2]), "all was done before the last call was over"
    assert told_after[-2:] == [False, False]


async def test_a_service_that_is_closed_as_it_starts_a_reset_loses_nothing(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.say("hello")
    sending = provider.hold("request")
    started = asyncio.create_task(chat.say(LOGIN))
    await sending.arrived.wait()
    await chat.bot.service.aclose(timedelta(0))
    assert (await started).done is False
    sending.released.set()
    desk.later()
    chat.bot = desk.bot()
    assert ids(await chat.say(CODE))[-1] == "chat.open"
    assert len(provider.calls_of("request")) == 1


@pytest.mark.parametrize("failure", ["hangs", asyncio.CancelledError(), OSError("the platform is away")])
async def test_whatever_happens_as_one_is_asked_again_the_others_are_and_later_this_one(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    monkeypatch.setattr(dialogue, "ASKING_DEADLINE", HANGS.total_seconds())
    desk = make_desk()
    chats = [Chat(desk, name=f"{CHAT}{number}") for number in range(3)]
    for chat in chats:
        await chat.says("hello", LOGIN)
        chat.can_delete = "hangs"
        doomed = asyncio.create_task(chat.say(ANSWER))
        while not chat.deleted:
            await desk.settle()
        doomed.cancel()
        await asyncio.wait([doomed])
    desk.later()
    desk.tell_fails, desk.tell_failure = 1, failure
    assert await chats[0].bot.dialogue.recover() == 2
    assert await chats[0].bot.dialogue.recover() == 1
    assert {conversation for conversation, _, _ in await told(desk)} == {chat.name for chat in chats}


async def test_one_conversation_that_can_not_be_shown_keeps_no_other_from_being_asked_again(desk: Desk) -> None:
    chats = [Chat(desk, name=f"{CHAT}{number}") for number in range(3)]
    deletions: asyncio.Queue[str] = asyncio.Queue()

    async def delete(what: DeleteMessage) -> bool:
        deletions.put_nowait(what.message)
        return await asyncio.Event().wait()

    for chat in chats:
        await chat.says(*TO_CODE)
        inbound = Inbound(conversation=chat.name, message="doomed", text=CODE, private=True)
        doomed = asyncio.create_task(chat.bot.dialogue.handle(inbound, delete))
        assert await deletions.get() == "doomed"
        doomed.cancel()
        await asyncio.wait([doomed])
    desk.later()
    desk.tell_fails = 1
    assert await chats[0].bot.dialogue.recover() == 2
    assert await chats[0].bot.dialogue.recover() == 1
    assert {conversation for conversation, _, _ in await told(desk)} == {chat.name for chat in chats}


@pytest.mark.parametrize("question", [False, True])
async def test_a_code_is_taken_whose_sending_a_process_died_in(make_desk: MakeDesk, question: bool) -> None:  # noqa: FBT001
    provider = Provider(question=question)
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.says(*(("hello", LOGIN) if question else ("hello",)))
    sending = provider.hold("request")
    doomed = asyncio.create_task(chat.say(ANSWER if question else LOGIN))
    await sending.arrived.wait()
    doomed.cancel()
    await chat.bot.dies()
    desk.later()
    chat.bot = desk.bot()
    assert ids(await chat.say("help")) == ["chat.interrupted", "chat.help", "answer.in_doubt"]
    assert ids(await chat.say(CODE)) == ["chat.open"]
    assert provider.given("exchange") == [CODE]
    assert len(provider.calls_of("request")) == 1


async def test_who_wrote_again_while_nobody_knew_what_came_of_a_code_is_told_later(
    make_desk: MakeDesk,
) -> None:
    provider = Provider()
    desk = make_desk(provider)
    chat = Chat(desk)
    await chat.says(*TO_CODE)
    checking = provider.hold("exchange")
    doomed = asyncio.create_task(chat.say(CODE))
    await checking.arrived.wait()
    doomed.cancel()
    await chat.bot.dies()
    desk.clock.advance(PATIENCE + timedelta(seconds=1))
    chat.bot = desk.bot()
    assert ids(await chat.say("hello?"))[-1] == "busy"
    desk.later()
    assert await chat.bot.dialogue.recover() == 1
    assert await told(desk) == [(CHAT, ["chat.interrupted", "code.in_doubt"], False)]
    assert await chat.bot.dialogue.recover() == 0
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_recover_asks_nobody_again_whose_messages_were_all_answered(desk: Desk) -> None:
    chat = Chat(desk)
    assert await chat.bot.dialogue.recover() == 0
    await chat.says(*TO_CODE)
    desk.later()
    assert await chat.bot.dialogue.recover() == 0
    assert desk.events == ["challenge", "delete", "request"]


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("after", ["delivered again", "another message"])
async def test_killed_at_any_call_a_conversation_goes_on_and_nothing_is_sent_twice(
    make_desk: MakeDesk, step: int, after: str
) -> None:
    texts = (*TO_PASSWORD, PASSWORD)
    for dies_at in range(1, 1000):
        provider = Provider()
        desk = make_desk(provider, in_chat=True, by_link=False)
        chat = Chat(desk)
        await chat.says(*texts[:step])
        await chat.bot.dies()
        chat.bot = desk.bot(dies_at=dies_at)
        was_killed = await killed_in(chat, texts[step])
        desk.later()
        chat.bot = desk.bot()
        turn = await chat.say(texts[step], "doomed") if after == "delivered again" else await chat.say("help")
        turn = await chat.finishes(turn)
        assert (ids(turn)[-1], turn.done) == ("done", True), f"killed at call {dies_at}"
        assert provider.given("update")[-1] == PASSWORD
        assert len(provider.calls_of("update")) <= 2
        await desk.aclose()
        if not was_killed:
            break
    assert dies_at > 5


# --- misuse


@pytest.mark.parametrize("text", ["hello?", "12", "123456 or 654321", "/help", "654321"])
async def test_a_message_that_comes_again_with_another_text_after_a_crash_is_another_one(desk: Desk, text: str) -> None:
    chat = Chat(desk)
    await chat.says(*TO_CODE)
    chat.can_delete = "hangs"
    doomed = asyncio.create_task(chat.say(CODE, "4"))
    while len(chat.deleted) < 2:
        await desk.settle()
    doomed.cancel()
    await chat.bot.dies()
    desk.later()
    chat.bot, chat.can_delete = desk.bot(), True
    turn = await chat.say(text, "4")
    assert ids(turn)[-1] == "chat.code.again"
    assert turn.effects == ()
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_a_code_from_a_link_may_be_any_text(make_desk: MakeDesk) -> None:
    desk = make_desk(Provider(question=False, capabilities=Capabilities(code=CodeFormat.token())))
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    assert ids(await chat.say("\ud800abc")) == ["reason.not_printable", "chat.code.again"]
    assert chat.deleted == ["3"]
    assert ids(await chat.say(CODE)) == ["chat.open"]


async def test_whatever_breaks_becomes_a_turn_and_the_person_is_asked_again(
    make_desk: MakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(Provider(question=False))
    bot = desk.bot()
    links = Unreliable(bot.service)
    dialogue = ResetDialogue(bot.service, links=links, news=News(), tell=desk.tell, clock=desk.clock)
    chat = Chat(desk, attrs.evolve(bot, dialogue=dialogue))
    await chat.says("hello", LOGIN)
    links.broken = ValueError(f"no link for {LOGIN} with {CODE}")
    turn = await chat.say(CODE)
    assert (ids(turn), turn.effects) == (["trouble"], (Escalate(Reason.TROUBLE),))
    assert "ValueError" in caplog.text
    links.broken = None
    desk.later()
    assert await dialogue.recover() == 1
    assert await told(desk) == [(CHAT, ["chat.interrupted", "chat.open"], False)]
    assert link_of(desk.told[0][1]).url.startswith(PUBLIC_URL)


async def test_long_names_of_many_messages_at_once_keep_none_from_being_taken(desk: Desk) -> None:
    bot = desk.bot()
    memory = Memory(bot.service)
    name = "😀" * 200
    for number in range(100):
        await memory.mark(Mark(name, f"{number:03}{'é' * 197}", desk.clock()))
    newest = [mark.message[:3] for mark in await memory.marks()]
    assert newest == [f"{number:03}" for number in range(100 - len(newest), 100)]
    assert len(newest) > 20


@pytest.mark.parametrize(
    "inbound",
    [
        "hello",
        None,
        Inbound(conversation="", message="1"),
        Inbound(conversation="c", message=""),
        Inbound(conversation="c" * 201, message="1"),
        Inbound(conversation="c", message="1\n"),
        Inbound(conversation=4711, message="1"),  # type: ignore[arg-type]
        Inbound(conversation="c", message="1", text=b"hello"),  # type: ignore[arg-type]
        Inbound(conversation="c", message="1", locale=None),  # type: ignore[arg-type]
        Inbound(conversation="c", message="1", private="false"),  # type: ignore[arg-type]
    ],
)
async def test_what_is_no_inbound_is_refused_and_does_nothing(desk: Desk, inbound: Any) -> None:
    bot = desk.bot()
    with pytest.raises(InvalidInput):
        await bot.dialogue.handle(inbound)
    assert desk.saved == b""
    fine = Inbound(conversation="c" * 200, message="m" * 200, text="hello", private=True)
    assert ids(await bot.dialogue.handle(fine)) == ["chat.login"]


async def test_a_dialogue_needs_a_road_for_the_password_and_both_ends_of_the_news() -> None:
    async with ResetService(ScriptedTransport(), MemoryStore(), Keyring.generate(), sweep=False) as service:
        links = Links(service, PUBLIC_URL)

        async def tell(_: str, __: Turn) -> None:
            """Show it to nobody."""

        wrongs: tuple[dict[str, Any], ...] = (
            {}, {"links": links, "news": News()}, {"links": links, "tell": tell}, {"links": PUBLIC_URL},
        )  # fmt: skip
        for wrong in wrongs:
            with pytest.raises(ConfigurationError):
                ResetDialogue(service, **wrong)
        rights: tuple[dict[str, Any], ...] = (
            {"links": links},
            {"passwords_in_chat": True},
            {"links": links, "news": News(), "tell": tell},
        )
        for right in rights:
            assert isinstance(ResetDialogue(service, **right), ResetDialogue)


async def test_news_that_were_given_to_no_dialogue_say_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    service = ResetService(
        Provider(question=False), MemoryStore(), Keyring.generate(), sweep=False, listeners={"chat": News()}
    )
    async with service:
        await service.cancel((await service.start(LOGIN)).id)
    assert "ResetDialogue(…, news=news, tell=…)" in caplog.text


async def test_a_deletion_that_breaks_is_logged_without_what_it_said(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    chat = Chat(desk)
    chat.can_delete = KeyError(ANSWER)
    assert ids(await chat.says("hello", LOGIN, ANSWER)) == ["chat.not_deleted", "chat.code"]
    assert "a message was not deleted: KeyError" in caplog.text
    assert ANSWER not in caplog.text


@pytest.mark.parametrize("says", [(), (LOGIN,), (LOGIN, ANSWER), (LOGIN, ANSWER, CODE)])
@pytest.mark.parametrize("text", ["", " \n"])
async def test_a_message_without_a_text_says_where_we_stand_and_no_more(
    make_desk: MakeDesk, says: tuple[str, ...], text: str
) -> None:
    chat = Chat(make_desk(in_chat=True))
    wanted = ids(await chat.says("hello", *says))
    assert ids(await chat.say(text)) == wanted


# --- elsewhere


async def test_a_reset_whose_code_was_typed_elsewhere_is_left_to_whoever_did(make_desk: MakeDesk) -> None:
    provider = Provider(question=False)
    desk = make_desk(provider, in_chat=True, by_link=False)
    chat = Chat(desk)
    await chat.says("hello", LOGIN)
    await desk.settle()
    await chat.bot.service.verify(desk.flows[-1], CODE, holder="somebody's browser")
    turn = await chat.say("123456")
    assert (ids(turn), turn.done) == (["held"], False)
    assert provider.given("exchange") == [CODE]
    turn = await chat.say("cancel")
    assert (ids(turn), turn.done) == (["chat.left"], True)
    await chat.bot.service.set_password(desk.flows[-1], PASSWORD, holder="somebody's browser")
    assert await told(desk) == [(CHAT, ["done"], False)]


# --- what is asked of humans


async def test_a_human_is_called_when_asked_for_and_when_a_reset_failed(desk: Desk) -> None:
    chat = Chat(desk)
    assert (await chat.say("human")).effects == (Escalate(Reason.ASKED),)
    turn = await chat.says("hello", LOGIN, "a street", "a road", "a lane")
    assert (ids(turn)[-1], turn.effects, turn.done) == ("failed.too_many_attempts", (Escalate(Reason.FAILED),), True)

"""
Conversations at the sandbox, played and written down.

`python -m tests.chat.golden` writes transcripts/en.txt, de.txt and es.txt anew: look at what changed in them.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow import Credential, EtnaTransport
from reset_flow.chat import Escalate, OpenLink, Turn
from reset_flow.sandbox import Sandbox
from reset_flow.testing import FrozenClock
from reset_flow.web import Links
from tests.chat.chats import CHAT, PUBLIC_URL, Chat, Desk, link_of
from tests.web.houses import ANSWER, APP_KEY, ASKED, NOBODY, UNASKED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PASSWORD = "violet-tractor-at-5"
FOLDER = Path(__file__).with_name("transcripts")
LANGUAGES = ("en", "de", "es")
CODES = ("741175", "302944", "118273", "560012", "884120")

SAID = {
    "hello": ("hello", "Hallo!", "Hola"),
    "balance": ("what is my balance?", "Wie hoch ist mein Guthaben?", "¿Cuál es mi saldo?"),
    "sentence": ("well, I forgot it again", "Ich habe es wieder vergessen", "bueno, la he olvidado otra vez"),
    "cancel": ("Cancel, please!", "Abbrechen, bitte!", "¡Cancelar, por favor!"),
    "restart": ("start over", "von vorn", "empezar de nuevo"),
    "human": ("human", "Mitarbeiter", "agente"),
    "help": ("help", "Hilfe!", "ayuda"),
    "resend": ("another code", "neuer Code", "otro código"),
    "new link": ("new link", "neuer Link", "nuevo enlace"),
    "answer": ("answer", "Antwort", "respuesta"),
    "password": ("password", "Passwort", "contraseña"),
    "login": ("login", "Benutzername", "usuario"),
    "or": ("741175 or 741176?", "741175 oder 741176?", "¿741175 o 741176?"),
    "two addresses": (
        "anna@example.com or anna@example.org",
        "anna@example.com oder anna@example.org",
        "anna@example.com o anna@example.org",
    ),
    "introduced": (
        f"Hi, my login is {UNASKED}.",
        f"Hallo, mein Login ist {UNASKED}.",
        f"Hola, mi usuario es {UNASKED}.",
    ),
    "a mail": (
        "Your code is 741 175. It is valid until 12:10 on 2030-01-01. Questions? +49 30 123456",
        "Ihr Code lautet 741 175. Er gilt bis 12:10 Uhr am 01.01.2030. Fragen? +49 30 123456",
        "Su código es 741 175. Vale hasta las 12:10 del 01/01/2030. ¿Preguntas? +34 912345678",
    ),
}


class Stage:
    """
    A conversation that is written down.

    Args:
        restarts: Whether another process takes each message.
    """

    def __init__(self, desk: Desk, sandbox: Sandbox, locale: str, *, restarts: bool) -> None:
        self.desk = desk
        self.sandbox = sandbox
        self.chat = Chat(desk, locale=locale)
        self.lines: list[str] = []
        self.store_is_down = False
        self._language = LANGUAGES.index(locale)
        self._restarts = restarts
        self._told = 0

    async def says(self, *texts: str, **options: Any) -> Turn:
        """Have the person say this, in their language if it is in SAID; the rest as it is."""
        turn = Turn()
        for each in texts:
            text = self.word(each)
            if self._restarts:
                self.chat.bot = self.desk.bot()
            self.chat.bot.process.store_is_down = self.store_is_down
            deleted = len(self.chat.deleted)
            turn = await self.chat.say(text, **options)
            self.lines.append(f"> {text}".rstrip())
            if len(self.chat.deleted) > deleted:
                self.lines.append(f"  ({'deleted' if self.chat.can_delete is True else 'not deleted'})")
            self._show(turn)
        return turn

    async def to_code(self, login: str = UNASKED) -> Turn:
        return await self.says("hello", login)

    async def to_password(self) -> Turn:
        return await self.says("hello", UNASKED, CODES[0])

    def word(self, name: str) -> str:
        """Return how something is said in the person's language."""
        return SAID[name][self._language] if name in SAID else name

    def time(self, **time: float) -> None:
        """Let time pass."""
        passed = timedelta(**time)
        self.desk.clock.advance(passed)
        self.lines.append(f"  ... {passed} ...")

    def note(self, text: str) -> None:
        self.lines.append(f"  [{text}]")

    def again(self) -> None:
        """Begin another conversation of the scenario."""
        if self.lines:
            self.lines.append("")

    async def news(self) -> None:
        """Write down what is told without being asked."""
        await self.desk.bot().service.sweep()
        await self.desk.settle()
        for conversation, turn in self.desk.told[self._told :]:
            assert conversation == CHAT
            self.note("unasked")
            self._show(turn)
        self._told = len(self.desk.told)

    def _show(self, turn: Turn) -> None:
        for message in turn.messages:
            buttons = "".join(f" [{button.text}]" for button in message.buttons)
            self.lines.append(f"{message.id}: {message.text}{buttons}")
        for effect in turn.effects:
            if isinstance(effect, OpenLink):
                self.lines.append(f"  (link until {effect.expires_at:%H:%M}: {effect.text})")
            elif isinstance(effect, Escalate):
                self.lines.append(f"  (a human is called: {effect.reason})")
        if turn.done:
            self.lines.append("  (free)")


Scenario: TypeAlias = "Callable[[Stage], Awaitable[object]]"
SCENARIOS: dict[str, tuple[Scenario, dict[str, Any]]] = {}


def scenario(title: str, **options: Any) -> Callable[[Scenario], Scenario]:
    def add(play: Scenario) -> Scenario:
        SCENARIOS[title] = (play, options)
        return play

    return add


# --- the straight road


@scenario("with a question, the password by link")
async def with_question(stage: Stage) -> None:
    turn = await stage.says("hello", ASKED, ANSWER, CODES[0])
    stage.note("the password is set in the browser")
    service = stage.desk.bot().service
    flow = await Links(service, PUBLIC_URL).look(link_of(turn).url.rpartition("/")[2])
    assert flow is not None
    await service.set_password(flow.id, PASSWORD, holder=f"chat {CHAT}")
    await stage.news()
    assert stage.sandbox.password_of(ASKED) == PASSWORD


@scenario("without a question, the whole e-mail pasted")
async def without_question(stage: Stage) -> None:
    await stage.says("hello", UNASKED, "a mail", "new link")


@scenario("the password in the chat", in_chat=True, by_link=False)
async def in_chat(stage: Stage) -> None:
    await stage.says("hello", ASKED, ANSWER, f"Code: {CODES[0]}.", PASSWORD)
    assert stage.sandbox.password_of(ASKED) == PASSWORD


@scenario("the password in the chat or by link", in_chat=True)
async def either(stage: Stage) -> None:
    await stage.to_password()
    await stage.says(PASSWORD)
    assert stage.sandbox.password_of(UNASKED) == PASSWORD


@scenario("a PIN by link", credential=Credential.PIN)
async def pin(stage: Stage) -> None:
    await stage.to_password()


# --- wrong turns


@scenario("no login")
async def no_login(stage: Stage) -> None:
    await stage.says("hello", "balance", "sentence", "", f"{stage.word('login')}: {UNASKED}")


@scenario("more than a login")
async def more_than_a_login(stage: Stage) -> None:
    await stage.says("hello", "two addresses", "introduced")


@scenario("wrong answers until the limit")
async def wrong_answers(stage: Stage) -> None:
    await stage.says("hello", ASKED, "Paterson", "Petersen", "Pettersson", "hello")


@scenario("wrong codes until the limit")
async def wrong_codes(stage: Stage) -> None:
    await stage.to_code()
    await stage.says(*["123456", "123457", "123458", "123459", "123450"], CODES[0])


@scenario("what is no code, and more than one")
async def no_code(stage: Stage) -> None:
    await stage.to_code()
    await stage.says("74117", "or", "sentence", CODES[0])


@scenario("digressions at each step", in_chat=True)
async def digressions(stage: Stage) -> None:
    await stage.says("hello", "balance", ASKED, "balance", ANSWER, "balance", CODES[0], "balance", PASSWORD)


@scenario("labels", in_chat=True, by_link=False)
async def labels(stage: Stage) -> None:
    await stage.says("hello", ASKED, f"{stage.word('answer')}: {ANSWER}?")
    await stage.says(f"{stage.word('answer')}: {ANSWER}", CODES[0], f"{stage.word('password')}: {PASSWORD}?")
    assert stage.sandbox.password_of(ASKED) == f"{PASSWORD}?"


@scenario("a password is typed where it is set by link")
async def typed_password(stage: Stage) -> None:
    await stage.to_password()
    await stage.says(PASSWORD)
    assert stage.sandbox.password_of(UNASKED) != PASSWORD


@scenario("weak passwords", in_chat=True, by_link=False)
async def weak(stage: Stage) -> None:
    await stage.to_password()
    await stage.says("tractor", "password123", "x" * 200, UNASKED, PASSWORD)


@scenario("the code again in the place of the password", in_chat=True, by_link=False)
async def code_again(stage: Stage) -> None:
    await stage.to_password()
    await stage.says("a mail")


# --- time and limits


@scenario("another code, too early, in time and once too often")
async def resend(stage: Stage) -> None:
    await stage.to_code()
    await stage.says("resend")
    for _ in range(4):
        stage.time(seconds=61)
        await stage.says("resend")
    await stage.says(CODES[0], CODES[3])


@scenario("the link grows old")
async def old_link(stage: Stage) -> None:
    await stage.to_password()
    stage.time(minutes=5)
    await stage.says("hello")
    stage.time(minutes=4)
    await stage.says("hello")


@scenario("the time of a reset is up")
async def expiry(stage: Stage) -> None:
    await stage.to_password()
    stage.time(minutes=61)
    await stage.news()
    await stage.says("hello")


@scenario("the time of a reset is up, and the next message comes first")
async def expiry_unseen(stage: Stage) -> None:
    await stage.to_code()
    stage.time(minutes=61)
    await stage.says(CODES[0])
    await stage.news()


@scenario("the time of a reset is up before the answer")
async def expiry_before_answer(stage: Stage) -> None:
    await stage.says("hello", ASKED)
    stage.time(minutes=61)
    await stage.says(ANSWER)


@scenario("too many resets for one login")
async def starts(stage: Stage) -> None:
    for _ in range(5):
        await stage.says("hello", UNASKED, "cancel")
    await stage.says("hello", UNASKED)


@scenario("a login that nobody has")
async def nobody(stage: Stage) -> None:
    await stage.says("hello", NOBODY, "123456", "resend", "cancel")


# --- replies that are lost


@scenario("the reply to the answer is lost")
async def answer_in_doubt(stage: Stage) -> None:
    await stage.says("hello", ASKED)
    stage.sandbox.fault("request", "drop_after")
    await stage.says(ANSWER, "sentence", CODES[0])


@scenario("the reply to the start is lost")
async def start_in_doubt(stage: Stage) -> None:
    stage.sandbox.fault("request", "drop_after")
    await stage.says("hello", UNASKED, CODES[0])


@scenario("the reply to the code is lost")
async def code_in_doubt(stage: Stage) -> None:
    await stage.to_code()
    stage.sandbox.fault("exchange", "drop_after")
    stage.time(seconds=61)
    await stage.says(CODES[0], CODES[0], "resend", CODES[1])


@scenario("both replies to the code are lost")
async def code_in_more_doubt(stage: Stage) -> None:
    await stage.to_code()
    stage.sandbox.fault("exchange", "drop_before", times=2)
    await stage.says(CODES[0], CODES[0])


@scenario("the reply to another code is lost")
async def resend_in_doubt(stage: Stage) -> None:
    await stage.to_code()
    stage.time(seconds=61)
    stage.sandbox.fault("request", "drop_after")
    await stage.says("resend", CODES[1])


@scenario("the reply to the password is lost", in_chat=True, by_link=False)
async def password_in_doubt(stage: Stage) -> None:
    await stage.to_password()
    stage.sandbox.fault("update", "drop_before", times=2)
    stage.sandbox.fault("log_in", "drop_before")
    await stage.says(PASSWORD, "balance", PASSWORD)


@scenario("the reply to the password is lost, and a log-in shows that it works", in_chat=True, by_link=False)
async def password_probed(stage: Stage) -> None:
    await stage.to_password()
    stage.sandbox.fault("update", "drop_after", times=2)
    await stage.says(PASSWORD)


# --- words, at each step


async def at_each_step(stage: Stage, *texts: str) -> None:
    """Say this at each step of a reset of its own."""
    for said in ((), ("hello",), ("hello", ASKED), ("hello", UNASKED), ("hello", UNASKED, "741175")):
        stage.again()
        stage.desk.clock.advance(timedelta(hours=2))
        stage.sandbox.next_codes[:] = CODES
        await stage.says(*said, *texts)
        if not (await stage.says("cancel")).done:
            raise AssertionError("cancel always wins")


@scenario("cancel")
async def cancel(stage: Stage) -> None:
    await at_each_step(stage)


@scenario("start over")
async def restart(stage: Stage) -> None:
    await at_each_step(stage, "restart")


@scenario("human")
async def human(stage: Stage) -> None:
    await at_each_step(stage, "human")


@scenario("help")
async def help_(stage: Stage) -> None:
    await at_each_step(stage, "help")


# --- what is down


@scenario("the broker is down", in_chat=True, by_link=False)
async def broker_down(stage: Stage) -> None:
    down: dict[str, Any] = {"name": "status", "status": 503, "headers": {"Retry-After": "30"}}
    await stage.says("hello")
    stage.sandbox.fault("*", **down)
    await stage.says(ASKED, ASKED)
    stage.sandbox.fault("request", **down)
    await stage.says(ANSWER, ANSWER)
    stage.sandbox.fault("exchange", **down)
    await stage.says(CODES[0], CODES[0])
    stage.sandbox.fault("update", **down)
    await stage.says(PASSWORD, PASSWORD)
    assert stage.sandbox.password_of(ASKED) == PASSWORD


@scenario("the store is down", in_chat=True, by_link=False)
async def store_down(stage: Stage) -> None:
    for text in ("hello", ASKED, ANSWER, CODES[0], PASSWORD):
        stage.store_is_down = True
        await stage.says(text)
        stage.store_is_down = False
        await stage.says(text)
    assert stage.sandbox.password_of(ASKED) == PASSWORD


@scenario("the app key is wrong")
async def app_key(stage: Stage) -> None:
    stage.sandbox.settings.app_key = "another one"
    await stage.to_code()


# --- the platform


@scenario("a group")
async def group(stage: Stage) -> None:
    await stage.says("hello", private=False)
    await stage.says("hello", ASKED)
    await stage.says(ANSWER, private=False)
    await stage.says(ANSWER)


@scenario("messages that can't be deleted")
async def no_deletion(stage: Stage) -> None:
    stage.chat.can_delete = False
    await stage.says("hello", ASKED, ANSWER, CODES[0])


@scenario("a message that comes twice")
async def twice(stage: Stage) -> None:
    await stage.says("hello", UNASKED)
    for _ in range(2):
        await stage.says(CODES[0], message="the same")


@asynccontextmanager
async def staged(title: str, locale: str, *, restarts: bool) -> AsyncIterator[tuple[Stage, Scenario]]:
    """Open the stage for a scenario."""
    play, options = SCENARIOS[title]
    clock = FrozenClock()
    async with Sandbox(app_key=APP_KEY, now=clock) as sandbox:
        sandbox.next_codes[:] = CODES
        transport = EtnaTransport(sandbox.api_url, APP_KEY, name="broker")
        desk = Desk(transport, clock=clock, **options)
        try:
            yield Stage(desk, sandbox, locale, restarts=restarts), play
        finally:
            await desk.aclose()
            await transport.aclose()


async def played(title: str, locale: str, *, restarts: bool = False) -> list[str]:
    """Return the lines of a scenario."""
    async with staged(title, locale, restarts=restarts) as (stage, play):
        await play(stage)
        return stage.lines


def read(locale: str) -> dict[str, list[str]]:
    """Return the lines of each scenario, as they were written down."""
    scenes: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (FOLDER / f"{locale}.txt").read_text().splitlines():
        if line.startswith("== "):
            lines = scenes[line.removeprefix("== ")] = []
        else:
            lines.append(line)
    return {title: lines[1:-1] for title, lines in scenes.items()}


async def write() -> None:
    """Write all transcripts anew."""
    for locale in LANGUAGES:
        parts = []
        for title in SCENARIOS:
            lines = await played(title, locale)
            parts.append("\n".join([f"== {title}", "", *lines, "", ""]))
        (FOLDER / f"{locale}.txt").write_text("".join(parts))


if __name__ == "__main__":
    asyncio.run(write())

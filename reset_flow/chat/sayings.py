"""What a chat says: texts of the catalogue with buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from reset_flow.chat.table import Phase, phase_of
from reset_flow.chat.turns import Button, Message
from reset_flow.domain.errors import InputRejected
from reset_flow.domain.flow import Credential
from reset_flow.messages import Message as Text, masked, message_of, message_of_error, reasons_of

if TYPE_CHECKING:
    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.domain.flow import Flow
    from reset_flow.messages import Texts

BUTTONS = {
    "cancel": "page.cancel",
    "resend": "page.code.resend",
    "request": "page.request.title",
    "link": "chat.new_link",
    "restart": "page.again",
    "help": "page.help",
}
PIN_TEXTS = frozenset(
    {"chat.either", "chat.help", "chat.labelled_new", "chat.link", "chat.login", "chat.new", "chat.open"}
)
"""Each has one of its own for a PIN: its id and `_pin`."""

SENDS = {"request": "/resend", "link": "/resend"}
"""What a button sends that is not its own name."""


def sent_by(button: str) -> str:
    """Return what a button sends."""
    return SENDS.get(button, f"/{button}")


@attrs.frozen
class Sayings:
    """The texts of a conversation, in its language."""

    texts: Texts
    locale: str
    credential: Credential

    def __call__(self, text: Text | str, *buttons: str) -> Message:
        """Return a message with these buttons."""
        text = Text(text) if isinstance(text, str) else text
        if self.credential is Credential.PIN and text.id in PIN_TEXTS:
            text = Text(f"{text.id}_pin", text.context)
        return Message(text.id, self.texts.say(text, self.locale), tuple(map(self._button, buttons)))

    def error(self, error: ResetFlowError) -> tuple[Message, ...]:
        """Return what a person is told of an error."""
        flow = error.flow
        tries = flow.attempts_left if flow and isinstance(error, InputRejected) and error.sent else None
        left = () if tries is None or (flow and flow.ended) else (Text("tries_left", {"count": tries}),)
        return tuple(map(self, (message_of_error(error), *reasons_of(error), *left)))

    def flow(
        self, flow: Flow, *, in_chat: bool = False, by_link: bool = False, again: bool = False
    ) -> tuple[Message, ...]:
        """Return where a flow stands, and what is wanted. `again`: no e-mail was sent by what is said before."""
        told = message_of(flow)
        if flow.ended:
            return (self(told),) if flow.failure is None else (self(told, "restart"),)
        phase = phase_of(flow)
        if told.id == "code.wanted" and phase is Phase.CODE:
            told = Text("chat.code.again") if again else Text("chat.code", {"login": masked(flow.user)})
        if flow.busy_until:
            return (self(told, "cancel"),)
        if phase is Phase.NEW and told.id.endswith(".wanted"):
            told = Text("chat.new" if not by_link else "chat.either" if in_chat else "chat.open")
        resend = ("resend",) if flow.resend_at else ()
        buttons = {
            Phase.REQUEST: ("request",),
            Phase.ANSWER: ("restart",),
            Phase.CODE: (*resend, "restart"),
            Phase.ANOTHER: (*resend, "restart"),
            Phase.NEW: ("link",) if by_link else (),
        }[phase]
        return (self(told, *buttons, "help", "cancel"),)

    def _button(self, name: str) -> Button:
        return Button(name, self.texts.say(BUTTONS[name], self.locale), sent_by(name))

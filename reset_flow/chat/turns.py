"""What goes into the dialogue and comes out of it: plain values, which every platform can be fitted to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeAlias

import attrs
from msgspec import Struct


@attrs.frozen(kw_only=True)
class Inbound:
    """
    A message of a person, or a button that they pressed.

    Attributes:
        conversation: The platform's name of the chat, stable and its own: `telegram:4711`.

        message: The platform's name of the message. The same again is the same message, delivered twice.

        text: As typed; for a button, its `sends`.

        locale: The person's language, such as `de` or `pt-BR`. One that there is no text for becomes English.

        private: Whether nobody else reads along. False unless the platform is sure of it.
    """

    conversation: str
    message: str
    text: str = attrs.field(default="", repr=False)
    locale: str = "en"
    private: bool = False


class Button(Struct, frozen=True):
    """
    Something to press in the place of typing.

    Attributes:
        id: Stable name, such as `cancel`.

        sends: What a press sends as the `text` of the next `Inbound`.
    """

    id: str
    text: str
    sends: str


class Message(Struct, frozen=True):
    """
    A text for the person.

    Attributes:
        id: Stable name of the text, the same in every language.
    """

    id: str
    text: str
    buttons: tuple[Button, ...] = ()


class DeleteMessage(Struct, frozen=True):
    """Delete the person's message, which holds a secret: what `delete` is called with."""

    message: str


class OpenLink(Struct, frozen=True, tag="open_link"):
    """
    Show the person a link, which opens their reset in a browser, once.

    Attributes:
        text: What to write on it.
    """

    url: str
    expires_at: datetime
    text: str = ""

    def __repr__(self) -> str:
        return f"OpenLink(expires_at={self.expires_at!r})"


class Reason(StrEnum):
    """Why a human is wanted."""

    ASKED = "asked"
    FAILED = "failed"
    TROUBLE = "trouble"


class Escalate(Struct, frozen=True, tag="escalate"):
    """Have a human look at the conversation."""

    reason: Reason


Effect: TypeAlias = OpenLink | Escalate


class Turn(Struct, frozen=True):
    """
    The dialogue's answer.

    Attributes:
        messages: To be shown in this order.

        effects: What the adapter does beyond that, in this order. Deletions are not among those that are left to do:
            they were asked for by `delete` before the turn went on.

        done: Whether the conversation is free again for whatever else the bot does.
    """

    messages: tuple[Message, ...] = ()
    effects: tuple[Effect, ...] = ()
    done: bool = False


Delete: TypeAlias = Callable[[DeleteMessage], Awaitable[bool]]
"""Deletes a message, and returns whether it is gone; one that was gone before is."""

Show: TypeAlias = Callable[[Turn], Awaitable[None]]
"""Shows a turn. It raises if it could not."""

Tell: TypeAlias = Callable[[str, Turn], Awaitable[None]]
"""Shows a turn in a conversation that nothing came from. It raises if it could not; then it is told again."""


class LinkMaker(Protocol):
    """Makes one-time links: `reset_flow.web.Links`."""

    async def create(self, flow_id: str, lifetime: timedelta = ..., *, holder: str | None = None) -> str:
        """Return a link to the step that is due. Who opens it may go on in the place of `holder`."""

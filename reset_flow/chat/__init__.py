"""A dialogue that carries a reset through a chat. Needs Babel, of the extra `chat`."""

from reset_flow.chat.dialogue import News, ResetDialogue
from reset_flow.chat.turns import Button, DeleteMessage, Escalate, Inbound, Message, OpenLink, Reason, Turn

__all__ = [
    "Button",
    "DeleteMessage",
    "Escalate",
    "Inbound",
    "Message",
    "News",
    "OpenLink",
    "Reason",
    "ResetDialogue",
    "Turn",
]

"""A dialogue that carries a reset through a chat. Needs Babel, of the extra `chat`."""

from reset_flow.chat.turns import Button, DeleteMessage, Escalate, Inbound, Message, OpenLink, Turn

__all__ = ["Button", "DeleteMessage", "Escalate", "Inbound", "Message", "OpenLink", "Turn"]

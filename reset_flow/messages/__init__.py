"""What people are told, in their language: by pages and in chats. Needs Babel, of the extras `web` and `chat`."""

from reset_flow.messages.masking import masked
from reset_flow.messages.message import Message, doubt_of, message_of, message_of_error, reasons_of
from reset_flow.messages.texts import LOCALES, Texts

__all__ = ["LOCALES", "Message", "Texts", "doubt_of", "masked", "message_of", "message_of_error", "reasons_of"]

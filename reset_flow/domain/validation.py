"""What people and embedders type, made fit to use, or refused before anything is sent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from reset_flow.domain.errors import AnswerRejected, CodeRejected, InvalidInput, PasswordRejected
from reset_flow.domain.secret import Secret

__all__ = ["all_hidden", "answer", "code", "hidden", "name", "password", "pin", "token"]

CODE_DIGITS = 6
CODE_LENGTH = 64
"""Of a code as typed, with all its spaces and dashes."""
ANSWER_LENGTH = 1_000
NAME_LENGTH = 320
"""The longest local part, an @ and the longest domain (RFC 5321, 4.5.3.1)."""
PASSWORD_LENGTH = 10_000
PIN_LENGTH = 64
TOKEN_LENGTH = 4_096


def _trouble(text: Any, longest: int) -> str | None:
    """Why no broker and no store could take this text."""
    if not isinstance(text, str):
        return f"it must be text, not {type(text).__name__}"
    if len(text) > longest:
        return f"it must have at most {longest} characters"
    if not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        return "it must be free of control characters and broken ones"
    return None


def _plain(given: Any) -> Any:
    return given.reveal() if isinstance(given, Secret) else given


def hidden(text: Any) -> Secret | None:
    """The embedder's own name of something, fit to stand in a frame that is logged: it may be a login. Not checked."""
    return None if text is None else Secret(text)


def all_hidden(texts: Any) -> Any:
    """The same of many, as a list; what can't be many is given back as it is."""
    if isinstance(texts, str | Secret):
        return [Secret(texts)]
    return [Secret(text) for text in texts] if isinstance(texts, Iterable) else texts


def name(text: Any, what: str) -> str:
    """
    A user, ref, tag: exactly as given.

    Raises:
        InvalidInput: It is empty, too long, or binary.
    """
    text = Secret(text)  # it may be a login, and frames are logged
    trouble = _trouble(text.reveal(), NAME_LENGTH) or (None if text.reveal().strip() else "it must not be empty")
    if trouble:
        raise InvalidInput(f"{what}: {trouble}")
    checked: str = text.reveal()
    return checked


def token(given: Any) -> Secret:
    """
    A token from elsewhere: exactly as given.

    Raises:
        InvalidInput: It is empty, too long, or binary.
    """
    trouble = _trouble(_plain(given), TOKEN_LENGTH) or (None if _plain(given).strip() else "it must not be empty")
    if trouble:
        raise InvalidInput(f"token: {trouble}")
    return Secret(given)


def answer(given: Any) -> Secret:
    """
    An answer: exactly as given.

    Raises:
        AnswerRejected: It is empty, too long, or binary.
    """
    trouble = _trouble(_plain(given), ANSWER_LENGTH) or (None if _plain(given).strip() else "it must not be empty")
    if trouble:
        raise AnswerRejected(trouble, sent=False)
    return Secret(given)


def code(given: Any) -> Secret:
    """
    The six digits of a code, however they were typed: with spaces, dashes, in full width or another script. It stays
    text: it may start with 0.

    Raises:
        CodeRejected: There is no way to read it as six digits.
    """
    trouble = _trouble(_plain(given), CODE_LENGTH)
    if trouble:
        raise CodeRejected(trouble, sent=False)
    digits = Secret(_plain(given))
    if not (digits.reveal().isascii() and digits.reveal().isdecimal()):
        digits = Secret("".join([_digit(char) for char in digits.reveal()]))
    if len(digits.reveal()) != CODE_DIGITS or "?" in digits.reveal():
        raise CodeRejected(f"it must have {CODE_DIGITS} digits", sent=False)
    return digits


def _digit(char: str) -> str:
    """0 to 9 for a decimal digit of any script, nothing for what people put between them, `?` for all else."""
    if (value := unicodedata.decimal(char, None)) is not None:
        return str(value)
    return "" if unicodedata.category(char) in ("Zs", "Pd", "Cf") else "?"


def password(given: Any) -> Secret:
    """
    A new password: exactly as given. Whether it is good enough is for the rules to say.

    Raises:
        PasswordRejected: It is binary, or longer than any rule would allow.
    """
    trouble = _trouble(_plain(given), PASSWORD_LENGTH)
    if trouble:
        raise PasswordRejected(trouble, sent=False)
    return Secret(given)


def pin(given: Any) -> Secret:
    """
    A new PIN: exactly as given; what it may look like is the broker's to say.

    Raises:
        PasswordRejected: It is empty, too long, or binary.
    """
    trouble = _trouble(_plain(given), PIN_LENGTH) or (None if _plain(given).strip() else "it must not be empty")
    if trouble:
        raise PasswordRejected(trouble, sent=False)
    return Secret(given)


def extras(image_name: Any, *secrets: Any) -> None:
    """
    Return if what comes with a PIN can be sent.

    Raises:
        InvalidInput: It can't: nothing must be in doubt for that.
    """
    for each in (image_name, *secrets):
        if each is not None and (trouble := _trouble(_plain(each), TOKEN_LENGTH)):
            raise InvalidInput(f"image_name, personal_phrase or authorization: {trouble}")

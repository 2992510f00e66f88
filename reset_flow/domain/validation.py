"""Makes what people and embedders type fit to use, or refuses it before anything is sent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import islice
from typing import Any

from reset_flow.domain.capabilities import SIX_DIGITS, CodeFormat, CodeKind
from reset_flow.domain.errors import (
    AnswerRejected,
    CodeRejected,
    ConfigurationError,
    InputRejected,
    InvalidInput,
    PasswordRejected,
    Reason,
)
from reset_flow.domain.secret import Secret

CODE_LENGTH = 64
"""Characters of a code as typed, with all its spaces and dashes."""
SEPARATORS = "\N{MINUS SIGN}\N{COMBINING GRAPHEME JOINER}\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}"
"""Dashes and invisible characters that Unicode does not class as such; pages and e-mails have them."""
ADDRESS_LENGTH = 10_000
ANSWER_LENGTH = 1_000
BROKER_LENGTH = 1_000
SECRET_LENGTH = 22
"""Of 128 bits in base64."""

NAME_LENGTH = 320
"""The longest local part, an @ and the longest domain (RFC 5321, 4.5.3.1)."""
PASSWORD_LENGTH = 10_000
PIN_LENGTH = 64
TOKEN_LENGTH = 4_096
TAGS = 16


def _misfit(given: Any, longest: int) -> Reason | None:
    """Return why this is no text of such a length; `None` where it is."""
    text = given.reveal() if isinstance(given, Secret) else given
    if not isinstance(text, str):
        return Reason("no_text", f"it must be text, not {type(text).__name__}")
    return Reason("too_long", f"it must have at most {longest} characters", longest) if len(text) > longest else None


def _flaw(given: Any, longest: int, *, empty: bool = False) -> Reason | None:
    """Return why no broker and no store could take this text; `None` where they could."""
    if misfit := _misfit(given, longest):
        return misfit
    text = given.reveal() if isinstance(given, Secret) else given
    if not text.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        return Reason("not_printable", "it must be free of control characters and broken ones")
    return None if empty or text.strip() else Reason("empty", "it must not be empty")


def hidden(text: Any) -> Secret | None:
    """Hide an embedder's name, which may be a login, from logged tracebacks. It is not checked."""
    return None if text is None else Secret(text)


def tags(given: Any) -> tuple[Secret, ...]:
    """Return tags, hidden; each is checked when it is used. Raises InvalidInput if they are too many, or no tags."""
    if isinstance(given, str | Secret):
        return (Secret(given),)
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InvalidInput(f"tags: give a list of texts, not {type(given).__name__}")
    found = tuple(map(Secret, islice(given, TAGS + 1)))
    if len(found) > TAGS:
        raise InvalidInput(f"tags: there must be at most {TAGS}")
    return found


def name(text: Any, what: str) -> str:
    """Return a user, ref or tag exactly as given. Raises InvalidInput if it is empty, too long, or binary."""
    text = Secret(text)  # it may be a login, and frames are logged
    if flaw := _flaw(text, NAME_LENGTH):
        raise InvalidInput(f"{what}: {flaw}")
    checked: str = text.reveal()
    return checked


def secret(text: Any) -> Secret:
    """Return a secret of the embedder's making. Raises InvalidInput if it can be guessed, or as `name` does."""
    hidden_text = Secret(text)
    if len(name(hidden_text, "secret")) < SECRET_LENGTH:
        raise InvalidInput("secret: it needs 128 random bits, such as secrets.token_urlsafe() gives")
    return hidden_text


def user(given: Any) -> str:
    """Return a login as typed or pasted, without spaces and invisible characters at its ends. Raises as `name` does."""
    read = Secret(given)
    if not _misfit(read, NAME_LENGTH):
        read = Secret(trimmed(read.reveal()))
    return name(read, "user")


def token(given: Any) -> Secret:
    """Return a token from elsewhere exactly as given. Raises InvalidInput if it is empty, too long, or binary."""
    if flaw := _flaw(given, TOKEN_LENGTH):
        raise InvalidInput(f"token: {flaw}")
    return Secret(given)


def details(**given: Secret | None) -> dict[str, Secret]:
    """Return what comes with a PIN. Raises InvalidInput if it can't be sent, which must leave nothing in doubt."""
    known = {name: each for name, each in given.items() if each is not None}
    for name, each in known.items():
        if flaw := _flaw(each, TOKEN_LENGTH, empty=True):
            raise InvalidInput(f"{name}: {flaw}")
    return known


def address(given: Any, what: str) -> Secret:
    """Return an address, hidden. Raises ConfigurationError if it is no text, as a variable that is not set."""
    given = Secret(given)
    if misfit := _misfit(given, ADDRESS_LENGTH):
        raise ConfigurationError(f"{what}: {misfit}")
    return Secret(given)


def broker(text: Any, what: str) -> str:
    """Return a transport's name, which errors show. Raises ConfigurationError if it is empty, too long, or binary."""
    if not isinstance(text, str) or _flaw(text, BROKER_LENGTH) or not text.isprintable():
        raise ConfigurationError(f"{what} must be printable text of 1 to {BROKER_LENGTH} characters")
    return text


def brokers(given: Any) -> frozenset[str]:
    """Return the other names of a transport. Raises ConfigurationError if they are no list of names."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError("aliases must be a list of names, such as ['etna:https://old.host/api']")
    return frozenset([broker(each, "each of the aliases") for each in given])


def _typed(given: Any, longest: int, refusal: type[InputRejected], *, empty: bool = False) -> Secret:
    if flaw := _flaw(given, longest, empty=empty):
        raise refusal(flaw, sent=False)
    return Secret(given)


def answer(given: Any) -> Secret:
    """Return an answer exactly as given. Raises AnswerRejected if it is empty, too long, or binary."""
    return _typed(given, ANSWER_LENGTH, AnswerRejected)


def password(given: Any) -> Secret:
    """Return a new password exactly as given. Raises PasswordRejected if it is binary or beyond every rule's length."""
    return _typed(given, PASSWORD_LENGTH, PasswordRejected, empty=True)


def pin(given: Any) -> Secret:
    """Return a new PIN exactly as given. Raises PasswordRejected if it is empty, too long, or binary."""
    return _typed(given, PIN_LENGTH, PasswordRejected)


def code(given: Any, form: CodeFormat = SIX_DIGITS) -> Secret:
    """
    Return a code as the provider writes it, however it was typed or pasted: with spaces, dashes, line breaks or
    invisible characters, in full width, its digits in another script. Digits stay text, as the first may be 0; letters
    keep their case, which counts for some providers. A token stays as it is, but for spaces and invisible characters at
    its ends. Raises CodeRejected if it can't be read so.
    """
    opaque, letters = form.kind is CodeKind.TOKEN, form.kind is CodeKind.LETTERS
    if misfit := _misfit(given, TOKEN_LENGTH if opaque else CODE_LENGTH):
        raise CodeRejected(misfit, sent=False)
    read = Secret(given)
    if opaque:
        if "://" in read.reveal():
            raise CodeRejected(Reason("whole_link", "it must be the key in the link, not the whole link"), sent=False)
        return _typed(Secret(trimmed(read.reveal())), TOKEN_LENGTH, CodeRejected)
    if not (read.reveal().isascii() and (read.reveal().isalnum() if letters else read.reveal().isdecimal())):
        read = Secret("".join([_read(char, letters=letters) for char in read.reveal()]))
    length = len(read.reveal())
    if "?" in read.reveal() or not length or (form.length and length != form.length):
        many = f"{form.length} " if form.length else ""
        what = "letters and digits" if letters else "digits"
        raise CodeRejected(Reason("malformed", f"it must have {many}{what}"), sent=False)
    return read


def trimmed(text: str) -> str:
    """Return a text without spaces and invisible characters at its ends."""
    return text.strip("".join([char for char in text if char.isspace() or unicodedata.category(char) == "Cf"]))


def _read(char: str, *, letters: bool) -> str:
    """Return 0 to 9 for a decimal digit of any script, a letter of ASCII if such count, nothing for a separator."""
    if (value := unicodedata.decimal(char, None)) is not None:
        return str(value)
    if char.isspace() or char in SEPARATORS or unicodedata.category(char) in ("Pd", "Cf"):
        return ""
    plain = unicodedata.normalize("NFKC", char) if letters else ""
    return plain if len(plain) == 1 and plain.isascii() and plain.isalpha() else "?"

"""What transports of JSON APIs share: to read a reply strictly, and to keep what was sent out of its words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.domain.outcomes import Cause, NotActed, Unknown
from reset_flow.domain.secret import HIDDEN, Secret, redact
from reset_flow.domain.text import MIN_REPEATED, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.transports.http import Reply

Document: TypeAlias = dict[str, Any]
Secrets: TypeAlias = tuple[str | Secret | None, ...]
"""Sent with the call; redacted in the words of the reply."""

UNSENDABLE = NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")
USABLE_TOKEN = re.compile(r"[!-~]{1,4096}")


def unknown(reply: Reply) -> Unknown:
    """Return the outcome of a reply that means neither yes nor no."""
    return Unknown(detail=f"HTTP {reply.status}, {reply.flaw or 'and nothing known to mean yes or no'}")


def parse(body: bytes | None) -> Document | None:
    """Return the JSON object in the body, whatever its content type; `None` if it is no object or no strict JSON."""
    try:
        document = DECODER.decode((body or b"").decode("utf-8-sig"))  # .NET may write a byte order mark
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _object(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a duplicate key: its meaning is ambiguous")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def redact_words(words: Sequence[str], secrets: Secrets) -> list[str]:
    """Redact our own secrets in the words: they go into errors, and errors go into logs."""
    redacted = list(words)
    for normalize in (str, one_line):  # as it was sent, and as it will be printed
        redacted = [normalize(word) for word in redacted]
        for secret in secrets:
            hidden = Secret(normalize(secret.reveal() if isinstance(secret, Secret) else secret or ""))
            redacted = [_redact_word(hidden, word) for word in redacted] if hidden else redacted
    return redacted


def _redact_word(secret: Secret, word: str) -> str:
    word = redact(secret, word)
    repeated = len(secret.reveal()) >= MIN_REPEATED and secret.reveal().lower() in word.lower()  # in another spelling
    return HIDDEN if repeated else word

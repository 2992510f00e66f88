"""
Redact logins and secrets in the records of any logger, for embedders who log at DEBUG.

docs/observability.md says what the library and other loggers write, from experiments that
`tests/tracing/test_loggers_at_debug.py` repeats or, where those found nothing, from their sources.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import HIDDEN, Secret, redact

HEADERS = r"Et-App-Key|(?:Proxy-)?Authorization|(?:Set-)?Cookie|Password|Username"
# Every repetition in the patterns is bounded or consumes what it has matched, so that their time is linear in the text.
KEYS = (
    rf"SecretQuestionAnswer|Code|Token|Password|PasswordConfirmation|Pin|PersonalPhrase|User|Model|{HEADERS}"
    r"|Answer|App_Key|Secret"
)
"""`Model` holds the token in the broker's replies; `Answer` and `Secret` are names that applications choose."""

KEY = re.compile(rf"(?:{KEYS})", re.IGNORECASE)

IN_QUOTES = re.compile(
    # A key in quotes, which may be escaped, as in JSON within JSON; then a colon, or the comma of a tuple.
    rf"""(?P<key>(?P<quote>\\{{0,9}}["'])(?:{KEYS})(?P=quote)\s*[:,]\s*)"""
    # A text up to the same kind of quote, or to the end of a truncated message.
    r"""(?:b?(?P<open>\\{0,9}["']).*?(?:(?<!\\)(?P=open)|\Z)|\[[^\]]*\]?|\{[^}]*\}?|[^\s,;)\]}]+)""",
    re.IGNORECASE | re.DOTALL,
)
HEADER = re.compile(rf"(?P<key>(?:\b|(?<=\\n))(?:{HEADERS})[ \t]*:[ \t]*)(?:(?!(?<!\\)\\r\\n)[^\r\n])+", re.IGNORECASE)
ASSIGNED = re.compile(
    rf"""(?P<key>\b(?:{KEYS})=)(?:b?(?P<open>["']).*?(?:(?<!\\)(?P=open)|\Z)|[^\s&;,)\]}}]+)""",
    re.IGNORECASE | re.DOTALL,
)
QUERY = re.compile(r"""(?P<key>(?:\w://[^\s"'<>?]{0,2000}|[\w/%.~-])\?)[^\s"'<>]+""")
USERINFO = re.compile(r"""(?P<key>\w://)[^\s/"'<>@]*(?=@)""")
SCHEME = re.compile(r"(?P<key>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE)
PATTERNS = (IN_QUOTES, QUERY, USERINFO, HEADER, ASSIGNED, SCHEME)

STANDARD_ATTRIBUTES = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
"""Attributes of every record. All others came with `extra`."""


class RedactingFilter(logging.Filter):
    """
    Redact logins and secrets in the message of a record, its arguments, exception, stack and `extra` attributes.

    It redacts the query of a URL, the values of the broker's headers and JSON keys, and every registered text.

    Add it to handlers: a filter of a logger does not see the records of the loggers below. It changes the record
    itself, so the handlers that follow see the change, too: a redacted message has no arguments, and every exception is
    kept as text only, so that no handler can print the variables of its frames. The filter passes every record and
    never raises; a record that cannot be redacted is replaced by a notice.

    It cannot find a secret in a sentence, in base64, in a hash, or split over two records. It is a safety net, and no
    reason to log bodies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._registered: list[tuple[Secret, tuple[Secret, ...]]] = []

    def hide(self, secret: str | Secret) -> None:
        """
        Register a text to redact from now on, also in its spellings in JSON, in a URL and in a `repr`.

        The text is kept as a `Secret` until it is forgotten, because a hash of it could not be found in a message. A
        text of less than four characters is redacted only as a whole word.
        """
        secret = Secret(secret)
        if secret and all(registered != secret for registered, _ in self._registered):
            self._registered = [*self._registered, (secret, _spellings(secret))]

    def forget(self, secret: str | Secret) -> None:
        """Unregister a text, and keep it no longer."""
        secret = Secret(secret)
        self._registered = [pair for pair in self._registered if pair[0] != secret]

    def redact(self, text: str) -> str:
        """Return the text with `***` in place of logins and secrets."""
        for _, spellings in self._registered:
            for spelling in spellings:
                text = redact(spelling, text)
        for pattern in PATTERNS:
            text = pattern.sub(rf"\g<key>{HIDDEN}", text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record in place and return True."""
        try:
            self._redact_record(record)
        except Exception as error:  # noqa: BLE001 - a log must not break what is logged
            record.msg = f"a record that could not be redacted was left out ({type(error).__name__})"
            record.args = ()
            record.exc_info = record.exc_text = record.stack_info = None
            for name, _ in _extras(record):
                setattr(record, name, HIDDEN)
        return True

    def _redact_record(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        redacted = self.redact(message)
        # A handler may print the arguments, and a message need not use all values of a mapping.
        if redacted != message or (record.args and self._is_unsafe(record.args)):
            record.msg, record.args = redacted, ()
        if record.exc_info:
            if record.exc_info[1] is not None and not record.exc_text:
                record.exc_text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            record.exc_info = None
        if record.exc_text:
            record.exc_text = self.redact(record.exc_text)
        if record.stack_info:
            record.stack_info = self.redact(str(record.stack_info))
        for name, value in _extras(record):
            if KEY.fullmatch(name):
                setattr(record, name, HIDDEN)
            elif isinstance(value, str):
                setattr(record, name, self.redact(value))
            elif self._is_unsafe(value):
                setattr(record, name, self.redact(repr(value)))

    def _is_unsafe(self, value: object) -> bool:
        if isinstance(value, int | float | None):
            return False
        text = repr(value)
        return self.redact(text) != text


def install(*handlers: logging.Handler) -> RedactingFilter:
    """
    Add one filter to these handlers, or to the current handlers of all loggers, and return it.

    Call it after logging is set up, and again after handlers were added: a filter that one of the handlers has already
    is used for all of them.

    Raises:
        ConfigurationError: There is no handler yet, so nothing would be redacted.
    """
    root = logging.getLogger()
    loggers = [each for each in (root, *root.manager.loggerDict.values()) if isinstance(each, logging.Logger)]
    chosen = handlers or tuple([handler for logger in loggers for handler in logger.handlers])
    if not chosen:
        raise ConfigurationError("no logger has a handler yet: call install() after logging is set up")
    present = [each for handler in chosen for each in handler.filters if isinstance(each, RedactingFilter)]
    redaction = present[0] if present else RedactingFilter()
    for handler in chosen:
        handler.addFilter(redaction)
    return redaction


def _extras(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES]


def _spellings(secret: Secret) -> tuple[Secret, ...]:
    """Return the text as it may look in a log, the longest spelling first, so that no part of one is left over."""
    text = secret.reveal()
    raw = text.encode("utf-8", "surrogatepass")
    in_quotes = (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text), repr(raw)[1:])
    spellings = {text, quote(raw, safe=""), quote_plus(raw), *(quoted[1:-1] for quoted in in_quotes)}
    return tuple(Secret(spelling) for spelling in sorted(spellings, key=len, reverse=True))

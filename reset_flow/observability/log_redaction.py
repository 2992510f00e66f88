"""
For embedders who log at DEBUG: a filter that takes out of any logger's records what must not be in a log.

The library itself logs ids of flows, names of listeners and classes of errors, to `reset_flow` and below. What
the loggers around it show, seen in experiments (`tests/tracing/test_loggers_at_debug.py` repeats them) and, where
those met nothing, read in their sources (`asyncpg`, `aiohttp.internal`, `push_response`):

======================  ==============================================================================================
logger                  what it shows
======================  ==============================================================================================
`aiohttp.access`        INFO. A server's own: path *and query* of each request, referrer and user agent, also as
                        attributes of the record (`first_request_line`, `request_header`). No bodies
`aiohttp.server`        ERROR, tracebacks with the messages of a handler's errors; at DEBUG those of broken requests,
                        with the bytes that could not be parsed
`aiohttp.client`        nothing of a request, at any level. Its *errors* have the URL with the query, and some have all
                        headers: the transport keeps their class alone, an embedder who uses aiohttp may log them
`aiohttp.internal`      DEBUG. Names of cookies that are not taken
`asyncio`               in debug mode (`PYTHONASYNCIODEBUG`): for each slow callback its `repr`. That has no arguments
                        of coroutines, but the *results* of finished tasks and futures, the *arguments* of callbacks
                        (`call_soon`, `partial`), and the messages of errors that nobody fetched. The library's own
                        tasks return values whose `repr` shows nothing
`asyncpg`               nothing at DEBUG; parameters get out only through `Connection.add_query_logger`. What a server
                        complains of reaches the embedder as an error, and its `detail` may have the values of a row
`redis`                 DEBUG. Host and port of a connection on which a command failed, what the server answers to the
                        greeting (`redis.connection`), and whole messages that it pushes (`push_response`, of cluster
                        and cache notices). Neither commands nor values
`transitions.core`      DEBUG and INFO. States and callbacks, by name. No arguments
======================  ==============================================================================================

::

    logging.basicConfig(level=logging.DEBUG)
    redacting = install()
    redacting.hide(app_key)
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HIDDEN", "RedactingFilter", "install"]

HIDDEN = "***"

HEADERS = r"Et-App-Key|(?:Proxy-)?Authorization|(?:Set-)?Cookie|Password|Username"
# Every repetition in the patterns is bounded or takes what it has seen with it: their time grows as the text does.
KEYS = (
    rf"SecretQuestionAnswer|Code|Token|Password|PasswordConfirmation|Pin|PersonalPhrase|User|Model|{HEADERS}"
    r"|Answer|App_Key|Secret"
)
"""`Model` is where the broker's replies have the token, `Answer` and `Secret` are how people name it themselves."""

KEY = re.compile(rf"(?:{KEYS})", re.IGNORECASE)

IN_QUOTES = re.compile(
    # a key in quotes, which may be escaped, as in JSON within JSON; then a colon, or a comma as between two of a tuple
    rf"""(?P<key>(?P<quote>\\{{0,9}}["'])(?:{KEYS})(?P=quote)\s*[:,]\s*)"""
    # a text up to the same kind of quote, or to the end of what was cut off
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

SHORT = 4
"""Characters; a shorter secret is hidden only where it stands alone, or nothing would be left of a message."""
BETWEEN_WORDS = re.compile(r"(\W+)")

OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
"""What every record has; what there is besides came with `extra`."""


class RedactingFilter(logging.Filter):
    """
    Takes logins and secrets out of a record: the query of a URL, values of the broker's headers and of the keys of its
    JSON, and what it was told to hide, wherever that stands. In the message, its arguments, exceptions, stacks and what
    came as `extra`.

    Belongs on handlers: on a logger, it would not see the records of the loggers below. A record in which there is
    something is changed for the handlers that come after, too, with or without the filter: its message is made, its
    arguments are gone, an exception is there as text alone, so that no handler can print the variables in its frames.
    It lets all records pass and never raises; of one that can't be redacted, only that is left.

    What it can't know: a secret in a sentence, in base64 or a hash, or spread over two records. It is a net below, and
    no reason to log bodies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hidden: list[tuple[Secret, tuple[Secret, ...]]] = []

    def hide(self, secret: str | Secret) -> None:
        """
        Take out this very text from now on, also as it looks in JSON, in a URL and in a `repr`. It is kept until it is
        forgotten, as a `Secret`: a hash could not be found in a text. One of less than four characters is found only
        where it stands alone.
        """
        secret = Secret(secret)
        if secret and all(each != secret for each, _ in self._hidden):
            self._hidden = [*self._hidden, (secret, _spellings(secret))]

    def forget(self, secret: str | Secret) -> None:
        """Hide it no longer, and keep it no longer."""
        secret = Secret(secret)
        self._hidden = [each for each in self._hidden if each[0] != secret]

    def redact(self, text: str) -> str:
        """The text without what must not be in a log."""
        for _, spellings in self._hidden:
            for spelling in spellings:
                text = _without(spelling, text)
        for pattern in PATTERNS:
            text = pattern.sub(rf"\g<key>{HIDDEN}", text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it has to be. -> `True`"""
        try:
            self._redact(record)
        except Exception as error:  # noqa: BLE001 - a log must not break what is logged
            kind = type(error).__name__
            _cut(record, f"a record that could not be redacted was left out ({kind})")
        return True

    def _redact(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        clean = self.redact(message)
        # A handler may show the arguments by themselves, and not all of a mapping's are in the message.
        if clean != message or (record.args and self._shows(record.args)):
            record.msg, record.args = clean, ()
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
            elif self._shows(value):
                setattr(record, name, self.redact(repr(value)))

    def _shows(self, value: object) -> bool:
        if isinstance(value, int | float | None):
            return False
        text = repr(value)
        return self.redact(text) != text


def install(*handlers: logging.Handler) -> RedactingFilter:
    """
    The filter that is now on these handlers, or on all that any logger has at this moment. Call it once logging is set
    up, and again when handlers were added: a filter that one of them has is used for all.

    Raises:
        ConfigurationError: There is no handler yet, so nothing would be redacted.
    """
    chosen = handlers or tuple(_all_handlers())
    if not chosen:
        raise ConfigurationError("no logger has a handler yet: call install() after logging is set up")
    there = [each for handler in chosen for each in handler.filters if isinstance(each, RedactingFilter)]
    redacting = there[0] if there else RedactingFilter()
    for handler in chosen:
        handler.addFilter(redacting)
    return redacting


def _all_handlers() -> Iterator[logging.Handler]:
    root = logging.getLogger()
    for each in (root, *root.manager.loggerDict.values()):
        if isinstance(each, logging.Logger):
            yield from each.handlers


def _extras(record: logging.LogRecord) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(record).items() if name not in OWN]


def _cut(record: logging.LogRecord, message: str) -> None:
    record.msg, record.args = message, ()
    record.exc_info = record.exc_text = record.stack_info = None
    for name, _ in _extras(record):
        setattr(record, name, HIDDEN)


def _spellings(secret: Secret) -> tuple[Secret, ...]:
    """How the text may look in a log, the longest first, so that no part of one is left over."""
    text = secret.reveal()
    raw = text.encode("utf-8", "surrogatepass")
    in_quotes = (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text), repr(raw)[1:])
    spellings = {text, quote(raw, safe=""), quote_plus(raw), *(each[1:-1] for each in in_quotes)}
    return tuple(Secret(each) for each in sorted(spellings, key=len, reverse=True))


def _without(secret: Secret, text: str) -> str:
    # No pattern is made of the secret: `re` keeps those that it has seen.
    if len(secret.reveal()) < SHORT:
        return "".join(HIDDEN if part == secret.reveal() else part for part in BETWEEN_WORDS.split(text))
    return text.replace(secret.reveal(), HIDDEN)

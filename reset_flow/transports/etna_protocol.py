"""
The API of AutoShares Trader, which is ETNA Trader under another name: routes, bodies, envelopes.

A reply becomes an outcome by the first row that fits (a body that came in part has no shape and no envelope to miss):

=====================================================================  =============================================
reply                                                                  outcome
=====================================================================  =============================================
any status, `{"error": "Application key ..."}`                         `NotActed`, the app key
429; 503 with a `Retry-After` that can be read                         `NotActed`
3xx and `NEVER_HANDLED`, without the envelope, the body read whole     `NotActed`, the protocol
2xx and 4xx, the envelope or `ModelState`                              by the table below
everything else                                                        `Unknown`; at step 2, which changes nothing,
                                                                       `NotActed`
=====================================================================  =============================================

The envelope is a JSON object, each of its keys there once, that has `IsSucceed` or `Errors` (a log-in's: `State`). The
documents leave the statuses of refusals open, so what it says counts, not the status that it came with. "Words" are the
texts in `Errors`, "codes" those in `ErrorsCode`. `Errors` is a list, or it says nothing: `null`, or no such key.

====  ==================================================================  ==========================================
step  the envelope                                                        outcome
====  ==================================================================  ==========================================
1     `Errors` has words, whatever `IsSucceed` is                         `Rejected`, in these words
1     `Errors` is empty, no codes, whatever `IsSucceed` is                `Accepted` (the documents' own sample of an
                                                                          accepted reply has `IsSucceed: false`)
1     `Errors` says nothing; `IsSucceed` is true, no codes                `Accepted`
1     `Errors` says nothing; `IsSucceed` is false, there are codes        `Rejected`, in the codes
2     `IsSucceed` is true, no words, a text as `Model`                    `Accepted`, the question; `""`: none is needed
2     `IsSucceed` is true, no words, `Model` is null, missing or blank    `Accepted`, not saying whether there is one
2     `IsSucceed` is false, no text as `Model`                            `Rejected`, words, else codes, else nothing
3     `IsSucceed` is true, a usable `Model`                               `Accepted`, the token
3     `IsSucceed` is true without one                                     `Accepted`, no token
4     `IsSucceed` is true, no words, no codes                             `Accepted`
3, 4  `IsSucceed` is false                                                `Rejected`, words, else codes, else nothing
any   no envelope, but `ModelState`                                       `Rejected`, its texts, else `Message`
any   anything else: yes and no at once, a wrong type, `"true"` or 1      `Unknown`
====  ==================================================================  ==========================================

At step 3 words beside `IsSucceed: true` are no contradiction: the documents' sample of an accepted reply has them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import one_line
from reset_flow.transports.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.transports.http import Result

__all__ = ["LOG_IN", "code_sent", "judged", "logged_in", "new_credential_set", "question_asked", "token_of"]

Document: TypeAlias = dict[str, Any]
Secrets: TypeAlias = tuple[str | Secret | None, ...]
"""Sent with the call; hidden in the words that come back."""

No: TypeAlias = list[str]
"""A refusal, in the broker's words as they came."""

NEVER_HANDLED = frozenset({401, 403, 404, 405, 406, 411, 413, 414, 415})
"""Statuses with which something in front of the API turns a request away."""

ENVELOPE, LOG_IN = frozenset({"IsSucceed", "Errors"}), frozenset({"State"})
QUESTION_LENGTH = 1000
USABLE_TOKEN = re.compile(r"[!-~]{1,4096}")
NO_SUCH_ROUTE = (404, 405)
TOO_MANY, UNAVAILABLE, REDIRECTED, FAILED = 429, 503, 3, 5  # the last two are first digits

SHORT = 4
"""Characters; a shorter secret is hidden only where it stands alone, or nothing would be left of the sentence."""

HIDDEN = "***"
DONE = Accepted()
SILENT: tuple[list[str], None] = ([], None)
BETWEEN_WORDS = re.compile(r"(\W+)")


def _once(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key twice: nobody can say which of them counts")
    return document


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODE = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number).decode

ORDINARY = 1000
"""Bytes of a body in which no number is too large, and nothing too deep, for either of two decoders."""


def judged(
    result: Result,
    read: Callable[[Document], Accepted | No | None],
    secrets: Secrets,
    envelope: frozenset[str] = ENVELOPE,
) -> Outcome:
    """What a reply means, by the tables above. `read` says what an envelope means: yes, no, or nothing known."""
    if not isinstance(result, Reply):
        return result
    document = None if result.body is None else _document(result.body)
    enveloped = document is not None and not envelope.isdisjoint(document)
    turned_away = _turned_away(result, None if enveloped else document, enveloped=enveloped)
    if turned_away is not None:
        return turned_away
    said: Accepted | No | None = None
    if document is not None and result.status // 100 in (2, 4):
        said = read(document) if enveloped else _invalid(document)
    if isinstance(said, Accepted):
        return said
    if said is not None:
        return Rejected(reasons=_hidden(said, secrets))
    return Unknown(detail=f"HTTP {result.status}, {result.flaw or 'and nothing known to mean yes or no'}")


def question_asked(result: Result, secrets: Secrets) -> Outcome:
    """
    Return the outcome of step 2, which changes nothing: what is unknown counts as not acted.

    Accepted with the question, with `""` for none, or with `None`: this broker can't be asked.
    """
    outcome = judged(result, _question, secrets)
    if isinstance(outcome, NotActed) and isinstance(result, Reply) and outcome.cause is Cause.PROTOCOL:
        return Accepted(value=None) if result.status in NO_SUCH_ROUTE else outcome
    if isinstance(outcome, Unknown):
        strange = isinstance(result, Reply) and result.body is not None and result.status // 100 != FAILED
        return NotActed(cause=Cause.PROTOCOL if strange else Cause.UNAVAILABLE, detail=outcome.detail)
    return outcome


def _turned_away(reply: Reply, document: Document | None, *, enveloped: bool) -> NotActed | None:
    """The first three rows."""
    status, error = reply.status, document and document.get("error")
    if isinstance(error, str) and error.strip().lower().startswith("application key"):
        return NotActed(cause=Cause.APP_KEY, detail="the broker does not know the app key")
    if status == TOO_MANY or (status == UNAVAILABLE and reply.retry_after is not None):
        return NotActed(detail=f"HTTP {status}", retry_after=reply.retry_after)
    if not enveloped and reply.body is not None and (status in NEVER_HANDLED or status // 100 == REDIRECTED):
        return NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}")
    return None


def code_sent(document: Document) -> Accepted | No | None:
    """Read the envelope of step 1."""
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if words:
        return words
    if codes:
        return codes if errors is None and succeeded is False else None
    return DONE if errors == [] or (errors is None and succeeded is True) else None


def _question(document: Document) -> Accepted | No | None:
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is False and not (isinstance(model, str) and model):
        return _no(errors, words, codes)
    if succeeded is not True or errors not in SILENT or not (model is None or isinstance(model, str)):
        return None
    question = one_line((model or "")[: 2 * QUESTION_LENGTH])[:QUESTION_LENGTH]  # fit for a page: no wall of text
    return Accepted(value=Secret(question) if question or model == "" else None)


def token_of(document: Document) -> Accepted | No | None:
    """Read the envelope of step 3."""
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is not True or not (errors is None or isinstance(errors, list)):
        return _no(errors, words, codes) if succeeded is False else None
    usable = isinstance(model, str) and USABLE_TOKEN.fullmatch(model)
    return Accepted(value=Secret(str(model)) if usable else None)


def new_credential_set(document: Document) -> Accepted | No | None:
    """Read the envelope of step 4."""
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if succeeded is True:
        return DONE if errors in SILENT and not codes else None
    return _no(errors, words, codes) if succeeded is False else None


def _no(errors: Any, words: No, codes: No) -> No | None:
    """An `IsSucceed: false`, unless its `Errors` are nothing that is known."""
    return words or codes if isinstance(errors, list | None) else None


def logged_in(document: Document) -> Accepted | No | None:
    """Read the envelope of a log-in."""
    state, reason = document["State"], document.get("Reason")
    if state == "Succeeded" or (state == "Expecting" and document.get("Step") == "VerificationCode"):
        return DONE
    return _texts([reason]) if state == "Failed" else None


def _invalid(document: Document) -> No | None:
    """The texts of a `ModelState`, `None` where there is none."""
    fields = document.get("ModelState")
    if not isinstance(fields, dict):
        return None
    texts = [text for field in fields.values() for text in _texts(field if isinstance(field, list) else [field])]
    return texts or _texts([document.get("Message")])


def _complaints(document: Document) -> tuple[Any, No, No]:
    """`Errors` as it came, the words in it, and the codes beside it."""
    errors, codes = document.get("Errors"), document.get("ErrorsCode")
    if not (codes is None or isinstance(codes, list)):
        codes = ["codes in no known form"]  # whatever they say, it is not nothing
    return errors, _texts(errors), _texts(codes)


def _texts(said: Any) -> list[str]:
    return [text for text in said if isinstance(text, str) and text.strip()] if said and isinstance(said, list) else []


def _document(body: bytes) -> Document | None:
    """The JSON object in the body, whatever type it came under; `None` if it is no object, or not quite JSON."""
    if len(body) < ORDINARY:
        try:
            known = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            known = None  # some of these can be read below
        if isinstance(known, dict) and body.count(b":") == len(known):  # a key that came twice has two of them
            return known
    try:
        document = DECODE(body.decode("utf-8-sig"))  # .NET likes to write a byte order mark
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _hidden(words: No, secrets: Secrets) -> No:
    """The words without what they repeat of ours: they go into errors, and those into logs."""
    for spelled in (str, one_line):  # as it was sent, and as it will be printed
        words = [spelled(word) for word in words]
        for secret in secrets:
            text = spelled(secret.reveal() if isinstance(secret, Secret) else secret or "")
            if text:
                words = [_without(text, word) for word in words]
    return words


def _without(text: str, sentence: str) -> str:
    # No pattern is made of the secret: `re` keeps those that it has seen.
    if len(text) < SHORT:
        return "".join(HIDDEN if part.lower() == text.lower() else part for part in BETWEEN_WORDS.split(sentence))
    sentence = sentence.replace(text, HIDDEN)
    return HIDDEN if text.lower() in sentence.lower() else sentence

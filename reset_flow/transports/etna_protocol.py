"""
Judge the replies of the API of AutoShares Trader, which is ETNA Trader under another name. Without I/O.

A reply becomes an outcome by the first row that fits (a partial body has no shape, and may lack no envelope):

=====================================================================  =============================================
reply                                                                  outcome
=====================================================================  =============================================
any status, `{"error": "Application key ..."}`                         `NotActed`, the app key
429; 503 with a valid `Retry-After`                                    `NotActed`, throttled
3xx, `http.NEVER_HANDLED`: without the envelope, the whole body read   `NotActed`, the protocol
2xx and 4xx, the envelope or `ModelState`                              by the table below
everything else                                                        `Unknown`; at step 2, which changes nothing,
                                                                       `NotActed`
=====================================================================  =============================================

The envelope is a JSON object without duplicate keys that has `IsSucceed` or `Errors` (for a log-in: `State`). The
documents leave the statuses of refusals open, so the envelope counts, not the status. "Words" are the texts in
`Errors`, "codes" those in `ErrorsCode`. `Errors` is a list, or it is absent: `null`, or no such key.

====  ==================================================================  ==========================================
step  the envelope                                                        outcome
====  ==================================================================  ==========================================
1     `Errors` has words, whatever `IsSucceed` is                         `Rejected`, in these words
1     `Errors` is empty, no codes, whatever `IsSucceed` is                `Accepted` (the documents' own sample of an
                                                                          accepted reply has `IsSucceed: false`)
1     `Errors` is absent; `IsSucceed` is true, no codes                   `Accepted`
1     `Errors` is absent; `IsSucceed` is false, there are codes           `Rejected`, in the codes
2     `IsSucceed` is true, no words, a text as `Model`                    `Accepted`, the question; `""`: none is needed
2     `IsSucceed` is true, no words, `Model` is null, missing or blank    `Accepted`, without knowing the question
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

from typing import TYPE_CHECKING, Any, TypeAlias

from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import one_line
from reset_flow.transports.http import Reply, turned_away
from reset_flow.transports.replies import USABLE_TOKEN, parse, redact_words, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.transports.http import Result
    from reset_flow.transports.replies import Document, Secrets

Refusal: TypeAlias = list[str]
"""The words of a refusal, as the broker sent them."""

ENVELOPE_KEYS, LOG_IN_KEYS = frozenset({"IsSucceed", "Errors"}), frozenset({"State"})
MAX_QUESTION_LENGTH = 1000
NO_SUCH_ROUTE = (404, 405)
SUCCESS, CLIENT_ERROR, SERVER_ERROR = 2, 4, 5  # the first digits of a status


def judge(
    result: Result,
    read: Callable[[Document], Accepted | Refusal | None],
    secrets: Secrets,
    keys: frozenset[str] = ENVELOPE_KEYS,
) -> Outcome:
    """
    Return the outcome of a call, by the tables above.

    Args:
        read: Reads an envelope: an acceptance, a refusal, or `None` if it is neither.

        secrets: Redacted in the words of a refusal.

        keys: A document with any of these keys is an envelope.
    """
    if not isinstance(result, Reply):
        return result
    document = parse(result.body)
    enveloped = document is not None and not keys.isdisjoint(document)
    if document is not None and not enveloped and _misses_app_key(document):
        return NotActed(cause=Cause.FORBIDDEN, detail="the broker does not know the app key")
    if (outcome := turned_away(result, recognized=enveloped)) is not None:
        return outcome
    verdict: Accepted | Refusal | None = None
    if document is not None and result.status // 100 in (SUCCESS, CLIENT_ERROR):
        verdict = read(document) if enveloped else _read_model_state(document)
    if isinstance(verdict, Accepted):
        return verdict
    if verdict is not None:
        return Rejected(reasons=redact_words(verdict, secrets))
    return unknown(result)


def judge_question(result: Result, secrets: Secrets) -> Outcome:
    """
    Return the outcome of step 2, which changes nothing: an unknown outcome counts as not acted.

    It is accepted with the question, with `""` for none, or with `None` if the broker has no such route.
    """
    outcome = judge(result, read_question, secrets)
    if isinstance(outcome, NotActed) and isinstance(result, Reply) and outcome.cause is Cause.PROTOCOL:
        return Accepted(value=None) if result.status in NO_SUCH_ROUTE else outcome
    if isinstance(outcome, Unknown):
        malformed = isinstance(result, Reply) and result.body is not None and result.status // 100 != SERVER_ERROR
        return NotActed(cause=Cause.PROTOCOL if malformed else Cause.UNAVAILABLE, detail=outcome.detail)
    return outcome


def _misses_app_key(document: Document) -> bool:
    error = document.get("error")
    return isinstance(error, str) and error.strip().lower().startswith("application key")


def read_request(document: Document) -> Accepted | Refusal | None:
    """Read the envelope of step 1."""
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if words:
        return words
    if codes:
        return codes if errors is None and succeeded is False else None
    return Accepted() if errors == [] or (errors is None and succeeded is True) else None


def read_question(document: Document) -> Accepted | Refusal | None:
    """Read the envelope of step 2."""
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is False and not (isinstance(model, str) and model):
        return _refusal(errors, words, codes)
    if succeeded is not True or errors not in ([], None) or not (model is None or isinstance(model, str)):
        return None
    question = one_line((model or "")[: 2 * MAX_QUESTION_LENGTH])[:MAX_QUESTION_LENGTH]  # short enough for a page
    return Accepted(value=Secret(question) if question or model == "" else None)


def read_token(document: Document) -> Accepted | Refusal | None:
    """Read the envelope of step 3."""
    errors, words, codes = _complaints(document)
    model, succeeded = document.get("Model"), document.get("IsSucceed")
    if succeeded is not True or not (errors is None or isinstance(errors, list)):
        return _refusal(errors, words, codes) if succeeded is False else None
    usable = isinstance(model, str) and USABLE_TOKEN.fullmatch(model)
    return Accepted(value=Secret(str(model)) if usable else None)


def read_update(document: Document) -> Accepted | Refusal | None:
    """Read the envelope of step 4."""
    errors, words, codes = _complaints(document)
    succeeded = document.get("IsSucceed")
    if succeeded is True:
        return Accepted() if errors in ([], None) and not codes else None
    return _refusal(errors, words, codes) if succeeded is False else None


def _refusal(errors: Any, words: Refusal, codes: Refusal) -> Refusal | None:
    """Return the refusal of an `IsSucceed: false`, or `None` if its `Errors` are of another type."""
    return words or codes if isinstance(errors, list | None) else None


def read_log_in(document: Document) -> Accepted | Refusal | None:
    """Read the envelope of a log-in."""
    state, reason = document["State"], document.get("Reason")
    if state == "Succeeded" or (state == "Expecting" and document.get("Step") == "VerificationCode"):
        return Accepted()
    return _texts([reason]) if state == "Failed" else None


def _read_model_state(document: Document) -> Refusal | None:
    """Return the texts of a `ModelState`, or `None` if there is none."""
    fields = document.get("ModelState")
    if not isinstance(fields, dict):
        return None
    texts = [text for field in fields.values() for text in _texts(field if isinstance(field, list) else [field])]
    return texts or _texts([document.get("Message")])


def _complaints(document: Document) -> tuple[Any, Refusal, Refusal]:
    """Return `Errors` as it was sent, its words, and the codes."""
    errors, codes = document.get("Errors"), document.get("ErrorsCode")
    if not (codes is None or isinstance(codes, list)):
        codes = ["codes in no known form"]  # an unknown form must not read as "no codes"
    return errors, _texts(errors), _texts(codes)


def _texts(values: Any) -> list[str]:
    return [text for text in values if isinstance(text, str) and text.strip()] if isinstance(values, list) else []

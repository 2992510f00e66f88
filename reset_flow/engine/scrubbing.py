"""Makes what a transport returns fit to be kept and shown, whoever wrote the transport."""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeGuard

import attrs

from reset_flow.domain.flow import Step
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import HIDDEN, Secret
from reset_flow.domain.text import one_line, printable, repeats

if TYPE_CHECKING:
    from reset_flow.domain.errors import Reason

WITHHELD = "withheld, as it repeats what is secret"
UNSOUND = Unknown(detail="no outcome that could be kept")
QUESTION_LENGTH = 1_000
LONGEST_KEPT = 64 * 1024
"""Bytes of a continuation, and characters of a token: each save of the flow writes them again."""
LONGEST_WAIT = timedelta(days=1)


def scrubbed(given: object, *sent: str | bytes | Secret | None) -> Outcome:
    """Return the outcome without words that repeat what was sent; `Unknown` where it is none that could be kept."""
    if not _is_sound(given):
        return UNSOUND
    if isinstance(given, Accepted):
        if given.sent_to is None:
            return given
        sent_to = printable(given.sent_to)
        return attrs.evolve(given, sent_to=None if _repeats(sent_to, sent) else sent_to)
    if isinstance(given, Rejected):
        return attrs.evolve(given, reasons=[each for each in given.reasons if not _repeats(_words(each), sent)])
    if isinstance(given, NotActed) and given.retry_after:
        given = attrs.evolve(given, retry_after=min(given.retry_after, LONGEST_WAIT))
    return attrs.evolve(given, detail=WITHHELD) if _repeats(given.detail, sent) else given


def with_scrubbed_question(outcome: Outcome, user: str) -> Outcome:
    """Put `***` for the words of a question that repeat the login: the person must be able to read the rest."""
    if not isinstance(outcome, Accepted) or outcome.value is None:
        return outcome
    question = one_line(outcome.value.reveal()[:QUESTION_LENGTH])
    if repeats(question, user):
        question = " ".join(HIDDEN if repeats(word, user) else word for word in question.split(" "))
        question = HIDDEN if repeats(question, user) else question
    return outcome if question == outcome.value.reveal() else attrs.evolve(outcome, value=Secret(question))


def _words(reason: Reason | str) -> str:
    return reason if isinstance(reason, str) else f"{reason.code} {reason.text}"


def _repeats(text: str, sent: tuple[str | bytes | Secret | None, ...]) -> bool:
    return repeats(text, *(_text(each) for each in sent if each is not None))


def _text(sent: str | bytes | Secret) -> str:
    if isinstance(sent, bytes):
        return sent.decode(errors="replace")
    return sent.reveal() if isinstance(sent, Secret) else sent


def _is_sound(given: Any) -> TypeGuard[Outcome]:
    """Return whether it is an outcome, of which all can be stored. Of a subclass nobody knows what its fields do."""
    kind = type(given)
    if kind not in (Accepted, Rejected, NotActed, Unknown) or not _may_be_kept(given.continuation):
        return False
    if kind is Accepted:
        kept = given.value is None or (type(given.value) is Secret and _may_be_token(given.value))
        return kept and isinstance(given.sent_to, (str, NoneType))
    if kind is Rejected:
        return isinstance(given.about, (Step, NoneType))
    wait = given.retry_after if kind is NotActed else None
    sound = kind is Unknown or isinstance(given.cause, Cause)
    return sound and (wait is None or (isinstance(wait, timedelta) and wait >= timedelta(0)))


def _may_be_kept(continuation: object) -> bool:
    return continuation is None or (type(continuation) is bytes and len(continuation) <= LONGEST_KEPT)


def _may_be_token(token: Secret) -> bool:
    return token.encodable and len(token.reveal()) <= LONGEST_KEPT

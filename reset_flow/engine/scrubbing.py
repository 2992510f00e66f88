"""Makes what a transport returns fit to be kept and shown, whoever wrote the transport."""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import unquote

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


def scrubbed(given: object, *sent: str | bytes | Secret | None) -> Outcome:
    """Return the outcome without words that repeat what was sent; `Unknown` where it is none that could be kept."""
    if not _is_sound(given):
        return UNSOUND
    if isinstance(given, Accepted):
        if given.sent_to is None:
            return given
        return attrs.evolve(given, sent_to=None if _repeats(given.sent_to, sent) else printable(given.sent_to))
    if isinstance(given, Rejected):
        return attrs.evolve(given, reasons=[each for each in given.reasons if not _repeats(_words(each), sent)])
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
    texts = [_text(each) for each in sent if each is not None]
    return repeats(text, *texts) or ("%" in text and repeats(unquote(text), *texts))


def _text(sent: str | bytes | Secret) -> str:
    if isinstance(sent, bytes):
        return sent.decode(errors="replace")
    return sent.reveal() if isinstance(sent, Secret) else sent


def _is_sound(given: Any) -> TypeGuard[Outcome]:
    """Return whether it is an outcome, of which all can be stored."""
    if not isinstance(given, (Accepted, Rejected, NotActed, Unknown)) or type(given.continuation) not in (
        bytes,
        NoneType,
    ):
        return False
    known: Any = given  # whatever its fields are declared to be
    if isinstance(given, Accepted):
        kept = known.value is None or (isinstance(known.value, Secret) and known.value.encodable)
        return kept and isinstance(known.sent_to, (str, NoneType))
    if isinstance(given, Rejected):
        return known.about is None or known.about in tuple(Step)
    wait = known.retry_after if isinstance(given, NotActed) else None
    sound = isinstance(given, Unknown) or known.cause in tuple(Cause)
    return sound and (wait is None or (isinstance(wait, timedelta) and wait >= timedelta(0)))

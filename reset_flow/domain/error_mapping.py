"""What the caller of a command is told of its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    OutcomeInDoubt,
    PasswordRejected,
    ResetFlowError,
    UnknownUser,
)
from reset_flow.domain.outcomes import Cause, NotActed, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.domain.flow_data import Move
    from reset_flow.domain.outcomes import Outcome

__all__ = ["not_acted", "recorded", "verdict"]

_REFUSALS = {
    "answer_refused": AnswerRejected,
    "code_refused": CodeRejected,
    "password_refused": PasswordRejected,
    "abandon": UnknownUser,
}
_MUTED = ("answer_refused", "code_refused")
_DOUBTS = {
    "code_accepted": "the broker took the code and gave no token that can be used: ask for another code",
    "code_in_doubt": "nobody knows whether the code is spent: type it again, or ask for another one",
    "code_spent": "the code may be spent, and its token is lost: ask for another one",
    "password_in_doubt": "nobody knows whether the new password is set: try to log in with it, or set it again",
}


def not_acted(outcome: NotActed) -> ResetFlowError:
    """The error for a call that surely did nothing."""
    match outcome.cause:
        case Cause.APP_KEY:
            return AppKeyRejected("the broker does not know the app key, and nothing happened: check key and address")
        case Cause.PROTOCOL:
            return BrokerProtocolError(f"the broker's reply is none that is known of it: {outcome.detail}")
        case _:
            return BrokerUnavailable(outcome.detail, outcome.retry_after)


def recorded(code: str) -> ResetFlowError:
    """The error that a command raised when it was carried out; what the broker said is not kept."""
    doubt = OutcomeInDoubt("this command was carried out before, and left a doubt, as the flow shows")
    refusals = {error.code: error for error in _REFUSALS.values()}
    return refusals[code]("it did so when this command was carried out before") if code in refusals else doubt


def verdict(command: str, outcome: Outcome, fired: Sequence[Move], *, mute: bool = False) -> ResetFlowError | None:
    """
    The error to raise for what was fired upon this outcome; `None` where the flow moved on.

    Args:
        mute: Whether to leave out the broker's words for a wrong answer or code: they might tell who is known to it.
    """
    if not fired:
        return not_acted(outcome) if isinstance(outcome, NotActed) else None
    triggers = [move.trigger for move in fired]
    if triggers[-1] == "abandon" and len(triggers) > 1:
        triggers.pop()  # the attempts are used up; what was wrong with the last one is said all the same
    last = triggers[-1]
    if last in _DOUBTS:
        return OutcomeInDoubt(_DOUBTS[last])
    if isinstance(outcome, Rejected) and last in _REFUSALS and (command, last) != ("start", "answer_refused"):
        return _REFUSALS[last](*(() if mute and last in _MUTED else outcome.reasons))
    return None

"""Which text a person is told of a flow, and of an error. The texts themselves are in `locale/`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec import Struct

from reset_flow.domain.errors import (
    BrokerUnavailable,
    FlowEnded,
    InputRejected,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    StoreUnavailable,
)
from reset_flow.domain.flow import Credential, Failure, Step

if TYPE_CHECKING:
    from datetime import timedelta

    from reset_flow.domain.errors import Reason, ResetFlowError
    from reset_flow.domain.flow import Flow


class Message(Struct, frozen=True):
    """
    A text by its id, which never changes, and what is filled in. Ready for JSON.

    Attributes:
        context: `count` chooses the plural, `retry_after` is a number of seconds, names that end in `_at` are times as
            ISO 8601.
    """

    id: str
    context: dict[str, str | int] = {}


REASONS = frozenset({
    "another_code", "breached", "common", "empty", "guessable", "login", "malformed", "neighbours", "newest_counts",
    "no_text", "not_printable", "service", "token_refused", "too_old", "whole_link",
})  # fmt: skip
COUNTED_REASONS = frozenset({"too_long", "too_short"})
"""Their texts have a number."""

SILENT_REASONS = frozenset({"repeated"})
"""They are no news to a person."""

LIMITS = frozenset({
    "answers_per_user", "codes_per_origin", "codes_per_user", "guess_alarm", "resend_cooldown", "starts_per_origin",
    "starts_per_user",
})  # fmt: skip
"""Limits with texts of their own, which say how long to wait."""

ERRORS = {
    "command_vetoed": "vetoed",
    "flow_busy": "busy",
    "flow_ended": "not_found",
    "flow_not_found": "not_found",
    "held_elsewhere": "held",
    "illegal_command": "step.changed",
    "invalid_input": "user.invalid",
    "key_reused": "request.rejected",
    "stale_record": "busy",
    "unknown_user": "user.unknown",
}
"""Texts of errors that need nothing filled in, by code. What people can do nothing about is `trouble`."""


def message_of(flow: Flow) -> Message:
    """Return what the person is told now: what to do, or how it ended."""
    if flow.busy_until:
        return Message("busy")
    if flow.ended:
        return Message(_ending(flow))
    return doubt_of(flow) or _wanted(flow)


def doubt_of(flow: Flow) -> Message | None:
    """Return what the person is told of the flow's doubt; `None` where it is over a step that has been passed."""
    last = flow.credential.step
    if flow.in_doubt is None or (flow.expects is last and flow.in_doubt is not last):
        return None
    must_ask = flow.in_doubt is last and flow.expects is Step.CODE
    return Message(f"{flow.in_doubt}.in_doubt_code" if must_ask else f"{flow.in_doubt}.in_doubt")


def _wanted(flow: Flow) -> Message:
    match flow.expects:
        case Step.ANSWER:
            return Message("answer.wanted", {"question": flow.question}) if flow.question else Message("request.wanted")
        case Step.CODE if "verify" not in flow.allowed:
            return Message("code.another")
        case Step.CODE if flow.sent_to:
            return Message("code.wanted_at", {"sent_to": flow.sent_to})
    return Message(f"{flow.expects}.wanted")


def _ending(flow: Flow) -> str:
    is_pin = flow.credential is Credential.PIN
    if flow.failure is None:
        return "done.pin" if is_pin else "done"
    return f"failed.{flow.failure}{'_pin' if is_pin and flow.failure is Failure.OUTCOME_UNKNOWN else ''}"


def message_of_error(error: ResetFlowError) -> Message:
    """Return what the person is told of an error; `reasons_of` has the rest. It never repeats the error's own words."""
    match error:
        case FlowEnded(flow=flow) | OutcomeInDoubt(flow=flow) if flow:
            return message_of(flow)
        case InputRejected():
            reasons = _reasons(error)
            return Message(_rejected(error)) if error.sent or not reasons else reasons[0]
        case LimitReached():
            return _limit(error)
        case BrokerUnavailable() | StoreUnavailable():
            return Message(error.code.replace("_", "."), _wait(error.retry_after))
        case _:
            return Message(ERRORS.get(error.code, "trouble"))


def _limit(error: LimitReached) -> Message:
    if error.limit == "resends" or error.retry_after is None:
        return Message("limit.resends" if error.limit == "resends" else "limit.reached")
    return Message(f"limit.{error.limit if error.limit in LIMITS else 'wait'}", _wait(error.retry_after))


def reasons_of(error: ResetFlowError) -> tuple[Message, ...]:
    """Return why an input was refused, as far as `message_of_error` does not say it."""
    if not isinstance(error, InputRejected):
        return ()
    return _reasons(error) if error.sent else _reasons(error)[1:]


def _rejected(error: InputRejected) -> str:
    if isinstance(error, PasswordRejected) and error.flow and error.flow.credential is Credential.PIN:
        return "pin.rejected"
    return ERRORS.get(error.code, error.code.replace("_", "."))


def _reasons(error: InputRejected) -> tuple[Message, ...]:
    return tuple([_of_reason(reason) for reason in error.reasons if reason.code not in SILENT_REASONS and reason.text])


def _of_reason(reason: Reason) -> Message:
    if reason.code in COUNTED_REASONS and reason.number is not None:
        return Message(f"reason.{reason.code}", {"count": reason.number})
    return (
        Message(f"reason.{reason.code}") if reason.code in REASONS else Message("reason.words", {"words": reason.text})
    )


def _wait(length: timedelta | None) -> dict[str, str | int]:
    return {"retry_after": math.ceil(length.total_seconds()) if length else 1}

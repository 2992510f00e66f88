"""The exit status of each error, and its one line on standard error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reset_flow.domain import errors
from reset_flow.domain.text import duration, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BROKEN_PIPE",
    "DEMO_FAILED",
    "INTERRUPTED",
    "NO_SECRET",
    "STATUSES",
    "SYSTEM",
    "TIMED_OUT",
    "USAGE",
    "line_of",
    "status_of",
]

USAGE = 2
NO_SECRET = 4
SYSTEM = 5
DEMO_FAILED = 6
TIMED_OUT = 124
INTERRUPTED = 130
BROKEN_PIPE = 141

STATUSES: Mapping[type[errors.ResetFlowError], int] = {
    errors.ResetFlowError: 10,
    errors.InvalidInput: 11,
    errors.ConfigurationError: 12,
    errors.KeyringError: 13,
    errors.FlowNotFound: 20,
    errors.FlowEnded: 21,
    errors.IllegalCommand: 22,
    errors.FlowBusy: 23,
    errors.KeyReused: 24,
    errors.CommandVetoed: 25,
    errors.HeldElsewhere: 27,
    errors.LimitReached: 26,
    errors.InputRejected: 30,
    errors.UnknownUser: 31,
    errors.AnswerRejected: 32,
    errors.CodeRejected: 33,
    errors.PasswordRejected: 34,
    errors.BrokerError: 40,
    errors.BrokerUnavailable: 41,
    errors.OutcomeInDoubt: 42,
    errors.BrokerProtocolError: 43,
    errors.AppKeyRejected: 44,
    errors.WrongBroker: 45,
    errors.StoreError: 50,
    errors.StoreUnavailable: 51,
    errors.StaleRecord: 52,
    errors.RecordUnreadable: 53,
}
"""One for each class of the tree, a branch in its own ten."""

ADVICE: Mapping[type[errors.ResetFlowError], str] = {
    errors.ConfigurationError: "set it in the environment, or by an option of the command",
    errors.UnknownUser: "check how the user is spelt",
    errors.PasswordRejected: "choose another one",
    errors.BrokerProtocolError: "check RESET_FLOW_BROKER_URL and RESET_FLOW_REVISION",
    errors.StoreUnavailable: "check RESET_FLOW_STORE: its path, its rights, the space left",
    errors.StaleRecord: "try again",
    errors.RecordUnreadable: "set RESET_FLOW_KEYS to the key file that it was sealed with",
}
"""What to do, where the error's own message does not say."""

SHELL = {"verify": "code", "set_password": "password", "set_pin": "pin"}
"""Commands that are called otherwise in the API."""

ID = re.compile("[0-9a-v]{26}")
"""What the id of a flow looks like."""


def status_of(error: errors.ResetFlowError) -> int:
    """Return the status of an error's class, or of the nearest class above that has one."""
    return next(STATUSES[each] for each in type(error).__mro__ if each in STATUSES)


def line_of(error: errors.ResetFlowError) -> str:
    """Return what happened and what to do, in one line."""
    said = one_line(_said(error)) or type(error).__name__
    advice = _advice(error)
    return f"{said} ({advice})" if advice else said


def _said(error: errors.ResetFlowError) -> str:
    """Return the error's own words, with the commands of the shell for those of the API."""
    match error:
        case errors.FlowNotFound() if not ID.fullmatch(str(error.flow_id)):
            # Not repeated: what was typed in its place may be a password.
            return "there is no such flow: give the id that `reset-flow start` printed, or look it up with `list`"
        case errors.IllegalCommand():
            others = " or ".join(map(command_of, error.allowed))
            return f"flow {error.flow_id} is {error.state}: {command_of(error.command)} can't come now, {others} can"
        case errors.FlowBusy():
            return str(errors.FlowBusy(error.flow_id, command_of(error.command), error.retry_after))
    return str(error)


def command_of(name: str) -> str:
    """Return the shell's command for one of the API."""
    return SHELL.get(name, name)


def _advice(error: errors.ResetFlowError) -> str:
    flow = error.flow
    if flow and flow.ended and not isinstance(error, errors.FlowEnded):
        return f"the flow has ended, {flow.failure or flow.state}: start another one"
    if isinstance(error, errors.LimitReached) and error.retry_after is None:
        return "waiting does not help this flow: start another one"
    if isinstance(error, errors.BrokerUnavailable):
        wait = error.retry_after
        return f"try again in {duration(wait)}" if wait else "try again later"
    words = [next((ADVICE[each] for each in type(error).__mro__ if each in ADVICE), "")]
    if isinstance(error, errors.InputRejected) and flow and flow.attempts_left is not None:
        words.append("attempts left: " + str(flow.attempts_left))
    return "; ".join(filter(None, words))

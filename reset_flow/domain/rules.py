"""What may be done with a flow, and how it looks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reset_flow.domain.errors import (
    AnswerRejected,
    CodeRejected,
    FlowEnded,
    HeldElsewhere,
    IllegalCommand,
    InputRejected,
    LimitReached,
    Reason,
)
from reset_flow.domain.flow import Flow, Step
from reset_flow.domain.state_machine import COMMANDS, Call, allowed, expected

if TYPE_CHECKING:
    from datetime import datetime

    from reset_flow.domain.flow_data import FlowData, Intent, Result

COUNTERS = {
    "answer": "answers",
    "resend": "resends",
    "verify": "codes",
    "set_password": "passwords",
    "set_pin": "passwords",
}
"""The field of the flow data that counts the attempts at a command."""

SENDINGS = 2
"""How often one command may be sent: once, and once more when nobody knows the outcome."""


def attempts_left(flow: FlowData) -> int | None:
    """Return how often the step that is expected may still be tried; `None` where nothing is expected."""
    match expected(flow.state, flow.credential):
        case Step.ANSWER:
            return max(0, flow.limits.answer_attempts - flow.answers)
        case Step.CODE:
            return max(0, flow.limits.code_attempts - flow.codes)
        case Step.PASSWORD | Step.PIN:
            return max(0, flow.limits.password_attempts - flow.passwords)
        case None:
            return None


def may_come(flow: FlowData) -> tuple[str, ...]:
    """Return the names of the commands that may come now, sorted. A code that is held may be exchanged for another."""
    if not flow.holds_code:
        return allowed(flow.state, flow.credential)
    return allowed(flow.state, flow.credential, held=unsent_code(flow) or flow.codes < flow.limits.code_attempts)


def unsent_code(flow: FlowData) -> bool:
    """Return whether a code is held that was never sent: whatever comes of a sending is a move of its own."""
    sending = flow.intent is not None and COMMANDS[flow.intent.command].call is Call.UPDATE
    return flow.holds_code and not sending and flow.moves[-1].edge.trigger in COMMANDS["verify"].held


def used_up(flow: FlowData) -> bool:
    """Return whether the flow can't go on because attempts are used up: those that it needs now, or will."""
    return attempts_left(flow) == 0 or (flow.passwords >= flow.limits.password_attempts and not flow.state.ended)


def _resend_at(flow: FlowData) -> datetime | None:
    may_resend = "resend" in may_come(flow) if flow.holds_code else flow.state in COMMANDS["resend"].legal_in
    if not may_resend or flow.resends >= flow.limits.resends:
        return None
    return (flow.sent_at or flow.created_at) + flow.limits.resend_cooldown


def view(flow: FlowData, busy_until: datetime | None = None) -> Flow:
    """Return the flow as embedders see it. An open intent shows as doubt where no call can be under way any more."""
    return Flow(
        id=flow.id,
        ref=flow.ref,
        user=flow.user,
        credential=flow.credential,
        state=flow.state,
        expects=expected(flow.state, flow.credential),
        allowed=may_come(flow),
        question=flow.question or None,
        attempts_left=attempts_left(flow),
        in_doubt=step_in_doubt(flow, flow.intent) if flow.intent and not busy_until else flow.in_doubt,
        busy_until=busy_until,
        failure=flow.failure,
        sent_to=flow.sent_to,
        created_at=flow.created_at,
        expires_at=flow.expires_at,
        resend_at=_resend_at(flow),
        history=flow.history,
        version=flow.version,
    )


def step_in_doubt(flow: FlowData, intent: Intent) -> Step:
    """Return the step that an unknown outcome would leave in doubt. A doubt about the password hides any other."""
    call = COMMANDS[intent.command].call
    if call is Call.UPDATE or flow.in_doubt is flow.credential.step:
        return flow.credential.step
    return Step.CODE if call is Call.EXCHANGE else Step.ANSWER


def expired(flow: FlowData, now: datetime) -> bool:
    """Return whether the time of a flow that still runs is up."""
    return flow.ended_at is None and now >= flow.expires_at


def adopted(flow: FlowData) -> bool:
    """Return whether the flow began with a token from elsewhere."""
    return [move.edge.trigger for move in flow.moves[:1]] == list(COMMANDS["adopt"].accepted)


def repeatable(intent: Intent) -> bool:
    """Return whether the same may be sent once more when its outcome is unknown: never what has an e-mail sent."""
    return COMMANDS[intent.command].call is not Call.REQUEST and intent.sendings < SENDINGS


def recall(flow: FlowData, key: bytes) -> Result | None:
    """Return the newest result of the command that had this key, if it is one of the last."""
    return next((result for result in reversed(flow.results) if result.key == key), None)


def is_final(flow: FlowData, result: Result) -> bool:
    """Return whether the command of a result is only recalled: not while the doubt that it left stands."""
    doubt = {"code_in_doubt": Step.CODE, "password_in_doubt": flow.credential.step}.get(result.code)
    return doubt is None or flow.in_doubt is not doubt or expected(flow.state, flow.credential) is not doubt


def admit(flow: FlowData, command: str, now: datetime) -> None:
    """Raise FlowEnded, IllegalCommand, LimitReached or CodeRejected if the command may not come now. Count nothing."""
    if flow.state.ended:
        raise FlowEnded(flow.id, flow.failure or flow.state)
    legal = may_come(flow)
    if command not in legal:
        raise IllegalCommand(flow.id, command, flow.state, legal)
    if command == "resend":
        at = _resend_at(flow)
        if at is None:
            raise LimitReached("resends")
        if now < at:
            raise LimitReached("resend_cooldown", at - now)
    lifetime = flow.limits.code_lifetime
    if command == "verify" and lifetime and flow.sent_at and now >= flow.sent_at + lifetime:
        raise CodeRejected(Reason("too_old", "it is too old by now, ask for another one"), sent=False)


def check_holder(flow: FlowData, command: str, holder: bytes | None) -> None:
    """Raise HeldElsewhere if the flow is bound to somebody else. The embedder itself may cancel any."""
    if flow.holder not in (None, holder) and not (command == "cancel" and holder is None):
        raise HeldElsewhere(flow.id)


def check_input(flow: FlowData, command: str, given: object) -> None:
    """Raise InputRejected if the input of a command may not be sent. No attempt is counted."""
    if isinstance(given, InputRejected):
        raise given
    if command == "answer" and given is None and flow.question:
        raise AnswerRejected(Reason("empty", "it must not be empty"), sent=False)

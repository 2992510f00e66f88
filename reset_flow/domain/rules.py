"""What may come in a flow, and what an outcome means for it. Pure: a moment comes in, a new data goes out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from reset_flow.domain.errors import (
    AnswerRejected,
    CodeRejected,
    FlowEnded,
    IllegalCommand,
    InputRejected,
    LimitReached,
)
from reset_flow.domain.flow import Credential, Failure, Flow, State, Step
from reset_flow.domain.flow_data import EDGES, Intent, Move, Result
from reset_flow.domain.outcomes import Accepted, NotActed, Outcome, Rejected
from reset_flow.domain.state_machine import COMMANDS, allowed, expected, move

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reset_flow.domain.flow_data import FlowData
    from reset_flow.domain.policy import Policy
    from reset_flow.domain.secret import Secret

__all__ = [
    "Moment",
    "admit",
    "adopt",
    "adopted",
    "announce",
    "announce_again",
    "asked",
    "attempts_left",
    "cancel",
    "check_input",
    "expire",
    "expired",
    "heard",
    "leaves_password_in_doubt",
    "masked",
    "recall",
    "remember",
    "repeatable",
    "resolve",
    "unsent",
    "view",
]

COUNTERS = {
    "answer": "answers",
    "resend": "resends",
    "verify": "codes",
    "set_password": "passwords",
    "set_pin": "passwords",
}
"""What of flow data counts the attempts at a command."""

RESULTS = 8
"""How many results of commands with an idempotency key a flow remembers."""

SENDINGS = 2
"""How often one command may be sent: once, and once more when nobody knows what came of it."""


class Moment(Struct, frozen=True, gc=False):
    """When something is decided, and by which worker."""

    at: datetime
    worker: str


# --- looking


def attempts_left(data: FlowData, policy: Policy) -> int | None:
    """How often the step that is expected may still be tried."""
    match data.state:
        case State.REQUESTED:
            left = policy.answer_attempts - data.answers
        case State.QUESTION_ANSWERED | State.CODE_VERIFIED:
            left = policy.code_attempts - data.codes
        case State.TOKEN_ISSUED:
            left = policy.password_attempts - data.passwords
        case _:
            return None
    return max(0, left)


def _resend_at(data: FlowData, policy: Policy) -> datetime | None:
    if data.state not in COMMANDS["resend"].legal_in or data.resends >= policy.resends:
        return None
    return (data.sent_at or data.created_at) + policy.resend_cooldown


def view(data: FlowData, policy: Policy) -> Flow:
    """What the embedder sees of it. An intent that is still open shows as doubt."""
    intended = COMMANDS[data.intent.command] if data.intent else None
    return Flow(
        id=data.id,
        user=data.user,
        credential=data.credential,
        state=data.state,
        expects=expected(data.state, data.credential),
        allowed=allowed(data.state, data.credential),
        question=data.question or None,
        attempts_left=attempts_left(data, policy),
        in_doubt=_doubt(intended.name, data.credential) if intended else data.in_doubt,
        failure=data.failure,
        created_at=data.created_at,
        expires_at=data.expires_at,
        resend_at=_resend_at(data, policy),
        history=data.history,
        version=data.version,
    )


def expired(data: FlowData, now: datetime) -> bool:
    """Whether the time of a flow that still runs is up."""
    return data.ended_at is None and now >= data.expires_at


# --- before a call


def admit(data: FlowData, command: str, policy: Policy, now: datetime) -> None:
    """
    Return if the command may come now; nothing is counted.

    Raises:
        FlowEnded, IllegalCommand, LimitReached, CodeRejected: It may not.
    """
    if data.state.ended:
        raise FlowEnded(data.id, data.failure or data.state)
    legal = allowed(data.state, data.credential)
    if command not in legal:
        raise IllegalCommand(data.id, command, data.state, legal)
    if COMMANDS[command].asks and command != "resend" and attempts_left(data, policy) == 0:
        raise LimitReached("attempts of one flow")  # the policy has become stricter since the last one
    if command == "resend":
        at = _resend_at(data, policy)
        if at is None:
            raise LimitReached("codes for one flow")
        if now < at:
            raise LimitReached("one code at a time", at - now)
    too_old = policy.code_lifetime and data.sent_at and now >= data.sent_at + policy.code_lifetime
    if command == "verify" and too_old:
        raise CodeRejected("it is too old by now, ask for another one", sent=False)


def check_input(data: FlowData, command: str, given: object) -> None:
    """
    Return if what came with the command may be sent.

    Raises:
        InputRejected: It may not; no attempt is counted.
    """
    if isinstance(given, InputRejected):
        raise given
    if command == "answer" and given is None and data.question:
        raise AnswerRejected("it must not be empty", sent=False)


def announce(
    data: FlowData, command: str, now: datetime, secret: Secret | None = None, key: bytes | None = None
) -> FlowData:
    """The flow data with the intent of sending, its attempt counted."""
    intent = Intent(command=command, at=now, secret=secret, key=key)
    return replace(data, intent=intent, **_counted(data, command, 1))


def announce_again(data: FlowData) -> FlowData:
    """The flow data with the intent of sending the same once more, which costs no further attempt."""
    assert data.intent is not None
    return replace(data, intent=replace(data.intent, sendings=data.intent.sendings + 1))


def repeatable(intent: Intent) -> bool:
    """Whether the same may be sent once more, nobody knowing what came of the last sending."""
    return COMMANDS[intent.command].repeatable and intent.sendings < SENDINGS


def _counted(data: FlowData, command: str, amount: int) -> dict[str, int]:
    """What changes when so many attempts at the command are added."""
    counter = COUNTERS.get(command)
    return {counter: getattr(data, counter) + amount} if counter else {}


# --- after it


def resolve(data: FlowData, outcome: Outcome, policy: Policy, now: Moment) -> FlowData:
    """What the outcome makes of flow data with an intent. Attempts that are used up end the flow."""
    intent = data.intent
    assert intent is not None
    match outcome:
        case Accepted():
            return _accepted(data, intent, outcome, policy, now)
        case NotActed() if intent.sendings == 1:
            return replace(data, intent=None, **_counted(data, intent.command, -1))
        case Rejected():
            done = _rejected(data, intent, policy, now)
        case _:
            done = _unknown(data, intent, now)
    return _end(done, Failure.TOO_MANY_ATTEMPTS, now) if attempts_left(done, policy) == 0 else done


def _accepted(data: FlowData, intent: Intent, outcome: Accepted, policy: Policy, now: Moment) -> FlowData:
    """A guess that the broker accepts is given back; another code that was asked for is not."""
    triggers = COMMANDS[intent.command].accepted
    known: dict[str, Any] = {} if outcome.continuation is None else {"continuation": outcome.continuation}
    match intent.command:
        case "start" | "answer":
            known |= _counted(data, intent.command, -1)
            return _fire(data, triggers, now, answer=intent.secret, sent_at=intent.at, in_doubt=None, **known)
        case "resend":
            return _fire(data, triggers, now, sent_at=intent.at, in_doubt=None, **known)
        case "verify":
            known |= _counted(data, "verify", -1)
            if not outcome.value:
                return _fire(data, triggers[:1], now, in_doubt=Step.CODE, **known)
            known |= _granted(data, outcome.value, policy, now.at)
            return _fire(data, triggers, now, answer=None, in_doubt=None, **known)
        case _:
            return _fire(data, triggers, now, in_doubt=None, **_closed(data, now))


def _granted(data: FlowData, token: Secret, policy: Policy, now: datetime) -> dict[str, Any]:
    """What changes with its token, and no longer to live than that may be used."""
    lifetime = policy.token_lifetime or (data.expires_at - now)
    return {"token": token, "expires_at": min(data.expires_at, now + lifetime)}


def _rejected(data: FlowData, intent: Intent, policy: Policy, now: Moment) -> FlowData:
    triggers = COMMANDS[intent.command].rejected
    match intent.command:
        case "start" if data.question == "" and policy.mask_unknown_users:
            return _fire(data, COMMANDS["start"].accepted, now, masked=True, sent_at=intent.at)
        case "start" if data.question == "":
            return _end(data, Failure.BROKER_REFUSED, now)  # no question, and yet a no: nothing is left to ask for
        case "resend":
            # The answer that the broker once took is wrong by now. The table has no way back from a verified code but
            # over the code being spent, which a person who asks for another one has given up.
            road = ("code_spent", *triggers) if data.state is State.CODE_VERIFIED else triggers
            return _fire(data, road, now, answer=None, in_doubt=None)
        case "verify" if intent.sendings > 1:
            given_back = {} if data.compensated else _counted(data, "verify", -1)
            return _fire(data, ("code_spent",), now, in_doubt=Step.CODE, compensated=True, **given_back)
        case "set_password" | "set_pin" if intent.sendings > 1 or _last_step_in_doubt(data):
            # The broker may have refused the token that an earlier sending spent, or the password: nobody can know.
            return _unknown(data, intent, now)
        case _:
            return _fire(data, triggers, now)


def _unknown(data: FlowData, intent: Intent, now: Moment) -> FlowData:
    doubt = _doubt(intent.command, data.credential)
    known: dict[str, Any] = {"in_doubt": doubt}
    if intent.command in ("start", "answer"):
        known["answer"] = intent.secret
    if doubt is Step.ANSWER:
        known["sent_at"] = intent.at
    return _fire(data, COMMANDS[intent.command].unknown, now, **known)


def _doubt(command: str, credential: Credential) -> Step:
    """The step that an unknown outcome leaves in doubt: whatever asks for a code is the first one."""
    return {"verify": Step.CODE, "set_password": credential.step, "set_pin": credential.step}.get(command, Step.ANSWER)


def _last_step_in_doubt(data: FlowData) -> bool:
    return data.in_doubt is data.credential.step


def leaves_password_in_doubt(data: FlowData, outcome: Outcome) -> bool:
    """Whether the outcome of this intent says neither that the new password is set nor that it is not."""
    assert data.intent is not None
    if data.intent.command not in ("set_password", "set_pin") or isinstance(outcome, Accepted):
        return False
    return data.intent.sendings > 1 or (_last_step_in_doubt(data) and not isinstance(outcome, NotActed))


# --- idempotency keys


def recall(data: FlowData, key: bytes | None) -> Result | None:
    """What came of the command that had this key, if it is one of the last."""
    return next((result for result in data.results if result.key == key), None)


def remember(data: FlowData, key: bytes | None, command: str, code: str) -> FlowData:
    """The flow data that can recall what came of the command; only of the last eight that had a key."""
    if key is None:
        return data
    return replace(data, results=(*data.results, Result(key=key, command=command, code=code))[-RESULTS:])


# --- ends, and ways around


def cancel(data: FlowData, now: Moment) -> FlowData:
    """The flow, ended because the person wants no more of it."""
    return _end(data, Failure.CANCELLED, now)


def expire(data: FlowData, now: Moment) -> FlowData:
    """The flow, ended because its time is up."""
    return _end(data, Failure.EXPIRED, now)


def asked(data: FlowData, outcome: Accepted) -> FlowData:
    """A new flow that knows what the broker said of its question."""
    question = None if outcome.value is None else outcome.value.reveal()
    return replace(data, question=question, continuation=outcome.continuation)


def masked(data: FlowData, question: str) -> FlowData:
    """A new flow that the broker refused, which nobody is to learn."""
    return replace(data, question=question, masked=True)


def adopted(data: FlowData) -> bool:
    """Whether the flow began with a token from elsewhere."""
    return [move.trigger for move in data.moves[:1]] == list(COMMANDS["adopt"].accepted)


def unsent(data: FlowData) -> bool:
    """Whether the flow still waits for a first step that needs nothing of the person."""
    return data.state is State.REQUESTED and not data.question and not data.intent and not data.moves


def adopt(data: FlowData, token: Secret, policy: Policy, now: Moment) -> FlowData:
    """A new flow that has its token from elsewhere."""
    return _fire(data, COMMANDS["adopt"].accepted, now, **_granted(data, token, policy, now.at))


def _end(data: FlowData, failure: Failure, now: Moment) -> FlowData:
    """Ended in failure; but whoever may have set a password is not told that it was not set."""
    known = Failure.OUTCOME_UNKNOWN if _last_step_in_doubt(data) else failure
    return _fire(data, ("abandon",), now, failure=known, **_closed(data, now))


def _closed(data: FlowData, now: Moment) -> dict[str, Any]:
    """What changes with every end."""
    return {"answer": None, "token": None, "continuation": None, "ended_at": now.at, "owed": data.listeners}


def heard(data: FlowData, names: Iterable[str]) -> FlowData:
    """The ended flow, of which these listeners know."""
    return replace(data, owed=tuple(name for name in data.owed if name not in set(names)))


def _fire(data: FlowData, triggers: Iterable[str], now: Moment, **known: Any) -> FlowData:
    """The flow data after these transitions, with all else that is known by them; what was intended is over."""
    state, moves, workers = data.state, data.moves, data.workers
    if now.worker not in workers:
        workers = (*workers, now.worker)
    worker = workers.index(now.worker)
    for trigger in triggers:
        target = move(state, trigger)
        moves = (*moves, Move(trigger, EDGES[state, target], now.at, worker))
        state = target
    return replace(data, state=state, moves=moves, workers=workers, intent=None, **known)

"""What may come in a flow, and what an outcome means for it. Pure: a moment comes in, a new dossier goes out."""

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

    from reset_flow.domain.flow_data import Dossier
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
"""What of a dossier counts the attempts at a command."""

RESULTS = 8
"""How many results of commands with an idempotency key a flow remembers."""

SENDINGS = 2
"""How often one command may be sent: once, and once more when nobody knows what came of it."""


class Moment(Struct, frozen=True, gc=False):
    """When something is decided, and by which worker."""

    at: datetime
    worker: str


# --- looking


def attempts_left(dossier: Dossier, policy: Policy) -> int | None:
    """How often the step that is expected may still be tried."""
    match dossier.state:
        case State.REQUESTED:
            left = policy.answer_attempts - dossier.answers
        case State.QUESTION_ANSWERED | State.CODE_VERIFIED:
            left = policy.code_attempts - dossier.codes
        case State.TOKEN_ISSUED:
            left = policy.password_attempts - dossier.passwords
        case _:
            return None
    return max(0, left)


def _resend_at(dossier: Dossier, policy: Policy) -> datetime | None:
    if dossier.state not in COMMANDS["resend"].legal_in or dossier.resends >= policy.resends:
        return None
    return (dossier.sent_at or dossier.created_at) + policy.resend_cooldown


def view(dossier: Dossier, policy: Policy) -> Flow:
    """What the embedder sees of it. An intent that is still open shows as doubt."""
    intended = COMMANDS[dossier.intent.command] if dossier.intent else None
    return Flow(
        id=dossier.id,
        user=dossier.user,
        credential=dossier.credential,
        state=dossier.state,
        expects=expected(dossier.state, dossier.credential),
        allowed=allowed(dossier.state, dossier.credential),
        question=dossier.question or None,
        attempts_left=attempts_left(dossier, policy),
        in_doubt=_doubt(intended.name, dossier.credential) if intended else dossier.in_doubt,
        failure=dossier.failure,
        created_at=dossier.created_at,
        expires_at=dossier.expires_at,
        resend_at=_resend_at(dossier, policy),
        history=dossier.history,
        version=dossier.version,
    )


def expired(dossier: Dossier, now: datetime) -> bool:
    """Whether the time of a flow that still runs is up."""
    return dossier.ended_at is None and now >= dossier.expires_at


# --- before a call


def admit(dossier: Dossier, command: str, policy: Policy, now: datetime) -> None:
    """
    Return if the command may come now; nothing is counted.

    Raises:
        FlowEnded, IllegalCommand, LimitReached, CodeRejected: It may not.
    """
    if dossier.state.ended:
        raise FlowEnded(dossier.id, dossier.failure or dossier.state)
    legal = allowed(dossier.state, dossier.credential)
    if command not in legal:
        raise IllegalCommand(dossier.id, command, dossier.state, legal)
    if COMMANDS[command].asks and command != "resend" and attempts_left(dossier, policy) == 0:
        raise LimitReached("attempts of one flow")  # the policy has become stricter since the last one
    if command == "resend":
        at = _resend_at(dossier, policy)
        if at is None:
            raise LimitReached("codes for one flow")
        if now < at:
            raise LimitReached("one code at a time", at - now)
    too_old = policy.code_lifetime and dossier.sent_at and now >= dossier.sent_at + policy.code_lifetime
    if command == "verify" and too_old:
        raise CodeRejected("it is too old by now, ask for another one", sent=False)


def check_input(dossier: Dossier, command: str, given: object) -> None:
    """
    Return if what came with the command may be sent.

    Raises:
        InputRejected: It may not; no attempt is counted.
    """
    if isinstance(given, InputRejected):
        raise given
    if command == "answer" and given is None and dossier.question:
        raise AnswerRejected("it must not be empty", sent=False)


def announce(
    dossier: Dossier, command: str, now: datetime, secret: Secret | None = None, key: bytes | None = None
) -> Dossier:
    """The dossier with the intent of sending, its attempt counted."""
    intent = Intent(command=command, at=now, secret=secret, key=key)
    return replace(dossier, intent=intent, **_counted(dossier, command, 1))


def announce_again(dossier: Dossier) -> Dossier:
    """The dossier with the intent of sending the same once more, which costs no further attempt."""
    assert dossier.intent is not None
    return replace(dossier, intent=replace(dossier.intent, sendings=dossier.intent.sendings + 1))


def repeatable(intent: Intent) -> bool:
    """Whether the same may be sent once more, nobody knowing what came of the last sending."""
    return COMMANDS[intent.command].repeatable and intent.sendings < SENDINGS


def _counted(dossier: Dossier, command: str, amount: int) -> dict[str, int]:
    """What changes when so many attempts at the command are added."""
    counter = COUNTERS.get(command)
    return {counter: getattr(dossier, counter) + amount} if counter else {}


# --- after it


def resolve(dossier: Dossier, outcome: Outcome, policy: Policy, now: Moment) -> Dossier:
    """What the outcome makes of a dossier with an intent. Attempts that are used up end the flow."""
    intent = dossier.intent
    assert intent is not None
    match outcome:
        case Accepted():
            return _accepted(dossier, intent, outcome, policy, now)
        case NotActed() if intent.sendings == 1:
            return replace(dossier, intent=None, **_counted(dossier, intent.command, -1))
        case Rejected():
            done = _rejected(dossier, intent, policy, now)
        case _:
            done = _unknown(dossier, intent, now)
    return _end(done, Failure.TOO_MANY_ATTEMPTS, now) if attempts_left(done, policy) == 0 else done


def _accepted(dossier: Dossier, intent: Intent, outcome: Accepted, policy: Policy, now: Moment) -> Dossier:
    """A guess that the broker accepts is given back; another code that was asked for is not."""
    triggers = COMMANDS[intent.command].accepted
    known: dict[str, Any] = {} if outcome.continuation is None else {"continuation": outcome.continuation}
    match intent.command:
        case "start" | "answer":
            known |= _counted(dossier, intent.command, -1)
            return _fire(dossier, triggers, now, answer=intent.secret, sent_at=intent.at, in_doubt=None, **known)
        case "resend":
            return _fire(dossier, triggers, now, sent_at=intent.at, in_doubt=None, **known)
        case "verify":
            known |= _counted(dossier, "verify", -1)
            if not outcome.value:
                return _fire(dossier, triggers[:1], now, in_doubt=Step.CODE, **known)
            known |= _granted(dossier, outcome.value, policy, now.at)
            return _fire(dossier, triggers, now, answer=None, in_doubt=None, **known)
        case _:
            return _fire(dossier, triggers, now, in_doubt=None, **_closed(dossier, now))


def _granted(dossier: Dossier, token: Secret, policy: Policy, now: datetime) -> dict[str, Any]:
    """What changes with its token, and no longer to live than that may be used."""
    lifetime = policy.token_lifetime or (dossier.expires_at - now)
    return {"token": token, "expires_at": min(dossier.expires_at, now + lifetime)}


def _rejected(dossier: Dossier, intent: Intent, policy: Policy, now: Moment) -> Dossier:
    triggers = COMMANDS[intent.command].rejected
    match intent.command:
        case "start" if dossier.question == "" and policy.mask_unknown_users:
            return _fire(dossier, COMMANDS["start"].accepted, now, masked=True, sent_at=intent.at)
        case "start" if dossier.question == "":
            return _end(dossier, Failure.BROKER_REFUSED, now)  # no question, and yet a no: nothing is left to ask for
        case "resend":
            # The answer that the broker once took is wrong by now. The table has no way back from a verified code but
            # over the code being spent, which a person who asks for another one has given up.
            road = ("code_spent", *triggers) if dossier.state is State.CODE_VERIFIED else triggers
            return _fire(dossier, road, now, answer=None, in_doubt=None)
        case "verify" if intent.sendings > 1:
            given_back = {} if dossier.compensated else _counted(dossier, "verify", -1)
            return _fire(dossier, ("code_spent",), now, in_doubt=Step.CODE, compensated=True, **given_back)
        case "set_password" | "set_pin" if intent.sendings > 1 or _last_step_in_doubt(dossier):
            # The broker may have refused the token that an earlier sending spent, or the password: nobody can know.
            return _unknown(dossier, intent, now)
        case _:
            return _fire(dossier, triggers, now)


def _unknown(dossier: Dossier, intent: Intent, now: Moment) -> Dossier:
    doubt = _doubt(intent.command, dossier.credential)
    known: dict[str, Any] = {"in_doubt": doubt}
    if intent.command in ("start", "answer"):
        known["answer"] = intent.secret
    if doubt is Step.ANSWER:
        known["sent_at"] = intent.at
    return _fire(dossier, COMMANDS[intent.command].unknown, now, **known)


def _doubt(command: str, credential: Credential) -> Step:
    """The step that an unknown outcome leaves in doubt: whatever asks for a code is the first one."""
    return {"verify": Step.CODE, "set_password": credential.step, "set_pin": credential.step}.get(command, Step.ANSWER)


def _last_step_in_doubt(dossier: Dossier) -> bool:
    return dossier.in_doubt is dossier.credential.step


def leaves_password_in_doubt(dossier: Dossier, outcome: Outcome) -> bool:
    """Whether the outcome of this intent says neither that the new password is set nor that it is not."""
    assert dossier.intent is not None
    if dossier.intent.command not in ("set_password", "set_pin") or isinstance(outcome, Accepted):
        return False
    return dossier.intent.sendings > 1 or (_last_step_in_doubt(dossier) and not isinstance(outcome, NotActed))


# --- idempotency keys


def recall(dossier: Dossier, key: bytes | None) -> Result | None:
    """What came of the command that had this key, if it is one of the last."""
    return next((result for result in dossier.results if result.key == key), None)


def remember(dossier: Dossier, key: bytes | None, command: str, code: str) -> Dossier:
    """The dossier that can recall what came of the command; only of the last eight that had a key."""
    if key is None:
        return dossier
    return replace(dossier, results=(*dossier.results, Result(key=key, command=command, code=code))[-RESULTS:])


# --- ends, and ways around


def cancel(dossier: Dossier, now: Moment) -> Dossier:
    """The flow, ended because the person wants no more of it."""
    return _end(dossier, Failure.CANCELLED, now)


def expire(dossier: Dossier, now: Moment) -> Dossier:
    """The flow, ended because its time is up."""
    return _end(dossier, Failure.EXPIRED, now)


def asked(dossier: Dossier, outcome: Accepted) -> Dossier:
    """A new flow that knows what the broker said of its question."""
    question = None if outcome.value is None else outcome.value.reveal()
    return replace(dossier, question=question, continuation=outcome.continuation)


def masked(dossier: Dossier, question: str) -> Dossier:
    """A new flow that the broker refused, which nobody is to learn."""
    return replace(dossier, question=question, masked=True)


def adopted(dossier: Dossier) -> bool:
    """Whether the flow began with a token from elsewhere."""
    return [move.trigger for move in dossier.moves[:1]] == list(COMMANDS["adopt"].accepted)


def unsent(dossier: Dossier) -> bool:
    """Whether the flow still waits for a first step that needs nothing of the person."""
    return dossier.state is State.REQUESTED and not dossier.question and not dossier.intent and not dossier.moves


def adopt(dossier: Dossier, token: Secret, policy: Policy, now: Moment) -> Dossier:
    """A new flow that has its token from elsewhere."""
    return _fire(dossier, COMMANDS["adopt"].accepted, now, **_granted(dossier, token, policy, now.at))


def _end(dossier: Dossier, failure: Failure, now: Moment) -> Dossier:
    """Ended in failure; but whoever may have set a password is not told that it was not set."""
    known = Failure.OUTCOME_UNKNOWN if _last_step_in_doubt(dossier) else failure
    return _fire(dossier, ("abandon",), now, failure=known, **_closed(dossier, now))


def _closed(dossier: Dossier, now: Moment) -> dict[str, Any]:
    """What changes with every end."""
    return {"answer": None, "token": None, "continuation": None, "ended_at": now.at, "owed": dossier.listeners}


def heard(dossier: Dossier, names: Iterable[str]) -> Dossier:
    """The ended flow, of which these listeners know."""
    return replace(dossier, owed=tuple(name for name in dossier.owed if name not in set(names)))


def _fire(dossier: Dossier, triggers: Iterable[str], now: Moment, **known: Any) -> Dossier:
    """The dossier after these transitions, with all else that is known by them; what was intended is over."""
    state, moves, workers = dossier.state, dossier.moves, dossier.workers
    if now.worker not in workers:
        workers = (*workers, now.worker)
    worker = workers.index(now.worker)
    for trigger in triggers:
        target = move(state, trigger)
        moves = (*moves, Move(trigger, EDGES[state, target], now.at, worker))
        state = target
    return replace(dossier, state=state, moves=moves, workers=workers, intent=None, **known)

"""What may come in a flow, and what an outcome means for it. Pure: a time comes in, a new dossier goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from reset_flow.dossier import Intent, Result
from reset_flow.errors import AnswerRejected, CodeRejected, FlowEnded, IllegalCommand, InputRejected, LimitReached
from reset_flow.machine import COMMANDS, allowed, expected, move
from reset_flow.models import (
    Accepted,
    Credential,
    Failure,
    Flow,
    NotActed,
    Outcome,
    Rejected,
    State,
    Step,
    Transition,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from reset_flow.dossier import Dossier
    from reset_flow.models import Secret
    from reset_flow.policy import Policy

__all__ = [
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
    "signed",
    "unsent",
    "view",
]

RESULTS = 8
"""How many results of commands with an idempotency key a flow remembers."""

SENDINGS = 2
"""How often one command may be sent: once, and once more when nobody knows what came of it."""


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
    return _count(dossier.changed(intent=intent), command, 1)


def announce_again(dossier: Dossier) -> Dossier:
    """The dossier with the intent of sending the same once more, which costs no further attempt."""
    assert dossier.intent is not None
    return dossier.changed(intent=attrs.evolve(dossier.intent, sendings=dossier.intent.sendings + 1))


def repeatable(intent: Intent) -> bool:
    """Whether the same may be sent once more, nobody knowing what came of the last sending."""
    return COMMANDS[intent.command].repeatable and intent.sendings < SENDINGS


def _count(dossier: Dossier, command: str, amount: int) -> Dossier:
    match command:
        case "answer":
            return dossier.changed(answers=dossier.answers + amount)
        case "resend":
            return dossier.changed(resends=dossier.resends + amount)
        case "verify":
            return dossier.changed(codes=dossier.codes + amount)
        case "set_password" | "set_pin":
            return dossier.changed(passwords=dossier.passwords + amount)
        case _:
            return dossier


# --- after it


def resolve(dossier: Dossier, outcome: Outcome, policy: Policy, now: datetime) -> Dossier:
    """What the outcome makes of a dossier with an intent. Attempts that are used up end the flow."""
    intent = dossier.intent
    assert intent is not None
    done = dossier.changed(intent=None)
    match outcome:
        case NotActed() if intent.sendings == 1:
            return _count(done, intent.command, -1)
        case Accepted():
            done = _accepted(done, intent, outcome, policy, now)
        case Rejected():
            done = _rejected(done, intent, policy, now)
        case _:
            done = _unknown(done, intent, now)
    if not isinstance(outcome, Accepted) and attempts_left(done, policy) == 0:
        return _end(done, Failure.TOO_MANY_ATTEMPTS, now)
    return done


def _accepted(dossier: Dossier, intent: Intent, outcome: Accepted, policy: Policy, now: datetime) -> Dossier:
    """A guess that the broker accepts is given back; another code that was asked for is not."""
    if outcome.continuation is not None:
        dossier = dossier.changed(continuation=outcome.continuation)
    triggers = COMMANDS[intent.command].accepted
    match intent.command:
        case "start" | "answer":
            known = dossier.changed(answer=intent.secret, sent_at=intent.at, in_doubt=None)
            return _fire(_count(known, intent.command, -1), triggers, now)
        case "resend":
            return _fire(dossier.changed(sent_at=intent.at, in_doubt=None), triggers, now)
        case "verify" if not outcome.value:
            return _fire(_count(dossier, "verify", -1).changed(in_doubt=Step.CODE), triggers[:1], now)
        case "verify":
            assert outcome.value is not None
            known = _granted(dossier.changed(answer=None, in_doubt=None), outcome.value, policy, now)
            return _fire(_count(known, "verify", -1), triggers, now)
        case _:
            return _close(_fire(dossier.changed(in_doubt=None), triggers, now), now)


def _granted(dossier: Dossier, token: Secret, policy: Policy, now: datetime) -> Dossier:
    """With its token, and no longer to live than that may be used."""
    lifetime = policy.token_lifetime or (dossier.expires_at - now)
    return dossier.changed(token=token, granted_at=now, expires_at=min(dossier.expires_at, now + lifetime))


def _rejected(dossier: Dossier, intent: Intent, policy: Policy, now: datetime) -> Dossier:
    triggers = COMMANDS[intent.command].rejected
    match intent.command:
        case "start" if dossier.question == "" and policy.mask_unknown_users:
            waived = dossier.changed(masked=True, sent_at=intent.at)
            return _fire(waived, COMMANDS["start"].accepted, now)
        case "start" if dossier.question == "":
            return _end(dossier, Failure.BROKER_REFUSED, now)  # no question, and yet a no: nothing is left to ask for
        case "resend":
            # The answer that the broker once took is wrong by now. The table has no way back from a verified code but
            # over the code being spent, which a person who asks for another one has given up.
            road = ("code_spent", *triggers) if dossier.state is State.CODE_VERIFIED else triggers
            return _fire(dossier.changed(answer=None, in_doubt=None), road, now)
        case "verify" if intent.sendings > 1:
            given_back = dossier if dossier.compensated else _count(dossier, "verify", -1)
            return _fire(given_back.changed(in_doubt=Step.CODE, compensated=True), ("code_spent",), now)
        case "set_password" | "set_pin" if intent.sendings > 1 or _last_step_in_doubt(dossier):
            # The broker may have refused the token that an earlier sending spent, or the password: nobody can know.
            return _unknown(dossier, intent, now)
        case _:
            return _fire(dossier, triggers, now)


def _unknown(dossier: Dossier, intent: Intent, now: datetime) -> Dossier:
    in_doubt = dossier.changed(in_doubt=_doubt(intent.command, dossier.credential))
    if intent.command in ("start", "answer"):
        in_doubt = in_doubt.changed(answer=intent.secret)
    if in_doubt.in_doubt is Step.ANSWER:
        in_doubt = in_doubt.changed(sent_at=intent.at)
    return _fire(in_doubt, COMMANDS[intent.command].unknown, now)


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
    return dossier.changed(results=(*dossier.results, Result(key=key, command=command, code=code))[-RESULTS:])


# --- ends, and ways around


def cancel(dossier: Dossier, now: datetime) -> Dossier:
    """The flow, ended because the person wants no more of it."""
    return _end(dossier, Failure.CANCELLED, now)


def expire(dossier: Dossier, now: datetime) -> Dossier:
    """The flow, ended because its time is up."""
    return _end(dossier, Failure.EXPIRED, now)


def asked(dossier: Dossier, outcome: Accepted) -> Dossier:
    """A new flow that knows what the broker said of its question."""
    question = None if outcome.value is None else outcome.value.reveal()
    return dossier.changed(question=question, continuation=outcome.continuation)


def masked(dossier: Dossier, question: str) -> Dossier:
    """A new flow that the broker refused, which nobody is to learn."""
    return dossier.changed(question=question, masked=True)


def signed(dossier: Dossier, since: int, worker: str) -> Dossier:
    """The dossier whose transitions after that many say who took them."""
    new = (
        Transition(trigger=each.trigger, source=each.source, target=each.target, at=each.at, worker=worker)
        for each in dossier.history[since:]
    )
    return dossier.changed(history=(*dossier.history[:since], *new))


def adopted(dossier: Dossier) -> bool:
    """Whether the flow began with a token from elsewhere."""
    return [transition.trigger for transition in dossier.history[:1]] == list(COMMANDS["adopt"].accepted)


def unsent(dossier: Dossier) -> bool:
    """Whether the flow still waits for a first step that needs nothing of the person."""
    return dossier.state is State.REQUESTED and not dossier.question and not dossier.intent and not dossier.history


def adopt(dossier: Dossier, token: Secret, policy: Policy, now: datetime) -> Dossier:
    """A new flow that has its token from elsewhere."""
    return _fire(_granted(dossier, token, policy, now), COMMANDS["adopt"].accepted, now)


def _end(dossier: Dossier, failure: Failure, now: datetime) -> Dossier:
    """Ended in failure; but whoever may have set a password is not told that it was not set."""
    known = Failure.OUTCOME_UNKNOWN if _last_step_in_doubt(dossier) else failure
    return _close(_fire(dossier.changed(failure=known), ("abandon",), now), now)


def _close(dossier: Dossier, now: datetime) -> Dossier:
    return dossier.changed(answer=None, token=None, continuation=None, ended_at=now, owed=dossier.listeners)


def heard(dossier: Dossier, names: Iterable[str]) -> Dossier:
    """The ended flow, of which these listeners know."""
    return dossier.changed(owed=tuple(name for name in dossier.owed if name not in set(names)))


def _fire(dossier: Dossier, triggers: Iterable[str], now: datetime) -> Dossier:
    state, history = dossier.state, list(dossier.history)
    for trigger in triggers:
        target = move(state, trigger)
        history.append(Transition(trigger=trigger, source=state, target=target, at=now))
        state = target
    return dossier.changed(state=state, history=tuple(history))

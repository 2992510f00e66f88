"""
The one place that says what an event means for a flow.

`decide` is pure: flow data, an event and a moment come in, and a `Decision` goes out. The engine saves and publishes a
decision; nothing later works out again what happened.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    InputRejected,
    OutcomeInDoubt,
    PasswordRejected,
    Reason,
    ResetFlowError,
    UnknownUser,
)
from reset_flow.domain.flow import Failure, State, Step
from reset_flow.domain.flow_data import BudgetName, FlowData, HeldUse, Intent, Move, Result
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected
from reset_flow.domain.rules import COUNTERS, adopted, step_in_doubt, unsent_code, used_up
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS, EDGE_BY_TRIGGER, Call, expected, move
from reset_flow.domain.times import EPOCH

ERASED_AT = EPOCH
"""When erased flows have ended: before all others, so that a purge can delete them alone."""

RESULTS = 8
"""How many results of commands with an idempotency key a flow remembers."""

GUESSES = {State.REQUESTED: BudgetName.ANSWERS_PER_USER, State.QUESTION_ANSWERED: BudgetName.CODES_PER_USER}
"""The budget of the guess that a flow asks for in a state."""

UNBOUND = frozenset({State.REQUESTED, State.QUESTION_ANSWERED})
"""States in which no code has been taken yet: whoever gives the right one may go on with the flow."""

SENDS_CODE = frozenset(
    trigger
    for command in COMMANDS.values()
    if command.call is Call.REQUEST
    for trigger in (*command.accepted, *command.unknown)
)
"""The triggers after which an e-mail with a code is on its way, or may be."""

USER_JUDGED = frozenset(
    trigger
    for command in COMMANDS.values()
    if command.call in (Call.REQUEST, Call.EXCHANGE)
    for trigger in (*command.accepted, *(command.rejected if command.call is Call.REQUEST else ()))
)
"""The triggers by which the broker has taken a user, or asked for an answer."""

REFUSALS: dict[str, type[InputRejected]] = {
    "answer": AnswerRejected,
    "resend": AnswerRejected,
    "verify": CodeRejected,
    "set_password": PasswordRejected,
    "set_pin": PasswordRejected,
}
"""The error for a command whose input the broker refused."""

NO_TOKEN = "the broker took the code and gave no token that can be used: ask for another code"  # noqa: S105 - words
ANOTHER_CODE = Reason("another_code", "ask for another code: after too many wrong ones none is taken")
NEWEST_COUNTS = Reason("newest_counts", "only the code of the newest e-mail counts")
TOKEN_REFUSED = Reason("token_refused", "it was taken before, and is no longer good for a new password")
CODE_IN_DOUBT = "nobody knows whether the code is spent: type it again, or ask for another one"
CODE_SPENT = "the code may be spent, and its token is lost: ask for another one"
PASSWORD_IN_DOUBT = "nobody knows whether the new password is set: try to log in with it, or set it again"  # noqa: S105
RETURNED_IN_DOUBT = "nobody knows whether the new password is set: try to log in with it, or ask for another code"


# --- events


class Asked(Struct, frozen=True, gc=False):
    """The broker was asked for the question of a new flow. `decoy`: for a user that it refuses, if that is masked."""

    outcome: Accepted | Rejected
    decoy: str = ""


class Adopted(Struct, frozen=True, gc=False):
    """A new flow has its token from elsewhere."""

    token: Secret


class Intended(Struct, frozen=True, gc=False):
    """A command is about to be sent. `key` and `holder` are hashes of its idempotency key and of who gave it."""

    command: str
    secret: Secret | None = None
    key: bytes | None = None
    holder: bytes | None = None


class Held(Struct, frozen=True, gc=False):
    """A code was given that the broker judges only together with the new password. The others as in `Intended`."""

    code: Secret
    key: bytes | None = None
    holder: bytes | None = None


class Repeated(Struct, frozen=True, gc=False):
    """The same call is about to be sent once more. `continuation`: what the first sending brought, if anything."""

    continuation: bytes | None = None


class Concluded(Struct, frozen=True, gc=False):
    """The intended call has an outcome. `key`: of the same command, when it was given again and settled the first."""

    outcome: Outcome
    key: bytes | None = None


class Cancelled(Struct, frozen=True, gc=False):
    """The person gives the flow up."""

    key: bytes | None = None


class Expired(Struct, frozen=True, gc=False):
    """The time of the flow is up."""


class Delivered(Struct, frozen=True, gc=False):
    """These listeners were told of the end."""

    names: frozenset[str]


class Lifted(Struct, frozen=True, gc=False):
    """An operator lifts the budgets of the person: the uses of this flow no longer count. It has no intent."""


class Erased(Struct, frozen=True, gc=False):
    """An operator erases the person: nothing is left of the flow but a record to be purged."""


Event: TypeAlias = (
    Asked | Adopted | Intended | Held | Repeated | Concluded | Cancelled | Expired | Delivered | Lifted | Erased
)


class Moment(Struct, frozen=True, gc=False):
    """When (UTC) and by whom a decision is made. `write_id`: of its save, and the id of every use that it adds."""

    at: datetime
    worker: str
    write_id: bytes


class Decision(Struct, frozen=True, kw_only=True, gc=False):
    """
    What follows from an event.

    Attributes:
        flow: The flow data to save.

        error: What the caller gets instead of the flow.

        add, drop: The uses of budgets to add and to drop with the save.

        optional: The reserve, as one more use to add: it is left out where its budget is full.

        moves: The transitions that were taken, oldest first.

        right_guess: Whether a code that the broker judged was right; `None` where none was judged.
    """

    flow: FlowData
    write_id: bytes
    error: ResetFlowError | None = None
    add: tuple[HeldUse, ...] = ()
    drop: tuple[HeldUse, ...] = ()
    optional: HeldUse | None = None
    moves: tuple[Move, ...] = ()
    right_guess: bool | None = None

    def without_optional(self) -> Decision:
        """Return the same decision without its optional use."""
        return replace(self, flow=replace(self.flow, reserve=None), optional=None)

    @property
    def doubts(self) -> tuple[str, ...]:
        """The triggers by which something became doubtful."""
        triggers = [move.edge.trigger for move in self.moves]
        return tuple([trigger for trigger in triggers if trigger.endswith("in_doubt") or trigger == "code_spent"])


def decide(flow: FlowData, event: Event, moment: Moment) -> Decision:
    """
    Return the decision that follows from an event. Raises ValueError if the machine's table has no such transition: a
    defect of the caller's, never of a broker's.
    """
    change = _Change(flow, moment, len(flow.moves))
    match event:
        case Asked():
            _asked(change, event)
        case Adopted(token=token):
            change.fire("token_adopted", **_granted(change, token))
        case Intended():
            _intended(change, event)
        case Held():
            _held(change, event)
        case Repeated(continuation=continuation):
            assert flow.intent is not None
            change.keep(continuation)
            change.set(intent=replace(flow.intent, sendings=flow.intent.sendings + 1))
        case Concluded(outcome=outcome, key=key):
            _concluded(change, outcome, key)
        case Cancelled() | Expired():
            change.end(Failure.CANCELLED if isinstance(event, Cancelled) else Failure.EXPIRED)
            change.remember("cancel", event.key if isinstance(event, Cancelled) else None)
        case Delivered(names=names):
            change.set(undelivered=tuple(name for name in flow.undelivered if name not in names))
        case Lifted() | Erased():
            change.drop_all()
            change.flow = _erased(flow) if isinstance(event, Erased) else change.flow
    return change.decision()


class _Change(Struct):
    """A decision in the making. `since`: the number of moves before it."""

    flow: FlowData
    moment: Moment
    since: int
    error: ResetFlowError | None = None
    right_guess: bool | None = None
    added: tuple[HeldUse, ...] = ()
    dropped: tuple[HeldUse, ...] = ()
    optional: HeldUse | None = None

    def decision(self) -> Decision:
        if self.flow.intent is None:
            self._keep_reserve()
        return Decision(
            flow=self.flow,
            write_id=self.moment.write_id,
            error=self.error,
            add=self.added,
            drop=self.dropped,
            optional=self.optional,
            moves=self.flow.moves[self.since :],
            right_guess=self.right_guess,
        )

    def set(self, **known: Any) -> None:
        self.flow = replace(self.flow, **known)

    def keep(self, continuation: bytes | None) -> None:
        """Keep what the transport wants back, if it gave any."""
        if continuation is not None:
            self.set(continuation=continuation)

    def fire(self, *triggers: str, reason: Failure | None = None, **known: Any) -> None:
        """Take transitions, which end the intent, and set all that is known with them."""
        if _password_in_doubt(self.flow) and triggers[-1] != "password_accepted":
            known.pop("in_doubt", None)  # nothing else ends it, or may hide it
        state, workers = self.flow.state, self.flow.workers
        if self.moment.worker not in workers:
            workers = (*workers, self.moment.worker)
        worker, taken = workers.index(self.moment.worker), []
        for trigger in triggers:
            state = move(state, trigger)
            taken.append(Move(EDGE_BY_TRIGGER[trigger].letter, self.moment.at, worker, reason))
        if self.flow.holds_code and state is not State.TOKEN_ISSUED:
            self.let_go()
        if state in UNBOUND:
            known["holder"] = None
        if state.ended:
            known |= {"answer": None, "token": None, "continuation": None}
            known |= {"ended_at": self.moment.at, "undelivered": self.flow.listeners}
        self.set(state=state, moves=(*self.flow.moves, *taken), workers=workers, intent=None, **known)

    def end(self, reason: Failure) -> None:
        """Give the flow up; but who may have set a password is not told that it was not set."""
        failure = Failure.OUTCOME_UNKNOWN if _password_in_doubt(self.flow) else reason
        self.fire("abandon", reason=reason, failure=failure)

    def remember(self, command: str, *keys: bytes | None) -> None:
        """Record the result of a command under its idempotency keys."""
        code = self.error.code if self.error else ""
        if isinstance(self.error, OutcomeInDoubt):
            taken = [move.edge.trigger for move in self.flow.moves[self.since :]]
            code = "password_in_doubt" if "password_in_doubt" in taken else taken[-1]
        results = tuple(Result(key=key, command=command, code=code) for key in dict.fromkeys(keys) if key)
        if results:
            self.set(results=(*self.flow.results, *results)[-RESULTS:])

    # --- uses of budgets

    def _new_use(self, budget: BudgetName) -> HeldUse:
        return HeldUse(budget, self.moment.write_id)

    def add_start(self) -> None:
        """Count the start of this flow; where it is counted, once more under the same name, as it may have expired."""
        counted = [use for use in self.flow.uses if use.budget is BudgetName.STARTS_PER_USER]
        if not counted:
            counted = [self._new_use(BudgetName.STARTS_PER_USER)]
            self.set(uses=(*self.flow.uses, *counted))
        self.added += tuple(counted)

    def add_guess(self, budget: BudgetName) -> None:
        """Take the reserve for a guess; where there is none, count one now."""
        if self.flow.reserve is None:
            guess = self._new_use(budget)
            self.added += (guess,)
            self.set(reserve=guess)

    def spend_guess(self, intent: Intent) -> None:
        """Leave the guess of an intent counted, if it was one."""
        if self.flow.reserve is not None and _is_guess(self.flow, intent.command, intent.secret):
            self.set(uses=self.flow.all_uses, reserve=None)

    def drop_start(self, intent: Intent) -> None:
        """Drop the start that was counted for an intent."""
        self.dropped += tuple([use for use in self.flow.uses if use.id == intent.write_id])
        self.set(uses=tuple([use for use in self.flow.uses if use.id != intent.write_id]))

    def let_go(self) -> None:
        """Forget the code that is held. The guess stays counted if it was sent; else it is the reserve that it was."""
        if unsent_code(self.flow):
            self.set(token=None, holds_code=False, **_counted(self.flow, "verify", -1))
        elif self.flow.holds_code:
            self.set(token=None, holds_code=False, uses=self.flow.all_uses, reserve=None)

    def drop_all(self) -> None:
        self.dropped = self.flow.all_uses
        self.set(uses=(), reserve=None)

    def _keep_reserve(self) -> None:
        """Hold a use for the next guess where one may come, and only there. A guess that was right is none."""
        if self.flow.holds_code:
            return  # its own guess is the one
        budget = None if self.flow.unsent else GUESSES.get(self.flow.state)
        if self.flow.reserve is not None and self.flow.reserve.budget is not budget:
            self.dropped += (self.flow.reserve,)
            self.set(reserve=None)
        if budget and self.flow.reserve is None:
            self.optional = self._new_use(budget)
            self.set(reserve=self.optional)


def _erased(flow: FlowData) -> FlowData:
    """Return a flow in the place of this one that holds nothing personal."""
    return FlowData(
        id=flow.id,
        version=flow.version,
        write_id=flow.write_id,
        state=State.FAILED,
        failure=Failure.CANCELLED,
        ended_at=ERASED_AT,
        lookups=flow.lookups,  # the same in every version
        user="",
        credential=flow.credential,
        transport="",
        created_at=ERASED_AT,
        expires_at=ERASED_AT,
        limits=flow.limits,
    )


# --- before a call


def _asked(change: _Change, event: Asked) -> None:
    match event.outcome:
        case Accepted(value=value, continuation=continuation):
            change.set(question=None if value is None else value.reveal(), continuation=continuation)
        case Rejected() if change.flow.limits.mask_unknown_users:
            change.set(question=event.decoy, masked=True)
        case Rejected(reasons=reasons):
            change.error = UnknownUser(*reasons)
    if change.flow.question:  # else the first call follows, whose intent counts the start
        change.add_start()


def _intended(change: _Change, event: Intended) -> None:
    command, moment = event.command, change.moment
    if COMMANDS[command].call is Call.REQUEST and change.flow.state is State.REQUESTED:
        change.add_start()
    if _is_guess(change.flow, command, event.secret):
        change.add_guess(GUESSES[change.flow.state])
    if COMMANDS[command].call is Call.UPDATE and change.flow.holds_code:
        change.add_guess(BudgetName.CODES_PER_USER)
    intent = Intent(
        command=command,
        at=moment.at,
        write_id=moment.write_id,
        secret=event.secret,
        key=event.key,
        holder=event.holder,
    )
    change.set(intent=intent, **_counted(change.flow, command, 1))


def _held(change: _Change, event: Held) -> None:
    """Keep a code until the password comes. Its guess counts from now on."""
    change.let_go()
    change.add_guess(BudgetName.CODES_PER_USER)
    counted = _counted(change.flow, "verify", 1)
    change.fire(*COMMANDS["verify"].held, token=event.code, holds_code=True, holder=event.holder, **counted)
    change.remember("verify", event.key)


def _is_guess(flow: FlowData, command: str, secret: Secret | None) -> bool:
    """Return whether a command has the broker judge an answer or a code. A code that is held is not judged yet."""
    return command == "verify" or (command == "answer" and secret is not None and not _unasked(flow))


def _unasked(flow: FlowData) -> bool:
    """Return whether the broker said that it asks no question, and has neither taken that back nor sent a code."""
    return flow.question == "" and not any(taken.edge.trigger in USER_JUDGED for taken in flow.moves)


def _counted(flow: FlowData, command: str, amount: int) -> dict[str, Any]:
    """Return what changes when so many attempts at a command are added."""
    counter = COUNTERS.get(command)
    return {counter: getattr(flow, counter) + amount} if counter else {}


# --- after a call


def _concluded(change: _Change, outcome: Outcome, key: bytes | None) -> None:
    intent = change.flow.intent
    assert intent is not None
    change.keep(outcome.continuation)
    if isinstance(outcome, NotActed) and intent.sendings == 1:
        _give_back(change, intent, outcome)
        return  # nothing happened, and the command may be tried again with its key
    match outcome:
        case Accepted():
            _accepted(change, intent, outcome)
        case Rejected():
            _rejected(change, intent, outcome)
        case _:
            _unknown(change, intent)
    if intent.command == "verify" and isinstance(outcome, Accepted | Rejected):
        change.right_guess = isinstance(outcome, Accepted)
    if used_up(change.flow):
        change.end(Failure.TOO_MANY_ATTEMPTS)
    change.remember(intent.command, intent.key, key)


def _accepted(change: _Change, intent: Intent, outcome: Accepted) -> None:
    """Move the flow on. The attempt of an accepted guess is given back; that of another code is not."""
    command, known = COMMANDS[intent.command], {"in_doubt": None, **_counted(change.flow, intent.command, -1)}
    match command.call:
        case Call.REQUEST:
            known.pop("resends", None)
            known |= {"answer": intent.secret or change.flow.answer, "sent_at": intent.at, "sent_to": outcome.sent_to}
            change.fire(*command.accepted, **known)
        case Call.EXCHANGE:
            known["holder"] = intent.holder
            if outcome.value:
                change.fire(*command.accepted, answer=None, **known, **_granted(change, outcome.value))
            else:
                change.fire(*command.accepted[:1], **known | {"in_doubt": Step.CODE})
                change.error = OutcomeInDoubt(NO_TOKEN)
        case Call.UPDATE:
            if change.flow.holds_code:
                change.set(holds_code=False)
                change.right_guess = True
            change.fire(*command.accepted, in_doubt=None)


def _granted(change: _Change, token: Secret) -> dict[str, Any]:
    """Return what changes with a token: the flow lives no longer than the token may be used."""
    expires_at = change.flow.expires_at
    if change.flow.limits.token_lifetime:
        expires_at = min(expires_at, change.moment.at + change.flow.limits.token_lifetime)
    return {"token": token, "expires_at": expires_at}


def _give_back(change: _Change, intent: Intent, outcome: NotActed) -> None:
    """Leave the flow as it was, with the guess in reserve again; a start that was throttled stays counted."""
    known = _counted(change.flow, intent.command, -1)
    if outcome.cause is not Cause.THROTTLED:
        change.drop_start(intent)
    change.set(intent=None, **known)
    change.error = not_acted(outcome)


def _rejected(change: _Change, intent: Intent, outcome: Rejected) -> None:
    change.spend_guess(intent)
    flow, command, triggers = change.flow, intent.command, COMMANDS[intent.command].rejected
    if COMMANDS[command].call is Call.REQUEST and _unasked(flow):
        # The first word of the broker on this user: a start that was given back goes on with an answer, and one whose
        # outcome is unknown with another code.
        if flow.limits.mask_unknown_users:
            change.fire(*COMMANDS[command].accepted, masked=True, sent_at=intent.at, in_doubt=None)
        else:
            change.end(Failure.BROKER_REFUSED)  # no question, and yet a refusal: nothing is left to ask for
            change.error = UnknownUser(*outcome.reasons)
    elif command == "start":
        change.fire(*triggers)  # the broker wants an answer
    elif command == "verify" and intent.sendings > 1:
        given_back = {} if flow.compensated else _counted(flow, "verify", -1)
        change.fire("code_spent", in_doubt=Step.CODE, compensated=True, **given_back)
        change.error = OutcomeInDoubt(CODE_SPENT)
    elif COMMANDS[command].call is Call.UPDATE and outcome.about is Step.CODE:
        _returned(change, intent, outcome)
    elif leaves_password_in_doubt(flow, outcome):
        # The broker may have refused the token that an earlier sending spent, or the password: nobody can know.
        _unknown(change, intent)
    else:
        if command == "resend":
            # The answer that the broker once took is wrong by now. The table leads back from a verified code only over
            # the code being spent: a person who asks for another code has given it up.
            road = ("code_spent", *triggers) if flow.state is State.CODE_VERIFIED else triggers
            change.fire(*road, answer=None, in_doubt=None)
        else:
            change.fire(*triggers)
        mute = flow.limits.mask_unknown_users and COMMANDS[command].call is not Call.UPDATE
        change.error = REFUSALS[command](*_said(flow, outcome, mute=mute, code=command == "verify"))


def _said(flow: FlowData, outcome: Rejected, *, mute: bool, code: bool) -> tuple[Reason | str, ...]:
    """
    Return the reasons of a refusal. The broker's own for a wrong answer or code might tell who is known to it; what the
    person needs is said in words of ours, by what any flow can count.
    """
    said = () if mute else outcome.reasons
    if not code:
        return said
    sent, wrong_before = 0, False
    for taken in flow.moves:
        if taken.edge.trigger in SENDS_CODE:
            sent, wrong_before = sent + 1, False
        elif taken.edge.trigger == "code_refused":
            wrong_before = True
    is_said = any(getattr(each, "code", None) == ANOTHER_CODE.code for each in said)
    another = (ANOTHER_CODE,) if wrong_before and not is_said else ()
    return (*said, *another, *((NEWEST_COUNTS,) if sent > 1 else ()))


def _returned(change: _Change, intent: Intent, outcome: Rejected) -> None:
    """Go back for another code: the broker refused the one that was held, or the token, and not the password."""
    flow, held, doubt = change.flow, change.flow.holds_code, leaves_password_in_doubt(change.flow, outcome)
    if doubt:  # it is also what a success of an earlier sending produces
        _unknown(change, intent)
        change.error = OutcomeInDoubt(PASSWORD_IN_DOUBT if adopted(flow) else RETURNED_IN_DOUBT)
    else:
        change.error = CodeRejected(
            *_said(flow, outcome, mute=held and flow.limits.mask_unknown_users, code=held),
            *(() if held else (TOKEN_REFUSED,)),
        )
    if adopted(flow):
        change.end(Failure.BROKER_REFUSED)
        return
    known: dict[str, Any] = {"token": None, "expires_at": flow.latest_end}
    if not doubt:  # the attempt was one at the code, and none at the password
        known |= _counted(flow, intent.command, -1) | ({} if held else _counted(flow, "verify", 1))
        change.right_guess = False if held else None
    of_code, of_token = COMMANDS[intent.command].returned
    change.fire(of_code if held else of_token, **known)


def _unknown(change: _Change, intent: Intent) -> None:
    change.spend_guess(intent)
    command, known = COMMANDS[intent.command], dict[str, Any](in_doubt=step_in_doubt(change.flow, intent))
    if command.call is Call.REQUEST:
        known |= {"answer": intent.secret or change.flow.answer, "sent_at": intent.at}
    else:
        change.error = OutcomeInDoubt(CODE_IN_DOUBT if command.call is Call.EXCHANGE else PASSWORD_IN_DOUBT)
    change.fire(*command.unknown, **known)


def _password_in_doubt(flow: FlowData) -> bool:
    return flow.in_doubt is flow.credential.step


def leaves_password_in_doubt(flow: FlowData, outcome: Outcome) -> bool:
    """Return whether this outcome of an update says neither that the password is set nor that it is not."""
    intent = flow.intent
    assert intent is not None
    if COMMANDS[intent.command].call is not Call.UPDATE or isinstance(outcome, Accepted):
        return False
    return intent.sendings > 1 or (_password_in_doubt(flow) and not isinstance(outcome, NotActed))


# --- errors


def not_acted(outcome: NotActed) -> ResetFlowError:
    """Return the error for a call that certainly did nothing."""
    match outcome.cause:
        case Cause.FORBIDDEN:
            return AppKeyRejected(
                "the broker refuses our credentials or settings, and nothing happened: check the app key or client id"
            )
        case Cause.PROTOCOL:
            return BrokerProtocolError(f"the broker's reply is none that is known of it: {outcome.detail}")
        case _:
            return BrokerUnavailable(outcome.detail, outcome.retry_after)


def recorded(flow: FlowData, result: Result) -> ResetFlowError:
    """Return the error that a command once raised, with what comes now; the broker's words are not kept."""
    now = _what_comes(flow)
    refusals: tuple[type[InputRejected], ...] = (*REFUSALS.values(), UnknownUser)
    if refusal := next((error for error in refusals if error.code == result.code), None):
        return refusal(Reason("repeated", f"this was tried before, under the same key; {now}"))
    if _password_in_doubt(flow):
        return OutcomeInDoubt(f"nobody knows whether the new password is set: try to log in with it; {now}")
    if flow.in_doubt is Step.CODE:
        return OutcomeInDoubt(f"the code may be spent, and its token is lost: {now}")
    return OutcomeInDoubt(f"this was tried before, under the same key, and its doubt no longer counts: {now}")


def _what_comes(flow: FlowData) -> str:
    """Return what a person does next, as a clause."""
    if flow.state.ended:
        return "the reset is done" if flow.state is State.PASSWORD_SET else "the reset has ended, start another one"
    if flow.in_doubt is Step.CODE or flow.state is State.CODE_VERIFIED:
        return "ask for another code"
    return f"the reset now expects the {expected(flow.state, flow.credential)}"

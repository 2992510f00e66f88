"""What each event means for a flow: tables of flow, event and expected decision, and random histories."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from reset_flow import Policy
from reset_flow.domain import rules
from reset_flow.domain.decide import (
    ERASED_AT,
    Adopted,
    Asked,
    Cancelled,
    Concluded,
    Decision,
    Delivered,
    Erased,
    Event,
    Expired,
    Held,
    Intended,
    Lifted,
    Moment,
    Repeated,
    decide,
    leaves_password_in_doubt,
    recorded,
)
from reset_flow.domain.errors import (
    AnswerRejected,
    AppKeyRejected,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    FlowEnded,
    IllegalCommand,
    InputRejected,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    Reason,
    ResetFlowError,
    UnknownUser,
)
from reset_flow.domain.flow import Credential, Failure, State, Step
from reset_flow.domain.flow_data import BudgetName, FlowData, HeldUse, Result
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS, EDGES, Call

START = datetime(2030, 1, 1, tzinfo=UTC)
STEPS = {(edge.trigger, source, edge.target) for edge in EDGES for source in edge.sources}
CODES, ANSWERS, STARTS = BudgetName.CODES_PER_USER, BudgetName.ANSWERS_PER_USER, BudgetName.STARTS_PER_USER
TOKEN, ANSWER, CODE = Secret("a token"), Secret("Peterson"), Secret("004158")
GIVEN = {"answer": ANSWER, "verify": CODE}
NO = Rejected(reasons=["no, says the broker"])
NO_CODE = Rejected(reasons=["no such code, says the broker"], about=Step.CODE)


class Scene:
    """A flow that events happen to; each decision is taken as saved."""

    def __init__(self, policy: Policy | None = None, **known: object) -> None:
        self.policy = policy or Policy()
        self.now = START
        self.saves = 0
        draft = FlowData(
            id="a",
            user="robert.zak",
            credential=Credential.PASSWORD,
            transport="t",
            created_at=START,
            expires_at=START + timedelta(hours=1),
            limits=self.policy.limits,
            user_key=b"u" * 15,
            origin_key=b"o" * 15,
            listeners=("crm",),
        )
        self.flow = replace(draft, **known)
        self.uses: set[HeldUse] = set()  # as a store would have them

    def moment(self) -> Moment:
        self.saves += 1
        return Moment(self.now, "worker", self.saves.to_bytes(8, "big"))

    def happens(self, event: Event) -> Decision:
        decision = decide(self.flow, event, self.moment())
        self.uses -= set(decision.drop)
        self.uses |= {*decision.add, *([decision.optional] if decision.optional else [])}
        self.flow = replace(decision.flow, version=decision.flow.version + 1)
        return decision

    def sends(self, command: str, outcome: Outcome, *, times: int = 1) -> Decision:
        """Give a command with this outcome of its last sending."""
        self.happens(Intended(command, GIVEN.get(command)))
        for _ in range(times - 1):
            self.happens(Repeated())
        return self.happens(Concluded(outcome))

    def holds(self, state: State = State.TOKEN_ISSUED, code: Secret = CODE) -> Scene:
        """Reach the state at a broker that judges the code only together with the password."""
        self.reaches(State.REQUESTED if state is State.REQUESTED else State.QUESTION_ANSWERED)
        if state is State.TOKEN_ISSUED:
            self.happens(Held(code))
        assert self.flow.state is state
        return self

    def reaches(self, state: State) -> Scene:
        """Reach the state, by a reset in which nothing goes wrong."""
        self.happens(Asked(Accepted(value=Secret("Pet?"))))
        if state is not State.REQUESTED:
            self.sends("answer", Accepted())
        if state is State.CODE_VERIFIED:
            self.sends("verify", Accepted())
        if state in (State.TOKEN_ISSUED, State.PASSWORD_SET):
            self.sends("verify", Accepted(value=TOKEN))
        if state is State.PASSWORD_SET:
            self.sends("set_password", Accepted())
        if state is State.FAILED:
            self.happens(Cancelled())
        assert self.flow.state is state
        return self


def triggers(decision: Decision) -> list[str]:
    return [move.edge.trigger for move in decision.moves]


def budgets(uses: tuple[HeldUse, ...]) -> list[BudgetName]:
    return [use.budget for use in uses]


# --- making a flow


def test_a_flow_with_a_question_is_kept_and_its_start_is_counted() -> None:
    scene = Scene()
    decision = scene.happens(Asked(Accepted(value=Secret("Pet?"), continuation=b"c")))
    assert (decision.flow.question, decision.flow.continuation) == ("Pet?", b"c")
    assert (decision.flow.state, decision.moves, decision.error) == (State.REQUESTED, (), None)
    assert budgets(decision.add) == [STARTS]


@pytest.mark.parametrize("value", [None, Secret("")])
def test_a_flow_without_a_question_counts_its_start_with_the_first_call(value: Secret | None) -> None:
    scene = Scene()
    assert scene.happens(Asked(Accepted(value=value))).add == ()
    assert scene.flow.unsent
    assert budgets(scene.happens(Intended("start")).add) == [STARTS]


def test_a_start_counts_for_the_user_and_the_origin_and_without_an_origin_for_the_user_alone() -> None:
    for origin, expected in (
        (b"o" * 15, [(STARTS, b"u" * 15 + b"s"), (BudgetName.STARTS_PER_ORIGIN, b"o" * 15 + b"o")]),
        (None, [(STARTS, b"u" * 15 + b"s")]),
    ):
        scene = Scene(origin_key=origin)
        (start,) = scene.happens(Asked(Accepted(value=Secret("Pet?")))).add
        assert scene.flow.budget_keys(start) == expected


def test_a_code_counts_for_the_user_and_the_origin_and_an_answer_for_the_user() -> None:
    scene = Scene().reaches(State.REQUESTED)
    answer = scene.happens(Intended("answer", ANSWER)).flow.reserve
    assert answer is not None
    assert scene.flow.budget_keys(answer) == [(ANSWERS, b"u" * 15 + b"a")]
    scene.happens(Concluded(Accepted()))
    code = scene.happens(Intended("verify", CODE)).flow.reserve
    assert code is not None
    of_origin = (BudgetName.CODES_PER_ORIGIN, b"o" * 15 + b"d")
    assert scene.flow.budget_keys(code) == [(CODES, b"u" * 15 + b"c"), of_origin]


def texts(error: InputRejected) -> tuple[str, ...]:
    """Return the reasons of an error, none of which is the library's own."""
    assert all(reason.code is None for reason in error.reasons)
    return tuple(map(str, error.reasons))


def test_a_refused_user_is_masked_or_told() -> None:
    masked = Scene().happens(Asked(NO, decoy="Street?"))
    assert (masked.error, masked.flow.masked, masked.flow.question) == (None, True, "Street?")
    told = Scene(Policy(mask_unknown_users=False)).happens(Asked(NO, decoy="Street?"))
    assert isinstance(told.error, UnknownUser)
    assert texts(told.error) == NO.reasons


def test_an_adopted_token_may_be_used_no_longer_than_tokens_live() -> None:
    scene = Scene(Policy(token_lifetime=timedelta(minutes=5)))
    decision = scene.happens(Adopted(TOKEN))
    assert (triggers(decision), decision.flow.token, decision.add) == (["token_adopted"], TOKEN, ())
    assert decision.flow.expires_at == START + timedelta(minutes=5)
    assert rules.adopted(scene.flow)
    assert not rules.adopted(Scene().reaches(State.TOKEN_ISSUED).flow)


# --- commands and outcomes: (state, command, outcome, sendings) -> triggers, error, doubt

Row = tuple[State, str, Outcome, int, list[str], type[ResetFlowError] | None, Step | None]
ROWS: list[Row] = [
    (State.REQUESTED, "answer", Accepted(), 1, ["answer_accepted"], None, None),
    (State.REQUESTED, "answer", NO, 1, ["answer_refused"], AnswerRejected, None),
    (State.REQUESTED, "answer", Unknown(), 1, ["answer_in_doubt"], None, Step.ANSWER),
    (State.REQUESTED, "answer", NotActed(), 1, [], BrokerUnavailable, None),
    (State.QUESTION_ANSWERED, "resend", Accepted(), 1, ["code_sent"], None, None),
    (State.QUESTION_ANSWERED, "resend", NO, 1, ["answer_refused"], AnswerRejected, None),
    (State.QUESTION_ANSWERED, "resend", Unknown(), 1, ["resend_in_doubt"], None, Step.ANSWER),
    (State.CODE_VERIFIED, "resend", Accepted(), 1, ["code_sent"], None, None),
    (State.CODE_VERIFIED, "resend", NO, 1, ["code_spent", "answer_refused"], AnswerRejected, None),
    (State.QUESTION_ANSWERED, "verify", Accepted(value=TOKEN), 1, ["code_accepted", "token_granted"], None, None),
    (State.QUESTION_ANSWERED, "verify", Accepted(value=TOKEN), 2, ["code_accepted", "token_granted"], None, None),
    (State.QUESTION_ANSWERED, "verify", Accepted(), 1, ["code_accepted"], OutcomeInDoubt, Step.CODE),
    (State.QUESTION_ANSWERED, "verify", NO, 1, ["code_refused"], CodeRejected, None),
    (State.QUESTION_ANSWERED, "verify", NO, 2, ["code_spent"], OutcomeInDoubt, Step.CODE),
    (State.QUESTION_ANSWERED, "verify", Unknown(), 2, ["code_in_doubt"], OutcomeInDoubt, Step.CODE),
    (State.QUESTION_ANSWERED, "verify", NotActed(), 2, ["code_in_doubt"], OutcomeInDoubt, Step.CODE),
    (State.QUESTION_ANSWERED, "verify", NotActed(), 1, [], BrokerUnavailable, None),
    (State.TOKEN_ISSUED, "set_password", Accepted(), 1, ["password_accepted"], None, None),
    (State.TOKEN_ISSUED, "set_password", NO, 1, ["password_refused"], PasswordRejected, None),
    (State.TOKEN_ISSUED, "set_password", NO, 2, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD),
    (State.TOKEN_ISSUED, "set_password", Unknown(), 2, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD),
    (State.TOKEN_ISSUED, "set_password", NotActed(cause=Cause.PROTOCOL), 1, [], BrokerProtocolError, None),
    (State.TOKEN_ISSUED, "set_password", NotActed(cause=Cause.FORBIDDEN), 1, [], AppKeyRejected, None),
]


# Of a code that is held: (password in doubt before, outcome, sendings) -> triggers, error, doubt, right guess

HELD_ROWS: list[tuple[bool, Outcome, int, list[str], type[ResetFlowError] | None, Step | None, bool | None]] = [
    (False, Accepted(), 1, ["password_accepted"], None, None, True),
    (False, NO_CODE, 1, ["code_refused"], CodeRejected, None, False),
    (False, NO, 1, ["password_refused"], PasswordRejected, None, None),
    (False, Unknown(), 2, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD, None),
    (False, NotActed(), 1, [], BrokerUnavailable, None, None),
    (False, NotActed(), 2, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD, None),
    (False, NO_CODE, 2, ["password_in_doubt", "code_refused"], OutcomeInDoubt, Step.PASSWORD, None),
    (False, NO, 2, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD, None),
    (True, Accepted(), 1, ["password_accepted"], None, None, True),
    (True, NO_CODE, 1, ["password_in_doubt", "code_refused"], OutcomeInDoubt, Step.PASSWORD, None),
    (True, NO, 1, ["password_in_doubt"], OutcomeInDoubt, Step.PASSWORD, None),
    (True, NotActed(), 1, [], BrokerUnavailable, Step.PASSWORD, None),
]


@pytest.mark.parametrize("row", HELD_ROWS, ids=lambda row: f"{row[3]} {row[2]} {'in doubt' if row[0] else ''}")
def test_a_held_code_is_judged_together_with_the_password(
    row: tuple[bool, Outcome, int, list[str], type[ResetFlowError] | None, Step | None, bool | None],
) -> None:
    in_doubt, outcome, sendings, expected, error, doubt, right = row
    scene = Scene().holds()
    if in_doubt:
        scene.sends("set_password", Unknown(), times=2)
    decision = scene.sends("set_password", outcome, times=sendings)
    assert triggers(decision) == expected
    assert type(decision.error) is (error or type(None))
    assert (decision.flow.in_doubt, decision.right_guess) == (doubt, right)
    stays = decision.flow.state is State.TOKEN_ISSUED
    assert (decision.flow.token, decision.flow.holds_code) == ((CODE, True) if stays else (None, False))
    next_one = scene.flow.state is State.QUESTION_ANSWERED
    guesses = Counter(budgets(scene.flow.all_uses))[CODES] - next_one
    assert guesses == (0 if right else 1), "charged until it is judged right"


# Of a token: (password in doubt before, adopted, sendings) -> triggers, error, doubt, failure

TOKEN_ROWS: list[tuple[bool, bool, int, list[str], type[ResetFlowError], Step | None, Failure | None]] = [
    (False, False, 1, ["token_refused"], CodeRejected, None, None),
    (False, False, 2, ["password_in_doubt", "token_refused"], OutcomeInDoubt, Step.PASSWORD, None),
    (True, False, 1, ["password_in_doubt", "token_refused"], OutcomeInDoubt, Step.PASSWORD, None),
    (False, True, 1, ["abandon"], CodeRejected, None, Failure.BROKER_REFUSED),
    (False, True, 2, ["password_in_doubt", "abandon"], OutcomeInDoubt, Step.PASSWORD, Failure.OUTCOME_UNKNOWN),
    (True, True, 1, ["password_in_doubt", "abandon"], OutcomeInDoubt, Step.PASSWORD, Failure.OUTCOME_UNKNOWN),
]


@pytest.mark.parametrize("row", TOKEN_ROWS, ids=lambda row: f"{row[3]} {row[2]} {'in doubt' if row[0] else ''}")
def test_a_token_that_is_refused_asks_for_another_code_or_ends_an_adopted_flow(
    row: tuple[bool, bool, int, list[str], type[ResetFlowError], Step | None, Failure | None],
) -> None:
    in_doubt, adopts, sendings, expected, error, doubt, failure = row
    policy = Policy(token_lifetime=timedelta(minutes=5))
    scene = Scene(policy)
    if adopts:
        scene.happens(Adopted(TOKEN))
    else:
        scene.reaches(State.TOKEN_ISSUED)
    if in_doubt:
        scene.sends("set_password", Unknown(), times=2)
    decision = scene.sends("set_password", NO_CODE, times=sendings)
    flow = decision.flow
    assert (triggers(decision), type(decision.error)) == (expected, error)
    assert (flow.in_doubt, flow.failure, flow.token, decision.right_guess) == (doubt, failure, None, None)
    if not adopts:
        assert flow.state is State.QUESTION_ANSWERED
        assert flow.expires_at == START + policy.flow_lifetime, "the token's lifetime no longer bounds the flow"
        assert flow.passwords == (2 if in_doubt else 1 if sendings > 1 else 0)


def test_a_code_that_is_held_takes_the_reserve_for_all_its_sendings() -> None:
    scene = Scene().holds(State.QUESTION_ANSWERED)
    reserved = scene.flow.reserve
    assert reserved is not None
    held = scene.happens(Held(CODE, b"1" * 16))
    assert (triggers(held), held.error, held.right_guess, held.flow.codes) == (["code_held"], None, None, 1)
    assert (held.flow.token, held.flow.holds_code, held.flow.reserve) == (CODE, True, reserved)
    assert (held.drop, held.add, held.optional) == ((), (), None)
    result = rules.recall(scene.flow, b"1" * 16)
    assert result is not None
    assert (result.command, result.code) == ("verify", "")
    for outcome in (NotActed(), NO, Unknown(), Unknown()):
        sent = scene.happens(Intended("set_password"))
        assert (sent.drop, sent.add) == ((), ())
        assert scene.happens(Concluded(outcome)).drop == ()
        assert scene.flow.reserve == reserved
    wrong = scene.sends("set_password", NO_CODE)
    assert (wrong.drop, budgets(wrong.flow.uses)) == ((), [STARTS, CODES])
    assert (wrong.flow.uses[-1], wrong.optional) == (reserved, wrong.flow.reserve)


@pytest.mark.parametrize("how", ["typed", "held", "sent"])
def test_a_code_that_finds_no_reserve_is_counted_before_anything_is_sent(how: str) -> None:
    scene = Scene().holds(State.QUESTION_ANSWERED)
    if how == "sent":
        scene.happens(Held(CODE))
    scene.flow = scene.happens(Lifted()).without_optional().flow
    events: dict[str, Event] = {"typed": Intended("verify", CODE), "held": Held(CODE), "sent": Intended("set_password")}
    counted = scene.happens(events[how])
    assert (budgets(counted.add), counted.drop, counted.optional) == ([CODES], (), None)
    assert counted.add == (HeldUse(CODES, counted.write_id),) == (counted.flow.reserve,)


@pytest.mark.parametrize(
    "sent", [None, NotActed(), NO, Unknown()], ids=lambda sent: type(sent).__name__ if sent else "never sent"
)
@pytest.mark.parametrize("end", ["cancel", "expire", "verify", "resend", "resend, unknown", "resend, refused"])
def test_a_held_code_that_was_never_sent_is_given_back_wherever_it_goes(end: str, sent: Outcome | None) -> None:
    scene = Scene().holds()
    if sent:
        scene.sends("set_password", sent)
    first = scene.flow.reserve
    match end:
        case "cancel":
            scene.happens(Cancelled())
        case "expire":
            scene.happens(Expired())
        case "verify":
            assert triggers(scene.happens(Held(Secret("004159")))) == ["code_held"]
        case _:
            outcomes: dict[str, Outcome] = {"resend": Accepted(), "resend, unknown": Unknown(), "resend, refused": NO}
            outcome = outcomes[end]
            command = COMMANDS["resend"]
            fired = {Accepted: command.accepted, Unknown: command.unknown, Rejected: command.rejected}[type(outcome)]
            assert triggers(scene.sends("resend", outcome)) == list(fired)
    arrived = isinstance(sent, Rejected | Unknown)
    assert (first in scene.flow.uses) == (first in scene.uses and first != scene.flow.reserve) == arrived
    assert scene.flow.codes == (1 if arrived else 0) + (1 if end == "verify" else 0)
    assert (scene.flow.token, scene.flow.holds_code) == ((Secret("004159"), True) if end == "verify" else (None, False))


def test_a_resend_that_certainly_did_nothing_leaves_the_held_code() -> None:
    scene = Scene().holds()
    before = scene.flow
    scene.sends("resend", NotActed())
    assert (scene.flow.token, scene.flow.holds_code, scene.flow.all_uses) == (before.token, True, before.all_uses)


def test_no_later_code_clears_a_doubt_about_the_password() -> None:
    for provider in ("holds", "reaches"):
        scene = Scene(Policy(resend_cooldown=timedelta(0)))
        getattr(scene, provider)(State.TOKEN_ISSUED)
        scene.sends("set_password", NO_CODE, times=2)
        for outcome in (Accepted(), Unknown(), NO):
            scene.sends("resend", outcome)
            assert scene.flow.in_doubt is Step.PASSWORD
        scene.sends("answer", Accepted())
        for outcome in (NO, Accepted()):
            scene.sends("verify", outcome)
            assert scene.flow.in_doubt is Step.PASSWORD
        other = Scene()
        other.flow = scene.flow
        assert other.happens(Cancelled()).flow.failure is Failure.OUTCOME_UNKNOWN
        scene.sends("resend", Accepted())
        scene.happens(Held(CODE))
        assert rules.view(scene.flow).in_doubt is Step.PASSWORD
        scene.happens(Intended("resend"))
        assert rules.view(scene.flow).in_doubt is Step.PASSWORD, "a call under way hides it no more"
        scene.happens(Concluded(NotActed()))
        done = scene.sends("set_password", Accepted()).flow
        assert (done.state, done.in_doubt) == (State.PASSWORD_SET, None)


def test_a_doubt_about_the_password_that_used_up_the_attempts_ends_the_flow() -> None:
    scene = Scene(Policy(password_attempts=1)).holds()
    ended = scene.sends("set_password", NO_CODE, times=2)
    assert triggers(ended) == ["password_in_doubt", "code_refused", "abandon"]
    assert ended.flow.failure is Failure.OUTCOME_UNKNOWN


def test_wrong_held_codes_end_a_flow_and_no_password_is_counted_with_them() -> None:
    scene = Scene(Policy(code_attempts=2, password_attempts=1)).holds()
    assert scene.sends("set_password", NO_CODE).flow.passwords == 0
    scene.happens(Held(CODE))
    ended = scene.sends("set_password", NO_CODE)
    assert triggers(ended) == ["code_refused", "abandon"]
    assert ended.flow.failure is Failure.TOO_MANY_ATTEMPTS


def test_a_held_code_may_be_exchanged_while_attempts_at_codes_are_left() -> None:
    scene = Scene(Policy(code_attempts=1)).holds()
    assert rules.view(scene.flow).allowed == ("cancel", "resend", "set_password", "verify")
    assert rules.view(scene.flow).resend_at is not None
    scene.sends("set_password", NO)  # the broker looked at the password first
    view = rules.view(scene.flow)
    assert (view.allowed, view.resend_at) == (("cancel", "set_password"), None)
    with pytest.raises(IllegalCommand):
        rules.admit(scene.flow, "verify", START)
    assert "verify" not in rules.view(Scene().reaches(State.TOKEN_ISSUED).flow).allowed, "a token is kept"


def test_the_result_of_a_password_in_doubt_is_not_final_once_another_code_is_held() -> None:
    scene = Scene().holds()
    scene.happens(Intended("set_password", None, b"1" * 16))
    scene.happens(Repeated())
    scene.happens(Concluded(NO_CODE))
    result = rules.recall(scene.flow, b"1" * 16)
    assert result is not None
    assert result.code == "password_in_doubt"
    assert rules.is_final(scene.flow, result), "no password may come now"
    scene.happens(Held(CODE))
    assert not rules.is_final(scene.flow, result)


@pytest.mark.parametrize("masks", [True, False])
def test_the_brokers_words_for_a_held_code_are_muted_like_those_for_any_other(masks: bool) -> None:  # noqa: FBT001
    error = Scene(Policy(mask_unknown_users=masks)).holds().sends("set_password", NO_CODE).error
    assert isinstance(error, CodeRejected)
    assert texts(error) == (() if masks else NO_CODE.reasons)
    scene = Scene(Policy(mask_unknown_users=masks)).holds()
    scene.sends("resend", Accepted())
    scene.happens(Held(CODE))
    error = scene.sends("set_password", NO_CODE).error
    assert isinstance(error, CodeRejected)
    assert error.reasons[-1].code == "newest_counts"


def test_after_a_second_wrong_code_the_person_is_told_to_ask_for_another_in_words_of_ours() -> None:
    scene = Scene(Policy(resend_cooldown=timedelta(0))).reaches(State.QUESTION_ANSWERED)
    said = []
    for command, outcome in (("verify", NO), ("verify", NO), ("resend", Accepted()), ("verify", NO), ("verify", NO)):
        error = scene.sends(command, outcome).error
        if isinstance(error, CodeRejected):
            said.append([reason.code for reason in error.reasons])
    assert said == [[], ["another_code"], ["newest_counts"], ["another_code", "newest_counts"]]


def test_the_person_is_told_once_to_ask_for_another_code_whoever_says_it() -> None:
    scene = Scene(Policy(mask_unknown_users=False)).reaches(State.QUESTION_ANSWERED)
    spent = Reason("another_code", "it was tried too often: ask for another code")
    scene.sends("verify", NO)
    error = scene.sends("verify", Rejected(reasons=[spent])).error
    assert isinstance(error, CodeRejected)
    assert error.reasons == (spent,)


@pytest.mark.parametrize("masks", [True, False])
def test_a_reason_with_a_code_comes_through_where_the_brokers_words_do(masks: bool) -> None:  # noqa: FBT001
    reason = Reason("another_code", "too many attempts:\nask for another code")
    error = (
        Scene(Policy(mask_unknown_users=masks))
        .holds()
        .sends("set_password", Rejected(reasons=[reason], about=Step.CODE))
        .error
    )
    assert isinstance(error, CodeRejected)
    assert error.reasons == (() if masks else (Reason("another_code", "too many attempts: ask for another code"),))


# --- what a transport wants kept, and what it tells


@pytest.mark.parametrize(
    "outcome",
    [Accepted(continuation=b"c"), Rejected(continuation=b"c"), NotActed(continuation=b"c"), Unknown(continuation=b"c")],
    ids=lambda outcome: type(outcome).__name__,
)
@pytest.mark.parametrize("state", [State.REQUESTED, State.QUESTION_ANSWERED, State.TOKEN_ISSUED])
def test_every_outcome_may_bring_a_continuation(state: State, outcome: Outcome) -> None:
    scene = Scene().reaches(state)
    command = {State.REQUESTED: "answer", State.QUESTION_ANSWERED: "verify"}.get(state, "set_password")
    scene.sends(command, outcome)
    assert scene.flow.continuation == (None if scene.flow.state.ended else b"c")


def test_the_second_sending_takes_what_the_first_one_brought() -> None:
    scene = Scene().reaches(State.QUESTION_ANSWERED)
    scene.happens(Intended("verify", CODE))
    assert scene.happens(Repeated(b"1")).flow.continuation == b"1"
    assert scene.happens(Concluded(Unknown())).flow.continuation == b"1"


def test_where_the_newest_code_went_is_kept_as_the_broker_says_it() -> None:
    scene = Scene().reaches(State.REQUESTED)
    assert scene.sends("answer", Accepted(sent_to="r***@e***")).flow.sent_to == "r***@e***"
    assert rules.view(scene.flow).public()["sent_to"] == "r***@e***"
    assert "r***" not in repr(rules.view(scene.flow)) + repr(scene.flow)
    assert scene.sends("resend", Unknown()).flow.sent_to == "r***@e***"
    assert scene.sends("resend", Accepted()).flow.sent_to is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]}, {type(row[2]).__name__}, {row[3]} in {row[0]}")
def test_an_outcome_means_what_the_table_says(row: Row) -> None:
    state, command, outcome, sendings, expected, error, doubt = row
    scene = Scene().reaches(state)
    decision = scene.sends(command, outcome, times=sendings)
    assert triggers(decision) == expected
    assert type(decision.error) is (error or type(None))
    assert decision.flow.in_doubt is (scene.flow.in_doubt if not expected else doubt)
    assert decision.flow.intent is None
    assert list(decision.doubts) == [trigger for trigger in expected if "doubt" in trigger or "spent" in trigger]


def test_the_first_call_of_a_flow_without_a_question() -> None:
    for outcome, question, expected, error in (
        (Accepted(), "", ["question_waived"], None),
        (Unknown(), "", ["answer_in_doubt"], None),
        (NO, None, ["answer_refused"], None),  # the broker wants an answer, and says so only now
        (NO, "", ["question_waived"], None),  # masked
    ):
        scene = Scene(question=question)
        decision = scene.sends("start", outcome)
        assert (triggers(decision), decision.error) == (expected, error)
        assert decision.flow.masked == (expected == ["question_waived"] and outcome is NO)
    told = Scene(Policy(mask_unknown_users=False), question="").sends("start", NO)
    assert (triggers(told), told.flow.failure) == (["abandon"], Failure.BROKER_REFUSED)
    assert isinstance(told.error, UnknownUser)


@pytest.mark.parametrize("masks", [True, False])
def test_a_user_whom_the_broker_once_took_is_not_unknown_when_it_wants_an_answer_after_all(masks: bool) -> None:  # noqa: FBT001
    scene = Scene(Policy(mask_unknown_users=masks), question="")
    scene.sends("start", Accepted())
    assert triggers(scene.sends("resend", NO)) == ["answer_refused"]
    decision = scene.sends("answer", NO)
    assert (triggers(decision), decision.flow.masked) == (["answer_refused"], False)
    assert isinstance(decision.error, AnswerRejected)


@pytest.mark.parametrize(("command", "state"), [("answer", State.REQUESTED), ("verify", State.QUESTION_ANSWERED)])
def test_the_brokers_words_are_muted_only_while_unknown_users_are_masked(command: str, state: State) -> None:
    for mask, reasons in ((True, ()), (False, NO.reasons)):
        error = Scene(Policy(mask_unknown_users=mask)).reaches(state).sends(command, NO).error
        assert isinstance(error, AnswerRejected | CodeRejected)
        assert texts(error) == reasons
    refused = Scene().reaches(State.TOKEN_ISSUED).sends("set_password", NO).error
    assert isinstance(refused, PasswordRejected)
    assert texts(refused) == NO.reasons  # a token is no stranger's


def test_a_call_that_certainly_did_nothing_leaves_the_flow_as_it_was() -> None:
    for state, command in (
        (State.REQUESTED, "answer"),
        (State.QUESTION_ANSWERED, "resend"),
        (State.QUESTION_ANSWERED, "verify"),
        (State.TOKEN_ISSUED, "set_password"),
    ):
        scene = Scene().reaches(state)
        before, used = scene.flow, len(scene.uses)
        scene.sends(command, NotActed())
        same = {"version": 0, "reserve": None}
        assert replace(scene.flow, **same) == replace(before, **same)
        assert len(scene.uses) == used
        assert budgets(scene.flow.all_uses) == budgets(before.all_uses)


def test_a_doubt_about_the_password_stays_until_it_is_accepted() -> None:
    scene = Scene().reaches(State.TOKEN_ISSUED)
    scene.sends("set_password", Unknown(), times=2)
    assert triggers(scene.sends("set_password", NO)) == ["password_in_doubt"]  # of the token, or of the password?
    scene.sends("set_password", NotActed())
    assert scene.flow.in_doubt is Step.PASSWORD
    for event, reason in ((Cancelled(), Failure.CANCELLED), (Expired(), Failure.EXPIRED)):
        other = Scene()
        other.flow = scene.flow
        ended = other.happens(event)
        assert (ended.flow.failure, ended.moves[-1].reason) == (Failure.OUTCOME_UNKNOWN, reason)
    assert scene.sends("set_password", Accepted()).flow.in_doubt is None


def test_only_what_is_unsure_of_a_password_is_worth_a_log_in() -> None:
    scene = Scene().reaches(State.TOKEN_ISSUED)
    scene.happens(Intended("set_password"))
    assert not leaves_password_in_doubt(scene.flow, NO)
    assert not leaves_password_in_doubt(scene.flow, NotActed())
    scene.happens(Repeated())
    assert leaves_password_in_doubt(scene.flow, NO)
    assert not leaves_password_in_doubt(scene.flow, Accepted())
    verifying = Scene().reaches(State.QUESTION_ANSWERED)
    verifying.happens(Intended("verify", CODE))
    assert not leaves_password_in_doubt(verifying.flow, Unknown())


def test_an_attempt_is_given_back_for_a_code_that_was_lost_to_doubt_but_once() -> None:
    scene = Scene().reaches(State.QUESTION_ANSWERED)
    left = [rules.attempts_left(scene.sends("verify", NO, times=2).flow) for _ in range(2)]
    assert left == [5, 4]


@pytest.mark.parametrize(
    ("state", "command", "policy"),
    [
        (State.REQUESTED, "answer", Policy(answer_attempts=2)),
        (State.QUESTION_ANSWERED, "verify", Policy(code_attempts=2)),
        (State.TOKEN_ISSUED, "set_password", Policy(password_attempts=2)),
    ],
)
def test_a_flow_ends_when_its_attempts_are_used_up(state: State, command: str, policy: Policy) -> None:
    scene = Scene(policy).reaches(state)
    assert scene.sends(command, NO).flow.state is state
    last = scene.sends(command, NO)
    assert (last.flow.state, last.flow.failure) == (State.FAILED, Failure.TOO_MANY_ATTEMPTS)
    assert (last.moves[-1].edge.trigger, last.moves[-1].reason) == ("abandon", Failure.TOO_MANY_ATTEMPTS)
    assert last.error is not None
    assert last.error.code != "flow_ended"  # what was wrong with the last one is said all the same


def test_every_end_forgets_what_was_secret_and_owes_the_listeners_a_word() -> None:
    for event in (Cancelled(), Expired()):
        for state in State:
            if state.ended:
                continue
            scene = Scene().reaches(state)
            flow = scene.happens(event).flow
            assert (flow.answer, flow.token, flow.continuation, flow.reserve) == (None, None, None, None)
            assert (flow.ended_at, flow.undelivered) == (START, ("crm",))
    assert scene.happens(Delivered(frozenset({"crm", "else"}))).flow.undelivered == ()


# --- idempotency keys


def test_a_result_is_recorded_under_its_keys_unless_nothing_happened() -> None:
    scene = Scene().reaches(State.QUESTION_ANSWERED)
    scene.happens(Intended("verify", CODE, b"1" * 16))
    scene.happens(Concluded(NotActed()))
    assert rules.recall(scene.flow, b"1" * 16) is None
    scene.happens(Intended("verify", CODE, b"1" * 16))
    scene.happens(Concluded(NO, b"2" * 16))
    for key in (b"1" * 16, b"2" * 16):
        result = rules.recall(scene.flow, key)
        assert result is not None
        assert (result.command, result.code) == ("verify", "code_rejected")
        assert isinstance(recorded(scene.flow, result), CodeRejected)
    scene.happens(Cancelled(b"3" * 16))
    last = rules.recall(scene.flow, b"3" * 16)
    assert last is not None
    assert last.code == ""
    assert rules.recall(scene.flow, b"no key") is None


def test_the_last_eight_results_are_kept() -> None:
    scene = Scene(Policy(code_attempts=20)).reaches(State.QUESTION_ANSWERED)
    for number in range(10):
        scene.happens(Intended("verify", CODE, bytes([number])))
        scene.happens(Concluded(NO))
    assert [result.key for result in scene.flow.results] == [bytes([number]) for number in range(2, 10)]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("answer_rejected", AnswerRejected),
        ("code_rejected", CodeRejected),
        ("password_rejected", PasswordRejected),
        ("unknown_user", UnknownUser),
        ("code_spent", OutcomeInDoubt),
    ],
)
def test_a_recorded_error_is_of_its_kind(code: str, error: type[ResetFlowError]) -> None:
    flow = Scene().reaches(State.QUESTION_ANSWERED).flow
    again = recorded(flow, Result(key=b"1" * 16, command="verify", code=code))
    assert type(again) is error
    if isinstance(again, InputRejected):
        assert [reason.code for reason in again.reasons] == ["repeated"]


# --- uses of budgets


def test_a_guess_is_held_in_reserve_taken_and_spent_or_given_back() -> None:
    scene = Scene().reaches(State.REQUESTED)
    sent = scene.sends("answer", Accepted())
    assert (budgets(sent.add), budgets(sent.drop), sent.optional and sent.optional.budget) == ([], [ANSWERS], CODES)
    typed = scene.happens(Intended("verify", CODE))
    assert (typed.drop, typed.add, typed.optional, typed.flow.reserve) == ((), (), None, sent.optional)
    wrong = scene.happens(Concluded(NO))
    assert (wrong.right_guess, wrong.drop, wrong.optional and wrong.optional.budget) == (False, (), CODES)
    assert sent.optional in wrong.flow.uses
    right = scene.sends("verify", Accepted(value=TOKEN))
    assert (right.right_guess, budgets(right.drop), right.optional) == (True, [CODES], None)
    assert Counter(budgets(scene.flow.all_uses)) == {STARTS: 1, CODES: 1}  # the wrong one


def test_an_answer_is_held_in_reserve_taken_and_spent_or_given_back() -> None:
    scene = Scene()
    asked = scene.happens(Asked(Accepted(value=Secret("Pet?"))))
    assert asked.optional == asked.flow.reserve == HeldUse(ANSWERS, asked.write_id)
    typed = scene.happens(Intended("answer", ANSWER))
    assert (typed.drop, budgets(typed.add), typed.flow.reserve) == ((), [STARTS], asked.optional)
    wrong = scene.happens(Concluded(NO))
    assert (wrong.drop, wrong.add, wrong.optional and wrong.optional.budget) == ((), (), ANSWERS)
    assert asked.optional in wrong.flow.uses
    right = scene.sends("answer", Accepted())
    assert (budgets(right.drop), right.optional and right.optional.budget) == ([ANSWERS], CODES)
    assert Counter(budgets(scene.flow.all_uses)) == {STARTS: 1, ANSWERS: 1, CODES: 1}


def test_an_answer_of_unknown_outcome_stays_counted() -> None:
    scene = Scene().reaches(State.REQUESTED)
    unknown = scene.sends("answer", Unknown())
    assert (unknown.drop, unknown.optional and unknown.optional.budget) == ((), CODES)
    assert budgets(scene.flow.uses) == [STARTS, ANSWERS]


def test_a_flow_that_is_asked_for_an_answer_after_all_holds_one_and_a_code_no_more() -> None:
    scene = Scene(question="")
    scene.sends("start", Accepted())
    refused = scene.sends("resend", NO)
    assert (budgets(refused.drop), refused.optional and refused.optional.budget) == ([CODES], ANSWERS)
    typed = scene.happens(Intended("answer", ANSWER))
    assert (typed.flow.reserve, budgets(typed.add)) == (refused.optional, [STARTS])


@pytest.mark.parametrize(
    ("question", "given", "first", "guesses"),
    [
        ("Pet?", ANSWER, [], 1),
        (None, ANSWER, [], 1),  # the broker does not say whether it asks one
        (None, ANSWER, [("start", NO)], 1),
        (None, None, [("start", NO)], 0),
        (None, None, [], 0),
        ("", ANSWER, [], 0),  # the broker asks none: nobody looks at it
        ("", None, [], 0),
    ],
)
@pytest.mark.parametrize("outcome", [Accepted(), NO, Unknown(), NotActed()])
def test_only_an_answer_that_the_broker_may_judge_is_a_guess(
    question: str | None, given: Secret | None, first: list[tuple[str, Outcome]], guesses: int, outcome: Outcome
) -> None:
    scene = Scene(question=question)
    for command, before in first:
        scene.sends(command, before)
    scene.happens(Intended("answer", given))
    if guesses:
        assert (scene.flow.reserve and scene.flow.reserve.budget) == ANSWERS, "it is counted before it is sent"
    scene.happens(Concluded(outcome))
    wrong = guesses if isinstance(outcome, Rejected | Unknown) else 0
    assert budgets(scene.flow.uses).count(ANSWERS) == wrong
    asks = scene.flow.state is State.REQUESTED and not scene.flow.unsent
    assert (scene.flow.reserve is not None and scene.flow.reserve.budget is ANSWERS) == asks


def test_a_guess_that_never_arrived_becomes_the_reserve_again() -> None:
    scene = Scene().reaches(State.QUESTION_ANSWERED)
    reserved = scene.flow.reserve
    assert reserved is not None
    for _ in range(2):
        scene.happens(Intended("verify", CODE))
        decision = scene.happens(Concluded(NotActed()))
        assert (decision.right_guess, decision.add, decision.drop, decision.optional) == (None, (), (), None)
        assert decision.flow.reserve == reserved


def test_a_guess_that_was_counted_when_it_was_typed_and_never_arrived_becomes_the_reserve() -> None:
    scene = Scene().reaches(State.QUESTION_ANSWERED)
    scene.flow = scene.happens(Lifted()).without_optional().flow
    typed = scene.happens(Intended("verify", CODE))
    decision = scene.happens(Concluded(NotActed()))
    assert (decision.drop, decision.optional, decision.flow.uses) == ((), None, ())
    assert (decision.flow.reserve,) == typed.add


def test_a_decision_without_its_optional_use_holds_no_reserve() -> None:
    scene = Scene().reaches(State.REQUESTED)
    scene.happens(Intended("answer", ANSWER))
    decision = decide(scene.flow, Concluded(Accepted()), scene.moment())
    without = decision.without_optional()
    assert (without.optional, without.flow.reserve, budgets(without.flow.uses)) == (None, None, [STARTS])
    assert (without.write_id, without.moves) == (decision.write_id, decision.moves)
    scene.flow = without.flow
    typed = scene.happens(Intended("verify", CODE))
    assert (budgets(typed.add), typed.drop) == ([CODES], ())


def test_a_start_that_certainly_did_nothing_is_given_back_and_counted_anew_before_anything_is_sent() -> None:
    scene = Scene(question="")
    given_back = scene.sends("start", NotActed())
    assert (budgets(given_back.drop), given_back.flow.uses) == ([STARTS], ())
    assert isinstance(given_back.error, BrokerUnavailable)
    for command in ("start", "answer"):
        other = Scene()
        other.flow = scene.flow
        assert budgets(other.happens(Intended(command)).add) == [STARTS]


def test_a_throttled_start_stays_counted_and_is_counted_again_only_where_it_has_expired() -> None:
    scene = Scene(question="")
    throttled = scene.sends("start", NotActed(cause=Cause.THROTTLED, retry_after=timedelta(seconds=9)))
    assert (throttled.drop, budgets(throttled.flow.uses)) == ((), [STARTS])
    assert throttled.error is not None
    assert throttled.error.retryable
    again = scene.happens(Intended("start"))
    assert again.add == throttled.flow.uses == again.flow.uses, "the same names: a store counts those that it lacks"


def test_a_start_of_unknown_outcome_stays_counted() -> None:
    scene = Scene(question="")
    assert scene.sends("start", Unknown()).drop == ()
    assert STARTS in budgets(scene.flow.uses)


@pytest.mark.parametrize("state", State)
def test_lifting_drops_every_use_and_changes_nothing_else(state: State) -> None:
    scene = Scene().reaches(state)
    if state is State.QUESTION_ANSWERED:
        scene.sends("verify", NO)
    before = scene.flow
    lifted = scene.happens(Lifted())
    assert (set(lifted.drop), lifted.add, lifted.moves, lifted.error) == (set(before.all_uses), (), (), None)
    without = lifted.without_optional().flow
    assert (without.uses, without.reserve) == ((), None)
    assert replace(without, uses=before.uses, reserve=before.reserve) == replace(before, version=without.version)


def test_a_lifted_flow_goes_on_and_its_uses_are_counted_anew() -> None:
    scene = Scene().reaches(State.REQUESTED)
    scene.happens(Lifted())
    assert budgets(scene.happens(Intended("answer", ANSWER)).add) == [STARTS]  # it was given another reserve
    scene.happens(Concluded(Accepted()))
    scene.flow = scene.happens(Lifted()).without_optional().flow
    typed = scene.happens(Intended("verify", CODE))
    assert (budgets(typed.add), typed.drop) == ([CODES], ())


@pytest.mark.parametrize("state", State)
def test_nothing_personal_is_left_of_an_erased_flow(state: State) -> None:
    scene = Scene(continuation=b"c", lookups=(b"l" * 16,)).reaches(state)
    if not state.ended:
        scene.happens(Intended("resend", ANSWER, b"1" * 16))
    before = scene.flow
    erased = scene.happens(Erased())
    assert (set(erased.drop), erased.add, erased.optional, erased.moves) == (set(before.all_uses), (), None, ())
    flow = erased.flow
    assert (flow.id, flow.version, flow.state, flow.ended_at) == ("a", before.version, State.FAILED, ERASED_AT)
    assert (flow.lookups, flow.uses, flow.undelivered) == (before.lookups, (), ())
    kept = {
        "id",
        "version",
        "lookups",
        "state",
        "ended_at",
        "failure",
        "created_at",
        "expires_at",
        "credential",
        "limits",
    }
    for field in msgspec.structs.fields(FlowData):
        value = getattr(flow, field.name)
        assert field.name in kept or value in (field.default, ""), field.name
    assert rules.view(flow).ended


# --- what may come


def test_the_limits_of_a_flow_are_those_it_was_started_with() -> None:
    strict, lax = Policy(code_attempts=1, resends=0), Policy(code_attempts=9, resends=9)
    assert rules.attempts_left(Scene(strict).reaches(State.QUESTION_ANSWERED).flow) == 1
    flow = Scene(lax).reaches(State.QUESTION_ANSWERED).flow
    view = rules.view(flow)
    assert (view.attempts_left, view.resend_at) == (9, START + lax.resend_cooldown)
    assert rules.view(Scene(strict).reaches(State.QUESTION_ANSWERED).flow).resend_at is None


def test_a_resend_waits_and_ends() -> None:
    scene = Scene(Policy(resends=1)).reaches(State.QUESTION_ANSWERED)
    with pytest.raises(LimitReached) as early:
        rules.admit(scene.flow, "resend", START + timedelta(seconds=18.5))
    assert (early.value.limit, early.value.retry_after) == ("resend_cooldown", timedelta(seconds=41.5))
    assert "42 s" in str(early.value)
    rules.admit(scene.flow, "resend", START + timedelta(seconds=60))
    scene.sends("resend", Accepted())
    with pytest.raises(LimitReached) as late:
        rules.admit(scene.flow, "resend", START + timedelta(hours=1))
    assert (late.value.limit, late.value.retry_after) == ("resends", None)


def test_a_code_that_is_too_old_is_not_sent() -> None:
    scene = Scene(Policy(code_lifetime=timedelta(minutes=10))).reaches(State.QUESTION_ANSWERED)
    rules.admit(scene.flow, "verify", START + timedelta(minutes=9))
    with pytest.raises(CodeRejected, match="too old") as caught:
        rules.admit(scene.flow, "verify", START + timedelta(minutes=10))
    assert not caught.value.sent


def test_what_may_not_come_is_refused_by_state() -> None:
    for state in State:
        flow = Scene().reaches(state).flow
        for command, each in COMMANDS.items():
            if state in each.legal_in and command != "set_pin":
                rules.admit(flow, command, START + timedelta(minutes=5))
            else:
                with pytest.raises(FlowEnded if state.ended else IllegalCommand):
                    rules.admit(flow, command, START + timedelta(minutes=5))


# --- random histories


def outcomes(chance: random.Random, command: str) -> Outcome:
    accepted = Accepted(value=TOKEN) if command == "verify" and chance.random() < 0.9 else Accepted(continuation=b"c")
    refused = NO_CODE if command == "set_password" and chance.random() < 0.5 else NO
    kinds: list[Outcome] = [accepted, refused, Unknown(), NotActed(), NotActed(cause=Cause.THROTTLED)]
    return chance.choices(kinds, [5, 4, 2, 2, 1])[0]


def steps_of(scene: Scene, chance: random.Random, *, holds: bool) -> None:
    """One random thing that may happen, and what must hold after it."""
    flow = scene.flow
    before = set(flow.all_uses)
    if flow.intent:
        if rules.repeatable(flow.intent) and chance.random() < 0.2:
            decision = scene.happens(Repeated())
        else:
            decision = scene.happens(Concluded(outcomes(chance, flow.intent.command)))
    elif chance.random() < 0.04:
        ends: list[Event] = [Cancelled(), Expired(), Lifted(), Lifted()]
        decision = scene.happens(chance.choice(ends))
    elif flow.unsent:
        decision = scene.happens(Intended("start"))
    else:
        scene.now += timedelta(seconds=chance.choice([1, 61]))
        command = chance.choice([*rules.view(flow).allowed])
        try:
            rules.admit(flow, command, scene.now)
        except LimitReached:
            return
        if command == "cancel":
            return
        code_held = holds and command == "verify"
        decision = scene.happens(Held(CODE) if code_held else Intended(command, GIVEN.get(command)))
    check(scene, flow, decision, before)


def sends_code(flow: FlowData) -> bool:
    assert flow.intent
    return flow.intent.command == "verify" or (COMMANDS[flow.intent.command].call is Call.UPDATE and flow.holds_code)


def check_uses(scene: Scene, before: FlowData, decision: Decision, uses: set[HeldUse]) -> None:
    flow = scene.flow
    added = {*decision.add, *([decision.optional] if decision.optional else [])}
    assert set(decision.drop) <= uses, "only its own uses are dropped"
    again = added & uses
    assert not again - {use for use in uses if use.budget is STARTS}, "no id is used for another use"
    assert set(flow.all_uses) == (uses - set(decision.drop)) | added == scene.uses, "it knows its uses by name"
    assert len(set(flow.all_uses)) == len(flow.all_uses)
    holds = flow.reserve and flow.reserve.budget
    if flow.intent and sends_code(flow):
        assert holds is CODES, "no code is sent that is not counted"
    if before.intent and sends_code(before) and decision.moves and flow.token is None and not decision.right_guess:
        assert before.reserve in flow.uses, "a code that was judged, or may have been, stays counted"
    if flow.holds_code:
        assert holds in (None, CODES), "unless it was lifted"
    elif flow.intent is None:
        asks = {State.QUESTION_ANSWERED: CODES, State.REQUESTED: None if flow.unsent else ANSWERS}.get(flow.state)
        assert holds == asks, "it holds what it asks for"


def check(scene: Scene, before: FlowData, decision: Decision, uses: set[HeldUse]) -> None:
    check_uses(scene, before, decision, uses)
    flow = scene.flow
    assert (flow.intent is None) or (flow.intent.command in COMMANDS)
    stands = before.state
    for move in decision.moves:
        assert (move.edge.trigger, stands, move.edge.target) in STEPS
        stands = move.edge.target
    assert flow.state is stands
    assert (flow.failure is not None) == (flow.state is State.FAILED)
    assert not flow.holds_code or (flow.state is State.TOKEN_ISSUED and flow.token == CODE)
    assert (flow.token is not None) == (flow.state is State.TOKEN_ISSUED)
    if flow.state.ended:
        assert (flow.answer, flow.token, flow.continuation, flow.intent, flow.reserve) == (None,) * 5
    for counter in ("answers", "codes", "passwords", "resends"):
        assert getattr(flow, counter) >= 0
    assert (rules.attempts_left(flow) or 1) > 0 or flow.intent is not None
    if before.in_doubt is Step.PASSWORD and flow.in_doubt is not Step.PASSWORD:
        assert flow.state is State.PASSWORD_SET, "only an accepted password ends the doubt about it"
    if decision.error:
        assert not any(secret.reveal() in str(decision.error) for secret in (TOKEN, ANSWER, CODE))
    if not decision.moves and before.intent is not None and flow.intent is None:
        assert decision.error is not None, "a command either moves the flow or raises"


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_keep_every_rule(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - so that a failure can be repeated
    ends = Counter[State]()
    for _ in range(400):
        scene = Scene(Policy(mask_unknown_users=chance.random() < 0.5, resend_cooldown=timedelta(seconds=60)))
        value = chance.choice([Secret("Pet?"), Secret(""), None])
        answers: list[Accepted | Rejected] = [Accepted(value=value), NO]
        asked = decide(scene.flow, Asked(chance.choice(answers)), scene.moment())
        if asked.error:
            continue
        scene.flow, scene.uses = asked.flow, set(asked.flow.all_uses)
        holds = chance.random() < 0.5
        for _ in range(60):
            steps_of(scene, chance, holds=holds)
            if scene.flow.state.ended:
                break
        ends[scene.flow.state] += 1
    assert ends[State.PASSWORD_SET] > 20
    assert ends[State.FAILED] > 20


def test_every_command_with_a_call_is_decided_in_every_outcome() -> None:
    """A sixth command can't be forgotten here: each has a state, and each outcome leads along the table."""
    for command in COMMANDS.values():
        if command.call is None:
            continue
        for state in command.legal_in or (State.REQUESTED,):
            for outcome in (Accepted(value=TOKEN), NO, Unknown(), NotActed()):
                scene = Scene(question="" if command.name == "start" else None)
                if command.name != "start":
                    scene.reaches(state)
                if command.call is Call.UPDATE and command.asks is not scene.flow.credential.step:
                    scene.flow = replace(scene.flow, credential=Credential.PIN)
                scene.sends(command.name, outcome)
                assert scene.flow.intent is None

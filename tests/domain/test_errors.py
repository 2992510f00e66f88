"""Every error says whether and when the same call is worth another try, and reasons have names of their own."""

from __future__ import annotations

import inspect
import pickle
from datetime import timedelta

import pytest

from reset_flow import (
    BrokerUnavailable,
    CodeRejected,
    FlowBusy,
    FlowEnded,
    FlowNotFound,
    IllegalCommand,
    LimitReached,
    PasswordRejected,
    PasswordRules,
    Reason,
    RecordUnreadable,
    ResetFlowError,
    Secret,
    StaleRecord,
    State,
    WrongBroker,
)
from reset_flow.domain import errors

SECOND = timedelta(seconds=1)
MADE: dict[type[ResetFlowError], list[ResetFlowError]] = {
    BrokerUnavailable: [BrokerUnavailable(), BrokerUnavailable("HTTP 429", SECOND)],
    FlowBusy: [FlowBusy("id", "verify", SECOND)],
    FlowEnded: [FlowEnded("id", "failed")],
    FlowNotFound: [FlowNotFound("id")],
    IllegalCommand: [IllegalCommand("id", "verify", State.REQUESTED, ("answer",))],
    LimitReached: [LimitReached("resends"), LimitReached("resend_cooldown", SECOND)],
    RecordUnreadable: [RecordUnreadable("id", "why")],
    StaleRecord: [StaleRecord("id", 2)],
    WrongBroker: [WrongBroker("id", "one", "another")],
}
CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, ResetFlowError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_what_may_be_tried_again_says_when(kind: type[ResetFlowError]) -> None:
    for error in MADE.get(kind) or [kind("words")]:
        for each in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - it was pickled here
            assert each.retryable is (each.retry_after is not None)
            assert each.retry_after is None or timedelta(0) <= each.retry_after <= timedelta(seconds=5)


def test_reasons_of_the_librarys_own_have_codes_and_a_brokers_words_have_none() -> None:
    rules = PasswordRules(words=["autoshares"])
    refused = {
        reason.code: str(reason)
        for password in ("short", "x" * 200, "football1", "robert.zak1", "autoshares1", "abcdefgh")
        for reason in rules.refusals(Secret(password), "robert.zak")
    }
    assert set(refused) == {"too_short", "too_long", "common", "login", "service", "neighbours"}
    assert [reason.number for reason in rules.refusals(Secret("short"), "robert.zak")] == [8]
    assert [reason.number for reason in rules.refusals(Secret("x" * 200), "robert.zak")] == [128]
    error = PasswordRejected("no good", Reason("too_short", "it must have at least 8 characters"))
    assert error.reasons == (Reason(None, "no good"), Reason("too_short", "it must have at least 8 characters"))
    assert str(error) == "the broker refused the password: no good; it must have at least 8 characters"
    assert pickle.loads(pickle.dumps(error)).reasons == error.reasons  # noqa: S301 - it was pickled here


def test_an_error_without_reasons_has_none() -> None:
    assert CodeRejected().reasons == ()

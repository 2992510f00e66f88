"""Each error of the library as HTTP says it: status, headers, problem details, and a text in every language."""

from __future__ import annotations

import json
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

import reset_flow
from reset_flow import (
    AnswerRejected,
    AppKeyRejected,
    BrokerError,
    BrokerProtocolError,
    BrokerUnavailable,
    CodeRejected,
    CommandVetoed,
    ConfigurationError,
    FlowBusy,
    FlowEnded,
    FlowNotFound,
    HeldElsewhere,
    IllegalCommand,
    InputRejected,
    InvalidInput,
    KeyReused,
    KeyringError,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    Reason,
    RecordUnreadable,
    ResetFlowError,
    StaleRecord,
    State,
    Step,
    StoreError,
    StoreUnavailable,
    UnknownUser,
    WrongBroker,
)
from reset_flow.messages import LOCALES, Texts, message_of_error
from reset_flow.web import problem
from tests.web.screens import flow_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    Row: TypeAlias = tuple[ResetFlowError, int, int | None, str]

FLOW = "s3fe1qntchrnf8nm3cna90ofjc"
MINUTE = timedelta(minutes=1)
TABLE: list[Row] = [
    # the error, its status, the seconds to wait, the message for the person
    (ResetFlowError("in /srv/app.py"), 500, None, "trouble"),
    (ConfigurationError("RESET_FLOW_STORE: /srv/flows.db"), 500, None, "trouble"),
    (InvalidInput("user: it must not be empty"), 400, None, "user.invalid"),
    (FlowNotFound(FLOW), 404, None, "not_found"),
    (FlowEnded(FLOW, "expired"), 410, None, "not_found"),
    (IllegalCommand(FLOW, "answer", State.QUESTION_ANSWERED, ("verify",)), 409, None, "step.changed"),
    (FlowBusy(FLOW, "verify", timedelta(seconds=2.1)), 409, 3, "busy"),
    (KeyReused("this key was given to answer before"), 409, None, "request.rejected"),
    (CommandVetoed("not from there"), 403, None, "vetoed"),
    (HeldElsewhere(FLOW), 403, None, "held"),
    (LimitReached("codes_per_user", MINUTE), 429, 60, "limit.codes_per_user"),
    (LimitReached("requests", MINUTE), 429, 60, "limit.wait"),
    (LimitReached("resends"), 429, None, "limit.resends"),
    (InputRejected("words"), 422, None, "input.rejected"),
    (UnknownUser("words"), 422, None, "user.unknown"),
    (AnswerRejected("words"), 422, None, "answer.rejected"),
    (CodeRejected("words"), 422, None, "code.rejected"),
    (PasswordRejected("words"), 422, None, "password.rejected"),
    (PasswordRejected(Reason("common", "it is common"), sent=False), 422, None, "reason.common"),
    (BrokerError("words"), 502, None, "trouble"),
    (BrokerUnavailable("no reply", timedelta(seconds=30)), 503, 30, "broker.unavailable"),
    (BrokerUnavailable(), 503, 5, "broker.unavailable"),
    (OutcomeInDoubt("nobody knows"), 502, None, "trouble"),
    (BrokerProtocolError("HTTP 418"), 502, None, "trouble"),
    (AppKeyRejected("the key of /srv is wrong"), 502, None, "trouble"),
    (WrongBroker("'https://a/srv' is not 'https://b'"), 502, None, "trouble"),
    (StoreError("/srv/flows.db"), 503, None, "trouble"),
    (StoreUnavailable("/srv/flows.db"), 503, 1, "store.unavailable"),
    (StaleRecord(FLOW, 3), 503, 0, "busy"),
    (RecordUnreadable(FLOW, "the key in /srv is gone"), 503, None, "trouble"),
    (KeyringError("/srv/keys"), 503, None, "trouble"),
]
EACH = pytest.mark.parametrize("row", TABLE, ids=lambda row: type(row[0]).__name__)


def every_error(root: type[ResetFlowError] = ResetFlowError) -> Iterator[type[ResetFlowError]]:
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


def test_the_table_has_every_public_error() -> None:
    public = {error for error in every_error() if error.__name__ in reset_flow.__all__}
    assert {type(error) for error, *_ in TABLE} == public


@EACH
def test_each_error_has_its_status_and_says_when_to_come_again(row: Row) -> None:
    error, status, seconds, _ = row
    told = problem(error)
    assert (told.status, told.body["status"], told.body["title"]) == (status, status, HTTPStatus(status).phrase)
    assert told.headers["Content-Type"] == "application/problem+json"
    assert told.headers["Cache-Control"] == "no-store"
    assert told.headers.get("Retry-After") == (None if seconds is None else str(seconds))
    assert told.body["retry_after"] == seconds
    assert told.body["code"] == error.code
    assert told.body["type"] == f"urn:reset-flow:problem:{error.code}"
    assert told.body["detail"]
    assert json.loads(told.encode()) == told.body


@EACH
def test_each_error_has_a_text_in_each_language(row: Row) -> None:
    error, *_, message = row
    told = message_of_error(error)
    assert told.id == message
    assert len({Texts().say(told, locale) for locale in LOCALES}) == len(LOCALES)


@EACH
def test_what_is_the_operators_is_not_told(row: Row) -> None:
    assert b"/srv" not in problem(row[0]).encode()


def test_it_tells_why_an_input_was_refused_and_how_many_tries_are_left() -> None:
    reasons = (Reason("too_short", "it must have at least 8 characters", 8), "words of the provider")
    body = problem(PasswordRejected(*reasons).with_flow(flow_at(Step.PASSWORD, attempts_left=9))).body
    assert body["reasons"] == [
        {"code": "too_short", "text": "it must have at least 8 characters"},
        {"code": None, "text": "words of the provider"},
    ]
    assert body["attempts_left"] == 9


def test_it_has_the_flow_without_the_login() -> None:
    flow = flow_at(Step.CODE)
    told = problem(CodeRejected("no").with_flow(flow))
    assert told.body["flow"] == flow.public()
    assert flow.user.encode() not in told.encode()


def test_it_names_the_limit() -> None:
    assert problem(LimitReached("resend_cooldown", MINUTE)).body["limit"] == "resend_cooldown"
    assert problem(FlowNotFound(FLOW)).body["limit"] is None


def test_an_error_of_the_embedders_own_has_the_status_of_what_it_is() -> None:
    class CaptchaFailed(CommandVetoed):
        code = "captcha_failed"

    told = problem(CaptchaFailed("the picture was another one"))
    assert (told.status, told.body["code"]) == (403, "captcha_failed")
    assert told.body["detail"] == "the picture was another one"


def test_the_body_has_the_same_members_for_every_error() -> None:
    members: list[set[Any]] = [set(problem(error).body) for error, *_ in TABLE]
    assert all(each == members[0] for each in members)

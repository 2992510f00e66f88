"""Every state of the page, by name: what tests render, and the gallery photographs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from reset_flow import (
    AnswerRejected,
    BrokerUnavailable,
    CodeRejected,
    Credential,
    Failure,
    Flow,
    IllegalCommand,
    InvalidInput,
    LimitReached,
    PasswordRejected,
    Reason,
    State,
    Step,
    Transition,
    UnknownUser,
)
from reset_flow.web.pages import Kind, Screen

NOW = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
QUESTION = "What street did you live on in third grade?"
STATES = {
    Step.ANSWER: State.REQUESTED,
    Step.CODE: State.QUESTION_ANSWERED,
    Step.PASSWORD: State.TOKEN_ISSUED,
    Step.PIN: State.TOKEN_ISSUED,
}
ALLOWED = {
    Step.ANSWER: ("answer", "cancel"),
    Step.CODE: ("cancel", "resend", "verify"),
    Step.PASSWORD: ("cancel", "set_password"),
    Step.PIN: ("cancel", "set_pin"),
}


def flow_at(expects: Step | None, **changes: Any) -> Flow:
    flow = Flow(
        id="0" * 26,
        user="robert.zak",
        credential=Credential.PIN if expects is Step.PIN else Credential.PASSWORD,
        state=STATES[expects] if expects else State.FAILED,
        expects=expects,
        allowed=ALLOWED[expects] if expects else (),
        question=QUESTION,
        attempts_left=3,
        in_doubt=None,
        failure=None,
        created_at=NOW - timedelta(minutes=3),
        expires_at=NOW + timedelta(minutes=57),
        resend_at=NOW + timedelta(seconds=42) if expects is Step.CODE else None,
        history=(),
        version=3,
    )
    return attrs.evolve(flow, **changes)


def ended(failure: Failure | None, **changes: Any) -> Flow:
    return flow_at(None, state=State.FAILED if failure else State.PASSWORD_SET, failure=failure, **changes)


def screen(kind: Kind = Kind.FLOW, **changes: Any) -> Screen:
    known = {"base": "/reset/", "locale": "en", "now": NOW, "csrf": "c" * 43, "once": "o" * 22}
    return Screen(kind=kind, **{**known, **changes})


def on(expects: Step | None, error: Any = None, **changes: Any) -> Screen:
    return screen(flow=flow_at(expects, **changes), error=error, reveals_login=True)


ADOPTED = Transition(trigger="token_adopted", source=State.REQUESTED, target=State.TOKEN_ISSUED, at=NOW)
DAY = timedelta(hours=20)
BOT = "https://t.me/helpful_bot"

SCREENS = {
    "account": screen(Kind.ACCOUNT),
    "account-invalid": screen(Kind.ACCOUNT, error=InvalidInput("user: it must not be empty")),
    "account-unknown": screen(Kind.ACCOUNT, login="robert.zak", error=UnknownUser("no such user")),
    "account-limit": screen(
        Kind.ACCOUNT, login="robert.zak", error=LimitReached("starts_per_user", timedelta(minutes=12))
    ),
    "answer": on(Step.ANSWER),
    "answer-rejected": on(
        Step.ANSWER, AnswerRejected(Reason(None, "Answer is incorrect, try again.")), attempts_left=2
    ),
    "answer-empty": on(Step.ANSWER, AnswerRejected(Reason("empty", "it must not be empty"), sent=False)),
    "answer-down": on(Step.ANSWER, BrokerUnavailable("no reply", timedelta(seconds=30))),
    "request": on(Step.ANSWER, question=None),
    "request-in-doubt": on(Step.ANSWER, question=None, in_doubt=Step.ANSWER),
    "code": on(Step.CODE),
    "code-sent-to": on(Step.CODE, sent_to="r…k@e….com", question=None),
    "code-rejected": on(
        Step.CODE, CodeRejected(Reason("newest_counts", "only the code of the newest e-mail counts")), attempts_left=1
    ),
    "code-malformed": on(Step.CODE, CodeRejected(Reason("malformed", "it must have 6 digits"), sent=False)),
    "code-too-soon": on(Step.CODE, LimitReached("resend_cooldown", timedelta(seconds=42))),
    "code-limit": on(Step.CODE, LimitReached("codes_per_user", DAY)),
    "code-no-more": on(Step.CODE, LimitReached("resends"), resend_at=None),
    "code-moved-on": on(Step.CODE, IllegalCommand("0" * 26, "answer", State.QUESTION_ANSWERED, ("verify",))),
    "code-mail-in-doubt": on(Step.CODE, in_doubt=Step.ANSWER),
    "code-in-doubt": on(Step.CODE, in_doubt=Step.CODE, resend_at=NOW),
    "code-password-in-doubt": on(Step.CODE, in_doubt=Step.PASSWORD, resend_at=NOW),
    "another": on(Step.CODE, state=State.CODE_VERIFIED, allowed=("cancel", "resend"), resend_at=NOW),
    "password": on(Step.PASSWORD),
    "password-rejected": on(
        Step.PASSWORD,
        PasswordRejected(
            Reason("common", "it must be one that few people would choose"),
            Reason("login", "it must be more than your login"),
            sent=False,
        ),
    ),
    "password-refused": on(Step.PASSWORD, PasswordRejected(Reason(None, "Password was used before.")), attempts_left=9),
    "password-in-doubt": on(Step.PASSWORD, in_doubt=Step.PASSWORD),
    "password-adopted": on(Step.PASSWORD, question=None, history=(ADOPTED,)),
    "pin": on(Step.PIN),
    "busy": on(Step.PASSWORD, busy_until=NOW + timedelta(seconds=20)),
    "done": screen(flow=ended(None)),
    "done-by-chat": screen(flow=ended(None), back_url=BOT),
    "failed-by-chat": screen(flow=ended(Failure.EXPIRED), back_url=BOT),
    "failed-expired": screen(flow=ended(Failure.EXPIRED)),
    "failed-cancelled": screen(flow=ended(Failure.CANCELLED)),
    "failed-attempts": screen(flow=ended(Failure.TOO_MANY_ATTEMPTS)),
    "failed-unknown": screen(flow=ended(Failure.OUTCOME_UNKNOWN)),
    "failed-refused": screen(flow=ended(Failure.BROKER_REFUSED)),
    "link": screen(Kind.LINK, path="link/abc", flow=flow_at(Step.CODE)),
    "link-used": screen(Kind.LINK_USED, path="link/abc"),
    "link-used-by-chat": screen(Kind.LINK_USED, path="link/abc", back_url=BOT),
    "forbidden": screen(Kind.FORBIDDEN),
    "rejected": screen(Kind.REJECTED),
    "held": screen(Kind.HELD),
    "limited": screen(Kind.LIMITED),
    "unavailable": screen(Kind.UNAVAILABLE),
    "missing": screen(Kind.MISSING),
}

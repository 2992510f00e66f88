"""The meaning of the replies that no site gives when it is asked to: one table after the other."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import Accepted, Cause, NotActed, Outcome, Reason, Rejected, Secret, Unknown
from reset_flow.domain.flow import Step
from reset_flow.transports import allauth_protocol as protocol
from reset_flow.transports.allauth_protocol import Answer, judge
from reset_flow.transports.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = Secret("PVWB-QNGR")
SECRETS = ("robert@shop.test", CODE, Secret("violet tractor 5"))

READS: dict[str, Callable[[Answer], Outcome | None]] = {
    "request": partial(protocol.read_request, by_link=False, in_session=False),
    "resend": partial(protocol.read_request, by_link=False, in_session=True),
    "link": partial(protocol.read_request, by_link=True, in_session=False),
    "exchange": partial(protocol.read_exchange, code=CODE),
    "update": protocol.read_update,
    "log_in": protocol.read_log_in,
    "probe": protocol.read_probe,
}
EVERY_CALL = pytest.mark.parametrize("call", READS)
INITIAL = [{"id": "login"}, {"id": "signup"}]
RESET = "password_reset_by_code"
REQUIRED = {"message": "This field is required.", "code": "required", "param": "password"}
INCORRECT = {"message": "Incorrect code.", "code": "incorrect_code", "param": "key"}
SPENT = Reason("another_code", "it is too old by now, or was tried too often: ask for another one")
WRONG = Rejected(reasons=["Incorrect code."], about=Step.CODE)
TOO_LATE = Rejected(reasons=[SPENT], about=Step.CODE)


def reply(status: int, document: object = None, *, retry_after: timedelta | None = None) -> Reply:
    """Return a reply of the API, or one with this body."""
    if isinstance(document, dict):
        document = {"status": status, **document}
    body = document if isinstance(document, bytes) else json.dumps(document or {"status": status}).encode()
    return Reply(status=status, body=body, retry_after=retry_after)


def unauthenticated(*pending: str, session: object = None, **more: Any) -> Reply:
    flows = [*INITIAL, *({"id": each, "is_pending": True} for each in pending)]
    meta = {"is_authenticated": False, **({} if session is None else {"session_token": session})}
    return reply(401, {"data": {"flows": flows}, "meta": meta, **more})


def read(call: str, result: Reply) -> Outcome:
    return judge(result, READS[call], SECRETS)


AUTHENTICATED = reply(200, {"data": {"user": {"id": 1}, "methods": []}, "meta": {"is_authenticated": True}})


@pytest.mark.parametrize(
    ("call", "result", "outcome"),
    [
        ("request", unauthenticated(RESET, session="u984fk"), Accepted(continuation=b"u984fk")),
        ("resend", unauthenticated(RESET), Accepted()),
        ("resend", unauthenticated(RESET, session="other"), Accepted(continuation=b"other")),
        ("link", reply(200), Accepted()),
        ("exchange", reply(400, {"errors": [REQUIRED]}), Accepted(value=CODE)),
        ("exchange", reply(400, {"errors": [INCORRECT, REQUIRED]}), WRONG),
        ("exchange", reply(409), TOO_LATE),
        ("update", AUTHENTICATED, Accepted()),
        ("update", unauthenticated(), Accepted()),
        ("update", unauthenticated("mfa_authenticate"), Accepted()),
        ("update", reply(400, {"errors": [INCORRECT, REQUIRED]}), WRONG),
        ("update", reply(400, {"errors": [REQUIRED]}), Rejected(reasons=["This field is required."])),
        ("update", reply(410), Rejected(reasons=[SPENT], about=Step.CODE, continuation=b"")),
        ("log_in", AUTHENTICATED, Accepted()),
        ("probe", reply(200, {"data": {"account": {"login_methods": ["email"]}}}), Accepted()),
    ],
)
def test_what_is_documented_is_taken(call: str, result: Reply, outcome: Outcome) -> None:
    assert read(call, result) == outcome


@pytest.mark.parametrize("stage", ["login_by_code", "mfa_authenticate", "mfa_trust", "verify_email", "verify_phone"])
def test_what_a_log_in_waits_for_after_the_password_proves_it(stage: str) -> None:
    assert read("log_in", unauthenticated(stage, session="u984fk")) == Accepted()


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("request", unauthenticated(RESET)),  # no session
        ("request", unauthenticated(RESET, session="")),
        ("request", unauthenticated(RESET, session="two words")),
        ("request", unauthenticated(RESET, session="a\r\nCookie: b")),
        ("request", unauthenticated(RESET, session="x" * 4097)),
        ("request", unauthenticated(RESET, session=7)),
        ("request", unauthenticated("verify_email", session="u984fk")),
        ("request", unauthenticated(session="u984fk")),
        ("request", reply(200)),
        ("link", unauthenticated(RESET, session="u984fk")),
        ("link", AUTHENTICATED),
        ("link", reply(200, {"errors": [REQUIRED]})),
        ("link", reply(200, b"{}")),
        ("link", reply(200, b'{"status": 200, "status": 200}')),
        ("link", reply(200, b'{"status": 200')),
        ("link", reply(200, b"<h1>OK</h1>")),
        ("link", reply(201)),
        ("exchange", reply(200)),
        ("exchange", unauthenticated()),
        ("exchange", reply(400, {"errors": []})),
        ("exchange", reply(400, {"errors": [REQUIRED, REQUIRED]})),
        ("exchange", reply(400, {"errors": [{**REQUIRED, "code": "password_too_short"}]})),
        ("exchange", reply(400, {"errors": [{**REQUIRED, "param": None}]})),
        ("exchange", reply(400, {"errors": [{"code": "required", "param": "password"}]})),
        ("exchange", reply(400, {"errors": "required"})),
        ("exchange", reply(409, {"errors": [REQUIRED], "status": 400})),
        ("update", reply(200)),
        ("update", reply(401)),
        ("update", unauthenticated(RESET)),  # the reset is still pending
        ("update", reply(200, {"meta": {"is_authenticated": False}})),
        ("update", reply(200, {"meta": {"is_authenticated": "true"}})),
        ("update", reply(200, {"meta": {"is_authenticated": 1}})),
        ("update", reply(401, {"data": [], "meta": {"is_authenticated": False}})),
        ("update", reply(401, {"data": {"flows": [{"is_pending": True}]}, "meta": {"is_authenticated": False}})),
        ("log_in", reply(200)),
        ("log_in", unauthenticated()),
        ("log_in", unauthenticated(RESET)),
        ("log_in", unauthenticated("provider_signup")),
        ("log_in", reply(409)),
        ("log_in", reply(410)),
        ("probe", unauthenticated()),
    ],
)
def test_what_is_not_documented_means_neither_yes_nor_no(call: str, result: Reply) -> None:
    assert isinstance(read(call, result), Unknown)


@EVERY_CALL
@pytest.mark.parametrize("status", [400, 409, 410, 500, 502, 503])
def test_a_page_of_something_else_means_neither_yes_nor_no(call: str, status: int) -> None:
    assert isinstance(read(call, reply(status, b"<h1>Bad Request (400)</h1>")), Unknown)


@EVERY_CALL
@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 413])
@pytest.mark.parametrize("body", [b"", b"<h1>Not Found</h1>", b'{"detail": "no"}', b'{"status": "error"}'])
def test_what_never_reaches_the_api_does_nothing(call: str, status: int, body: bytes) -> None:
    assert read(call, reply(status, body)) == NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}")


@EVERY_CALL
@pytest.mark.parametrize("status", [200, 400, 401, 409])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"status": %d, "errors": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"status": %d, "meta": {"is_authenticated": NaN}}',
        b'{"status": %d, "n": ' + b"9" * 5000 + b"}",
        b'{"status": %d, "errors": [{"code": "\\ud800", "message": "\\ud800", "param": "\\ud800"}]}',
        b'{"status": "%d", "meta": {"is_authenticated": true}}',
        b"\xff\xfe%d",
    ],
)
def test_no_body_is_too_odd(call: str, status: int, body: bytes) -> None:
    outcome = read(call, reply(status, body.replace(b"%d", str(status).encode())))
    assert isinstance(outcome, NotActed | Rejected | Unknown)


@EVERY_CALL
def test_a_body_that_was_cut_off_leaves_doubt(call: str) -> None:
    for status in (200, 400, 401, 404, 409):
        outcome = read(call, Reply(status=status, body=None, flaw="ClientPayloadError"))
        assert outcome == Unknown(detail=f"HTTP {status}, ClientPayloadError")


@EVERY_CALL
@pytest.mark.parametrize("wait", [None, timedelta(seconds=7)])
def test_a_throttled_request_does_nothing_and_keeps_the_wait_of_a_gateway(call: str, wait: timedelta | None) -> None:
    throttled = NotActed(cause=Cause.THROTTLED, detail="HTTP 429", retry_after=wait)
    assert read(call, reply(429, retry_after=wait)) == throttled
    assert read(call, reply(429, b"<h1>Slow down</h1>", retry_after=wait)) == throttled


@EVERY_CALL
def test_a_request_that_got_no_reply_keeps_its_outcome(call: str) -> None:
    for outcome in (NotActed(detail="ClientConnectorError"), Unknown(detail="ServerDisconnectedError")):
        assert judge(outcome, READS[call], SECRETS) is outcome


@pytest.mark.parametrize("call", ["request", "exchange", "update", "log_in"])
@pytest.mark.parametrize("sent", ["robert@shop.test", "ROBERT@shop.test", "PVWB-QNGR", "pvwb-qngr", "violet tractor 5"])
def test_no_word_of_a_refusal_repeats_what_was_sent(call: str, sent: str) -> None:
    padding = "x" * 190  # so that cutting the words would cut what was sent in two
    words = [f"Incorrect: {sent}.", f"{padding} {sent}"]
    outcome = read(call, reply(400, {"errors": [{"message": each, "code": "c", "param": "key"} for each in words]}))
    assert isinstance(outcome, Rejected)
    assert len(outcome.reasons) == 2
    for part in (sent.lower(), sent[:6].lower()):
        assert part not in " ".join(map(str, outcome.reasons)).lower()


def test_what_is_read_of_a_reply_shows_neither_words_nor_session() -> None:
    answer = Answer(
        status=400,
        errors=(protocol.Error(code="c", message="of robert@shop.test"),),
        meta=protocol.Meta(session_token="u984fk"),
    )
    assert "robert" not in repr(answer)
    assert "u984fk" not in repr(answer)

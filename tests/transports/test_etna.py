"""The requests to the broker, and the meaning of its replies: one table after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.flow import Credential, NewCredential
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.ports import Case
from reset_flow.transports.etna import EtnaTransport

if TYPE_CHECKING:
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Transport
    from tests.transports.conftest import Broker, MakeEtna

Ask = Callable[[EtnaTransport], Awaitable["Outcome"]]

BASE = "https://broker.test/api"
USER = "robert.zak"
CASE = Case(user=USER)
PIN_CASE = Case(user=USER, credential=Credential.PIN)
TOKEN = "ba6b8cac-6738-4434-bd26-825db020a05c"
QUESTION = "What street did you live on in third grade?"
NOTHING = Unknown(detail="HTTP 200, and nothing known to mean yes or no")

ASK: dict[str, Ask] = {
    "challenge": lambda etna: etna.challenge(CASE),
    "request": lambda etna: etna.request(CASE, Secret("Peterson")),
    "exchange": lambda etna: etna.exchange(CASE, Secret("741175")),
    "update": lambda etna: etna.update(CASE, Secret(TOKEN), NewCredential(secret=Secret("new password"))),
    "pin": lambda etna: etna.update(PIN_CASE, Secret(TOKEN), NewCredential(secret=Secret("8642"))),
    "log_in": lambda etna: etna.log_in(CASE, Secret("new password")),
}
SPENDING = ("request", "exchange", "update", "pin")


# Requests.


async def test_step_1_is_as_documented(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": False})
    assert await etna().request(CASE, Secret("Peterson")) == Accepted()
    assert (broker.call.method, broker.call.url) == ("POST", f"{BASE}/v1.0/users/password/reset")
    assert broker.call.body == b'{"User":"robert.zak","SecretQuestionAnswer":"Peterson"}'
    assert broker.call.headers == {
        "Et-App-Key": "app-key-of-nobody",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }


async def test_without_a_question_its_key_is_left_out(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    assert await etna().request(CASE, None) == Accepted()
    assert broker.call.body == b'{"User":"robert.zak"}'


async def test_an_empty_answer_is_an_answer(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    await etna().request(CASE, Secret(""))
    assert broker.call.body == b'{"User":"robert.zak","SecretQuestionAnswer":""}'


async def test_step_2_is_as_documented(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Model": QUESTION, "Errors": [], "IsSucceed": True})
    assert await etna().challenge(Case(user="hello@autoshares.com")) == Accepted(value=Secret(QUESTION))
    assert broker.call.method == "GET"
    # aioresponses decodes the URL: test_etna_wire.py holds the bytes.
    assert broker.call.url == f"{BASE}/v1.0/users/password/secret-question?username=hello@autoshares.com"
    assert broker.call.body is None


async def test_step_3_of_the_first_revision_is_as_documented(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Model": TOKEN, "Errors": [], "IsSucceed": True})
    assert await etna(revision="password").exchange(CASE, Secret("041175")) == Accepted(value=Secret(TOKEN))
    assert (broker.call.method, broker.call.url) == ("POST", f"{BASE}/v1.0/users/password/reset/code")
    assert broker.call.body == b'{"Code":"041175"}'


@pytest.mark.parametrize(("case", "identifier"), [(CASE, "ResetPassword"), (PIN_CASE, "ResetPinCode")])
async def test_step_3_of_the_later_revision_is_as_documented(
    etna: MakeEtna, broker: Broker, case: Case, identifier: str
) -> None:
    broker.says({"Model": TOKEN, "Errors": [], "ErrorsCode": [], "StatusCode": "Continue", "IsSucceed": True})
    assert await etna().exchange(case, Secret("031408")) == Accepted(value=Secret(TOKEN))
    assert (broker.call.method, broker.call.url) == ("POST", f"{BASE}/v1.0/users/identifiers/reset/code")
    assert broker.call.body == f'{{"Code":"031408","Identifier":"{identifier}"}}'.encode()


async def test_step_4_is_as_documented(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    assert await etna().update(CASE, Secret(TOKEN), NewCredential(secret=Secret("pass\u00e9\u4e2d"))) == Accepted()
    assert (broker.call.method, broker.call.url) == ("PUT", f"{BASE}/v1.0/users/passwords/reset/")
    expected = f'{{"Token":"{TOKEN}","Password":"pass\u00e9\u4e2d","PasswordConfirmation":"pass\u00e9\u4e2d"}}'
    assert broker.call.body == expected.encode()


@pytest.mark.parametrize("method", ["POST", "PUT", "get"])
async def test_a_pin_is_changed_as_documented(etna: MakeEtna, broker: Broker, method: str) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    new = NewCredential(
        secret=Secret("8642"),
        details={
            "image_name": Secret("boat"),
            "personal_phrase": Secret("a phrase"),
            "authorization": Secret("bearer-token"),
        },
    )
    assert await etna(pin_method=method).update(PIN_CASE, Secret(TOKEN), new) == Accepted()
    assert (broker.call.method, broker.call.url) == (method.upper(), f"{BASE}/v1.0/users/pincode/change")
    assert broker.call.headers["Authorization"] == "Bearer bearer-token"
    assert list(broker.call.json.items()) == [
        ("Token", TOKEN),
        ("Pin", "8642"),
        ("ImageName", "boat"),
        ("PersonalPhrase", "a phrase"),
    ]


async def test_what_a_new_pin_comes_without_is_left_out(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    await ASK["pin"](etna())
    assert broker.call.json == {"Token": TOKEN, "Pin": "8642"}
    assert "Authorization" not in broker.call.headers


async def test_a_log_in_is_as_documented(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"State": "Succeeded", "Token": "bearer-token"})
    assert await etna().log_in(CASE, Secret("p\u00e4ss word")) == Accepted()
    assert (broker.call.method, broker.call.url) == ("POST", f"{BASE}/token")
    assert broker.call.headers["Username"] == USER
    assert broker.call.headers["Password"] == "p\u00e4ss word"
    assert broker.call.body == b""


UNSENDABLE = NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")


@pytest.mark.parametrize(
    "password",
    ["", "a\rb", "a\nb", "a\0b", "a\tb", "a\x7fb", "a\x85b", " a", "a ", "a\u00a0", "\u4e2d", "\u20ac", "\ud800"],
)
async def test_what_no_header_can_carry_is_not_sent(etna: MakeEtna, broker: Broker, password: str) -> None:
    broker.says({"State": "Succeeded"})
    transport = etna()
    assert await transport.log_in(CASE, Secret(password)) == UNSENDABLE
    assert await transport.log_in(Case(user=password), Secret("new password")) == UNSENDABLE
    new = NewCredential(secret=Secret("8642"), details={"authorization": Secret(password)})
    assert await transport.update(PIN_CASE, Secret(TOKEN), new) == UNSENDABLE
    assert broker.calls == []
    assert await transport.log_in(CASE, Secret("a b")) == Accepted()


async def test_what_utf_8_can_not_carry_is_not_sent(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    transport, half, case = etna(), Secret("\ud800"), Case(user="\ud800")
    assert await transport.challenge(case) == UNSENDABLE
    assert await transport.request(case, None) == UNSENDABLE
    assert await transport.exchange(CASE, half) == UNSENDABLE
    assert await transport.update(CASE, Secret(TOKEN), NewCredential(secret=half)) == UNSENDABLE
    assert broker.calls == []


async def test_the_first_revision_resets_no_pin(etna: MakeEtna, broker: Broker) -> None:
    transport = etna(revision="password")
    assert transport.capabilities.credentials == {Credential.PASSWORD}
    assert etna().capabilities.credentials == {Credential.PASSWORD, Credential.PIN}
    got = await transport.exchange(PIN_CASE, Secret("741175"))
    assert got == NotActed(cause=Cause.PROTOCOL, detail="this revision of the API can't reset it")
    assert broker.calls == []


# Statuses, row by row.

APP_KEY = NotActed(cause=Cause.FORBIDDEN, detail="the broker does not know the app key")


@pytest.mark.parametrize("step", ASK)
@pytest.mark.parametrize(
    "words", ["Application key is not defined or does not exist", " APPLICATION KEY of some other kind"]
)
async def test_a_refused_app_key_is_known_whatever_the_status(
    etna: MakeEtna, broker: Broker, step: str, words: str
) -> None:
    transport = etna()
    for status in (200, 302, 400, 401, 403, 404, 429, 500, 503):
        broker.says({"error": words}, status)
        assert await ASK[step](transport) == APP_KEY, status


@pytest.mark.parametrize("step", SPENDING)
@pytest.mark.parametrize(
    "reply",
    [
        ("invalid_grant", 401, NotActed(cause=Cause.PROTOCOL, detail="HTTP 401")),
        ("invalid_grant", 403, NotActed(cause=Cause.PROTOCOL, detail="HTTP 403")),
        ("Is the Application key right?", 200, NOTHING),
        (["Application key"], 200, NOTHING),
        ("invalid_grant", 500, Unknown(detail="HTTP 500, and nothing known to mean yes or no")),
    ],
    ids=repr,
)
async def test_another_error_is_no_refused_app_key(
    etna: MakeEtna, broker: Broker, step: str, reply: tuple[object, int, Outcome]
) -> None:
    error, status, outcome = reply
    broker.says({"error": error}, status)
    assert await ASK[step](etna()) == outcome


async def test_an_envelope_is_no_refused_app_key(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"error": "Application key is odd", "Errors": [], "IsSucceed": True})
    assert await ASK["update"](etna()) == Accepted()


ENVELOPED = {"Errors": [], "IsSucceed": True, "Model": TOKEN}


@pytest.mark.parametrize("body", [b"", b"<html>", json.dumps(ENVELOPED).encode()])
@pytest.mark.parametrize(
    "reply",
    [
        (429, {}, None),
        (429, {"Retry-After": "soon"}, None),
        (429, {"Retry-After": "30"}, timedelta(seconds=30)),
        (429, {"Retry-After": "1000000000"}, timedelta(hours=1)),
        (503, {"Retry-After": "30"}, timedelta(seconds=30)),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, timedelta(0)),
    ],
    ids=repr,
)
async def test_please_wait_means_that_nothing_was_done(
    etna: MakeEtna, broker: Broker, body: bytes, reply: tuple[int, dict[str, str], timedelta | None]
) -> None:
    status, headers, wait = reply
    broker.says(body, status, headers)
    transport = etna()
    for step, ask in ASK.items():
        assert await ask(transport) == NotActed(cause=Cause.THROTTLED, detail=f"HTTP {status}", retry_after=wait), step


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "-5"}, {"Retry-After": ""}])
async def test_503_without_a_time_that_can_be_read_is_unknown(
    etna: MakeEtna, broker: Broker, headers: dict[str, str]
) -> None:
    broker.says(ENVELOPED, 503, headers)
    transport = etna()
    for step in SPENDING:
        assert await ASK[step](transport) == Unknown(detail="HTTP 503, and nothing known to mean yes or no"), step


@pytest.mark.parametrize("step", [*SPENDING, "log_in"])
@pytest.mark.parametrize("body", [b"", b"<html>not here</html>", b'{"Message": "denied"}', b"[]", b"null"])
async def test_what_the_api_never_handled_is_not_acted(etna: MakeEtna, broker: Broker, step: str, body: bytes) -> None:
    transport = etna()
    for status in (300, 301, 302, 303, 304, 307, 308, 401, 403, 404, 405, 406, 411, 413, 414, 415):
        broker.says(body, status)
        assert await ASK[step](transport) == NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}")


@pytest.mark.parametrize("step", [*SPENDING, "log_in"])
async def test_what_wants_a_log_in_on_the_way_passed_nothing_on(etna: MakeEtna, broker: Broker, step: str) -> None:
    transport = etna()
    for status, who in ((407, "a proxy on the way"), (511, "the network of this machine")):
        broker.says(b"<html>log in first</html>", status)
        outcome = await ASK[step](transport)
        assert isinstance(outcome, NotActed)
        assert outcome.cause is Cause.PROTOCOL
        assert f"{who} wants a log-in" in outcome.detail


HANDLED = (200, 201, 202, 400, 401, 403, 404, 405, 409, 413, 415, 422)


async def test_the_envelope_counts_and_not_the_status(etna: MakeEtna, broker: Broker) -> None:
    transport = etna()
    for status in HANDLED:
        broker.says(ENVELOPED, status)
        assert await ASK["exchange"](transport) == Accepted(value=Secret(TOKEN)), status
        assert await ASK["update"](transport) == Accepted(), status


@pytest.mark.parametrize("step", SPENDING)
async def test_a_no_is_a_no_under_every_status(etna: MakeEtna, broker: Broker, step: str) -> None:
    transport = etna()
    for status in HANDLED:
        broker.says({"Model": None, "Errors": ["No."], "StatusCode": 409, "IsSucceed": False}, status)
        assert await ASK[step](transport) == Rejected(reasons=["No."]), status


@pytest.mark.parametrize("step", SPENDING)
async def test_an_envelope_that_comes_with_a_failure_or_a_redirect_is_unknown(
    etna: MakeEtna, broker: Broker, step: str
) -> None:
    transport = etna()
    for status in (300, 302, 500, 501, 502, 503, 504, 599):
        for succeeded in (True, False):
            broker.says(ENVELOPED | {"IsSucceed": succeeded}, status)
            assert isinstance(await ASK[step](transport), Unknown), status


@pytest.mark.parametrize("step", SPENDING)
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Message": "An error has occurred."}'])
async def test_everything_else_is_unknown(etna: MakeEtna, broker: Broker, step: str, body: bytes) -> None:
    transport = etna()
    for status in (200, 204, 400, 402, 408, 409, 410, 418, 422, 451, 500, 502, 504):
        broker.says(body, status)
        assert await ASK[step](transport) == Unknown(detail=f"HTTP {status}, and nothing known to mean yes or no")


# Bodies.

DEEP = b'{"Errors": ' + b"[" * 50_000 + b"]" * 50_000 + b', "IsSucceed": true}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"true",
        b'"yes"',
        b"1",
        b"[]",
        b'[{"Errors": [], "IsSucceed": true, "State": "Succeeded"}]',
        b"{}",
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded"',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded"} and more',
        b"{'Errors': [], 'IsSucceed': true, 'State': 'Succeeded'}",
        b'{"Errors": [], "IsSucceed": true, "IsSucceed": true, "State": "Succeeded"}',
        b'{"Errors": [], "IsSucceed": false, "IsSucceed": true, "State": "Succeeded"}',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Other": {"a": 1, "a": 2}}',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Number": NaN}',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Number": -Infinity}',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Number": ' + b"9" * 5000 + b"}",
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Text": "\xff"}',
        b'{"Errors": [], "IsSucceed": true, "State": "Succeeded", "Text": "\xed\xa0\x80"}',
        '{"Errors": [], "IsSucceed": true, "State": "Succeeded"}'.encode("utf-16"),
        b'{"errors": [], "isSucceed": true, "state": "Succeeded"}',
        b'{"Result": {"Errors": [], "IsSucceed": true, "State": "Succeeded"}}',
        b"\x00" * 1000,
        b"[" * 100_000,
        DEEP,
    ],
    ids=lambda body: repr(body[:80]),
)
async def test_what_is_not_quite_a_known_object_is_unknown(etna: MakeEtna, broker: Broker, body: bytes) -> None:
    broker.says(body)
    transport = etna()
    for step in (*SPENDING, "log_in"):
        assert await ASK[step](transport) == NOTHING, step


@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=latin-1", "image/png", ""])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\r\n "])
async def test_the_type_that_a_body_claims_does_not_count(
    etna: MakeEtna, broker: Broker, content_type: str, mark: bytes
) -> None:
    broker.says(mark + json.dumps(ENVELOPED).encode(), headers={"Content-Type": content_type})
    assert await ASK["update"](etna()) == Accepted()


@pytest.mark.parametrize(
    ("envelope", "outcome"),
    [
        # Trap 1: at step 1 an empty list is acceptance, whatever `IsSucceed` says.
        ({"Errors": [], "IsSucceed": False}, Accepted()),
        ({"Errors": [], "IsSucceed": True}, Accepted()),
        ({"Errors": [], "IsSucceed": "true"}, Accepted()),
        ({"Errors": [], "IsSucceed": None}, Accepted()),
        ({"Errors": []}, Accepted()),
        ({"Errors": [], "ErrorsCode": [], "IsSucceed": False}, Accepted()),
        ({"Errors": [], "ErrorsCode": None, "IsSucceed": False}, Accepted()),
        (
            {"Errors": ["Answer is incorrect, try again."], "ErrorsCode": ["ErrorIncorrectAnswer"], "IsSucceed": False},
            Rejected(reasons=["Answer is incorrect, try again."]),
        ),
        ({"Errors": ["No."], "IsSucceed": True}, Rejected(reasons=["No."])),
        ({"Errors": ["No."]}, Rejected(reasons=["No."])),
        ({"Errors": ["No.", "", None, 7, "Never."], "IsSucceed": False}, Rejected(reasons=["No.", "Never."])),
        ({"Errors": None, "IsSucceed": True}, Accepted()),
        ({"IsSucceed": True}, Accepted()),
        ({"Errors": None, "ErrorsCode": ["ErrorX"], "IsSucceed": False}, Rejected(reasons=["ErrorX"])),
        ({"ErrorsCode": ["ErrorX"], "IsSucceed": False}, Rejected(reasons=["ErrorX"])),
        # Yes and no at once, or neither.
        ({"Errors": [], "ErrorsCode": ["ErrorX"], "IsSucceed": False}, NOTHING),
        ({"Errors": [], "ErrorsCode": ["ErrorX"], "IsSucceed": True}, NOTHING),
        ({"Errors": None, "ErrorsCode": ["ErrorX"], "IsSucceed": True}, NOTHING),
        ({"Errors": None, "IsSucceed": False}, NOTHING),
        ({"IsSucceed": False}, NOTHING),
        ({"IsSucceed": "true"}, NOTHING),
        ({"Errors": None}, NOTHING),
        ({"Errors": "", "IsSucceed": True}, NOTHING),
        ({"Errors": {}, "IsSucceed": True}, NOTHING),
        ({"Errors": "No.", "IsSucceed": False}, NOTHING),
        ({"Errors": [""], "IsSucceed": True}, NOTHING),
        ({"Errors": [None], "IsSucceed": False}, NOTHING),
        ({"Errors": [{"Message": "No."}], "IsSucceed": False}, NOTHING),
    ],
    ids=repr,
)
async def test_step_1_by_its_envelope(etna: MakeEtna, broker: Broker, envelope: object, outcome: Outcome) -> None:
    broker.says(envelope)
    assert await ASK["request"](etna()) == outcome


BLANK_NO = Rejected(reasons=())


@pytest.mark.parametrize(
    ("envelope", "outcome"),
    [
        ({"Errors": [], "IsSucceed": False}, BLANK_NO),  # trap 1: acceptance only at step 1
        ({"Errors": [], "IsSucceed": False, "Model": TOKEN}, BLANK_NO),
        ({"Errors": None, "IsSucceed": False}, BLANK_NO),
        ({"IsSucceed": False}, BLANK_NO),
        ({"Errors": [None], "IsSucceed": False}, BLANK_NO),
        ({"Errors": ["No."], "IsSucceed": False}, Rejected(reasons=["No."])),
        ({"Errors": ["No."], "ErrorsCode": ["ErrorX"], "IsSucceed": False}, Rejected(reasons=["No."])),
        ({"Errors": [], "ErrorsCode": ["ErrorX"], "IsSucceed": False}, Rejected(reasons=["ErrorX"])),
        ({"ErrorsCode": ["ErrorX"], "IsSucceed": False}, Rejected(reasons=["ErrorX"])),
        ({"Errors": [], "IsSucceed": "true", "Model": TOKEN}, NOTHING),
        ({"Errors": [], "IsSucceed": 1, "Model": TOKEN}, NOTHING),
        ({"Errors": [], "IsSucceed": None, "Model": TOKEN}, NOTHING),
        ({"Errors": [], "Model": TOKEN}, NOTHING),
        ({"Errors": ["No."]}, NOTHING),
        ({"Errors": "", "IsSucceed": True, "Model": TOKEN}, NOTHING),
        ({"Errors": {}, "IsSucceed": True, "Model": TOKEN}, NOTHING),
        ({"Errors": "No.", "IsSucceed": False}, NOTHING),
    ],
    ids=repr,
)
async def test_steps_3_and_4_by_their_envelope(
    etna: MakeEtna, broker: Broker, envelope: object, outcome: Outcome
) -> None:
    broker.says(envelope)
    transport = etna()
    for step in ("exchange", "update", "pin"):
        assert await ASK[step](transport) == outcome, step


@pytest.mark.parametrize(
    ("envelope", "outcome"),
    [
        ({"Errors": [], "IsSucceed": True}, Accepted()),
        ({"Errors": None, "IsSucceed": True}, Accepted()),
        ({"IsSucceed": True, "ErrorsCode": []}, Accepted()),
        ({"Errors": ["No."], "IsSucceed": True}, NOTHING),
        ({"Errors": [""], "IsSucceed": True}, NOTHING),
        ({"Errors": [], "ErrorsCode": ["ErrorX"], "IsSucceed": True}, NOTHING),
    ],
    ids=repr,
)
async def test_step_4_is_done_only_where_nothing_says_no(
    etna: MakeEtna, broker: Broker, envelope: object, outcome: Outcome
) -> None:
    broker.says(envelope)
    transport = etna()
    for step in ("update", "pin"):
        assert await ASK[step](transport) == outcome, step


@pytest.mark.parametrize("noise", [{}, {"Errors": ["..."], "ErrorsCode": ["..."], "StatusCode": "Continue"}], ids=repr)
@pytest.mark.parametrize(
    ("model", "token"),
    [
        (TOKEN, TOKEN),
        ("x", "x"),
        ("a.b-c_d~e+f/g=", "a.b-c_d~e+f/g="),
        ("x" * 4096, "x" * 4096),
        ("x" * 4097, None),
        ("", None),
        (" ", None),
        (f" {TOKEN}", None),
        (f"{TOKEN}\n", None),
        ("two words", None),
        ("caf\u00e9", None),
        ("\ud800", None),
        (None, None),
        (741175, None),
        ({"Token": TOKEN}, None),
        ([TOKEN], None),
        (True, None),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_step_3_gives_a_token_that_can_be_used_or_none(
    etna: MakeEtna, broker: Broker, noise: dict[str, Any], model: object, token: str | None
) -> None:
    broker.says({"Model": model, "Errors": [], "IsSucceed": True} | noise)
    assert await ASK["exchange"](etna()) == Accepted(value=None if token is None else Secret(token))


async def test_step_3_without_a_model_at_all_gives_none(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    assert await ASK["exchange"](etna()) == Accepted(value=None)


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (
            {"Message": "Validation.", "ModelState": {"a": ["One."], "b": ["Two.", "Three."]}},
            ["One.", "Two.", "Three."],
        ),
        ({"Message": "Validation.", "ModelState": {"a": "One."}}, ["One."]),
        ({"Message": "Validation.", "ModelState": {}}, ["Validation."]),
        ({"Message": "Validation.", "ModelState": {"a": [None, {}]}}, ["Validation."]),
        ({"ModelState": {}}, []),
    ],
    ids=repr,
)
async def test_a_failed_validation_is_a_no(etna: MakeEtna, broker: Broker, body: object, reasons: list[str]) -> None:
    broker.says(body, 400)
    transport = etna()
    for step in (*SPENDING, "log_in", "challenge"):
        assert await ASK[step](transport) == Rejected(reasons=reasons), step


@pytest.mark.parametrize("state", [None, [], "no", True])
async def test_a_model_state_of_another_kind_is_unknown(etna: MakeEtna, broker: Broker, state: object) -> None:
    broker.says({"Message": "Validation error.", "ModelState": state})
    assert await ASK["update"](etna()) == NOTHING


# Step 2 changes nothing.


def protocol(status: int) -> NotActed:
    return NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}, and nothing known to mean yes or no")


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        ({"Model": QUESTION, "Errors": [], "IsSucceed": True}, 200, Accepted(value=Secret(QUESTION))),
        ({"Model": "", "Errors": [], "IsSucceed": True}, 200, Accepted(value=Secret(""))),
        ({"Model": "", "IsSucceed": True}, 200, Accepted(value=Secret(""))),
        ({"Model": None, "Errors": [], "IsSucceed": True}, 200, Accepted(value=None)),
        ({"Errors": [], "IsSucceed": True}, 200, Accepted(value=None)),
        ({"Model": " \u200b\r\n", "Errors": [], "IsSucceed": True}, 200, Accepted(value=None)),
        ({"Model": "A\x00\x1b[31m\r\nB\u202e?", "IsSucceed": True}, 200, Accepted(value=Secret("A [31m B ?"))),
        ({"Model": "x" * 5000, "IsSucceed": True}, 200, Accepted(value=Secret("x" * 1000))),
        ({"Model": "\u4e2d\u6587?", "IsSucceed": True}, 400, Accepted(value=Secret("\u4e2d\u6587?"))),
        (b"", 404, Accepted(value=None)),
        (b"<html>", 404, Accepted(value=None)),
        ({"Message": "no such resource"}, 405, Accepted(value=None)),
        ({"Errors": ["Unknown."], "IsSucceed": False}, 404, Rejected(reasons=["Unknown."])),
        ({"Errors": ["Unknown."], "IsSucceed": False}, 200, Rejected(reasons=["Unknown."])),
        ({"Model": "", "Errors": [], "ErrorsCode": ["ErrorX"], "IsSucceed": False}, 200, Rejected(reasons=["ErrorX"])),
        ({"Model": None, "Errors": [], "IsSucceed": False}, 200, BLANK_NO),
        ({"Model": QUESTION, "Errors": [], "IsSucceed": False}, 200, protocol(200)),
        ({"Model": QUESTION, "Errors": ["No."], "IsSucceed": True}, 200, protocol(200)),
        ({"Model": 7, "Errors": [], "IsSucceed": True}, 200, protocol(200)),
        ({"Model": QUESTION, "Errors": "", "IsSucceed": True}, 200, protocol(200)),
        ({"Model": QUESTION, "Errors": [], "IsSucceed": "true"}, 200, protocol(200)),
        (b"<html>", 200, protocol(200)),
        (b"", 204, protocol(204)),
        (b"", 409, protocol(409)),
        (b"", 302, NotActed(cause=Cause.PROTOCOL, detail="HTTP 302")),
        (b"", 401, NotActed(cause=Cause.PROTOCOL, detail="HTTP 401")),
        (b"", 500, NotActed(detail="HTTP 500, and nothing known to mean yes or no")),
        (ENVELOPED, 502, NotActed(detail="HTTP 502, and nothing known to mean yes or no")),
        (b"", 503, NotActed(detail="HTTP 503, and nothing known to mean yes or no")),
    ],
    ids=lambda value: repr(value)[:80],
)
async def test_step_2_by_its_reply(etna: MakeEtna, broker: Broker, body: object, status: int, outcome: Outcome) -> None:
    broker.says(body, status)
    assert await ASK["challenge"](etna()) == outcome


async def test_a_deadline_at_step_2_is_not_acted(etna: MakeEtna, broker: Broker) -> None:
    broker.fails(TimeoutError())
    assert await ASK["challenge"](etna()) == NotActed(detail="TimeoutError")


async def test_the_question_is_not_in_the_repr(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Model": QUESTION, "Errors": [], "IsSucceed": True})
    assert QUESTION not in repr(await ASK["challenge"](etna()))


# A log-in proves only that a password is right.


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"State": "Succeeded", "Token": "bearer-token"}, Accepted()),
        ({"State": "Expecting", "Step": "VerificationCode", "Reason": "Expecting confirmation code"}, Accepted()),
        (
            {"State": "Failed", "Step": "BaseAuthentication", "Reason": "Invalid credentials"},
            Rejected(reasons=["Invalid credentials"]),
        ),
        ({"State": "Failed"}, BLANK_NO),
        ({"State": "Expecting"}, Unknown),
        ({"State": "Expecting", "Step": "BaseAuthentication"}, Unknown),
        ({"State": "BaseAuthentication", "Reason": "Your Password has expired and must be changed"}, Unknown),
        ({"State": "succeeded"}, Unknown),
        ({"State": True}, Unknown),
        ({"State": ["Succeeded"]}, Unknown),
    ],
    ids=repr,
)
async def test_a_log_in_by_its_reply(
    etna: MakeEtna, broker: Broker, body: object, outcome: Outcome | type[Unknown]
) -> None:
    transport = etna()
    for status in (200, 202, 400, 401, 403):
        broker.says(body, status)
        got = await ASK["log_in"](transport)
        assert type(got) is outcome if isinstance(outcome, type) else got == outcome, status


async def test_the_token_of_a_log_in_is_not_kept(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"State": "Succeeded", "Token": "bearer-token"})
    got = await ASK["log_in"](etna())
    assert isinstance(got, Accepted)
    assert got.value is None


# Nothing leaks.


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("User robert.zak is locked.", "User *** is locked."),
        ("robert.zak, robert.zak!", "***, ***!"),
        ("User ROBERT.ZAK is locked.", "***"),
        ("Answer 'Peterson' is incorrect, try again.", "Answer '***' is incorrect, try again."),
        ("x" * 195 + "Peterson", "x" * 195 + "***"),
        ("Answer is incorrect, try again.", "Answer is incorrect, try again."),
    ],
)
async def test_what_the_broker_repeats_of_ours_is_hidden(
    etna: MakeEtna, broker: Broker, words: str, reason: str
) -> None:
    broker.says({"Errors": [words], "IsSucceed": False})
    assert await ASK["request"](etna()) == Rejected(reasons=[reason])


async def test_a_short_secret_is_hidden_where_it_stands_alone(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": ["'RED' is incorrect: you are not registered."], "IsSucceed": False})
    got = await etna().request(CASE, Secret("red"))
    assert got == Rejected(reasons=["'***' is incorrect: you are not registered."])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("exchange", "Code 741175 is wrong."),
        ("update", f"Token {TOKEN} is spent, and 'new password' is weak."),
        ("pin", f"Token {TOKEN} is spent, and 8642 is weak."),
        ("log_in", "'new password' is wrong."),
        ("challenge", "There is no robert.zak."),
    ],
)
async def test_no_reason_holds_what_was_sent(etna: MakeEtna, broker: Broker, step: str, words: str) -> None:
    broker.says({"Message": "", "ModelState": {"": [words]}}, 400)
    got = await ASK[step](etna())
    assert isinstance(got, Rejected)
    assert "***" in str(got.reasons[0])
    for secret in ("741175", TOKEN, "new password", "8642", USER):
        assert secret not in str(got.reasons[0])


@pytest.mark.parametrize(
    "error",
    [aiohttp.ClientOSError(1, "of robert.zak"), ValueError("robert.zak"), RuntimeError("robert.zak"), TimeoutError()],
    ids=repr,
)
async def test_no_error_of_the_driver_gets_out(
    etna: MakeEtna, broker: Broker, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    broker.fails(error)
    transport = etna()
    for ask in ASK.values():
        got = await ask(transport)
        assert isinstance(got, NotActed | Unknown)
        assert got.detail == type(error).__name__
    assert caplog.records == []


async def test_cancelling_passes_through(etna: MakeEtna, broker: Broker) -> None:
    broker.fails(asyncio.CancelledError())
    for ask in ASK.values():
        with pytest.raises(asyncio.CancelledError):
            await ask(etna())


async def test_a_closed_transport_says_so(etna: MakeEtna, broker: Broker) -> None:
    transport = etna()
    await transport.aclose()
    await transport.aclose()
    for ask in ASK.values():
        got = await ask(transport)
        assert got == NotActed(detail="the transport is closed")
    assert broker.calls == []


def test_neither_key_nor_secret_is_in_a_repr(etna: MakeEtna) -> None:
    transport = etna()
    assert repr(transport) == "EtnaTransport(name='etna:https://broker.test/api', revision='identifiers')"
    # From inside, because a traceback with variables shows private attributes, too.
    assert "app-key" not in repr(vars(transport)) + repr(vars(transport._sender))


# Settings.


def test_it_is_a_transport(etna: MakeEtna) -> None:
    transport: Transport = etna(deadline=timedelta(seconds=7))
    assert transport.deadline == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("robert.zak", "robert.zak"),
        ("  Robert.ZAK\t", "robert.zak"),
        ("Hello@AutoShares.com", "hello@autoshares.com"),
        ("\uff32obert", "robert"),
        ("Stra\u00dfe", "strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u00a0zak\u3000", "zak"),
    ],
)
def test_spellings_of_one_user_have_one_canonical_form(etna: MakeEtna, spelling: str, canonical: str) -> None:
    assert etna().canonical_user(spelling) == canonical
    assert etna().canonical_user(canonical) == canonical


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://broker.test/api", "etna:https://broker.test/api"),
        ("https://Broker.TEST:443/api/", "etna:https://broker.test/api"),
        ("HTTPS://broker.test:8443/a/b//", "etna:https://broker.test:8443/a/b"),
        ("https://broker.test", "etna:https://broker.test"),
        ("http://localhost:8080/api", "etna:http://localhost:8080/api"),
        ("http://127.8.8.8/api", "etna:http://127.8.8.8/api"),
        ("http://[::1]:1/api", "etna:http://[::1]:1/api"),
        ("https://b\u00fccher.test/api", "etna:https://xn--bcher-kva.test/api"),
    ],
)
def test_the_name_is_made_of_the_url(etna: MakeEtna, base_url: str, name: str) -> None:
    assert etna(base_url).name == name
    assert etna(base_url, name="etna:ours").name == "etna:ours"


async def test_a_slash_at_the_end_of_the_url_changes_nothing(etna: MakeEtna, broker: Broker) -> None:
    broker.says({"Errors": [], "IsSucceed": True})
    await etna(f"{BASE}/").request(CASE, None)
    assert broker.call.url == f"{BASE}/v1.0/users/password/reset"


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "broker.test/api",
        "//broker.test/api",
        "/api",
        "https://",
        "https:///api",
        "ftp://broker.test/api",
        "file:///etc/api",
        "http://broker.test/api",
        "http://10.0.0.1/api",
        "http://localhost.test/api",
        "http://127.0.0.1.test/api",
        "http://128.0.0.1/api",
        "http://[::2]/api",
        "http://0.0.0.0/api",
        "https://robert:hunter2@broker.test/api",
        "https://hunter2@broker.test/api",
        "https://@broker.test/api",
        "https://:@broker.test/api",
        "https://broker.test/api?key=hunter2",
        "https://broker.test/api?",
        "https://broker.test/api#hunter2",
        "https://broker.test/api#",
        "https://broker.test:99999/api",
        "https://broker.test:hunter2/api",
        "https://[hunter2/api",
        "https://broker test/api",
        " https://broker.test/api",
        "https://broker.test/api\n",
        "https://broker.test/\x00api",
        "https://broker.test\\@hunter2/api",
    ],
)
def test_another_url_is_refused_and_not_repeated(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        EtnaTransport(base_url, "key")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("app_key", ["", " ", "a\r\nHost: b", "a\n", "a\0", "a\t", "\u4e2d", " a", "a\x85b"])
def test_an_app_key_that_no_header_can_carry_is_refused(app_key: str) -> None:
    with pytest.raises(ConfigurationError, match="app_key"):
        EtnaTransport(BASE, app_key)
    EtnaTransport(BASE, "a key \u00e9")


@pytest.mark.parametrize(
    "options",
    [{"revision": "first"}, {"pin_method": "DELETE"}, {"pin_method": "POST /"}, {"pin_method": 5}],
    ids=repr,
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        EtnaTransport(BASE, "key", **options)

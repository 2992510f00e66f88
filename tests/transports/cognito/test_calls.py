"""The requests to a user pool, and the meaning of its replies: the tables of `cognito_protocol`, row by row."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import (
    Accepted,
    Case,
    Cause,
    CodeFormat,
    CognitoTransport,
    ConfigurationError,
    NewCredential,
    NotActed,
    Rejected,
    Secret,
    Step,
    Unknown,
)

if TYPE_CHECKING:
    from reset_flow import Outcome
    from tests.transports.cognito.conftest import MakeCognito
    from tests.transports.conftest import Broker

Ask = Callable[[CognitoTransport], Awaitable["Outcome"]]

ENDPOINT = "https://cognito-idp.eu-central-1.amazonaws.com"
CLIENT_ID = "3n4b5urk1ft4fl3mg5e62d9ado"
CLIENT_SECRET = "51kq0secretofnobody"
SECRET_HASH = "Z2YuEr6Ug6hfxlwZN0FM0CLjGaoY1aTfKXjFd6p8NLo="
"""By `openssl dgst -sha256 -hmac`, in base64."""
USER, CODE, PASSWORD = "robert.zak", "041175", "Violet-tractor-5"
CASE = Case(user=USER)
NEW = NewCredential(secret=Secret(PASSWORD))

ASK: dict[str, Ask] = {
    "request": lambda cognito: cognito.request(CASE, None),
    "update": lambda cognito: cognito.update(CASE, Secret(CODE), NEW),
    "log_in": lambda cognito: cognito.log_in(CASE, Secret(PASSWORD)),
    "probe": lambda cognito: cognito.probe(CASE),
}
SUCCESS: dict[str, object] = {
    "request": {"CodeDeliveryDetails": {"Destination": "r***@e***", "DeliveryMedium": "EMAIL"}},
    "update": {},
    "log_in": {"AuthenticationResult": {"AccessToken": "token-of-nobody"}, "ChallengeParameters": {}},
}
NOTHING = Unknown(detail="HTTP 200, and nothing known to mean yes or no")


# Requests.


@pytest.mark.parametrize(
    ("step", "operation", "body"),
    [
        ("request", "ForgotPassword", {"ClientId": CLIENT_ID, "Username": USER}),
        (
            "update",
            "ConfirmForgotPassword",
            {"ClientId": CLIENT_ID, "Username": USER, "ConfirmationCode": CODE, "Password": PASSWORD},
        ),
        (
            "log_in",
            "InitiateAuth",
            {
                "ClientId": CLIENT_ID,
                "AuthFlow": "USER_PASSWORD_AUTH",
                "AuthParameters": {"USERNAME": USER, "PASSWORD": PASSWORD},
            },
        ),
        ("probe", "GetUser", {"AccessToken": "none"}),
    ],
)
async def test_a_call_is_as_documented(
    cognito: MakeCognito, broker: Broker, step: str, operation: str, body: object
) -> None:
    broker.says(SUCCESS.get(step, {}))
    await ASK[step](cognito(ENDPOINT, CLIENT_ID))
    assert (broker.call.method, broker.call.url) == ("POST", f"{ENDPOINT}/")
    assert broker.call.json == body
    assert broker.call.headers == {
        "X-Amz-Target": f"AWSCognitoIdentityProviderService.{operation}",
        "Content-Type": "application/x-amz-json-1.1",
        "Accept-Encoding": "identity",
    }


async def test_a_client_with_a_secret_sends_its_hash_with_the_login(cognito: MakeCognito, broker: Broker) -> None:
    broker.says({})
    transport = cognito(ENDPOINT, CLIENT_ID, client_secret=Secret(CLIENT_SECRET))
    for step in ("request", "update", "log_in"):
        await ASK[step](transport)
    request, update, log_in = (call.json for call in broker.calls)
    assert request["SecretHash"] == update["SecretHash"] == log_in["AuthParameters"]["SECRET_HASH"] == SECRET_HASH
    assert CLIENT_SECRET not in json.dumps([request, update, log_in])


async def test_there_is_no_question_and_no_exchange(cognito: MakeCognito, broker: Broker) -> None:
    broker.says({})
    transport = cognito(ENDPOINT, CLIENT_ID)
    assert await transport.challenge(CASE) == Accepted(value=Secret(""))
    assert isinstance(await transport.exchange(CASE, Secret(CODE)), NotActed)
    assert broker.calls == []


async def test_what_utf_8_can_not_carry_is_not_sent(cognito: MakeCognito, broker: Broker) -> None:
    broker.says({})
    half, case = Secret("\ud800"), Case(user="\ud800")
    unsendable = NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")
    for transport in (cognito(ENDPOINT, CLIENT_ID), cognito(ENDPOINT, CLIENT_ID, client_secret=CLIENT_SECRET)):
        assert await transport.request(case, None) == unsendable
        assert await transport.update(CASE, Secret(CODE), NewCredential(secret=half)) == unsendable
        assert await transport.log_in(CASE, half) == unsendable
    assert broker.calls == []


def test_what_it_says_of_itself() -> None:
    transport = CognitoTransport(ENDPOINT, CLIENT_ID)
    assert transport.name == f"cognito:{ENDPOINT}/{CLIENT_ID}"
    assert repr(transport) == f"CognitoTransport(name='cognito:{ENDPOINT}/{CLIENT_ID}')"
    assert transport.capabilities.code == CodeFormat.digits(6)
    assert transport.capabilities.code_lifetime == timedelta(hours=1)
    assert not transport.capabilities.verifies_code
    assert transport.canonical_user(" Robert.ZAK ") == transport.canonical_user("robert.zak")
    renamed = CognitoTransport(ENDPOINT, CLIENT_ID, name="people", aliases=["cognito:old"])
    assert (renamed.name, renamed.aliases) == ("people", frozenset({"cognito:old"}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "http://cognito-idp.eu-central-1.amazonaws.com"}, "endpoint must be https"),
        ({"endpoint": "https://user:password@host"}, "endpoint must have no credentials"),
        ({"endpoint": "eu-central-1"}, "endpoint must be like https://"),
        ({"client_id": ""}, "client_id must be 1 to 128"),
        ({"client_id": "two words"}, "client_id must be 1 to 128"),
        ({"client_id": "x" * 129}, "client_id must be 1 to 128"),
        ({"client_id": None}, "client_id must be 1 to 128"),
        ({"client_secret": ""}, "client_secret must be text"),
        ({"client_secret": "\ud800"}, "client_secret must be text"),
        ({"client_secret": 5}, "client_secret must be text"),
        ({"name": ""}, "name must be printable"),
        ({"deadline": timedelta(0)}, "deadline must be"),
    ],
    ids=repr,
)
def test_a_setting_that_can_not_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{words}"):
        CognitoTransport(**{"endpoint": ENDPOINT, "client_id": CLIENT_ID} | options)


# Errors.

WORDS = "These are the words of the pool."


def refused(about: Step | None = None) -> Rejected:
    return Rejected(reasons=[WORDS], about=about)


def not_acted(cause: Cause) -> Callable[[str], NotActed]:
    return lambda kind: NotActed(cause=cause, detail=kind)


ERRORS: dict[str, Callable[[str], Outcome]] = {
    **dict.fromkeys(
        [
            "CodeMismatchException",
            "ExpiredCodeException",
            "NotAuthorizedException",
            "PasswordResetRequiredException",
            "TooManyFailedAttemptsException",
            "UserNotConfirmedException",
            "UserNotFoundException",
        ],
        lambda _: refused(Step.CODE),
    ),
    **dict.fromkeys(
        ["InvalidParameterException", "InvalidPasswordException", "PasswordHistoryPolicyViolationException"],
        lambda _: refused(),
    ),
    **dict.fromkeys(
        ["LimitExceededException", "ThrottlingException", "TooManyRequestsException"], not_acted(Cause.THROTTLED)
    ),
    **dict.fromkeys(
        [
            "FeatureUnavailableInTierException",
            "ForbiddenException",
            "InvalidEmailRoleAccessPolicyException",
            "InvalidSmsRoleAccessPolicyException",
            "InvalidSmsRoleTrustRelationshipException",
            "InvalidUserPoolConfigurationException",
            "OperationNotEnabledException",
            "ResourceNotFoundException",
            "UnknownOperationException",
            "UnsupportedOperationException",
        ],
        not_acted(Cause.FORBIDDEN),
    ),
    **dict.fromkeys(
        [
            "CodeDeliveryFailureException",
            "InternalErrorException",
            "InvalidLambdaResponseException",
            "UnexpectedLambdaException",
            "UserLambdaValidationException",
            "AnErrorOfTomorrowException",
        ],
        lambda kind: Unknown(detail=f"HTTP 400, {kind}"),
    ),
}


@pytest.mark.parametrize("step", ASK)
@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_means_what_the_table_says(cognito: MakeCognito, broker: Broker, step: str, kind: str) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for written in (kind, f"com.amazonaws.cognito.identity.idp.model#{kind}", f"{kind}:http://internal.amazon.com/"):
        broker.says({"__type": written, "message": WORDS}, 400)
        outcome = ERRORS[kind](kind)
        up = step == "probe" and isinstance(outcome, Rejected)  # a pool has answered, which is all that is asked
        assert await ASK[step](transport) == (Accepted() if up else outcome), written


async def test_the_type_counts_and_not_which_4xx_it_comes_with(cognito: MakeCognito, broker: Broker) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for status in (400, 401, 403, 404, 413, 429, 499):
        broker.says({"__type": "UserNotFoundException", "message": WORDS}, status, {"Retry-After": "30"})
        assert await ASK["request"](transport) == refused(Step.CODE), status
        broker.says({"__type": "TooManyRequestsException"}, status, {"Retry-After": "30"})
        wait = timedelta(seconds=30)
        throttled = NotActed(cause=Cause.THROTTLED, detail="TooManyRequestsException", retry_after=wait)
        assert await ASK["request"](transport) == throttled, status


@pytest.mark.parametrize("kind", ERRORS)
async def test_an_error_that_comes_as_a_success_a_failure_or_a_redirect_is_unknown(
    cognito: MakeCognito, broker: Broker, kind: str
) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for status in (200, 204, 302, 500, 502, 503):
        broker.says({"__type": kind, "message": WORDS}, status)
        for step, ask in ASK.items():
            assert await ask(transport) == Unknown(detail=f"HTTP {status}, {kind}"), (step, status)


@pytest.mark.parametrize(
    "words",
    [
        f"Unable to verify secret hash for client {CLIENT_ID}",
        f"Client {CLIENT_ID} is configured with secret but SECRET_HASH was not received",
        f"Client {CLIENT_ID} is configured for secret but secret was not received",
    ],
)
async def test_a_wrong_secret_of_the_client_is_forbidden(cognito: MakeCognito, broker: Broker, words: str) -> None:
    broker.says({"__type": "NotAuthorizedException", "message": words}, 400)
    transport = cognito(ENDPOINT, CLIENT_ID)
    for step in ("request", "update", "log_in"):
        assert await ASK[step](transport) == NotActed(cause=Cause.FORBIDDEN, detail="NotAuthorizedException")


async def test_an_error_without_words_is_refused_without_words(cognito: MakeCognito, broker: Broker) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for message in ({}, {"message": None}, {"message": ["No."]}, {"message": ""}):
        broker.says({"__type": "InvalidPasswordException", **message}, 400)
        assert await ASK["update"](transport) == Rejected()


@pytest.mark.parametrize("repeated", [USER, USER.upper(), CODE, PASSWORD, CLIENT_ID, SECRET_HASH])
async def test_nothing_that_was_sent_comes_back(cognito: MakeCognito, broker: Broker, repeated: str) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID, client_secret=CLIENT_SECRET)
    broker.says({"__type": "InvalidParameterException", "message": f"'{repeated}'\nat 'username' is wrong"}, 400)
    refused = await ASK["update"](transport)
    assert isinstance(refused, Rejected)
    assert refused.reasons in (("'***' at 'username' is wrong",), ("***",))
    broker.says({"__type": "Robert", "message": f"'{repeated}' is wrong"}, 400)
    assert await transport.request(Case(user="Robert"), None) == Unknown(detail="HTTP 400, ***")


# Successes.


@pytest.mark.parametrize(
    ("delivery", "shown"),
    [
        ({"Destination": "r***@e***", "DeliveryMedium": "EMAIL", "AttributeName": "email"}, "r***@e***"),
        ({"Destination": "+*******9934", "DeliveryMedium": "SMS"}, "+*******9934"),
        ({"Destination": "r***@e***\n\x1b[31m"}, "r***@e*** [31m"),
        ({"Destination": "robert.zak@example.com"}, None),
        ({"Destination": None}, None),
        ({"Destination": ["r***@e***"]}, None),
        ({}, None),
    ],
    ids=repr,
)
async def test_of_where_a_code_went_only_what_is_masked_is_shown(
    cognito: MakeCognito, broker: Broker, delivery: object, shown: str | None
) -> None:
    broker.says({"CodeDeliveryDetails": delivery})
    assert await ASK["request"](cognito(ENDPOINT, CLIENT_ID)) == Accepted(sent_to=shown)


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_empty_reply_is_a_password_set_and_nothing_else(
    cognito: MakeCognito, broker: Broker, body: bytes
) -> None:
    broker.says(body)
    transport = cognito(ENDPOINT, CLIENT_ID)
    assert await ASK["update"](transport) == Accepted()
    assert await ASK["request"](transport) == NOTHING
    assert await ASK["log_in"](transport) == NOTHING


@pytest.mark.parametrize(
    "challenge", ["DEVICE_SRP_AUTH", "EMAIL_OTP", "MFA_SETUP", "SELECT_MFA_TYPE", "SMS_MFA", "SOFTWARE_TOKEN_MFA"]
)
async def test_what_is_asked_for_after_a_right_password_proves_it(
    cognito: MakeCognito, broker: Broker, challenge: str
) -> None:
    broker.says({"ChallengeName": challenge, "Session": "session-of-nobody"})
    assert await ASK["log_in"](cognito(ENDPOINT, CLIENT_ID)) == Accepted()


@pytest.mark.parametrize(
    "document",
    [
        {"ChallengeName": "NEW_PASSWORD_REQUIRED"},  # a temporary password, which no reset has set
        {"ChallengeName": "PASSWORD_VERIFIER"},
        {"ChallengeName": "CUSTOM_CHALLENGE"},
        {"ChallengeName": "SELECT_CHALLENGE", "AvailableChallenges": ["PASSWORD"]},
        {"ChallengeName": ["SMS_MFA"]},
        {"AuthenticationResult": None},
        {"AuthenticationResult": "token-of-nobody"},
    ],
    ids=repr,
)
async def test_what_is_asked_for_without_a_password_proves_nothing(
    cognito: MakeCognito, broker: Broker, document: object
) -> None:
    broker.says(document)
    assert await ASK["log_in"](cognito(ENDPOINT, CLIENT_ID)) == NOTHING


async def test_only_200_is_a_success(cognito: MakeCognito, broker: Broker) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for step, document in SUCCESS.items():
        for status in (200, 201, 204, 400, 409, 500, 502, 503, 504):
            broker.says(document, status)
            outcome = await ASK[step](transport)
            assert isinstance(outcome, Accepted if status == 200 else Unknown), (step, status)


# What is no reply of a pool.


@pytest.mark.parametrize("step", ASK)
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b'{"message": "Forbidden"}', b"[]", b"null"])
async def test_a_gateway_that_turns_away_did_nothing(
    cognito: MakeCognito, broker: Broker, step: str, body: bytes
) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for status in (301, 302, 307, 308, 401, 403, 404, 405, 413, 415):
        broker.says(body, status)
        assert await ASK[step](transport) == NotActed(cause=Cause.PROTOCOL, detail=f"HTTP {status}")
    for status in (429, 503):
        broker.says(body, status, {"Retry-After": "30"})
        wait = timedelta(seconds=30)
        assert await ASK[step](transport) == NotActed(cause=Cause.THROTTLED, detail=f"HTTP {status}", retry_after=wait)


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"true",
        b"[]",
        b"[{}]",
        b"{",
        b"{} and more",
        b"{'a': 1}",
        b'{"message": "OK"}',
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b'{"__type": 5}',
        b'{"__type": "no name"}',
        b'{"__type": ["UserNotFoundException"]}',
        b"[" * 100_000,
        b'{"__type": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "{}".encode("utf-16"),
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_what_is_not_quite_a_known_object_is_unknown(cognito: MakeCognito, broker: Broker, body: bytes) -> None:
    transport = cognito(ENDPOINT, CLIENT_ID)
    for status in (200, 400):
        broker.says(body, status)
        for step, ask in ASK.items():
            unknown = Unknown(detail=f"HTTP {status}, and nothing known to mean yes or no")
            assert await ask(transport) == unknown, (step, status)

"""The broker's replies, key for key as its documents print them."""

from collections.abc import Mapping
from typing import Any

from reset_flow.sandbox.broker import LogInState
from reset_flow.sandbox.settings import Settings

Json = dict[str, Any]

WRONG_APP_KEY: Json = {"error": "Application key is not defined or does not exist"}
WRONG_ANSWER: Json = {
    "Errors": ["Answer is incorrect, try again."],
    "ErrorsCode": ["ErrorIncorrectAnswer"],
    "IsSucceed": False,
}
UPDATED: Json = {"Errors": [], "IsSucceed": True}

# Not documented: the usual replies of the broker's web framework, outside the envelope.
UNAUTHORIZED: Json = {"Message": "Authorization has been denied for this request."}
NOT_FOUND: Json = {"Message": "No HTTP resource was found that matches the request URI."}
WRONG_VERB: Json = {"Message": "The requested resource does not support this http method."}
TOO_LARGE: Json = {"Message": "The request entity is too large."}


def requested(settings: Settings) -> Json:
    """Return the reply to an accepted step 1; in the documents' sample, ``IsSucceed`` is false."""
    return {"Errors": [], "IsSucceed": settings.request_is_succeed}


def model(value: Any) -> Json:
    """Return the reply of step 2, of step 3 of the first revision, and of the images."""
    return {"Model": value, "Errors": [], "IsSucceed": True}


def token_of_later_revision(token: str) -> Json:
    """Return the reply of step 3 of the later revision."""
    return {"Model": token, "Errors": [], "ErrorsCode": [], "StatusCode": "Continue", "IsSucceed": True}


def refusal(settings: Settings, message: str) -> Json:
    """Return the envelope of a refusal."""
    reply: Json = {"Model": None, "Errors": [message]}
    if settings.errors_code:
        reply["ErrorsCode"] = ["ErrorRefused"]
    return {**reply, "StatusCode": settings.refusal_code, "IsSucceed": False}


def invalid(fields: Mapping[str, list[str]]) -> Json:
    """Return the reply to a request that fails validation. The misspelling is the broker's."""
    return {"Message": "Validation error occured while processing entity", "ModelState": dict(fields)}


def logged_in(state: LogInState, token: str) -> Json:
    """Return the reply to a log-in."""
    match state:
        case LogInState.SUCCEEDED:
            return {"State": "Succeeded", "Token": token}
        case LogInState.PASSWORD_EXPIRED:
            reason = "Your Password has expired and must be changed"
            return {"State": "BaseAuthentication", "Reason": reason, "Token": token}
        case LogInState.EXPECTING_CODE:
            reason = "Expecting confirmation code"
            return {"State": "Expecting", "Step": "VerificationCode", "Reason": reason}
        case LogInState.FAILED:
            return {"State": "Failed", "Step": "BaseAuthentication", "Reason": "Invalid credentials"}

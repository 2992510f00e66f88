"""
Judge the replies of Amazon Cognito user pools. Without I/O.

By the API reference (2016-04-18) and the developer guide. A reply becomes an outcome by the first row that fits. An
"error" is a JSON object with the name of an error as `__type`, perhaps behind a namespace and a `#`.

=====================================================================  =============================================
reply                                                                  outcome
=====================================================================  =============================================
4xx, an error                                                          by the table below
200, what the operation is documented to return                        `Accepted`; for a log-in see `PROOFS`
429; 503 with a valid `Retry-After`                                    `NotActed`, throttled
3xx and `http.NEVER_HANDLED`, no error, the whole body read            `NotActed`, the protocol
everything else, such as `InternalErrorException` with 500             `Unknown`
=====================================================================  =============================================

Cognito answers each of these errors with 400, and some with another 4xx, so the type counts, not the status.

=============================================  ====================================================================
error                                          outcome, and why
=============================================  ====================================================================
`CodeMismatchException`                        `Rejected`, about the code
`ExpiredCodeException`                         `Rejected`, about the code: too old, spent, or none was asked for. A
                                               repeat of an update that succeeded gets it, too
`TooManyFailedAttemptsException`               `Rejected`, about the code: it may have been judged, so its guess
                                               counts. No password is set
`InvalidPasswordException`,                    `Rejected`, in the words of the pool
`PasswordHistoryPolicyViolationException`
`InvalidParameterException`                    `Rejected`: a login without a verified address, a login or a password
                                               that no pool takes. The client id is checked beforehand; nothing else
                                               of ours can be wrong in a reset
`UserNotFoundException`,                       `Rejected`. With a new password it is said of the code, as for a wrong
`UserNotConfirmedException`,                   one: the flow may be one whose start was left in doubt
`PasswordResetRequiredException`
`NotAuthorizedException`                       `Rejected`, likewise: disabled, a state without a reset. About
                                               client and secret: `NotActed`, forbidden (the type is the same, the
                                               words differ)
`LimitExceededException`                       `NotActed`, throttled. For a user it is the limit on codes asked for
                                               and typed in an hour, judged before anything else is; for a pool the
                                               e-mails of a day. AWS's own libraries send such a request again
`TooManyRequestsException`,                    `NotActed`, throttled: the rate of the pool or the account
`ThrottlingException`
`FORBIDDEN`: client, WAF, pool, sending        `NotActed`, forbidden: ours to mend. The roles for e-mail and SMS are
                                               looked at before a message is sent
`CodeDeliveryFailureException`                 `Unknown`: a sender that failed may have sent
`UserLambdaValidationException`,               `Unknown`: `ConfirmForgotPassword` runs its trigger after the password
`UnexpectedLambdaException`,                   is set, `ForgotPassword` also those that send
`InvalidLambdaResponseException`
any other                                      `Unknown`
=============================================  ====================================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reset_flow.domain.flow import Step
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.text import printable
from reset_flow.transports.http import Reply, turned_away
from reset_flow.transports.replies import parse, redact_words, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.transports.http import Result
    from reset_flow.transports.replies import Document, Secrets

ABOUT_PASSWORD = frozenset(
    {"InvalidParameterException", "InvalidPasswordException", "PasswordHistoryPolicyViolationException"}
)
ABOUT_CODE = frozenset(
    {
        "CodeMismatchException",
        "ExpiredCodeException",
        "NotAuthorizedException",
        "PasswordResetRequiredException",
        "TooManyFailedAttemptsException",
        "UserNotConfirmedException",
        "UserNotFoundException",
    }
)
"""Those about the user included: a flow whose start was left in doubt must not tell who is unknown by them."""
THROTTLED = frozenset({"LimitExceededException", "ThrottlingException", "TooManyRequestsException"})
FORBIDDEN = frozenset(
    {
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
    }
)
PROOFS = frozenset({"DEVICE_SRP_AUTH", "EMAIL_OTP", "MFA_SETUP", "SELECT_MFA_TYPE", "SMS_MFA", "SOFTWARE_TOKEN_MFA"})
"""
Challenges that `USER_PASSWORD_AUTH` makes only after a right password. `NEW_PASSWORD_REQUIRED` is none of them: it says
that the password is a temporary one of an administrator's, which no reset has set.
"""
KIND = re.compile(r"(?:.*#)?([A-Z][A-Za-z]{2,63})(?::.*)?")
OK, CLIENT_ERROR = 200, 4


def judge(result: Result, read: Callable[[Document], Accepted | None], secrets: Secrets) -> Outcome:
    """
    Return the outcome of a call, by the tables above.

    Args:
        read: Reads the document of a success: an acceptance, or `None` if it is not what is documented.

        secrets: Redacted in the words of a refusal.
    """
    if not isinstance(result, Reply):
        return result
    document = parse(result.body or b"{}") if result.body is not None else None
    error = KIND.fullmatch(_text(document, "__type")) if document else None
    outcome: Outcome | None = None
    if document and error and result.status // 100 == CLIENT_ERROR:
        outcome = _read_error(error[1], document, result, secrets)
    elif document is not None and result.status == OK:
        outcome = read(document)
    if outcome := outcome or turned_away(result, recognized=bool(error)):
        return outcome
    return Unknown(detail=f"HTTP {result.status}, {redact_words([error[1]], secrets)[0]}") if error else unknown(result)


def read_request(document: Document) -> Accepted | None:
    """Read the success of `ForgotPassword`. Of the destination only what is masked is shown."""
    delivery = document.get("CodeDeliveryDetails")
    if not isinstance(delivery, dict):
        return None
    destination = _text(delivery, "Destination")
    return Accepted(sent_to=printable(destination) if "*" in destination else None)


def read_update(document: Document) -> Accepted | None:
    """Read the success of `ConfirmForgotPassword`: an empty body by the documents, an empty object in practice."""
    return None if document else Accepted()


def read_log_in(document: Document) -> Accepted | None:
    """Read the success of `InitiateAuth`. The tokens in it are dropped."""
    proven = isinstance(document.get("AuthenticationResult"), dict) or _text(document, "ChallengeName") in PROOFS
    return Accepted() if proven else None


def _read_error(kind: str, document: Document, reply: Reply, secrets: Secrets) -> Rejected | NotActed | None:
    message = _text(document, "message")
    if kind in FORBIDDEN or (kind == "NotAuthorizedException" and _is_about_secret(message.lower())):
        return NotActed(cause=Cause.FORBIDDEN, detail=kind)
    if kind in THROTTLED:
        return NotActed(cause=Cause.THROTTLED, detail=kind, retry_after=reply.retry_after)
    if kind in ABOUT_CODE | ABOUT_PASSWORD:
        reasons = redact_words([message] if message else [], secrets)
        return Rejected(reasons=reasons, about=Step.CODE if kind in ABOUT_CODE else None)
    return None


def _is_about_secret(message: str) -> bool:
    return "client" in message and "secret" in message


def _text(document: Document, key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""

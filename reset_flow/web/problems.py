"""Errors as HTTP sees them: problem details (RFC 9457), with no framework."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from reset_flow.domain import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/problem+json"

STATUSES: Mapping[type[errors.ResetFlowError], HTTPStatus] = {
    errors.ResetFlowError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidInput: HTTPStatus.BAD_REQUEST,
    errors.ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.KeyringError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.FlowNotFound: HTTPStatus.NOT_FOUND,
    errors.FlowEnded: HTTPStatus.GONE,
    errors.IllegalCommand: HTTPStatus.CONFLICT,
    errors.FlowBusy: HTTPStatus.CONFLICT,
    errors.KeyReused: HTTPStatus.CONFLICT,
    errors.CommandVetoed: HTTPStatus.FORBIDDEN,
    errors.LimitReached: HTTPStatus.TOO_MANY_REQUESTS,
    errors.InputRejected: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.BrokerError: HTTPStatus.BAD_GATEWAY,
    errors.BrokerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of each kind of error, and of those below it."""


@attrs.frozen
class Problem:
    """
    A response for an error.

    Attributes:
        status: Of HTTP.

        headers: `Content-Type`, `Cache-Control`, and `Retry-After` in seconds where waiting helps.

        body: Ready for JSON: `type`, `title`, `status`, `detail`, `code`, `reasons`, `limit`, `attempts_left`,
            `retry_after` in seconds, and `flow` as a `PublicFlow`.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    def encode(self) -> bytes:
        """Return the body as JSON."""
        return msgspec.json.encode(self.body)


class HttpError(errors.ResetFlowError):
    """A request that is none of ours: its status and code tell why."""

    def __init__(self, status: HTTPStatus, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers or {}


def malformed(detail: str) -> HttpError:
    """Return the error for a request that can't be understood. It repeats nothing of it."""
    return HttpError(HTTPStatus.BAD_REQUEST, "malformed", detail)


def problem(error: errors.ResetFlowError) -> Problem:
    """Return the response for an error. It says nothing that the person may not know."""
    status = status_of(error)
    headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
    if isinstance(error, HttpError):
        headers |= error.headers
    if (seconds := seconds_to_wait(error)) is not None:
        headers["Retry-After"] = str(seconds)
    flow = None if isinstance(error, errors.HeldElsewhere) else error.flow  # who asks may not see it
    body = {
        "type": f"urn:reset-flow:problem:{error.code}",
        "title": status.phrase,
        "status": status.value,
        "detail": _detail(error, status),
        "code": error.code,
        "reasons": [
            {"code": reason.code, "text": reason.text}
            for reason in (error.reasons if isinstance(error, errors.InputRejected) else ())
        ],
        "limit": error.limit if isinstance(error, errors.LimitReached) else None,
        "attempts_left": flow.attempts_left if flow else None,
        "retry_after": seconds,
        "flow": flow.public() if flow else None,
    }
    return Problem(status.value, headers, body)


def seconds_to_wait(error: errors.ResetFlowError) -> int | None:
    """Return when to try again, in seconds rounded up; `None` where that does not help."""
    return None if error.retry_after is None else math.ceil(max(0.0, error.retry_after.total_seconds()))


def status_of(error: errors.ResetFlowError) -> HTTPStatus:
    """Return the status of an error: its own, or that of the nearest of its classes that has one."""
    if isinstance(error, HttpError):
        return error.status
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def _detail(error: errors.ResetFlowError, status: HTTPStatus) -> str:
    """Return the words of an error; not those that are the operator's: names of files, brokers and settings."""
    if isinstance(error, errors.WrongBroker | errors.AppKeyRejected):
        return "the service is not set up rightly, and nothing happened: tell its operator"
    if isinstance(error, HttpError):
        return str(error)
    if isinstance(error, errors.FlowNotFound):
        return "there is no reset of this id and this secret: start one"
    if status is HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, errors.StoreError | errors.KeyringError):
        return "the service can't do this now, and its operator can see why: try again a little later"
    return str(error)

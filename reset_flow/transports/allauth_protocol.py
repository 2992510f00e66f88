"""
Judge the replies of the headless API of django-allauth. Without I/O.

By its OpenAPI document and its source (65.22). A reply of the API is a JSON object without duplicate keys, of the
documented types, whose `status` is that of HTTP, with `errors` if that is 400. All that is not in the table is
`Unknown`.

========  ==============================================================  ============================================
call      reply                                                           outcome
========  ==============================================================  ============================================
any       429; 503 with a valid `Retry-After`                             `NotActed`, throttled
any       3xx, `http.NEVER_HANDLED`: not of the API, the whole body read  `NotActed`, the protocol
request   401, the flow `password_reset_by_code` is pending, and there    `Accepted`; the continuation is the token of
          is a session: in this reply, or in the request                  a new session
request   200, where links are sent                                       `Accepted`
request   400, errors                                                     `Rejected`
request   410, the session is gone                                        `NotActed`; the next request makes a session
exchange  400, errors: the password is missing, and nothing else          `Accepted`: the code is right. It is the token
exchange  400, errors: also of the `key`                                  `Rejected`, about the code
update    200, authenticated; 401, no reset is pending any more           `Accepted`
update    400, errors: of the `key`                                       `Rejected`, about the code
update    400, errors: others                                             `Rejected`
both      409, no reset is pending: too old, spent, tried too often       `Rejected`, about the code
both      410, the session is gone                                        `Rejected`, about the code
log-in    200, authenticated; 401, one of the `STAGES` is pending         `Accepted`
log-in    400, errors                                                     `Rejected`
probe     200                                                             `Accepted`
========  ==============================================================  ============================================

`exchange` posts the code without a password: allauth judges it, and a right one changes nothing. The documented way, a
GET, fails with 500 for a user that allauth does not know, and so tells who is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from reset_flow.domain.errors import Reason
from reset_flow.domain.flow import Step
from reset_flow.domain.outcomes import Accepted, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Shown
from reset_flow.transports.http import Reply, turned_away
from reset_flow.transports.replies import USABLE_TOKEN, parse, redact_words, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.domain.secret import Secret
    from reset_flow.transports.http import Result
    from reset_flow.transports.replies import Document, Secrets

RESET = "password_reset_by_code"
STAGES = frozenset({"login_by_code", "mfa_authenticate", "mfa_trust", "verify_email", "verify_phone"})
"""What a log-in may wait for after a right password."""

OK, BAD_REQUEST, UNAUTHORIZED, CONFLICT, GONE = 200, 400, 401, 409, 410

NO_SESSION = b""
"""The continuation of a flow whose session is gone."""

OTHER_KIND = "it sends links where codes are expected, or codes where links are"
SPENT = Reason("another_code", "it is too old by now, or was tried too often: ask for another one")


class Error(Shown, Struct, frozen=True):
    """What is wrong with a request. `param`: the field that it is about, if any."""

    hidden = frozenset({"message"})

    code: str
    message: str
    param: str = ""


class LoginFlow(Struct, frozen=True):
    """A way to log in."""

    id: str
    is_pending: bool = False


class Data(Struct, frozen=True):
    """The part of a reply that says how to log in."""

    flows: tuple[LoginFlow, ...] = ()


class Meta(Shown, Struct, frozen=True):
    """The part of a reply about its session. `session_token`: only of a session that is new or renamed."""

    hidden = frozenset({"session_token"})

    is_authenticated: bool | None = None
    session_token: str = ""


class Answer(Struct, frozen=True):
    """A reply of the API, as far as it matters here. `errors`: some with 400, none otherwise."""

    status: int
    errors: tuple[Error, ...] = ()
    data: Data = Data()
    meta: Meta = Meta()

    @property
    def pending(self) -> frozenset[str]:
        """The ids of the flows that wait for something."""
        return frozenset([flow.id for flow in self.data.flows if flow.is_pending])

    @property
    def logged_in(self) -> bool:
        """Whether somebody is logged in now."""
        return self.status == OK and self.meta.is_authenticated is True

    @property
    def session(self) -> bytes | None:
        """The token of a session that is new or renamed, if it can be sent back."""
        token = self.meta.session_token
        return token.encode() if USABLE_TOKEN.fullmatch(token) else None

    def refusal(self, param: str | None = None) -> Rejected | None:
        """Return a refusal in the words of the errors, or of those about one field; `None` if there are none."""
        words = [error.message for error in self.errors if param in (None, error.param)]
        return Rejected(reasons=words) if words else None


def judge(result: Result, read: Callable[[Answer], Outcome | None], secrets: Secrets) -> Outcome:
    """
    Return the outcome of a call, by the table above.

    Args:
        read: Reads a reply of the API; returns `None` if it is none that is documented for the call.

        secrets: Redacted in the words of a refusal.
    """
    if not isinstance(result, Reply):
        return result
    document = parse(result.body)
    recognized = document is not None and document.get("status") == result.status
    if (outcome := turned_away(result, recognized=recognized)) is not None:
        return outcome
    answer = _convert(document, secrets) if recognized else None
    return (answer and read(answer)) or unknown(result)


def read_request(answer: Answer, *, by_link: bool, in_session: bool) -> Outcome | None:
    """Read the reply to a request for a code, or for a link. `in_session`: the request had the token of a session."""
    links = answer.status == OK and answer.meta.is_authenticated is None
    codes = answer.status == UNAUTHORIZED and RESET in answer.pending
    if codes if by_link else links:
        return Unknown(detail=f"HTTP {answer.status}: {OTHER_KIND}")
    if links or (codes and (answer.session or in_session)):
        return Accepted(continuation=answer.session)
    if answer.status == GONE:
        return NotActed(detail="the session of this reset is gone", continuation=NO_SESSION)
    return answer.refusal()


def read_exchange(answer: Answer, code: Secret) -> Outcome | None:
    """Read the reply to a code without a password."""
    missing = [(error.param, error.code) for error in answer.errors] == [("password", "required")]
    return Accepted(value=code) if missing else _refusal_of_code(answer)


def read_update(answer: Answer) -> Outcome | None:
    """Read the reply to a code with a new password."""
    done = answer.status == UNAUTHORIZED and answer.meta.is_authenticated is False and RESET not in answer.pending
    return Accepted() if done or answer.logged_in else _refusal_of_code(answer) or answer.refusal()


def read_log_in(answer: Answer) -> Outcome | None:
    """Read the reply to a log-in."""
    halfway = answer.status == UNAUTHORIZED and not STAGES.isdisjoint(answer.pending)
    return Accepted() if halfway or answer.logged_in else answer.refusal()


def read_probe(answer: Answer) -> Outcome | None:
    """Read the configuration: of it counts only that it came."""
    return Accepted() if answer.status == OK else None


def _refusal_of_code(answer: Answer) -> Rejected | None:
    if answer.status in (CONFLICT, GONE):
        continuation = NO_SESSION if answer.status == GONE else None
        return Rejected(reasons=[SPENT], about=Step.CODE, continuation=continuation)
    refusal = answer.refusal("key")
    return refusal and attrs.evolve(refusal, about=Step.CODE)


def _convert(document: Document | None, secrets: Secrets) -> Answer | None:
    """Return the reply, with our own secrets redacted in its words, or `None` if it is not as documented."""
    try:
        answer = msgspec.convert(document, Answer)
    except msgspec.ValidationError:
        return None
    if bool(answer.errors) != (answer.status == BAD_REQUEST):
        return None
    words = redact_words([error.message for error in answer.errors], secrets)
    errors = tuple([replace(error, message=word) for error, word in zip(answer.errors, words, strict=True)])
    return replace(answer, errors=errors)

"""What the API takes and gives, as types: the served document is made of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from msgspec import Meta, Struct

from reset_flow.domain.flow import PublicFlow
from reset_flow.domain.validation import NAME_LENGTH

LONGEST = 1000


class StartRequest(Struct, forbid_unknown_fields=True):
    """Whose password is forgotten."""

    user: Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH, description="Login or e-mail address")]
    credential: Literal["password", "pin"] = "password"


class AnswerRequest(Struct, forbid_unknown_fields=True):
    """The answer to the secret question; empty only where no question is known."""

    answer: Annotated[str, Meta(max_length=LONGEST)]


class CodeRequest(Struct, forbid_unknown_fields=True):
    """The code from the e-mail, however it is typed."""

    code: Annotated[str, Meta(max_length=LONGEST)]


class PasswordRequest(Struct, forbid_unknown_fields=True):
    """The new password, exactly as it is to be."""

    password: Annotated[str, Meta(max_length=LONGEST)]


class PinRequest(Struct, forbid_unknown_fields=True):
    """The new PIN."""

    pin: Annotated[str, Meta(max_length=LONGEST)]


class MessageDocument(TypedDict):
    """A text for the person, in their language. The ids never change."""

    id: str
    text: str
    context: dict[str, str | int]


class LinkDocument(TypedDict):
    """A call that may come next."""

    href: str
    method: Literal["GET", "POST", "DELETE"]


class FlowDocument(PublicFlow):
    """A reset."""

    message: MessageDocument
    links: dict[str, LinkDocument]


class NewFlowDocument(FlowDocument):
    """A reset, and once its secret, which every later call carries."""

    secret: str


class ReasonDocument(TypedDict):
    """Why an input was refused. `code` is null where the words are the provider's."""

    code: str | None
    text: str


class ProblemDocument(TypedDict):
    """An error (RFC 9457). `retry_after` is in seconds."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    reasons: list[ReasonDocument]
    limit: str | None
    attempts_left: int | None
    retry_after: int | None
    flow: PublicFlow | None
    message: MessageDocument


class HealthDocument(TypedDict):
    """Whether the service works."""

    status: Literal["ok", "store_unavailable"]

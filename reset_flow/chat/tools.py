"""What tools of a model take and return, in the words of no SDK. None of it is an answer, a password or a token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from reset_flow.domain.errors import FlowNotFound, HeldElsewhere, InvalidInput
from reset_flow.domain.flow import Step
from reset_flow.messages import Message, message_of, message_of_error

if TYPE_CHECKING:
    from reset_flow.domain.errors import ResetFlowError
    from reset_flow.domain.flow import Flow
    from reset_flow.messages import Texts

LONGEST = 1_000

FIELDS = {
    "user": "The login or the e-mail address, as the person gives it.",
    "flow": "The `flow` that start_reset returned.",
    "code": "The code, as text: it may begin with 0. Nothing else that is secret belongs here, such as a password.",
}
TOOLS = {
    "start_reset": (("user",), "Start the reset of a forgotten password."),
    "reset_status": (
        ("flow",),
        "Say where a reset stands. While the person has to type something secret, offer a page.",
    ),
    "enter_code": (("flow", "code"), "Enter the code that the person got by e-mail."),
    "resend_code": (("flow",), "Have another code sent."),
    "cancel_reset": (("flow",), "Give a reset up."),
}
"""The arguments of each tool, and what it does."""

AT_LINK = "Give the person the link. What is secret is typed on its page, and never here. Then call reset_status."
OPENED = "What is secret is typed on the page that the person was sent to. Call reset_status when they are done."
DECLINED = "The person did not go to the page. Ask whether they want to go on: reset_status offers it again."
CODE = "Ask the person for the code in the e-mail and call enter_code, or call resend_code if none comes."
RESEND = "Call resend_code."
LATER = "Call reset_status in a few seconds."
ENDED = "Nothing is left to do. start_reset begins another reset."
AGAIN = "Tell the person, and wait for retry_after seconds before the next try."
MEND = "Tell the person, and call reset_status to see what may come next."
BEGIN = "Tell the person. start_reset begins another reset."
ELSEWHERE = "The person goes on in their browser. Nothing is left to do here."


class Said(msgspec.Struct, frozen=True):
    """What to tell the person: an id that never changes, and the English text."""

    id: str
    text: str


class Refusal(msgspec.Struct, frozen=True):
    """Why a tool did nothing: the code of the error, and in how many seconds another try is worth it."""

    code: str
    retryable: bool
    retry_after: int | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What every tool returns: a `PublicFlow`, but for the secret question, which only the person is to read."""

    flow: str | None = None
    state: str | None = None
    expects: str | None = None
    attempts_left: int | None = None
    in_doubt: str | None = None
    busy_until: str | None = None
    failure: str | None = None
    sent_to: str | None = None
    expires_at: str | None = None
    resend_at: str | None = None
    message: Said
    next: str
    link: str | None = None
    error: Refusal | None = None


def output_schema() -> dict[str, Any]:
    """Return the JSON schema of a result."""
    _, parts = msgspec.json.schema_components([Result], ref_template="#/$defs/{name}")
    return {**parts.pop("Result"), "$defs": parts}


def input_schema(tool: str) -> dict[str, Any]:
    """Return the JSON schema of the arguments of a tool."""
    fields = TOOLS[tool][0]
    properties = {name: {"type": "string", "maxLength": LONGEST, "description": FIELDS[name]} for name in fields}
    return {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}


def checked(tool: str, given: dict[str, Any]) -> dict[str, str]:
    """Return the arguments. Raises InvalidInput, which repeats nothing of them: a code may stand anywhere."""
    if tool not in TOOLS:
        raise InvalidInput(f"there is no such tool: there are {', '.join(TOOLS)}")
    fields = TOOLS[tool][0]
    if given.keys() != set(fields) or not all(
        isinstance(each, str) and len(each) <= LONGEST for each in given.values()
    ):
        raise InvalidInput(f"{tool} takes {' and '.join(fields)}, as text, and nothing else")
    return given


def typed_at_link(flow: Flow) -> bool:
    """Return whether the person has to type something that no model may see."""
    answers = flow.expects is Step.ANSWER and flow.question is not None
    return not flow.busy_until and (answers or flow.expects in (Step.PASSWORD, Step.PIN))


def message_for(flow: Flow) -> Message:
    """Return what the person is told, without the question."""
    told = message_of(flow)
    return Message("chat.answer_at_link") if told.id == "answer.wanted" else told


def result(flow: Flow, handle: str, texts: Texts, *, link: str | None = None, opened: bool | None = None) -> Result:
    """
    Return where a flow stands, and what comes next.

    Args:
        handle: What the client knows the flow by.

        opened: Whether the person went to the page, where they were asked to.
    """
    if typed_at_link(flow):
        following = {None: AT_LINK if link else LATER, True: OPENED, False: DECLINED}[opened]
    elif flow.ended:
        following = ENDED
    elif flow.busy_until:
        following = LATER
    else:
        following = CODE if "verify" in flow.allowed else RESEND
    return Result(**_seen(flow, handle), message=_said(message_for(flow), texts), next=following, link=link)


def refused(error: ResetFlowError, handle: str | None, texts: Texts) -> Result:
    """Return why a tool did nothing. The words of the error itself are for others: they may name what was given."""
    flow = None if isinstance(error, HeldElsewhere) else error.flow  # who asks may not see it
    wait = error.retry_after
    match error:
        case HeldElsewhere():
            following = ELSEWHERE
        case FlowNotFound():
            following = BEGIN
        case _ if flow and flow.ended:
            following = ENDED
        case _:
            following = AGAIN if wait else MEND
    told = message_for(flow) if flow and message_of_error(error).id == "answer.wanted" else message_of_error(error)
    if isinstance(error, InvalidInput):
        told = Message("request.rejected")
    seconds = None if wait is None else math.ceil(max(0.0, wait.total_seconds()))
    return Result(
        **(_seen(flow, handle) if flow and handle else {}),
        message=_said(told, texts),
        next=following,
        error=Refusal(error.code, error.retryable, seconds),
    )


def _seen(flow: Flow, handle: str) -> dict[str, Any]:
    public = {name: value for name, value in flow.public().items() if name in Result.__struct_fields__}
    return public | {"flow": handle}


def _said(message: Message, texts: Texts) -> Said:
    return Said(message.id, texts.say(message, "en"))

"""The dialogue as a state machine: what a message does, by where the conversation stands and what kind it is."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from reset_flow.domain.flow import Step

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow


class Phase(StrEnum):
    """Where a conversation stands. All but the first two are where its flow stands, read anew with each message."""

    FREE = "free"
    LOGIN = "login"
    REQUEST = "request"
    ANSWER = "answer"
    CODE = "code"
    ANOTHER = "another"
    NEW = "new"
    ELSEWHERE = "elsewhere"
    ENDED = "ended"


class Kind(StrEnum):
    """
    What a message is.

    The first five are words that steer. `ENTRY`: what is wanted. `NO_CODE`: was meant as a code, and none fits here.
    `SEVERAL`: nobody knows which of them is meant. `UNSURE`: may hold a secret, but may be a sentence, too. `REPEATED`:
    an answer or a code that was taken before. `REFUSED`: the same as was just refused. `OTHER`: all else.
    """

    CANCEL = "cancel"
    RESEND = "resend"
    RESTART = "restart"
    HELP = "help"
    HUMAN = "human"
    ENTRY = "entry"
    NO_CODE = "no_code"
    SEVERAL = "several"
    UNSURE = "unsure"
    REPEATED = "repeated"
    REFUSED = "refused"
    OTHER = "other"


class Act(StrEnum):
    """What is done."""

    ASK_LOGIN = "ask_login"
    START = "start"
    SUBMIT = "submit"
    REQUEST = "request"
    RESEND = "resend"
    NEW_LINK = "new_link"
    ASK_ONE = "ask_one"
    ASK_CODE = "ask_code"
    LEAVE = "leave"
    RESTART = "restart"
    HELP = "help"
    HUMAN = "human"
    STAND = "stand"


ALWAYS = {
    Kind.CANCEL: Act.LEAVE,
    Kind.RESTART: Act.RESTART,
    Kind.HELP: Act.HELP,
    Kind.HUMAN: Act.HUMAN,
}
"""In every phase that does not say otherwise. All else is `STAND`: it tells where we stand, and what is wanted."""

TABLE: dict[Phase, dict[Kind, Act]] = {
    Phase.FREE: {
        Kind.RESEND: Act.ASK_LOGIN,
        Kind.ENTRY: Act.ASK_LOGIN,
        Kind.OTHER: Act.ASK_LOGIN,
        Kind.HELP: Act.ASK_LOGIN,
        Kind.RESTART: Act.ASK_LOGIN,
    },
    Phase.LOGIN: {Kind.ENTRY: Act.START, Kind.SEVERAL: Act.ASK_ONE},
    Phase.REQUEST: {Kind.RESEND: Act.REQUEST},
    Phase.ANSWER: {Kind.ENTRY: Act.SUBMIT},
    Phase.CODE: {
        Kind.ENTRY: Act.SUBMIT,
        Kind.NO_CODE: Act.ASK_CODE,
        Kind.SEVERAL: Act.ASK_ONE,
        Kind.RESEND: Act.RESEND,
    },
    Phase.ANOTHER: {Kind.RESEND: Act.RESEND},
    Phase.NEW: {Kind.ENTRY: Act.SUBMIT, Kind.RESEND: Act.NEW_LINK},
    Phase.ELSEWHERE: {},
    Phase.ENDED: {},
}

ASKS_SERVICE = frozenset({Act.START, Act.SUBMIT, Act.REQUEST, Act.RESEND, Act.LEAVE, Act.RESTART})
"""What a process can die in, so that nobody knows what came of it."""

SAYS: dict[Phase, dict[Kind, str]] = {
    Phase.LOGIN: {
        Kind.RESEND: "chat.login.again",
        Kind.NO_CODE: "chat.login.code",
        Kind.UNSURE: "chat.login.again",
        Kind.OTHER: "chat.login.again",
    },
    Phase.ANSWER: {Kind.UNSURE: "chat.labelled", Kind.REFUSED: "answer.rejected", Kind.OTHER: "chat.labelled"},
    Phase.CODE: {Kind.UNSURE: "chat.aside", Kind.REFUSED: "code.rejected", Kind.OTHER: "chat.aside"},
    Phase.ANOTHER: {Kind.UNSURE: "chat.aside", Kind.OTHER: "chat.aside"},
    Phase.NEW: {Kind.UNSURE: "chat.labelled_new", Kind.OTHER: "chat.labelled_new"},
}
"""What is said before where we stand, of a message that nothing is done with."""

ONLY_BY_LINK = {Kind.UNSURE: "chat.use_link", Kind.OTHER: "chat.aside"}
"""The same for `Phase.NEW`, where no password is typed in the chat."""

SECRET_KINDS = frozenset({Kind.NO_CODE, Kind.UNSURE, Kind.REPEATED, Kind.REFUSED})
SECRET_PHASES = frozenset(Phase) - {Phase.FREE, Phase.LOGIN, Phase.REQUEST}
"""Also where the reset is over or elsewhere by now: the person answers what they were asked before."""


def act_for(phase: Phase, kind: Kind) -> Act:
    """Return what is done."""
    return TABLE[phase].get(kind) or ALWAYS.get(kind, Act.STAND)


def is_secret(phase: Phase, kind: Kind) -> bool:
    """Return whether there may be an answer, a code or a password in a message, so that it is to be deleted."""
    return kind in SECRET_KINDS or (kind in (Kind.ENTRY, Kind.SEVERAL) and phase in SECRET_PHASES)


def phase_of(flow: Flow) -> Phase:
    """Return where the conversation of a flow stands."""
    if flow.ended:
        return Phase.ENDED
    if flow.expects is flow.in_doubt is Step.ANSWER:
        return Phase.CODE  # a process died in that call: the e-mail may be out, and the next command settles it
    if flow.expects is Step.ANSWER:
        return Phase.ANSWER if flow.question else Phase.REQUEST
    if flow.expects is Step.CODE:
        return Phase.CODE if "verify" in flow.allowed else Phase.ANOTHER
    return Phase.NEW

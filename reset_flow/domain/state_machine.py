"""
The two tables that say how a flow moves, and the machine made of them. They are the one source: errors, diagrams, CLI
and tests derive from them.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from types import SimpleNamespace

import attrs
from transitions import Machine, MachineError

from reset_flow.domain.flow import Credential, State, Step

RUNNING = tuple(state for state in State if not state.ended)


@attrs.frozen
class Edge:
    """
    One trigger: the states that it may be fired in, and the state that it leads to.

    Attributes:
        letter: Stands for the edge where flows are stored: it never changes, and is never given to another edge.
    """

    letter: str
    trigger: str
    sources: tuple[State, ...]
    target: State


ASKED_AGAIN = (State.QUESTION_ANSWERED, State.CODE_VERIFIED, State.TOKEN_ISSUED)

EDGES = (
    Edge("w", "question_waived", (State.REQUESTED,), State.QUESTION_ANSWERED),
    Edge("a", "answer_accepted", (State.REQUESTED,), State.QUESTION_ANSWERED),
    Edge("A", "answer_refused", (State.REQUESTED, State.QUESTION_ANSWERED, State.TOKEN_ISSUED), State.REQUESTED),
    Edge("d", "answer_in_doubt", (State.REQUESTED,), State.QUESTION_ANSWERED),
    Edge("s", "code_sent", ASKED_AGAIN, State.QUESTION_ANSWERED),
    Edge("r", "resend_in_doubt", ASKED_AGAIN, State.QUESTION_ANSWERED),
    Edge("c", "code_accepted", (State.QUESTION_ANSWERED,), State.CODE_VERIFIED),
    Edge("h", "code_held", (State.QUESTION_ANSWERED, State.TOKEN_ISSUED), State.TOKEN_ISSUED),
    Edge("C", "code_refused", (State.QUESTION_ANSWERED, State.TOKEN_ISSUED), State.QUESTION_ANSWERED),
    Edge("k", "code_in_doubt", (State.QUESTION_ANSWERED,), State.QUESTION_ANSWERED),
    Edge("x", "code_spent", (State.QUESTION_ANSWERED, State.CODE_VERIFIED), State.QUESTION_ANSWERED),
    Edge("t", "token_granted", (State.CODE_VERIFIED,), State.TOKEN_ISSUED),
    Edge("R", "token_refused", (State.TOKEN_ISSUED,), State.QUESTION_ANSWERED),
    Edge("T", "token_adopted", (State.REQUESTED,), State.TOKEN_ISSUED),
    Edge("P", "password_refused", (State.TOKEN_ISSUED,), State.TOKEN_ISSUED),
    Edge("q", "password_in_doubt", (State.TOKEN_ISSUED,), State.TOKEN_ISSUED),
    Edge("p", "password_accepted", (State.TOKEN_ISSUED,), State.PASSWORD_SET),
    Edge("z", "abandon", RUNNING, State.FAILED),
)

EDGE_BY_LETTER = {edge.letter: edge for edge in EDGES}
EDGE_BY_TRIGGER = {edge.trigger: edge for edge in EDGES}


class Call(Enum):
    """The calls that act, by their number in the broker's documents."""

    REQUEST = 1
    EXCHANGE = 3
    UPDATE = 4


@attrs.frozen(kw_only=True)
class Command:
    """
    Something that a person may do, and the triggers of its outcomes.

    Attributes:
        legal_in: The states that it may come in; none for what makes a flow.

        while_held: Whether it may come in `token_issued`, too, while a code is held in the place of the token.

        asks: The step whose input the person gives with it.

        accepted: The triggers that are fired, in their order, when the broker accepts; `rejected` and `unknown`
            likewise.

        held: Fired without a call, where the broker judges the code only together with the password.

        returned: Those of which one is fired when the broker refuses the held code, or the token.
    """

    name: str
    legal_in: tuple[State, ...] = ()
    while_held: bool = False
    asks: Step | None = None
    call: Call | None = None
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="start",
            call=Call.REQUEST,
            accepted=("question_waived",),
            rejected=("answer_refused",),
            unknown=("answer_in_doubt",),
        ),
        Command(
            name="answer",
            legal_in=(State.REQUESTED,),
            asks=Step.ANSWER,
            call=Call.REQUEST,
            accepted=("answer_accepted",),
            rejected=("answer_refused",),
            unknown=("answer_in_doubt",),
        ),
        Command(
            name="resend",
            legal_in=(State.QUESTION_ANSWERED, State.CODE_VERIFIED),
            while_held=True,
            asks=Step.CODE,
            call=Call.REQUEST,
            accepted=("code_sent",),
            rejected=("answer_refused",),
            unknown=("resend_in_doubt",),
        ),
        Command(
            name="verify",
            legal_in=(State.QUESTION_ANSWERED,),
            while_held=True,
            asks=Step.CODE,
            call=Call.EXCHANGE,
            accepted=("code_accepted", "token_granted"),
            rejected=("code_refused",),
            unknown=("code_in_doubt",),
            held=("code_held",),
        ),
        *(
            Command(
                name=f"set_{step}",
                legal_in=(State.TOKEN_ISSUED,),
                asks=step,
                call=Call.UPDATE,
                accepted=("password_accepted",),
                rejected=("password_refused",),
                unknown=("password_in_doubt",),
                returned=("code_refused", "token_refused"),
            )
            for step in (Step.PASSWORD, Step.PIN)
        ),
        Command(name="adopt", accepted=("token_adopted",)),
        Command(name="cancel", legal_in=RUNNING, accepted=("abandon",)),
    )
}


@cache
def expected(state: State, credential: Credential) -> Step | None:
    """Return the step that is expected in this state; `None` once the flow has ended."""
    if state is State.REQUESTED:
        return Step.ANSWER
    if state is State.TOKEN_ISSUED:
        return credential.step
    return None if state.ended else Step.CODE


@cache
def allowed(state: State, credential: Credential, *, held: bool = False) -> tuple[str, ...]:
    """Return the names of the commands that may come in this state, sorted. `held`: while a code is held."""
    other = {each.step for each in Credential} - {credential.step}
    legal = [each for each in COMMANDS.values() if state in each.legal_in or (held and each.while_held)]
    return tuple(sorted(each.name for each in legal if each.asks not in other))


_EVENTS = Machine(
    model=None,
    states=State,
    transitions=[[edge.trigger, list(edge.sources), edge.target] for edge in EDGES],
    initial=None,
    auto_transitions=False,
).events


@cache
def move(state: State, trigger: str) -> State:
    """
    Return the state that a trigger leads to. The machine is asked once for each pair: its answers never change.
    Raises ValueError if the tables have no such edge: a defect of the caller's, never of a person's or a broker's.
    """
    position = SimpleNamespace(state=state)
    try:
        _EVENTS[trigger].trigger(position)
    except (KeyError, MachineError):
        raise ValueError(f"no edge {trigger!r} leaves {state}") from None
    return State(position.state)


def mermaid() -> str:
    """Draw the machine as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.REQUESTED}"]
    arrows: dict[tuple[State, State], list[str]] = {}
    for edge in EDGES:
        for source in edge.sources:
            arrows.setdefault((source, edge.target), []).append(edge.trigger)
    lines += [f"    {source} --> {target}: {'<br/>'.join(names)}" for (source, target), names in arrows.items()]
    lines += [f"    {state} --> [*]" for state in State if state.ended]
    return "\n".join(lines) + "\n"

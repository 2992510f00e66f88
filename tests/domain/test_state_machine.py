"""The state machine against the two tables of its design, written down here a second time."""

from __future__ import annotations

import itertools

import pytest

from reset_flow.domain.flow import Credential, State, Step
from reset_flow.domain.state_machine import COMMANDS, EDGES, allowed, expected, mermaid, move

TABLE = """
question_waived    requested                           question_answered
answer_accepted    requested                           question_answered
answer_refused     requested,question_answered,token_issued  requested
answer_in_doubt    requested                           question_answered
code_sent          question_answered,code_verified,token_issued  question_answered
resend_in_doubt    question_answered,code_verified,token_issued  question_answered
code_accepted      question_answered                   code_verified
code_held          question_answered,token_issued      token_issued
code_refused       question_answered,token_issued      question_answered
code_in_doubt      question_answered                   question_answered
code_spent         question_answered,code_verified     question_answered
token_granted      code_verified                       token_issued
token_refused      token_issued                        question_answered
token_adopted      requested                           token_issued
password_refused   token_issued                        token_issued
password_in_doubt  token_issued                        token_issued
password_accepted  token_issued                        password_set
abandon            requested,question_answered,code_verified,token_issued  failed
"""
TRANSITIONS = {
    (trigger, source): target
    for trigger, sources, target in map(str.split, TABLE.strip().splitlines())
    for source in sources.split(",")
}
LEGAL = {
    State.REQUESTED: {"answer", "cancel"},
    State.QUESTION_ANSWERED: {"resend", "verify", "cancel"},
    State.CODE_VERIFIED: {"resend", "cancel"},
    State.TOKEN_ISSUED: {"set_password", "cancel"},
    State.PASSWORD_SET: set(),
    State.FAILED: set(),
}


@pytest.mark.parametrize(("trigger", "state"), list(itertools.product(sorted({t for t, _ in TRANSITIONS}), State)))
def test_a_trigger_leads_where_the_table_says_and_nowhere_else(trigger: str, state: State) -> None:
    if target := TRANSITIONS.get((trigger, state)):
        assert move(state, trigger) == target
    else:
        with pytest.raises(ValueError, match="no edge"):
            move(state, trigger)


def test_no_edge_is_missing_from_the_table_and_none_is_added() -> None:
    assert {(edge.trigger, source): edge.target for edge in EDGES for source in edge.sources} == TRANSITIONS


def test_a_trigger_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no edge 'fly'"):
        move(State.REQUESTED, "fly")


def test_no_trigger_goes_to_a_state_by_its_name() -> None:
    with pytest.raises(ValueError, match="no edge"):
        move(State.REQUESTED, "to_password_set")


@pytest.mark.parametrize("state", State)
def test_commands_are_legal_where_the_table_says(state: State) -> None:
    assert set(allowed(state, Credential.PASSWORD)) == LEGAL[state]
    pin = {name.replace("set_password", "set_pin") for name in LEGAL[state]}
    assert set(allowed(state, Credential.PIN)) == pin


def test_a_code_that_is_held_may_be_exchanged_for_another() -> None:
    held = LEGAL[State.TOKEN_ISSUED] | {"verify", "resend"}
    assert set(allowed(State.TOKEN_ISSUED, Credential.PASSWORD, held=True)) == held


def test_ended_states_expect_nothing_and_every_other_something() -> None:
    assert [state for state in State if expected(state, Credential.PASSWORD) is None] == [
        State.PASSWORD_SET,
        State.FAILED,
    ]
    assert expected(State.TOKEN_ISSUED, Credential.PIN) is Step.PIN
    assert expected(State.TOKEN_ISSUED, Credential.PASSWORD) is Step.PASSWORD


@pytest.mark.parametrize("command", list(COMMANDS.values()), ids=lambda command: command.name)
def test_whatever_a_command_fires_can_be_fired_where_it_is_legal(command: object) -> None:
    assert isinstance(command, type(COMMANDS["start"]))
    for state in command.legal_in or (State.REQUESTED,):
        for triggers in (command.accepted, command.unknown, command.held, *zip(command.returned)):
            at = state
            for trigger in triggers:
                at = move(at, trigger)


def test_the_diagram_has_every_edge() -> None:
    drawn = mermaid()
    for (trigger, source), target in TRANSITIONS.items():
        arrow = next(line for line in drawn.splitlines() if line.strip().startswith(f"{source} --> {target}:"))
        assert trigger in arrow.split(": ")[1].split("<br/>")

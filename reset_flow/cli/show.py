"""Draws a flow: the road that it has come, where it stands, and what lies ahead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
from rich.text import Text

from reset_flow.cli.screen import clock_time, span
from reset_flow.domain.flow import State, Step
from reset_flow.domain.state_machine import COMMANDS, allowed, move
from reset_flow.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from reset_flow.domain.flow import Credential, Flow

__all__ = ["COMMAND_OF", "GLYPHS", "PLAIN_GLYPHS", "Glyphs", "ahead", "draw", "glyphs"]

COMMAND_OF = {Step.ANSWER: "answer", Step.CODE: "code", Step.PASSWORD: "password", Step.PIN: "pin"}
"""The command of the shell for each step."""

EXPECTED = {
    Step.ANSWER: "the answer to the secret question",
    Step.CODE: "the code from the e-mail",
    Step.PASSWORD: "the new password",
    Step.PIN: "the new PIN",
}
DOUBTS = {
    Step.ANSWER: "the e-mail may be on its way, or not: type the code that comes, or ask for another one",
    Step.CODE: "the code may be spent: ask for another one",
    Step.PASSWORD: "the new password may be set, or not: try to log in with it, or set it again",
    Step.PIN: "the new PIN may be set, or not: try it, or set it again",
}
WIDTH = 20


@attrs.frozen
class Glyphs:
    """The marks of a road."""

    passed: str
    here: str
    ahead: str
    failed: str
    way: str
    gap: str
    done: str


GLYPHS = Glyphs("●", "◉", "○", "✗", "│", "┊", "✓")
PLAIN_GLYPHS = Glyphs("*", "@", "o", "x", "|", ":", "+")


def glyphs(console: Console) -> Glyphs:
    """Return the marks that the output can carry."""
    return PLAIN_GLYPHS if console.options.ascii_only else GLYPHS


def draw(flow: Flow, console: Console, now: datetime | None = None) -> None:
    """Print the road of a flow, and beneath it what comes next and until when."""
    now = now or datetime.now(UTC)
    marks = glyphs(console)
    console.print(Text.assemble("flow ", (flow.id, "bold"), f"  {flow.credential}, version {flow.version}"))
    console.print()
    for line in _road(flow, marks, now):
        console.print(line)
    console.print()
    for name, text, style in _facts(flow, now):
        console.print(Text.assemble((f"  {name:<10}", "dim"), (text, style)))


def ahead(state: State, credential: Credential) -> list[State]:
    """Return the states between this one and the end, if all goes well; derived from the commands' table."""
    road: list[State] = []
    while not state.ended:
        forward = next(
            (COMMANDS[name] for name in allowed(state, credential) if name not in ("cancel", "resend")),
            COMMANDS["resend"],
        )
        for trigger in forward.accepted:
            state = move(state, trigger)
            road.append(state)
    return road


def _road(flow: Flow, marks: Glyphs, now: datetime) -> Iterator[Text]:
    moves = [i for i, each in enumerate(flow.history) if each.target is not each.source]
    last = moves[-1] if moves else -1
    yield _node(flow, State.REQUESTED, marks, clock_time(flow.created_at, now), here=last < 0)
    for i, each in enumerate(flow.history):
        why = f" ({_words(each.reason)})" if each.reason else ""
        yield Text(f"  {marks.way}   {_words(each.trigger)}{why}, {clock_time(each.at, now)}", "dim")
        if each.target is not each.source:
            yield _node(flow, each.target, marks, clock_time(each.at, now), here=i == last)
    # Each once: the road from a verified code without a token goes back for another code first.
    for state in [] if flow.ended else dict.fromkeys(ahead(flow.state, flow.credential)):
        yield Text(f"  {marks.gap}", "dim")
        yield Text(f"  {marks.ahead} {state}", "dim")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _node(flow: Flow, state: State, marks: Glyphs, at: str, *, here: bool) -> Text:
    if state is State.FAILED:
        return Text.assemble("  ", (f"{marks.failed} {state:<{WIDTH}}", "bold red"), (at, "dim"))
    if here and flow.ended:
        return Text.assemble("  ", (f"{marks.done} {state:<{WIDTH}}", "bold green"), (at, "dim"))
    if here:
        return Text.assemble("  ", (f"{marks.here} {state:<{WIDTH}}", "bold cyan"), (at, "dim"), "  it stands here")
    return Text.assemble("  ", (f"{marks.passed} {state:<{WIDTH}}", "green"), (at, "dim"))


def _uncertain(flow: Flow, now: datetime) -> Iterator[tuple[str, str, str]]:
    if flow.in_doubt:
        yield "in doubt", DOUBTS[flow.in_doubt], "bold yellow"
    if flow.busy_until:
        yield "busy", f"a call may be under way until {clock_time(flow.busy_until, now)}", "bold yellow"


def _facts(flow: Flow, now: datetime) -> Iterator[tuple[str, str, str]]:
    if flow.failure:
        yield "failed", _words(flow.failure), "bold red"
    elif flow.ended:
        yield "done", f"the new {flow.credential} is set", "bold green"
    if flow.expects:
        attempts = "" if flow.attempts_left is None else f" ({flow.attempts_left} attempts left)"
        yield "expected", f"{EXPECTED[flow.expects]}{attempts}", "bold"
    if flow.sent_to and flow.expects is Step.CODE:
        yield "sent to", one_line(flow.sent_to), ""
    if flow.question and flow.expects is Step.ANSWER:
        yield "question", one_line(flow.question), ""
    yield from _uncertain(flow, now)
    if flow.ended:
        return
    if flow.expires_at <= now:
        yield "until", f"{clock_time(flow.expires_at, now)}: its time is up, and a worker will end it", ""
        return
    yield "until", f"{clock_time(flow.expires_at, now)}, {span(flow.expires_at - now)} from now", ""
    if flow.resend_at:
        when = "now" if flow.resend_at <= now else f"from {clock_time(flow.resend_at, now)}"
        yield "resend", f"another code can be asked for {when}", ""
    if flow.expects and COMMANDS.keys() & flow.allowed:
        yield "next", f"reset-flow {COMMAND_OF[flow.expects]} {flow.id}", "bold"

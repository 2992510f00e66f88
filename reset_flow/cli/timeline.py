"""What happened and when, as it is shown to whoever watches the demo."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from reset_flow.cli.show import glyphs

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Timeline"]

WHAT, TEXT = 10, 46
INDENT = " " * 13


class Timeline:
    """Prints events as they come, each with the seconds since the first, and what is known of each beneath it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._marks = glyphs(console)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def title(self, name: str, text: str) -> None:
        """What this is."""
        self._print(Text.assemble((name, "bold"), f"  {text}"))
        self.gap("")

    def aside(self, what: str, text: str) -> None:
        """Something about processes."""
        self._event((" ", ""), what, text, "dim")

    def step(self, what: str, text: str, state: str) -> None:
        """A step of the flow, and the state that it led to."""
        self._event((self._marks.passed, "green"), what, text, state=state)

    def blow(self, what: str, text: str) -> None:
        """Something that ought to hurt."""
        self._event((self._marks.failed, "bold red"), what, text, "bold red")

    def proof(self, what: str, text: str) -> None:
        """What the whole was for."""
        self._event((self._marks.done, "bold green"), what, text, "bold green")

    def detail(self, name: str, text: str) -> None:
        """More about the last step."""
        self._print(Text.assemble((f" {self._marks.way}{INDENT[2:]}", "dim"), (f"{name:<{WHAT}}", "dim"), text))

    def gap(self, mark: str | None = None) -> None:
        """Room between two steps; without an argument, the road goes on through it."""
        self._print(Text(f" {self._marks.way}" if mark is None else mark, "dim"))

    def check(self, text: str) -> None:
        """Something that was looked up and found to be so."""
        self._print(Text.assemble((f" {self._marks.done} ", "bold green"), text))

    def _event(self, mark: tuple[str, str], what: str, text: str, style: str = "", state: str = "") -> None:
        line = Text.assemble(
            (f" {mark[0]} ", mark[1]), (f"{self.seconds:6.2f} s  ", "dim"), (f"{what:<{WHAT}}", style or "bold")
        )
        line.append(f"{text:<{TEXT}}" if state else text, style)
        line.append(state, "cyan")
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line)

"""The events of the demo, as they are printed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from reset_flow.cli.show import glyphs

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Timeline"]

NAME, TEXT = 10, 46
INDENT = " " * 13


class Timeline:
    """Prints events as they come, each with the seconds since the first, and its details beneath it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._marks = glyphs(console)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def title(self, name: str, text: str) -> None:
        """Print a title."""
        self._print(Text.assemble((name, "bold"), f"  {text}"))
        self.gap("")

    def aside(self, name: str, text: str) -> None:
        """Print an event about processes."""
        self._event((" ", ""), name, text, "dim")

    def step(self, name: str, text: str, state: str) -> None:
        """Print a step of the flow, and the state that it led to."""
        self._event((self._marks.passed, "green"), name, text, state=state)

    def crash(self, name: str, text: str) -> None:
        """Print the death of a process."""
        self._event((self._marks.failed, "bold red"), name, text, "bold red")

    def success(self, name: str, text: str) -> None:
        """Print the final success."""
        self._event((self._marks.done, "bold green"), name, text, "bold green")

    def detail(self, name: str, text: str) -> None:
        """Print a detail of the last event."""
        self._print(Text.assemble((f" {self._marks.way}{INDENT[2:]}", "dim"), (f"{name:<{NAME}}", "dim"), text))

    def gap(self, mark: str | None = None) -> None:
        """Print the space between two steps; without an argument, the road goes on through it."""
        self._print(Text(f" {self._marks.way}" if mark is None else mark, "dim"))

    def check(self, text: str) -> None:
        """Print a check that passed."""
        self._print(Text.assemble((f" {self._marks.done} ", "bold green"), text))

    def _event(self, mark: tuple[str, str], name: str, text: str, style: str = "", state: str = "") -> None:
        line = Text.assemble(
            (f" {mark[0]} ", mark[1]), (f"{self.seconds:6.2f} s  ", "dim"), (f"{name:<{NAME}}", style or "bold")
        )
        line.append(f"{text:<{TEXT}}" if state else text, style)
        line.append(state, "cyan")
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line)

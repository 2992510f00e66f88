"""Resets in a browser, and over JSON. Needs the extra `web`, but for `problem`, `Links` and `Limits`."""

from typing import TYPE_CHECKING, Any

from reset_flow.web.access import Links
from reset_flow.web.clients import Limits
from reset_flow.web.problems import Problem, problem

if TYPE_CHECKING:
    from reset_flow.web.app import create_app
    from reset_flow.web.look import Look
    from reset_flow.web.server import AccessLogger

__all__ = ["AccessLogger", "Limits", "Links", "Look", "Problem", "create_app", "problem"]

_LATE = {
    "AccessLogger": "reset_flow.web.server",
    "Look": "reset_flow.web.look",
    "create_app": "reset_flow.web.app",
}


def __getattr__(name: str) -> Any:
    """Import what needs the extra when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_LATE[name]), name)

"""Checks of what an embedder sets, as validators of attrs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reset_flow.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


def must_be(what: str, fits: Callable[[Any], bool]) -> Callable[[Any, Any, Any], None]:
    """Return an attrs validator that raises ConfigurationError, with what the setting must be, if it does not fit."""

    def check(_: Any, field: Any, value: Any) -> None:
        if not fits(value):
            raise ConfigurationError(f"{field.name} must be {what}")

    return check


count = must_be("a whole number of at least 1", lambda value: type(value) is int and value >= 1)

switch = must_be("like True", lambda value: isinstance(value, bool))

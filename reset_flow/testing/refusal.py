"""Errors, caught to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from reset_flow.domain.errors import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["refused"]

Refusal = TypeVar("Refusal", bound=ResetFlowError)


async def refused(call: Awaitable[object], kind: type[Refusal]) -> Refusal:
    """
    Return the error with which a call was refused.

    Raises:
        AssertionError: It was not.
    """
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")

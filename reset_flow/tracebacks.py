"""Tracebacks without variables: the frames of a driver hold addresses and passwords."""

from __future__ import annotations


def forget_frames(error: BaseException | None) -> None:
    """Drop the traceback of an error, of its causes and contexts, and of the members of groups. Keep the messages."""
    while error is not None:
        error.__traceback__ = None
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                forget_frames(member)
        error = error.__cause__ or error.__context__

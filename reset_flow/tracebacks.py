"""What must not leave the library with an error: the variables of other people's code."""

from __future__ import annotations

__all__ = ["forget_frames"]


def forget_frames(error: BaseException | None) -> None:
    """Let an error and all before it keep their words but not their frames: a driver's hold addresses and passwords."""
    while error is not None:
        error.__traceback__ = None
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                forget_frames(each)
        error = error.__cause__ or error.__context__

"""Tracebacks without variables: the frames of a driver hold addresses and passwords."""

from __future__ import annotations

from reset_flow.domain.errors import StoreError


def forget_frames(error: BaseException | None) -> None:
    """Drop the traceback of an error, of its causes and contexts, and of the members of groups. Keep the messages."""
    while error is not None:
        error.__traceback__ = None
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                forget_frames(member)
        error = error.__cause__ or error.__context__


class _ForgetCauses:
    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StoreError):
            forget_frames(error.__cause__ or error.__context__)


forget_causes = _ForgetCauses()
"""Around a call of a store, whoever wrote it: drops the tracebacks that an error of its driver's came with."""

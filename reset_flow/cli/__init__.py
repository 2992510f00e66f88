"""`reset-flow`: the library at a shell's prompt. Needs the extra `cli`; what is imported here does not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

EXTRA_MISSING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command line and return its exit status; docs/cli.md lists them all.

    An error that a person can cause is one line on stderr.
    """
    try:
        from reset_flow.cli.run import run  # noqa: PLC0415 - it fails where the extra is not installed
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "reset_flow"):
            raise  # a defect of ours
        sys.stderr.write(f"reset-flow: {missing} is missing: install the extra with pip install 'reset-flow[cli]'\n")
        return EXTRA_MISSING
    return run(arguments)

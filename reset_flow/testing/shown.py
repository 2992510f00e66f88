"""For people who embed the library: all that somebody may come to see of a value or an error."""

from __future__ import annotations

import json
import pickle
import pprint
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["shown_by", "shown_by_error", "traceback_of"]


def shown_by(*values: object) -> bytes:
    """Each as `repr`, `str`, formatting, pretty-printing, JSON and pickles show it, as far as it lets them."""
    return b"\n".join(part for value in values for part in (*_printed(value), *_pickled(value)))


def shown_by_error(error: BaseException, *, callers: Sequence[str | Path] = ()) -> bytes:
    """
    Return what a log, a crash report or a pickle has of an error: the traceback with locals, and all that it carries.

    Args:
        callers: As `traceback_of` takes them.
    """
    carried = shown_by(error, error.args, {name: value for name, value in vars(error).items() if name != "flow"})
    flow = getattr(error, "flow", None)
    text = "\n".join([traceback_of(error, callers=callers), *getattr(error, "__notes__", ())])
    return b"\n".join([text.encode("utf-8", "backslashreplace"), carried, shown_by(flow)])


def traceback_of(error: BaseException, *, callers: Sequence[str | Path] = ()) -> str:
    """
    Return the traceback as `traceback.TracebackException(capture_locals=True)` prints it, with causes and groups; and
    also what `raise ... from None` hides from printing, since a crash reporter or a debugger may walk further.

    Args:
        callers: Folders or files whose frames are left out: who calls with a secret has it in their own variables, and
            no library can mend that. All other frames are there, whoever's they are.
    """
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    own = [Path(each).resolve() for each in callers]
    for each in _all_of(whole):
        each.stack[:] = [frame for frame in each.stack if not any(_is_in(frame.filename, place) for place in own)]
        each.__suppress_context__ = False
    return "".join(whole.format())


def _all_of(error: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield error
    for each in (error.__cause__, error.__context__, *(error.exceptions or ())):
        if each is not None:
            yield from _all_of(each)


def _is_in(filename: str, place: Path) -> bool:
    return Path(filename).resolve().is_relative_to(place)


def _printed(value: Any) -> Iterator[bytes]:
    for text in (repr(value), str(value), f"{value}", f"{value:>3}" if isinstance(value, str) else "", ascii(value)):
        yield text.encode("utf-8", "backslashreplace")
    yield pprint.pformat(value).encode("utf-8", "backslashreplace")
    with suppress(TypeError, ValueError):
        yield json.dumps(value, default=str).encode()


def _pickled(value: object) -> Iterator[bytes]:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        # Whatever it raises: it is not pickled then.
        with suppress(Exception):
            yield pickle.dumps(value, protocol)

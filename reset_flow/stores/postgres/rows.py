"""Records as PostgreSQL takes them, many at once, and as it gives them back."""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from reset_flow.stores.postgres.statements import lock_of, name_of
from reset_flow.stores.rows import COLUMNS, span, to_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reset_flow.ports import Charge, Record

__all__ = ["Save", "arguments", "readable", "record_of", "storable", "texts"]

TO_LEASE = len(COLUMNS) + 1


@attrs.frozen(eq=False)
class Save:
    """
    One that waits for its turn.

    Attributes:
        row: As `to_row` gives it.
    """

    row: dict[str, Any]
    charges: tuple[Charge, ...]


def arguments(prefix: str, saves: Sequence[Save]) -> list[Any]:
    """What the function `save` takes, behind the time."""
    charges = [charge for save in saves for charge in save.charges]
    columns = zip(*(save.row.values() for save in saves), strict=True)
    ids, realms, versions, states, due_ats, ended_ats, leases, lookups, write_ids, bodies = columns
    return [  # in the order of its parameters
        _numbers(sorted({lock_of(prefix, charge.key) for charge in charges})),
        texts(ids),
        texts(realms),
        _numbers(versions),
        texts(states),
        _numbers(due_ats),
        _numbers(ended_ats),
        _numbers(leases),
        _bytes(lookups),
        _bytes(write_ids),
        bodies,  # which are long
        _numbers(map(name_of, ids)),
        _numbers(accumulate(len(save.charges) for save in saves)),
        _bytes(charge.key for charge in charges),
        _numbers(charge.amount for charge in charges),
        _numbers(charge.limit for charge in charges),
        _numbers(span(charge.window) for charge in charges),
    ]


# An array as text, since the driver asks of each item in a list at length whether that is a list as well.


def _numbers(values: Iterable[int | None]) -> str:
    return f"{{{msgspec.json.encode(list(values))[1:-1].decode()}}}"


def texts(values: Iterable[str]) -> str:
    """Many as one."""
    escaped = [value.replace("\\", r"\\").replace('"', r"\"") for value in values]
    return '{"' + '","'.join(escaped) + '"}' if escaped else "{}"


def _bytes(values: Iterable[bytes]) -> str:
    # As `texts` would spell them, with nothing left to look for.
    written = [value.hex() for value in values]
    return '{"\\\\x' + '","\\\\x'.join(written) + '"}' if written else "{}"


def storable(text: str) -> bool:
    """Whether a column can hold it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def record_of(row: Any) -> Record:
    """
    The record of a row that a statement gave.

    Raises:
        ValueError: A column holds what no record has.
    """
    flow_id, realm, version, state, *rest = row[:TO_LEASE]
    return to_record((flow_id.encode(), realm.encode(), version, state.encode(), *rest), row["present"])


def readable(rows: Sequence[Any]) -> Iterator[Record]:
    """The records of those rows that are not damaged."""
    for row in rows:
        with suppress(ValueError):
            yield record_of(row)

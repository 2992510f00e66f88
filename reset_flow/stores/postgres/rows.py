"""Convert records to what PostgreSQL takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from reset_flow.domain.errors import InvalidInput
from reset_flow.stores.rows import span, to_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reset_flow.ports import Record, Use, UseName

LARGEST_LIMIT = 2**31 - 1
"""The largest number that the type of `room` holds: no key has so many uses."""


class Save(msgspec.Struct, frozen=True, gc=False):
    """
    One save, as the function `save` takes it in a batch; with the advisory locks of its uses' keys.

    The body is no part of the JSON: there, a long one costs a tenth of the save.
    """

    json: bytes
    body: bytes
    locks: tuple[int, ...] = ()


def to_save(record: Record, add: Sequence[Use], drop: Sequence[UseName]) -> Save:
    """Convert what the port's `save` takes."""
    if "\0" in record.id or "\0" in record.realm:
        raise InvalidInput("PostgreSQL can't store a text with a null character")
    values = to_row(record)
    body = values.pop("body")
    values["lookups"] = _hex(values["lookups"])
    values["write_id"] = _hex(record.write_id)
    values["replaces"] = _hex(record.replaces)
    values["name"] = notification_name(record.id)
    if not add and not drop:
        return Save(msgspec.json.encode(values), body)
    keys = dict.fromkeys([use.key for use in add] + [name.key for name in drop])
    values["changes"] = [_to_change(key, add, drop) for key in keys]
    locks = tuple([int.from_bytes(key[:8], "big", signed=True) for key in keys])
    return Save(msgspec.json.encode(values), body, locks)


def _to_change(key: bytes, add: Sequence[Use], drop: Sequence[UseName]) -> dict[str, Any]:
    added = {use.id: use for use in add if use.key == key}
    limit = min([use.limit for use in added.values()], default=0)
    return {
        "key": _hex(key),
        "dropped": [_hex(name.id) for name in drop if name.key == key],
        "added": [_hex(use_id) for use_id in added],
        "windows": [span(use.window) for use in added.values()],
        "room": min(limit, LARGEST_LIMIT) - len(added),
    }


def _hex(value: bytes) -> str:
    return rf"\x{value.hex()}"


def notification_name(flow_id: str) -> int:
    """
    Return the name of a flow in notifications, which every user of the database can read.

    Two flows may share a name: their waiters wake each other, look, and wait on.
    """
    return crc32(flow_id.encode(errors="surrogatepass"))


def is_storable(text: str) -> bool:
    """Return True if a column can hold the text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False

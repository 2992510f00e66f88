"""Records to try a store with."""

from __future__ import annotations

import os
from typing import Any

from msgspec.structs import replace

from reset_flow.domain.flow import State
from reset_flow.ports import Record

__all__ = ["make_record", "next_version"]


def make_record(**values: Any) -> Record:
    """Return the first version of a record: with a random id, write id and body, unless they are given."""
    given: dict[str, Any] = {
        "realm": "default",
        "id": os.urandom(16).hex(),
        "version": 1,
        "state": State.REQUESTED,
        "write_id": os.urandom(8),
        "body": os.urandom(40),
    }
    return Record(**(given | values))


def next_version(record: Record, **changes: Any) -> Record:
    """Return the version of a record that replaces it: with a random write id and body, unless they are given."""
    given: dict[str, Any] = {
        "version": record.version + 1,
        "write_id": os.urandom(8),
        "body": os.urandom(40),
        "replaces": record.write_id,
        "lease_left": None,
    }
    return replace(record, **(given | changes))

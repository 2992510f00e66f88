"""
The keys of a ring, and the file that stores them.

No frame of a traceback holds its content.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import attrs
import msgspec
from msgspec.structs import force_setattr, replace

from reset_flow.domain.errors import KeyringError
from reset_flow.domain.secret import Unpicklable
from reset_flow.domain.text import printable
from reset_flow.persistence import secret_file
from reset_flow.persistence.secret_file import OpenToOthersError
from reset_flow.tracebacks import forget_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY_BYTES = 32
ID_BYTES = 4
ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")
FORMAT = 1

DELAY = timedelta(seconds=30)
"""
How long a new key waits before it writes, and an old one before it can be removed: until workers have looked at the
file (`keyring.LOOK_INTERVAL`), though clocks may differ and a save may be on its way to the store.
"""

BEING_MADE = 1.0
"""Seconds after which an empty file is taken for a broken one, and no more for one that another process makes."""

EMPTY = "is no key file, or a broken one: it is empty; put its copy back, or delete it if nothing is sealed yet"

FileVersion: TypeAlias = tuple[int, ...]
"""Times, inode and size of a file: they differ when its content does."""


@attrs.frozen(kw_only=True)
class Key(Unpicklable):
    """
    One key of a ring. It never shows its bytes.

    A `KeySet` validates it: the frame of its own `__init__`, which has the bytes, would be in the error's traceback.

    Attributes:
        writes_from: When the key may begin to write, so that every worker has read it by then; `None`: at once.
    """

    refusal: ClassVar[str] = "a key can't be pickled: write its ring to a file and read it where it is needed"

    id: str
    created_at: datetime
    writes_from: datetime | None = None
    secret: bytes = attrs.field(repr=False)

    @classmethod
    def generate(cls) -> Key:
        """Make a new key of random bytes."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(id=secrets.token_hex(ID_BYTES), created_at=now, secret=secrets.token_bytes(KEY_BYTES))

    def may_write(self, now: datetime) -> bool:
        """Return True from `writes_from` on."""
        return self.writes_from is None or self.writes_from <= now


def _validate(purpose: str, keys: tuple[Key, ...]) -> None:
    if not keys:
        raise KeyringError(f"the ring has no {purpose} key: make one with `reset-flow keys new`")
    for place, key in enumerate(keys):
        if not ID.fullmatch(key.id):
            # Do not show the id: it may be the key's bytes, put into the wrong field.
            raise KeyringError(f"the id of a {purpose} key must be {2 * ID_BYTES} hexadecimal digits")
        if len(key.secret) != KEY_BYTES:
            raise KeyringError(f"key {key.id} has {len(key.secret)} bytes, and must have {KEY_BYTES}")
        if any(time is not None and time.tzinfo is None for time in (key.created_at, key.writes_from)):
            raise KeyringError(f"key {key.id} has a time without a time zone: add one, as in 2026-01-31T12:00:00Z")
        for other in keys[:place]:
            if other.id == key.id:
                raise KeyringError(f"the ring has two {purpose} keys {key.id}: take one out")
            if other.secret == key.secret:
                raise KeyringError(f"the {purpose} keys {other.id} and {key.id} are the same: take one out")


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    reset_flow_keys: int


class KeySet(_Header, frozen=True, kw_only=True):
    """The keys of one ring, as a file has them. Raises KeyringError if one is missing, malformed or there twice."""

    reset_flow_keys: int = FORMAT
    seal: tuple[Key, ...]  # oldest first
    lookup: tuple[Key, ...]  # the one that writes first

    def __post_init__(self) -> None:
        _validate("sealing", self.seal)
        _validate("lookup", self.lookup)
        oldest_first = sorted(self.seal, key=lambda key: key.created_at.timestamp())  # stable within a second
        force_setattr(self, "seal", tuple(oldest_first))

    def find(self, key_id: str) -> Key | None:
        """Return the sealing key of this id."""
        return next((key for key in self.seal if key.id == key_id), None)

    @property
    def writer(self) -> Key:
        """The newest key that may write; the oldest if none may, as after a clock was set back."""
        now = datetime.now(UTC)
        return next((key for key in reversed(self.seal) if key.may_write(now)), self.seal[0])

    def rotated(self, delay: timedelta) -> KeySet:
        """Add a new key, which writes after the delay. It is the newest even if the clock was set back."""
        key, newest = Key.generate(), self.seal[-1]
        writes_from = datetime.now(UTC) + delay if delay > timedelta(0) else None
        key = attrs.evolve(key, created_at=max(key.created_at, newest.created_at), writes_from=writes_from)
        return replace(self, seal=(*self.seal, key))

    def without(self, key_id: str) -> KeySet:
        """Take out one key. Raises KeyringError as `superseded_at` does."""
        self.superseded_at(key_id)
        return replace(self, seal=tuple(key for key in self.seal if key.id != key_id))

    def superseded_at(self, key_id: str) -> datetime:
        """Return when a newer key began to write instead of this one. Raises KeyringError if none did."""
        ids, writer = [key.id for key in self.seal], self.writer
        if key_id not in ids:
            raise KeyringError(f"key {printable(key_id)} is not in the ring, which has {', '.join(ids)}")
        if key_id == writer.id:
            raise KeyringError(f"key {key_id} writes: rotate, and wait until the new key does")
        place, now = ids.index(key_id), datetime.now(UTC)
        newer = [key.writes_from or key.created_at for key in self.seal[place + 1 :] if key.may_write(now)]
        if not newer:
            raise KeyringError(f"key {key_id} is to write from {self.seal[place].writes_from:%Y-%m-%d %H:%M:%S} UTC")
        return min(newer)


def read(path: Path, *, shared: bool = False) -> KeySet:
    """
    Read a key file. Raises KeyringError if it is missing, broken, or open to others.

    Args:
        shared: Whether others may read it.
    """
    with _clear_errors(path, "read"), secret_file.opened(path, shared=shared) as handle:
        return _read(path, handle)


def version_of(path: Path) -> FileVersion | None:
    """Return the version of the file by one system call; `None` if there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def await_content(path: Path) -> None:
    """Return once the file is not empty: another process may be making it."""
    give_up_at = time.monotonic() + BEING_MADE
    while (version := version_of(path)) and version[-1] == 0 and time.monotonic() < give_up_at:
        time.sleep(BEING_MADE / 100)


@contextmanager
def _clear_errors(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except (OpenToOthersError, OSError, ValueError) as error:
        forget_frames(error)  # they hold keys
        why = _said_of(path, verb, error)
        raise KeyringError(f"{path} {why}") from None


def _said_of(path: Path, verb: str, error: OpenToOthersError | OSError | ValueError) -> str:
    if isinstance(error, OpenToOthersError):
        return f"{error}; and rotate its keys if it was read"
    if isinstance(error, FileExistsError):
        if os.path.exists(path):  # noqa: PTH110 - never raises
            return "exists: choose another file, or read that one"
        return "is a link to a file that does not exist: put that file back, or take the link away"
    if isinstance(error, FileNotFoundError) and verb != "written":
        return "does not exist: put it back, or make it with `reset-flow keys new` if nothing is sealed yet"
    if isinstance(error, ValueError):
        return f"can't be {verb}: there can be no such path"
    hint = ": change the keys where the mount comes from" if error.errno == errno.EROFS else ""
    return f"can't be {verb}: {error.strerror}{hint}"


def _read(path: Path, handle: int) -> KeySet:
    keys = _decode_last(secret_file.read(handle))
    if isinstance(keys, str):
        raise KeyringError(f"{path} {keys}")
    return keys


def _decode_last(documents: list[bytes]) -> KeySet | str:
    """Return the keys of the last document that is whole: the one behind it may be cut off. Or say what is wrong."""
    found: KeySet | str = EMPTY
    for document in reversed(documents):
        if isinstance(found := _decode(document), KeySet):
            break
    return found


def _decode(document: bytes) -> KeySet | str:
    """Return the keys, or what is wrong: the frames of an error would hold the content of the file."""
    try:
        number = msgspec.json.decode(document, type=_Header).reset_flow_keys
        if number != FORMAT:
            return f"has format {number}: read it with the release of reset_flow that wrote it"
        return msgspec.json.decode(document, type=KeySet)
    except (msgspec.DecodeError, KeyringError) as error:
        return f"is no key file, or a broken one: {error}"
    except (ValueError, OverflowError, RecursionError):  # such as a time before all times
        return "is no key file, or a broken one"


def _encode(keys: KeySet) -> bytes:
    return msgspec.json.format(msgspec.json.encode(keys), indent=1)


def write_new(path: Path, keys: KeySet, *, shared: bool = False) -> None:
    """Write a new file with mode 0600. Raises KeyringError if the file exists, or can't be written."""
    with _clear_errors(path, "written"):
        secret_file.create(path, _encode(keys), shared=shared)


def change(path: Path, changed: Callable[[KeySet], KeySet], *, shared: bool = False) -> KeySet:
    """Change the keys of the file, and return them. On an error, the file holds the keys as they were or are to be."""
    with _clear_errors(path, "changed"), secret_file.locked(path, shared=shared) as handle:
        # First, in case an earlier change was broken off: a key that it removed may still be in the file.
        keys = _read(path, handle)
        if len(secret_file.read(handle)) > 1:
            secret_file.replace(handle, _encode(keys))
        if (after := changed(keys)) != keys:
            secret_file.replace(handle, _encode(after))
        return after

"""
The keys of a ring, and the file that stores them.

A key file is replaced as a whole by an atomic rename, so a reader never sees half of it. No frame of a traceback holds
its content.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, TypeAlias

import attrs
import msgspec
from msgspec.structs import force_setattr, replace

from reset_flow.domain.errors import KeyringError
from reset_flow.domain.secret import Unpicklable
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY_BYTES = 32
ID_BYTES = 4
ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")
MAX_FILE_BYTES = 1 << 20
FORMAT = 1

DELAY = timedelta(seconds=30)
"""
How long a new key waits before it writes, and an old one before it can be removed: until workers have looked at the
file (`keyring.LOOK_INTERVAL`), though clocks may differ and a save may be on its way to the store.
"""

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


def read(path: Path) -> KeySet:
    """Read a key file. Raises KeyringError if it is missing, broken, or open to others than its owner."""
    with _opened(path, "rb") as file:
        return _read(path, file)


def version_of(path: Path) -> FileVersion | None:
    """Return the version of the file by one system call; `None` if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        with path.open(mode) as file:
            yield file
    except FileNotFoundError:
        raise KeyringError(f"{path} does not exist: make it with `reset-flow keys new`") from None
    except OSError as error:
        raise KeyringError(f"{path} can't be {'read' if mode == 'rb' else 'written'}: {error.strerror}") from None


def _read(path: Path, file: IO[bytes]) -> KeySet:
    if os.fstat(file.fileno()).st_mode & 0o077:
        raise KeyringError(f"{path} is open to others: `chmod 600` it, and rotate its keys if it was read")
    keys = _decode(file.read(MAX_FILE_BYTES))
    if isinstance(keys, str):
        raise KeyringError(f"{path} {keys}")
    return keys


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


def write_new(path: Path, keys: KeySet) -> None:
    """Write a new file with mode 0600. Raises KeyringError if the file exists, or can't be written."""
    try:
        with _temporary_file(path, keys) as temporary:
            os.link(temporary, path)
    except FileExistsError:
        raise KeyringError(f"{path} exists: choose another file, or read that one") from None
    except OSError as error:
        raise KeyringError(f"{path} can't be written: {error.strerror}") from None


def change(path: Path, changed: Callable[[KeySet], KeySet]) -> KeySet:
    """Replace the file by one with the changed keys, and return them. On an error, the file stays as it was."""
    path = path.resolve()  # a symbolic link keeps pointing to the file
    with _locked(path) as file:
        keys = changed(_read(path, file))
        with _temporary_file(path, keys, os.fstat(file.fileno())) as temporary:
            temporary.replace(path)
        return keys


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open the file and lock it: concurrent changes run one after another."""
    while True:
        with _opened(path, "r+b") as file:  # NFS does not lock a file that is open for reading only
            fcntl.flock(file, fcntl.LOCK_EX)
            # The last holder of the lock may have put another file in its place.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


@contextmanager
def _temporary_file(path: Path, keys: KeySet, replaced: os.stat_result | None = None) -> Iterator[Path]:
    """Write the keys to a file in the same folder and sync it; delete it afterwards, unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if replaced and replaced.st_uid != os.fstat(handle).st_uid:
                os.fchown(handle, replaced.st_uid, replaced.st_gid)  # root may rotate the keys of another user
            file.write(msgspec.json.format(msgspec.json.encode(keys), indent=1))
            file.flush()
            os.fsync(handle)
        yield temporary
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)

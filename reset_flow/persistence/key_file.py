"""
The keys of a ring, and the file that they are kept in.

A file is only ever written beside its place and then put there as a whole, so nobody ever reads half of one. Where an
error is raised, no frame of its traceback holds the file's content.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from base64 import b64decode, b64encode
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeAlias

import attrs

from reset_flow.domain.errors import KeyringError
from reset_flow.domain.secret import Unpicklable
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["DELAY", "ID_BYTES", "Key", "KeySet", "Mark", "change", "mark_of", "read", "write_new"]

KEY_BYTES = 32
ID_BYTES = 4
BLOCK_BYTES = 64
"""Of SHA-256: what a key is filled up to before it is hashed with one of the two pads below (RFC 2104)."""
INNER, OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
LONGEST_FILE = 1 << 20
FORMAT = 2
"""What is written. A file of format 1 has no `writes_from`."""

DELAY = timedelta(minutes=2)
"""How long a worker may take to notice that a key file has changed: each of its sweeps looks, every 8 to 23 seconds."""

Mark: TypeAlias = tuple[int, ...]
"""What tells one content of a file from another without reading it."""


def _checked_id(_: Any, __: Any, value: Any) -> None:
    # What is there is not shown: somebody may have put the key's bytes into the wrong place.
    if not isinstance(value, str) or len(value) != 2 * ID_BYTES or value.strip("0123456789abcdef"):
        raise KeyringError(f"a key's id must be {2 * ID_BYTES} hexadecimal digits")


def _checked_time(key: Key, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise KeyringError(f"key {key.id}: its {attribute.name} is no time with a zone")


def _checked_secret(key: Key, _: Any, value: bytes) -> None:
    if len(value) != KEY_BYTES:
        raise KeyringError(f"key {key.id} has {len(value)} bytes, and must have {KEY_BYTES}")


@attrs.frozen(kw_only=True, init=False)
class Key(Unpicklable):
    """
    One key of a ring: its bytes are never shown, and it can't be pickled.

    Attributes:
        writes_from: When it may be written with at the earliest, so that whoever reads has heard of it by then;
            `None`: as soon as it is in the ring.
    """

    refusal: ClassVar[str] = "a key can't be pickled: write its ring to a file and read it where it is needed"

    id: str = attrs.field(validator=_checked_id)
    created_at: datetime = attrs.field(validator=_checked_time)
    writes_from: datetime | None = attrs.field(default=None, validator=attrs.validators.optional(_checked_time))
    secret: bytes = attrs.field(repr=False, validator=_checked_secret)
    _inner: Any = attrs.field(init=False, repr=False, eq=False)
    _outer: Any = attrs.field(init=False, repr=False, eq=False)

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - its name in the file
        created_at: datetime,
        secret: bytes,
        writes_from: datetime | None = None,
    ) -> None:
        trouble = ""
        try:
            self.__attrs_init__(id=id, created_at=created_at, writes_from=writes_from, secret=secret)
        except KeyringError as error:
            trouble = str(error)
        if trouble:
            del secret  # as the frames of the checks are gone, so that nobody finds the bytes who logs frames
            raise KeyringError(trouble)
        object.__setattr__(self, "_inner", sha256(secret.ljust(BLOCK_BYTES, b"\0").translate(INNER)))
        object.__setattr__(self, "_outer", sha256(secret.ljust(BLOCK_BYTES, b"\0").translate(OUTER)))

    def mac(self, message: bytes) -> bytes:
        """
        HMAC-SHA-256 (RFC 2104): two hashes that have begun with the key.

        To copy one that `hmac` has prepared takes twice as long; its `digest` yields to other threads besides.
        """
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        digest: bytes = outer.digest()
        return digest

    @classmethod
    def generate(cls) -> Key:
        """A new one."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(id=os.urandom(ID_BYTES).hex(), created_at=now, secret=os.urandom(KEY_BYTES))

    @property
    def since(self) -> datetime:
        """When it began, or is to begin, to write."""
        return self.writes_from or self.created_at

    def may_write(self, now: datetime) -> bool:
        """Whether its time has come."""
        return self.writes_from is None or self.writes_from <= now


def _oldest_first(keys: Iterable[Key]) -> tuple[Key, ...]:
    return tuple(sorted(keys, key=lambda key: key.created_at))  # of those of one second, as they were given


def _distinct(_: Any, attribute: attrs.Attribute[Any], keys: tuple[Key, ...]) -> None:
    purpose = {"seal": "sealing"}.get(attribute.name, attribute.name)
    if not keys:
        raise KeyringError(f"the ring has no {purpose} key: make one with `reset-flow keys new`")
    seen: dict[str, Key] = {}
    for key in keys:
        if key.id in seen:
            raise KeyringError(f"the ring has two {purpose} keys {key.id}")
        for other in seen.values():
            if other.secret == key.secret:
                raise KeyringError(f"the {purpose} keys {other.id} and {key.id} are the same")
        seen[key.id] = key


@attrs.frozen(kw_only=True)
class KeySet:
    """
    All the keys of a ring; there is no such thing with a key that is short, missing or there twice.

    Attributes:
        seal: The oldest first.

        lookup: The one that writes first.
    """

    seal: tuple[Key, ...] = attrs.field(converter=_oldest_first, validator=_distinct)
    lookup: tuple[Key, ...] = attrs.field(validator=_distinct)

    def writer(self, now: datetime) -> Key:
        """The newest key whose time has come; the oldest where none has, as by a clock that was set back."""
        return next((key for key in reversed(self.seal) if key.may_write(now)), self.seal[0])

    def rotated(self, now: datetime, delay: timedelta) -> KeySet:
        """The same with a new key, which writes after the delay, and is the newest whatever the clock says."""
        key = Key.generate()
        while key.id in {each.id for each in self.seal}:
            key = Key.generate()
        key = attrs.evolve(
            key,
            created_at=max(key.created_at, self.seal[-1].created_at),
            writes_from=now + delay if delay > timedelta(0) else None,
        )
        return attrs.evolve(self, seal=(*self.seal, key))

    def without(self, key_id: str, now: datetime) -> KeySet:
        """
        The same without one key.

        Raises:
            KeyringError: It is not in the ring, it writes, or it is to write.
        """
        self.superseded_at(key_id, now)
        return attrs.evolve(self, seal=tuple(key for key in self.seal if key.id != key_id))

    def superseded_at(self, key_id: str, now: datetime) -> datetime:
        """
        Since when a newer key writes instead of this one.

        Raises:
            KeyringError: None does, or there is no such key.
        """
        ids = [key.id for key in self.seal]
        if key_id not in ids:
            raise KeyringError(f"key {printable(key_id)} is not in the ring, which has {', '.join(ids)}")
        place, writer = ids.index(key_id), self.writer(now)
        if place > ids.index(writer.id):
            raise KeyringError(f"key {key_id} is to write from {self.seal[place].since:%Y-%m-%d %H:%M:%S} UTC")
        if key_id == writer.id:
            raise KeyringError(f"key {key_id} writes: rotate, and wait until the new key does")
        return min(key.since for key in self.seal[place + 1 :] if key.may_write(now))


# --- reading


def read(path: Path) -> tuple[KeySet, Mark]:
    """
    What is in the file.

    Raises:
        KeyringError: It is missing, broken, or open to others than its owner.
    """
    found: tuple[KeySet, Mark] | str
    try:
        with path.open("rb") as file:
            found = _read(path, file)
    except FileNotFoundError:
        found = f"{path} does not exist: make it with `reset-flow keys new`"
    except OSError as error:
        found = f"{path} can't be read: {error.strerror}"
    if isinstance(found, str):
        raise KeyringError(found)
    return found


def mark_of(path: Path) -> Mark | None:
    """The mark of the file as it now is, by one system call; `None` if there is none."""
    try:
        return _mark(path.stat())
    except OSError:
        return None


def _mark(status: os.stat_result) -> Mark:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read(path: Path, file: IO[bytes]) -> tuple[KeySet, Mark] | str:
    """What is in it, or what is wrong with it."""
    status = os.fstat(file.fileno())
    if status.st_mode & 0o077:
        return f"{path} is open to others: `chmod 600` it, and rotate its keys if it was read"
    keys = _parsed(file.read(LONGEST_FILE))
    return f"{path} {keys}" if isinstance(keys, str) else (keys, _mark(status))


def _parsed(document: bytes) -> KeySet | str:
    try:
        ring = json.loads(document)
        number = ring["reset_flow_keys"]
        if number not in range(1, FORMAT + 1):
            return "is of another release of the library: use that one" if isinstance(number, int) else "is no key file"
        return KeySet(
            seal=tuple(_parsed_key(row) for row in ring["seal"]),
            lookup=tuple(_parsed_key(row) for row in ring["lookup"]),
        )
    except KeyringError as error:
        return f"is a broken key file: {error}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "is no key file, or a broken one"


def _parsed_key(row: dict[str, Any]) -> Key:
    """A key; what is missing or unreadable is left to its validators, which name the key."""
    secret: bytes = b""
    created_at: Any = None
    with suppress(ValueError, TypeError, KeyError):
        secret = b64decode(row["key"], validate=True)
    with suppress(ValueError, TypeError, KeyError):
        created_at = datetime.fromisoformat(row["created_at"])
    writes_from: Any = row.get("writes_from")
    if writes_from is not None:
        with suppress(ValueError, TypeError):
            writes_from = datetime.fromisoformat(writes_from)
    return Key(id=row["id"], created_at=created_at, writes_from=writes_from, secret=secret)


# --- writing


def write_new(path: Path, keys: KeySet) -> Mark:
    """
    Make the file, with mode 0600.

    Raises:
        KeyringError: It exists, or can't be written.
    """
    try:
        with _beside(path, keys) as (temporary, mark):
            os.link(temporary, path)
    except FileExistsError:
        raise KeyringError(f"{path} exists: choose another file, or read that one") from None
    except OSError as error:
        raise KeyringError(f"{path} can't be written: {error.strerror}") from None
    # The link has touched the file.
    return mark_of(path) or mark


def change(path: Path, changed: Callable[[KeySet], KeySet]) -> KeySet:
    """
    Replace the file by one with what becomes of its keys; of many that do so at once, each sees what the last has left.

    Raises:
        KeyringError: It can't be read or written; what stood there stands. What `changed` raises is passed on.
    """
    path = path.resolve()  # a link is to go on pointing to it
    found: tuple[KeySet, Mark] | str
    try:
        with _locked(path) as file:
            found = _read(path, file)
            if not isinstance(found, str):
                keys = changed(found[0])
                with _beside(path, keys, os.fstat(file.fileno())) as (temporary, _):
                    Path(temporary).replace(path)
                return keys
    except FileNotFoundError:
        found = f"{path} does not exist: make it with `reset-flow keys new`"
    except OSError as error:
        found = f"{path} can't be written: {error.strerror}"
    raise KeyringError(found)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, open, which nobody else replaces while this lasts."""
    while True:
        with path.open("r+b") as file:  # NFS lets nobody lock what can't be written
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held the lock before may have put another file there.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


@contextmanager
def _beside(path: Path, keys: KeySet, like: os.stat_result | None = None) -> Iterator[tuple[str, Mark]]:
    """A file in the same folder, written to the disk; gone afterwards, unless it was moved away."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            if like and like.st_uid != os.fstat(handle).st_uid:
                os.fchown(handle, like.st_uid, like.st_gid)  # root rotates the keys of those who must read them
            file.write(_document(keys))
            file.flush()
            os.fsync(handle)
            mark = _mark(os.fstat(handle))
        yield temporary, mark
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _document(keys: KeySet) -> bytes:
    rows = {purpose: [_row(key) for key in each] for purpose, each in (("seal", keys.seal), ("lookup", keys.lookup))}
    return json.dumps({"reset_flow_keys": FORMAT, **rows}, indent=1).encode()


def _row(key: Key) -> dict[str, str]:
    row = {"id": key.id, "created_at": key.created_at.isoformat(), "key": b64encode(key.secret).decode()}
    return row if key.writes_from is None else row | {"writes_from": key.writes_from.isoformat()}

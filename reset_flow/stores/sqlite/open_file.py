"""
The file of an open database: whether it is still the one that others find, and locks on it that a copy can't drop.

SQLite keeps its descriptors, whatever happens to the names. Once the file or its log was deleted, replaced, or opened
under a second name, which has a log of its own, what is written through them is lost to everybody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import attrs

from reset_flow.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = "another process writes to the database all the time: end that one, or give it less to do"
SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.01
"""Seconds between two tries to write."""

LOOK = 1.0
"""Seconds between two thorough looks, and between two looks of reads."""

Inode: TypeAlias = "tuple[int, int]"
"""Device and number."""

SHARED_BYTES = (0x40000002, 510)
"""Start and length of what each user of a database has locked in it (`SHARED_FIRST` of SQLite)."""

INDEX_BYTES = (128, 1)
"""The same, of the index of the log (`UNIX_SHM_DMS`)."""

LOG_BYTES = (0, 1)
"""What is locked in the log, where SQLite locks nothing: it is held for its size."""

WRITING_BYTE = (0x40000400, 1)
"""What a store has locked while it writes; SQLite locks nothing there."""

LEAVE = "leave the files -wal and -shm to the store, which opens its database anew at the next call"

SPOILT = (
    "and the log of the old database still lies beside it, which would spoil it: end every process that uses it, "
    "delete the files -wal and -shm, and restore a backup unless one was put there"
)

SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
"""Linux alone has locks of open file descriptions; elsewhere a dropped lock is noticed, and not prevented."""


LOG_INDEX = struct.Struct("=14xHI12x8s56xI28xI")
"""The fields of `LogIndex` in the file (https://sqlite.org/walformat.html#the_wal_index_header)."""


class LogIndex(NamedTuple):
    """
    What the index of the log says.

    Attributes:
        page_size: 1 stands for 65536.

        frames: Pages in the log that are committed. Each has a header of 24 bytes, and the log one of 32.

        salt: Another one each time that the log is written from its beginning again.

        copied: How many frames checkpoints have copied into the database.

        begun: How many frames they have begun to copy. More than `copied` while a checkpoint runs, after one was broken
            off, and after the log was recovered.
    """

    page_size: int
    frames: int
    salt: bytes
    copied: int
    begun: int

    @property
    def log_size(self) -> int:
        """The size that the log has at least."""
        page_size = 65536 if self.page_size == 1 else self.page_size
        return 32 + self.frames * (24 + page_size) if self.frames else 0

    @property
    def checkpoint(self) -> tuple[bytes, int, int]:
        """How far checkpoints have come; never the same twice."""
        return self.salt, self.copied, self.begun


def inode(found: os.stat_result) -> Inode:
    """Return what tells a file from any other that is there at the same time."""
    return found.st_dev, found.st_ino


def examine(path: str) -> os.stat_result:
    """
    Return the status of a database file that may be opened.

    Raises:
        StoreUnavailable: It is missing, no file, or has a second name.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise StoreUnavailable(
            f"{path} can't be found: {error.strerror}; put the database or its folder back"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnavailable(f"{path} is no file: give the store the path of one")
    _check_names(path, found)
    if _is_mounted_alone(os.path.realpath(path)):
        raise StoreUnavailable(
            f"{path} is mounted as a single file: its log would lie apart from it, and from the log of whoever uses "
            "the file elsewhere; mount its folder"
        )
    return found


def _check_names(path: str, found: os.stat_result) -> None:
    if found.st_nlink > 1:
        raise StoreUnavailable(
            f"{path} has a second name (a hard link): each name has a log of its own, and what is saved under one is "
            "lost under the other; remove the links that nobody uses, and make copies with `reset-flow store backup`"
        )


def _is_mounted_alone(path: str) -> bool:
    try:
        return _mount(path) != _mount(str(Path(path).parent))
    except (AttributeError, OSError):  # only Linux can tell
        return False


def _mount(path: str) -> str:
    # Closing a descriptor of this kind drops no lock.
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    return next((line for line in lines if line.startswith("mnt_id:")), "")


@attrs.define(eq=False)
class OpenFile:
    """
    The file, its log and the log's index as a database has them open.

    Attributes:
        path: The path that was given; it may lead through links.

        real: The path that SQLite uses.

        size: The greatest size of the file that was seen. Only VACUUM makes it smaller.

        seen: When the file was written to, as of the last check, and what the index of its log said before that was
            looked up. Only checkpoints write to the file.

        lost_its_log: The file is at its place as it was, and nothing is where its log was. Whoever opens a database
            makes a log, and deletes none while another one has the file locked: what is in ours can be written back.

        overwritten: Something else than SQLite has written to the file: its log is not of it any more.
    """

    path: str
    real: str
    file: Inode
    log: Inode
    index: Inode
    size: int
    seen: tuple[int, LogIndex | None]
    lost_its_log: bool = False
    overwritten: bool = False
    _next_look: float = 0.0
    _checking: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    @classmethod
    def at(cls, path: str) -> OpenFile:
        """Return what is found at a path."""
        real = os.path.realpath(path)
        found = Path(path).stat()
        log, index = (inode(os.lstat(real + suffix)) for suffix in ("-wal", "-shm"))
        return cls(path, real, inode(found), log, index, found.st_size, (found.st_mtime_ns, None))

    @property
    def inodes(self) -> tuple[Inode, ...]:
        """The file, its log and the log's index."""
        return self.file, self.log, self.index

    @property
    def held(self) -> tuple[tuple[str, Inode, tuple[int, int]], ...]:
        """What is locked while the database is open: path, file, and bytes of it."""
        return (
            (self.real, self.file, SHARED_BYTES),
            (self.real + "-shm", self.index, INDEX_BYTES),
            (self.real + "-wal", self.log, LOG_BYTES),
        )

    @property
    def seems_in_place(self) -> bool:
        """Return False if a look, which there is once a second, finds that it is not; `check` says why."""
        if time.monotonic() >= self._next_look:
            try:
                self.check()
            except StoreUnavailable:
                return False
        return True

    def check(self) -> None:
        """
        Return if whoever opens the path now sees what this database holds.

        Raises:
            StoreUnavailable: Nobody does: what was committed since the last check may be lost.
        """
        # The event loop checks before reads, and the thread after writes. Each compares with what was seen last: what
        # one of them saw a moment ago, the other would take for a file that was overwritten or cut off since.
        with self._checking:
            self._check()

    def _check(self) -> None:
        index_before = LOCKS.index(self.index)
        try:
            # Not through a link that was put at the place of the file: SQLite goes by the name behind it.
            found = os.stat(self.path, follow_symlinks=self.path != self.real)  # noqa: PTH116 - Path costs as much again
            look = time.monotonic() >= self._next_look
            real = os.path.realpath(self.path) if look else self.real
        except OSError as error:
            raise StoreUnavailable(
                f"{self.path} is gone ({error.strerror}): it was deleted or moved while the store had it open; put the "
                "database back with all its files, or restore a backup"
            ) from error
        if inode(found) != self.file or real != self.real:
            raise StoreUnavailable(
                f"another file was put at {self.path} while the store had it open; nothing was saved there: it is "
                "opened at the next call, and to restore backups there is `reset-flow store restore`"
            )
        _check_names(self.path, found)
        try:
            index = inode(os.lstat(self.real + "-shm")) if look else self.index
            log = os.lstat(self.real + "-wal")
        except OSError as error:
            as_it_was = found.st_mtime_ns == self.seen[0]  # else a backup may have been copied over it
            self.lost_its_log = as_it_was and str(error.filename).endswith("-wal")
            raise StoreUnavailable(f"{error.filename} was deleted while the store had it open: {LEAVE}") from error
        if (inode(log), index) != (self.log, self.index):
            raise StoreUnavailable(f"the log of {self.path} was replaced while the store had it open: {LEAVE}")
        if self._is_overwritten(found):
            self.overwritten = True
            raise StoreUnavailable(f"{self.path} was overwritten while the store had it open, {SPOILT}")
        self._check_log(index_before, log.st_size)
        if found.st_size < self.size:
            raise StoreUnavailable(
                f"{self.path} was cut off while the store had it open: if saves go on to fail, restore a backup"
            )
        self.size, self.seen = found.st_size, (found.st_mtime_ns, index_before)
        if look:
            self._next_look = time.monotonic() + LOOK

    def check_log(self) -> None:
        """
        Return if the log is as long as its index says. Afterwards that can't be seen: it grows beyond what was cut off.

        Raises:
            StoreUnavailable: It was cut off, and what is written behind that will not be found.
        """
        self._check_log(LOCKS.index(self.index), LOCKS.size(self.log))

    def _check_log(self, index: LogIndex | None, size: int | None) -> None:
        """Take the index as of before the size: a log is written first, and truncated last."""
        if index is not None and size is not None and size < index.log_size and index == LOCKS.index(self.index):
            raise StoreUnavailable(f"the log of {self.path} was cut off while the store had it open: {LEAVE}")

    def _is_overwritten(self, found: os.stat_result) -> bool:
        """Return True if the file was written to since the last check, and no checkpoint was under way meanwhile."""
        written, before = self.seen
        if found.st_mtime_ns == written or before is None or before.copied != before.begun:
            return False
        now = LOCKS.index(self.index)
        return now is not None and now.checkpoint == before.checkpoint


class Locks:
    """
    Locks of this process on files: a shared one for as long as somebody uses a file, one for whoever writes to it.

    The locks that SQLite takes are gone as soon as any descriptor of the file is closed in the process: by
    `shutil.copy`, or by a second SQLite. Another process then takes the database for unused, and deletes the log that
    this one writes to, or writes at the same time. Locks of an open file description stay.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: dict[Inode, int] = {}
        self._users: Counter[Inode] = Counter()
        self._turns: defaultdict[Inode, threading.Lock] = defaultdict(threading.Lock)

    def hold(self, path: str, file: Inode, span: tuple[int, int]) -> None:
        """Lock a file for one more user."""
        with self._lock, suppress(OSError):  # some file systems have no such locks
            self._users[file] += 1
            if SET_LOCK is not None and file not in self._descriptors:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                self._descriptors.setdefault(inode(os.fstat(descriptor)), descriptor)
            self._set(file, span, fcntl.F_RDLCK)

    def has(self, file: Inode) -> bool:
        """Return True if a file is locked, so far as is known."""
        return file in self._descriptors

    def index(self, file: Inode) -> LogIndex | None:
        """Read the index of a log, if it is locked: to open it and close it again would drop the locks of SQLite."""
        with self._lock:
            if file not in self._descriptors:
                return None
            found = os.pread(self._descriptors[file], LOG_INDEX.size, 0)
        return LogIndex(*LOG_INDEX.unpack(found)) if len(found) == LOG_INDEX.size else None

    def size(self, file: Inode) -> int | None:
        """Return the size of a file, if it is locked."""
        with self._lock:
            descriptor = self._descriptors.get(file)
            return None if descriptor is None else os.lseek(descriptor, 0, os.SEEK_END)

    @contextmanager
    def writing(self, file: Inode, patience: float) -> Iterator[None]:
        """
        Keep all other stores, here and in other processes, from writing meanwhile.

        Raises:
            StoreUnavailable: One of them writes all the time.
        """
        if not self.has(file):
            yield
            return
        deadline = time.monotonic() + patience
        with self._turn(file, patience):  # the stores of a process share the lock of the file
            pause = SHORTEST_PAUSE
            while not self._try_to_write(file):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(BUSY)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                yield
            finally:
                with suppress(OSError):
                    self._set(file, WRITING_BYTE, fcntl.F_UNLCK)

    @contextmanager
    def _turn(self, file: Inode, patience: float) -> Iterator[None]:
        turn = self._turns[file]
        if not turn.acquire(timeout=patience):
            raise StoreUnavailable(BUSY)
        try:
            yield
        finally:
            turn.release()

    def _try_to_write(self, file: Inode) -> bool:
        try:
            self._set(file, WRITING_BYTE, fcntl.F_WRLCK)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)  # some file systems have no such locks
        return True

    def let_go(self, file: Inode, span: tuple[int, int]) -> None:
        """Give up the lock of one user, before its database is closed: SQLite then wants the file for itself."""
        with self._lock, suppress(OSError):
            self._users[file] -= 1
            if not self._users[file]:
                self._set(file, span, fcntl.F_UNLCK)

    def close(self, file: Inode) -> None:
        """Close the descriptor of a file after its database was closed."""
        with self._lock:
            descriptor = self._descriptors.get(file)
            # Else it is kept for the next user: it would drop the locks of whoever has the file open here.
            if descriptor is not None and not self._users[file] and not _is_open_beside(descriptor, file):
                os.close(descriptor)
                del self._descriptors[file], self._users[file]
                self._turns.pop(file, None)

    def forget(self) -> None:
        """In a child: let go of what it inherited, else it would hold the locks of a parent that was killed."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self.__init__()  # type: ignore[misc] # another thread of the parent may have held the lock

    def _set(self, file: Inode, span: tuple[int, int], kind: int) -> None:
        if SET_LOCK is not None and file in self._descriptors:
            flock = struct.pack("hhqqi4x", kind, os.SEEK_SET, *span, 0)
            fcntl.fcntl(self._descriptors[file], SET_LOCK, flock)


def _is_open_beside(descriptor: int, file: Inode) -> bool:
    for each in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers are wanted
        with suppress(OSError):
            if int(each) != descriptor and inode(os.fstat(int(each))) == file:
                return True
    return False


LOCKS = Locks()
os.register_at_fork(after_in_child=LOCKS.forget)

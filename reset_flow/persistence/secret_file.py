"""
Files that hold secrets: who else may write or read one, how one is made, and how it is changed in place.

Nothing here is linked, renamed or copied: a file that a platform mounts by itself can be changed only in place, and a
process that is killed leaves no second file behind. A change writes the new content behind the old one before it
writes over it, so that at each moment one of the two is whole. Bytes of zero part them.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import pwd
import stat
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1 << 20
LOOKS = 3
"""How often a file is opened or read again that somebody changes or replaces at that moment."""
LONGEST_WAY = 400
"""Folders and links on the way to a file; links may go in circles."""
NO_FILE = (
    "it is a folder or a device, and no file: put the file in its place (where one to be mounted is missing, container "
    "platforms make a folder)"
)
GAP = b"\0"
ACL = "system.posix_acl_access"

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK})
"""Said by file systems that can't lock, or can't sync."""

logger = logging.getLogger("reset_flow")


class OpenToOthersError(Exception):
    """Others can write the file, or read it where they must not; the message says what to do, without the path."""


@contextmanager
def opened(path: Path, *, shared: bool = False, to_write: bool = False) -> Iterator[int]:
    """
    Open a file that holds secrets.

    Args:
        shared: Whether others may read it; each way in which they do is warned of once.

    Raises:
        OpenToOthersError: Others can write it, its folder or a link on the way to it, or read it.
        OSError: It can't be opened.
    """
    handle = _open(path, os.O_RDWR if to_write else os.O_RDONLY)
    try:
        if not _is_file(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, NO_FILE)
        _check(path, handle, shared=shared)
        yield handle
    finally:
        os.close(handle)


def _is_file(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode)  # a shell gives a pipe: <(pass show key)


def _open(path: Path, flags: int) -> int:
    for _ in range(LOOKS):
        with suppress(FileNotFoundError):  # a platform swaps a link, and deletes what it led to
            return os.open(path, flags)
    return os.open(path, flags)


def read(handle: int) -> list[bytes]:
    """Return the contents of a file, the one that counts last: more than one if a change was broken off."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        return [b"".join(iter(lambda: os.read(handle, MAX_BYTES), b""))]
    for _ in range(LOOKS):
        before = os.fstat(handle)
        found = [each for each in os.pread(handle, MAX_BYTES, 0).split(GAP) if each]
        after = os.fstat(handle)
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            break
    return found


# --- writing


def create(path: Path, content: bytes, *, shared: bool = False) -> None:
    """Make a new file with mode 0600. Raises as `opened` does, and FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _check(path, handle, shared=shared)  # a file system may keep modes of its own
        _write(handle, content, 0)
        _sync(handle)
    except BaseException:
        path.unlink()  # nobody has used what it was to hold
        raise
    finally:
        os.close(handle)
    with suppress(OSError):  # not every file system can open a folder, or sync one
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Open a file to change it, and lock it: changes at once run one after another. Raises as `opened` does."""
    while True:
        with opened(path, shared=shared, to_write=True) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
            # Somebody may have put another file in its place.
            if os.path.samestat(os.fstat(handle), path.stat()):
                yield handle
                return


def replace(handle: int, content: bytes) -> None:
    """Replace the content of a locked file. On an OSError it is as it was, or holds the new content."""
    size = os.fstat(handle).st_size
    try:
        _write(handle, content, max(size, len(content)) + len(GAP))  # the file system fills the gap with zeros
        _sync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
    _write(handle, content.ljust(size, GAP), 0)
    _sync(handle)
    os.ftruncate(handle, len(content))
    _sync(handle)


def _write(handle: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


# --- who else


def _check(path: Path, handle: int, *, shared: bool) -> None:
    status, me = os.fstat(handle), os.geteuid()
    read_only = bool(os.fstatvfs(handle).f_flag & os.ST_RDONLY)
    if _others_write(handle, status):
        raise OpenToOthersError("is open to others, who can write it: `chmod 600` it")
    if status.st_uid not in (0, me) and me != 0 and not read_only:
        raise OpenToOthersError(
            f"is open to others: it belongs to user {status.st_uid}, who can write it: "
            "`chown` it to the user of this process or to root, or mount it read-only"
        )
    if folder := _folder_that_others_write(path):
        raise OpenToOthersError(
            f"is open to others, who can write {folder} and so put another file there: `chmod go-w {folder}`, "
            "or move the file to a folder of its own"
        )
    if not status.st_mode & 0o044:
        return
    if read_only:
        _warn(str(path), "it is on a read-only mount")
    elif not status.st_mode & 0o004 and status.st_gid in _groups() and not _has_acl(handle):
        _warn(str(path), "they are in a group of this process")
    elif shared:
        _warn(str(path), "the settings say so")
    else:
        raise OpenToOthersError(
            "is open to others, who can read it: `chmod 600` it, or 640 with a group of this process, or mount it "
            "read-only, or accept it by RESET_FLOW_SHARED_FILES=accept (in a program: shared=True)"
        )


@lru_cache(maxsize=1024)
def _warn(path: str, why: str) -> None:
    logger.warning("others can read %s, which is accepted as %s", path, why)


def _folder_that_others_write(path: Path) -> Path | None:
    """Return a folder where others can replace what is looked up there, on the way to the file and through links."""
    here, names = Path("/"), [*reversed(path.absolute().parts[1:])]
    for _ in range(LONGEST_WAY):
        if not names:
            break
        name = names.pop()
        if name == "..":
            here = here.parent
            continue
        step = here / name
        try:
            folder, entry = here.stat(), step.lstat()
        except OSError:
            break  # of a link into /proc, or gone by now: what was opened is what counts
        sticky = folder.st_mode & stat.S_ISVTX and entry.st_uid in (0, os.geteuid())
        if _others_write(here, folder) and not sticky:
            return here
        if stat.S_ISLNK(entry.st_mode):
            target = step.readlink()
            here = Path("/") if target.is_absolute() else here
            names += [name for name in reversed(target.parts) if name != "/"]
        else:
            here = step
    return None


def _others_write(place: int | Path, status: os.stat_result) -> bool:
    if status.st_mode & 0o020 and (not _is_mine_alone(status.st_gid) or _has_acl(place)):
        return True
    return bool(status.st_mode & 0o002)


def _has_acl(place: int | Path) -> bool:
    """Return True if the bits of the group are those of an access list, which may name anybody."""
    try:
        return ACL in os.listxattr(place)
    except (AttributeError, OSError):  # a system or a file system without
        return False


def _is_mine_alone(group: int) -> bool:
    """
    Return True for a group of this process that nobody else is in: a user's own, whose umask is 002, or one that only
    the platform knows, such as Kubernetes' `fsGroup`. Root's group often has more members than the system says.
    """
    if group == 0 or group not in _groups():
        return False
    try:
        members = {*grp.getgrgid(group).gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == group)}
        return members <= {"root", pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:
        return True


def _groups() -> set[int]:
    return {os.getegid(), *os.getgroups()}

"""Copies of a database, there and back, by SQLite's backup interface: each is one state, whoever writes meanwhile."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.sqlite.database import connect, schema
from reset_flow.stores.sqlite.open_file import LOCKS, inode
from reset_flow.stores.statements import script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow.stores.sqlite.open_file import OpenFile

LEFT_OVERS = ("", "-journal", "-wal", "-shm")


def back_up(file: OpenFile, target: str, busy_timeout: float) -> None:
    """
    Copy a database to a file that does not exist yet, complete in itself and its owner's alone.

    Raises:
        ConfigurationError: The file exists.
        StoreUnavailable: The copy can't be written.
    """
    if os.path.lexists(target):
        raise _exists(target)
    path = file.real
    with _errors(f"{path} can't be copied to {target}"):
        descriptor, part = tempfile.mkstemp(".part", f"{Path(target).name}.", Path(target).parent)
        os.close(descriptor)
        try:
            with closing(connect(path, busy_timeout, read_only=True)) as db, closing(connect(part, 0)) as copy:
                _copy(db, copy, busy_timeout)
                copy.execute(
                    "PRAGMA journal_mode = DELETE"
                ).fetchall()  # needs no log beside it, and no folder to write
                _check_sound(copy, path, "restore a backup")
            _name(part, target)
            with suppress(OSError):  # some file systems can't; the copy is there
                _sync(Path(target).parent)
        finally:
            for suffix in LEFT_OVERS:
                with suppress(OSError):
                    os.unlink(part + suffix)  # noqa: PTH108 - a suffix is appended


def _name(part: str, target: str) -> None:
    """Give a complete copy its name, unless somebody has taken the name meanwhile."""
    try:
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError:  # on a file system without hard links, take the name first
            os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o600))
            Path(part).rename(target)
    except FileExistsError:
        raise _exists(target) from None


def _exists(target: str) -> ConfigurationError:
    return ConfigurationError(f"{target} exists, and a backup overwrites nothing: give the name of a new file")


def restore(file: OpenFile, source: str, busy_timeout: float) -> None:
    """
    Replace all that is in a database by a backup, in one transaction.

    Raises:
        ConfigurationError: The backup is no database of this library, is damaged, has pages of another size, or is the
            database itself.
        StoreUnavailable: It can't be read, or the database can't be written.
    """
    path = file.real
    with _errors(f"{source} can't be read"):
        if inode(Path(source).stat()) == file.file:
            raise ConfigurationError(f"{source} is the store itself: give the file of a backup")
        backup = connect(source, busy_timeout, read_only=True)
    with closing(backup):
        with _errors(f"{source} can't be read"):
            if not _is_store(backup, source):
                raise ConfigurationError(f"{source} is no backup of a store: give the file that `store backup` made")
            _check_sound(backup, source, "take another backup")
        with (
            _errors(f"{source} can't be copied to {path}"),
            LOCKS.writing(file.file, busy_timeout),
            closing(connect(path, busy_timeout)) as db,
        ):
            theirs, ours = _page_size(backup), _page_size(db)
            if theirs != ours:
                raise ConfigurationError(
                    f"{source} has pages of {theirs} bytes, and the store pages of {ours}: change that in a copy of "
                    f"the backup, by `PRAGMA page_size = {ours}; VACUUM` in SQLite, and restore the copy"
                )
            db.execute("PRAGMA synchronous = FULL")
            _copy(backup, db, busy_timeout)


def _is_store(db: sqlite3.Connection, path: str) -> bool:
    """Return True if a database has all tables of a store."""
    with closing(sqlite3.connect(":memory:")) as complete:
        complete.executescript(script("sqlite", "schema.sql"))
        needed = _names(complete)
    try:
        return bool(schema(db, path)) and _names(db) >= needed
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        return False


def _names(db: sqlite3.Connection) -> set[bytes]:
    """Return the names of tables and indexes."""
    return {name for (name,) in db.execute("SELECT CAST(name AS BLOB) FROM sqlite_schema").fetchall()}


def _page_size(db: sqlite3.Connection) -> int:
    ((size,),) = db.execute("PRAGMA page_size").fetchall()
    return int(size)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, busy_timeout: float) -> None:
    deadline = time.monotonic() + busy_timeout

    def check(status: int, *_: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise StoreUnavailable("the database is in use by others all the time: try again, or end them")

    source.backup(target, progress=check, sleep=0.02)


def _check_sound(db: sqlite3.Connection, path: str, advice: str) -> None:
    ((found,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    if found != b"ok":
        raise ConfigurationError(f"{path} is damaged: {advice}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise StoreUnavailable(f"{what}: {why}; check the folder, the rights and the space left") from error
